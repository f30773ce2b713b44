"""Use of the features that tell a variable: interchange by feature.

Of a pair of runs that differ in the variable, the activations of a few features are exchanged at one position: the
clean run gets those of the other run. What the other features hold, and what the autoencoder does not reconstruct,
stays as it is (so sparse feature circuits edit, Marks et al. 2024, arXiv:2403.19647).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from interp_kit.analysis.dictionaries.alignment.detectors import encode
from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, ratio_interval
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Add, Edit
from interp_kit.engine.harvest import harvest
from interp_kit.engine.metrics import logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel

if TYPE_CHECKING:
    from sae_lens import SAE

EXCHANGED = ("feature", "features", "random features", "all features", "site")
DRAWS = 8  # of random features
LEAST_GAP = 1e-4  # of the logit difference, below which nothing can move
NONE = Estimate(float("nan"), float("nan"), float("nan"), 0, "pairs")


@dataclass(frozen=True)
class Question:
    """Features exchanged at a position: the main features of a variable, and all that it is split over."""

    variable: str
    position: str
    target: str
    main: tuple[int, ...]
    features: tuple[int, ...]


def pairs_for(task: AbstractTask, variable: str, target: str, limit: int, seed: int) -> PairBatch | str:
    """Pairs in which the variable and the answer of the target differ; or why there are none. Pairs in which another
    variable changes the answer say nothing of this one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return task.pairs(variable, target, limit=limit, seed=seed)
    except (UserWarning, ValueError) as reason:
        return str(reason)


def use(
    model: HookedModel, sae: "SAE", hook: str, pairs: PairBatch, questions: Sequence[Question], seed: int
) -> list[Mapping[str, Estimate]] | str:
    """For each question about the variable of these pairs, how far each exchange moves the logit difference of the two
    answers: 0 not at all, 1 as far as the other run is. Or, if the two runs cannot be told apart, that they cannot.

    Args:
        model: The model.
        sae: Of the site.
        hook: The site.
        pairs: In which one variable differs.
        questions: About it, with the pairs' own target.
        seed: Of the random features.
    """
    positions = list(dict.fromkeys(question.position for question in questions))
    clean, corrupt = (
        harvest(model, side, hook, positions=positions, dtype=torch.float32, progress=False)[hook]
        for side in (pairs.clean, pairs.corrupt)
    )
    edits: list[Edit] = []
    owner: list[tuple[int, str]] = []
    for number, question in enumerate(questions):
        k = positions.index(question.position)
        for name, change in _changes(sae, clean[:, k], corrupt[:, k], question, np.random.default_rng([seed, number])):
            edits.append(Edit(hook, None, Add(change), position=question.position))
            owner.append((number, name))
    metric = logit_difference(pairs)
    swept = sweep(model, pairs.clean, edits, metric, other=pairs.corrupt, progress=False)
    assert swept.other is not None
    moved, gap = swept.values[:, 0] - swept.baseline[0], swept.other[0] - swept.baseline[0]
    units = pairs.units()
    if not _told_apart(gap, units):
        n = len(np.unique(units))
        return (
            f"the logit difference is the same in both runs (by {gap.mean():.1g}, n ="
            f" {numbered(n, 'pairs')}): nothing can move"
        )
    results: list[Mapping[str, Estimate]] = []
    for number in range(len(questions)):
        found: dict[str, Estimate] = {}
        for name in EXCHANGED:
            rows = [row for row, of in enumerate(owner) if of == (number, name)]
            found[name] = _share(moved[rows].mean(0), gap, units) if rows else NONE
        results.append(found)
    return results


def _told_apart(gap: np.ndarray, units: np.ndarray) -> bool:
    """True if the mean of the gap is not 0, by Student's t over independent units."""
    each = np.bincount(np.unique(units, return_inverse=True)[1], weights=gap)
    if len(each) < 2:
        return False
    reach = float(stats.t.ppf(0.975, len(each) - 1)) * each.std(ddof=1) / np.sqrt(len(each))
    return bool(abs(each.mean()) > reach and abs(gap.mean()) > LEAST_GAP)


def _share(moved: np.ndarray, gap: np.ndarray, units: np.ndarray) -> Estimate:
    value, low, high = (float(part[0]) for part in ratio_interval(moved[None], gap, groups=units))
    return Estimate(value, low, high, len(np.unique(units)), "pairs")


def _changes(
    sae: "SAE",
    clean: Float[Tensor, "pair ..."],
    corrupt: Float[Tensor, "pair ..."],
    question: Question,
    rng: np.random.Generator,
) -> list[tuple[str, Float[Tensor, "pair ..."]]]:
    """Vectors that each exchange adds to the clean run at the position."""
    codes = [encode(sae, side) for side in (clean, corrupt)]
    change, decoder = codes[1] - codes[0], sae.W_dec.detach()
    live = np.flatnonzero(((codes[0] > 0) | (codes[1] > 0)).any(0).cpu().numpy())
    others = np.setdiff1d(live, question.features)

    def write(features: Sequence[int]) -> Float[Tensor, "pair ..."]:
        kept = list(features)
        return (change[:, kept] @ decoder[kept]).unflatten(1, clean.shape[1:])

    found = [("feature", write(question.main)), ("features", write(question.features))]
    if len(others) >= len(question.features):
        for _ in range(DRAWS):
            drawn = rng.choice(others, len(question.features), replace=False)
            found.append(("random features", write(drawn.tolist())))
    found.append(("all features", (change @ decoder).unflatten(1, clean.shape[1:])))
    found.append(("site", corrupt - clean))
    return found
