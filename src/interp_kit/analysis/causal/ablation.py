"""Ablation importance: how much each head and MLP matters, by metric and field (Michel et al. 2019; Chan et al.
2022)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_count, check_flag, check_names, check_seed, listed
from interp_kit.core.own_tokens import row_numbers
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, numbered, shortened
from interp_kit.core.stats.intervals import mean_interval, scope
from interp_kit.core.stats.told import CHANCE, mean_of, out_of, told
from interp_kit.engine.edits import Edit, Mean, Resample, Zero, as_data, output
from interp_kit.engine.inputs import check_fits
from interp_kit.engine.metrics import COMPLETION, Metric, accuracy, exact_match, log_probability, logit_difference
from interp_kit.engine.solved import caveat, counted_solved, said, warn_if_few
from interp_kit.engine.sweep import sweep
from interp_kit.models.circuit import HEAD, MLP
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, initialisation, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import heatmap

Kind = Literal["zero", "mean", "resample"]
Unit = Literal["head", "mlp", "attention", "layer", "neuron"]


@dataclass(frozen=True, kw_only=True)
class AblationResult(AbstractResult):
    """Importance of components: how much of a metric is lost without each.

    component: names ("L0H1", "L2 MLP", "L0N17", "L3"); layer: (component,); fields: what is answered; effect:
    (component, field, batch) unablated minus ablated metric of every example (KL itself for kl), so positive means
    needed; baseline: (field, batch) the unablated metric; config["solved"]: answers (fields of examples, or
    completions) that the unablated model gives correctly, of config["solved_of"].
    """

    leading: ClassVar[str] = "importance"
    component: tuple[str, ...]
    layer: np.ndarray
    fields: tuple[str, ...]
    effect: np.ndarray
    baseline: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Examples behind every figure."""
        return self.effect.shape[-1]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest effect that the metric allows."""
        return tuple(self.config.get("bounds", (-np.inf, np.inf)))

    def importance(self, field: str | None = None, rows: Sequence[int] | None = None) -> np.ndarray:
        """(component,) mean effect on a field, or on all of them; over all examples, or these rows (see `grouped`)."""
        effect = self.effect if rows is None else self.effect[..., self._rows("rows", rows)]
        if field is None:
            return effect.mean((1, 2))
        if field not in self.fields:
            raise ValueError(f"no field {field!r}; there are {listed(self.fields, field)}")
        return effect[:, self.fields.index(field)].mean(-1)

    def to_frame(self) -> pd.DataFrame:
        """One row per component and field: importance with 95 % interval over examples."""
        mean, low, high = mean_interval(self.effect, bounds=self.bounds)
        rows = [
            (c, layer, f, mean[i, j], low[i, j], high[i, j], self.baseline[j].mean(), self.n)
            for i, (c, layer) in enumerate(zip(self.component, self.layer, strict=True))
            for j, f in enumerate(self.fields)
        ]
        return pd.DataFrame(rows, columns=["component", "layer", "field", "importance", "low", "high", "baseline", "n"])

    def to_try(self) -> dict[str, list[dict[str, Any]]]:
        """See AbstractResult: the three heads and MLPs that matter most, knocked out one at a time."""
        source = Mean() if self.config["kind"] == "mean" else Zero()
        ranked = [self.component[i] for i in np.argsort(-self.importance(), kind="stable")]
        named = [name for name in ranked if HEAD.fullmatch(name) or MLP.fullmatch(name)]
        data = {f"knock out {name}": as_data(output(name, source)) for name in named[:3]}
        return {what: [edit] for what, edit in data.items() if edit is not None}

    def grouped(self, groups: Mapping[str, Sequence[int]]) -> pd.DataFrame:
        """One row per component and group of examples (name -> rows), such as the examples of one task: importance on
        all fields with 95 % interval, unablated metric, n. A group of no rows is left out.

        Rows are those of `batch.distinct()`, from 0: examples that repeat an earlier one have none.

        Raises:
            ValueError: A mask in place of rows, a row that there is not, or one that is named twice.
        """
        rows = []
        for name, members in groups.items():
            if len(members) == 0:
                continue
            index = self._rows(f"groups[{name!r}]", members)
            mean, low, high = mean_interval(self.effect[..., index].mean(1), bounds=self.bounds)
            before = float(self.baseline[:, index].mean())
            rows += [
                (c, layer, name, m, lo, hi, before, len(index))
                for c, layer, m, lo, hi in zip(self.component, self.layer, mean, low, high, strict=True)
            ]
        return pd.DataFrame(rows, columns=["component", "layer", "group", "importance", "low", "high", "baseline", "n"])

    def _rows(self, name: str, rows: Sequence[int]) -> list[int]:
        """Rows as indices of examples. Raises ValueError for what is none of them (see `row_numbers`), or twice the
        same."""
        try:
            index = row_numbers(rows, self.n).tolist()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if min(index) < 0 or len(set(index)) < len(index):
            raise ValueError(f"{name} is {shortened(str(rows))}; expected each example once, counted from 0")
        return index

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Loss of {c['metric']} under {c['kind']} ablation of each component of {c['model']}, by field (n ="
            f" {numbered(self.n, 'examples')}{scope(c)}, {said(c, what='', unit='answers')}; 0: not needed,"
            " negative: the field is"
            " better off without it; 95 % intervals in the table)."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the component that matters most, and how many can be told to matter."""
        c, by_example = self.config, self.effect.mean(1)
        clear, best = told(by_example), int(by_example.mean(1).argmax())
        lost = mean_of(by_example[best], "examples", self.bounds)
        over = f" (mean of {', '.join(self.fields)})" if len(self.fields) > 1 else f" of {', '.join(self.fields)}"
        little, under = caveat(c, "", "answers"), f"under {c['kind']} ablation"
        of = "" if c["metric"] == "kl" else f" of {self.baseline.mean():.2f}"
        most = f"the {c['metric']}{over} {{}} by {lost.short()}{of} (n = {numbered(self.n, 'examples')})"
        if (self.effect >= 0).all() and c["metric"] == "kl":
            grows = most.format("grows")
            return (
                f"{little}{c['model']} needs {self.component[best]} most {under}: without it {grows}. KL is never below"
                " 0.",
            )
        if not clear[best] or lost.value <= 0:
            falls = most.format("falls")
            return (
                f"{little}That {c['model']} needs any component {under} {CHANCE}: without {self.component[best]},"
                f" {falls} at most.",
            )
        counts = out_of(int((clear & (by_example.mean(1) > 0)).sum()), len(self.component), "components")
        return (
            f"{little}{c['model']} needs {self.component[best]} most {under}: without it {most.format('falls')}.",
            f"Needed at all {under}, beyond chance: {counts} of {c['model']} (Holm's correction for their number).",
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Components by fields."""
        title = f"{self.config['kind']} ablation, {self.config['model']} (n = {self.n})"
        return heatmap(
            self.effect.mean(-1),
            self.component,
            self.fields,
            ax=ax,
            title=title,
            label=f"loss of {self.config['metric']}",
            signed=True,
            x_label="field",
            y_label="component",
        )


@on_model(causal=False)
def ablate(
    model: HookedModel,
    batch: TokenBatch,
    *,
    kind: Kind = "mean",
    units: Sequence[Unit] = ("head", "mlp"),
    fields: Sequence[str] | None = None,
    metric: Callable[[str], Metric] = logit_difference,
    resamples: int = 8,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> AblationResult:
    """Remove each head, MLP, neuron or whole layer in turn and measure what every field loses.

    Args:
        model: Any model.
        batch: Examples that ask for an answer; repeated ones count once.
        kind: "zero"; "mean" over the batch at each named position; "resample" from another example of the batch,
            averaged over `resamples` draws. Removal is at every position.
        units: Kinds of component. Attention is all heads of a layer, a layer its heads and its MLP together, a neuron
            one of those of an MLP, after its nonlinearity.
        fields: Names; None: all that the batch asks for.
        metric: Of each field; or `exact_match` or `log_probability` of the whole completion, then the only field.
        resamples: Draws of kind "resample".
        seed: Of these draws.
        progress: Whether to show a bar.

    Returns:
        Effect per component, field and example.

    Warns:
        UserWarning: The unedited model gives fewer than half of the answers correctly.

    Raises:
        ValueError: A kind, unit or field is unknown.
    """
    check_meeting(model, batch, TokenBatch)
    if not batch.fields:
        raise ValueError("the batch asks for no answer, so there is nothing to lose; give from_tokens(answer=…)")
    check_choice("kind", kind, get_args(Kind))
    for unit in check_names("units", units):
        check_choice("units", unit, get_args(Unit))
    check_count("resamples", resamples)
    check_seed(seed)
    check_flag("progress", progress)
    if metric in (exact_match, log_probability):
        if fields is not None:
            raise ValueError(f"fields is {list(fields)}, and {metric.__name__} is measured over the whole completion")
        names, metrics, right = [COMPLETION], [metric(COMPLETION)], [exact_match(COMPLETION)]
    else:
        names = list(check_names("fields", [field.name for field in batch.fields] if fields is None else fields))
        metrics = [metric(batch.field(name).name) for name in names]
        right = [accuracy(name) for name in names]
    check_fits(batch.tokens, model.cfg.n_ctx, model.cfg.d_vocab)
    batch = batch.distinct()
    draws = (
        [Resample(seed + i) for i in range(resamples)] if kind == "resample" else [Zero() if kind == "zero" else Mean()]
    )
    components = [c for unit in units for c in _components(model, unit)]
    edits = [[replace(part, source=draw) for part in parts] for _, parts in components for draw in draws]
    swept = sweep(model, batch, edits, metrics, unedited=right, progress=progress)
    assert swept.unedited is not None
    ablated = swept.values.reshape(len(components), len(draws), len(names), len(batch)).mean(1)
    is_distance = metrics[0].is_distance
    result = AblationResult(
        component=tuple(name for name, _ in components),
        layer=np.array([parts[0].layer for _, parts in components]),
        fields=tuple(names),
        effect=ablated if is_distance else swept.baseline[None] - ablated,
        baseline=swept.baseline,
        config={
            "analysis": "ablate",
            "model": model_name(model),
            "initialisation": initialisation(model),
            "task": batch.task,
            "whole": batch.whole,
            "kind": kind,
            "metric": metrics[0].title,
            "bounds": metrics[0].effect_bounds(),
            "seed": seed,
            "resamples": len(draws),
            **counted_solved(swept.unedited == 1),
        },
    )
    warn_if_few(result.config, "", "answers")
    return result


def _components(model: HookedModel, unit: Unit) -> list[tuple[str, list[Edit]]]:
    """(name, its parts with no source yet) of every component of one kind."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    with_mlp = () if getattr(model.cfg, "attn_only", False) else layers
    match unit:
        case "head":
            return [(f"L{la}H{he}", [Edit("z", la, head=he)]) for la in layers for he in heads]
        case "mlp":
            return [(f"L{la} MLP", [Edit("mlp_out", la)]) for la in with_mlp]
        case "neuron":
            return [(f"L{la}N{n}", [Edit("mlp_post", la, neuron=n)]) for la in with_mlp for n in range(model.cfg.d_mlp)]
        case "attention":
            return [(f"L{la} attention", [Edit("z", la)]) for la in layers]
        case "layer":
            mlp = {la: [Edit("mlp_out", la)] for la in with_mlp}
            return [(f"L{la}", [Edit("z", la), *mlp.get(la, [])]) for la in layers]
    raise ValueError(f"no unit {unit!r}; there are {', '.join(get_args(Unit))}")
