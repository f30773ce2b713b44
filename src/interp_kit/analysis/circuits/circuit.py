"""A circuit: edges of a transformer with what each is worth, and how the best of them are chosen and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.circuits.drawing import draw, matter
from interp_kit.core.config import check_count, check_flag
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, none_where, ratio_interval, scope
from interp_kit.engine.solved import caveat, said
from interp_kit.models.circuit import LOGITS, Edge, on_the_way
from interp_kit.models.hooked_model import HookedModel, model_name

if TYPE_CHECKING:
    import networkx

SHOWN = 60  # edges, beyond which a picture says nothing
FAINTEST = 0.01  # of the largest score: an edge below it is not drawn


@dataclass(frozen=True, kw_only=True)
class Circuit(AbstractResult):
    """Edges of a model with what each is worth.

    sender, receiver, input, position ("" where all positions together): (edge,); score: (edge,) by how much the metric
    falls, on average over pairs, where the edge alone carries what it does in the other run, exactly or as attributed;
    low, high: its 95 % interval over units of pairs; nodes: of the whole model; positions: named ones, as they stand
    in the text; n: independent units of pairs (PairBatch.units), all that share a text being one.
    """

    leading: ClassVar[str] = "score"
    sender: tuple[str, ...]
    receiver: tuple[str, ...]
    input: tuple[str, ...]
    position: tuple[str, ...]
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    nodes: tuple[str, ...]
    positions: tuple[str, ...]
    n: int
    config: Mapping[str, Any]

    @classmethod
    def scored(
        cls,
        model: HookedModel,
        pairs: PairBatch,
        nodes: Sequence[str],
        values: Mapping[Edge, np.ndarray],
        **config: Any,
    ) -> "Circuit":
        """The circuit of edges with their score on every pair, (pairs,) each."""
        groups, found = pairs.units(), np.stack(list(values.values()))
        score, low, high = ratio_interval(found, np.ones(len(pairs)), groups=groups)
        return cls(
            sender=tuple(edge.sender for edge in values),
            receiver=tuple(edge.receiver for edge in values),
            input=tuple(edge.input for edge in values),
            position=tuple(edge.position or "" for edge in values),
            score=score,
            low=low,
            high=high,
            nodes=tuple(nodes),
            positions=tuple(pairs.clean.positions),
            n=len(np.unique(groups)),
            config={
                "model": model_name(model),
                "task": pairs.clean.task,
                "variable": pairs.variable,
                "target": pairs.target,
                "whole": pairs.whole,
                **config,
            },
        )

    def __post_init__(self) -> None:
        if not np.isfinite(self.score).all():
            at = int(np.flatnonzero(~np.isfinite(self.score))[0])
            raise ValueError(f"the score of {self.edges[at]} is {self.score[at]}")

    def __len__(self) -> int:
        return len(self.sender)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """As objects, in the order of the scores. Raises ValueError for an edge that cannot be."""
        columns = zip(self.sender, self.receiver, self.input, self.position, strict=True)
        return tuple(Edge(s, r, i, p or None) for s, r, i, p in columns)  # pyright: ignore[reportArgumentType]

    def order(self, *, signed: bool = False) -> np.ndarray:
        """(edge,) numbers of the edges, the largest score first, by absolute value unless `signed`."""
        check_flag("signed", signed)
        return np.argsort(-(self.score if signed else np.abs(self.score)), kind="stable")

    def take(self, index: Sequence[int] | np.ndarray) -> "Circuit":
        """The circuit of these edges, in this order. Raises ValueError for anything but whole numbers."""
        index = np.asarray(index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise ValueError(f"index is {index.tolist()}; expected the numbers of edges")
        index = index.astype(int)
        columns = {c: tuple(getattr(self, c)[i] for i in index) for c in ("sender", "receiver", "input", "position")}
        return replace(self, **columns, score=self.score[index], low=self.low[index], high=self.high[index])

    def top(self, k: int, *, signed: bool = False) -> "Circuit":
        """The k edges of largest score. Raises ValueError if there are fewer, or k is below 1."""
        check_count("k", k, most=len(self))
        return self.take(self.order(signed=signed)[:k])

    @property
    def clear(self) -> np.ndarray:
        """(edge,) True if the score can be told from 0: its interval leaves 0 out, or all pairs agree to the last digit
        on another value, and so leave no interval."""
        unknown = np.isnan(self.low) | np.isnan(self.high)
        return np.where(unknown, self.score != 0, (self.low > 0) | (self.high < 0))

    def connected(self) -> "Circuit":
        """Without the edges that lie on no way from the embedding to the logits."""
        edges = self.edges
        kept = set(on_the_way(edges))
        return self.take([i for i, edge in enumerate(edges) if edge in kept])

    def node_scores(self) -> dict[str, float]:
        """Node -> sum of the scores of the edges that leave it; for gradients this is the node's own attribution
        (attribution patching, Nanda 2023; Syed et al. 2023)."""
        found = dict.fromkeys((node for node in self.nodes if node != LOGITS), 0.0)
        for sender, score in zip(self.sender, self.score, strict=True):
            found[sender] += float(score)
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per edge, best first."""
        columns = ("sender", "receiver", "input", "position", "score", "low", "high")
        return pd.DataFrame({c: getattr(self, c) for c in columns} | {"n": self.n}).iloc[self.order()]

    def to_networkx(self) -> "networkx.MultiDiGraph":
        """A directed graph of nodes by name, or (name, position) where edges have positions; each edge with its input
        and score. Within a head, what is read at one position and written at another is not an edge."""
        import networkx

        graph = networkx.MultiDiGraph()
        for edge, score in zip(self.edges, self.score, strict=True):
            ends = [n if edge.position is None else (n, edge.position) for n in (edge.sender, edge.receiver)]
            graph.add_edge(*ends, key=edge.input, input=edge.input, score=float(score))
        return graph

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        if c.get("analysis") == "read_mib":
            return (
                f"{numbered(len(self), 'edges')} of {c['model']}, with the scores of that file"
                " (no interval: it has none)."
            )
        how = {"exact": "each patched alone", "acdc": f"kept by ACDC at {c.get('threshold')}"}
        how = how.get(c["method"], f"attributed by {c['method'].upper()}")
        return (
            f"{numbered(len(self), 'edges')} of {c['model']}, {how}: by how much {c['metric']} {self.words[0]}"
            " where an edge carries"
            f" {self.carried} ({c['direction']}; n = {numbered(self.n, 'independent pairs that differ')} in"
            f" {c['variable']}{scope(c)}, {said(c)}; 95 % intervals in the table{none_where(self.low, self.n)})."
        )

    @property
    def carried(self) -> str:
        """Value that an edge that is scored carries in place of its own value."""
        kept = self.config.get("ablation", "counterfactual")
        return "the other run's value" if kept == "counterfactual" else f"what {kept} ablation gives"

    @property
    def words(self) -> tuple[str, str]:
        """Verbs for the metric if an edge carries the other run's value: for a positive score, for a negative one."""
        turned = self.config["method"] == "acdc" or self.config["direction"] == "denoise"
        return ("rises", "falls") if turned else ("falls", "rises")

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the edge of largest score, and how many matter beside it."""
        if len(self) == 0 or self.config.get("analysis") == "read_mib":  # the scores of a file have no intervals
            return ()
        c, best = self.config, int(self.order()[0])
        sign = -1 if self.score[best] < 0 else 1
        ends = (self.low[best], self.high[best]) if sign > 0 else (-self.high[best], -self.low[best])
        score = Estimate(sign * self.score[best], ends[0], ends[1], self.n, "pairs")
        numbers = (
            f"the {c['metric']} {self.words[int(self.score[best] < 0)]} by {score.short()} (n"
            f" = {numbered(self.n, 'pairs')})"
        )
        if not self.clear[best]:
            return (
                f"{caveat(c)}No edge of {c['model']} can be told from none: at {self.edges[best]}, the largest,"
                f" {numbers}.",
            )
        exact = c["method"] in ("exact", "acdc")
        how = "" if exact else f" Attributed by {str(c['method']).upper()}, not measured: patch what you rely on."
        count = int(matter(self.score, self.clear).sum())
        return (
            f"{caveat(c)}The edge that carries most of {c['variable']} → {c['target']} in {c['model']} is"
            f" {self.edges[best]}:"
            f" if it has {self.carried}, {numbers}.{how}",
            f"{count} of {len(self)} edges have at least a tenth of that and can be told from 0.",
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Nodes from left to right as they are computed, edges as wide as their score is large.

        At most SHOWN edges, those of largest score, and none below FAINTEST of the largest; the title says so. Grey:
        edges that do not matter. Raises ValueError for a circuit without edges.
        """
        if len(self) == 0:
            raise ValueError("a circuit without edges cannot be drawn")
        large = int((np.abs(self.score) >= FAINTEST * np.abs(self.score).max()).sum())
        shown, c = self.top(min(large, SHOWN)), self.config
        more = f", the {len(shown)} largest of {len(self)} edges" if len(shown) < len(self) else ""
        title, label, words = f"{c['model']}{more}", "score", ("is positive", "is negative")
        if self.n:
            title = f"{c['variable']} → {c['target']} in {c['model']} (n = {self.n}){more}"
            label, words = str(c["metric"]), self.words
        return draw(
            shown.edges,
            shown.score,
            self.positions,
            clear=shown.clear,
            title=title,
            label=label,
            words=words,
            ax=ax,
        )
