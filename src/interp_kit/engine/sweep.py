"""The intervention engine: any number of edits on one batch, each measured by any number of metrics.

Patching, ablation, steering and interchange are thin layers over `sweep`. Edits of activations run through
TransformerLens hooks, edits of weights on the parameters, which are put back whatever happens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, expect
from interp_kit.core.showing import PROGRESS, ROWS, bar, counted, line, preview
from interp_kit.core.stats.intervals import mean_estimate, mean_interval
from interp_kit.engine.apply import NOT_FINITE, Engine
from interp_kit.engine.edit_checks import check_edits
from interp_kit.engine.edits import Edit, as_group
from interp_kit.engine.fast.batched import logits_under
from interp_kit.engine.fast.forward import INSIDE, TOLERANCE, Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.fast.plan import Suffix
from interp_kit.engine.inputs import whole_text
from interp_kit.engine.metrics import Metric
from interp_kit.engine.weight_edits import applied
from interp_kit.models.following import Moved
from interp_kit.models.hold import device_of, held, on_model, plain, using
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting

if TYPE_CHECKING:
    import pandas as pd

MEMORY = 2**29
TOGETHER = 64  # edits by hooks whose values go to the host at once
COMPARED = 2  # rows of a batch on which the plain run is held against the model itself


@dataclass(frozen=True)
class SweepValues:
    """Values that `sweep` measured: read them by `.values`, or as a table by `.to_frame()`.

    values: (edit, metric, batch) under each edit; baseline: (metric, batch) unedited; by_hooks: how many edits ran
    through TransformerLens hooks, and why ("" where none did); other: (metric, row) unedited, on the other batch that
    was asked for, if any; unedited, unedited_other: (metric, row) of what the unedited runs alone were asked for;
    metrics: what was measured."""

    values: np.ndarray
    baseline: np.ndarray
    by_hooks: int = 0
    why: str = ""
    other: np.ndarray | None = None
    unedited: np.ndarray | None = None
    unedited_other: np.ndarray | None = None
    metrics: tuple[Metric, ...] = ()

    def __repr__(self) -> str:
        sizes = zip(self.values.shape, ("edit", "metric", "example"), strict=True)
        return line(
            "SweepValues",
            *(counted(n, what) for n, what in sizes),
            f"{self.by_hooks:,} by hooks" if self.by_hooks else "",
            "see .values, .to_frame()",
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per edit and metric: the edit's number as it was given, the metric's name, the mean under the edit
        and that of the unedited run with 95 % intervals over examples, n examples. A text that the batch
        repeats counts each time. Without edits there is no row: see `.baseline`."""
        import pandas as pd

        edited = [self._mean(j, self.values[:, j]) for j in range(len(self.baseline))]
        before = [self._mean(j, self.baseline[j][None]) for j in range(len(self.baseline))]
        rows = [
            (i, name, *(float(part[i]) for part in edited[j]), *(float(part[0]) for part in before[j]))
            for i in range(len(self.values))
            for j, name in enumerate(self._names())
        ]
        columns = ["edit", "metric", "mean", "low", "high", "unedited", "unedited_low", "unedited_high"]
        return pd.DataFrame(rows, columns=columns).assign(n=self.values.shape[2])

    def _names(self) -> list[str]:
        return [metric.name for metric in self.metrics] or [str(j) for j in range(len(self.baseline))]

    def _mean(self, number: int, values: np.ndarray) -> tuple[np.ndarray, ...]:
        """Mean, low, high (edit,) of values (edit, batch) of one metric; of shares the exact interval, where there is
        one."""
        bounds = self.metrics[number].bounds if self.metrics else (-np.inf, np.inf)
        if bounds == (0.0, 1.0) and np.isfinite(values).all():
            found = [mean_estimate(row, "examples", bounds) for row in values]
            return tuple(np.array([[e.value, e.low, e.high] for e in found]).reshape(-1, 3).T)
        return mean_interval(values, "examples", bounds)

    def _repr_html_(self) -> str:
        edits, names = range(len(self.values)), self._names()
        rows = [
            (i, name, float(self.values[i, j].mean()), float(self.baseline[j].mean()), self.values.shape[2])
            for i in edits[:ROWS]
            for j, name in enumerate(names)
        ]
        columns = ("edit", "metric", "mean", "unedited", "n")
        shown = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
        return preview(repr(self), shown, len(edits) * len(names))


@on_model(causal=False)
def sweep(
    model: HookedModel,
    batch: TokenBatch,
    edits: Edit | Sequence[Edit | Sequence[Edit]],
    metrics: Metric | Sequence[Metric],
    *,
    memory: int = MEMORY,
    other: TokenBatch | None = None,
    unedited: Sequence[Metric] = (),
    unedited_other: Sequence[Metric] = (),
    progress: bool = PROGRESS,
) -> SweepValues:
    """Run `batch` under each edit (or group of edits applied together) and measure every example.

    Edits run together in plain torch (`engine/fast/plan.py`), after its unedited logits were compared with the model's.
    Edits of weights and by sender go through hooks, one by one; so do all edits of a model that the executor does not
    compute.

    Args:
        model: Any model.
        batch: Examples.
        edits: One edit, or several; a list among them is made together.
        metrics: What is measured on every example.
        memory: Bytes that a batch of edits may take, beside the model, one unedited run, the edits and the values.
        other: A batch whose unedited metrics are wanted too, such as the one copied from: one run then serves both.
        unedited: Metrics of the unedited run alone; nothing is run for those that read where another metric does.
        unedited_other: The same on `other`.
        progress: Whether to show a bar.

    Returns:
        (edit, metric, example) values, and those of the unedited run.

    Raises:
        ValueError: Before anything runs, if an edit does not fit the model or the batch.
        FloatingPointError: The unedited model gives nan or inf.
    """
    check_meeting(model, batch, TokenBatch)
    metrics = [metrics] if isinstance(metrics, Metric) else list(metrics)
    if not metrics:
        raise ValueError("metrics is empty; name at least one")
    for metric in (*metrics, *unedited, *unedited_other):
        expect("a metric", metric, Metric, "as interp_kit.logit_difference(pairs) gives")
    check_count("memory", memory)
    check_flag("progress", progress)
    if other is not None:
        check_meeting(model, other, TokenBatch)
    edits = [edits] if isinstance(edits, Edit) else edits
    groups = [as_group(one) for one in edits]
    check_edits(model, batch, groups)
    hooked = np.array([any(edit.needs_hooks for edit in group) for group in groups], dtype=bool)
    why = "weights or senders are edited" if hooked.any() else ""
    parts = [metric.reads(batch) for metric in metrics]
    reads = torch.cat(parts, 1)
    with bar(len(groups), "edits", progress) as shown, torch.inference_mode():
        hidden = None
        try:
            inside = any(edit.site in INSIDE for group in groups for edit in group)
            engine, suffix = _plain(model, batch, reads, inside)
        except Unsupported as reason:
            engine, suffix, hooked[:], why = Engine(model, batch), None, True, str(reason)
        before = engine.logits[engine.rows[:, None], reads] if suffix is None else suffix.logits
        baseline = _measure(metrics, parts, batch, before, before)
        values = baseline.expand(len(groups), -1, -1).clone()
        if suffix is not None:
            fast = np.flatnonzero(~hooked)
            there = None if other is None else torch.cat([metric.reads(other) for metric in metrics], 1)
            hidden = engine.references.harvest((groups[i] for i in fast.tolist()), other, there)
            entries = suffix.entries(groups[i] for i in fast.tolist())
            shown.update(len(fast) - int((entries.start >= 0).sum()))
            for chunk in suffix.chunks(entries, memory):
                logits = logits_under(suffix, [groups[i] for i in fast[chunk].tolist()])
                values[fast[chunk]] = _measure(metrics, parts, batch, logits, before).transpose(0, 1)
                shown.update(len(chunk))
        for some in _parts(np.flatnonzero(hooked).tolist()):
            found = []
            for i in some:
                logits = engine.run(groups[i])[engine.rows[:, None], reads]
                found.append(_measured(metrics, parts, batch, logits, before))
                shown.update()
            values[some] = torch.stack(found).cpu()
        beside, more = None, None
        if other is not None:
            beside, more = _unedited(model, other, metrics, hidden, suffix, unedited_other)
        own = _alone(model, batch, unedited, parts, before)
    return SweepValues(values.numpy(), baseline.numpy(), int(hooked.sum()), why, beside, own, more, tuple(metrics))


def _parts(numbers: list[int]) -> Iterator[list[int]]:
    """TOGETHER at a time."""
    for start in range(0, len(numbers), TOGETHER):
        yield numbers[start : start + TOGETHER]


def _unedited(
    model: HookedModel,
    batch: TokenBatch,
    metrics: Sequence[Metric],
    hidden: Tensor | None,
    suffix: Suffix | None,
    alone: Sequence[Metric],
) -> tuple[np.ndarray, np.ndarray]:
    """(metric, row) of another batch, of `metrics` and of `alone`, from the residual stream after its last block where
    metrics read it, by the model itself where that is None. Raises FloatingPointError if it is not finite."""
    parts = [metric.reads(batch) for metric in metrics]
    if hidden is None or suffix is None:
        rows = torch.arange(len(batch), device=batch.tokens.device)[:, None]
        logits = Engine(model, batch).logits[rows, torch.cat(parts, 1)]
    else:
        logits = suffix.x.read_out(hidden)
        if not (hidden.isfinite().all() and logits.isfinite().all()):
            raise FloatingPointError(NOT_FINITE)
    return _measure(metrics, parts, batch, logits, logits).numpy(), _alone(model, batch, alone, parts, logits)


def _alone(
    model: HookedModel, batch: TokenBatch, wanted: Sequence[Metric], parts: Sequence[Tensor], logits: Tensor
) -> np.ndarray:
    """(metric, row) of the unedited run: from its logits at all `parts`, one after the other, if they are there."""
    ends, found = np.cumsum([part.shape[1] for part in parts]).tolist(), np.empty((len(wanted), len(batch)))
    for i, metric in enumerate(wanted):
        reads = metric.reads(batch)
        there = [end for part, end in zip(parts, ends, strict=True) if torch.equal(part, reads)]
        if there:
            here = logits[:, there[0] - reads.shape[1] : there[0]]
            found[i] = metric.measure(here, batch, here).float().cpu().numpy()
        else:
            found[i] = sweep(model, batch, [], metric).baseline[0]
    return found


def _measure(
    metrics: Sequence[Metric], parts: Sequence[Tensor], batch: TokenBatch, logits: Tensor, before: Tensor
) -> Tensor:
    """`_measured`, on the host."""
    return _measured(metrics, parts, batch, logits, before).cpu()


def _measured(
    metrics: Sequence[Metric], parts: Sequence[Tensor], batch: TokenBatch, logits: Tensor, before: Tensor
) -> Tensor:
    """(metric, …, batch) from the logits (…, batch, read, vocab) at all that the metrics read, one after the other."""
    found, at = [], 0
    for metric, part in zip(metrics, parts, strict=True):
        here = slice(at, at + part.shape[1])
        found.append(metric.measure(logits[..., here, :], batch, before[:, here]).float())
        at += part.shape[1]
    return torch.stack(found)


def _plain(model: HookedModel, batch: TokenBatch, reads: Tensor, inside: bool) -> tuple[Engine, Suffix]:
    """The unedited run in plain torch, and an engine whose references come from there too. Raises Unsupported if its
    logits are not the model's own on the first rows, FloatingPointError where they are not finite."""
    executor = Executor(model, compare=False)
    engine = Engine(model, batch, executor)
    suffix = Suffix(executor, batch, reads, engine.references.new_value, inside=inside)
    few = slice(0, COMPARED)
    expected = whole_text(model, batch.tokens[few])[engine.rows[few, None], reads[few]]
    difference = float((suffix.logits[few] - expected).abs().max())
    if expected.isfinite().all() and not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise Unsupported(f"logits on this batch differ from the model's by {difference:.1e}")
    if not suffix.finite():
        raise FloatingPointError(NOT_FINITE)
    return engine, suffix


@contextlib.contextmanager
def editing(model: HookedModel, batch: TokenBatch, edits: Edit | Sequence[Edit]) -> Iterator[HookedModel]:
    """The model with edits active inside the `with` block, for decoding or anything else that calls it.

    Positions are those of `batch`; a call on a longer text of the same rows edits the same positions. No other thread
    can use the model through this package until the block ends. Raises RuntimeError if another thread has such a
    block open, and ValueError for an edit that does not fit, or a model behind torch.compile.
    """
    check_meeting(model, batch, TokenBatch)
    group = as_group(edits)
    if plain(model) is not model:
        raise ValueError(
            "the model is compiled, and compiled code does not see edits: give model._orig_mod, and call that"
        )
    with held(model, block=True):
        if (device := device_of(model)) is not None:
            moved = Moved(device)
            batch, group = moved(batch), moved(group)
        with using(model, causal=False), torch.no_grad():  # not inference_mode: the caller may want gradients
            check_edits(model, batch, [group])
            hooks = Engine(model, batch).hooks(group)
        with applied(model, group, hooks):
            yield model
