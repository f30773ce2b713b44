"""A circuit: edges of a transformer with what each is worth, and how the best of them are chosen and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.circuits.drawing import draw
from interp_kit.core.config import check_count, check_flag
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats.intervals import ratio_interval, scope
from interp_kit.engine.solved import said
from interp_kit.models.circuit import LOGITS, Edge, on_the_way
from interp_kit.models.hooked_model import HookedModel, model_name

if TYPE_CHECKING:
    import networkx

SHOWN = 60  # edges, beyond which a picture says nothing


@dataclass(frozen=True, kw_only=True)
class Circuit(AbstractResult):
    """Edges of a model with what each is worth.

    sender, receiver, input, position ("" where all positions together): (edge,); score: (edge,) by how much the metric
    falls, on average over pairs, where the edge alone carries what it does in the other run, exactly or as attributed;
    low, high: its 95 % interval over units of pairs; nodes: of the whole model; positions: named ones, as they stand
    in the text; n: independent units of pairs (PairBatch.units), all that share a text being one.
    """

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
        if c["analysis"] == "read_mib":
            return f"{len(self)} edges of {c['model']}, with the scores of that file (no interval: it has none)."
        how = {"exact": "each patched alone", "acdc": f"kept by ACDC at {c.get('threshold')}"}
        kept = c.get("ablation", "counterfactual")
        carries = "the other run's value" if kept == "counterfactual" else f"what {kept} ablation gives"
        return (
            f"{len(self)} edges of {c['model']}, {how.get(c['method'], 'attributed by ' + c['method'].upper())}: by how"
            f" much {c['metric']} falls where an edge carries {carries} ({c['direction']}; n = {self.n}"
            f" independent pairs that differ in {c['variable']}{scope(c)}, {said(c)}; 95 % intervals in the table)."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Nodes from left to right as they are computed, edges coloured by score: at most SHOWN, those of largest
        score; the title says so. Raises ValueError for a circuit without edges."""
        if len(self) == 0:
            raise ValueError("a circuit without edges cannot be drawn")
        shown, c = self.top(min(len(self), SHOWN)), self.config
        more = f", the {len(shown)} largest of {len(self)} edges" if len(shown) < len(self) else ""
        title, label = f"{c['model']}{more}", "score"
        if self.n:
            title = f"{c['variable']} → {c['target']} in {c['model']} (n = {self.n}){more}"
            label = f"fall of {c['metric']}"
        return draw(shown.edges, shown.score, self.positions, title=title, label=label, ax=ax)
