"""Changes between two models that share a start: where the weights moved, and which parts carry the behaviour.

Weights that moved far may do nothing, and a small change may do all of it; so each part of the one model is put into
the other, alone, and the metric is measured again (as Prakash et al. 2024, "Fine-tuning enhances existing mechanisms",
patch activations between a model and its fine-tuned self; here it is the weights that are exchanged).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_flag
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, numbered
from interp_kit.core.stats.intervals import mean_interval, scope
from interp_kit.core.stats.told import CHANCE, mean_of, out_of, told
from interp_kit.engine.edits import Edit, Set
from interp_kit.engine.inputs import check_fits
from interp_kit.engine.metrics import COMPLETION, Metric, exact_match
from interp_kit.engine.sites import WEIGHTS
from interp_kit.engine.sweep import sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, initialisation, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import intervals

HEAD = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")
MLP = ("W_in", "b_in", "W_out", "b_out")
NORMS = ("ln1_w", "ln1_b", "ln2_w", "ln2_b")
ENDS = ("W_E", "W_pos", "W_U", "b_U", "ln_final_w", "ln_final_b")
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ModelDiffResult(AbstractResult):
    """Effect of each part of `donor` when it is put into `receiver`.

    component: the parts ("L0H1", "L0 MLP", "L0 rest": output bias and layer norms; "embeddings"; "unembedding" with the
    final layer norm), and "all" of them together; layer: (component,) -1 where there is none; distance: (component,)
    norm of the difference of its weights over the norm of the receiver's; effect: (component, batch) metric of the
    receiver with these weights of the donor, minus its own; receiver, donor: (batch,) metric of the two models.
    """

    leading: ClassVar[str] = "effect"
    component: tuple[str, ...]
    layer: np.ndarray
    distance: np.ndarray
    effect: np.ndarray
    receiver: np.ndarray
    donor: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Examples behind every figure."""
        return self.effect.shape[-1]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest effect that the metric allows."""
        return tuple(self.config.get("bounds", (-np.inf, np.inf)))

    def to_frame(self) -> pd.DataFrame:
        """One row per component: relative distance of its weights, effect of putting it in with 95 % interval."""
        effect, low, high = mean_interval(self.effect, bounds=self.bounds)
        frame = pd.DataFrame({"component": self.component, "layer": self.layer, "distance": self.distance})
        frame = frame.assign(effect=effect, low=low, high=high)
        return frame.assign(receiver=self.receiver.mean(), donor=self.donor.mean(), n=self.n)

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Change of {c['metric']} when one part of {c['receiver']} gets the weights of {c['donor']} (n = {self.n}"
            f" examples{scope(c)}; 95 % intervals). 0: the part alone changes nothing. {ALL!r} is the whole difference"
            f" between the two models, {self.receiver.mean():.2f} and {self.donor.mean():.2f}: the parts need not add"
            " up to it. Control: two models that learned the same from the same start, in another order of data."
        )

    def heading(self) -> str:
        """See AbstractResult."""
        return f"diff_models: {self.config['donor']} into {self.config['receiver']}"

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the whole difference, and the part that alone makes most of it."""
        c, parts = self.config, self.effect[:-1]
        whole, clear = mean_of(self.effect[-1], "examples", self.bounds), told(parts)
        best = int(np.abs(parts.mean(1)).argmax())
        one = f"{self.component[best]} by {mean_of(parts[best], 'examples', self.bounds).short()}"
        total = f"{whole.short()} (n = {numbered(self.n, 'examples')})"
        first = (
            f"All weights of {c['donor']} change the {c['metric']} of {c['receiver']} by {total}."
            if told(self.effect[-1:])[0]
            else f"{c['donor']} and {c['receiver']} differ in {c['metric']} by {total}, which {CHANCE}."
        )
        if not clear.any():
            return first, f"No part alone can be told from no change; the largest is {one}."
        counts = out_of(int(clear.sum()), len(parts), "parts")
        return first, f"The part that alone changes most is {one}; told from no change: {counts} (Holm's correction)."

    def plot(self, ax: Axes | None = None) -> Axes:
        """Each part's effect with its interval."""
        title = f"{self.config['donor']} into {self.config['receiver']} (n = {self.n})"
        label = f"change of {self.config['metric']}"
        shown = {label: mean_interval(self.effect, bounds=self.bounds)}
        return intervals(self.component, shown, ax=ax, title=title, x_label=label, reference={"no change": 0.0})


@on_model("receiver", "donor", causal=False)
def diff_models(
    receiver: HookedModel,
    donor: HookedModel,
    batch: TokenBatch,
    *,
    metric: Callable[[str], Metric] = exact_match,
    progress: bool = PROGRESS,
) -> ModelDiffResult:
    """Put each part of one model into another that shares its start, and measure what changes.

    Args:
        receiver: The model that is measured, as it is after the call too.
        donor: Of the same shape and start, such as another fine-tuning of one checkpoint.
        batch: Examples, of which repeated ones count once.
        metric: Of the whole completion, `exact_match` or `log_probability`.
        progress: Whether to show a bar.

    Raises:
        ValueError: The models differ in shape, or are known to start from different weights, so that a head of one has
            no counterpart in the other; the batch asks for no answer.
    """
    for model in (receiver, donor):
        check_meeting(model, batch, TokenBatch)
    check_flag("progress", progress)
    if not batch.fields:
        raise ValueError("the batch asks for no answer, so nothing can change; give from_tokens(answer=…)")
    ours, theirs = _weights(receiver), _weights(donor)
    _check_alike(receiver, donor, ours, theirs)
    check_fits(batch.tokens, receiver.cfg.n_ctx, receiver.cfg.d_vocab)
    batch = batch.distinct()
    parts = _parts(receiver, theirs)
    everything = [weight for part in parts.values() for weight in part]
    edits = [
        [Edit(site, layer, Set(value), head=head) for site, layer, head, value in part]
        for part in (*parts.values(), everything)
    ]
    measured = metric(COMPLETION)
    swept = sweep(receiver, batch, edits, measured, progress=progress)
    goal = sweep(donor, batch, [], measured, progress=progress).baseline[0]
    return ModelDiffResult(
        component=(*parts, ALL),
        layer=np.array([-1 if part[0][1] is None else part[0][1] for part in parts.values()] + [-1]),
        distance=np.array([_distance(ours, part) for part in (*parts.values(), everything)]),
        effect=swept.values[:, 0] - swept.baseline[0],
        receiver=swept.baseline[0],
        donor=goal,
        config={
            "analysis": "diff_models",
            "receiver": model_name(receiver),
            "donor": model_name(donor),
            "task": batch.task,
            "whole": batch.whole,
            "metric": measured.title,
            "bounds": measured.effect_bounds(),
        },
    )


Key = tuple[str, int | None]
Part = list[tuple[str, int | None, int | None, torch.Tensor]]  # site, layer, head, the donor's weights


def _weights(model: HookedModel) -> dict[Key, torch.Tensor]:
    """Every weight of the model by site and layer."""
    named = dict(model.named_parameters())
    found: dict[Key, torch.Tensor] = {}
    for site, (template, _) in WEIGHTS.items():
        for layer in range(model.cfg.n_layers) if "{layer}" in template else [None]:
            if (name := template.format(layer=layer)) in named:
                found[site, layer] = named.pop(name).detach()
    if named:
        raise ValueError(f"the model has weights that are not part of it here: {', '.join(sorted(named)[:4])}")
    return found


def _check_alike(
    receiver: HookedModel, donor: HookedModel, ours: Mapping[Key, torch.Tensor], theirs: Mapping[Key, torch.Tensor]
) -> None:
    for key in dict.fromkeys([*ours, *theirs]):
        here, there = (tuple(side[key].shape) if key in side else "none" for side in (ours, theirs))
        if here != there:
            at = key[0] if key[1] is None else f"{key[0]}.{key[1]}"
            raise ValueError(f"the models differ in shape: {at} is {here} in the receiver and {there} in the donor")
    starts = [initialisation(model) for model in (receiver, donor)]
    if None not in starts and starts[0] != starts[1]:
        raise ValueError(
            f"{model_name(receiver)} and {model_name(donor)} start from different weights, so a head of one has no"
            " counterpart in the other; compare them by jaccard(…, match='functional')"
        )


def _parts(model: HookedModel, theirs: Mapping[Key, torch.Tensor]) -> dict[str, Part]:
    """Component -> the donor's weights of it; every weight is in one."""
    parts: dict[str, Part] = {}
    for la in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            parts[f"L{la}H{head}"] = [(site, la, head, theirs[site, la][head]) for site in HEAD if (site, la) in theirs]
        for name, sites in (("MLP", MLP), ("rest", ("b_O", *NORMS))):
            parts[f"L{la} {name}"] = [(site, la, None, theirs[site, la]) for site in sites if (site, la) in theirs]
    parts["embeddings"] = [(site, None, None, theirs[site, None]) for site in ENDS[:2] if (site, None) in theirs]
    parts["unembedding"] = [(site, None, None, theirs[site, None]) for site in ENDS[2:] if (site, None) in theirs]
    return {name: part for name, part in parts.items() if part}


def _distance(ours: Mapping[Key, torch.Tensor], part: Part) -> float:
    """Norm of the difference over the norm of the receiver's; 0 where both are 0."""
    here = [ours[site, layer] if head is None else ours[site, layer][head] for site, layer, head, _ in part]
    moved = sum(float((value - old).square().sum()) for old, (*_, value) in zip(here, part, strict=True))
    size = sum(float(old.square().sum()) for old in here)
    return float(np.sqrt(moved / size)) if size else float(moved > 0)
