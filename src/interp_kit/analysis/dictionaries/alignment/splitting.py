"""Number of features that a class needs: splitting over several, and absorption by another (Chanin et al. 2024,
arXiv:2409.14507), stated so that both are exact on given inputs.

Splitting: how many features a sparse probe (Gurnee et al. 2023 choose k neurons alike) needs. Absorption: inputs of the
class on which the class's own features are silent although the class can be read there, because another active feature
writes what they would have written. The definition is that of the decoder's projection on the probe's direction; no
ablation is needed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from interp_kit.analysis.dictionaries.alignment.detectors import Probe, fit_probe
from interp_kit.core.stats.detection import auroc, best_threshold, ranked
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
        chance: An area that is no better than chance: if no sparse probe is above it, the class is told by no number of
            features, and nothing can be missed or absorbed.
    """
    order = _pursuit(codes[choosing], label[choosing], main)
    areas = np.array([_area(codes[:, order[:size]], label, choosing) for size in SIZES])
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


def _pursuit(codes: Float[np.ndarray, "unit width"], label: Bool[np.ndarray, " unit"], first: int) -> list[int]:
    """The features of the largest sparse probe, one after the other: each the one that fits best what those before it
    leave of the label (orthogonal matching pursuit, Pati et al. 1993)."""
    centred = codes - codes.mean(0)
    norm = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(norm > 0, norm, np.inf)
    wanted, found = label - label.mean(), [first]
    for _ in range(min(SIZES[-1], int((norm > 0).sum())) - 1):
        basis = np.linalg.qr(centred[:, found])[0]
        fit = np.abs(unit.T @ (wanted - basis @ (basis.T @ wanted)))
        fit[found] = -1
        found.append(int(fit.argmax()))
    return found


def _area(
    codes: Float[np.ndarray, "unit feature"], label: Bool[np.ndarray, " unit"], choosing: Bool[np.ndarray, " unit"]
) -> float:
    said = fit_probe(codes, label, choosing).values[~choosing]
    return float(auroc(ranked(said[:, None]), label[None, ~choosing])[0, 0])
