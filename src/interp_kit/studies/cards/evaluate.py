"""Accuracy on every split, read by the task's one verifier, with calibration and two baselines that know no rule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import tyro
from torch import Tensor

from interp_kit.core.config import check_count, expect
from interp_kit.core.files import check_writable, write_json
from interp_kit.core.program import ended
from interp_kit.core.stats.intervals import Estimate, wilson
from interp_kit.core.task import AbstractTask
from interp_kit.engine.inputs import check_fits, whole_text
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.catalogue import SPLITS
from interp_kit.tasks.cards.dataset import CardsConfig
from interp_kit.tasks.cards.deals import BIG, SMALL, Deals
from interp_kit.tasks.cards.verifier import parse

WRITTEN = 2  # tokens: an answer and end-of-text; any third one would make the completion no answer
BINS = 10  # of confidence, for the expected calibration error
KNOWN = 5_000  # training deals in which the nearest neighbour is looked for
ON_TRAIN = 2_000  # training deals on which accuracy is measured
TESTED = tuple(name for name in SPLITS if name not in ("train", "val"))


@dataclass(frozen=True)
class SplitScore:
    """Performance of a model on one split.

    Attributes:
        n: Deals.
        accuracy: Share of right completions.
        accuracy_ci95: Wilson's interval of it.
        balanced_accuracy: Mean accuracy over BIG and SMALL; None where answers are numbers.
        format_validity: Share of completions that are an answer at all.
        majority_baseline: Accuracy of always giving the split's most frequent answer.
        nearest_baseline: Accuracy of the answer to the nearest known training deal; None if none is known.
        answer_probability: Mean probability of the right answer's token.
        ece: Expected calibration error of the most probable token, in BINS bins of equal width.
        by_rule: Rule -> n, accuracy and accuracy_ci95.
    """

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    balanced_accuracy: float | None
    format_validity: float
    majority_baseline: float
    nearest_baseline: float | None
    answer_probability: float
    ece: float
    by_rule: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CardsEvaluation:
    """A model on all splits.

    Attributes:
        model: Its name.
        splits: Split -> score; "train" is of training deals.
        seed: Of the test deals.
        known: Training deals of the nearest-neighbour baseline.
    """

    model: str
    splits: dict[str, SplitScore]
    seed: int
    known: int

    def gap(self, split: str) -> Estimate:
        """The accuracy on id_test minus that on a split, with Newcombe's (1998) hybrid score interval."""
        a, b = self.splits["id_test"], self.splits[split]
        difference = a.accuracy - b.accuracy
        low = difference - np.hypot(a.accuracy - a.accuracy_ci95[0], b.accuracy_ci95[1] - b.accuracy)
        high = difference + np.hypot(a.accuracy_ci95[1] - a.accuracy, b.accuracy - b.accuracy_ci95[0])
        return Estimate(difference, float(low), float(high), min(a.n, b.n), "deals")

    def to_json(self) -> dict[str, Any]:
        """The documented form: {"model", "splits": {name: {…}}, "gaps": {name: {…}}}."""
        gaps = {name: self.gap(name) for name in self.splits if name.startswith("ood_")} if self._has_id() else {}
        return {
            "model": self.model,
            "seed": self.seed,
            "known": self.known,
            "splits": {name: asdict(score) for name, score in self.splits.items()},
            "gaps": {name: {"gap": gap.value, "gap_ci95": (gap.low, gap.high)} for name, gap in gaps.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per split."""
        return pd.DataFrame([{"split": name, **asdict(score)} for name, score in self.splits.items()])

    def _has_id(self) -> bool:
        return "id_test" in self.splits


@dataclass(frozen=True)
class _Answers:
    """(n,) what a model completes: text, probability of the right answer's token, and of the most probable one."""

    completions: list[str]
    right_probability: np.ndarray
    confidence: np.ndarray


@on_model()
def evaluate_cards(
    model: HookedModel,
    config: CardsConfig | None = None,
    *,
    splits: Sequence[str] = TESTED,
    trained_on: Deals | None = None,
    batch_size: int = 512,
) -> CardsEvaluation:
    """Measure a model of the card game.

    Args:
        model: As `interp_kit.load` gives it.
        config: Sizes and seed of the test deals.
        splits: Names of the splits.
        trained_on: Training deals; their first ON_TRAIN are measured as "train", and the first KNOWN are those in which
            the nearest neighbour is looked for. None leaves both out.
        batch_size: Deals per forward pass.

    Raises:
        ValueError: An unknown split, or a model of another task or tokenizer.
        FloatingPointError: The model gives nan or infinite logits.
    """
    config = CardsConfig() if config is None else config
    expect("config", config, CardsConfig)
    check_count("batch_size", batch_size)
    found: dict[str, SplitScore] = {}
    drawn = {name: CardsTask(name, cards=config.cards) for name in splits}
    for name, task in drawn.items():
        found[name] = _score(model, task, task.deals(config.size(name), config.seed), trained_on, batch_size)
    if trained_on is not None:
        task = CardsTask("train", cards=config.cards)
        first = trained_on.take(np.arange(min(ON_TRAIN, len(trained_on))))
        found["train"] = _score(model, task, first, None, batch_size)
    known = 0 if trained_on is None else min(KNOWN, len(trained_on))
    return CardsEvaluation(model_name(model), found, config.seed, known)


def _score(model: HookedModel, task: CardsTask, deals: Deals, trained_on: Deals | None, batch_size: int) -> SplitScore:
    check_meeting(model, task, AbstractTask)
    labels = task.labels(deals)
    truth = labels["answer"]
    answers = _complete(model, task, deals, batch_size)
    given = [parse(text) for text in answers.completions]
    right = np.array([a == b for a, b in zip(given, truth.tolist(), strict=True)])
    classes = np.isin(truth, (BIG, SMALL))
    nearest = None if trained_on is None else _nearest(task, trained_on, deals)
    whole = wilson(int(right.sum()), len(right), "deals")
    by_rule = {}
    for index in np.unique(deals.rule):
        of_rule = right[deals.rule == index]
        e = wilson(int(of_rule.sum()), len(of_rule), "deals")
        by_rule[task.rules[index].name] = {"n": e.n, "accuracy": e.value, "accuracy_ci95": (e.low, e.high)}
    return SplitScore(
        n=len(right),
        accuracy=whole.value,
        accuracy_ci95=(whole.low, whole.high),
        balanced_accuracy=_balanced(right, truth) if classes.all() else None,
        format_validity=float(np.mean([answer is not None for answer in given])),
        majority_baseline=float(np.unique(truth, return_counts=True)[1].max() / len(truth)),
        nearest_baseline=None if nearest is None else float((nearest == truth).mean()),
        answer_probability=float(answers.right_probability.mean()),
        ece=calibration_error(answers.confidence, right),
        by_rule=by_rule,
    )


def _balanced(right: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([right[truth == answer].mean() for answer in np.unique(truth)]))


@torch.inference_mode()
def _complete(model: HookedModel, task: CardsTask, deals: Deals, batch_size: int) -> _Answers:
    """Greedy completions of WRITTEN tokens; shorter deals first, so that a batch has little padding."""
    encoded, lengths = task.encode(deals)
    tokens, prompts = torch.as_tensor(encoded), torch.as_tensor(lengths)
    check_fits(tokens, model.cfg.n_ctx, model.cfg.d_vocab)
    if model.cfg.d_vocab != len(task.vocabulary):
        sizes = f"{model_name(model)} has {model.cfg.d_vocab} tokens, {task.name} has {len(task.vocabulary)}"
        raise ValueError(f"{sizes}: token ids do not mean the same")
    written = torch.empty(len(tokens), WRITTEN, dtype=torch.long)
    probability, confidence = torch.empty(len(tokens)), torch.empty(len(tokens))
    for rows in prompts.argsort().split(batch_size):
        at, row = prompts[rows], torch.arange(len(rows))
        text = tokens[rows, : int(at.max()) + WRITTEN].clone()
        answer = text[row, at]
        first = _logits(model, text, at - 1).softmax(-1)
        probability[rows] = first[row, answer]
        confidence[rows] = first.amax(-1)
        for k in range(WRITTEN):
            logits = first if k == 0 else _logits(model, text, at + k - 1)
            text[row, at + k] = written[rows, k] = logits.argmax(-1)
    texts = ["".join(task.vocabulary[token] for token in row) for row in written.tolist()]
    return _Answers(texts, probability.numpy(), confidence.numpy())


def _logits(model: HookedModel, text: Tensor, at: Tensor) -> Tensor:
    """(batch, vocab) the logits at one position of each row; what stands after it has no effect."""
    logits = whole_text(model, text[:, : int(at.max()) + 1].to(model.cfg.device))
    found = logits[torch.arange(len(text)), at].float().cpu()
    if not torch.isfinite(found).all():
        raise FloatingPointError(f"{model_name(model)} gives nan or infinite logits on cards texts")
    return found


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The mean distance of accuracy from confidence over BINS bins of equal width, weighted by their sizes."""
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    off = [abs(right[which == k].mean() - confidence[which == k].mean()) * (which == k).mean() for k in set(which)]
    return float(np.sum(off))


def _nearest(task: CardsTask, known: Deals, asked: Deals) -> np.ndarray:
    """(n,) the answer to the known deal nearest in rule, number of cards, colours and values; the first of several."""
    known = known.take(np.arange(min(KNOWN, len(known))))
    answers, table = task.labels(known)["answer"], _features(known)
    return np.array([answers[(table != row).sum(1).argmin()] for row in _features(asked)])


def _features(deals: Deals) -> np.ndarray:
    columns = [deals.rule, deals.style, deals.count, deals.colour, deals.value]
    return np.column_stack(columns).astype(np.int16)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure models of the card game on every split."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """names in checkpoints/, or folders"""
    out: Path | None = None
    """JSON file to write: one evaluation, or a list of them"""
    data: Annotated[CardsConfig, tyro.conf.arg(name="")] = field(default_factory=CardsConfig)


def table(found: Mapping[str, CardsEvaluation]) -> str:
    """Accuracy by model and split, in percent."""
    names = list(next(iter(found.values())).splits)
    lines = ["model" + " " * 23 + "  ".join(f"{name.removeprefix('ood_'):>14}" for name in names)]
    for model, evaluation in found.items():
        lines.append(f"{model:<28}" + "  ".join(f"{100 * s.accuracy:>14.1f}" for s in evaluation.splits.values()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""

    def work() -> None:
        from interp_kit.models.checkpoints import load

        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.cards.evaluate")
        if options.out is not None:
            check_writable(options.out)
        found = {name: evaluate_cards(load(name), options.data) for name in options.models}
        print(table(found))
        if options.out is not None:
            rows = [evaluation.to_json() for evaluation in found.values()]
            write_json(options.out, rows[0] if len(rows) == 1 else rows)

    return ended("cards-evaluate", work)


if __name__ == "__main__":
    raise SystemExit(main())
