"""Quizzes that models make: the rule for keeping them, probabilities by brute force, and the file they are kept in."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_kit.core.identity import derive_seed
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.mygpt import MyGPT, MyGPTConfig
from interp_kit.studies.culture.training import quiz_making as making
from interp_kit.studies.culture.training.quiz_making import (
    Agreement,
    agreed_quizzes,
    judge,
    load_quizzes,
    make_quizzes,
    save_quizzes,
    solving_probability,
)
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import sample_worlds

SIZES = MyGPTConfig(15, 16, 4, 8, 16, 2, 2)


@pytest.fixture(scope="module")
def quizzes() -> np.ndarray:
    return sample_worlds(6, np.random.default_rng(0)).quizzes().astype(np.int64)


@pytest.fixture(scope="module")
def judges() -> list[MyGPT]:
    return [MyGPT(SIZES, seed=k) for k in range(4)]


def by_hand(p: np.ndarray, max_fail: int) -> list[bool]:
    kept = []
    for column in p.T:
        fails = sum(value <= 0.5 for value in column)
        unsure = any(0.5 < value < 0.95 for value in column)
        kept.append(not unsure and 1 <= fails <= max_fail)
    return kept


@pytest.mark.parametrize("max_fail", [1, 2])
def test_the_rule(max_fail: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.choice(
        [0.0, 0.3, 0.5, 0.500001, 0.9, 0.949999, 0.95, 1.0],
        size=(5, 4000),
        p=[0.1, 0.1, 0.1, 0.02, 0.02, 0.01, 0.25, 0.4],
    )
    kept = Agreement(max_fail=max_fail).kept(p)
    assert kept.tolist() == by_hand(p, max_fail)
    assert 0 < kept.mean() < 1


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_probability_of_solving_is_the_product_over_cells_of_both_grids(quizzes: np.ndarray, noise: float) -> None:
    model = MyGPT(SIZES, seed=0)
    with torch.no_grad():  # so that probabilities are not all zero: the last grids' colours are near certain
        model.readout.weight.mul_(0.01)
        model.readout.bias.copy_(torch.full((15,), -9.0))
        model.readout.bias[0] = 0.0
    white = quizzes.copy()
    white.reshape(-1, 4, 101)[:, 2:, 1:] *= (np.random.default_rng(1).random((6, 2, 100)) < 0.005).astype(int)
    found = solving_probability(model, white, seed=5, rounds=2, noise=noise)
    total = np.zeros(6)
    for row in range(6):
        rng = np.random.default_rng(derive_seed(5, "noise", white[row].astype(np.uint8).tobytes()))
        for _ in range(2):
            p = 1.0
            for name in ("A f_A B f_B", "f_A A f_B B"):
                clean = grids.reconfigure(white[row : row + 1], grids.structure(name))
                read = grids.add_noise(clean, grids.noisy_cells(grids.structure(name)), rng, noise)
                probabilities = model(torch.as_tensor(read)).softmax(-1)[0].detach().double()
                for t in range(304, 404):
                    p *= float(probabilities[t, clean[0, t]])
            total[row] += p / 2
    assert found == pytest.approx(total, rel=1e-4)
    assert found.max() > 1e-3


def test_noise_of_a_quiz_does_not_depend_on_the_others(quizzes: np.ndarray) -> None:
    model = MyGPT(SIZES, seed=0)
    with torch.no_grad():
        model.readout.weight.mul_(0.3)  # noise matters, and nothing is too small to be told
    whole = np.log(solving_probability(model, quizzes, 5, noise=0.5))
    parts = [solving_probability(model, quizzes[[n]], 5, noise=0.5)[0] for n in range(6)]
    assert np.log(parts) == pytest.approx(whole, rel=1e-4)
    assert np.log(solving_probability(model, quizzes, 6, noise=0.5)) != pytest.approx(whole, rel=1e-3)


def test_a_wide_network_is_read_by_the_faster_pass_with_the_same_probabilities(
    quizzes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MyGPT(MyGPTConfig(15, 64, 16, 16, 64, 4, 2), seed=0)
    with torch.no_grad():
        model.readout.weight.mul_(0.1)
    passes: list[int] = []
    model.readout.register_forward_hook(lambda *_: passes.append(0))
    slow = solving_probability(model, quizzes, 5, rounds=3, noise=0.5)  # a network with hooks goes by itself
    assert len(passes) == 4
    model.readout._forward_hooks.clear()
    monkeypatch.setattr(model, "forward", None)
    fast = solving_probability(model, quizzes, 5, rounds=3, noise=0.5)
    np.testing.assert_allclose(np.log(fast), np.log(slow), rtol=1e-5)
    assert np.ptp(np.log(fast)) > 0.1


def test_quizzes_that_cannot_be_kept_are_not_shown_to_the_next_judge(
    judges: list[MyGPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = np.random.default_rng(0).choice([0.1, 0.7, 0.99], size=(4, 300), p=[0.2, 0.1, 0.7])
    shown: list[int] = []

    def probability(model: MyGPT, quizzes: np.ndarray, seed: int, *, rounds: int) -> np.ndarray:
        shown.append(len(quizzes))
        return told[judges.index(model), quizzes[:, 0]]

    monkeypatch.setattr(making, "solving_probability", probability)
    at, p = judge(judges, np.arange(300)[:, None], 0, Agreement())
    assert at.tolist() == np.flatnonzero(by_hand(told, 1)).tolist()
    assert np.array_equal(p, told[:, at])
    # two rounds first: 0.1 and 0.7 cannot become 0.95 with one more, one such model is allowed, and one has to be
    first = [sum(sum(v < 0.925 for v in c[:k]) <= 1 for c in told.T) for k in range(4)]
    hopeful = [c for c in told.T if sum(v < 0.925 for v in c) <= 1 and any(v <= 0.75 for v in c)]
    possible = [sum(all(v <= 0.5 or v >= 0.95 for v in c[:k]) for c in hopeful) for k in range(4)]
    assert shown == first + possible


def test_screening_by_two_rounds_loses_no_quiz(judges: list[MyGPT], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of noise differ; what is kept is what the rule keeps of all of them."""
    told = np.random.default_rng(1).choice(
        [0.0, 0.2, 0.84, 0.85, 0.86, 0.95, 1.0], size=(4, 3000, 3), p=[0.05, 0.1, 0.02, 0.03, 0.05, 0.05, 0.7]
    )

    def probability(model: MyGPT, quizzes: np.ndarray, seed: int, *, rounds: int) -> np.ndarray:
        return told[judges.index(model), quizzes[:, 0], :rounds].mean(1)

    monkeypatch.setattr(making, "solving_probability", probability)
    for rule in (Agreement(), Agreement(max_fail=2), Agreement(rounds=2), Agreement(rounds=1)):
        at, p = judge(judges, np.arange(3000)[:, None], 0, rule)
        expected = told[..., : rule.rounds].mean(2)
        assert at.tolist() == np.flatnonzero(rule.kept(expected)).tolist()
        assert np.array_equal(p, expected[:, at])
        assert len(at) > 3


@pytest.mark.slow
def test_quizzes_are_made_by_the_model_and_are_well_formed() -> None:
    model = MyGPT(SIZES, seed=1)
    with torch.no_grad():
        model.readout.bias[11:] = -5.0  # markers are rare, not unheard of
    made = make_quizzes(model, 12, seed=3)
    assert 0 < len(made) < 12
    grids.check(made)
    assert (grids.structure_of(made) == 0).all()
    assert np.array_equal(made, make_quizzes(model, 12, seed=3))
    assert not np.array_equal(made[:1], make_quizzes(model, 12, seed=4)[:1])


def test_trivial_quizzes_are_dropped() -> None:
    model = MyGPT(SIZES, seed=1)
    with torch.no_grad():  # white everywhere: A equals f_A
        model.readout.weight.zero_()
        model.readout.bias.fill_(-50.0)
        model.readout.bias[0] = 50.0
    assert len(make_quizzes(model, 3, seed=0)) == 0


def test_the_first_grid_is_hotter_than_the_others() -> None:
    model = MyGPT(SIZES, seed=1)
    with torch.no_grad():
        model.readout.weight.zero_()
        model.readout.bias.copy_(torch.tensor([4.0, *[0.0] * 10, *[-50.0] * 4]))
    made = grids.split(make_quizzes(model, 40, seed=0, temperature=4.0))
    white = (made == 0).mean((0, 2))
    expected = np.exp(4.0) / (np.exp(4.0) + 10)
    assert white[:3] == pytest.approx([expected] * 3, abs=0.02)
    assert white[3] == pytest.approx(expected, abs=0.02)  # f_B is sampled anew at 1, from the other three


def test_kept_quizzes_hold_the_rule_when_it_is_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [MyGPT(SIZES, seed=k) for k in range(4)]
    pool = sample_worlds(400, np.random.default_rng(3)).quizzes().astype(np.int64)
    told = np.random.default_rng(4).choice([0.2, 0.7, 0.97], size=(4, 400), p=[0.2, 0.1, 0.7])
    place = {quiz.tobytes(): n for n, quiz in enumerate(pool)}
    rng = np.random.default_rng(5)
    asked = []

    def make(model: MyGPT, n: int, seed: int, heat: float) -> np.ndarray:
        asked.append(model)
        return pool[rng.integers(400, size=n)]

    monkeypatch.setattr(making, "make_quizzes", make)

    def probability(model: MyGPT, quizzes: np.ndarray, seed: int, *, rounds: int) -> np.ndarray:
        return told[models.index(model), [place[quiz.tobytes()] for quiz in quizzes]]

    monkeypatch.setattr(making, "solving_probability", probability)
    kept, p, made = agreed_quizzes(models, 60, seed=0, made=50)
    assert len(kept) == 60
    assert len({quiz.tobytes() for quiz in kept}) == 60
    rows = [place[quiz.tobytes()] for quiz in kept]
    assert all(by_hand(told[:, rows], 1))
    assert np.array_equal(p, told[:, rows])
    assert made % 50 == 0
    assert len({id(model) for model in asked}) > 1
    asked.clear()
    agreed_quizzes(models, 20, seed=0, made=50, makers=[other := MyGPT(SIZES, seed=9)])
    assert asked
    assert all(model is other for model in asked)


def test_no_agreement_gives_no_quiz_and_ends() -> None:
    models = [MyGPT(SIZES, seed=k) for k in range(2)]
    kept, p, made = agreed_quizzes(models, 5, seed=0, made=4, most=8)
    assert kept.shape == (0, 404)
    assert p.shape == (2, 0)
    assert made == 8


# ----------------------------------------------------------------------------------------------------------- the file


def test_round_trip(quizzes: np.ndarray, tmp_path: Path) -> None:
    save_quizzes(tmp_path / "c.pth", [quizzes[:2], quizzes[2:4]], [quizzes[4:]])
    train, test = load_quizzes(tmp_path / "c.pth")
    assert np.array_equal(train, quizzes[:4])
    assert np.array_equal(test, quizzes[4:])
    lists = torch.load(tmp_path / "c.pth", weights_only=True)
    assert [t.dtype for t in lists[0]] == [torch.int64] * 2


def test_no_quizzes_at_all(tmp_path: Path) -> None:
    save_quizzes(tmp_path / "c.pth", [], [])
    assert [part.shape for part in load_quizzes(tmp_path / "c.pth")] == [(0, 404)] * 2


class Hostile:
    def __reduce__(self) -> tuple:
        return (Path("/tmp/interp_kit_was_here").touch, ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("marker", "test tensor 0: row 1 has"),
        ("value", "training tensor 0: row 0, position 7: 15 is outside 0..14"),
        ("negative", "position 7: -1 is outside"),
        ("inside", "marker 12 stands inside a grid"),
        ("shape", "expected"),
        ("float", "expected integers"),
        ("list", "expected a list of training and a list of test"),
        ("entry", "training entry 0 is a str"),
        ("empty", "cannot be read as quizzes"),
        ("bfloat16", "training tensor 0: expected integers, got torch.bfloat16"),
        ("sparse", "cannot be read as quizzes: it holds torch._utils._rebuild_sparse_tensor"),
        ("meta", "cannot be read as quizzes: it holds torch._utils._rebuild_meta_tensor"),
        ("expanded", r"cannot be read as quizzes: it has shape \(2, 404\), more than the file stores"),
        ("flipped", "cannot be read as quizzes: .*CRC"),
        ("cut", "cannot be read as quizzes"),
        ("hostile", "cannot be read as quizzes"),
    ],
)
def test_damaged_files_are_refused_by_name(quizzes: np.ndarray, tmp_path: Path, content: str, message: str) -> None:
    path, tokens = tmp_path / "c_quizzes.pth", torch.as_tensor(quizzes.copy())
    good = torch.as_tensor(quizzes)
    match content:
        case "marker":
            tokens[1, 101] = 3
            torch.save(([good], [tokens]), path)
        case "value" | "negative" | "inside":
            tokens[0, 7] = {"value": 15, "negative": -1, "inside": 12}[content]
            torch.save(([tokens], [good]), path)
        case "shape":
            torch.save(([tokens[:, :400]], []), path)
        case "float":
            torch.save(([tokens.float()], []), path)
        case "list":
            torch.save(tokens, path)
        case "entry":
            torch.save((["x"], []), path)
        case "empty":
            path.write_bytes(b"")
        case "bfloat16":
            torch.save(([tokens.bfloat16()], []), path)
        case "sparse":
            torch.save(([tokens.to_sparse()], []), path)
        case "meta":
            torch.save(([tokens.to("meta")], []), path)
        case "expanded":
            torch.save(([tokens[:1].clone().expand(2, 404)], []), path)
        case "flipped":
            torch.save(([tokens], []), path)
            whole, row = path.read_bytes(), tokens.numpy().tobytes()
            at = whole.index(row) + 8 * 5  # a colour becomes another
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        case "cut":
            torch.save(([tokens], []), path)
            path.write_bytes(path.read_bytes()[:300])
        case "hostile":
            path.write_bytes(pickle.dumps(([Hostile()], [])))
    mark = Path("/tmp/interp_kit_was_here")
    mark.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_quizzes(path)
    assert "c_quizzes.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
