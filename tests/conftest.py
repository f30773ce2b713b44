"""Shapes and types are checked in every test; random models and checkpoints small enough to make by the dozen."""
# ruff: noqa: E402 (the import hook stands before the imports that it hooks)

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before numpy loads: workers share the cores, and matrices this small gain nothing from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # No test asks the network.
os.environ.setdefault("MPLBACKEND", "Agg")

import jaxtyping

# Before any import of the package: every annotated shape and type is then checked at run time.
jaxtyping.install_import_hook("interp_kit", "beartype.beartype")

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Example, Field
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Edit
from interp_kit.engine.sites import hook_name
from interp_kit.engine.sweep import editing
from interp_kit.models.convert import hooked_transformer
from interp_kit.models.hooked_model import HookedModel
from interp_kit.tasks.boolean import BooleanTask

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

torch.set_num_threads(1)
settings.register_profile(
    "interp_kit", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("interp_kit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are handed to workers in this order: notebooks first, as one test of theirs takes minutes, then those of
    most tests."""
    size = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != "test_notebooks.py", -size[item.path], str(item.path)))


MakeModel = Callable[..., "HookedTransformer"]
ReadActivation = Callable[..., torch.Tensor]
MakeDirectory = Callable[..., Path]
Truth = dict[tuple[int, ...], dict[str, int]]


@pytest.fixture(scope="session")
def task() -> BooleanTask:
    """The boolean task with the rules of the study."""
    return BooleanTask()


@pytest.fixture(scope="session")
def truth() -> Truth:
    """The 32 worlds by the rules, written out once more in plain Python."""
    worlds: Truth = {}
    for bits in itertools.product((0, 1), repeat=5):
        a, b, c, d, e = (bool(bit) for bit in bits)
        outputs = {"newA": a != c, "newB": not d, "newC": b and e, "newD": a or not d}
        values = dict(zip("ABCDE", bits, strict=True)) | {name: int(value) for name, value in outputs.items()}
        worlds[bits] = values | {"sum1": sum(bits), "sum2": sum(outputs.values())}
    return worlds


class ParityTask(AbstractTask):
    """One to three bits, `=`, their parity: texts and prompts of different lengths, and equal texts of unequal prompts.

    Two bits are followed by one `.` more than three are, so that both make six tokens.
    """

    name = "parity"
    vocabulary = ("0", "1", "=", ".", "<end>")
    variables = ("x", "y", "bits", "parity")
    inputs = ("x", "y", "bits")
    numeric = ("bits",)
    pad = 4
    fields = (Field("parity", "parity?", (0, 1), (0, 1)),)

    def enumerate(self) -> list[Example]:
        return [self.example(row) for n in (1, 2, 3) for row in itertools.product((0, 1), repeat=n)]

    def sample(self, n: int, seed: int) -> list[Example]:
        everything = self.enumerate()
        chosen = torch.randint(len(everything), (n,), generator=torch.Generator().manual_seed(seed))
        return [everything[i] for i in chosen.tolist()]

    def tokenizer(self) -> object:
        raise AssertionError("nothing here is to call this")

    def example(self, bits: tuple[int, ...]) -> Example:
        """The example of these bits; x is the first, y the last."""
        tokens = (*bits, 2, sum(bits) % 2, *([3] if len(bits) == 2 else []), 4)
        names = [*(f"bit{i}" for i in range(len(bits))), "parity?", "parity", *(["dot"] if len(bits) == 2 else [])]
        return Example(
            text="".join(self.vocabulary[token] for token in tokens[:-1]),
            tokens=tokens,
            prompt_length=len(bits) + 1,
            positions={name: i for i, name in enumerate([*names, "eos"])},
            labels={"x": bits[0], "y": bits[-1], "bits": len(bits), "parity": sum(bits) % 2},
        )


@pytest.fixture(scope="session")
def parity() -> ParityTask:
    """A task whose prompts and texts are of different lengths."""
    return ParityTask()


@pytest.fixture(scope="session")
def tiny_model() -> MakeModel:
    """tiny_model(seed=0, **config): a random HookedTransformer, its weights, biases and LayerNorms normal(0, 0.3)
    (LayerNorm weights around 1). It fits the boolean task unless `config` says otherwise."""

    def make(seed: int = 0, **config: Any) -> "HookedTransformer":
        defaults = {
            "n_layers": 2,
            "d_model": 16,
            "n_heads": 2,
            "d_head": 8,
            "d_mlp": 32,
            "n_ctx": 24,
            "d_vocab": 15,
            "act_fn": "gelu_new",
            "normalization_type": "LN",
        }
        model = hooked_transformer(**{**defaults, **config, "init_weights": False})
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                centre = 1.0 if name.endswith(".w") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        model.eval()
        model.requires_grad_(False)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> MakeDirectory:
    """tiny_gpt2_dir(seed=0, name="gpt2", save={}, **config): a new folder with a random Hugging Face GPT-2, every
    parameter perturbed, biases and LayerNorms too (as initialised, they hide errors). `save` goes to
    save_pretrained."""

    def make(seed: int = 0, name: str = "gpt2", save: dict[str, Any] | None = None, **config: Any) -> Path:
        from transformers import GPT2Config, GPT2LMHeadModel

        dtype = config.pop("dtype", torch.float32)
        defaults = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24, "vocab_size": 15}
        tokens = {"bos_token_id": 0, "eos_token_id": 0}
        model = GPT2LMHeadModel(GPT2Config(**{**defaults, **tokens, **config}))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                centre = 1.0 if ".ln_" in key and key.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        directory = tmp_path_factory.mktemp("checkpoint") / name
        model.to(dtype).save_pretrained(directory, **(save or {}))
        return directory

    return make


@pytest.fixture
def pads_with_0() -> SimpleNamespace:
    """A tokenizer that pads on the left with token 0, which texts of the tasks here begin with."""
    return SimpleNamespace(padding_side="left", pad_token_id=0, bos_token_id=1, eos_token_id=1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The library as its users have it: jaxtyping does not look at arguments, so its own errors come to light."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def batch(task: BooleanTask) -> TokenBatch:
    """All 32 worlds of the boolean task."""
    return task.batch(task.enumerate())


@pytest.fixture(scope="session")
def activation() -> ReadActivation:
    """activation(model, batch, site, layer, edits=()): what stands at a site, under edits where some are given."""

    def read(model: HookedModel, batch: TokenBatch, site: str, layer: int | None, edits: tuple[Edit, ...] = ()):
        name = hook_name(site, layer)
        with torch.inference_mode():
            if not edits:
                return model.run_with_cache(batch.tokens, names_filter=[name])[1][name]
            with editing(model, batch, edits):
                return model.run_with_cache(batch.tokens, names_filter=[name])[1][name]

    return read
