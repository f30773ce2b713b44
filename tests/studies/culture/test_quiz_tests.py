"""Tests of the culture models: known solvers get the scores that are known, and every count adds up."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.core.stats.intervals import mean_estimate, wilson
from interp_kit.models.checkpoints import Provenance
from interp_kit.models.convert import convert_mygpt, untrained
from interp_kit.models.hooked_model import attach
from interp_kit.models.mygpt import MyGPT, MyGPTConfig
from interp_kit.studies.culture.quiz_tests import MADE, draw_quizzes, run_tests
from interp_kit.studies.culture.reading import Reader, readable
from interp_kit.studies.culture.scores import ALL, CultureTests
from interp_kit.studies.culture.training.forward import answers
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.solver import solve
from interp_kit.tasks.culture.world import TASKS

STRUCTURES = tuple(grids.STRUCTURES[s].name for s in grids.EVALUATED)
N = 160
SIZES = MyGPTConfig(d_vocab=15, d_model=16, d_key=6, d_value=4, d_mlp=24, n_heads=2, n_layers=2)


def one_hot(tokens: Tensor, scale: float | int = 100) -> Tensor:
    return scale * F.one_hot(tokens, grids.VOCABULARY).float()


def perfect(quizzes: Tensor) -> Tensor:
    """Logits of the token that stands there."""
    return one_hot(quizzes)


def oracle(quizzes: Tensor) -> Tensor:
    """Logits of what the solver answers to the three first grids; all else as it stands."""
    rows = quizzes.numpy()
    structure = grids.structure_of(rows)
    found = solve(grids.reconfigure(rows, 0), structure)
    return one_hot(torch.cat([quizzes[:, :-100], torch.as_tensor(found.answers).long()], dim=1))


@pytest.fixture(scope="module")
def model() -> MyGPT:
    """A random MyGPT."""
    return MyGPT(SIZES, seed=3)


@pytest.fixture(scope="module")
def whitish() -> MyGPT:
    """A MyGPT that writes white in every cell, with probability 0.995, whatever it reads."""
    made = MyGPT(SIZES, seed=4)
    with torch.no_grad():
        made.readout.weight.zero_()
        made.readout.bias.zero_()
        made.readout.bias[0] = np.log(14 * 0.995 / 0.005)
    return made


@pytest.fixture(scope="module")
def white_quizzes() -> np.ndarray:
    """Sixty quizzes whose grids are white but for A."""
    cells = np.zeros((60, 4, 100), np.int64)
    cells[:, 0] = np.random.default_rng(0).integers(1, 11, size=(60, 100))
    return grids.compose(cells)


@pytest.fixture(scope="module")
def result(model: MyGPT) -> CultureTests:
    """A perfect solver, the oracle and a random model on the same quizzes."""
    return run_tests({"perfect": perfect, "oracle": oracle, "random": model}, N)


@pytest.mark.parametrize("d_model", [16, 64])
def test_the_faster_reading_gives_the_logits_of_the_network(d_model: int) -> None:
    network = MyGPT(replace(SIZES, d_model=d_model), seed=5).eval()
    drawn = draw_quizzes(6, 3, noise=(0.0, 0.3))
    rows = torch.as_tensor(np.concatenate([drawn.read[:, i] for i in range(6)])).long()  # each beside its noisy copy
    assert any(bool((rows[i] != rows[i + 1]).any()) for i in range(0, 12, 2))
    with torch.inference_mode():
        torch.testing.assert_close(Reader(network)(rows), network(rows), rtol=0, atol=2e-5)
        torch.testing.assert_close(Reader(network)(rows[::2]), network(rows[::2]), rtol=0, atol=2e-5)


def test_a_network_with_hooks_or_dropout_is_not_read_the_faster_way(model: MyGPT) -> None:
    network = MyGPT(SIZES, seed=3).eval()
    assert readable(network)
    network.readout.register_forward_hook(lambda module, given, out: out * 0)
    assert not readable(network)
    assert run_tests({"zeros": network}, 4).loss == pytest.approx(np.log(15))
    with pytest.raises(ValueError, match="without hooks"):
        Reader(network)
    assert not readable(MyGPT(SIZES, seed=3, dropout=0.1).train())


def test_a_perfect_solver_solves_everything(result: CultureTests) -> None:
    frame = result.to_frame()
    rows = frame[(frame["model"] == "perfect") & (frame["noise"] == 0) & (frame["n"] > 0)]
    assert (rows[["value", "high", "expected", "cells"]] == 1).all(axis=None)
    assert result.perplexity("perfect").value == pytest.approx(1)
    # read with noise, the cells of the prompt cannot be right; the answer is
    assert result.accuracy("perfect", grids.NOISE).value == 1
    quizzes = draw_quizzes(N)
    expected = np.exp(100 * (quizzes.read[1] != quizzes.clean).mean())
    assert result.perplexity("perfect", grids.NOISE).value == pytest.approx(expected, rel=1e-4)


def test_the_oracle_reaches_the_ceiling_and_no_more(result: CultureTests) -> None:
    e = result.accuracy("oracle")
    assert e.low <= np.nanmean(result.ceiling) <= e.high
    assert e.value > 0.98
    # with noise in the prompt no world explains the quizzes that have any
    noisy = result.structure < 2
    assert result.right[1, 1, ~noisy].mean() > 0.98
    assert result.right[1, 1, noisy].mean() < 0.2


def test_the_text_says_what_its_columns_are(result: CultureTests, whites: Callable[..., CultureTests]) -> None:
    text = str(result)
    heading = next(line for line in text.splitlines() if line.startswith("  answers sampled"))
    assert heading.split()[-2:] == ["ceiling", "n"]
    total = text.splitlines()[text.splitlines().index(heading) + 1]
    assert total.split()[-2:] == [f"{np.nanmean(result.ceiling):.3f}", str(N)]
    for word in ("expected", "ceiling"):
        assert word in heading
        assert f"{word}: " in text.split("\n\n")[-1]
    greedy = str(whites(greedy=True))
    assert "answers greedy" in greedy
    assert "\n\nsampling: mean probability that a sampled answer is right" in greedy


def test_an_untrained_model_solves_nothing(result: CultureTests, model: MyGPT) -> None:
    assert result.accuracy("random").value == 0
    assert result.perplexity("random").value > 5
    control = untrained(convert_mygpt(model), seed=1)
    assert run_tests({"untrained": control}, 8).accuracy("untrained").value == 0


def test_numbers_of_a_model_are_those_of_its_logits(result: CultureTests, model: MyGPT) -> None:
    quizzes = draw_quizzes(N)
    for level, read in enumerate(quizzes.read):
        tokens, clean = (torch.as_tensor(x[:40]).long() for x in (read, quizzes.clean))
        _, sampled = answers(model, tokens, clean)
        np.testing.assert_allclose(result.expected[2, level, :40], sampled, rtol=1e-4)
        with torch.no_grad():
            logits = model(tokens)
        expected = F.cross_entropy(logits.transpose(1, 2), clean, reduction="none").mean(1)
        np.testing.assert_allclose(result.loss[2, level, :40], expected.numpy(), rtol=1e-5)
        right = (logits[:, -100:].argmax(-1) == clean[:, -100:]).float().mean(1)
        np.testing.assert_allclose(result.cells[2, level, :40], right.numpy(), atol=1e-6)
    mean = mean_estimate(result.loss[2, 0])
    e = result.perplexity("random")
    np.testing.assert_allclose((e.value, e.low, e.high), np.exp((mean.value, mean.low, mean.high)))


def test_a_hooked_model_scores_as_its_source(whitish: MyGPT, model: MyGPT, white_quizzes: np.ndarray) -> None:
    for source in (model, whitish):
        ours, theirs = (
            run_tests({"model": m}, 24, culture_quizzes=white_quizzes) for m in (convert_mygpt(source), source)
        )
        np.testing.assert_allclose(ours.loss, theirs.loss, atol=1e-5)
        np.testing.assert_array_equal(ours.right, theirs.right)


def test_counts_add_up(result: CultureTests) -> None:
    for model in result.models:
        for noise in result.noise.tolist():
            whole = result.accuracy(model, noise)
            for groups in (
                [{"structure": s} for s in STRUCTURES],
                [{"task": t} for t in result.tasks],
                [{"structure": s, "task": t} for s in STRUCTURES for t in result.tasks],
            ):
                parts = [result.accuracy(model, noise, **group) for group in groups]
                assert sum(e.n for e in parts) == whole.n == N
                hits = sum(round(e.value * e.n) for e in parts if e.n)
                assert hits == round(whole.value * whole.n)
    e = result.accuracy("oracle", 0.05)
    reference = wilson(int(result.right[1, 1].sum()), N)
    assert (e.low, e.high, e.unit) == (reference.low, reference.high, "quizzes")
    assert len(result.to_frame()) == 3 * 2 * 5 * 9


def test_quizzes_are_distinct_and_as_described() -> None:
    quizzes = draw_quizzes(400, seed=5, noise=(0.0, 0.05, 1.0))
    assert len(np.unique(quizzes.clean, axis=0)) == len(quizzes) == 400
    np.testing.assert_array_equal(grids.structure_of(quizzes.clean), quizzes.structure)
    assert set(quizzes.structure) == set(grids.EVALUATED)
    assert (np.bincount(quizzes.task, minlength=len(TASKS)) > 25).all()
    np.testing.assert_array_equal(quizzes.read[0], quizzes.clean)
    may_change = grids.noisy_cells(quizzes.structure)
    for read, p in zip(quizzes.read, quizzes.noise, strict=True):
        differ = read != quizzes.clean
        assert not differ[~may_change].any()
        assert differ[may_change].mean() == pytest.approx(p * 10 / 11, abs=0.01)
    again = draw_quizzes(400, seed=5, noise=(0.05,))
    np.testing.assert_array_equal(again.read[0], quizzes.read[1])
    assert (draw_quizzes(400, seed=6).clean != quizzes.clean).any()


def test_culture_quizzes_take_up_to_half_and_count_once(white_quizzes: np.ndarray) -> None:
    for given, n, expected in ((5, 40, 5), (60, 40, 20), (60, 1, 0), (60, 3, 1), (0, 10, 0)):
        repeated = np.concatenate([white_quizzes[:given], grids.reconfigure(white_quizzes[:given], 3)])
        quizzes = draw_quizzes(n, culture_quizzes=repeated)
        assert len(quizzes) == n == len(np.unique(grids.reconfigure(quizzes.clean, 0), axis=0))
        made = quizzes.task == len(TASKS)
        assert made.sum() == expected
        canonical = {row.tobytes() for row in white_quizzes.astype(np.uint8)}
        assert all(
            (row.tobytes() in canonical) == m for row, m in zip(grids.reconfigure(quizzes.clean, 0), made, strict=True)
        )


@pytest.fixture(scope="module")
def whites(whitish: MyGPT, white_quizzes: np.ndarray) -> Callable[..., CultureTests]:
    """Tests on quizzes of which half are solved by a white grid, but for those that ask for A."""

    def run(**options: Any) -> CultureTests:
        return run_tests({"white": whitish}, 120, culture_quizzes=white_quizzes, noise=0.0, **options)

    return run


def test_greedy_answers_are_those_that_decoding_writes(whites: Callable[..., CultureTests]) -> None:
    fast, slow = whites(greedy=True), whites(greedy=True, decoded=True)
    np.testing.assert_array_equal(fast.right, slow.right)
    solved = (fast.task == len(TASKS)) & (fast.structure < 3)
    np.testing.assert_array_equal(fast.right[0, 0], solved)
    assert fast.accuracy("white", task=MADE).n == 60
    assert fast.answers == "greedy"
    assert "greedy" in fast.caption()
    assert "greedy" in str(fast)


@pytest.mark.parametrize("decoded", [False, True])
def test_sampled_answers_are_right_as_often_as_they_should(whites: Callable[..., CultureTests], decoded: bool) -> None:
    found = whites(decoded=decoded)
    solved = (found.task == len(TASKS)) & (found.structure < 3)
    np.testing.assert_allclose(found.expected[0, 0, solved], 0.995**100, rtol=1e-4)
    assert (found.expected[0, 0, ~solved] < 1e-4).all()
    e = wilson(int(found.right[0, 0, solved].sum()), int(solved.sum()))
    assert e.low < 0.995**100 < e.high
    assert 0 < e.value < 1
    assert not found.right[0, 0, ~solved].any()


@pytest.mark.slow
def test_both_kinds_of_sampling_have_one_distribution(whitish: MyGPT, white_quizzes: np.ndarray) -> None:
    """Quizzes under several seeds: the share of right answers against its closed form."""
    structure = grids.structure("A f_A B f_B")
    for decoded in (False, True):
        hits = n = 0
        for seed in range(2 if decoded else 6):
            found = run_tests(
                {"w": whitish}, 120, seed, culture_quizzes=white_quizzes, noise=0.0, decoded=decoded, workers=1
            )
            rows = (found.task == len(TASKS)) & (found.structure == structure)
            hits, n = hits + int(found.right[0, 0, rows].sum()), n + int(rows.sum())
        p = 0.995**100
        assert abs(hits - n * p) < 3 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_quizzes_are_enough(model: MyGPT, n: int, tmp_path: Any) -> None:
    found = run_tests(model, n, seed=n)
    frame = found.to_frame()
    empty = frame[frame["n"] == 0]
    assert len(empty)
    assert empty[["value", "low", "high", "expected", "perplexity"]].isna().all(axis=None)
    assert isinstance(found.plot(), Axes)
    assert f"n = {n}" in found.caption()
    assert CultureTests.load(found.save(tmp_path / "r")).to_frame().equals(frame)
    assert "nan" not in str(found)


def test_results_do_not_depend_on_how_they_are_computed(model: MyGPT, result: CultureTests, tmp_path: Any) -> None:
    for options in ({"workers": 1}, {"workers": 3, "batch_size": 7}):
        again = run_tests({"random": model}, N, **options)
        np.testing.assert_array_equal(again.right[0], result.right[2])
        np.testing.assert_allclose(again.expected[0], result.expected[2], rtol=1e-4)
    for field in fields(result):
        if field.name != "config":
            loaded = getattr(CultureTests.load(result.save(tmp_path / field.name)), field.name)
            np.testing.assert_array_equal(loaded, getattr(result, field.name))
    assert len(run_tests({"random": model}, 20, noise=(0.0,)).noise) == 1


def test_dropout_is_off_while_testing() -> None:
    trained = MyGPT(SIZES, seed=3, dropout=0.5).train()
    found, again = run_tests(trained, 10), run_tests(trained, 10)
    np.testing.assert_array_equal(found.loss, again.loss)
    assert trained.training


def test_copying_is_counted_beside(result: CultureTests) -> None:
    quizzes = draw_quizzes(N)
    third, last = quizzes.clean[:, 203:303], quizzes.clean[:, 304:]
    np.testing.assert_allclose(result.copied, (third == last).mean(1))
    row = result.to_frame().iloc[0]
    assert row["copied"] == 0
    assert 0.8 < row["copied_cells"] < 0.95


def test_what_cannot_be_tested_is_refused(model: MyGPT, result: CultureTests) -> None:
    def nan(quizzes: Tensor) -> Tensor:
        return one_hot(quizzes) * torch.nan

    with pytest.raises(FloatingPointError, match="nan or infinite"):
        run_tests(nan, 2)
    with pytest.raises(ValueError, match=r"shape \(1, 404\), expected \(1, 404, 15\)"):
        run_tests(lambda quizzes: quizzes, 1)
    with pytest.raises(ValueError, match="only models can be decoded"):
        run_tests({"f": perfect}, 1, decoded=True)
    with pytest.raises(ValueError, match="two models are named 'MyGPT'"):
        run_tests([model, model], 1)
    with pytest.raises(ValueError, match="no model"):
        run_tests([], 1)
    with pytest.raises(ValueError, match="at least one quiz"):
        run_tests(model, 0)
    with pytest.raises(ValueError, match="noise is a probability"):
        run_tests(model, 1, noise=1.5)
    with pytest.raises(ValueError, match="culture quizzes: row 0"):
        run_tests(model, 1, culture_quizzes=np.zeros((1, 404), int))
    with pytest.raises(ValueError, match="no task 'x'"):
        result.accuracy("random", task="x")
    with pytest.raises(ValueError, match=r"no noise 0\.3"):
        result.accuracy("random", 0.3)


def test_a_model_goes_by_the_name_that_it_was_loaded_under(model: MyGPT) -> None:
    named = MyGPT(SIZES, seed=1)
    attach(named, provenance=Provenance(name="culture/gpt_007", path="", sha256="s", initialisation="i"))
    found = run_tests([named, model], 2)
    assert found.models == ("culture/gpt_007", "MyGPT")
    assert found.config["models"][0] == {"name": "culture/gpt_007", "sha256": "s", "initialisation": "i"}
    assert found.accuracy("culture/gpt_007", structure=ALL).n == 2
