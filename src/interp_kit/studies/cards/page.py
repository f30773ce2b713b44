"""The study of the card game as a page: what each section shows, and the sentences of `words` that it supports."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.showing import numbered
from interp_kit.reports.plotting import heatmap, intervals
from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.cards import words

if TYPE_CHECKING:
    from interp_kit.studies.cards.study import Study

ID = words.ID


def page(study: "Study") -> Report:
    """The study as a Report."""
    return Report(
        title="Does fine-tuning memorise cards where reinforcement learning generalises?",
        findings=words.findings(study),
        sections=(
            _accuracy(study),
            _gate(study),
            _probes(study),
            _rule(study),
            _importance(study),
            _diffing(study),
            _activity(study),
            _features(study),
            _sum(study),
            _claims(study),
        ),
        configs={name: one.importance[ID].config for name, one in study.inside.items()},
    )


def accuracy_table(study: "Study") -> pd.DataFrame:
    """One row per split and kind: accuracy by seed, mean with interval over seeds, majority, nearest neighbour."""
    rows = []
    for kind in study.kinds:
        of = [study.evaluations[f"cards/{kind}-seed{seed}"].splits for seed in study.seeds]
        for split in of[0]:
            scores = [splits[split] for splits in of]
            mean = words.over_seeds(np.array([score.accuracy for score in scores]))
            near = [score.nearest_baseline for score in scores if score.nearest_baseline is not None]
            rows.append(
                {
                    "split": split,
                    "model": kind,
                    "accuracy": mean.value,
                    "low": max(0.0, mean.low),
                    "high": min(1.0, mean.high),
                    "seeds": ", ".join(f"{score.accuracy:.3f}" for score in scores),
                    "n per seed": scores[0].n,
                    "majority": np.mean([score.majority_baseline for score in scores]),
                    "nearest": np.mean(near) if near else float("nan"),
                    "valid": np.mean([score.format_validity for score in scores]),
                    "ece": np.mean([score.ece for score in scores]),
                    "gap to id_test": float(np.mean([splits[ID].accuracy - splits[split].accuracy for splits in of])),
                }
            )
    return pd.DataFrame(rows)


def accuracy_figure(study: "Study", ax: Axes | None = None) -> Axes:
    """Accuracy by split, one marker a kind, with intervals over seeds."""
    frame = accuracy_table(study)
    kinds = [kind for kind in study.kinds if not kind.startswith("small-")]
    splits = [ID, *words.splits_of(study)]
    series = {}
    for kind in kinds:
        rows = frame[frame["model"] == kind].set_index("split").loc[splits]
        series[kind] = (
            rows["accuracy"].to_numpy(),
            rows["low"].clip(0).to_numpy(),
            rows["high"].clip(upper=1).to_numpy(),
        )
    majority = frame[frame["model"] == kinds[0]].set_index("split").loc[splits, "majority"].to_numpy()
    series["majority answer"] = (majority, np.full(len(splits), np.nan), np.full(len(splits), np.nan))
    return intervals(
        splits, series, ax=ax, title="Accuracy by split", x_label="share of right answers", limits=(-0.02, 1.02)
    )


def _accuracy(study: "Study") -> Section:
    n = next(iter(study.evaluations.values())).splits[ID].n
    caption = (
        f"Accuracy on n = {numbered(n, 'deals')} per split and seed; mean over {len(study.seeds)} seeds with"
        " Student's 95 %"
        " interval, beside always giving the commonest answer."
    )
    text = (words.learnt(study), words.memorised(study), *words.central(study))
    parts = (
        Figure(accuracy_figure(study), caption),
        Table(accuracy_table(study), "Every split, with both baselines, validity and calibration", folded=True),
    )
    return Section("Accuracy, in and out of distribution", text, parts)


def _gate(study: "Study") -> Section:
    refused = words.informative(study)
    rows = []
    for split in words.splits_of(study):
        scores = [study.evaluations[f"cards/{words.SFT}-seed{seed}"].splits[split] for seed in study.seeds]
        rows.append(
            {
                "split": split,
                "accuracy of sft": np.mean([score.accuracy for score in scores]),
                "lowest bound of a seed": min(score.accuracy_ci95[0] for score in scores),
                "majority": np.mean([score.majority_baseline for score in scores]),
                "tells arms apart": refused.get(split, "yes"),
            }
        )
    text = (
        "A split says something about the arms only if a model that learned the rules beats the commonest answer on it"
        f" and stays under {words.LEARNT}. The splits were made so before the arms were compared; those that fail here"
        " are reported and take no part in a claim.",
    )
    return Section(
        "Which splits can tell",
        text,
        (
            Table(
                pd.DataFrame(rows),
                "Each split, by the arm sft: mean over seeds, the lowest end of a seed's interval, and the share of the"
                " commonest answer.",
            ),
        ),
    )


def _probes(study: "Study") -> Section:
    rows = []
    for name, one in study.inside.items():
        for split, result in one.probes.items():
            rows.append(result.to_frame().assign(model=name, split=split))
    frame = pd.concat(rows, ignore_index=True)
    shown = study.inside[f"cards/{words.SFT}-seed{study.seeds[0]}"].probes
    text = (
        "Probes are fitted and tested within one distribution, on deals of five cards: the running total after the"
        " third card, the sum of red cards, what the third card adds and whether it counts, and the total. Each score"
        " stands beside the same probe of an untrained network and of the tokens that are visible there.",
    )
    figures = [
        Figure(result.plot(label="running3"), f"{split}. {result.caption('running3')}")
        for split, result in shown.items()
    ]
    return Section("What is readable where", text, (*figures, Table(frame, "Every probe", folded=True)))


def _rule(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    rows, missing = [], []
    for name, one in study.inside.items():
        for which, result in one.patches.items():
            if result is None:
                missing.append(f"{name} ({which})")
            else:
                rows.append(result.to_frame().assign(model=name, pairs=which))
    first = study.inside[f"cards/{words.SFT}-seed{study.seeds[0]}"].patches
    parts += [Figure(r.plot(), f"{which}. {r.caption()}") for which, r in first.items() if r is not None]
    if rows:
        parts.append(Table(pd.concat(rows, ignore_index=True), "Every patch of every model", folded=True))
    text = (
        "Two deals of the same cards under two rules whose texts are equally long: copying the residual stream of one"
        " place shows where the rule stands on its way to the answer. ID to OOD: from a rule of training to a new one;"
        " the control, ID to ID, is from one rule of training to another.",
        *((f"Too few pairs are solved in {', '.join(missing)}.",) if missing else ()),
    )
    return Section("Where the rule travels", text, tuple(parts))


def overlap_table(study: "Study") -> pd.DataFrame:
    """One row per comparison, seed and kind of part."""
    rows = []
    for (name, seed), results in study.overlaps.items():
        for result in results:
            row = result.to_frame().iloc[0]
            of = "neurons" if "N" in result.top[0][0][0] else "heads and MLPs"
            columns = ("index", "stratified", "stratified_low", "stratified_high", "p", "rank_correlation", "k")
            rows.append({"comparison": name, "seed": seed, "of": of, **{column: row[column] for column in columns}})
    return pd.DataFrame(rows).rename(columns={"index": "jaccard", "stratified": "chance"})


def _importance(study: "Study") -> Section:
    frame = overlap_table(study)
    between = frame[frame["comparison"].str.contains("^(?:s0|sft|rl)[a-z-]* ~ ") & (frame["of"] == "neurons")]
    names = list(dict.fromkeys(between["comparison"]))
    shared = [between.loc[between["comparison"] == name, "jaccard"].to_numpy() for name in names]
    ends = tuple(np.array([reduce(one) for one in shared]) for reduce in (np.mean, np.min, np.max))
    axes = intervals(
        names,
        {"mean over seeds (bars: lowest to highest)": (ends[0], ends[1], ends[2])},
        title="The most important neurons on id_test, shared by two arms",
        x_label="Jaccard index",
        reference={"chance within a layer": float(np.mean(between["chance"]))},
        limits=(-0.02, 1.02),
    )
    first = study.inside[f"cards/{words.SFT}-seed{study.seeds[0]}"].importance
    splits = list(first)
    effect = np.stack([first[split].importance() for split in splits], axis=1)
    by_split = heatmap(
        effect, first[ID].component, splits, signed=True, label="loss of log probability, nats",
        title=f"What each part is worth, {words.SFT} seed {study.seeds[0]}",
    )  # fmt: skip
    captions = (
        f"Jaccard of the 25 most important of 512 neurons, arms of one seed, {len(study.seeds)} seeds.",
        f"Mean ablation of every head and MLP by split (n = {numbered(first[ID].n, 'deals')} per split): what"
        " the right completion's"
        " log-probability loses.",
    )
    every = pd.concat(
        [r.to_frame().assign(model=m, split=s) for m, one in study.inside.items() for s, r in one.importance.items()],
        ignore_index=True,
    )
    parts = (
        Figure(by_split, captions[1]),
        Figure(axes, captions[0]),
        Table(frame, "Every overlap, with its chance level within layer and kind", folded=True),
        Table(every, "Every component of every model", folded=True),
    )
    return Section("What matters, and whether arms share it", (words.same_circuit(study),), parts)


def _diffing(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    for (receiver, donor, seed, split), result in study.diffs.items():
        if seed == study.seeds[0] and split == ID:
            parts.append(Figure(result.plot(), f"{donor} into {receiver}. {result.caption()}"))
    rows = [
        result.to_frame().assign(into=receiver, of=donor, seed=seed, split=split)
        for (receiver, donor, seed, split), result in study.diffs.items()
    ]
    if rows:
        parts.append(
            Table(pd.concat(rows, ignore_index=True), "Every part, with how far its weights moved", folded=True)
        )
    text = (
        "Each part of one arm is put, alone, into another that has the same start. How far weights moved and what they"
        " do for behaviour are two columns of the table: far is not the same as important.",
    )
    return Section("Which parts carry the difference", text, tuple(parts))


def _activity(study: "Study") -> Section:
    rows = [
        {"model": name, **{key: getattr(one.activity, key) for key in ("intensity", "active", "diversity", "n")}}
        for name, one in study.inside.items()
    ]
    text = ("Intensity is the mean absolute value of neurons where the answer is predicted, diversity the participation"
            " ratio of the last residual stream there.",)  # fmt: skip
    return Section(
        "How strongly it responds",
        text,
        (Table(pd.DataFrame(rows), "Activity on id_test; active: share of neurons above 0; n: deals."),),
    )


def _features(study: "Study") -> Section:
    rows = []
    for kind, shift in study.features.items():
        for split, count in shift.differing.items():
            rows.append({
                "model": kind, "deals of": split, "features that differ from id_test": count,
                "of them on one side only": shift.only[split], "active features": shift.alive, "n": shift.n,
            })  # fmt: skip
    parts: list[Figure | Table] = [
        Figure(shift.sae.plot(), f"{kind}. {shift.sae.caption()}") for kind, shift in study.features.items()
    ]
    parts.append(
        Table(pd.DataFrame(rows), "Features whose share of deals differs from id_test's (Fisher's test, false discovery"
              " rate .05); “id_test again” is the control. Deals of length_shift have more cards, so more features are"
              " active there whatever the model does.")
    )  # fmt: skip
    text = ("Sparse features of the residual stream between the layers, of one autoencoder for all distributions.",)
    return Section("Features of one distribution, or of all", text, tuple(parts))


def _sum(study: "Study") -> Section:
    exchanged = study.inside[f"cards/{words.SFT}-seed{study.seeds[0]}"].exchanged
    parts: list[Figure | Table] = [Figure(r.plot(), r.caption()) for r in exchanged.values()]
    rows = [
        r.to_frame().assign(model=name, variable=variable)
        for name, one in study.inside.items() for variable, r in one.exchanged.items()
    ]  # fmt: skip
    if rows:
        parts.append(Table(pd.concat(rows, ignore_index=True), "Every exchange in every model", folded=True))
    text = (
        "If the model kept a running total at each card, copying the residual stream of card 3 from another deal would"
        " set the total so far. If it gathers cards only where it answers, card 3 carries what that card adds and no"
        " more.",
        *words.how_it_adds(study),
    )
    return Section("How two layers add five cards", text, tuple(parts))


def _claims(study: "Study") -> Section:
    frame = pd.DataFrame(words.claims(study), columns=["claim", "here", "on what it rests"])
    text = (
        "Each claim of the literature is answered by our own figures alone, for models of this size on this task. Yes"
        " and no need an interval over seeds that leaves out 0; with three seeds most stay undecided.",
    )
    return Section(
        "What is claimed, and what is seen here",
        text,
        (Table(frame, "Claims of the literature, and intervals over seeds."),),
    )
