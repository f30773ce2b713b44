"""Measure of an intervention. A metric maps logits to one number per example: at one field's prediction
position, or over the whole completion."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import expect
from interp_kit.core.pairs import PairBatch

COMPLETION = "completion"
Measure = TypeVar("Measure", bound="AtField")


@dataclass(frozen=True, eq=False)
class Metric(ABC):
    """One number per example from the logits at the positions that `reads` names.

    field: what is answered; "completion" for all tokens after the prompt. A metric of your own is a subclass of
    `AtField`, `OverCompletion` or one of those below, with its own `values`.
    """

    title: ClassVar[str]  # for tables and axes
    differentiable: ClassVar[bool] = True  # False for steps, which have no gradient to follow
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  # of one example's value
    is_distance: ClassVar[bool] = False  # True if 0 at the unedited run and more elsewhere: its gradient is 0 there

    field: str

    def __post_init__(self) -> None:
        expect("field", self.field, str)

    @property
    def name(self) -> str:
        """For tables and axes."""
        return f"{self.title} of {self.field}"

    @classmethod
    def effect_bounds(cls) -> tuple[float, float]:
        """The least and the largest effect of an edit that there can be: the metric's change; a distance itself."""
        low, high = cls.bounds
        return cls.bounds if cls.is_distance else (low - high, high - low)

    def take(self, rows: Int[Tensor, " row"]) -> "Metric":
        """The metric of these rows of the batch."""
        return self

    @abstractmethod
    def reads(self, batch: TokenBatch) -> Int[Tensor, "batch read"]:
        """(batch, read) the positions whose logits are read; a row with fewer repeats its last."""

    def __call__(
        self,
        logits: Float[Tensor, "batch pos vocab"],
        batch: TokenBatch,
        reference: Float[Tensor, "batch pos vocab"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The metric of every example. reference: logits of the unedited run, which `kl` needs."""
        rows, at = torch.arange(len(batch), device=logits.device)[:, None], self.reads(batch)
        return self.measure(logits[rows, at], batch, None if reference is None else reference[rows, at])

    def measure(
        self,
        logits: Float[Tensor, "*edits batch read vocab"],
        batch: TokenBatch,
        reference: Float[Tensor, "batch read vocab"] | None = None,
    ) -> Float[Tensor, "*edits batch"]:
        """The metric of every example from the logits at `reads`, in float32 at least: of bfloat16 logits a KL would be
        negative."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.values(logits, batch, None if reference is None else reference.to(logits.dtype))

    @abstractmethod
    def values(
        self,
        logits: Float[Tensor, "*edits batch read vocab"],
        batch: TokenBatch,
        reference: Float[Tensor, "batch read vocab"] | None,
    ) -> Float[Tensor, "*edits batch"]:
        """As `measure`, of logits in the dtype to reckon with."""


@dataclass(frozen=True, eq=False)
class AtField(Metric):
    """A metric of the logits at `predict`, the position before the field's token.

    right, wrong: (batch,) token ids; None takes the batch's own answer, and for wrong every other candidate of the
    field. at: (batch,) the index whose logits are read, where it is not the field's own. All three may lie on another
    device than the batch.
    """

    right: Int[Tensor, " batch"] | None = None
    wrong: Int[Tensor, " batch"] | None = None
    at: Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.field == COMPLETION:
            raise ValueError(f"{self.title} is measured at one field, not over the {COMPLETION}")

    def take(self, rows: Int[Tensor, " row"]) -> "Metric":
        given = {name: getattr(self, name) for name in ("right", "wrong", "at")}
        there = {name: None if value is None else value.to(rows.device)[rows] for name, value in given.items()}
        return replace(self, **there)

    def reads(self, batch: TokenBatch) -> Int[Tensor, "batch 1"]:
        return self.position(batch)[:, None]

    def position(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """(batch,) the index whose logits are read."""
        if self.at is None:
            return batch.position(batch.field(self.field).predict)
        return self.at.to(batch.tokens.device)

    def right_of(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """(batch,) the right token."""
        return batch.answer[self.field] if self.right is None else self.right.to(batch.tokens.device)


class LogitDifference(AtField):
    """Right minus wrong logit, or right minus mean of a field's other values."""

    title = "logit difference"

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        here, right = logits[..., 0, :], self.right_of(batch)
        if self.wrong is not None:
            return _pick(here, right) - _pick(here, self.wrong.to(here.device))
        candidates = torch.tensor(batch.field(self.field).candidates, device=here.device)
        other = candidates[None, :] != right[:, None]
        return _pick(here, right) - (here[..., candidates] * other).sum(-1) / other.sum(-1)


class Probability(AtField):
    """Probability of the right token."""

    title, bounds = "probability", (0.0, 1.0)

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        return _pick(logits[..., 0, :].softmax(-1), self.right_of(batch))


class Accuracy(AtField):
    """1 where the right token is the most likely one of the whole vocabulary, else 0."""

    title, differentiable, bounds = "accuracy", False, (0.0, 1.0)

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        return (logits[..., 0, :].argmax(-1) == self.right_of(batch)).to(logits.dtype)


class KL(AtField):
    """KL(unedited || edited) of the next-token distribution, in nats."""

    title, is_distance, bounds = "kl", True, (0.0, math.inf)

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        if reference is None:
            raise ValueError("kl needs the logits of the unedited run")
        before = reference[:, 0].log_softmax(-1)
        return (before.exp() * (before - logits[..., 0, :].log_softmax(-1))).sum(-1)


@dataclass(frozen=True, eq=False)
class OverCompletion(Metric):
    """A metric of all logits that predict a token of the true completion, each with the truth before it."""

    field: str = COMPLETION

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.field != COMPLETION:
            raise ValueError(f"{self.title} is measured over the {COMPLETION}, not at {self.field!r}")

    def reads(self, batch: TokenBatch) -> Int[Tensor, "batch read"]:
        first, asked = batch.prompt_length - 1, batch.mask.sum(1) - batch.prompt_length
        if (asked < 1).any():
            raise ValueError(
                f"row {int((asked < 1).nonzero()[0])} of the batch has no completion, over which {self.name} is"
                " measured; measure one field instead, as by logit_difference or accuracy"
            )
        number = torch.arange(max(1, int(asked.max())), device=first.device)
        return (first[:, None] + number.minimum(asked[:, None] - 1)).clamp(min=0)

    def targets(self, batch: TokenBatch) -> tuple[Int[Tensor, "batch read"], Bool[Tensor, "batch read"]]:
        """(batch, read) the true token behind each position of `reads`, and True but for repetitions."""
        at, count = self.reads(batch), batch.mask.sum(1) - batch.prompt_length
        return batch.tokens.gather(1, at + 1), torch.arange(at.shape[1], device=at.device) < count[:, None]


class LogProbability(OverCompletion):
    """Mean log-probability, in nats, of the tokens of the true completion."""

    title, bounds = "log probability", (-math.inf, 0.0)

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        target, asked = self.targets(batch)
        return (_pick(logits.log_softmax(-1), target) * asked).sum(-1) / asked.sum(-1)


class ExactMatch(OverCompletion):
    """1 where every token of the true completion is the most likely one, which is when greedy decoding is right."""

    title, differentiable, bounds = "exact match", False, (0.0, 1.0)

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        target, asked = self.targets(batch)
        return ((logits.argmax(-1) == target) | ~asked).all(-1).to(logits.dtype)


def _pick(values: Tensor, token: Tensor) -> Tensor:
    """(…) the value of each row's token, of (…, vocab)."""
    return values.gather(-1, token.expand(values.shape[:-1])[..., None])[..., 0]


def _of(kind: type[Measure], target: PairBatch | str) -> Measure:
    if isinstance(target, str):
        return kind(target)
    expect("target", target, PairBatch, "a field's name, or the pairs of task.pairs(variable, target)")
    field = target.target
    return kind(field, target.clean.answer[field], target.corrupt.answer[field])


def logit_difference(target: PairBatch | str) -> LogitDifference:
    """Right minus wrong logit: clean minus corrupt answer of a PairBatch, or answer minus mean of a field's other
    values."""
    return _of(LogitDifference, target)


def first_difference(pairs: PairBatch) -> LogitDifference:
    """Clean minus corrupt answer's logit at the first field, in the order of the text, whose two answers differ.

    For answers of many tokens: before that field both completions are alike, so only the prompt can decide it.
    Raises ValueError if no field of a pair differs.
    """
    expect("pairs", pairs, PairBatch, "as task.pairs(variable, target) gives")
    at = torch.stack([pairs.clean.position(field.predict) for field in pairs.clean.fields])
    clean, corrupt = (torch.stack([side.answer[f.name] for f in side.fields]) for side in (pairs.clean, pairs.corrupt))
    where = torch.where(clean != corrupt, at, torch.iinfo(at.dtype).max).min(0)
    if (same := (clean == corrupt).all(0)).any():
        raise ValueError(f"pair {int(same.nonzero()[0])} has the same answers on both sides")
    rows = torch.arange(len(pairs), device=at.device)
    right, wrong = clean[where.indices, rows], corrupt[where.indices, rows]
    return LogitDifference("the first differing answer", right, wrong, where.values)


def probability(target: PairBatch | str) -> Probability:
    """Probability of the (clean) answer."""
    return _of(Probability, target)


def kl(target: PairBatch | str) -> KL:
    """KL(unedited || edited) of the next-token distribution, in nats."""
    return _of(KL, target)


def accuracy(target: PairBatch | str) -> Accuracy:
    """1 where the (clean) answer is the most likely token of the whole vocabulary, else 0."""
    return _of(Accuracy, target)


def log_probability(target: str = COMPLETION) -> LogProbability:
    """Mean log-probability, in nats, of the tokens of the true completion, each with the truth before it. Raises
    ValueError for any other target than "completion"."""
    return LogProbability(_whole("log_probability", target))


def exact_match(target: str = COMPLETION) -> ExactMatch:
    """1 where every token of the true completion is the most likely one, which is when greedy decoding is right. Raises
    ValueError for any other target than "completion"."""
    return ExactMatch(_whole("exact_match", target))


def _whole(name: str, target: object) -> str:
    if target != COMPLETION:
        shown = "a batch of pairs" if isinstance(target, PairBatch) else repr(target)
        one = "probability, accuracy or logit_difference"
        raise ValueError(f"{name} of {shown}: it is measured over the whole {COMPLETION}; for one field take {one}")
    return COMPLETION


METRICS = {"logit_difference": logit_difference, "probability": probability, "kl": kl, "accuracy": accuracy}
