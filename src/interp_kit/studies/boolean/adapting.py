"""Adaptation of the trained models when their most important head is held at its mean: in words, and as a section."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp_kit.analysis.causal.lesion_result import ARMS, LesionResult, recovery
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.reports.links import Link
from interp_kit.reports.report import Figure, Section, Table

if TYPE_CHECKING:
    from interp_kit.studies.boolean.study import Study


def lesions(study: "Study") -> list[LesionResult]:
    """Those of the models that have one."""
    return [m.lesion for m in study.models if m.lesion is not None]


def end(found: list[LesionResult], arm: str, time: int = -1) -> Estimate:
    """Share of right answers over models, in an arm at a time."""
    return mean_estimate([r.accuracy_of(arm, time).value for r in found], "seeds", (0.0, 1.0))


def growth(found: list[LesionResult]) -> tuple[list[str], np.ndarray]:
    """Of each model the component that grew most beyond its control, and by how much (model,)."""
    tables = [r.takeover for r in found]
    return [str(t["component"].iloc[0]) for t in tables], np.array([float(t["growth"].iloc[0]) for t in tables])


def adapting(study: "Study") -> tuple[str, ...]:
    """Section on the loss of the most important head; empty if it was not asked for."""
    found = lesions(study)
    if not found:
        return ()
    intact = end(found, "control", 0)
    before = f"{intact.value:.2f} in each" if _alike(found) else intact.short()
    return (
        f"With its most important head held at its mean, a model gets {end(found, 'lesion', 0).short()} of its answers"
        f" right (intact {before}); after {found[0].config['steps']} training steps with the head still held"
        f" {end(found, 'lesion').short()}, after the same steps without a lesion {end(found, 'control').short()} (n ="
        f" {numbered(len(found), 'seeds')}). {_repair(found)}",
    )


def _grown(found: list[LesionResult]) -> str:
    names, grown = growth(found)
    kind, many = Counter("an MLP" if name.endswith("MLP") else "a head" for name in names).most_common(1)[0]
    return (
        f"The component whose importance grows most with the head held, beyond the control, is {kind} in {many} of"
        f" {numbered(len(found), 'models')}; it grows by {mean_estimate(grown).short()} of logit difference on average."
    )


def _alike(found: list[LesionResult]) -> bool:
    """True if the intact models are all right equally often."""
    return len({r.accuracy_of("control", 0).value for r in found}) == 1


def _repair(found: list[LesionResult]) -> str:
    direct, total = (np.array([getattr(r, name).mean() for r in found]) for name in ("direct", "total"))
    repairing = sum(r.repair.low > 0 for r in found)
    where = f"in {repairing} of {len(found)} models" if repairing else "in none of the models"
    return (
        f"Untrained, the right answer's lead (logit difference) falls by {mean_estimate(total).short()};"
        f" {mean_estimate(direct).short()} of it is the head's direct effect, of which later components make a part"
        f" good {where}."
    )


def table(found: list[LesionResult]) -> pd.DataFrame:
    """One row per model."""
    names, grown = growth(found)
    rows = []
    for r, name, most in zip(found, names, grown, strict=True):
        row: dict[str, object] = {"model": r.config["model"], "held": "; ".join(r.config["edits"])}
        row["answers right"] = r.accuracy_of("control", 0).value
        row["at once"] = r.accuracy_of("lesion", 0).value
        row |= {f"after, {arm}": r.accuracy_of(arm).value for arm in ARMS}
        row |= {"direct effect": float(r.direct.mean()), "total effect": float(r.total.mean())}
        row |= {"grew most": name, "growth beyond control": most, "n": r.n}
        rows.append(row)
    return pd.DataFrame(rows)


def section(study: "Study", tries: tuple[Link, ...]) -> tuple[Section, ...]:
    """The section, or none if no model was cut."""
    found = lesions(study)
    if not found:
        return ()
    curves = np.stack([r.accuracy.mean((1, 3)) for r in found])  # (model, arm, time)
    text = (
        *adapting(study),
        _grown(found),
        "Each model's most important head (by mean ablation) is held at the mean that it had in the intact model, at"
        f" each position, while a copy of the model is trained on for {found[0].config['steps']} steps of"
        f" {found[0].config['batch_size']} texts. Another copy is trained on the same texts without a lesion, as"
        " training alone changes components too. The direct effect keeps all other components as they were: a smaller"
        " total effect is self-repair, a larger one means that later components read the head.",
    )
    parts = (
        Figure(
            recovery(found[0].step, curves.swapaxes(0, 1), "seeds", "Without the most important head"),
            "Share of answers right, all text before being right, over training steps (n ="
            f" {numbered(len(found), 'models')}, {found[0].n} worlds, one order of texts each; bands: 95 % intervals"
            " over models, none where all agree). Control: the same steps, no lesion.",
        ),
        Figure(found[0].plot(figure="importance"), f"{found[0].config['model']}: {found[0].figures()[1][1]}"),
        Table(table(found), "By model: accuracy before, at once and after; effects of the head; what grew most."),
    )
    return (Section("How the models adapt to a lesion", text, parts, tries),)
