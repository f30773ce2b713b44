"""Circuits of models that were trained: edges chosen on some pairs, their faithfulness measured on others.

The question to the boolean models is `newB` -> `newD`, as in the audit; to a culture model, a colour of a rule and the
first cell that it changes. Nobody knows the true circuit here: faithfulness, and what random edges give, is all there
is to go by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from loguru import logger
from scipy.stats import spearmanr

from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.analysis.circuits.edge_scores import score_edges
from interp_kit.analysis.circuits.faithfulness import FaithfulnessResult, faithfulness
from interp_kit.core.pairs import PairBatch
from interp_kit.core.parallel import in_processes
from interp_kit.core.showing import PROGRESS
from interp_kit.core.stats.intervals import SHARE, Estimate
from interp_kit.engine.metrics import first_difference, logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel
from interp_kit.registry.models import load, task_of
from interp_kit.reports.report import Figure, Report, Section, Table, page_path
from interp_kit.tasks.culture.grids import cell_name
from interp_kit.tasks.culture.task import CultureTask

BOOLEAN = ("boolean-gpt2", *(f"boolean-gpt2-seed{i}" for i in range(1, 5)))
CULTURE, RULE, VARIABLE = 0, "frame", "c0"
SHOWN = 14  # edges of a picture
ENOUGH = 0.9


@dataclass(frozen=True)
class Examined:
    """One model: edges by position for the eye and of all positions for the curve, faithfulness on other pairs, and the
    same edges each patched alone."""

    circuit: Circuit
    by_position: Circuit | None
    curve: FaithfulnessResult
    mean_curve: FaithfulnessResult | None
    exact: Circuit | None


def boolean(name: str) -> Examined:
    """newB -> newD: edges chosen on the 16 minimal pairs, measured on other pairings of the same 16 texts (there are no
    others in which newB decides newD), no two of which share a text."""
    model = load(name)
    task = task_of(model)
    chosen, rest = task.pairs("newB", "newD"), task.pairs("newB", "newD", hold=("A",))
    used = set(chosen.texts())
    others = rest.take([i for i, pair in enumerate(rest.texts()) if pair not in used])
    return _examined(model, chosen, others.apart())


def culture(id: int = CULTURE, *, pairs: int = 24, checkpoint_dir: str | Path | None = None) -> Examined:
    """A colour of one rule and the first cell that it changes; half of the pairs choose edges, half measure them."""
    name = f"gpt_{id:03d}"
    model = load(f"culture/{name}" if checkpoint_dir is None else Path(checkpoint_dir) / f"{name}.pth")
    task = CultureTask(tasks=(RULE,))
    drawn = task.pairs(VARIABLE, cell_name("f_B", 44), completion="clean", limit=4 * pairs)
    preferred = [sweep(model, side, [], first_difference(drawn)).baseline[0] for side in (drawn.clean, drawn.corrupt)]
    told = np.flatnonzero((preferred[0] > 0) & (preferred[1] < 0))[:pairs]
    if len(told) < 4:
        raise ValueError(f"the model tells only {len(told)} of {len(drawn)} pairs apart")
    half = len(told) // 2
    measured = first_difference
    chosen, rest = drawn.take(told[:half].tolist()), drawn.take(told[half:].tolist())
    circuit = score_edges(model, chosen, method="eap-ig", metric=measured, steps=16)
    curve = faithfulness(model, rest, circuit, metric=measured, controls=2)
    return Examined(circuit, None, curve, None, None)


def _examined(model: HookedModel, chosen: PairBatch, rest: PairBatch) -> Examined:
    circuit = score_edges(model, chosen, method="eap-ig", metric=logit_difference)
    by_position = score_edges(model, chosen, method="eap-ig", by="position", steps=circuit.config["steps"])
    curve = faithfulness(model, rest, circuit, sizes="fine")
    mean = faithfulness(model, rest, circuit, sizes="fine", ablation="mean", controls=3)
    return Examined(circuit, by_position, curve, mean, score_edges(model, chosen, method="exact"))


def smallest(curve: FaithfulnessResult, share: float = ENOUGH) -> int | None:
    """The fewest edges, but not all of them, from which on the whole interval stays above that share; None where it
    does for none."""
    as_whole = (curve.sizes[-1] == curve.total) & np.isclose(curve.values, curve.values[-1], rtol=SHARE, atol=0).all(1)
    good = (as_whole & np.isnan(curve.low)) | (curve.low >= share)  # pairs that agree have no interval
    kept = [int(size) for i, size in enumerate(curve.sizes) if good[i:].all() and size < curve.total]
    return kept[0] if kept else None


def agreement(found: Examined) -> float:
    """Spearman's rank correlation over edges of attributed and exact scores, by absolute value; nan without exact."""
    if found.exact is None:
        return float("nan")
    return float(spearmanr(np.abs(found.circuit.score), np.abs(found.exact.score))[0])  # pyright: ignore[reportArgumentType]


def sentences(name: str, found: Examined) -> tuple[str, ...]:
    """Meaning of the curve, and its limits."""
    curve = found.curve
    size = smallest(curve)
    random = curve.random.mean(0)
    if size is None:
        first = f"{name}: no circuit found; only with all {curve.total} edges does it answer as the whole model."
    else:
        at = int(np.flatnonzero(curve.sizes == size)[0])
        value, low, high = (float(ends[at]) for ends in (curve.value, curve.low, curve.high))
        kept = Estimate(value, low, high, curve.n, "pairs")
        first = (
            f"{name}: {size} of {curve.total} edges keep {kept.short()}"
            f" of the logit difference on {curve.n} pairs that did not choose them, no two"
            f" of which share a text; as many random edges keep {round(float(random[at]), 2) + 0.0:.2f}."
        )
    second = f"CPR {curve.cpr:.2f} and CMD {curve.cmd:.2f}; random orders {curve.random_cpr.mean():.2f} and"
    second += f" {curve.random_cmd.mean():.2f}. Gradients at {found.circuit.config['steps']} steps miss"
    second += f" {found.circuit.config['incomplete']:.1%} of the gap."
    return first, second


LIMITS = (
    "What cannot be said: edges that carry the same in both texts of a pair are outside of the question, and kept or"
    " cut without effect under counterfactual ablation; mean ablation cuts them too, and puts an average in their"
    " place. Of the boolean models edges were chosen and measured on different pairings of the same 16 texts, which are"
    " all in which newB decides newD. A faithful circuit need not be the only one, nor the smallest: edges were ranked,"
    " not searched.",
)


def page(found: dict[str, Examined]) -> Report:
    """Each model with its circuit and its curve."""
    sections = []
    for name, one in found.items():
        drawn = (one.by_position or one.circuit).top(SHOWN)
        parts = [Figure(drawn.plot(), f"The best {drawn.caption()}")]
        parts.append(Figure(one.curve.plot(), one.curve.caption()))
        if one.mean_curve is not None:
            parts.append(Figure(one.mean_curve.plot(), one.mean_curve.caption()))
        table = Table(one.circuit.top(50).to_frame(), "The 50 largest edges.", folded=True)
        sections.append(Section(name, sentences(name, one), (*parts, table)))
    rows = []
    for name, one in found.items():
        mean = one.mean_curve
        rows.append(
            {
                "model": name,
                "edges": one.curve.total,
                f"kept for {ENOUGH}": str(smallest(one.curve) or "all"),
                f"kept for {ENOUGH}, mean ablation": "not run" if mean is None else str(smallest(mean) or "all"),
                "CPR": one.curve.cpr,
                "random": float(one.curve.random_cpr.mean()),
                "CMD": one.curve.cmd,
                "rank correlation with exact": agreement(one),
                "pairs": one.curve.n,
            }
        )
    summary = Section(
        "All models",
        LIMITS,
        (
            Table(
                pd.DataFrame(rows),
                f"Edges kept for a faithfulness of {ENOUGH}, by either ablation; random: CPR of random orders.",
            ),
        ),
    )
    findings = tuple(sentences(name, one)[0] for name, one in found.items())
    configs = {name: dict(one.circuit.config) for name, one in found.items()}
    return Report("Circuits of trained models", findings, (summary, *sections), configs)


def _one(name: str) -> Examined:
    found = culture() if name.startswith("gpt_") else boolean(name)
    logger.info("{}: done", name)
    return found


def main(
    out: Path,
    names: Sequence[str] = (*BOOLEAN, f"gpt_{CULTURE:03d}"),
    *,
    jobs: int | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Examine these models and write the page."""
    out = page_path(out)
    found = in_processes(_one, names, jobs, name="models", progress=progress)
    return page(dict(zip(names, found, strict=True))).write(out)
