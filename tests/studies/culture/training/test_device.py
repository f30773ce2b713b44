"""Training on a GPU, on machines without one: tensors hold no numbers, each operation is checked for its devices."""

import dataclasses
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from interp_kit.models.mygpt import MyGPT
from interp_kit.studies.culture.training import forward, learner
from interp_kit.studies.culture.training.forward import answers
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import PRESETS, GPTPreset

TINY = GPTPreset(d_model=16, d_key=8, d_mlp=16, n_heads=2, n_layers=3, batch=4, warm_up=1)
GPU = "meta"  # as good as "cuda" to FakeTensorMode, and a CPU build of torch cannot index tensors of that
BATCH = (torch.zeros(4, 404, dtype=torch.uint8), torch.zeros(4, 404, dtype=torch.uint8), torch.ones(4, 404))


@pytest.fixture
def without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would be waited for: of four quarters the second and fourth count, of a number 1."""

    def on_host(value: Tensor) -> Any:
        return [False, True, False, True] if value.shape == (4,) else np.ones(tuple(value.shape)).tolist()

    def to(self: MyGPT, device: str) -> MyGPT:  # Module.to cannot move such tensors
        for module in self.modules():
            for name, parameter in module._parameters.items():
                module._parameters[name] = None if parameter is None else nn.Parameter(parameter.detach().to(device))
        return self

    monkeypatch.setattr(learner, "on_host", on_host)
    monkeypatch.setattr(MyGPT, "to", to)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for it


@pytest.mark.usefixtures("without_numbers")
@pytest.mark.parametrize("preset", ["muon", "adam"])
def test_a_step_on_a_gpu_mixes_no_devices(preset: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        one = Learner(dataclasses.replace(TINY, optimiser=preset), seed=0, budget=100, device=GPU)
        assert (one.on_cpu, one.micro_batch) == (False, 4)
        for whole in (0.0, 0.5):
            _, right = one.step(*BATCH, whole=whole)
            assert (right.device.type, right.shape) == (GPU, (4,))
        one.revive(BATCH[0])
        assert {p.device.type for p in one.model.parameters()} == {GPU}
        assert {p.dtype for p in one.model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("without_numbers")
def test_a_mixed_step_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "quarters_of", lambda x, quarters: forward.quarters_of(x.cpu(), quarters))
    with FakeTensorMode(allow_non_fake_inputs=True):
        one = Learner(TINY, seed=0, budget=100, device=GPU)
        with pytest.raises(RuntimeError, match="device"):
            one.step(*BATCH)


@pytest.mark.usefixtures("without_numbers")
def test_answers_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "numpy", lambda self: np.zeros(tuple(self.shape)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = MyGPT(TINY.network()).to(GPU)
        greedy, sampled = answers(model, *(x.to(GPU).long() for x in BATCH[:2]), 2)
        assert greedy.shape == sampled.shape == (4,)


def test_one_compiled_block_stands_for_all() -> None:
    """Two graphs, with all quarters and with those that count, whatever the number of blocks; and the same logits. In
    a process of its own: run-time checks of types cannot be compiled."""
    program = """
import torch
from torch._dynamo.testing import CompileCounter
from interp_kit.models.mygpt import MyGPT, MyGPTConfig
from interp_kit.studies.culture.training import forward

counter, compiler = CompileCounter(), torch.compile
torch.compile = lambda function, **options: compiler(function, backend=counter, **options)
model, tokens = MyGPT(MyGPTConfig(15, 16, 8, 8, 16, 2, 3), seed=1), torch.arange(808).view(2, 404) % 15
for quarters in ([1, 3], [1, 3], [0, 1, 2, 3]):
    found = forward.logits_of(model, tokens, quarters, run=forward.block_runner(compiled=True))
    torch.testing.assert_close(found, forward.quarters_of(model(tokens), quarters))
assert counter.frame_count == 2, counter.frame_count
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_wide_network() -> None:
    preset = PRESETS["wide"]
    with torch.device("meta"):
        count = sum(p.numel() for p in MyGPT(preset.network()).parameters())
    assert count == 1_782_159
    assert (preset.batch, preset.matrix_lr, preset.lr, preset.warm_up, preset.decay) == (192, 0.03, 1e-3, 200, 1.0)
