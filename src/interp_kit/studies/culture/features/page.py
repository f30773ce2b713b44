"""The features of a culture model as a page of grids."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.reports.plotting import OVER_DARK, OVER_LIGHT, heatmap, new_axes
from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.culture.features.page_use import use_findings, use_sections
from interp_kit.studies.culture.features.study import FACTORS, SIZES, Card, FeatureStudy
from interp_kit.tasks.culture.figures import plot_quizzes

GRID_NAMES = ("1st", "2nd", "3rd", "4th")


def features_page(study: FeatureStudy) -> Report:
    """The page: what the autoencoder keeps, what its features tell and move, one card per feature."""
    return Report(
        title=f"Features of {study.name} at {study.sae.hook}, on grids",
        findings=findings(study),
        sections=(_kept(study), _aligned(study), *use_sections(study), *(_card(card) for card in study.cards)),
        configs={"sae": dict(study.sae.config), "alignment": dict(study.aligned.config)},
    )


def findings(study: FeatureStudy) -> tuple[str, ...]:
    """The sentences on top."""
    sae = study.sae
    kept = (
        f"Of {len(sae.frequency)} features {sae.l0['held_out'].value:.0f} are on per token; they explain"
        f" {sae.variance_explained['held_out']} of the variance on held-out quizzes. {sae.dead.value:.0%} never fire."
    )
    return (kept, *study.aligned.findings(), *use_findings(study))


def _kept(study: FeatureStudy) -> Section:
    axes = heatmap(
        study.recovered,
        [str(size) for size in SIZES],
        [f"{factor:g}" for factor in FACTORS],
        title="Answers kept by the largest features",
        label="cross-entropy recovered",
        limits=(0.0, 1.0),
        x_label="multiplier",
        y_label="features written per token",
    )
    for (y, x), value in np.ndenumerate(study.recovered):
        axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8,
                  color=OVER_DARK if value < 0.6 else OVER_LIGHT)  # fmt: skip
    rows = [
        {"features": size, "multiplier": factor, "recovered": study.recovered[i, j], "low": study.low[i, j],
         "high": study.high[i, j]}
        for i, size in enumerate(SIZES)
        for j, factor in enumerate(FACTORS)
    ]  # fmt: skip
    return Section(
        "What the features keep",
        ("At every token only its largest features are written, times a multiplier, in place of the site.",),
        (
            Figure(study.sae.plot(), study.sae.caption()),
            Figure(
                axes,
                "Cross-entropy of the answer's cells recovered between the mean of the named position (0) and the model"
                " as it is (1); intervals over quizzes in the table.",
            ),
            Table(pd.DataFrame(rows), "Cross-entropy recovered, with 95 % intervals over quizzes.", folded=True),
        ),
    )


def _aligned(study: FeatureStudy) -> Section:
    found = study.aligned
    parts: list[Figure | Table] = [Figure(found.plot(what="tell"), found.caption("tell"))]
    if len(found.use_variable):
        parts.append(Figure(found.plot(what="use"), found.caption("use")))
    parts.append(
        Table(found.summary(), "Every class: its feature, the controls, and what exchanges move.", folded=True)
    )
    return Section(
        "Rules and latents",
        (
            "A feature is chosen on half of the quizzes and scored on the others. That it tells a rule does not say"
            " that it is used: the features are exchanged alone between two quizzes that differ in the latent.",
        ),
        tuple(parts),
    )


def _card(card: Card) -> Section:
    effects = [f"{'raises' if sign else 'lowers'} " + ", ".join(f"{t} ({v:+.2f})" for t, v in part)
               for sign, part in ((True, card.raises), (False, card.lowers))]  # fmt: skip
    return Section(
        f"Feature {card.feature}",
        (
            f"{f'{card.tells}. ' if card.tells else ''}Active on {card.share:.1%} of the tokens, at most"
            f" {card.most:.1f}; per unit it {'; '.join(effects)} (logits of tokens).",
        ),
        (
            Figure(
                plot_quizzes(card.quizzes, {"fires": card.fires}),
                f"The quizzes in which feature {card.feature} is largest; diamonds: above half of its largest value"
                " there, at the token of the cell.",
            ),
            Figure(_map(card), f"Mean activation of feature {card.feature} by cell."),
        ),
    )


def _map(card: Card) -> Axes:
    wide = np.full((10, 43), np.nan)
    for grid in range(4):
        wide[:, grid * 11 : grid * 11 + 10] = card.place[grid]
    axes = new_axes(6.4, 2.0)
    drawn = axes.imshow(
        np.ma.masked_invalid(wide),
        cmap="viridis",
        interpolation="none",
        vmin=0,
        vmax=max(float(card.place.max()), 1e-9),
    )
    axes.figure.colorbar(drawn, ax=axes, label="mean activation", fraction=0.02)
    axes.set_xticks([grid * 11 + 4.5 for grid in range(4)], [f"{name} grid" for name in GRID_NAMES])
    axes.set_yticks([])
    return axes
