"""The classes of a variable at one position: chosen by every method on some texts, scored on the others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from interp_kit.analysis.dictionaries.alignment.detectors import (
    FEATURE,
    METHODS,
    PROBE,
    choose,
    classes,
    fit_probe,
    permuted,
)
from interp_kit.analysis.dictionaries.alignment.places import Place
from interp_kit.analysis.dictionaries.alignment.splitting import Split, chance_area, split
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.core.stats.detection import auroc, auroc_interval, best_threshold, mutual_information, ranked
from interp_kit.core.stats.intervals import Estimate

LEAST, MOST = 3, 16  # units of a class in either part; classes of a variable


@dataclass(frozen=True)
class Row:
    """A class at a position, by every method: chosen, sign, (value, low, high) of area and bits, area where chosen.
    firing: the feature that is larger on the class, and for a class that has only one opposite, that one's."""

    variable: str
    value: str
    position: str
    chosen: tuple[int, ...]
    sign: tuple[float, ...]
    auroc: tuple[tuple[float, float, float], ...]
    bits: tuple[Estimate, ...]
    chosen_at: tuple[float, ...]
    permuted: tuple[float, float]
    split: Split
    firing: tuple[int, ...]
    n: int
    of_class: int


def classes_at(place: Place, name: str, batch: TokenBatch, permutations: int, seed: int) -> list[Row]:
    """The classes of a variable at a position; none if the text up to there does not determine it."""
    every = batch.label(name).cpu().numpy()
    values, by = every[place.rows], place.choosing
    if (values[place.group] != every).any() or min(by.sum(), (~by).sum()) < 2 * LEAST:
        return []
    found = classes(values, name in batch.numeric, (by, ~by), LEAST, MOST)
    if not found:
        return []
    labels = np.stack(list(found.values()))
    picks = {method: choose(one, by, place.ranks[0][method], labels[:, by]) for method, one in place.given.items()}
    sides = labels if len(labels) > 1 else np.concatenate([labels, ~labels])
    firing = choose(place.given[FEATURE], by, place.ranks[0][FEATURE], sides[:, by], firing=True)[0].tolist()
    rows = []
    for i, (value, label) in enumerate(found.items()):
        seeds = np.random.default_rng(derive_seed(seed, "permutation", place.position, name, value))
        null = permuted(place.ranks[0][FEATURE], place.ranks[1][FEATURE], (label[by], label[~by]), permutations, seeds)
        by_chance = float(np.percentile(null.here, 95)), float(null.there.mean())
        here_picked = {method: (int(which[i]), float(area[i])) for method, (which, area) in picks.items()}
        fires = tuple(firing if len(labels) == 1 else firing[i : i + 1])
        searched = chance_area(place.given[FEATURE].values, by, null)
        rows.append(_scored(place, name, value, label, here_picked, by_chance, searched, fires))
    return rows


def _scored(
    place: Place,
    variable: str,
    value: str,
    label: Bool[np.ndarray, " unit"],
    picks: Mapping[str, tuple[int, float]],
    by_chance: tuple[float, float],
    searched: float,
    firing: tuple[int, ...],
) -> Row:
    by = place.choosing
    probe = fit_probe(place.vectors, label, by)
    chosen, sign, areas, bits, there = [], [], [], [], []
    for method in METHODS:
        if method == PROBE:
            which, direction, values = -1, 1.0, probe.values
            at = float(auroc(ranked(values[by, None]), label[None, by])[0, 0])
        elif method in picks:
            which, at = picks[method]
            direction = -1.0 if at < 0.5 else 1.0
            values, at = direction * place.given[method].values[:, which], 0.5 + abs(at - 0.5)
        else:
            which, direction, at, values = -1, 1.0, np.nan, None
        chosen.append(which)
        sign.append(direction)
        there.append(at)
        if values is None:
            areas.append((np.nan, np.nan, np.nan))
            bits.append(Estimate(np.nan, np.nan, np.nan, 0, "inputs"))
            continue
        area = float(auroc(ranked(values[~by, None]), label[None, ~by])[0, 0])
        low, high = auroc_interval(area, int(label[~by].sum()), int((~label[~by]).sum()))
        areas.append((area, float(low), float(high)))
        bits.append(mutual_information(values[~by] > best_threshold(values[by], label[by]), label[~by]))
    parts = split(place.given[FEATURE].values, place.decoder, label, by, chosen[0], sign[0], probe, searched)
    return Row(
        variable, value, place.position, tuple(chosen), tuple(sign), tuple(areas), tuple(bits), tuple(there),
        by_chance, parts, firing, int((~by).sum()), int(label[~by].sum()),
    )  # fmt: skip
