"""Attention of heads by distance: the mean attention at fixed lags, beside what even attention and a network that never
learned would give. A head that looks 101 tokens back on a text of grids reads the cell that it stands on in the grid
before; whether that matters is for ablation to say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_names, check_seed
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, bar, numbered, shortened
from interp_kit.core.stats.intervals import Estimate, mean_interval, scope
from interp_kit.core.stats.told import HALF, out_of
from interp_kit.engine.inputs import check_fits, unpadded
from interp_kit.models.convert import untrained
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import heatmap


@dataclass(frozen=True, kw_only=True)
class AttentionLags(AbstractResult):
    """Mean attention of each head at each lag.

    heads: names ("L0H1"); lags: tokens back from the query; names: what each lag means; attention: (head, lag, batch)
    averaged over the queries of each example; even: (lag,) what attention spread evenly over all visible tokens would
    give; untrained: (head, lag) the mean of the same network with random weights.
    """

    leading: ClassVar[str] = "attention"
    heads: tuple[str, ...]
    lags: tuple[int, ...]
    names: tuple[str, ...]
    attention: np.ndarray
    even: np.ndarray
    untrained: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Examples behind every figure."""
        return self.attention.shape[-1]

    def lag_heads(self, lag: int, threshold: float = 0.5) -> tuple[str, ...]:
        """The heads whose mean attention at `lag` passes the threshold. Raises ValueError for a lag not measured."""
        if lag not in self.lags:
            raise ValueError(f"lag {lag} was not measured; these were: {', '.join(map(str, self.lags))}")
        mean = self.attention[:, self.lags.index(lag)].mean(-1)
        return tuple(head for head, value in zip(self.heads, mean, strict=True) if value > threshold)

    def to_frame(self) -> pd.DataFrame:
        """One row per head and lag: mean attention with 95 % interval over examples, beside its controls."""
        mean, low, high = mean_interval(self.attention, bounds=(0.0, 1.0))
        rows = [
            (head, lag, self.names[j], mean[i, j], low[i, j], high[i, j], self.even[j], self.untrained[i, j], self.n)
            for i, head in enumerate(self.heads)
            for j, lag in enumerate(self.lags)
        ]
        return pd.DataFrame(rows, columns=["head", "lag", "name", "attention", "low", "high", "even", "untrained", "n"])

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Mean attention of each head of {c['model']} at fixed distances back from {c['queries']} (n = {self.n}"
            f" examples{scope(c)}). Even attention gives at most {self.even.max():.3f}, the same network untrained at"
            f" most {self.untrained.max():.3f}."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the heads that look at one distance with most of their attention."""
        mean, low, high = mean_interval(self.attention, bounds=(0.0, 1.0))
        chance = np.maximum(self.even[None], self.untrained)
        head, lag = np.unravel_index(mean.argmax(), mean.shape)
        known = np.where(np.isnan(low), mean, low)  # all examples agree
        fixed = np.argwhere((known > HALF) & (known > chance))
        beside = f"even attention at most {self.even.max():.2f}, untrained at most {self.untrained.max():.2f}"
        if not len(fixed):
            most = Estimate(mean[head, lag], low[head, lag], high[head, lag], self.n, "").short()
            return (
                f"No head of {self.config['model']} is shown to put more than half of its attention at one of these"
                f" distances: the most is {most}, {self.heads[head]} at {self.names[lag]} (n = {self.n}; {beside}).",
            )
        order = sorted(fixed.tolist(), key=lambda at: -mean[at[0], at[1]])
        named = "; ".join(
            f"{self.heads[i]} at {self.names[j]} with {Estimate(mean[i, j], low[i, j], high[i, j], self.n, '').short()}"
            for i, j in order[:3]
        )
        counts = out_of(len({i for i, _ in order}), len(self.heads), "heads")
        return (
            f"Most of its attention at one distance, beyond both controls: {counts} of {self.config['model']}; the most"
            f" {named} (n = {numbered(self.n, 'examples')}; {beside}). Whether that matters is for ablation to say.",
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Heads by lags."""
        return heatmap(
            self.attention.mean(-1),
            self.heads,
            self.names,
            ax=ax,
            title=f"attention by distance, {self.config['model']} (n = {self.n})",
            label="mean attention",
            x_label="where the head looks, from " + shortened(self.config["queries"]),
            y_label="head",
            limits=(0.0, 1.0),
        )


@on_model()
def attention_lags(
    model: HookedModel,
    batch: TokenBatch,
    lags: Sequence[int] | Mapping[str, int] = (0, 1),
    *,
    queries: Sequence[str] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> AttentionLags:
    """Mean attention of every head at each lag, over the queries of each example, and the same untrained.

    Args:
        model: Any model.
        batch: Examples, of which repeated ones count once.
        lags: Tokens back; or a name for each -> tokens back.
        queries: Named positions; None: those whose logits predict a token of the completion. Queries that have no token
            so far back are left out at that lag.
        batch_size: Texts per forward pass.
        seed: Of the untrained network.
        progress: Whether to show a bar.

    Returns:
        Mean attention per head, lag and example, beside its controls.

    Raises:
        ValueError: There is no lag, a negative one, or one that no query has.
    """
    check_meeting(model, batch, TokenBatch)
    check_count("batch_size", batch_size)
    check_seed(seed)
    check_flag("progress", progress)
    if queries is not None:
        check_names("queries", queries)
    if isinstance(lags, str) or not isinstance(lags, Iterable):
        raise ValueError(f"lags is {lags!r}; expected a sequence of whole numbers, or a name for each")
    check_fits(batch.tokens, model.cfg.n_ctx, model.cfg.d_vocab)
    batch = batch.distinct()
    names = list(lags) if isinstance(lags, Mapping) else [f"{lag} back" for lag in lags]
    lags = list(lags.values()) if isinstance(lags, Mapping) else list(lags)
    asked = _queries(batch, queries)
    length = batch.tokens.shape[1]
    at = torch.arange(length, device=asked.device)
    if not lags or len(set(lags)) < len(lags):
        raise ValueError(f"lags is {lags}; name at least one, and each once")
    for lag in lags:
        check_count("lags", lag, least=0)
        if not (asked & (at >= lag)).any(1).all():
            raise ValueError(f"lag {lag}: some example has no query with a token so far back")
    even = [float((asked * (at >= lag) / (at + 1)).sum() / (asked & (at >= lag)).sum()) for lag in lags]
    with bar(2 * len(batch), "examples", progress) as shown:
        measured = _measure(model, batch, asked, lags, batch_size, shown.update)
        control = _measure(untrained(model, seed), batch, asked, lags, batch_size, shown.update).mean(-1)
    return AttentionLags(
        heads=tuple(f"L{la}H{he}" for la in range(model.cfg.n_layers) for he in range(model.cfg.n_heads)),
        lags=tuple(lags),
        names=tuple(names),
        attention=measured,
        even=np.array(even),
        untrained=control,
        config={
            "analysis": "attention_lags",
            "model": model_name(model),
            "task": batch.task,
            "whole": batch.whole,
            "queries": "the positions that predict the completion" if queries is None else ", ".join(queries),
        },
    )


def _queries(batch: TokenBatch, names: Sequence[str] | None) -> Tensor:
    """(batch, pos) True at the queries."""
    asked = torch.zeros_like(batch.mask)
    if names is None:
        at = torch.arange(batch.tokens.shape[1], device=asked.device)
        after = batch.mask & (at >= batch.prompt_length[:, None])
        asked[:, :-1] = after[:, 1:]
    for name in names or ():
        asked[torch.arange(len(batch)), batch.position(name)] = True
    return asked


@torch.inference_mode()
def _measure(
    model: HookedModel,
    batch: TokenBatch,
    asked: Tensor,
    lags: Sequence[int],
    batch_size: int,
    done: Callable[[int], Any],
) -> np.ndarray:
    """(head, lag, batch) mean attention over each example's queries."""
    found: list[np.ndarray] = []
    for start in range(0, len(batch), batch_size):
        rows = slice(start, start + batch_size)
        layers: dict[str, Tensor] = {}

        def keep(pattern: Tensor, hook: Any, rows: slice = rows, layers: dict[str, Tensor] = layers) -> None:
            values = []
            for lag in lags:
                diagonal = pattern.diagonal(-lag, 2, 3)
                here = asked[rows, lag:].to(diagonal.dtype)
                values.append((diagonal * here[:, None]).sum(-1) / here.sum(-1)[:, None])
            layers[str(hook.name)] = torch.stack(values, -1).cpu()

        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
        texts = batch.tokens[rows]
        model.run_with_hooks(texts, fwd_hooks=[(name, keep) for name in names], **unpadded(model, texts))
        found.append(torch.cat([layers[name] for name in names], dim=1).permute(1, 2, 0).double().numpy())
        done(len(texts))
    return np.concatenate(found, axis=2)
