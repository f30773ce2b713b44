"""Subjects and methods of the audit: a circuit with its question, and a method that scores its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from interp_kit.analysis.circuits.edge_scores import score_edges
from interp_kit.analysis.dictionaries.sae_training import SAEConfig, fit_sae
from interp_kit.core.batch import TokenBatch
from interp_kit.core.pairs import PairBatch
from interp_kit.core.task import AbstractTask
from interp_kit.engine.graph import Graph
from interp_kit.engine.harvest import harvest
from interp_kit.engine.metrics import logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.circuit import EMBED, LOGITS, Edge, GroundTruth
from interp_kit.models.hooked_model import HookedModel

if TYPE_CHECKING:
    from interp_kit.analysis.dictionaries.sae_training import SAE

Level = Literal["nodes", "edges", "positions"]
PAIRS, PROBED = 128, 512  # at most: pairs, and examples that probes see
LEAST = 0.05  # of the gap between clean and corrupt, that a true edge moves
DICTIONARY = SAEConfig(width=64, k=4, training_samples=100_000)


@dataclass(frozen=True)
class Case:
    """One circuit: a model, and the question that it is asked. edges: the true ones, where they are not those of
    `truth`; most: pairs at most."""

    model: HookedModel
    task: AbstractTask
    truth: GroundTruth
    edges: frozenset[Edge] | None = None
    most: int = PAIRS

    @cached_property
    def pairs(self) -> PairBatch:
        """Minimal pairs in which the variable and the answer differ."""
        return self.task.pairs(self.truth.variable, self.truth.target, limit=self.most)

    @cached_property
    def everything(self) -> TokenBatch:
        """All distinct examples, or PROBED of them."""
        examples = self.task.pool()
        chosen = np.random.default_rng(0).permutation(len(examples))[:PROBED]
        return self.task.batch([examples[i] for i in sorted(chosen)])

    @cached_property
    def graph(self) -> Graph:
        """The model's nodes and edges."""
        return Graph(self.model)

    @property
    def nodes(self) -> tuple[str, ...]:
        """All but embedding and logits."""
        return tuple(node for node in self.graph.nodes if node not in (EMBED, LOGITS))

    @property
    def sites(self) -> list[str]:
        """Places where whole nodes are patched."""
        return ["z", "mlp_out"] if any("MLP" in node for node in self.nodes) else ["z"]

    @property
    def positions(self) -> list[str]:
        """Named positions up to the one that predicts the answer."""
        return self.pairs.clean.positions_to(self.truth.target)

    def site_vectors(self, batch: TokenBatch) -> Float[Tensor, "example position d"]:
        """Values at the site where positions are compared, at each of `positions`."""
        site, layer, _ = self.truth.site
        (found,) = harvest(self.model, batch, f"{site}.{layer}", positions=self.positions).values()
        return found

    @cached_property
    def sae(self) -> "SAE":
        """A sparse autoencoder of that site."""
        site, layer, _ = self.truth.site
        vectors = self.site_vectors(self.everything).flatten(0, 1)
        names = {"model_name": "audited", "hook_name": f"{site}.{layer}", "task": self.task.name}
        with torch.inference_mode(False):
            return fit_sae(vectors, DICTIONARY, names, seed=0, progress=False)


@dataclass(frozen=True)
class Found:
    """Scores of nodes, edges or positions; forwards: how many runs of the pairs they took, a gradient counting two."""

    scores: Mapping[Any, float]
    forwards: int


@dataclass(frozen=True)
class Method:
    """A method of the kit. defines_edges: whether its scores say what the true edges of a trained network are, so that
    it cannot be judged by them."""

    name: str
    level: Level
    run: Callable[[Case], Found]
    defines_edges: bool = False


def with_own_edges(case: Case) -> Case:
    """The case of a trained network, its true edges being those by which more than LEAST of the gap passes when each is
    patched alone: the definition of ground truth, measured on this network. Interchange training fixes what stands in
    its nodes, not by which input a node reads it."""
    found, metric = score_edges(case.model, case.pairs, method="exact"), logit_difference(case.pairs)
    sides = (sweep(case.model, side, [], metric).baseline for side in (case.pairs.clean, case.pairs.corrupt))
    clean, corrupt = (float(side.mean()) for side in sides)
    carries = np.abs(found.score) > LEAST * (clean - corrupt)
    edges = frozenset(edge for edge, true in zip(found.edges, carries, strict=True) if true)
    return replace(case, edges=edges)


def true_parts(case: Case, level: Level) -> frozenset[Any]:
    """The true nodes, edges or positions of a case."""
    edges = case.truth.edges if case.edges is None else case.edges
    return {"nodes": case.truth.nodes, "edges": edges, "positions": case.truth.positions}[level]


def auroc(case: Case, method: Method, scores: Mapping[Any, float]) -> float:
    """Rank true parts above false ones by score: AUROC. Raises ValueError for a score that is not finite."""
    true = true_parts(case, method.level)
    if missing := true - set(scores):
        raise ValueError(f"{method.name} gave no score to {', '.join(map(str, missing))}")
    values = np.array(list(scores.values()))
    if not np.isfinite(values).all():
        raise ValueError(f"{method.name} gave {values[~np.isfinite(values)][0]} to one of the {method.level}")
    return float(roc_auc_score([key in true for key in scores], values))
