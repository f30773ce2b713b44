"""Number of features that a class needs: splitting over several, and absorption by another (Chanin et al. 2024,
arXiv:2409.14507), stated so that both are exact on given inputs.

Splitting: how many features a sparse probe (Gurnee et al. 2023 choose k neurons alike) needs, fitted by least squares,
so that the whole search can be made again under permuted labels. Absorption: inputs of the
class on which the class's own features are silent although the class can be read there, because another active feature
writes what they would have written. The definition is that of the decoder's projection on the probe's direction; no
ablation is needed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp_kit.analysis.dictionaries.alignment.detectors import TIE, Permuted, Probe
from interp_kit.core.stats.detection import best_threshold, ranked
from interp_kit.core.stats.intervals import Estimate, wilson

SIZES = (1, 2, 4, 8, 16)  # features of the sparse probes
ENOUGH = 0.95  # of what the best sparse probe has above chance
ABSORBS = 0.5  # of what the class's features write on a usual input of the class
NONE = Estimate(float("nan"), float("nan"), float("nan"), 0, "inputs")


@dataclass(frozen=True)
class Split:
    """Spread of a class over features.

    Attributes:
        features: The fewest features with which a sparse probe has ENOUGH, the main one first; none if the class is not
            told.
        areas: (size,) Area under the ROC curve on the scored units of the sparse probe of each of SIZES.
        missed: Share of the scored units of the class on which all of `features` are silent.
        absorbed: Share of them that another feature takes.
        absorber: The feature that takes most of those, -1 if there is none.
    """

    features: tuple[int, ...]
    areas: Float[np.ndarray, " size"]
    missed: Estimate
    absorbed: Estimate
    absorber: int


def split(
    codes: Float[np.ndarray, "unit width"],
    decoder: Float[np.ndarray, "width d"],
    label: Bool[np.ndarray, " unit"],
    choosing: Bool[np.ndarray, " unit"],
    main: int,
    sign: float,
    probe: Probe,
    chance: float,
) -> Split:
    """Measure splitting and absorption of a class.

    Features are chosen, thresholds set and sparse probes fitted on the units that are chosen by; all shares and areas
    are of the others.

    Args:
        codes: Of the autoencoder.
        decoder: Its decoder vectors.
        label: True on units of the class.
        choosing: True on units that are chosen by.
        main: The class's feature.
        sign: -1 if the feature is silent on the class; then the class is that of all other units.
        probe: Of the class, fitted on the activations.
        chance: An area that is no better than chance, of `chance_area`: if no sparse probe is above it, the class is
            told by no number of features, and nothing can be missed or absorbed.
    """
    found, found_areas = _search(codes, label[None], choosing, np.array([main]))
    order, areas = found[0].tolist(), found_areas[0]
    above = areas - 0.5
    if areas.max() <= chance:
        return Split((), areas, NONE, NONE, -1)
    enough = int(SIZES[int(np.argmax(above >= ENOUGH * above.max()))])
    features = tuple(order[:enough])
    truth = label if sign > 0 else ~label
    tells = sign * decoder @ probe.direction  # what one unit of each feature adds to the probe
    threshold = np.zeros(len(features))
    threshold[0] = best_threshold(codes[choosing, main], truth[choosing])
    silent = (codes[:, features] <= threshold).all(1)
    usual = choosing & truth & ~silent
    wanted = ~choosing & truth
    missed = wilson(int((silent & wanted).sum()), int(wanted.sum()))
    if not usual.any():
        return Split(features, areas, missed, NONE, -1)
    written = float(np.median((codes[usual][:, features] * tells[list(features)]).sum(1)))
    others = codes * tells
    others[:, list(features)] = 0
    taken = wanted & silent & (sign * probe.values > 0) & (others.max(1) >= ABSORBS * written) & (written > 0)
    absorber = int(np.bincount(others[taken].argmax(1)).argmax()) if taken.any() else -1
    return Split(features, areas, missed, wilson(int(taken.sum()), int(wanted.sum())), absorber)


def chance_area(codes: Float[np.ndarray, "every width"], choosing: Bool[np.ndarray, " every"], null: Permuted) -> float:
    """95th percentile, over permuted labels, of the largest area among the sparse probes: the same search, with the
    feature that is chosen under the same labels as the main one."""
    labels = np.empty((len(null.chosen), len(codes)), dtype=bool)
    labels[:, choosing], labels[:, ~choosing] = null.labels
    return float(np.percentile(_search(codes, labels, choosing, null.chosen)[1].max(1), 95))


def _search(
    codes: Float[np.ndarray, "unit width"],
    labels: Bool[np.ndarray, "label unit"],
    choosing: Bool[np.ndarray, " unit"],
    main: Int[np.ndarray, " label"],
) -> tuple[Int[np.ndarray, "label most"], Float[np.ndarray, "label size"]]:
    """For each label the features of the largest sparse probe, the main one first, and the areas of all SIZES."""
    mean, spread = codes[choosing].mean(0), codes[choosing].std(0)
    scaled = (codes - mean) / np.where(spread > TIE * max(1.0, float(np.abs(codes).max())), spread, np.inf)
    wanted = labels[:, choosing] - labels[:, choosing].mean(1, keepdims=True)
    order = _pursuit(scaled[choosing], wanted, main)
    scored, areas = labels[:, ~choosing], []
    positive = scored.sum(1)
    for size in SIZES:
        values = scaled.T[order[:, :size]]  # (label, feature, unit)
        fitted = values[..., choosing]
        gram = fitted @ fitted.transpose(0, 2, 1) + np.eye(fitted.shape[1])  # ridge of 1, as of the supervised probe
        weights = np.linalg.solve(gram, fitted @ wanted[..., None])
        ranks = ranked((weights * values[..., ~choosing]).sum(1).T).T
        above = (ranks * scored).sum(1) - positive * (positive + 1) / 2
        areas.append(above / (positive * (scored.shape[1] - positive)))
    return order, np.stack(areas, 1)


def _pursuit(
    scaled: Float[np.ndarray, "chosen width"],
    wanted: Float[np.ndarray, "label chosen"],
    main: Int[np.ndarray, " label"],
) -> Int[np.ndarray, "label most"]:
    """The features of the largest sparse probe, one after the other: each the one that fits best what those before it
    leave of the label (orthogonal matching pursuit, Pati et al. 1993)."""
    length = np.sqrt(len(scaled))  # of every feature that is not constant
    unit, live = scaled / length, int(scaled.any(0).sum())
    rest, order, basis = wanted, main[:, None], np.zeros((len(main), 0, len(scaled)))
    for _ in range(min(SIZES[-1], live) - 1):
        new = unit.T[order[:, -1]]
        for _ in range(2):  # once leaves rounding
            new = new - ((basis @ new[..., None]) * basis).sum(1)
        size = np.linalg.norm(new, axis=1, keepdims=True)
        new = np.where(size > TIE, new / np.maximum(size, TIE), 0.0)
        basis = np.concatenate([basis, new[:, None]], 1)
        rest = rest - (rest * new).sum(1, keepdims=True) * new
        fit = np.abs(rest @ unit)
        np.put_along_axis(fit, order, -1.0, 1)
        order = np.concatenate([order, fit.argmax(1)[:, None]], 1)
    return order
