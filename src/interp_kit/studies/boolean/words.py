"""The boolean study in words. Every sentence is chosen by the numbers that it quotes."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from interp_kit.analysis.causal.mechanism import route_summary
from interp_kit.analysis.causal.routes import OPPOSED, SOLVED, TOO_FEW
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.studies.boolean.adapting import adapting

if TYPE_CHECKING:
    from interp_kit.studies.boolean.study import Examination, Study

ROUTE_WORDS = {
    "via token": "via the emitted newB token",
    "direct": "directly from D's own part of the prompt, past newB",
    "latent": "from an internal newB, computed where newB is predicted",
    "relayed": "from positions between newB and newD, which relay it",
    "mixed": "by a mixture of routes",
    "none": "by no route that these experiments can name",
    TOO_FEW: "by a route that cannot be named, as too few pairs are independent",
}


def route_words(verdict: str) -> str:
    """A verdict as the end of a sentence, with the routes that oppose it."""
    route, opposed, against = verdict.partition(OPPOSED)
    return ROUTE_WORDS[route] + (f", opposed by {against}" if opposed else "")


def findings(study: "Study") -> tuple[str, ...]:
    """The answers, in the order of the questions."""
    return (solving(study), readable(study), path_taken(study), alike(study), *held_out(study), *adapting(study))


def solving(study: "Study") -> str:
    """Do the models answer the inputs that they were trained on?"""
    exact = [m.evaluation.estimate().value for m in study.models]
    n, perfect = len(exact), sum(value == 1 for value in exact)
    inputs = study.models[0].evaluation.estimate().n
    if perfect == n:
        if n == 1:
            return f"The model answers each of the {inputs} inputs that it was trained on exactly (exact match 1.0)."
        return f"All {n} models answer each of the {inputs} inputs that they were trained on exactly (exact match 1.0)."
    answer = "answers" if perfect == 1 else "answer"
    return (
        f"{perfect} of {numbered(n, 'models')} {answer} all {inputs} inputs exactly; mean exact match"
        f" {mean_estimate(exact, bounds=(0.0, 1.0))}. What follows is about models that do not all solve the task."
    )


def readable(study: "Study") -> str:
    """Section on what is readable beyond copying D."""
    result = study.readability
    frame = result.to_frame().set_index("label")
    new_b = frame.loc["newB"]
    n = int(new_b["n"])
    if new_b["verdict"] == "computed":
        first = f"newB is readable beyond copying D at {new_b['cell']}, position {new_b['position']}"
    elif new_b["verdict"] == "visible":
        first = (
            "newB is nowhere readable beyond copying D: newB is 1 - D on every input, so a probe on the visible"
            f" tokens alone scores {new_b['raw_tokens']:.2f}, and the best cell of the network"
            f" ({new_b['cell']}, position {new_b['position']}) {new_b['score']:.2f}"
        )
    else:
        first = (
            f"newB is not shown to be readable: {new_b['score']:.2f} at the best cell,"
            f" best baseline {new_b['best_baseline']:.2f}"
        )
    computed = frame[frame["verdict"] == "computed"]
    if len(computed):
        listed = "; ".join(
            f"{label} at {row.cell}, {row.position} ({row.score:.2f} against {row.best_baseline:.2f})"
            for label, row in computed.iterrows()
        )
        rest = f" Readable beyond every baseline before it is written, on seeds that did not choose the cell: {listed}."
    else:
        rest = " No other variable is readable beyond the baselines either."
    return f"{first} (n = {numbered(n, 'reporting seeds')}).{rest}"


def path_taken(study: "Study") -> str:
    """Section on the path by which newD is computed."""
    verdicts = Counter(m.mechanism.verdict for m in study.models)
    n = len(study.models)
    if set(verdicts) == {"none"}:
        return f"How newD is computed cannot be asked: none of the {n} models computes it."
    parts = [f"{count} of {n} {route_words(verdict)}" for verdict, count in verdicts.most_common()]
    conflict = [m.mechanism.token_flips for m in study.models]
    shares = route_summary([m.mechanism for m in study.models])
    leading = max(shares, key=lambda name: shares[name].value)
    return (
        f"newD is computed in {'; in '.join(parts)}. Path patching gives the route {leading!r} {shares[leading]} of"
        " newD's logit difference (a share can pass 1: the run then moves further than the run it is patched from)."
        f" Flipping only the newB token flips newD in {', '.join(map(of, conflict))} inputs, seed by seed: those with A"
        " = 0, where newB decides newD (with A = 1, newD is 1 whatever newB is)."
    )


def of(share: Estimate) -> str:
    """A share as a count: "8 of 16"."""
    return f"{round(share.value * share.n)} of {share.n}" if share.n else "none"


def alike(study: "Study") -> str:
    """Do the seeds take one route, with the same heads?"""
    routes = Counter(m.mechanism.verdict for m in study.models if solves(m))
    heads = study.head_similarity
    above = int((heads.p < 0.05).sum())
    if not routes:
        first = "No seed solves newD, so there are no routes to compare."
    elif len(routes) == 1:
        first = f"The {sum(routes.values())} seeds that solve newD take the same route to it ({next(iter(routes))})."
        if sum(routes.values()) == 1:
            first = f"One seed alone solves newD; its route is {next(iter(routes))}."
    else:
        counted = ", ".join(f"{route} {count}" for route, count in routes.most_common())
        first = f"The seeds take {len(routes)} different routes to newD ({counted})."
    return (
        f"{first} Their {heads.config['k']} most important heads ({heads.matched} matching) overlap by"
        f" {_mean(heads.index)} (Jaccard; {_mean(heads.stratified)} by chance within layers); {above} of"
        f" {len(heads.pair)} pairs exceed that chance at p < 0.05 (pairs share models, so they are not independent)."
    )


def mlps_against_heads(study: "Study") -> str:
    """Comparison of the mixed top-k with what layers and kinds alone give."""
    both, dominated = study.similarity, 0
    for m in study.models:
        assert m.ablation is not None
        score = m.ablation.importance()
        is_mlp = np.array([name.endswith("MLP") for name in m.ablation.component])
        dominated += bool(score[is_mlp].min() > np.median(score[~is_mlp]))
    return (
        f"In {dominated} of {len(study.models)} models every MLP outweighs the median head. Counted together, the top"
        f" {both.config['k']} overlap by {_mean(both.index)}, where their layers and kinds alone would give"
        f" {_mean(both.stratified)}."
    )


def held_out(study: "Study") -> tuple[str, ...]:
    """Section on inputs never trained on; empty if no model leaves inputs out."""
    if study.held_out is None:
        return ()
    held_out, parts = study.held_out, []
    for size in held_out.sizes:
        model, lookup = held_out.estimate(size), held_out.estimate(size, "lookup")
        parts.append(
            f"{model.short()} with {size} of {held_out.total} inputs left out"
            f" (n = {numbered(model.n, 'omission sets')}; nearest-neighbour lookup {lookup.value:.2f})"
        )
    return (
        f"On inputs never trained on, exact match is {'; '.join(parts)}. These are {len(held_out.models)} other"
        " networks, trained in the same way without those inputs.",
    )


def _mean(values: np.ndarray) -> str:
    return f"{float(np.mean(values)):.2f}"


def solves(examination: "Examination") -> bool:
    """True if a model computes newD, so that there is a path to ask for."""
    return examination.mechanism.solved.value >= SOLVED
