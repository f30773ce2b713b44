"""The evaluation of card models, of scripted models whose accuracy is known."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interp_kit.core.stats.intervals import wilson
from interp_kit.studies.cards.evaluate import TESTED, CardsEvaluation, calibration_error, evaluate_cards
from interp_kit.studies.cards.sft import deals_of
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.dataset import CardsConfig
from interp_kit.tasks.cards.deals import BIG

SMALL = CardsConfig(test=60)
ANY = CardsTask("train")
END = ANY.pad
LOGIT = 6.0


@dataclass(eq=False)
class Scripted:
    """Writes `answer(prompt tokens)` (ids, as many as it likes) with most of its probability."""

    answer: Callable[[tuple[int, ...]], list[int]]

    def __post_init__(self) -> None:
        self.cfg = SimpleNamespace(d_vocab=len(ANY.vocabulary), n_ctx=48, device="cpu")
        self.provenance = SimpleNamespace(name="scripted", initialisation=None)

    def __call__(self, tokens: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, self.cfg.d_vocab)
        colon = ANY.format.token_id["\n\nAnswer:"]
        for i, row in enumerate(tokens.tolist()):
            if colon not in row:
                continue
            start = row.index(colon) + 1
            for k, token in enumerate(self.answer(tuple(row[:start]))):
                if start + k - 1 < len(row):
                    logits[i, start + k - 1, token] = LOGIT
        return logits

    def unused(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing here is to call this")

    run_with_hooks = run_with_cache = hooks = named_parameters = unused


def truths(config: CardsConfig) -> dict[tuple[int, ...], int]:
    """Prompt -> the right answer's token, over all tested splits."""
    found = {}
    for name in TESTED:
        task = CardsTask(name)
        tokens, prompts = task.encode(task.deals(config.test, config.seed))
        found |= {tuple(row[:p].tolist()): int(row[p]) for row, p in zip(tokens, prompts, strict=True)}
    return found


@pytest.fixture(scope="module")
def right() -> dict[tuple[int, ...], int]:
    """The right answers of the small evaluation."""
    return truths(SMALL)


def test_a_model_that_is_right_is_found_right_everywhere(right) -> None:
    found = evaluate_cards(Scripted(lambda prompt: [right[prompt], END]), SMALL)
    assert tuple(found.splits) == TESTED
    p = float(torch.tensor([LOGIT] + [0.0] * (len(ANY.vocabulary) - 1)).softmax(-1)[0])
    for name, score in found.splits.items():
        assert (score.n, score.accuracy, score.format_validity) == (60, 1.0, 1.0)
        assert score.accuracy_ci95 == (pytest.approx(wilson(60, 60).low), 1.0)
        assert score.answer_probability == pytest.approx(p, abs=1e-5)
        assert score.ece == pytest.approx(1 - p, abs=1e-5)
        assert score.balanced_accuracy == (1.0 if name == "ood_classification" else None)
        assert sum(of["n"] for of in score.by_rule.values()) == 60
    assert set(found.splits["id_test"].by_rule) == {"red_minus_blue", "sum_greater_than_4", "odd_minus_even"}


def test_accuracy_gaps_and_baselines_are_those_counted_by_hand(right) -> None:
    big, nine = ANY.format.token_id[" BIG"], ANY.format.token_id[" 9"]

    def half(prompt: tuple[int, ...]) -> list[int]:
        """Right, except that classifications are all BIG and prompts of even length get a 9."""
        truth = right[prompt]
        if ANY.vocabulary[truth] in (" BIG", " SMALL"):
            return [big, END]
        return [truth if len(prompt) % 2 else nine, END]

    found = evaluate_cards(Scripted(half), SMALL)
    for name in TESTED:
        task = CardsTask(name)
        deals = task.deals(60, 0)
        answers = task.labels(deals)["answer"]
        prompts = task.encode(deals)[1]
        score = found.splits[name]
        expected = (answers == BIG) if name == "ood_classification" else (prompts % 2 == 1) | (answers == 9)
        assert score.accuracy == pytest.approx(expected.mean())
        assert score.majority_baseline == max(np.mean(answers == value) for value in set(answers.tolist()))
        for rule, of in score.by_rule.items():
            rows = [task.rules[index].name == rule for index in deals.rule]
            assert of["accuracy"] == pytest.approx(expected[rows].mean())
    assert found.splits["ood_classification"].balanced_accuracy == 0.5
    gap = found.gap("ood_length_shift")
    a, b = (found.splits[name].accuracy for name in ("id_test", "ood_length_shift"))
    assert gap.value == pytest.approx(a - b)
    assert gap.low < gap.value < gap.high


def test_completions_that_are_no_answer_are_invalid_and_wrong(right) -> None:
    one, card = ANY.format.token_id[" 1"], ANY.format.token_id["\nRED 4"]
    for script in (
        lambda p: [END, END],
        lambda p: [card, END],
        lambda p: [right[p], one],
        lambda p: [right[p], right[p]],
    ):
        score = evaluate_cards(Scripted(script), SMALL, splits=("id_test",)).splits["id_test"]
        assert (score.accuracy, score.format_validity) == (0.0, 0.0)


def test_the_nearest_neighbour_knows_what_it_has_seen(right) -> None:
    silent = Scripted(lambda prompt: [END])
    known = CardsTask("id_test").deals(60, 0)  # the tested deals themselves
    found = evaluate_cards(silent, SMALL, splits=("id_test", "ood_length_shift"), trained_on=known)
    assert found.splits["id_test"].nearest_baseline == 1.0
    assert found.splits["ood_length_shift"].nearest_baseline < 0.5
    assert found.splits["train"].n == 60
    assert found.known == 60
    assert evaluate_cards(silent, SMALL, splits=("id_test",)).splits["id_test"].nearest_baseline is None


def test_calibration_error_is_zero_of_a_calibrated_model_and_its_excess_of_another() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=50_000)
    assert calibration_error(confidence, rng.uniform(size=50_000) < confidence) < 0.02
    assert calibration_error(np.full(1000, 0.95), np.arange(1000) < 700) == pytest.approx(0.25)
    assert calibration_error(np.ones(4), np.ones(4)) == 0


def test_the_json_is_the_documented_one(right) -> None:
    found = evaluate_cards(Scripted(lambda p: [right[p], END]), SMALL, splits=("id_test", "ood_paraphrase"))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["model"] == "scripted"
    assert set(data["splits"]) == {"id_test", "ood_paraphrase"}
    assert {"n", "accuracy", "accuracy_ci95", "format_validity", "majority_baseline"} <= set(data["splits"]["id_test"])
    assert set(data["gaps"]) == {"ood_paraphrase"}
    assert isinstance(found, CardsEvaluation)
    assert len(found.to_frame()) == 2


def test_models_of_another_vocabulary_and_unknown_splits_are_refused(right) -> None:
    model = Scripted(lambda p: [END])
    model.cfg.d_vocab += 1
    with pytest.raises(ValueError, match="token ids do not mean the same"):
        evaluate_cards(model, SMALL)
    with pytest.raises(ValueError, match="no split 'ood'"):
        evaluate_cards(Scripted(lambda p: [END]), SMALL, splits=("ood",))


def test_distinct_deals_repeat_nothing() -> None:
    task = CardsTask("train")
    deals = deals_of(task, 300, 0, distinct=True)
    keys = np.column_stack([deals.rule, deals.style, deals.colour, deals.value])
    assert len(np.unique(keys, axis=0)) == len(deals) == 300
    assert len(deals_of(task, 300, 0)) == 300
