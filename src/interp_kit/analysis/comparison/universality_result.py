"""Result of matching units of one network with those of others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.comparison.correlations import jackknife, without_each
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered, some
from interp_kit.core.stats.intervals import Estimate
from interp_kit.core.stats.told import CHANCE
from interp_kit.reports.plotting import intervals

MEASURES = ("best match", "rotated", "excess", "one to one", "CKA")
UNIVERSAL = 0.5  # excess correlation (Gurnee et al. 2024)


@dataclass(frozen=True, kw_only=True)
class UniversalityResult(AbstractResult):
    """Correlation of units with their counterparts in other networks, by site.

    Attributes:
        model: Names of the networks.
        hook: (site,) Where units were read.
        kind: "neuron" or "feature".
        pair: (pair, 2) Numbers of the network whose units are matched, and of the one they are matched in.
        mean: (site, pair, measure) Over the units that are not constant: correlation with the best match; the same if
            the other network is rotated; their difference; correlation by one-to-one assignment; debiased CKA.
        left: (site, pair, block, measure) The same without each block of texts, by which intervals are made.
        correlation, rotated: (site, network, unit) of each unit, mean over the other networks; nan if it is constant.
        match: (site, pair, unit) Its best match, -1 if it is constant.
        texts, tokens: Texts and tokens that correlations were measured on, which are not those of the matching.
    """

    rows_shown: ClassVar[int] = 18
    model: tuple[str, ...]
    hook: tuple[str, ...]
    kind: str
    pair: np.ndarray
    mean: np.ndarray
    left: np.ndarray
    correlation: np.ndarray
    rotated: np.ndarray
    match: np.ndarray
    texts: int
    tokens: int

    @property
    def universal(self) -> np.ndarray:
        """(site, network) Share of its units that are not constant whose excess correlation is above 0.5."""
        excess = self.correlation - self.rotated
        known = np.isfinite(excess)
        return ((excess > UNIVERSAL) & known).sum(-1) / np.maximum(known.sum(-1), 1)

    def over_texts(self, site: int, measure: str) -> tuple[float, float, float]:
        """The mean over pairs with its 95 % interval over texts: for these networks, other texts."""
        j = MEASURES.index(measure)
        value = float(self.mean[site, :, j].mean())
        return value, *jackknife(self.left[site, :, :, j].mean(0), value)

    def over_models(self, site: int, measure: str) -> tuple[float, float, float]:
        """The same with its 95 % interval over networks, as pairs that share a network are not independent: each is
        left out with all its pairs. nan for fewer than four."""
        values = self.mean[site, :, MEASURES.index(measure)]
        if len(self.model) < 4:
            return float(values.mean()), float("nan"), float("nan")
        left = without_each(len(self.model), [tuple(p) for p in self.pair.tolist()], lambda k: float(values[k].mean()))
        return float(values.mean()), *jackknife(left, float(values.mean()))

    def to_frame(self) -> pd.DataFrame:
        """One row per site and measure: mean over pairs, interval over texts, interval over networks."""
        rows = []
        for i, hook in enumerate(self.hook):
            for measure in MEASURES:
                value, low, high = self.over_texts(i, measure)
                _, low_models, high_models = self.over_models(i, measure)
                rows.append(
                    {
                        "site": hook,
                        "measure": measure,
                        "result": value,
                        "low": low,
                        "high": high,
                        "n": self.texts,
                        "unit": "texts",
                        "low_models": low_models,
                        "high_models": high_models,
                        "models": len(self.model),
                    }
                )
            rows.append(
                {
                    "site": hook,
                    "measure": "universal share",
                    "result": float(self.universal[i].mean()),
                    "n": self.texts,
                    "unit": "texts",
                    "models": len(self.model),
                }
            )
        return pd.DataFrame(rows)

    def by_pair(self, measure: str = "excess") -> pd.DataFrame:
        """One row per site and ordered pair of networks."""
        j = MEASURES.index(measure)
        return pd.DataFrame(
            [
                {"site": hook, "model": self.model[a], "in": self.model[b], measure: self.mean[i, k, j]}
                for i, hook in enumerate(self.hook)
                for k, (a, b) in enumerate(self.pair.tolist())
            ]
        )

    def caption(self) -> str:
        """See AbstractResult."""
        what = "within each position" if self.config["within"] == "position" else "over all tokens"
        return (
            f"Correlation {what} of each {self.kind} with its best match in another network, matched on half of the"
            f" texts and measured on the other (n = {numbered(self.texts, 'texts')}, {self.tokens:,} tokens;"
            f" {len(self.model)} networks, {len(self.pair)} ordered pairs), beside the same after a random rotation of"
            " the other network's activations (Gurnee et al. 2024), and debiased CKA, which has no baseline here."
            " Untrained networks can be more alike than trained ones, by either. 95 % jackknife intervals over texts;"
            " those over networks are in the table."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: by site, are units matched better than in a rotated network?"""
        found = []
        for i, hook in enumerate(self.hook):
            low, high = self.over_texts(i, "excess")[1:]
            excess = Estimate(self.over_texts(i, "excess")[0], low, high, self.texts, "texts")
            best, rotated = (self.over_texts(i, measure)[0] for measure in ("best match", "rotated"))
            numbers = (
                f"correlation {best:.2f} with the best match in another network, {rotated:.2f} after a random rotation"
                f" (difference {excess.short()}, n = {numbered(self.texts, 'texts')}; {len(self.model)} networks:"
                f" {some(self.model)})"
            )
            if low > 0:
                share = f"{self.universal[i].mean():.0%} are universal, above it by {UNIVERSAL} or more"
                kinds = f"{self.kind.capitalize()}s at {hook}"
                found.append(
                    f"{kinds} are more alike between networks than a rotation makes them: {numbers}; {share}. Networks"
                    " that read the same inputs can be so untrained: hold it against the same of `untrained` ones, each"
                    " of another seed."
                )
            else:
                found.append(f"That {self.kind}s at {hook} are alike between networks {CHANCE}: {numbers}.")
        return tuple(found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Every measure by site, with intervals over texts."""
        series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {
            measure: tuple(np.array([self.over_texts(i, measure) for i in range(len(self.hook))]).T)
            for measure in ("best match", "rotated", "one to one", "CKA")
        }  # pyright: ignore[reportAssignmentType]
        title = (
            f"{self.kind}s of {len(self.model)} networks, {self.config['task']} (n = {numbered(self.texts, 'texts')})"
        )
        label = "correlation of matched units; CKA"
        return intervals(self.hook, dict(series), ax=ax, title=title, x_label=label, reference={"none": 0.0})
