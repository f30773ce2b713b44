"""Do models rely on the same components? Top-k sets of ablation importance, their Jaccard index, and its nulls.

Heads of models that were initialised independently are exchangeable within a layer, so an index means nothing across
them: their heads are first matched by function, on half of the examples, and compared on the other half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from interp_kit.analysis.ablation import AblationResult
from interp_kit.core.config import check_choice, check_count, check_seed, expect
from interp_kit.core.plotting import intervals
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats import expected_jaccard, permutation_p
from interp_kit.core.stats import jaccard as jaccard_index

Match = Literal["auto", "index", "functional"]


@dataclass(frozen=True, kw_only=True)
class JaccardResult(AbstractResult):
    """Overlap of the top-k component sets of each pair of models.

    pair: names; index: (pair,) Jaccard; uniform: (pair,) its exact mean for random sets of k; stratified,
    stratified_low, stratified_high: (pair,) mean and central 95 % of the null that keeps how many of the k are heads
    and MLPs of each layer; p: (pair,) one-sided permutation p under the stratified null; rank_correlation: (pair,)
    Spearman over all components; layer_correlation: (pair,) Spearman of the layers' total importance, which needs no
    matching; top: for each pair the two sets; matched: "index" or "functional".
    """

    pair: tuple[str, ...]
    index: np.ndarray
    uniform: np.ndarray
    stratified: np.ndarray
    stratified_low: np.ndarray
    stratified_high: np.ndarray
    p: np.ndarray
    rank_correlation: np.ndarray
    layer_correlation: np.ndarray
    top: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    matched: str
    config: Mapping[str, Any]

    def __str__(self) -> str:
        return "\n".join(
            f"{pair}: Jaccard {self.index[i]:.2f} (chance {self.uniform[i]:.2f} uniform, {self.stratified[i]:.2f}"
            f" within layer and kind, p = {self.p[i]:.3f}; rank correlation {self.rank_correlation[i]:.2f};"
            f" {self.matched})"
            for i, pair in enumerate(self.pair)
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of models."""
        columns = ("index", "uniform", "stratified", "stratified_low", "stratified_high", "p")
        columns = (*columns, "rank_correlation", "layer_correlation")
        frame = pd.DataFrame({"pair": self.pair, **{c: getattr(self, c) for c in columns}})
        return frame.assign(k=self.config["k"], matched=self.matched, n=self.config["n"])

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Jaccard index of the {c['k']} most important components of each pair of models ({self.matched} matching,"
            f" scored on n = {c['n']} examples), beside what {c['permutations']} random sets with as many heads and"
            " MLPs of each layer share, and the exact chance level of uniformly drawn sets."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Each pair's index beside the null within layer and kind."""
        nan = np.full(len(self.pair), np.nan)
        series = {
            "observed": (self.index, nan, nan),
            "chance within layer and kind, 95 %": (self.stratified, self.stratified_low, self.stratified_high),
        }
        chance = {"chance, uniform": float(self.uniform.mean())}
        title = f"Top-{self.config['k']} components shared ({self.matched} matching)"
        return intervals(
            self.pair, series, ax=ax, title=title, x_label="Jaccard index", reference=chance, limits=(-0.02, 1.02)
        )


def jaccard(
    first: AblationResult,
    *others: AblationResult,
    k: int = 5,
    field: str | None = None,
    match: Match = "auto",
    permutations: int = 2000,
    seed: int = 0,
) -> JaccardResult:
    """Jaccard index of the k most important components, for every pair among two or more ablations.

    match: "index" compares components by their number, right only for models that share an initialisation or start
    checkpoint; "functional" matches the heads of a layer by their effects on a random half of the examples and scores
    the other half; "auto" takes "index" where the results name one shared initialisation and "functional" otherwise.

    Raises ValueError for fewer than two results, different components or examples, an unknown `match`, or k out of
    range.
    """
    results = [first, *others]
    for result in results:
        expect("a result", result, AblationResult, "as interp_kit.ablate(model, batch) gives")
    _check(results, k)
    check_choice("match", match, get_args(Match))
    if field is not None:
        check_choice("field", field, first.fields)
    check_count("permutations", permutations)
    check_seed(seed)
    shared = first.config.get("initialisation")
    same = shared is not None and all(r.config.get("initialisation") == shared for r in results)
    matched = ("index" if same else "functional") if match == "auto" else match
    rng = np.random.default_rng(seed)
    order = rng.permutation(first.n)
    halves = (order[: first.n // 2].tolist(), order[first.n // 2 :].tolist())
    rows = []
    for i, a in enumerate(results):
        for b in results[i + 1 :]:
            rows.append(_compare(a, b, k, field, matched, halves, permutations, rng))
    return JaccardResult(
        **{key: np.array([row[key] for row in rows], dtype=float) for key in rows[0] if key not in ("pair", "top")},
        pair=tuple(row["pair"] for row in rows),
        top=tuple(row["top"] for row in rows),
        matched=matched,
        config={
            "analysis": "jaccard",
            "models": tuple(r.config["model"] for r in results),
            "kind": first.config["kind"],
            "metric": first.config["metric"],
            "field": field,
            "k": k,
            "n": first.n if matched == "index" else len(halves[1]),
            "permutations": permutations,
            "seed": seed,
        },
    )


def _check(results: Sequence[AblationResult], k: int) -> None:
    if len(results) < 2:
        raise ValueError("jaccard compares at least two ablations")
    for other in results[1:]:
        if other.component != results[0].component:
            raise ValueError("the ablations are of different components, so their sets cannot be compared")
        if other.effect.shape != results[0].effect.shape or other.fields != results[0].fields:
            raise ValueError("the ablations were measured on different fields or numbers of examples")
    check_count("k", k, most=len(results[0].component))


def match_heads(a: AblationResult, b: AblationResult, rows: Sequence[int]) -> np.ndarray:
    """(component,) for each component of `a` its partner in `b`: within a layer and kind, the assignment with the
    largest sum of correlations between effect profiles over fields and `rows` (Hungarian method, as Li et al. 2015
    match units). A correlation leaves out how strong a head is: matching strong with strong would by itself make the
    strongest sets overlap, above what the null says."""
    rows = list(rows)
    partner = np.arange(len(a.component))
    profiles = (r.effect[..., rows].reshape(len(r.component), -1).astype(np.float64) for r in (a, b))
    centred = (profile - profile.mean(1, keepdims=True) for profile in profiles)
    unit_a, unit_b = (p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-12) for p in centred)
    for group in _strata(a).values():
        left, right = linear_sum_assignment(unit_a[group] @ unit_b[group].T, maximize=True)
        partner[group[left]] = group[right]
    return partner


def _strata(result: AblationResult) -> dict[tuple[int, str], np.ndarray]:
    """(layer, kind) -> indices of its components. Kinds stay apart: that MLPs outweigh heads is no shared circuit."""
    strata: dict[tuple[int, str], list[int]] = {}
    for i, (name, layer) in enumerate(zip(result.component, result.layer.tolist(), strict=True)):
        kind = "mlp" if name.endswith("MLP") else "head" if "H" in name else "layer"
        strata.setdefault((layer, kind), []).append(i)
    return {key: np.array(members) for key, members in strata.items()}


def _compare(
    a: AblationResult,
    b: AblationResult,
    k: int,
    field: str | None,
    matched: str,
    halves: tuple[list[int], list[int]],
    permutations: int,
    rng: np.random.Generator,
) -> dict:
    rows = None if matched == "index" else halves[1]
    score_a, score_b = a.importance(field, rows), b.importance(field, rows)
    if matched == "functional":
        score_b = score_b[match_heads(a, b, halves[0])]
    top_a, top_b = _top(score_a, k), _top(score_b, k)
    observed = jaccard_index(top_a, top_b)
    null = _stratified_null(top_a, top_b, list(_strata(a).values()), permutations, rng)
    layers = np.unique(a.layer)
    profile = [np.array([score[a.layer == layer].sum() for layer in layers]) for score in (score_a, score_b)]
    return {
        "pair": f"{a.config['model']} ~ {b.config['model']}",
        "index": observed,
        "uniform": expected_jaccard(len(score_a), k, k),
        "stratified": null.mean(),
        "stratified_low": np.percentile(null, 2.5),
        "stratified_high": np.percentile(null, 97.5),
        "p": permutation_p(observed, null),
        "rank_correlation": _rank_correlation(score_a, score_b),
        "layer_correlation": _rank_correlation(profile[0], profile[1]),
        "top": (tuple(a.component[i] for i in sorted(top_a)), tuple(b.component[i] for i in sorted(top_b))),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; nan for fewer than three values, or where one side is constant."""
    if len(a) < 3 or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _top(score: np.ndarray, k: int) -> set[int]:
    return set(np.argsort(-score, kind="stable")[:k].tolist())


def _stratified_null(
    top_a: set[int], top_b: set[int], strata: list[np.ndarray], permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """(permutations,) Jaccard of `top_a` with random sets that have as many members in each stratum as `top_b`."""
    counts = [int(np.isin(list(top_b), members).sum()) for members in strata]
    null = np.empty(permutations)
    for i in range(permutations):
        drawn = {
            int(c) for members, n in zip(strata, counts, strict=True) for c in rng.choice(members, n, replace=False)
        }
        null[i] = jaccard_index(top_a, drawn)
    return null
