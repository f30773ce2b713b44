"""Do models rely on the same components? Top-k sets of ablation importance, their Jaccard index, and its nulls.

Heads of models that were initialised independently are exchangeable within a layer, so an index means nothing across
them: their heads are first matched by function, on half of the examples, and compared on the other half, for many
random halvings. One halving alone gave 0.27 to 0.46 for the same models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from interp_kit.analysis.causal.ablation import AblationResult
from interp_kit.core.config import check_choice, check_count, check_seed, expect
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.chance import expected_jaccard, holm, permutation_p
from interp_kit.core.stats.told import CHANCE, LEVEL, out_of
from interp_kit.reports.plotting import intervals

Match = Literal["auto", "index", "functional"]


@dataclass(frozen=True, kw_only=True)
class JaccardResult(AbstractResult):
    """Overlap of the top-k component sets of each pair of models.

    pair: names; index: (pair,) Jaccard, the mean over halvings of the examples; spread: (pair,) its standard deviation
    over single halvings, 0 for matching by index, which needs none; uniform: (pair,) its exact mean for random sets of
    k; stratified, stratified_low, stratified_high: (pair,) mean and central 95 % of the null that keeps how many of the
    k are heads and MLPs of each layer; p: (pair,) one-sided permutation p under the stratified null; rank_correlation:
    (pair,) Spearman over all components; layer_correlation: (pair,) Spearman of the layers' total importance, which
    needs no matching; both are means over halvings; top: for each pair the two sets, over all examples, each in its own
    model's numbering; matched: "index" or "functional".
    """

    leading: ClassVar[str] = "index"
    pair: tuple[str, ...]
    index: np.ndarray
    spread: np.ndarray
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
            f" {self.matched}{self._halvings(i)})"
            for i, pair in enumerate(self.pair)
        )

    def _halvings(self, pair: int) -> str:
        if self.matched == "index":
            return ""
        return f", mean of {self.config['halvings']} halvings, of which one alone deviates by {self.spread[pair]:.2f}"

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of models."""
        columns = ("index", "spread", "uniform", "stratified", "stratified_low", "stratified_high", "p")
        columns = (*columns, "rank_correlation", "layer_correlation")
        frame = pd.DataFrame({"pair": self.pair, **{c: getattr(self, c) for c in columns}})
        return frame.assign(k=self.config["k"], matched=self.matched, n=self.config["n"])

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Jaccard index of the {c['k']} most important components of each pair of models ({self.matched} matching,"
            f" scored on n = {numbered(c['n'], 'examples')}{self._mean_of()}), beside what"
            f" {numbered(c['permutations'], 'random sets')} with as"
            " many heads and MLPs of each layer share, and the exact chance level of uniformly drawn sets."
        )

    def _mean_of(self) -> str:
        return "" if self.matched == "index" else f", mean over {self.config['halvings']} random halvings of all"

    def heading(self) -> str:
        """See AbstractResult."""
        return f"jaccard: {self.pair[0]}" if len(self.pair) == 1 else f"jaccard: {len(self.config['models'])} models"

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: do the models share more components than chance gives?"""
        k, clear = self.config["k"], np.array(holm(self.p.tolist())) < LEVEL
        best = int(np.nanargmax(self.index))
        span = f"{self.stratified[best]:.2f} [{self.stratified_low[best]:.2f}, {self.stratified_high[best]:.2f}]"
        numbers = (
            f"a Jaccard index of {self.index[best]:.2f}, where chance within layer and kind gives {span}"
            f" (p = {self.p[best]:.3f}, n = {numbered(self.config['n'], 'examples')})"
        )
        if len(self.pair) == 1:
            shared = f"the {k} most important components of {self.pair[0]}"
            does = "are more alike than chance makes them" if clear[0] else f"are alike in a way that {CHANCE}"
            return (f"{shared[0].upper()}{shared[1:]} {does}: {numbers}.",)
        counts = out_of(int(clear.sum()), len(self.pair), "pairs of models")
        return (
            f"More than chance of the {k} most important components are shared by {counts} (Holm's correction); the"
            f" mean index is {self.index.mean():.2f}, by chance {self.stratified.mean():.2f}.",
            f"Most alike are {self.pair[best]}: {numbers}.",
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
    halvings: int = 100,
    permutations: int = 2000,
    seed: int = 0,
) -> JaccardResult:
    """Jaccard index of the k most important components, for every pair among two or more ablations.

    match: "index" compares components by their number, right only for models that share an initialisation or start
    checkpoint; "functional" matches the heads of a layer by their effects on a random half of the examples and scores
    the other half, averaged over `halvings`; "auto" takes "index" where the results name one shared initialisation and
    "functional" otherwise.

    Raises ValueError for fewer than two results, different components or examples, an unknown `match`, k out of range,
    and fewer than one halving or two examples to halve.
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
    check_count("halvings", halvings)
    if matched == "functional" and first.n < 2:
        raise ValueError(f"heads are matched on halves of the examples, and there is {first.n}: two or more are needed")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(first.n) for _ in range(halvings if matched == "functional" else 0)]
    halves = [(order[: first.n // 2].tolist(), order[first.n // 2 :].tolist()) for order in orders]
    relabelled = _relabelled(_strata(first), permutations, rng)
    rows = [_compare(a, b, k, field, halves, relabelled) for i, a in enumerate(results) for b in results[i + 1 :]]
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
            "n": first.n if matched == "index" else first.n - first.n // 2,
            "halvings": len(halves),
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
    return _partners(a, b, np.array([list(rows)]))[0]


def _partners(a: AblationResult, b: AblationResult, rows: np.ndarray) -> np.ndarray:
    """(halving, component) what `match_heads` gives for each halving's rows (halving, row)."""
    sides = []
    for effect in (a.effect, b.effect):
        profile = effect[..., rows].transpose(2, 0, 1, 3).reshape(len(rows), len(effect), -1).astype(np.float64)
        profile -= profile.mean(-1, keepdims=True)
        sides.append(profile / np.maximum(np.linalg.norm(profile, axis=-1, keepdims=True), 1e-12))
    partner = np.tile(np.arange(len(a.component)), (len(rows), 1))
    for group in _strata(a).values():
        for number, likeness in enumerate(sides[0][:, group] @ sides[1][:, group].swapaxes(1, 2)):
            left, right = linear_sum_assignment(likeness, maximize=True)
            partner[number, group[left]] = group[right]
    return partner


def _strata(result: AblationResult) -> dict[tuple[int, str], np.ndarray]:
    """(layer, kind) -> indices of its components. Kinds stay apart: that MLPs outweigh heads is not a shared
    circuit."""
    strata: dict[tuple[int, str], list[int]] = {}
    for i, (name, layer) in enumerate(zip(result.component, result.layer.tolist(), strict=True)):
        kind = next((kind for mark, kind in (("MLP", "mlp"), ("H", "head"), ("N", "neuron")) if mark in name), "layer")
        strata.setdefault((layer, kind), []).append(i)
    return {key: np.array(members) for key, members in strata.items()}


def _compare(
    a: AblationResult,
    b: AblationResult,
    k: int,
    field: str | None,
    halves: Sequence[tuple[list[int], list[int]]],
    relabelled: np.ndarray,
) -> dict:
    """One pair of models; halves: (rows to match on, rows to score), none where matched by index."""
    whole = a.importance(field), b.importance(field)
    scores = np.stack(whole)[None]
    if halves:
        here, there = (np.array(rows) for rows in zip(*halves, strict=True))
        fields = slice(None) if field is None else [a.fields.index(field)]
        one, other = (r.effect[:, fields].mean(1)[:, there].mean(-1).T for r in (a, b))  # (halving, component)
        scores = np.stack([one, np.take_along_axis(other, _partners(a, b, here), axis=1)], axis=1)
    top = np.array([[_top(score, k) for score in both] for both in scores])
    observed = _jaccard((top[:, 0] & top[:, 1]).sum(-1), k)
    # one relabelling for all halvings, as they are halves of the same examples
    null = np.mean([_jaccard((one & other[relabelled]).sum(-1), k) for one, other in top], axis=0)
    layers = np.unique(a.layer)
    profiles = [[np.array([score[a.layer == la].sum() for la in layers]) for score in both] for both in scores]
    return {
        "pair": f"{a.config['model']} ~ {b.config['model']}",
        "index": observed.mean(),
        "spread": observed.std(),
        "uniform": expected_jaccard(len(whole[0]), k, k),
        "stratified": null.mean(),
        "stratified_low": np.percentile(null, 2.5),
        "stratified_high": np.percentile(null, 97.5),
        "p": permutation_p(float(observed.mean()), null),
        "rank_correlation": np.mean([_rank_correlation(*both) for both in scores]),
        "layer_correlation": np.mean([_rank_correlation(*both) for both in profiles]),
        "top": tuple(
            tuple(r.component[i] for i in np.flatnonzero(_top(score, k)))
            for r, score in zip((a, b), whole, strict=True)
        ),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; nan for fewer than three values, or where one side is constant."""
    if len(a) < 3 or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _top(score: np.ndarray, k: int) -> np.ndarray:
    """(component,) True at the k largest."""
    chosen = np.zeros(len(score), dtype=bool)
    chosen[np.argsort(-score, kind="stable")[:k]] = True
    return chosen


def _jaccard(shared: np.ndarray, k: int) -> np.ndarray:
    """Jaccard index of two sets of k that share so many."""
    return np.asarray(shared / (2 * k - shared))


def _relabelled(
    strata: Mapping[tuple[int, str], np.ndarray], permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """(permutations, component) which component stands for which, in random exchanges within strata."""
    found = np.empty((permutations, sum(map(len, strata.values()))), dtype=int)
    for members in strata.values():
        found[:, members] = rng.permuted(np.tile(members, (permutations, 1)), axis=1)
    return found
