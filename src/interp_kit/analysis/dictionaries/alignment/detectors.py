"""Detectors of a variable at one position: features of an autoencoder, and the controls that are chosen from
by the same rule: features of a random autoencoder, principal components, the site's own axes, and neurons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from interp_kit.analysis.dictionaries.sae_training import inference_sae
from interp_kit.core.identity import derive_seed
from interp_kit.core.stats.detection import auroc, ranked

if TYPE_CHECKING:
    from sae_lens import SAE

FEATURE, PROBE = "SAE feature", "probe"
METHODS = (FEATURE, "random SAE", "PCA", "basis", "neuron", PROBE)
TIE = 1e-9
RANK = 1e-10  # of the largest singular value: a component below it is rounding


@dataclass(frozen=True, eq=False)
class Candidates:
    """Numbers that one is chosen of.

    Attributes:
        values: (unit, candidate).
        size: (candidate,) Length of the vector that one unit of it writes, by which ties are broken.
    """

    values: Float[np.ndarray, "unit candidate"]
    size: Float[np.ndarray, " candidate"]


def encode(sae: "SAE", vectors: Float[Tensor, "unit ..."]) -> Float[Tensor, "unit width"]:
    """The codes of activations in the shape that the site has them in."""
    with torch.no_grad():
        return sae.encode(vectors if sae.cfg.reshape_activations == "hook_z" else vectors.flatten(1))


def shuffled_sae(sae: "SAE", seed: int) -> "SAE":
    """An autoencoder that learned nothing: every encoder and decoder vector has a random direction and its own length,
    and the biases, thresholds and k are kept."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "random autoencoder") % 2**63)
    weights = {name: value.clone() for name, value in sae.state_dict().items()}
    for name, axis in (("W_enc", 0), ("W_dec", 1)):
        drawn = torch.randn(weights[name].shape, generator=draw).to(weights[name])
        weights[name] = drawn * weights[name].norm(dim=axis, keepdim=True) / drawn.norm(dim=axis, keepdim=True)
    return inference_sae(sae.cfg.to_dict(), weights)


def candidates(
    sae: "SAE",
    random: "SAE",
    vectors: Float[Tensor, "unit ..."],
    neurons: Float[Tensor, "unit neuron"] | None,
    choosing: Bool[np.ndarray, " unit"],
) -> dict[str, Candidates]:
    """Method -> what it chooses from, at one position.

    Args:
        sae: The autoencoder.
        random: Its control, of `shuffled_sae`.
        vectors: Activations of the site.
        neurons: Activations of the MLP whose output the site holds, if any.
        choosing: True on units that are chosen by, from which the principal components are taken.
    """
    flat = vectors.flatten(1).double().cpu().numpy()
    centred = flat - flat[choosing].mean(0)
    _, sizes, components = np.linalg.svd(centred[choosing], full_matrices=False)
    components = components[: max(1, int((sizes > RANK * sizes[0]).sum()))]
    found = {
        name: Candidates(
            encode(one, vectors).double().cpu().numpy(), one.W_dec.detach().double().norm(dim=1).cpu().numpy()
        )
        for name, one in ((FEATURE, sae), ("random SAE", random))
    }
    found["PCA"] = Candidates(centred @ components.T, np.ones(len(components)))
    found["basis"] = Candidates(flat, np.ones(flat.shape[1]))
    if neurons is not None:
        values = neurons.double().cpu().numpy()
        found["neuron"] = Candidates(values, np.ones(values.shape[1]))
    return found


def choose(
    given: Candidates,
    part: Bool[np.ndarray, " unit"],
    ranks: Float[np.ndarray, "some candidate"],
    labels: Bool[np.ndarray, "label some"],
    *,
    firing: bool = False,
) -> tuple[Int[np.ndarray, " label"], Float[np.ndarray, " label"]]:
    """For each label of the units of a part, with their ranks, the candidate whose area under the ROC curve is furthest
    from 1/2, and that area; of equal ones, the candidate that writes most: the largest difference of class means times
    its size. firing: take none that is smaller on the class."""
    areas = auroc(ranks, labels)
    distance = areas - 0.5 if firing else np.abs(areas - 0.5)
    chosen = distance.argmax(1)
    for row, label in enumerate(labels):
        ties = np.flatnonzero(distance[row] >= distance[row].max() - TIE)
        if len(ties) > 1:
            values = given.values[part][:, ties]
            gap = np.abs(values[label].mean(0) - values[~label].mean(0)) * given.size[ties]
            chosen[row] = ties[gap.argmax()]
    return chosen, areas[np.arange(len(labels)), chosen]


class Permuted(NamedTuple):
    """The whole rule under permuted labels: (draw,) the areas of what is chosen, where it was chosen and where it is
    scored; (draw,) what is chosen; (draw, unit) the labels of either part."""

    there: Float[np.ndarray, " draw"]
    here: Float[np.ndarray, " draw"]
    chosen: Int[np.ndarray, " draw"]
    labels: tuple[Bool[np.ndarray, "draw unit"], Bool[np.ndarray, "draw other"]]


def permuted(
    choosing: Float[np.ndarray, "unit candidate"],
    scoring: Float[np.ndarray, "other candidate"],
    label: tuple[Bool[np.ndarray, " unit"], Bool[np.ndarray, " other"]],
    draws: int,
    rng: np.random.Generator,
) -> Permuted:
    """The whole rule under permuted labels, from the ranks of the two parts."""
    mixed = [np.stack([rng.permutation(part) for _ in range(draws)]) for part in label]
    there = auroc(choosing, mixed[0])
    best = np.abs(there - 0.5).argmax(1)
    row = np.arange(draws)
    sign = np.where(there[row, best] < 0.5, -1.0, 1.0)
    here = auroc(scoring, mixed[1])[row, best]
    areas = 0.5 + np.abs(there[row, best] - 0.5), 0.5 + sign * (here - 0.5)
    return Permuted(*areas, best, (mixed[0], mixed[1]))


def ranks_of(
    given: Mapping[str, Candidates], part: Bool[np.ndarray, " unit"]
) -> dict[str, Float[np.ndarray, "some candidate"]]:
    """Method -> ranks among these units."""
    return {name: ranked(one.values[part]) for name, one in given.items()}


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted logistic regression: `direction` (d,) of raw values, and `values` (unit,) of its decision function."""

    direction: Float[np.ndarray, " d"]
    values: Float[np.ndarray, " unit"]


def fit_probe(
    values: Float[np.ndarray, "unit d"], label: Bool[np.ndarray, " unit"], choosing: Bool[np.ndarray, " unit"]
) -> Probe:
    """Logistic regression (C = 1, on standardised values) of a class, fitted on the units that are chosen by."""
    mean, spread = values[choosing].mean(0), values[choosing].std(0)
    scale = np.where(spread > TIE * max(1.0, float(np.abs(values).max())), spread, np.inf)
    scaled = (values - mean) / scale
    fitted = LogisticRegression(max_iter=2000).fit(scaled[choosing], label[choosing])
    return Probe(fitted.coef_[0] / scale, fitted.decision_function(scaled))


def classes(
    values: Int[np.ndarray, " unit"], numeric: bool, parts: Sequence[Bool[np.ndarray, " unit"]], least: int, most: int
) -> dict[str, Bool[np.ndarray, " unit"]]:
    """Name -> the units of a class: each value against all others (of two, the larger alone; of many, the `most`
    frequent); of amounts, those above the value that divides the units most evenly. Only classes of which either part
    has `least` units, and as many others."""
    known, counts = np.unique(values, return_counts=True)
    if len(known) < 2:
        return {}
    if numeric and len(known) > 2:
        above = np.array([(values > v).sum() for v in known[:-1]])
        at = known[:-1][np.abs(above - len(values) / 2).argmin()]
        found = {f"> {at}": values > at}
    elif len(known) == 2:
        found = {f"= {known[1]}": values == known[1]}
    else:
        frequent = np.sort(known[np.argsort(-counts, kind="stable")][:most])
        found = {f"= {value}": values == value for value in frequent}
    return {
        name: label
        for name, label in found.items()
        if all(least <= label[part].sum() <= part.sum() - least for part in parts)
    }
