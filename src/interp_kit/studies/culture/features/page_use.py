"""Sections of the page of features: cells that a rule changes, steering, and the vocabulary."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate
from interp_kit.reports.plotting import SOFT, intervals, new_axes
from interp_kit.reports.report import Figure, Section, Table
from interp_kit.studies.culture.features.steering import ARMS, FEATURES, RANDOM, UNTRAINED, Steering
from interp_kit.studies.culture.features.transform import VISIBLE, TransformCells

if TYPE_CHECKING:
    from interp_kit.studies.culture.features.study import FeatureStudy

SURE = 0.05


def use_findings(study: "FeatureStudy") -> tuple[str, ...]:
    """The sentences on these sections."""
    said = []
    if (found := study.transform) is not None:
        above = found.above("features")
        verdict = "above" if above.low > 0 else "not above"
        said.append(
            f"Changed cells: whether the rule changes a cell is read off feature {found.name[0]} before the cell is"
            f" written with AUROC {found.of('features')}, {verdict} what is seen without a rule"
            f" ({found.name[found.kind.index(VISIBLE)]}, {found.of(VISIBLE)})."
        )
    said += [_steered_finding(one) for one in study.steered]
    written = study.written
    said.append(
        f"{written.aligned} of the live features point at one token more than 95 % of random directions do"
        f" (cosine above {written.usual:.2f})."
    )
    return tuple(said)


def _steered_finding(one: Steering) -> str:
    shares, p = one.held_out()
    if not shares[FEATURES].value and not (one.answers[0] == 2).any():
        return (
            f"Steered to {one.goal}, no answer follows, whatever the number of features and the factor (n ="
            f" {numbered(one.answers.shape[-1], 'quizzes')}): not above the control."
        )
    size, factor = one.best()
    gained = p < SURE and shares[FEATURES].value > shares[RANDOM].value
    count, length = _count(one.sizes[size]), one.length[size] * one.factors[factor]
    return (
        f"Steered to {one.goal}: with {count} added, times {one.factors[factor]:g} ({length:.2g} of the site's own"
        f" length), {shares[FEATURES]} of the answers follow; with as many random features of the same length"
        f" {shares[RANDOM].value:.2f}, in an untrained network {shares[UNTRAINED].value:.2f}:"
        f" {'above' if gained else 'not above'} the control (sign test, p {'< 0.001' if p < 0.001 else f'= {p:.2g}'})."
    )


def _ends(shares: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, low, high = np.array([(share.value, share.low, share.high) for share in shares]).T
    return value, low, high


def _count(size: int) -> str:
    return f"{size} feature{'s' * (size > 1)}"


def use_sections(study: "FeatureStudy") -> tuple[Section, ...]:
    """The sections."""
    changed = () if study.transform is None else (_changed(study.transform),)
    return *changed, *(_steering(one) for one in study.steered), _written(study)


def _changed(found: TransformCells) -> Section:
    shares = [found.of(kind) for kind in found.kind]
    names = [f"{kind}: {name}" for kind, name in zip(found.kind, found.name, strict=True)]
    series = {"changed cells": _ends(shares)}
    rows = [
        {"kind": kind, "chosen": name, "AUROC": share.value, "low": share.low, "high": share.high,
         "above what is seen": (above := found.above(kind)).value, "above, low": above.low, "above, high": above.high,
         "n": share.n}
        for kind, name, share in zip(found.kind, found.name, shares, strict=True)
    ]  # fmt: skip
    return Section(
        "Cells that the rule changes",
        (
            "Read where a cell of the answer is predicted: does a feature tell that the cell will differ from the same"
            " cell of B? The best of each kind is chosen on every second quiz and scored on the others.",
        ),
        (
            Figure(
                intervals(names, series, title="changed cells told (n ="
                    f" {numbered(shares[0].n, 'quizzes')})", x_label="AUROC",
                          limits=(0.4, 1.02)),
                "Area under the ROC curve over the cells of a quiz, mean over held-out quizzes with 95 % intervals."
                " What is seen: colours of B and of the last cell written, and whether that or the cell above is"
                " changed.",
            ),
            Table(pd.DataFrame(rows), "The same, and the difference to what is seen, quiz by quiz.", folded=True),
        ),
    )  # fmt: skip


def _steering(one: Steering) -> Section:
    names = [f"{_count(size)}, x {factor:g}" for size in one.sizes for factor in one.factors]
    cells = [(i, j) for i in range(len(one.sizes)) for j in range(len(one.factors))]
    series = {arm: _ends([one.share(arm, *cell) for cell in cells]) for arm in ARMS}
    n = one.answers.shape[-1]
    lengths = ", ".join(f"{size}: {x:.2f}" for size, x in zip(one.sizes, one.length, strict=True))
    return Section(
        f"Steered to {one.goal}",
        (
            "The largest features are added times a factor. Random features are as many and scaled to the same length;"
            " the untrained network gets the same vectors.",
        ),
        (
            Figure(
                intervals(names, series, title=f"steered to {one.goal} (n ="
                    f" {numbered(n, 'quizzes')})", x_label="answers as steered",
                          limits=(-0.02, 1.02)),
                f"Share of answers at one cell that are as steered (n = {numbered(n, 'distinct quizzes')},"
                " Wilson's 95 % intervals)."
                f" Length of what is added at factor 1, in mean lengths of the site, by number of features: {lengths}."
                f" Without steering {float((one.unedited == 1).mean()):.2f} are right,"
                f" {float((one.unedited == 2).mean()):.2f} as steered.",
            ),
            Table(one.to_frame(), "By features added and factor.", folded=True),
        ),
    )  # fmt: skip


def _written(study: "FeatureStudy") -> Section:
    axes = new_axes(5.2, 3.8)
    found = study.written
    drawn = axes.scatter(found.moments[:, 1], found.moments[:, 2], c=found.moments[:, 0], s=9, cmap="viridis")
    axes.figure.colorbar(drawn, ax=axes, label="standard deviation")
    axes.set(
        title=f"What features add to the logits (n = {numbered(int(study.alive.sum()), 'live features')})",
        xlabel="skewness over tokens", ylabel="kurtosis over tokens",
    )  # fmt: skip
    low, high = np.quantile(found.random_moments[:, 2], (0.025, 0.975))
    axes.axhspan(low, high, color=SOFT, alpha=0.2, linewidth=0)
    axes.axhline(3, color=SOFT, linestyle="--", linewidth=1)
    return Section(
        "Features and the vocabulary",
        ("A feature of one colour has a high kurtosis: positive skewness raises it, negative lowers it.",),
        (
            Figure(
                axes,
                "Moments of W_dec W_U, the final layer norm left out. Dashed: a normal distribution has 3; grey: 95 %"
                f" of random directions. {found.aligned} of the features have a cosine with one token above"
                f" {found.usual:.2f}, as 5 % of random directions do.",
            ),
        ),
    )
