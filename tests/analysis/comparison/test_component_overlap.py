"""Top-k overlap on results made by hand, its nulls against enumeration, and its p-values on models that share
nothing."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from transformer_lens import HookedTransformer

from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.analysis.comparison.component_overlap import JaccardResult, jaccard, match_heads
from interp_kit.core.batch import TokenBatch

MakeResult = Callable[..., AblationResult]
LAYERS, HEADS = 3, 4


def result(
    effect: np.ndarray, model: str = "m", initialisation: str | None = None, mlps: bool = True
) -> AblationResult:
    """A hand-made ablation: 3 layers of 4 heads, then their MLPs; effect: (component, field, batch)."""
    names = [(f"L{la}H{he}", la) for la in range(LAYERS) for he in range(HEADS)]
    names += [(f"L{la} MLP", la) for la in range(LAYERS)] if mlps else []
    assert len(names) == len(effect)
    return AblationResult(
        component=tuple(name for name, _ in names),
        layer=np.array([layer for _, layer in names]),
        fields=tuple(f"f{i}" for i in range(effect.shape[1])),
        effect=effect,
        baseline=np.zeros(effect.shape[1:]),
        config={"model": model, "kind": "mean", "metric": "logit difference", "initialisation": initialisation},
    )


def random_effect(seed: int, fields: int = 3, n: int = 32, mlps: bool = True) -> np.ndarray:
    """Heads differ in strength and in the fields they serve, examples add noise."""
    rng = np.random.default_rng(seed)
    components = LAYERS * HEADS + LAYERS * mlps
    return rng.exponential(size=(components, fields, 1)) + 0.2 * rng.normal(size=(components, fields, n))


def permuted(effect: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Heads in another order within each layer; and where each stands now."""
    rng = np.random.default_rng(seed)
    order = np.arange(len(effect))
    for layer in range(LAYERS):
        heads = np.arange(layer * HEADS, (layer + 1) * HEADS)
        order[heads] = np.roll(heads, 1 + int(rng.integers(HEADS - 1)))  # No head stays.
    return effect[order], np.argsort(order)


# ------------------------------------------------------------------------------------------------------ hand-made cases


@pytest.mark.parametrize("match", ["index", "functional", "auto"])
def test_a_result_and_itself_share_everything(match: Any) -> None:
    a = result(random_effect(0))
    found = jaccard(a, a, k=5, match=match, permutations=300)
    assert found.index.tolist() == [1.0]
    assert found.top[0][0] == found.top[0][1]
    assert len(found.top[0][0]) == 5
    assert found.rank_correlation[0] == pytest.approx(1)
    assert found.layer_correlation[0] == pytest.approx(1)
    assert found.p[0] < 0.05


def test_sets_by_hand() -> None:
    effect_a, effect_b = np.zeros((15, 1, 4)), np.zeros((15, 1, 4))
    for rank, i in enumerate([0, 5, 13]):  # L0H0, L1H1, L1 MLP
        effect_a[i] = 10 - rank
    for rank, i in enumerate([5, 0, 2]):  # L1H1, L0H0, L0H2
        effect_b[i] = 10 - rank
    a, b = result(effect_a, "a"), result(effect_b, "b")
    found = jaccard(a, b, k=3, match="index", permutations=100)
    assert found.pair == ("a ~ b",)
    assert found.top == ((("L0H0", "L1H1", "L1 MLP"), ("L0H0", "L0H2", "L1H1")),)
    assert found.index.tolist() == [2 / 4]
    assert jaccard(a, b, k=1, match="index", permutations=10).index.tolist() == [0.0]
    assert jaccard(a, b, k=2, match="index", permutations=10).index.tolist() == [1.0]
    assert jaccard(a, b, k=15, match="index", permutations=10).index.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(5))
def test_functional_matching_undoes_a_permutation_of_heads(seed: int) -> None:
    effect = random_effect(seed)
    moved, where = permuted(effect, seed)
    a, b = result(effect, "a"), result(moved, "b")
    by_index, by_function = (jaccard(a, b, k=5, match=m, permutations=100) for m in ("index", "functional"))
    assert by_index.index[0] < 0.7
    assert by_function.index[0] == 1.0
    assert by_function.rank_correlation[0] == pytest.approx(1)
    assert by_index.rank_correlation[0] < 0.9
    assert match_heads(a, b, range(16)).tolist() == where.tolist()
    # scored on the examples that did not match them
    assert by_function.config["n"] == 16
    assert by_index.config["n"] == 32


def test_matching_sees_one_half_of_the_examples_and_scores_the_other() -> None:
    """Heads that resemble each other on the first half only: matched well, but not important on the second."""
    effect = random_effect(1)
    moved, _ = permuted(effect, 1)
    order = np.random.default_rng(0).permutation(32)  # The documented draw of seed 0.
    first, second = order[:16], order[16:]
    misleading = moved.copy()
    misleading[..., first] = effect[..., first]  # On the first half, heads stand where they stood.
    found = jaccard(result(effect), result(misleading), k=5, match="functional", halvings=1, seed=0, permutations=10)
    expected = jaccard(result(effect[..., second]), result(moved[..., second]), k=5, match="index", permutations=10)
    assert found.index[0] == expected.index[0] < 1


def test_matching_stays_within_layer_and_kind() -> None:
    a, b = result(random_effect(2)), result(random_effect(3))
    partner = match_heads(a, b, range(32))
    assert sorted(partner) == list(range(15))
    for i, j in enumerate(partner):
        assert a.layer[i] == b.layer[j]
        assert a.component[i].endswith("MLP") == b.component[j].endswith("MLP")


def test_matching_does_not_look_at_strength() -> None:
    effect = random_effect(4)
    scaled = effect * np.random.default_rng(0).uniform(0.1, 10, size=(15, 1, 1)) + 3
    moved, where = permuted(scaled, 0)
    assert match_heads(result(effect), result(moved), range(32)).tolist() == where.tolist()


def test_auto_compares_by_index_only_where_one_initialisation_is_named() -> None:
    effect = random_effect(5)

    def matched(*names: str | None) -> str:
        results = [result(effect, f"m{i}", name) for i, name in enumerate(names)]
        return jaccard(*results, k=3, permutations=10).matched

    assert matched("start", "start") == "index"
    assert matched("start", "start", "start") == "index"
    assert matched("start", "other") == "functional"
    assert matched("start", "start", "other") == "functional"
    assert matched(None, None) == "functional"
    assert matched("start", None) == "functional"
    without = result(effect)
    without = replace(without, config={k: v for k, v in without.config.items() if k != "initialisation"})
    assert jaccard(without, without, k=3, permutations=10).matched == "functional"


def test_field_and_k_choose_what_is_compared() -> None:
    effect = np.random.default_rng(0).normal(size=(15, 2, 8))
    other = effect.copy()
    other[:, 1] = np.random.default_rng(1).normal(size=(15, 8))
    a, b = result(effect), result(other)
    same, different = (jaccard(a, b, k=6, match="index", field=f, permutations=10) for f in ("f0", "f1"))
    assert same.index[0] == 1.0 > different.index[0]
    for field, found in (("f1", different), (None, jaccard(a, b, k=6, match="index", permutations=10))):
        tops = [set(np.argsort(-r.importance(field))[:6].tolist()) for r in (a, b)]
        assert found.index[0] == len(tops[0] & tops[1]) / len(tops[0] | tops[1])
        assert found.config["field"] == field
    with pytest.raises(ValueError, match="field is 'f2'; expected one of f0, f1"):
        jaccard(a, b, field="f2")


def test_every_pair_of_several_models_is_compared() -> None:
    results = [result(random_effect(i), f"m{i}") for i in range(4)]
    found = jaccard(*results, k=4, permutations=50)
    assert found.pair == ("m0 ~ m1", "m0 ~ m2", "m0 ~ m3", "m1 ~ m2", "m1 ~ m3", "m2 ~ m3")
    for number, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        alone = jaccard(results[i], results[j], k=4, permutations=50)
        assert found.index[number] == alone.index[0]
        assert found.top[number] == alone.top[0]
    assert found.config["models"] == ("m0", "m1", "m2", "m3")


def test_rank_and_layer_correlation_are_spearmans() -> None:
    a, b = result(random_effect(6)), result(random_effect(7))
    found = jaccard(a, b, k=3, match="index", permutations=10)
    assert found.rank_correlation[0] == pytest.approx(spearmanr(a.importance(), b.importance()).statistic)
    sums = [[r.importance()[r.layer == layer].sum() for layer in range(LAYERS)] for r in (a, b)]
    assert found.layer_correlation[0] == pytest.approx(spearmanr(*sums).statistic)
    constant = result(np.ones((15, 1, 4)))
    flat = jaccard(constant, constant, k=3, match="index", permutations=10)
    assert np.isnan(flat.rank_correlation[0])
    assert np.isnan(flat.layer_correlation[0])


# ------------------------------------------------------------------------------------------------------------- nulls


def test_nulls_equal_enumeration() -> None:
    """Heads of 3 layers of 4 and their MLPs, top 4: every set with as many members in each layer and kind."""
    a, b = result(random_effect(8), "a"), result(random_effect(9), "b")
    found = jaccard(a, b, k=4, match="index", permutations=8000)
    top_a, top_b = (set(found.top[0][side]) for side in range(2))
    strata = [[f"L{la}H{he}" for he in range(HEADS)] for la in range(LAYERS)] + [[f"L{la} MLP"] for la in range(LAYERS)]
    choices = [itertools.combinations(s, len(top_b & set(s))) for s in strata]
    null = []
    for parts in itertools.product(*choices):
        drawn = set().union(*parts)
        assert len(drawn) == 4
        null.append(len(top_a & drawn) / len(top_a | drawn))
    null = np.array(null)
    assert len(null) > 4
    error = 4 * null.std() / np.sqrt(8000)
    assert found.stratified[0] == pytest.approx(null.mean(), abs=error)
    assert found.p[0] == pytest.approx((null >= found.index[0] - 1e-9).mean(), abs=0.02)
    assert found.stratified_low[0] == pytest.approx(np.quantile(null, 0.025, method="inverted_cdf"), abs=1e-9)
    assert found.stratified_high[0] == pytest.approx(np.quantile(null, 0.975, method="inverted_cdf"), abs=1e-9)
    # sets of 4 among all 15, whatever their layer
    uniform = [len(top_a & set(s)) / len(top_a | set(s)) for s in itertools.combinations(a.component, 4)]
    assert found.uniform[0] == pytest.approx(np.mean(uniform), abs=1e-9)


def _noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(15, 3, 24))


def _strength(rng: np.random.Generator) -> np.ndarray:
    """Heads keep their strength over examples, as heads do."""
    return rng.exponential(size=(15, 1, 1)) + 0.3 * rng.normal(size=(15, 3, 24))


def _strength_by_field(rng: np.random.Generator) -> np.ndarray:
    return rng.exponential(size=(15, 3, 1)) + 0.3 * rng.normal(size=(15, 3, 24))


def _strength_times_input(rng: np.random.Generator) -> np.ndarray:
    return rng.exponential(size=(15, 1, 1)) * rng.exponential(size=(15, 3, 24))


DRAWS = [_noise, _strength, _strength_by_field, _strength_times_input]


@pytest.mark.parametrize(("draw", "match"), [(_strength_by_field, "index"), *((draw, "functional") for draw in DRAWS)])
def test_models_that_share_nothing_are_seldom_called_alike(draw: Callable, match: Any) -> None:
    rng = np.random.default_rng(11)
    found = [
        jaccard(result(draw(rng)), result(draw(rng)), k=5, match=match, halvings=8, permutations=39, seed=i)
        for i in range(100)
    ]
    p = np.array([f.p[0] for f in found])
    assert (p < 0.05).mean() <= 0.08
    assert (p < 0.25).mean() <= 0.33
    observed, chance = (np.mean([getattr(f, name)[0] for f in found]) for name in ("index", "stratified"))
    assert observed == pytest.approx(chance, abs=0.03)


def test_models_that_share_their_heads_are_called_alike() -> None:
    rng = np.random.default_rng(12)
    small, index = [], []
    for seed in range(20):
        effect = _strength_by_field(rng)
        moved, _ = permuted(effect + 0.2 * rng.normal(size=effect.shape), seed)
        found = jaccard(result(effect), result(moved), k=4, match="functional", permutations=99)
        small.append(found.p[0] < 0.05)
        index.append(found.index[0])
    assert np.mean(small) >= 0.4  # Five in a hundred would be chance.
    assert np.mean(index) > 0.8


def test_the_index_does_not_hang_on_its_seed() -> None:
    """Ten seeds of the mean over halvings lie closer together than single halvings, by the root of their number."""
    rng = np.random.default_rng(13)
    effect = _strength_by_field(rng)
    a, b = (result(effect + rng.normal(size=effect.shape)) for _ in range(2))
    found = [jaccard(a, b, k=5, match="functional", permutations=200, seed=seed) for seed in range(10)]
    index, p, spread = (np.array([getattr(f, name)[0] for f in found]) for name in ("index", "p", "spread"))
    assert spread.min() > 0.05
    assert np.ptp(index) < 5 * spread.mean() / np.sqrt(100)
    assert np.ptp(p) < 0.15
    alone = np.array(
        [jaccard(a, b, match="functional", halvings=1, permutations=9, seed=s).index[0] for s in range(60)]
    )
    assert alone.mean() == pytest.approx(index.mean(), abs=4 * alone.std() / np.sqrt(60))
    assert alone.std() == pytest.approx(spread.mean(), rel=0.4)
    assert jaccard(a, b, match="index", permutations=9).spread[0] == 0


def test_seed_decides_what_is_drawn() -> None:
    a, b = result(random_effect(8)), result(random_effect(9))
    first, again, other = (jaccard(a, b, match="index", permutations=50, seed=seed) for seed in (1, 1, 2))
    assert first.stratified.tolist() == again.stratified.tolist() != other.stratified.tolist()


# ------------------------------------------------------------------------------------------------- errors and figures


def test_what_cannot_be_compared_is_refused(unchecked: None) -> None:
    a = result(random_effect(0))
    with pytest.raises(ValueError, match="at least two ablations"):
        jaccard(a)
    with pytest.raises(ValueError, match="of different components"):
        jaccard(a, result(random_effect(0, mlps=False), mlps=False))
    with pytest.raises(ValueError, match="different fields or numbers of examples"):
        jaccard(a, result(random_effect(0, n=16)))
    with pytest.raises(ValueError, match="different fields or numbers of examples"):
        jaccard(a, replace(a, fields=("f0", "f1", "f9")))
    for k in (0, 16, -1):
        with pytest.raises(ValueError, match=f"k is {k}; expected a whole number from 1 to 15"):
            jaccard(a, a, k=k)
    with pytest.raises(ValueError, match="halvings is 0"):
        jaccard(a, a, halvings=0)
    with pytest.raises(ValueError, match="match is 'name'; expected one of auto, index, functional"):
        jaccard(a, a, match="name")  # pyright: ignore[reportArgumentType]


def test_tables_figures_and_files(tmp_path: Path) -> None:
    results = [result(random_effect(i), f"m{i}") for i in range(3)]
    found = jaccard(*results, k=4, permutations=50)
    frame = found.to_frame()
    assert frame["pair"].tolist() == ["m0 ~ m1", "m0 ~ m2", "m1 ~ m2"]
    assert frame["n"].eq(16).all()
    assert frame["k"].eq(4).all()
    assert frame["matched"].eq("functional").all()
    np.testing.assert_array_equal(frame["index"], found.index)
    axes = found.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found.pair)
    shown = {text.get_text() for text in axes.figure.axes[0].get_legend().get_texts()}
    assert shown == {"observed", "chance within layer and kind, 95 %", "chance, uniform"}
    for part in ("n = 16 examples", "functional matching", "4 most important", "50 random sets", "exact chance level"):
        assert part in found.caption()
    assert "m0 ~ m1: Jaccard" in str(found)
    assert f"{found.uniform[0]:.2f} uniform" in str(found)
    loaded = JaccardResult.load(found.save(tmp_path / "overlap"))
    for name, value in vars(found).items():
        other = vars(loaded)[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(other, value)
            assert other.dtype == value.dtype
        else:
            assert other == value
    assert str(loaded) == str(found)


def test_ablations_of_models_are_compared(tiny_model: Callable[..., HookedTransformer], batch: TokenBatch) -> None:
    model = tiny_model(0)
    before = ablate(model, batch, fields=["newA"])
    model.W_U.mul_(2.0)  # Every effect doubles: the same components, in the same order.
    found = jaccard(before, ablate(model, batch, fields=["newA"]), k=3, match="index", permutations=20)
    assert found.index.tolist() == [1.0]
    assert found.rank_correlation[0] == pytest.approx(1)
    other = ablate(tiny_model(1, n_heads=4, d_head=4), batch, fields=["newA"])
    with pytest.raises(ValueError, match="of different components"):
        jaccard(before, other)
