"""The words of the study on figures made by hand: other figures must get other words."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from interp_kit.core.stats.intervals import wilson
from interp_kit.studies.cards import words
from interp_kit.studies.cards.activity import participation
from interp_kit.studies.cards.evaluate import CardsEvaluation, SplitScore
from interp_kit.studies.cards.study import Study
from interp_kit.studies.cards.words import (
    Difference,
    both,
    central,
    findings,
    gains,
    informative,
    learnt,
    memorised,
    over_seeds,
)

N = 1000


def score(accuracy: float, majority: float = 0.1) -> SplitScore:
    found = wilson(round(accuracy * N), N)
    return SplitScore(
        n=N, accuracy=accuracy, accuracy_ci95=(found.low, found.high), balanced_accuracy=None, format_validity=1.0,
        majority_baseline=majority, nearest_baseline=None, answer_probability=accuracy, ece=0.0,
        by_rule={"sum": {"n": N, "accuracy": accuracy}},
    )  # fmt: skip


def study(kinds: dict[str, dict[str, tuple[float, float, float]]]) -> Study:
    """kind -> split -> accuracy of three seeds."""
    evaluations = {
        f"cards/{kind}-seed{seed}": CardsEvaluation(
            kind, {split: score(by_seed[seed]) for split, by_seed in splits.items()}, 0, 0
        )
        for kind, splits in kinds.items()
        for seed in range(3)
    }
    return Study(evaluations, {}, {}, {}, {}, (0, 1, 2))


def arms(rl: tuple[float, float, float], sft: tuple[float, float, float] = (0.6, 0.62, 0.61)) -> Study:
    solved = (0.98, 0.97, 0.99)
    return study({
        "s0": {"id_test": (0.5, 0.52, 0.48), "ood_paraphrase": (0.3, 0.31, 0.29), "train": (0.5, 0.5, 0.5)},
        "sft": {"id_test": solved, "ood_paraphrase": sft, "train": (0.99, 0.99, 0.99)},
        "sft-reordered": {"id_test": solved, "ood_paraphrase": sft, "train": (0.99, 0.99, 0.99)},
        "rl": {"id_test": solved, "ood_paraphrase": rl, "train": solved},
    })  # fmt: skip


def test_an_interval_over_seeds_is_students() -> None:
    found = over_seeds(np.array([0.1, 0.2, 0.6]))
    low, high = stats.t.interval(0.95, 2, loc=0.3, scale=stats.sem([0.1, 0.2, 0.6]))
    assert (found.value, found.low, found.high, found.n) == (pytest.approx(0.3), *map(pytest.approx, (low, high)), 3)
    assert over_seeds(np.array([1.0, 2.0])).sign == 0


def test_students_interval_covers_for_three_seeds() -> None:
    rng = np.random.default_rng(0)
    within = [one.low < 0 < one.high for one in map(over_seeds, rng.normal(size=(4000, 3)))]
    assert np.mean(within) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("rl", "verdict"),
    [((0.8, 0.83, 0.82), "RL is ahead"), ((0.4, 0.41, 0.42), "SFT is ahead"), ((0.5, 0.7, 0.62), "undecided")],
)
def test_the_comparison_says_who_is_ahead(rl: Any, verdict: str) -> None:
    said = {sentence.split(":")[0]: sentence for sentence in central(arms(rl))}
    assert verdict in said["ood_paraphrase"]
    assert "undecided" in said["id_test"]


def test_gains_are_paired_by_seed() -> None:
    found = gains(arms((0.8, 0.8, 0.8)), "sft", "ood_paraphrase")
    assert found.value == pytest.approx(np.mean([0.3, 0.31, 0.32]))
    assert found.high - found.low < 0.06


@pytest.mark.parametrize(
    ("sft", "why"),
    [((0.97, 0.99, 0.98), "at its ceiling in one seed"), ((0.5, 0.11, 0.5), "no better than"), ((0.6, 0.6, 0.6), "")],
)
def test_a_split_that_cannot_tell_is_named(sft: Any, why: str) -> None:
    refused = informative(arms((0.8, 0.8, 0.8), sft))
    assert (why in refused.get("ood_paraphrase", "nothing")) if why else not refused


def test_without_rl_nothing_is_compared() -> None:
    known = arms((0.8, 0.8, 0.8))
    alone = replace(known, evaluations={name: one for name, one in known.evaluations.items() if "/rl" not in name})
    assert central(alone) == ("No model trained by reinforcement learning is there, so the arms cannot be compared.",)


def test_the_findings_begin_with_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    study = arms((0.8, 0.8, 0.8))
    for name in ("same_circuit", "claims", "how_it_adds"):
        monkeypatch.setattr(words, name, lambda study: ())
    assert findings(study)[0] == central(study)[0]


def test_what_is_learnt_and_memorised() -> None:
    assert "sft reaches 0.95 on every rule in every seed: the lowest is 0.970 (sum)" in learnt(arms((0.8, 0.8, 0.8)))
    assert "sft: 0.99 on its training prompts, 0.98 on new ones" in memorised(arms((0.8, 0.8, 0.8)))


def test_a_claim_needs_every_difference() -> None:
    up, down, unknown = (Difference(0.0, low, high, 3) for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1)))
    assert [both(up), both(up, up), both(up, unknown), both(up, down), both(unknown, down), both(unknown)] == [
        "yes", "yes", "undecided", "no", "no", "undecided",
    ]  # fmt: skip


def test_activity_counts_directions() -> None:
    line = np.outer(np.arange(20.0), [1.0, 2.0, 3.0])
    assert participation(line) == pytest.approx(1)
    ball = np.concatenate([np.eye(3), -np.eye(3)])
    assert participation(ball) == pytest.approx(3)
    assert participation(np.zeros((4, 3))) == 0
