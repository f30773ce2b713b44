"""Findings that the figures of the study support, in sentences. Each depends on the numbers: other models get other
words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp_kit.core.showing import numbered
from interp_kit.core.stats.seeds import over_seeds

if TYPE_CHECKING:
    from interp_kit.studies.graphs.accuracy import GraphsEvaluation
    from interp_kit.studies.graphs.study import Inside, Study

DIRECT, TRACE = "direct", "trace"
TRAINED = (0, 1, 2)
CARRIES = 0.5  # from which share an exchange is called one that carries the variable
KEEPS = 0.9  # share of controls that must keep their answer


def cells(evaluation: "GraphsEvaluation", split: str = "test") -> pd.DataFrame:
    """The rows of one split."""
    return evaluation.to_frame().query("split == @split")


def mean_at(frame: pd.DataFrame, depths: Sequence[int]) -> float:
    """Mean accuracy over the rows of these depths."""
    return float(frame["accuracy"].to_numpy()[np.isin(frame["depth"].to_numpy(), list(depths))].mean())


def ahead(study: "Study", form: str) -> str:
    """At which kinds and depths a model beats the better of both baselines, on graphs never seen."""
    frame = cells(study.evaluations[form])
    trained = frame[frame["depth"].isin(TRAINED)]
    beats, level = trained[trained["above_low"] > 0], trained[trained["above_high"] < 0]
    undecided = len(trained) - len(beats) - len(level)
    names = [f"{kind}, depth {depth}," for kind, depth in zip(level["kind"], level["depth"], strict=True)]
    behind = f", behind at {' and '.join(names).rstrip(',')}" if names else ""
    between = f", undecided at {undecided}" if undecided else ""
    return (
        f"The {form} model beats the better of both baselines at {len(beats)} of {len(trained)} kinds and depths of its"
        f" training{behind}{between} (95 % intervals over classes of graphs)."
    )


def deeper(study: "Study", form: str) -> str:
    """Performance of a model beyond its depths."""
    parts = []
    for kind in ("do", "see"):
        last, new = (study.evaluations[form].accuracy("test", kind, depth) for depth in (TRAINED[-1], TRAINED[-1] + 1))
        row = cells(study.evaluations[form])
        row = row[(row["kind"] == kind) & (row["depth"] == TRAINED[-1] + 1)].iloc[0]
        above = "above" if row["above_low"] > 0 else "below" if row["above_high"] < 0 else "not distinguishable from"
        best = max(row["majority"], row["own_rows"])
        parts.append(
            f"{kind}: {last.short()} at depth {TRAINED[-1]}, {new.short()} at depth {TRAINED[-1] + 1}, {above} the"
            f" better baseline ({best:.2f})"
        )
    return f"Deeper than trained, the {form} model: {'; '.join(parts)}."


def unseen(study: "Study", form: str) -> str:
    """Graphs never seen against graphs of training, at depths of training."""
    means = {}
    for split in ("train", "test"):
        frame = cells(study.evaluations[form], split)
        means[split] = mean_at(frame, TRAINED)
    return (
        f"On graphs never seen the {form} model is right in {means['test']:.2f}, on those of training in"
        f" {means['train']:.2f} (mean over kinds and depths)."
    )


def against(study: "Study") -> str:
    """Trace against direct, by depth."""
    parts = []
    for kind in ("do", "see"):
        for depth in (*TRAINED, TRAINED[-1] + 1):
            direct, trace = (study.evaluations[form].accuracy("test", kind, depth) for form in (DIRECT, TRACE))
            if trace.low > direct.high or direct.low > trace.high:
                first = TRACE if trace.low > direct.high else DIRECT
                values = f"{trace.value:.2f} with a trace, {direct.value:.2f} without"
                parts.append(f"{kind} at depth {depth}, {first} ahead ({values})")
    if not parts:
        return "At no kind and depth do the intervals of the trace and the direct model part."
    return "Where the intervals of the two models part: " + "; ".join(parts) + "."


def follows(study: "Study") -> str:
    """True if the trace model uses what it writes."""
    o = study.overwritten
    verdict = (
        "The answer follows what is written"
        if o.follows.low > max(o.keeps.high, CARRIES)
        else "The answer does not follow what is written"
        if o.follows.high < o.keeps.low
        else "Whether the answer follows what is written is undecided"
    )
    return (
        f"{verdict}: with two entries of one factor swapped, {o.follows.short()} of answers are what follows from them,"
        f" {o.keeps.short()} stay as they were (n = {numbered(o.follows.n, o.follows.unit)}); not overwritten,"
        f" {o.untouched.short()} are right."
    )


def carried(inside: "Inside") -> tuple[str, ...]:
    """Places of the steps of the chain, by exchange."""
    solved, asked = inside.chain
    if not inside.exchanged:
        return (f"{inside.model} solves {solved} of {asked} chain questions: too few to exchange a step.",)
    said = []
    for mediator, found in inside.exchanged.items():
        frame = found.to_frame()
        clean = frame[frame["kept"] >= KEEPS]
        frame = clean if len(clean) else frame
        best = frame.iloc[int(np.nanargmax(frame["accuracy"]))]
        verdict = "stands alone" if best["low"] > CARRIES and best["kept"] >= KEEPS else "does not stand alone"
        where = f'the input of layer {best["layer"]} at "{best["position"]}"'
        said.append(
            f"{inside.model}, {mediator}: it {verdict} at one place of the residual stream. The best that moves at most"
            f" {1 - KEEPS:.0%} of controls is {where}: {best['accuracy']:.2f}"
            f" [{best['low']:.2f}, {best['high']:.2f}] of what is predicted becomes what do({mediator}) makes of it"
            f" (n = {best['n']}), {best['kept']:.2f} of controls stay."
        )
    return tuple(said)


def readable(inside: "Inside") -> str:
    """Places where steps are more readable than from the tokens, and from an untrained network."""
    frame = inside.probes.to_frame()
    frame = frame.assign(more=frame["score"] - np.fmax(np.fmax(frame["raw_tokens"], frame["untrained"]), 0))
    parts = []
    for label, rows in frame[frame["more"].notna()].groupby("label", sort=False):
        best = rows.iloc[int(np.argmax(np.asarray(rows["more"])))]
        parts.append(
            f"{label}: R² {best['score']:.2f} at {best['cell']}, {best['position']}, against"
            f" {max(best['raw_tokens'], best['untrained'], 0):.2f} from tokens or an untrained network"
        )
    return f"{inside.model}, most readable above the baselines: {'; '.join(parts)}."


def parts_shared(inside: "Inside") -> str:
    """Overlap of the most important parts between kinds and depths."""
    said = [f"{a} ~ {b}: {found.index[0]:.2f} (chance {found.stratified[0]:.2f})"
            for (a, b), found in inside.overlaps.items()]  # fmt: skip
    return f"{inside.model}, Jaccard of the most important parts: {'; '.join(said)}."


def arms_gain(study: "Study") -> pd.DataFrame:
    """One row per objective: gain on the start, mean over kinds and depths of training and at depth 3, over seeds."""
    groups: dict[str, list[pd.DataFrame]] = {}
    rows: list[dict[str, object]] = []
    start = study.arms.get("graphs/direct", pd.DataFrame())
    for name, frame in study.arms.items():
        if "-seed" in name:
            groups.setdefault(name.split("direct-", 1)[1].rsplit("-seed", 1)[0], []).append(frame)
    for objective, frames in groups.items():
        row: dict[str, object] = {"objective": objective, "seeds": len(frames)}
        for what, depths in (("depths 0 to 2", TRAINED), ("depth 3", (TRAINED[-1] + 1,))):
            gain = over_seeds(np.array([mean_at(frame, depths) - mean_at(start, depths) for frame in frames]))
            row |= {f"gain, {what}": gain.value, f"low, {what}": gain.low, f"high, {what}": gain.high}
        rows.append(row)
    return pd.DataFrame(rows)


def arms_said(study: "Study") -> str:
    """Effect of the objectives."""
    frame = arms_gain(study)
    if frame.empty:
        return "No model trained on with another objective is there."
    parts = []
    for _, row in frame.iterrows():
        gains = []
        for of in ("depths 0 to 2", "depth 3"):
            low, high = row[f"low, {of}"], row[f"high, {of}"]
            bracket = "" if np.isnan(low) else f" [{low:+z.3f}, {high:+z.3f}]"
            gains.append(f"{row[f'gain, {of}']:+z.3f}{bracket} at {of}")
        parts.append(f"{row['objective']} {', '.join(gains)}")
    n = int(frame["seeds"].to_numpy().min())
    seeds = "one seed, so no interval" if n == 1 else f"{n} seeds"
    return f"The direct model trained on, same prompts and rates, gain over the start ({seeds}): {'; '.join(parts)}."


def findings(study: "Study") -> tuple[str, ...]:
    """For the head of the page."""
    return (
        *(ahead(study, form) for form in study.evaluations),
        against(study),
        follows(study),
        *(said for form in (TRACE, DIRECT) if form in study.inside for said in carried(study.inside[form])[:2]),
        *(deeper(study, form) for form in study.evaluations),
        arms_said(study),
        "One network of each form: what holds of these two may not hold of others trained from another seed.",
    )
