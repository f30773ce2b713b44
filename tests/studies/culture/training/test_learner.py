"""A training step against plain autograd, the exact evaluation against sampling and decoding, states on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from interp_kit.engine.decode import decode
from interp_kit.models.convert import convert_mygpt
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.studies.culture.training.forward import answers
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import PRESETS, GPTPreset
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.grids import STRUCTURES
from interp_kit.tasks.culture.world import TASKS, sample_worlds

TINY = GPTPreset(d_model=16, d_key=4, d_mlp=16, n_heads=2, n_layers=2, batch=4, warm_up=1)


@pytest.fixture(scope="module")
def quizzes() -> torch.Tensor:
    return torch.as_tensor(sample_worlds(8, np.random.default_rng(0)).quizzes()).long()


def weights(quarters: tuple[bool, ...], n: int) -> torch.Tensor:
    return torch.as_tensor(np.tile(grids.cells_of(np.array(quarters)), (n, 1))).float()


def gradients_of_a_step(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Fills with the gradients that the next step gives to its optimisers, which then leave the weights alone."""
    grads: dict[str, torch.Tensor] = {}

    def keep() -> None:
        grads.update({name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None})

    for optimiser in learner.optimisers:
        monkeypatch.setattr(optimiser, "step", keep)
    return grads


@pytest.mark.parametrize("quarters", [(False, True, False, True), (True, True, True, True)])
@pytest.mark.parametrize("micro_batch", [3, 8])
def test_gradient_and_loss_are_those_of_the_whole_network(
    quizzes: torch.Tensor, quarters: tuple[bool, ...], micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(dataclasses.replace(TINY, clip=0.0), seed=1, budget=100, micro_batch=micro_batch)
    for parameter in learner.model.parameters():  # the quiet start has no gradients below the readout
        torch.nn.init.normal_(parameter, std=0.3)
    weight = weights(quarters, 8) * torch.rand(8, 404, generator=torch.Generator().manual_seed(3))
    grads = gradients_of_a_step(learner, monkeypatch)
    loss, right = learner.step(quizzes, quizzes, weight)
    logits = learner.model(quizzes)
    each = F.cross_entropy(logits.flatten(0, 1), quizzes.flatten(), reduction="none")
    expected = (each * weight.flatten()).sum() / weight.sum()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in learner.model.named_parameters():
        assert grads[name] == pytest.approx(parameter.grad, abs=1e-5), name
    assert right.tolist() == (logits[:, -100:].argmax(-1) == quizzes[:, -100:]).all(1).tolist()


@pytest.mark.parametrize("whole", [0.0, 0.7, 1.0])
def test_raising_the_probability_of_the_whole_answer(
    quizzes: torch.Tensor, whole: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is that of the mean probability that a sampled grid is right, from logits of the whole network."""
    learner = Learner(dataclasses.replace(TINY, clip=0.0), seed=1, budget=100, micro_batch=3)
    generator = torch.Generator().manual_seed(4)
    quizzes = quizzes.clone()
    quizzes[:, -100:] = 3
    for parameter in learner.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    with torch.no_grad():
        learner.model.readout.bias[3] = 7.0  # so sure of threes that whole answers are probable
    grads = gradients_of_a_step(learner, monkeypatch)
    weight = weights((False, False, False, True), 8)
    loss, _ = learner.step(quizzes, quizzes, weight, whole=whole)
    logits = learner.model(quizzes)
    log_probs = logits.log_softmax(-1)[:, -100:].gather(-1, quizzes[:, -100:, None]).squeeze(-1).sum(1)
    assert log_probs.exp().min() > 0.01
    assert loss == pytest.approx(-log_probs.mean().item() / 100, rel=1e-4)
    goal = whole * (1 - log_probs.exp()).mean() / 100 - (1 - whole) * log_probs.mean() / 100
    goal.backward()
    for name, parameter in learner.model.named_parameters():
        assert grads[name] == pytest.approx(parameter.grad, abs=1e-6), name


def test_gradients_in_bfloat16_are_near_and_weights_stay_whole(
    quizzes: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    grads = {}
    for precision in ("float32", "bfloat16"):
        learner = Learner(dataclasses.replace(TINY, clip=0.0), seed=1, budget=100, precision=precision)
        with torch.no_grad():
            for parameter in learner.model.parameters():
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
        learner._refresh()
        before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
        found = gradients_of_a_step(learner, monkeypatch)
        learner.step(quizzes, quizzes, weights((False, True, False, True), 8))
        grads[precision] = torch.cat([grad.flatten() for grad in found.values()])
        assert all(torch.equal(p, before[name]) for name, p in learner.model.named_parameters())
    assert grads["bfloat16"].dtype == torch.float32
    error = (grads["bfloat16"] - grads["float32"]).norm() / grads["float32"].norm()
    assert 0 < error < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learning_lowers_the_loss(quizzes: torch.Tensor, precision: str) -> None:
    learner = Learner(TINY, seed=1, budget=10_000, precision=precision)
    losses = [learner.step(quizzes, quizzes, weights((False, True, False, True), 8))[0] for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    assert learner.seen == 320


def test_rate_warms_up_and_falls_to_nothing() -> None:
    learner = Learner(dataclasses.replace(TINY, warm_up=10, decay=0.5), seed=0, budget=1000)
    rates = []
    for learner.seen in (0, 20, 36, 500, 750, 1000):
        rates.append(learner.rate())
    assert rates == pytest.approx([0.1, 0.6, 1.0, 1.0, 0.5, 0.0])


def test_a_state_goes_on_as_if_never_interrupted(quizzes: torch.Tensor, tmp_path: Path) -> None:
    one, weight = Learner(TINY, seed=2, budget=1000), weights((False, True, False, True), 8)
    for _ in range(3):
        one.step(quizzes, quizzes, weight)
    one.save(tmp_path / "s")
    two = Learner.load(tmp_path / "s")
    assert two.seen == one.seen == 24
    for _ in range(3):
        assert one.step(quizzes, quizzes, weight)[0] == two.step(quizzes, quizzes, weight)[0]
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_states_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "gpt_000.state"
    Learner(TINY, seed=0, budget=10).save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match=r"gpt_000\.state is not a training state"):
        Learner.load(path)


def put(*where: Any, value: Any) -> Any:
    """Change one entry of a nested state."""

    def change(state: Any) -> None:
        for key in where[:-1]:
            state = state[key]
        state[where[-1]] = value

    return change


STATES: dict[str, tuple[Any, str]] = {
    "seen is negative": (put("seen", value=-(10**6)), "seen is -1000000, expected a whole number of at least 0"),
    "seen is text": (put("seen", value="5"), "seen is '5', expected a whole number"),
    "seen is nan": (put("seen", value=float("nan")), "seen is nan, expected a whole number"),
    "seen is true": (put("seen", value=True), "seen is True, expected a whole number"),
    "seen is huge": (put("seen", value=10**400), "seen is 10{50,}, expected"),
    "no budget": (put("budget", value=0), "budget is 0, expected a whole number of at least 1"),
    "seed is a list": (put("seed", value=[1]), "seed is a list"),
    "entry missing": (lambda s: s.pop("right"), "it has no right"),
    "right is nan": (put("right", value=torch.full((len(TASKS), len(STRUCTURES)), torch.nan).double()), "right has"),
    "right of another shape": (put("right", value=torch.zeros(2).double()), r"right is torch.float64 \(2,\)"),
    "a preset of text": (put("preset", value="fast"), "preset is 'fast'"),
    "a billion layers": (put("preset", "n_layers", value=10**9), "not the weights of 1000000000 layers"),
    "a billion neurons": (put("preset", "d_mlp", value=10**9), r"model: blocks.0.fc1.weight is .*1000000000"),
    "heads as text": (put("preset", "n_heads", value="2"), "preset: n_heads is '2', expected int"),
    "a rate of nan": (put("preset", "lr", value=float("nan")), "preset: lr is nan, expected a finite number"),
    "weights of nan": (put("model", "readout.bias", value=torch.full((15,), torch.nan)), "model: readout.bias has 15"),
    "a weight missing": (lambda s: s["model"].pop("readout.bias"), "model: 'readout.bias' is missing"),
    "a weight too much": (put("model", "more", value=torch.ones(1)), "model: 'more' is unknown"),
    "a weight of another shape": (
        put("model", "readout.bias", value=torch.ones(7)),
        r"readout.bias is .*\(7,\), expected",
    ),
    "an optimiser less": (lambda s: s["optimisers"].pop(), "argument 2 is shorter"),
    "another optimiser": (put("optimisers", 0, value={}), "an optimiser is a dict"),
    "a learning rate of nan": (put("optimisers", 1, "param_groups", 0, "lr", value=float("nan")), "lr is nan"),
    "other betas": (put("optimisers", 1, "param_groups", 0, "betas", value=(5.0, 0.1)), "betas is a tuple, expected"),
    "momentum of nan": (
        put("optimisers", 0, "state", 0, "momentum", value=torch.full((2, 4, 16), torch.nan)),
        "momentum' of parameter 0 has 128 nan",
    ),
    "momentum of another shape": (
        put("optimisers", 0, "state", 0, "momentum", value=torch.ones(3)),
        r"momentum' of parameter 0 is torch.float32 \(3,\)",
    ),
    "a parameter too much": (put("optimisers", 0, "state", 99, value={}), "a state of 13 parameters, expected 12"),
}


@pytest.fixture(scope="module")
def trained(quizzes: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state after one step."""
    learner, path = Learner(TINY, seed=0, budget=10), tmp_path_factory.mktemp("state") / "gpt_000.state"
    learner.step(quizzes, quizzes, weights((False, True, False, True), 8))
    learner.save(path)
    return path


@pytest.mark.parametrize("name", STATES)
def test_states_that_cannot_be_are_refused_by_entry(trained: Path, tmp_path: Path, name: str) -> None:
    change, message = STATES[name]
    state, path = torch.load(trained, weights_only=True), tmp_path / "gpt_000.state"
    change(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"gpt_000\\.state is not a training state .*{message}"):
        Learner.load(path)


def test_a_loss_that_is_not_finite_stops_before_the_update(quizzes: torch.Tensor) -> None:
    learner = Learner(TINY, seed=0, budget=100)
    with torch.no_grad():
        learner.model.readout.weight[0, 0] = torch.inf
    before = learner.model.embed.weight.clone()
    with pytest.raises(FloatingPointError, match="the loss is"):
        learner.step(quizzes, quizzes, weights((False, True, False, True), 8))
    assert torch.equal(before, learner.model.embed.weight)


def test_exact_evaluation_agrees_with_decoding_and_sampling() -> None:
    """On a model that mostly writes white, and quizzes whose last grid is nearly so."""
    learner = Learner(TINY, seed=4, budget=10_000)
    quizzes = torch.as_tensor(sample_worlds(4, np.random.default_rng(1)).quizzes()).long()
    quizzes[:, -100:] = 0
    quizzes[3, -50] = 1
    with torch.no_grad():
        learner.model.readout.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        learner.model.readout.bias[0] = 8.5
        learner.model.readout.bias[1] = 3.0
    greedy, sampled = answers(learner.model, quizzes, quizzes)
    hooked = convert_mygpt(learner.model)
    rows = F.pad(quizzes, (1, 0))
    free = torch.zeros(405, dtype=torch.bool)
    free[-100:] = True
    written = decode(hooked, rows, free).tokens
    assert greedy.tolist() == (written == rows).all(1).tolist()
    assert greedy.tolist() == [True, True, True, False]
    assert 0.02 < sampled.mean() < 0.98
    many = rows.repeat_interleave(300, 0)
    hits = (decode(hooked, many, free, temperature=1.0, seed=1, batch_size=400).tokens == many).all(1).view(4, 300)
    spread = np.sqrt(sampled * (1 - sampled) / 300)
    assert (np.abs(hits.double().mean(1).numpy() - sampled) < 4 * spread + 1e-3).all()


def test_presets_are_the_original_sizes() -> None:
    from interp_kit.models.mygpt import MyGPT

    with torch.device("meta"):
        count = sum(p.numel() for p in MyGPT(PRESETS["37M"].network()).parameters())
    assert count == 37_819_407
    assert (PRESETS["4M"].lr, PRESETS["4M"].batch, PRESETS["4M"].dropout) == (5e-4, 25, 0.1)


def test_units_that_are_off_begin_anew_and_no_other_changes(quizzes: torch.Tensor) -> None:
    learner = Learner(TINY, seed=1, budget=1000)
    for _ in range(3):
        learner.step(quizzes, quizzes, weights((False, True, False, True), 8))
    block = learner.model.blocks[1]
    with torch.no_grad():
        block.fc1.bias[:5] = -1e4
        block.fc1.bias[5:] = 1e4
        learner.model.blocks[0].fc1.bias[:] = 1e4
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    logits = learner.model(quizzes).detach()
    assert learner.revive(quizzes) == pytest.approx(5 / 32)
    assert learner.model(quizzes).detach() == pytest.approx(logits, abs=1e-5)  # a unit begins without output
    for name, p in learner.model.named_parameters():
        changed = (p != before[name]).nonzero()
        if name in ("blocks.1.fc1.weight", "blocks.1.fc1.bias"):
            assert set(changed[:, 0].tolist()) == {0, 1, 2, 3, 4}
        elif name == "blocks.1.fc2.weight":
            assert set(changed[:, 1].tolist()) <= {0, 1, 2, 3, 4}
        else:
            assert len(changed) == 0, name
    momentum = {id(p): o.state[p] for o in learner.optimisers for p in o.state}
    assert (momentum[id(block.fc1.weight)]["momentum"][:5] == 0).all()
    assert (momentum[id(block.fc1.weight)]["momentum"][5:] != 0).any()
    assert (momentum[id(block.fc2.weight)]["momentum"][:, :5] == 0).all()
    assert (momentum[id(block.fc1.bias)]["exp_avg"][:5] == 0).all()
    assert learner.revive(quizzes) < 5 / 32
