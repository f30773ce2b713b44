"""What an intervention is measured by. A metric maps logits to one number an example: at one field's prediction
position, or over the whole completion."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, expect
from interp_kit.core.pairs import PairBatch

Kind = Literal["logit_difference", "probability", "kl", "accuracy", "log_probability", "exact_match"]
COMPLETION = "completion"


@dataclass(frozen=True, eq=False)
class Metric:
    """One number an example from the logits at `predict`, the position before the field's token; or, for the field
    "completion", from all logits that predict a token of the completion.

    right, wrong: (batch,) token ids; None takes the batch's own answer, and for wrong every other candidate of the
    field. at: (batch,) the index whose logits are read, where it is not the field's own.
    """

    kind: Kind
    field: str
    right: Int[Tensor, " batch"] | None = None
    wrong: Int[Tensor, " batch"] | None = None
    at: Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        expect("field", self.field, str)

    @property
    def name(self) -> str:
        """For tables and axes."""
        return f"{self.kind.replace('_', ' ')} of {self.field}"

    def take(self, rows: Int[Tensor, " row"]) -> "Metric":
        """The metric of these rows of the batch."""
        given = {name: getattr(self, name) for name in ("right", "wrong", "at")}
        return replace(self, **{name: None if value is None else value[rows] for name, value in given.items()})

    def position(self, batch: TokenBatch) -> Int[Tensor, " batch"]:
        """(batch,) the index whose logits are read."""
        return batch.position(batch.field(self.field).predict) if self.at is None else self.at

    def reads(self, batch: TokenBatch) -> Int[Tensor, "batch read"]:
        """(batch, read) the positions whose logits are read; a row with fewer repeats its last."""
        if self.field != COMPLETION:
            return self.position(batch)[:, None]
        first, asked = batch.prompt_length - 1, batch.mask.sum(1) - batch.prompt_length
        if (asked < 1).any():
            raise ValueError(
                f"row {int((asked < 1).nonzero()[0])} of the batch has no completion, over which {self.kind} is"
                " measured; measure one field instead, as by logit_difference or accuracy"
            )
        number = torch.arange(max(1, int(asked.max())), device=first.device)
        return (first[:, None] + number.minimum(asked[:, None] - 1)).clamp(min=0)

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
        reference = None if reference is None else reference.to(logits.dtype)
        if self.field == COMPLETION:
            return self._of_completion(logits, batch)
        here = logits[..., 0, :]
        right = batch.answer[self.field] if self.right is None else self.right
        match self.kind:
            case "logit_difference":
                return _pick(here, right) - self._wrong_logit(here, batch, right)
            case "probability":
                return _pick(here.softmax(-1), right)
            case "accuracy":
                return (here.argmax(-1) == right).to(here.dtype)
            case "kl":
                if reference is None:
                    raise ValueError("kl needs the logits of the unedited run")
                before = reference[:, 0].log_softmax(-1)
                return (before.exp() * (before - here.log_softmax(-1))).sum(-1)
            case _:
                raise ValueError(f"{self.kind} is measured over the {COMPLETION}, not at {self.field!r}")

    def _of_completion(self, logits: Tensor, batch: TokenBatch) -> Tensor:
        at = self.reads(batch)
        target = batch.tokens.gather(1, at + 1)
        count = batch.mask.sum(1) - batch.prompt_length
        asked = torch.arange(at.shape[1], device=at.device) < count[:, None]
        match self.kind:
            case "exact_match":
                return ((logits.argmax(-1) == target) | ~asked).all(-1).to(logits.dtype)
            case "log_probability":
                return (_pick(logits.log_softmax(-1), target) * asked).sum(-1) / count
        raise ValueError(f"{self.kind} is measured at one field, not over the {COMPLETION}")

    def _wrong_logit(self, here: Tensor, batch: TokenBatch, right: Tensor) -> Tensor:
        if self.wrong is not None:
            return _pick(here, self.wrong)
        candidates = torch.tensor(batch.field(self.field).candidates, device=here.device)
        other = candidates[None, :] != right[:, None]
        return (here[..., candidates] * other).sum(-1) / other.sum(-1)


def _pick(values: Tensor, token: Tensor) -> Tensor:
    """(…) the value of each row's token, of (…, vocab)."""
    return values.gather(-1, token.expand(values.shape[:-1])[..., None])[..., 0]


def _metric(kind: Kind, target: PairBatch | str) -> Metric:
    if isinstance(target, str):
        return Metric(kind, target)
    expect("target", target, PairBatch, "a field's name, or the pairs of task.pairs(variable, target)")
    field = target.target
    return Metric(kind, field, target.clean.answer[field], target.corrupt.answer[field])


def logit_difference(target: PairBatch | str) -> Metric:
    """Right minus wrong logit: clean minus corrupt answer of a PairBatch, or answer minus mean of a field's other
    values."""
    return _metric("logit_difference", target)


def first_difference(pairs: PairBatch) -> Metric:
    """Clean minus corrupt answer's logit at the first field, in the order of the text, whose two answers differ.

    For answers of many tokens: before that field both completions are alike, so only the prompt can decide it.
    Raises ValueError where no field of a pair differs.
    """
    expect("pairs", pairs, PairBatch, "as task.pairs(variable, target) gives")
    at = torch.stack([pairs.clean.position(field.predict) for field in pairs.clean.fields])
    clean, corrupt = (torch.stack([side.answer[f.name] for f in side.fields]) for side in (pairs.clean, pairs.corrupt))
    where = torch.where(clean != corrupt, at, torch.iinfo(at.dtype).max).min(0)
    if (same := (clean == corrupt).all(0)).any():
        raise ValueError(f"pair {int(same.nonzero()[0])} has the same answers on both sides")
    rows = torch.arange(len(pairs), device=at.device)
    right, wrong = clean[where.indices, rows], corrupt[where.indices, rows]
    return Metric("logit_difference", "the first differing answer", right, wrong, where.values)


def probability(target: PairBatch | str) -> Metric:
    """Probability of the (clean) answer."""
    return _metric("probability", target)


def kl(target: PairBatch | str) -> Metric:
    """KL(unedited || edited) of the next-token distribution, in nats."""
    return _metric("kl", target)


def accuracy(target: PairBatch | str) -> Metric:
    """1 where the (clean) answer is the most likely token of the whole vocabulary, else 0."""
    return _metric("accuracy", target)


def log_probability(target: str = COMPLETION) -> Metric:
    """Mean log-probability, in nats, of the tokens of the true completion, each with the truth before it. Raises
    ValueError for any other target than "completion"."""
    return _whole("log_probability", target)


def exact_match(target: str = COMPLETION) -> Metric:
    """1 where every token of the true completion is the most likely one, which is when greedy decoding is right. Raises
    ValueError for any other target than "completion"."""
    return _whole("exact_match", target)


def _whole(kind: Kind, target: object) -> Metric:
    if target != COMPLETION:
        shown = "a batch of pairs" if isinstance(target, PairBatch) else repr(target)
        one = "probability, accuracy or logit_difference"
        raise ValueError(f"{kind} of {shown}: it is measured over the whole {COMPLETION}; for one field take {one}")
    return Metric(kind, COMPLETION)


METRICS = {"logit_difference": logit_difference, "probability": probability, "kl": kl, "accuracy": accuracy}
