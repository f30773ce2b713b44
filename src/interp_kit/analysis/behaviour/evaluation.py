"""Answers that a model writes freely: exact match and accuracy by field, beside baselines that know no rule.

Inputs of the training data and inputs left out of it are counted apart: on the first memory is enough. The baselines
read the seen inputs alone, by field: their majority, and a lookup table that takes the nearest seen input (Hamming).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from interp_kit.analysis.behaviour.baselines import majority, nearest
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, listed
from interp_kit.core.example import Example
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, bar, numbered
from interp_kit.core.stats.intervals import Estimate, of_all, scope, wilson
from interp_kit.core.task import AbstractTask
from interp_kit.engine.decode import complete
from interp_kit.engine.inputs import check_length, has_hooks, taught, whole_text
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, initialisation, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import intervals

EXACT = "exact match"
SEEN, HELD_OUT = "seen", "held-out"
GIVEN = "given"  # examples of which nothing says whether the model was trained on them
LAYOUT = 0.05  # of the inputs: if more have every field right and another token wrong, findings say which


@dataclass(frozen=True, kw_only=True)
class EvaluationResult(AbstractResult):
    """Correctness of a model's answer per distinct input, and that of the baselines.

    fields: what is answered; inputs: (input, variable) the values of the task's inputs; held_out: (input,) True where
    it was left out of training; exact: (input,) the greedy completion equals the true one token by token, from
    after the prompt to end-of-text, all fields and everything between them included; right: (input, field) the token
    written at the field's position is that of the true value; majority, lookup: (input, field) the baseline is right.
    """

    fields: tuple[str, ...]
    inputs: np.ndarray
    held_out: np.ndarray
    exact: np.ndarray
    right: np.ndarray
    majority: np.ndarray
    lookup: np.ndarray
    config: Mapping[str, object]

    @property
    def splits(self) -> tuple[str, ...]:
        """("seen", "held-out") where inputs were left out of training, ("seen",) for all inputs that the task has; else
        ("given",), as nothing says what was trained on."""
        if self.held_out.any():
            return (SEEN, HELD_OUT)
        return (GIVEN,) if self.config.get("given") else (SEEN,)

    def estimate(self, split: str | None = None, field: str = EXACT) -> Estimate:
        """The model's share of right inputs with Wilson's interval, by default of the first split. Raises ValueError
        for an unknown split or field."""
        split = self.splits[0] if split is None else split
        hits = self._hits(self.exact, self.right, split, field)
        return wilson(int(hits.sum()), len(hits), of_all("inputs", bool(self.config.get("whole"))))

    def baseline(self, name: str, split: str | None = None, field: str = EXACT) -> float:
        """The share of right inputs of "majority" or "lookup", by default of the first split; its exact match is every
        field right. Of given examples a lookup is nan: it would find each of them in itself."""
        split = self.splits[0] if split is None else split
        if name not in ("majority", "lookup"):
            raise ValueError(f"no baseline {name!r}; there are majority, lookup")
        right: np.ndarray = getattr(self, name)
        if (name, split) == ("lookup", GIVEN) and split in self.splits:
            return float("nan")
        return float(self._hits(np.all(right, axis=1), right, split, field).mean())

    def _hits(self, exact: np.ndarray, right: np.ndarray, split: str, field: str) -> np.ndarray:
        if split not in self.splits:
            raise ValueError(f"no split {split!r}; there are {', '.join(self.splits)}")
        if field not in (EXACT, *self.fields):
            raise ValueError(f"no field {field!r}; there are {listed((EXACT, *self.fields), field)}")
        hits = exact if field == EXACT else right[:, self.fields.index(field)]
        return hits[self.held_out == (split == HELD_OUT)]

    def to_frame(self) -> pd.DataFrame:
        """One row per split and field: the model's accuracy with Wilson's interval over inputs, n, both baselines."""
        rows = []
        for split in self.splits:
            for field in (EXACT, *self.fields):
                e = self.estimate(split, field)
                both = [self.baseline(name, split, field) for name in ("majority", "lookup")]
                rows.append((split, field, e.value, e.low, e.high, e.n, *both))
        return pd.DataFrame(rows, columns=["split", "field", "value", "low", "high", "n", "majority", "lookup"])

    def __str__(self) -> str:
        lines = []
        for row in self.to_frame().to_dict("records"):
            if row["field"] == EXACT:
                lines.append(f"{row['split'] + ' inputs':<18}{'model':<20}{'majority':<10}lookup    n")
            model = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            lookup = "" if np.isnan(row["lookup"]) else f"{row['lookup']:.2f}"
            lines.append(f"  {row['field']:<16}{model:<20}{row['majority']:<10.2f}{lookup:<10}{row['n']}")
        return "\n".join(lines)

    def caption(self) -> str:
        """See AbstractResult."""
        n = " and ".join(f"{self.estimate(split).n} {split}" for split in self.splits)
        inputs = "input" if len(self.exact) == 1 else "inputs"
        beside = "baselines that know the seen inputs alone: their majority by field, and a lookup table that answers"
        beside += " with the nearest (of a seen input, itself)"
        if self.splits == (GIVEN,):
            beside = "the majority answer by field. Nothing says which of them it was trained on"
        return (
            f"Exact match and accuracy by field of {self.config['model']}, completions written greedily (n ="
            f" {n} distinct {inputs}{scope(self.config)}; 95 % Wilson intervals over inputs), beside"
            f" {beside}."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: by split, the share of inputs that are answered, beside what knows no rule. If many texts
        are wrong outside of the fields, those with every field right are counted, and what fails is named."""
        found = []
        for split in self.splits:
            share, rival = self.estimate(split), "lookup" if split == HELD_OUT else "majority"
            named = self.config.get("failing")
            failing = named.get(split) if isinstance(named, Mapping) else None
            if failing:
                here = self.held_out == (split == HELD_OUT)
                share = wilson(int(self.right[here].all(1).sum()), share.n, share.unit)
            other = self.baseline(rival, split)
            name = "the majority answer" if rival == "majority" else "a lookup of the nearest seen input"
            how = "with every field right" if failing else "wholly right"
            text = f"{self.config['model']} answers {share.short()} of {numbered(share.n, f'{split} inputs')} {how}"
            if share.low > other:
                text += f", more than {name} ({other:.2f})."
            elif share.high < other:
                text += f", less than {name} ({other:.2f})."
            else:
                text += f", which cannot be told from {name} ({other:.2f})."
            found.append(text if not failing else f"{text} Exact match is {self.estimate(split).short()}: {failing}.")
        return tuple(found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Exact match and every field, the model by split, the baselines on the last split."""
        names, last, nan = (EXACT, *self.fields), self.splits[-1], np.full(1 + len(self.fields), np.nan)
        series = {}
        for split in self.splits:
            found = [self.estimate(split, name) for name in names]
            series[f"model, {split} (n = {found[0].n})"] = columns(found)
        for baseline in ("lookup", "majority") if last == HELD_OUT else ("majority",):
            values = np.array([self.baseline(baseline, last, name) for name in names])
            series[f"{baseline}, {last}"] = (values, nan, nan)
        title = f"Right answers of {self.config['model']}"
        return intervals(names, series, ax=ax, title=title, x_label="share of inputs", limits=(-0.02, 1.02))


def _failing(task: AbstractTask, written: Sequence[Sequence[int]], examples: Sequence[Example]) -> str:
    """Name what fails most often of completions whose fields are all right, at the first token that is wrong."""
    places: Counter[tuple[str, int, bool]] = Counter()
    instead: dict[tuple[str, int, bool], Counter[int]] = {}
    for row, example in zip(written, examples, strict=True):
        at = next(i for i, (mine, true) in enumerate(zip(row, example.tokens, strict=True)) if mine != true)
        name = next((name for name, index in example.positions.items() if index == at), str(at))
        place = name, example.tokens[at], at == len(example.tokens) - 1 and example.tokens[at] == task.pad
        places[place] += 1
        instead.setdefault(place, Counter())[row[at]] += 1
    place, n = places.most_common(1)[0]
    (name, true, end), mine = place, instead[place].most_common(1)[0][0]
    what = "the end token" if end else "the token"
    hint = "; leave the end token out of the task's examples if the model never learned one" if end else ""
    texts = task.vocabulary
    return (
        f"{what} {texts[true]!r} at {name!r} is the first wrong one in {n} of {len(examples)} texts whose fields are"
        f" all right ({texts[mine]!r} stands there most often){hint}"
    )


def columns(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, lower and upper ends, as figures take them."""
    value, low, high = np.array([(e.value, e.low, e.high) for e in estimates]).T
    return value, low, high


def parse_fields(task: AbstractTask, tokens_row: Sequence[int] | Tensor, example: Example) -> dict[str, int | None]:
    """Field -> the value that a generated row (pos,) writes where the example's text has the field, None where the
    token there is no value of the field. Raises ValueError if the example or the row has no such position."""
    row = [int(token) for token in tokens_row]
    values: dict[str, int | None] = {}
    for field in task.fields:
        at = example.positions.get(field.predict, len(row)) + 1
        if at >= len(row):
            raise ValueError(f"{example.text!r}: no token is written for {field.name} in a row of {len(row)} tokens")
        values[field.name] = dict(zip(field.candidates, field.values, strict=True)).get(row[at])
    return values


@on_model()
def completions(
    model: HookedModel,
    task: AbstractTask,
    examples: Sequence[Example],
    batch_size: int = 256,
    *,
    progress: bool = PROGRESS,
) -> list[list[int]]:
    """Each example's prompt with the model's own greedy completion, as many tokens as the example has.

    Raises ValueError if the texts do not fit the model's context or its vocabulary is not the task's;
    FloatingPointError where the model gives nan or infinite logits.
    """
    check_meeting(model, task, AbstractTask)
    if model.cfg.d_vocab != len(task.vocabulary):
        sizes = f"{model_name(model)} has {model.cfg.d_vocab} tokens, {task.name} has {len(task.vocabulary)}"
        raise ValueError(f"{sizes}: token ids do not mean the same")
    check_length(max(len(example.tokens) for example in examples), model.cfg.n_ctx)
    written: list[list[int]] = []
    with bar(len(examples), "examples", progress) as shown:
        for start in range(0, len(examples), batch_size):
            chunk = examples[start : start + batch_size]
            batch = task.batch(chunk, model.cfg.device)
            with torch.inference_mode():
                logits = whole_text(model, batch.tokens)
                if not torch.isfinite(logits[batch.mask]).all():
                    raise FloatingPointError(f"{model_name(model)} gives nan or infinite logits on {task.name} texts")
                wrong = (logits[:, :-1].argmax(-1) != batch.tokens[:, 1:]) & taught(batch)[:, :-1]
            rows = _written(model, batch, wrong.any(1))
            written += [row[: len(example.tokens)] for row, example in zip(rows, chunk, strict=True)]
            shown.update(len(chunk))
    return written


def _written(model: HookedModel, batch: TokenBatch, wrong: Tensor) -> list[list[int]]:
    """The completed rows, of which those that are not `wrong` (batch,) predict their own true text token by token, and
    so would write it. All are written if something is hooked into the model, which may tell rows apart."""
    if not isinstance(model, nn.Module) or has_hooks(model):
        return complete(model, batch).tolist()
    rows = batch.tokens.clone()
    if wrong.any():
        rows[wrong] = complete(model, batch.take(wrong.nonzero()[:, 0]))
    return rows.tolist()


def _values(task: AbstractTask, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(example, input) and (example, field) true values."""
    names = (task.inputs, [field.name for field in task.fields])
    inputs, truth = (np.array([[example.labels[name] for name in each] for example in examples]) for each in names)
    return inputs, truth


@on_model()
def evaluate(
    model: HookedModel,
    task: AbstractTask,
    *,
    omitted: Sequence[Example] = (),
    examples: Sequence[Example] | None = None,
    known: Sequence[Example] | None = None,
    batch_size: int = 256,
    progress: bool = PROGRESS,
) -> EvaluationResult:
    """Let the model complete every distinct input, and count inputs left out of training apart.

    Args:
        model: Any model that learned the task.
        task: Gives the inputs and the right answers.
        omitted: Examples left out of training.
        examples: Examples to evaluate, joined with `omitted`, repeats dropped. None: every input of the task.
        known: Examples seen in training, which the baselines know, if `examples` are a sample of them. None: those
            evaluated that are not omitted.
        batch_size: Texts per forward pass.
        progress: Whether to show a bar.

    Returns:
        Exact match and accuracy per field with Wilson's interval, beside both baselines.

    Raises:
        ValueError: There are no examples, none of them was seen, an omitted one is known, or the task has too many to
            list; and as `completions` does.
    """
    check_meeting(model, task, AbstractTask)
    check_count("batch_size", batch_size)
    check_flag("progress", progress)
    everything = task.enumerate() if examples is None else examples
    distinct = list({example.tokens: example for example in (*everything, *omitted)}.values())
    if not distinct:
        raise ValueError(f"no examples of {task.name} to evaluate")
    left_out = {example.tokens for example in omitted}
    held_out = np.array([example.tokens in left_out for example in distinct])
    if held_out.all():
        raise ValueError(f"all {len(distinct)} examples are omitted ones: there are no seen inputs to compare with")
    table = [example for example in distinct if example.tokens not in left_out] if known is None else known
    if not table or any(example.tokens in left_out for example in table):
        raise ValueError(
            f"known holds {'an omitted example' if table else 'no example'}; expected those seen in training"
        )
    written = completions(model, task, distinct, batch_size, progress=progress)
    (inputs, truth), (seen_inputs, seen_truth) = (_values(task, chosen) for chosen in (distinct, table))
    pairs = list(zip(written, distinct, strict=True))
    exact = np.array([tuple(row) == example.tokens for row, example in pairs])
    found = np.array([list(parse_fields(task, row, example).values()) for row, example in pairs], dtype=object)
    right, failing = (found == truth).astype(bool), {}
    whole = len(distinct) == task.n_worlds
    given = examples is not None and known is None and not omitted and not whole
    for split, here in ((GIVEN if given else SEEN, ~held_out), (HELD_OUT, held_out)):
        rows = np.flatnonzero(here & right.all(1) & ~exact).tolist()
        if len(rows) > LAYOUT * here.sum():
            failing[split] = _failing(task, [written[i] for i in rows], [distinct[i] for i in rows])
    return EvaluationResult(
        fields=tuple(field.name for field in task.fields),
        inputs=inputs,
        held_out=held_out,
        exact=exact,
        right=right,
        majority=truth == majority(seen_truth),
        lookup=truth == nearest(seen_inputs, seen_truth, inputs),
        config={
            "analysis": "evaluate",
            "model": model_name(model),
            "initialisation": initialisation(model),
            "task": task.name,
            "whole": whole,
            "given": given,
            "seen": int((~held_out).sum()),
            "held_out": int(held_out.sum()),
            "failing": failing,
        },
    )
