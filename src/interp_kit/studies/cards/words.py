"""Findings that the figures of the study support, in sentences. Each depends on the numbers: other models get other
words."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from interp_kit.core.stats.seeds import Difference, over_seeds

if TYPE_CHECKING:
    from interp_kit.studies.cards.study import Study

ID, LEARNT = "id_test", 0.95
START, SFT, AGAIN, RL, RL_TRL = "s0", "sft", "sft-reordered", "rl", "rl-trl"


def both(*needed: Difference) -> str:
    """Yes where all differences are above 0, no where one is below, else undecided."""
    signs = [one.sign for one in needed]
    return "no" if -1 in signs else "yes" if all(signs) else "undecided"


def learnt(study: "Study") -> str:
    """Arms that solve the rules in distribution, by rule and seed."""
    parts = []
    for kind in (SFT, RL):
        if kind not in study.kinds:
            continue
        worst = {}
        for seed in study.seeds:
            for rule, score in study.evaluations[f"cards/{kind}-seed{seed}"].splits[ID].by_rule.items():
                worst[rule] = min(worst.get(rule, 1.0), score["accuracy"])
        low = min(worst, key=worst.__getitem__)
        reached = "reaches" if worst[low] >= LEARNT else "does not reach"
        parts.append(f"{kind} {reached} {LEARNT} on every rule in every seed: the lowest is {worst[low]:.3f} ({low})")
    return "; ".join(parts) + "."


def informative(study: "Study") -> dict[str, str]:
    """Split -> why it does not tell arms apart, of those that do not pass the gate with the model SFT: above the
    majority baseline and below LEARNT in every seed."""
    refused = {}
    for split in study.evaluations[f"cards/{SFT}-seed{study.seeds[0]}"].splits:
        if not split.startswith("ood_"):
            continue
        accuracy = float(study.accuracy(SFT, split).max())
        scores = [study.evaluations[f"cards/{SFT}-seed{seed}"].splits[split] for seed in study.seeds]
        if accuracy >= LEARNT:
            refused[split] = f"at its ceiling in one seed or more ({accuracy:.2f})"
        elif any(score.accuracy_ci95[0] <= score.majority_baseline for score in scores):
            refused[split] = "no better than the majority answer in one seed or more"
    return refused


def gains(study: "Study", kind: str, split: str) -> Difference:
    """Gain of an arm on a split since S0."""
    return over_seeds(study.accuracy(kind, split) - study.accuracy(START, split))


def central(study: "Study") -> tuple[str, ...]:
    """The comparison of the arms, split by split."""
    if RL not in study.kinds:
        return ("No model trained by reinforcement learning is there, so the arms cannot be compared.",)
    splits = [s for s in study.evaluations[f"cards/{SFT}-seed{study.seeds[0]}"].splits if s.startswith("ood_")]
    refused = informative(study)
    said = []
    for split in (ID, *splits):
        between = over_seeds(study.accuracy(RL, split) - study.accuracy(SFT, split))
        verdict = {1: "RL is ahead", -1: "SFT is ahead", 0: "undecided"}[between.sign]
        aside = f"; the split is {refused[split]}" if split in refused else ""
        said.append(
            f"{split}: SFT gained {gains(study, SFT, split)}, RL {gains(study, RL, split)}; RL minus SFT"
            f" {between}: {verdict}{aside}."
        )
    return tuple(said)


def memorised(study: "Study") -> str:
    """Accuracy on training prompts against new ones, of the small-data arms and of SFT."""
    parts = []
    for kind in (*[k for k in study.kinds if k.startswith("small-")], SFT):
        of = [study.evaluations[f"cards/{kind}-seed{seed}"].splits for seed in study.seeds]
        if all("train" in splits for splits in of):
            seen, new = (np.mean([splits[name].accuracy for splits in of]) for name in ("train", ID))
            few = kind.removeprefix("small-")
            name = f"{SFT} on {few} prompts" if few != kind else kind
            parts.append(f"{name}: {seen:.2f} on its training prompts, {new:.2f} on new ones")
    return "; ".join(parts) + "." if parts else "Training prompts of these models are not known."


def overlap_between(study: "Study", name: str, which: int = 0) -> np.ndarray:
    """(seed,) Jaccard of a comparison; which: 0 heads and MLPs, 1 neurons."""
    found = [study.overlaps[name, seed][which].index[0] for seed in study.seeds if (name, seed) in study.overlaps]
    return np.array(found, dtype=float)


def chance(study: "Study", name: str, which: int = 0) -> float:
    """The chance level within layer and kind, mean over seeds."""
    found = [study.overlaps[name, seed][which] for seed in study.seeds if (name, seed) in study.overlaps]
    return float(np.mean([one.stratified[0] for one in found]))


def same_circuit(study: "Study") -> str:
    """True if RL keeps the circuit of its start more than SFT does."""
    if RL not in study.kinds:
        return ""
    parts = []
    for which, what in enumerate(("of heads and MLPs", "of neurons")):
        kept = {kind: overlap_between(study, f"{START} ~ {kind}", which) for kind in (SFT, RL)}
        yard = overlap_between(study, f"{SFT} ~ {AGAIN}", which)
        level = chance(study, f"{START} ~ {RL}", which)
        parts.append(
            f"{what}, start and RL share {kept[RL].mean():.2f}, start and SFT {kept[SFT].mean():.2f} (chance"
            f" {level:.2f}); two SFT runs share {yard.mean():.2f}"
        )
    return "Jaccard index of the most important parts on id_test: " + "; ".join(parts) + "."


def moved_by(study: "Study", kind: str) -> str:
    """Distance of a kind's weights from the start, mean over seeds."""
    found = [d.distance[-1] for (a, b, _, split), d in study.diffs.items() if (a, b, split) == (START, kind, ID)]
    return f"{np.mean(found):.1f}" if found else "an unknown share"


def claims(study: "Study") -> list[tuple[str, str, str]]:
    """(claim, yes / no / undecided, on what that rests) of what is published."""
    if RL not in study.kinds:
        return []
    rows = []
    kept = over_seeds(overlap_between(study, f"{START} ~ {RL}", 1) - overlap_between(study, f"{START} ~ {SFT}", 1))
    above = over_seeds(overlap_between(study, f"{START} ~ {RL}", 1) - chance(study, f"{START} ~ {RL}", 1))
    rows.append(
        (
            "RL keeps the circuit of its start, more than SFT does",
            both(kept, above),
            f"neurons shared with the start: RL minus SFT {kept}; RL above chance {above}. RL moved its weights by"
            f" {moved_by(study, RL)} of their norm, SFT by {moved_by(study, SFT)}: whatever moves less keeps more",
        )
    )
    for what in ("intensity", "diversity"):
        moved = {
            kind: np.array(
                [
                    getattr(study.inside[f"cards/{kind}-seed{s}"].activity, what)
                    / getattr(study.inside[f"cards/{START}-seed{s}"].activity, what)
                    - 1
                    for s in study.seeds
                ]
            )
            for kind in (SFT, AGAIN, RL)
        }
        beyond = over_seeds(moved[RL] - moved[SFT])
        since = over_seeds(moved[RL])
        yard = over_seeds(moved[AGAIN] - moved[SFT])
        rows.append(
            (
                f"RL raises activation {what}, more than SFT does",
                both(since, beyond),
                f"relative change since the start {since}; RL minus SFT {beyond}; between two SFT runs {yard}",
            )
        )
    told = [s for s in splits_of(study) if s not in informative(study)]
    if told:
        carried: Callable[[str], np.ndarray] = lambda kind: np.mean(  # noqa: E731
            [study.accuracy(kind, s) - study.accuracy(START, s) for s in told], axis=0
        )
        sft, rl = over_seeds(carried(SFT)), over_seeds(carried(RL))
        ahead = over_seeds(carried(RL) - carried(SFT))
        stays = {1: "no", -1: "yes", 0: "undecided"}[sft.sign]
        shares = {kind: float(carried(kind).mean()) / gains(study, kind, ID).value for kind in (SFT, RL)}
        basis = (
            f"mean gain on {', '.join(told)}: SFT {sft}, RL {rl}, RL minus SFT {ahead}; per point gained on {ID}: SFT"
            f" {shares[SFT]:.2f}, RL {shares[RL]:.2f}"
        )
        rows.append(("SFT's gains do not carry to other distributions", stays, basis))
        rows.append(("RL's gains carry further than SFT's", both(ahead), basis))
    return rows


def splits_of(study: "Study") -> list[str]:
    """The splits out of distribution."""
    return [s for s in study.evaluations[f"cards/{SFT}-seed{study.seeds[0]}"].splits if s.startswith("ood_")]


def how_it_adds(study: "Study") -> tuple[str, ...]:
    """Places of the variables of the sum in SFT of the first seed, by exchange."""
    of = study.inside[f"cards/{SFT}-seed{study.seeds[0]}"].exchanged
    if not of:
        return ("The model does not solve red_minus_blue, so no variable of it can be exchanged.",)
    said = []
    for variable, found in of.items():
        frame = found.to_frame()
        frame = frame[frame["accuracy"].notna()]
        if frame.empty:
            continue
        best = frame.iloc[int(np.argmax(frame["accuracy"]))]
        same = best["kept"]
        kept = "with no control pair" if np.isnan(same) else f"and {same:.2f} stay where the value is the same"
        said.append(
            f"{variable}: best at {best['site']} of layer {best['layer']}, {best['position']}: {best['accuracy']:.2f}"
            f" [{best['low']:.2f}, {best['high']:.2f}] of answers become what do({variable}) makes of them (n ="
            f" {best['n']}), {kept}; best of each seed: {best_of_seeds(study, variable)}."
        )
    return tuple(said)


def best_of_seeds(study: "Study", variable: str) -> str:
    """The best exchange of a variable in SFT of each seed, "not solved" where its rule is not."""
    of = [study.inside[f"cards/{SFT}-seed{seed}"].exchanged.get(variable) for seed in study.seeds]
    return ", ".join("not solved" if one is None else f"{np.nanmax(one.accuracy):.2f}" for one in of)


def findings(study: "Study") -> tuple[str, ...]:
    """The findings, for the head of the page."""
    refused = informative(study)
    told = "; ".join(f"{split} is {why}" for split, why in refused.items())
    verdicts = "; ".join(f"{claim}: {verdict}" for claim, verdict, _ in claims(study))
    return tuple(
        sentence
        for sentence in (
            *central(study)[:1],
            learnt(study),
            memorised(study),
            f"Splits that do not tell the arms apart: {told}." if told else "Every split tells the arms apart.",
            same_circuit(study),
            *how_it_adds(study)[:2],
            f"Published claims, at this size and on this task. {verdicts}." if verdicts else "",
            f"Three seeds are few: intervals over seeds are Student's with {len(study.seeds)} values, and most small"
            " differences stay undecided.",
        )
        if sentence
    )
