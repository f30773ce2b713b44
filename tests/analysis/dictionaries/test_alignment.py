"""Alignment of features with variables: a dictionary written by hand on a planted model, whose every figure is known; a
trained one on the model with a decoy; splitting, absorption and choosing on data made to show them."""

import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.analysis.dictionaries.activations import harvest, split_examples
from interp_kit.analysis.dictionaries.alignment.detectors import (
    Candidates,
    candidates,
    choose,
    classes,
    fit_probe,
    permuted,
    shuffled_sae,
)
from interp_kit.analysis.dictionaries.alignment.result import AlignmentResult
from interp_kit.analysis.dictionaries.alignment.splitting import chance_area, split
from interp_kit.analysis.dictionaries.origin import check_sae, weights_of
from interp_kit.analysis.dictionaries.sae import SAEResult, evaluate_sae
from interp_kit.core.stats.detection import auroc, ranked
from interp_kit.models.convert import untrained
from interp_kit.models.hooked_model import model_name
from interp_kit.models.planted.boolean import _frame

TASK = ik.BooleanTask()
SITE = "blocks.1.hook_resid_pre"


@lru_cache
def written(mechanism: str) -> SAEResult:
    """A dictionary of what layer 0 wrote into the stream: both signs of each answer and slot direction, and the rest of
    the stream in directions at right angles to them, both signs. It reconstructs everything."""
    from sae_lens import StandardSAE, StandardSAEConfig

    model = ik.planted(f"boolean-{mechanism}")
    directions = _frame(TASK, mechanism, 0).basis.write
    named = torch.stack([*directions.answer.values(), *directions.slot, *directions.spare]).float()
    whole = torch.linalg.qr(torch.cat([named, torch.eye(named.shape[1])]).T)[0].T[: named.shape[1]]
    basis = torch.cat([named, whole[len(named) :]])
    d = basis.shape[1]
    sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=2 * d))
    inverse = torch.linalg.inv(basis.double()).float()
    sae.load_state_dict(
        {"W_enc": torch.cat([inverse, -inverse], 1), "W_dec": torch.cat([basis, -basis]), "b_enc": torch.zeros(2 * d),
         "b_dec": torch.zeros(d)}
    )  # fmt: skip
    acts = harvest(model, TASK, SITE, *split_examples(TASK, 0.25, 100, 0))
    return evaluate_sae(model, acts, sae, config={"model": model_name(model)})


def figures(found: AlignmentResult, variable: str, position: str) -> dict[str, float]:
    row = list(zip(found.variable, found.position, strict=True)).index((variable, position))
    use = list(zip(found.use_variable, found.use_position, strict=True)).index((variable, position))
    return {"AUROC": found.auroc[row, 0], **dict(zip(found.exchanged, found.moved[use], strict=True))}


@lru_cache
def at_newc() -> AlignmentResult:
    return ik.align_features(
        ik.planted("boolean-latent"), TASK, written("latent"), variables=["newC", "B", "E"], positions="newC?"
    )


def test_of_features_that_tell_equally_only_the_one_that_is_read_moves_the_answer() -> None:
    """At `newC?` stand newC, which the logits read, and its operands B and E, which nothing reads any more."""
    found = at_newc()
    newc = figures(found, "newC", "newC?")
    assert newc["AUROC"] == 1
    assert newc["features"] == pytest.approx(1, abs=0.1)
    for operand in ("B", "E"):
        decoy = figures(found, operand, "newC?")
        assert decoy["AUROC"] == 1
        assert decoy["feature"] == pytest.approx(0, abs=0.05)
        assert decoy["features"] == pytest.approx(0, abs=0.05)
        assert decoy["all features"] == pytest.approx(1, abs=0.01)
    assert found.target == ("newC",) * 3
    directions = _frame(TASK, "latent", 0).basis.write
    wanted = directions.answer["newC"].float()
    which = int(found.chosen[0, 0])
    cosine = torch.from_numpy(written("latent").weights["W_dec"][which]) @ wanted / wanted.norm()
    assert abs(float(cosine)) > 0.99


def test_exchanging_all_features_of_a_perfect_dictionary_is_exchanging_the_site() -> None:
    found = at_newc()
    kinds = list(found.exchanged)
    np.testing.assert_allclose(
        found.moved[:, kinds.index("all features")], found.moved[:, kinds.index("site")], atol=1e-3
    )
    np.testing.assert_allclose(found.moved[:, kinds.index("site")], 1, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 4, 5))])
def test_a_trained_feature_of_the_decoy_tells_the_variable_and_is_not_used(seed: int) -> None:
    """Of the decoy model newD follows from D's token, and newB's copy at `newD?` is read by nothing: the whole site
    moves nothing whichever autoencoder was trained, and what its features move there (-0.13 to 0.46) leaks."""
    model = ik.planted("boolean-decoy")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*may memorise")
        config = ik.SAEConfig(width=64, k=4, training_samples=40_000)
        sae = ik.train_sae(model, TASK, site=SITE, config=config, seed=seed, progress=False)
    found = ik.align_features(model, TASK, sae, variables="newB", positions=["D", "newD?"], target="newD")
    used, decoy = figures(found, "newB", "D"), figures(found, "newB", "newD?")
    assert used["AUROC"] >= 0.99
    assert decoy["AUROC"] >= 0.99
    assert used["features"] > 0.3
    assert abs(decoy["site"]) < 1e-3
    assert abs(decoy["all features"]) < 0.05
    assert used["features"] > used["random features"] + 0.2
    assert found.verdict == ("used", "site not read")
    assert found.summary()["verdict"].tolist() == ["used", "site not read"]
    assert "In 1 of 2 places the whole site moves nothing" in found.caption()
    names = [label.get_text() for label in found.plot().get_yticklabels()]
    assert any("at newD? (site not read)" in name for name in names), names
    assert not np.isfinite(found.moved_low).any(), "all pairs agree up to float32: no spread is known"


def test_features_of_a_site_that_may_move_nothing_are_not_said_to_be_used() -> None:
    found = at_newc()
    kinds, shape = list(found.exchanged), found.moved.shape
    moved, low, high = np.full(shape, 0.5), np.full(shape, 0.4), np.full(shape, 0.6)
    moved[:, kinds.index("random features")] = [0.1, 0.1, 0.45]
    site = kinds.index("site")
    moved[1, site], low[1, site], high[1, site] = 0.1, -0.1, 0.3
    made = replace(found, moved=moved, moved_low=low, moved_high=high)
    assert made.verdict == ("used", "site not read", "not shown")
    assert replace(made, pairs=np.array([4, 4, 4])).verdict == ("not shown", "site not read", "not shown")


def test_the_summary_names_the_feature_and_keeps_apart_what_it_moves() -> None:
    """Column "feature" is the number of a feature, as in findings, not what exchanging it moves."""
    found = at_newc()
    told = found.summary()
    assert told["feature"].tolist() == found.chosen[:, 0].tolist()
    alone = found.moved[:, found.exchanged.index("feature")]
    uses = list(zip(found.use_variable, found.use_position, strict=True))
    at = [uses.index(key) if key in uses else -1 for key in zip(found.variable, found.position, strict=True)]
    wanted = [alone[i] if i >= 0 else np.nan for i in at]
    np.testing.assert_allclose(told["feature alone"], wanted, atol=0.005, equal_nan=True)


def test_the_most_is_of_the_places_that_are_compared() -> None:
    """A place without random features beside it moves more, and is not one of those that "the most" is said of."""
    found = at_newc()
    kinds, shape = list(found.exchanged), found.moved.shape
    moved = np.full(shape, 0.5)
    moved[:, kinds.index("features")] = [0.9, 0.4, 0.3]
    moved[:, kinds.index("random features")] = [np.nan, 0.0, 0.0]
    moved[:, kinds.index("site")] = 1
    made = replace(found, moved=moved, moved_low=moved - 0.05, moved_high=moved + 0.05)
    assert made.verdict == ("not shown", "used", "used"), "what has no control is not shown"
    assert "moves 0.40" in made.findings()[-1]
    assert "the most of 2 places where this is shown beside random ones" in made.findings()[-1]


def test_every_control_is_there_and_chance_is_known() -> None:
    found = at_newc()
    assert found.method == ("SAE feature", "random SAE", "PCA", "basis", "neuron", "probe")
    assert np.isfinite(found.auroc).all()
    assert (found.chosen_at >= 0.5).all()
    assert (found.permuted_high < 0.95).all()
    assert (found.permuted_chosen_at > 0.6).all(), "the best of many flatters, on 16 inputs"
    assert (found.auroc_low <= found.auroc).all()
    assert (found.auroc_low < 0.9).all(), "16 inputs prove little"
    assert (found.bits <= found.entropy[:, None] + 1e-9).all()
    np.testing.assert_allclose(found.bits[:, 0], found.entropy)


def test_a_random_autoencoder_keeps_the_lengths_of_its_vectors() -> None:
    sae = written("latent").to_sae_lens()
    drawn = shuffled_sae(sae, 0)
    for name, axis in (("W_enc", 0), ("W_dec", 1)):
        ours, theirs = (dict(one.named_parameters())[name].detach() for one in (sae, drawn))
        torch.testing.assert_close(ours.norm(dim=axis), theirs.norm(dim=axis))
        assert float((ours - theirs).abs().max()) > 0.1
    torch.testing.assert_close(drawn.W_dec, shuffled_sae(sae, 0).W_dec)


def test_what_chance_chooses_of_many_is_told_by_the_inputs_that_it_was_not_chosen_by() -> None:
    rng = np.random.default_rng(0)
    there, here = rng.normal(size=(20, 400)), rng.normal(size=(20, 400))
    label = np.arange(20) < 10
    chosen, scored = permuted(ranked(there), ranked(here), (label, label), 200, rng)[:2]
    assert chosen.mean() > 0.85
    assert scored.mean() == pytest.approx(0.5, abs=0.03)


def test_ties_go_to_the_feature_that_writes_most() -> None:
    label = np.array([[False, False, True, True]])
    values = np.array([[0, 0, 2, 0], [0, 0, 2, 0], [1, 3, 0, 0], [1, 3, 0, 1.0]])
    given = Candidates(values, np.array([1.0, 1.0, 1.0, 9.0]))
    part = np.ones(4, dtype=bool)
    assert choose(given, part, ranked(values), label)[0].tolist() == [1]
    assert choose(given, part, ranked(values), ~label)[0].tolist() == [1]
    assert choose(given, part, ranked(values), ~label, firing=True)[0].tolist() == [2]


def test_classes_of_two_values_of_many_and_of_amounts() -> None:
    parts = [np.arange(24) % 2 == 0, np.arange(24) % 2 == 1]
    two, many = np.repeat([0, 1], 12), np.repeat([4, 5, 6, 7], [2, 6, 8, 8])
    assert set(classes(two, False, parts, 3, 16)) == {"= 1"}
    assert set(classes(many, False, parts, 3, 16)) == {"= 5", "= 6", "= 7"}, "of 4 there are too few"
    assert set(classes(many, False, parts, 3, 2)) == {"= 6", "= 7"}
    ((name, label),) = classes(many, True, parts, 3, 16).items()
    assert (name, int(label.sum())) == ("> 5", 16)
    assert classes(np.zeros(24, dtype=int), False, parts, 3, 16) == {}


def parted(n: int = 2000) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng, rng.random(n) < 0.5, np.arange(n) % 2 == 0


def test_a_class_split_over_two_features_needs_both() -> None:
    rng, label, by = parted()
    which = rng.random(len(label)) < 0.5
    codes = np.stack([label & which, label & ~which, rng.random(len(label)) < 0.3], 1).astype(float)
    decoder = np.eye(3)
    found = split(codes, decoder, label, by, 0, 1.0, fit_probe(codes @ decoder, label, by), 0.6)
    assert found.features == (0, 1)
    assert found.areas[0] == pytest.approx(0.75, abs=0.06)
    assert found.areas[1] == 1
    assert found.missed.value == 0
    one = split(codes[:, [0, 2]] + codes[:, [1, 2]] * [1, 0], decoder[:2], label, by, 0, 1.0,
                fit_probe(codes @ decoder, label, by), 0.6)  # fmt: skip
    assert one.features == (0,)


def test_a_class_that_cannot_be_told_is_told_by_no_number_of_features() -> None:
    rng, label, by = parted()
    codes = rng.random((len(label), 5))
    found = split(codes, np.eye(5), label, by, 0, 1.0, fit_probe(codes, label, by), 0.6)
    assert found.features == ()
    assert np.isnan([found.missed.value, found.absorbed.value]).all()


def test_a_child_that_writes_its_parents_direction_absorbs_it() -> None:
    """Feature 0 is the parent's; on the child's inputs feature 1 writes parent and child together (Chanin et al.)."""
    rng, label, by = parted()
    child = label & (rng.random(len(label)) < 0.04)
    codes = np.stack([label & ~child, child, rng.random(len(label)) < 0.3], 1).astype(float)
    decoder = np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    values = codes @ decoder + rng.normal(size=(len(label), 4)) * 0.01
    found = split(codes, decoder, label, by, 0, 1.0, fit_probe(values, label, by), 0.6)
    assert found.features == (0,), "one feature has 95 % of what two have"
    assert found.missed.value == found.absorbed.value == pytest.approx((child & ~by).sum() / (label & ~by).sum())
    assert found.absorber == 1
    clean = np.stack([label, child, codes[:, 2]], 1).astype(float)
    apart = split(clean, np.eye(3, 4), label, by, 0, 1.0, fit_probe(clean @ np.eye(3, 4), label, by), 0.6)
    assert apart.features == (0,)
    assert apart.absorbed.value == 0


def test_a_batch_is_read_and_nothing_is_exchanged() -> None:
    batch = TASK.batch(TASK.enumerate())
    found = ik.align_features(
        ik.planted("boolean-latent"), batch, written("latent"), variables="newC", positions="newC?"
    )
    assert found.auroc[0, 0] == 1
    assert found.moved.shape == (0, 5)
    assert "Moved" not in found.caption()
    assert found.plot().get_title()
    with pytest.raises(ValueError, match="nothing was exchanged"):
        found.plot(what="use")


def test_an_amount_is_told_by_its_upper_half_and_what_another_variable_moves_is_said() -> None:
    found = ik.align_features(
        ik.planted("boolean-latent"), TASK, written("latent"), variables=["sum1", "newA"], positions="newB?"
    )
    assert set(zip(found.variable, found.value, strict=True)) == {("sum1", "> 2"), ("newA", "= 1")}
    assert set(found.unused) == {"sum1 -> newB", "newA -> newB"}
    assert "does 'newA' alone change 'newB'" in found.unused["newA -> newB"]


def test_results_are_saved_shown_and_reported(tmp_path: Path) -> None:
    found = at_newc()
    again = AlignmentResult.load(found.save(tmp_path / "found"))
    assert again.to_frame().equals(found.to_frame())
    assert again.summary().equals(found.summary())
    frame = found.to_frame()
    assert set(frame["unit"]) == {"inputs", "pairs"}
    assert min(frame["n"].tolist()) > 0
    for what in ("use", "tell"):
        assert f"{found.n[0]} texts" in found.plot(what=what).get_title()
    assert ik.report([found], tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positions": "A", "variables": "newD"}, "none of newD is determined at any of A"),
        ({"target": "zz"}, "no field 'zz'"),
    ],
)
def test_what_cannot_be_asked_says_so(options: dict[str, Any], said: str) -> None:
    given = {"sae": written("latent"), "variables": "newC", "positions": "newC?"} | options
    with pytest.raises((TypeError, ValueError), match=said):
        ik.align_features(ik.planted("boolean-latent"), TASK, **given)


def test_an_autoencoder_of_another_model_is_refused() -> None:
    unknown = replace(written("latent"), config={})
    with pytest.raises(ValueError, match=r"an autoencoder of \d+ inputs at blocks.1.hook_resid_pre, which has \d+"):
        ik.align_features(ik.planted("boolean-superposed"), TASK, unknown, positions="newC?")
    with pytest.raises(ValueError, match="trained on boolean-latent@0, not on boolean-latent@1"):
        ik.align_features(ik.planted("boolean-latent", 1), TASK, written("latent"), positions="newC?")


def test_weights_decide_where_an_autoencoder_is_from() -> None:
    model = ik.planted("boolean-latent")
    sae = replace(written("latent"), config={"model": "another name", "weights": weights_of(model)})
    check_sae(model, sae)
    check_sae(model.to(torch.bfloat16), replace(sae, config={**sae.config, "model": "boolean-latent@0"}))
    model = ik.planted("boolean-latent")
    with torch.no_grad():
        model.blocks[1].mlp.W_in[0, 0] += 1
    for name, said in (("another name", "another name, not on"), ("boolean-latent@0", "other weights than")):
        with pytest.raises(ValueError, match=said):
            check_sae(model, replace(sae, config={**sae.config, "model": name}))
    weights = {name: value * np.nan for name, value in sae.weights.items()}
    with pytest.raises(ValueError, match="holds values that are nan or infinite"):
        check_sae(ik.planted("boolean-latent"), replace(sae, weights=weights))


def test_needed_features_of_random_labels_are_found_as_rarely_as_meant() -> None:
    """The largest of five sparse probes is held against the largest of five under permuted labels: against the 95th
    percentile of a single feature 0.18 of random labels passed."""
    rng = np.random.default_rng(0)
    codes, by = np.maximum(rng.normal(size=(32, 64)), 0), np.arange(32) < 16
    ranks, passed = (ranked(codes[by]), ranked(codes[~by])), []
    for _ in range(150):
        label = np.concatenate([rng.permutation(16) < 8, rng.permutation(16) < 8])
        null = permuted(*ranks, (label[by], label[~by]), 100, rng)
        main = int(np.abs(auroc(ranks[0], label[None, by])[0] - 0.5).argmax())
        chance = chance_area(codes, by, null)
        found = split(codes, np.eye(64), label, by, main, 1.0, fit_probe(codes, label, by), chance)
        passed.append([len(found.features) > 0, found.areas.max() > np.percentile(null.here, 95)])
    share, before = np.mean(passed, 0)
    assert share < 0.08
    assert before > 0.1, "the test would not see the fault"


def test_a_principal_component_that_is_rounding_is_no_candidate() -> None:
    vectors, by = torch.randn(20, 64, generator=torch.Generator().manual_seed(0)), np.arange(20) < 16
    sae = written("latent").to_sae_lens()
    width = sae.cfg.d_in
    given = candidates(sae, sae, torch.nn.functional.pad(vectors, (0, width - 64)), None, by)["PCA"]
    assert given.values.shape == (20, 15), "16 centred vectors have rank 15"
    assert candidates(sae, sae, torch.ones(20, width), None, by)["PCA"].values.shape == (20, 1)


def test_an_untrained_model_moves_no_share_of_nothing() -> None:
    model = untrained(ik.planted("boolean-latent"), 0)
    sae = replace(written("latent"), config={})
    found = ik.align_features(model, TASK, sae, variables=["newC", "B"], positions="newC?", permutations=2)
    for i in range(len(found.pairs)):
        gap = found.moved[i, list(found.exchanged).index("site")]
        assert np.isnan(gap) or np.isfinite(found.moved_low[i]).any(), found.summary()
    assert any("the same in both runs" in why for why in found.unused.values()), found.unused


def test_rows_of_a_batch_are_drawn_and_few_rows_are_refused_without_warnings() -> None:
    model, sae, batch = ik.planted("boolean-latent"), written("latent"), TASK.batch(TASK.enumerate())
    ordered = batch.take(torch.argsort(batch.label("D"), stable=True))
    options: dict[str, Any] = {"variables": "D", "positions": "newC?", "permutations": 2}
    assert ik.align_features(model, ordered, sae, limit=16, **options).variable == ("D",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="none of D is determined"):
            ik.align_features(model, batch.take([0]), sae, **options)
