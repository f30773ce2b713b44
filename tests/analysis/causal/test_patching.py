"""Activation patching against TransformerLens's own, against its two exact ends (0 and 1), and on planted
mechanisms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import matplotlib.colors
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, patching

from interp_kit.analysis.causal.patching import patch, patch_senders
from interp_kit.analysis.causal.patching_result import PatchingResult
from interp_kit.core.pairs import PairBatch, make_pairs
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats.intervals import ratio_interval
from interp_kit.engine.edits import CopyAttended, Edit
from interp_kit.engine.metrics import Metric, first_difference, logit_difference, probability
from interp_kit.engine.sites import ACTIVATIONS
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import model_name
from interp_kit.models.planted import planted_boolean
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]
SHORT = {"d_vocab": 5, "n_ctx": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "layernorm": {},
    "no layernorm": {"normalization_type": None, "n_layers": 3, "n_heads": 1, "d_head": 16},
    "narrow heads": {"n_heads": 3, "d_head": 5, "n_layers": 1},
    "attention only": {"attn_only": True, "d_mlp": None, "act_fn": None, "n_heads": 4, "d_head": 4},
    "parallel": {"parallel_attn_mlp": True, "d_head": 12},
}
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
DIRECTIONS: tuple[Literal["denoise", "noise"], ...] = ("denoise", "noise")
directions = pytest.mark.parametrize("direction", DIRECTIONS)
ALL_POSITIONS = ("resid_pre", "resid_mid", "resid_post")


@pytest.fixture(scope="module")
def pairs(parity: Any) -> PairBatch:
    """Pairs of three bits that differ in the first bit and maybe others: six tokens."""
    found = parity.pairs("x", "parity", hold=("bits",))
    return found.take([i for i in range(len(found)) if int(found.clean.labels["bits"][i]) == 3])


@pytest.fixture(scope="module")
def ragged(parity: Any) -> PairBatch:
    """Pairs of one, two and three bits: four and six tokens."""
    return parity.pairs("x", "parity", hold=("bits",))


def grid(result: PatchingResult, *shape: int) -> Tensor:
    return torch.from_numpy(result.values.mean(1)).reshape(shape)


def mean_metric(pairs: PairBatch) -> Callable[[Float[Tensor, "batch pos vocab"]], Tensor]:
    """Clean minus corrupt logit at the prediction position, for TransformerLens: a mean over the batch."""
    rows, at = torch.arange(len(pairs)), int(pairs.clean.position("parity?")[0])
    right, wrong = pairs.clean.answer["parity"], pairs.corrupt.answer["parity"]
    return lambda logits: (logits[rows, at, right] - logits[rows, at, wrong]).mean()


# ---------------------------------------------------------------------------------------------- TransformerLens's own


CASES = [(0, name, "denoise") for name in ARCHITECTURES]
CASES += [(1, "layernorm", "denoise"), (0, "layernorm", "noise"), (1, "no layernorm", "noise")]


@pytest.mark.parametrize(("seed", "architecture", "direction"), CASES)
def test_equals_transformer_lens(
    tiny_model: MakeModel, pairs: PairBatch, seed: int, architecture: str, direction: Literal["denoise", "noise"]
) -> None:
    model = tiny_model(seed, **SHORT, **ARCHITECTURES[architecture])
    layers, heads, length = model.cfg.n_layers, model.cfg.n_heads, pairs.clean.tokens.shape[1]
    # TransformerLens knows one direction: the other is the same with the runs exchanged
    into, source = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    metric = mean_metric(pairs)
    with torch.inference_mode():
        _, cache = model.run_with_cache(source.tokens)
        by_position = {
            "resid_pre": patching.get_act_patch_resid_pre,
            "attn_out": patching.get_act_patch_attn_out,
            "mlp_out": patching.get_act_patch_mlp_out,
        }
        if architecture == "attention only":
            del by_position["mlp_out"]
        if architecture not in ("attention only", "parallel"):
            by_position["resid_mid"] = patching.get_act_patch_resid_mid
        for site, theirs in by_position.items():
            expected = theirs(model, into.tokens, cache, metric)
            found = patch(model, pairs, sites=site, direction=direction)
            assert found.position[:length] == ("bit0", "bit1", "bit2", "parity?", "parity", "eos")
            torch.testing.assert_close(grid(found, layers, length), expected, rtol=0, atol=1e-5)
            assert (expected - expected[0, -1]).abs().max() > 1e-3
        expected = patching.get_act_patch_attn_head_out_by_pos(model, into.tokens, cache, metric)
        assert expected.shape == (layers, length, heads)
        found = patch(model, pairs, sites="z", direction=direction)
        ours = grid(found, layers, heads, length).transpose(1, 2)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        for site, theirs in (
            ("z", patching.get_act_patch_attn_head_out_all_pos),
            ("q", patching.get_act_patch_attn_head_q_all_pos),
            ("k", patching.get_act_patch_attn_head_k_all_pos),
            ("v", patching.get_act_patch_attn_head_v_all_pos),
        ):
            expected = theirs(model, into.tokens, cache, metric)
            found = patch(model, pairs, sites=site, by="all", direction=direction)
            torch.testing.assert_close(grid(found, layers, heads), expected, rtol=0, atol=1e-5)
        # the two ends and what is recovered between them
        start, goal = (float(metric(model(side.tokens))) for side in (into, source))
        np.testing.assert_allclose(found.start.mean(), start, atol=1e-5)
        np.testing.assert_allclose(found.goal.mean(), goal, atol=1e-5)
        recovered = (expected.flatten().numpy() - start) / (goal - start)
        np.testing.assert_allclose(found.recovered, recovered, atol=1e-4 / abs(goal - start))


@architectures
def test_noise_is_denoise_with_clean_and_corrupt_exchanged(
    tiny_model: MakeModel, pairs: PairBatch, architecture: str
) -> None:
    model = tiny_model(2, **SHORT, **ARCHITECTURES[architecture])
    noise = patch(model, pairs, sites=["attn_out", "z"], direction="noise")
    swapped = patch(model, pairs.swapped(), sites=["attn_out", "z"], direction="denoise")
    # exchanged, the metric counts the other answer as right
    np.testing.assert_allclose(noise.values, -swapped.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(noise.recovered, swapped.recovered, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(noise.low, swapped.low, rtol=1e-5, atol=1e-5)
    denoise = patch(model, pairs, sites=["attn_out", "z"], direction="denoise")
    assert np.abs(noise.values - denoise.values).max() > 1e-3
    np.testing.assert_allclose(noise.start, denoise.goal, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(noise.goal, denoise.start, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- exact ends


@given(
    seed=st.integers(0, 10_000),
    architecture=st.sampled_from(list(ARCHITECTURES)),
    direction=st.sampled_from(DIRECTIONS),
    metric=st.sampled_from([logit_difference, probability]),
)
@settings(max_examples=12)
def test_the_whole_residual_recovers_everything(
    tiny_model: MakeModel,
    ragged: PairBatch,
    seed: int,
    architecture: str,
    direction: Literal["denoise", "noise"],
    metric: Callable[[PairBatch], Metric],
) -> None:
    model = tiny_model(seed, **SHORT, **ARCHITECTURES[architecture])
    sites = [s for s in ALL_POSITIONS if s != "resid_mid" or architecture not in ("attention only", "parallel")]
    ends = [sweep(model, side, [], metric(ragged)).baseline for side in (ragged.clean, ragged.corrupt)]
    gap = abs(float((ends[0] - ends[1]).mean()))
    assume(gap > 1e-2)
    result = patch(model, ragged, sites=sites, by="all", direction=direction, metric=metric)
    assert len(result.recovered) == len(sites) * model.cfg.n_layers
    size = 1 + float(np.abs(result.goal).max())
    np.testing.assert_allclose(result.values, np.broadcast_to(result.goal, result.values.shape), atol=1e-5 * size)
    np.testing.assert_allclose(result.recovered, 1, atol=1e-5 * size / gap)
    assert set(result.position) == {"all"}


@directions
@architectures
def test_what_does_not_differ_recovers_nothing(
    tiny_model: MakeModel, parity: Any, architecture: str, direction: Literal["denoise", "noise"]
) -> None:
    model = tiny_model(3, **SHORT, **ARCHITECTURES[architecture])
    found = parity.pairs("y", "parity")  # Only the last bit differs, which of three bits is bit2.
    pairs = found.take([i for i in range(len(found)) if int(found.clean.labels["bits"][i]) == 3])
    assert pairs.token_differs[:, :2].sum() == 0
    assert pairs.token_differs[:, 2].all()
    sites = ["embed", *(("resid_pre", "attn_out", "resid_post"))]
    result = patch(model, pairs, sites=sites, direction=direction)
    before = np.isin(result.position, ["bit0", "bit1"])
    assert before.sum() == 2 * (1 + 3 * model.cfg.n_layers)
    np.testing.assert_allclose(result.recovered[before], 0, atol=1e-3)  # larger batches round differently
    assert np.isnan([result.low, result.high]).all()  # four units are too few for an interval
    behind = np.isin(result.position, ["parity", "eos"])  # Nothing after the prediction reaches it.
    assert np.abs(result.recovered[behind]).max() < 1e-6
    first = [
        i for i, (s, p) in enumerate(zip(result.site, result.position, strict=True)) if (s, p) == ("embed", "bit2")
    ]
    np.testing.assert_allclose(result.recovered[first], 1, atol=1e-4)  # The one token that differs.


# ----------------------------------------------------------------------------------------------------- ragged and names


def test_ragged_pairs_give_the_numbers_of_single_pairs(tiny_model: MakeModel, ragged: PairBatch, parity: Any) -> None:
    model = tiny_model(4, **SHORT)
    assert len({int(n) for n in ragged.clean.mask.sum(1)}) > 1
    found = patch(model, ragged, sites=["resid_mid", "z"])
    # what every row has, by default
    assert list(dict.fromkeys(found.position)) == ["bit0", "parity?", "parity", "eos"]
    senders = patch_senders(model, ragged)
    assert senders.position == ("bit0",)
    by_text = {example.tokens: example for example in parity.enumerate()}

    def examples(of: Any, row: int) -> list:
        return [by_text[tuple(of.tokens[row][of.mask[row]].tolist())]]

    for row in [0, 1, 2, 5, 6, 13, 21]:
        single = make_pairs(parity, examples(ragged.clean, row), examples(ragged.corrupt, row), "x", "parity", "own")
        expected = patch(model, single, sites=["resid_mid", "z"], positions=["bit0", "parity?", "parity", "eos"])
        np.testing.assert_allclose(found.values[:, row], expected.values[:, 0], atol=1e-5)
        np.testing.assert_allclose(found.goal[row], expected.goal[0], atol=1e-5)
        np.testing.assert_allclose(
            senders.values[:, row], patch_senders(model, single, senders=["bit0"]).values[:, 0], atol=1e-5
        )


def test_positions_are_those_asked_for_in_that_order(tiny_model: MakeModel, task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    model = tiny_model(0)
    everything = patch(model, pairs, sites="resid_pre").to_frame().set_index(["layer", "position"])
    chosen = patch(model, pairs, sites="resid_pre", positions=["newB", "D"])
    assert chosen.position == ("newB", "D", "newB", "D")
    assert chosen.layer.tolist() == [0, 0, 1, 1]
    for layer, position, value in zip(chosen.layer, chosen.position, chosen.recovered, strict=True):
        assert value == pytest.approx(everything.loc[(layer, position), "recovered"], abs=1e-4)


def test_recovered_is_a_ratio_of_means_with_an_interval_over_pairs(tiny_model: MakeModel, task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    result = patch(tiny_model(5), pairs, sites="resid_mid", positions=["D", "newB", "newD?"])
    gain, gap = result.values - result.start, result.goal - result.start
    np.testing.assert_allclose(result.recovered, gain.mean(1) / gap.mean(), rtol=1e-5, atol=1e-9)
    units = [np.flatnonzero(result.unit == unit) for unit in np.unique(result.unit)]  # of two pairs each
    sums = np.stack([gain[:, rows].sum(1) for rows in units], 1), np.array([gap[rows].sum() for rows in units])
    summed = ratio_interval(*sums)
    np.testing.assert_allclose([result.low, result.high], summed[1:], rtol=1e-6)
    assert np.isfinite(result.low[:3]).all()
    assert np.isnan(result.low[3:5]).all()  # what no later layer reads recovers 0 of every pair: no spread
    assert result.n == len(units) == len(np.unique(pairs.units()))
    assert result.values.shape[1] == len(pairs)


# --------------------------------------------------------------------------------------------------- planted mechanisms


def test_senders_name_the_planted_source(task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    for mechanism, source in (("via-token", "newB"), ("direct", "D"), ("latent", "newB?")):
        for direction in DIRECTIONS:
            result = patch_senders(planted_boolean(task, mechanism, 3), pairs, direction=direction)
            assert list(result.position) == list(pairs.clean.positions)[: list(pairs.clean.positions).index("newD?")]
            by_name = dict(zip(result.position, result.recovered, strict=True))
            assert by_name.pop(source) == pytest.approx(1, abs=0.02)
            assert np.abs(list(by_name.values())).max() < 0.02
        grouped = patch_senders(
            planted_boolean(task, mechanism, 3), pairs, senders=[("D", "newB"), "newB?"], receiver="newD?"
        )
        assert grouped.position == ("D + newB", "newB?")
        np.testing.assert_allclose(grouped.recovered, [0, 1] if mechanism == "latent" else [1, 0], atol=0.02)
    edit = [Edit("z", layer, CopyAttended(pairs.clean, ("D",)), position="newD?") for layer in range(2)]
    by_hand = sweep(planted_boolean(task, "direct", 3), pairs.corrupt, [edit], logit_difference(pairs))
    result = patch_senders(planted_boolean(task, "direct", 3), pairs, senders=["D"])
    np.testing.assert_allclose(result.values, by_hand.values[:, 0], atol=1e-6)
    assert result.config["receiver"] == "newD?"


def test_only_solved_pairs_are_kept_and_the_rest_counted(task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    model = planted_boolean(task, "direct")
    everything = patch(model, pairs, sites="resid_post", by="all", only_solved=True)
    assert (everything.dropped, everything.values.shape[1]) == (0, len(pairs))
    # Where C = 1 a strong bias of the residual stream at D spoils the answer: do it by hand to the rows' own
    # embeddings.
    by_answer = planted_boolean(task, "direct")
    with torch.no_grad():
        by_answer.b_U[task.field("newD").candidates[1]] += 1000  # Always answers 1.
    with pytest.raises(ValueError, match="the model solves both sides of none of the 16 pairs"):
        patch(by_answer, pairs, only_solved=True)
    spoiled = planted_boolean(task, "direct")
    mixed = PairBatch(
        clean=pairs.clean,
        corrupt=pairs.corrupt,
        variable=pairs.variable,
        target=pairs.target,
        completion=pairs.completion,
        differs=pairs.differs,
    )
    mixed.clean.answer["newD"][:5] = task.field("sum2").candidates[0]  # An answer the model never gives.
    result = patch(spoiled, mixed, sites="resid_post", by="all", only_solved=True)
    assert (result.dropped, result.values.shape[1]) == (5, 11)
    assert result.to_frame()["n"].eq(result.n).all()
    assert result.n == len(np.unique(pairs.take(range(5, 16)).units()))
    assert "5 unsolved pairs left out" in result.caption()


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("call", [patch, patch_senders])
def test_one_batch_is_no_pairs(tiny_model: MakeModel, pairs: PairBatch, call: Callable) -> None:
    with pytest.raises(
        TypeError, match=r"is a TokenBatch; expected PairBatch: the pairs of task.pairs\(variable, target\)"
    ):
        call(tiny_model(0, **SHORT), pairs.clean)


def test_pairs_of_unequal_length_are_refused(parity: Any) -> None:
    one, two, three = (parity.example(bits) for bits in ((1,), (0, 1), (0, 1, 1)))
    with pytest.raises(ValueError, match=r"of different length: \(1, 4\) tokens, \(1, 6\) tokens"):
        make_pairs(parity, [one], [three], "x", "parity", "own")
    with pytest.raises(ValueError, match="of different length"):
        make_pairs(parity, [one, two], [two, one], "x", "parity", "own")


def test_no_gap_is_refused(tiny_model: MakeModel, pairs: PairBatch, task: BooleanTask) -> None:
    model = tiny_model(0, **SHORT)
    same = PairBatch(pairs.clean, pairs.clean, "x", "parity", "own", pairs.differs)
    for call in (patch, patch_senders):
        with pytest.raises(ValueError, match="clean and corrupt do not differ in logit difference of parity"):
            call(model, same)
    deaf = tiny_model(0)
    deaf.W_U.zero_()
    with pytest.raises(ValueError, match=r"mean gap 0.0e\+00 over 16 pairs\), so there is nothing to recover"):
        patch(deaf, task.pairs("newB", "newD"), sites="mlp_out")


def test_what_the_model_or_the_text_lacks_is_refused(
    tiny_model: MakeModel, pairs: PairBatch, ragged: PairBatch
) -> None:
    model = tiny_model(0, **SHORT)
    with pytest.raises(ValueError, match="no site 'resid_top'"):
        patch(model, pairs, sites="resid_top")
    with pytest.raises(ValueError, match="positions holds 'newB'; expected one of bit0"):
        patch(model, pairs, positions=["newB"])
    with pytest.raises(ValueError, match="has no position 'bit2'"):
        patch(model, ragged, positions=["bit2"])
    with pytest.raises(ValueError, match=r"a sender stands after the receiver 'parity\?'"):
        patch_senders(model, pairs, senders=["parity"])
    with pytest.raises(ValueError, match=r"has no blocks\.0\.hook_mlp_out"):
        patch(tiny_model(0, **SHORT, **ARCHITECTURES["attention only"]), pairs, sites="mlp_out")
    with pytest.raises(ValueError, match=r"^token ids from 0 to 4; the model has 0 to 2$"):
        patch(tiny_model(0, **SHORT | {"d_vocab": 3}), pairs)
    with pytest.raises(ValueError, match=r"^texts of 6 tokens do not fit the model's context of 5$"):
        patch(tiny_model(0, **SHORT | {"n_ctx": 5}), pairs)
    model.b_U[0] = float("nan")
    with pytest.raises(FloatingPointError, match="nan"):
        patch(model, pairs)


# --------------------------------------------------------------------------------------------------- tables and files


def test_tables_figures_and_files(tiny_model: MakeModel, task: BooleanTask, tmp_path: Path) -> None:
    pairs = task.pairs("newB", "newD")
    result = patch(tiny_model(0), pairs, sites=["embed", "resid_pre", "z"], positions=["D", "newB", "newD?"])
    frame = result.to_frame()
    assert len(frame) == 3 + 6 + 12
    assert frame["n"].eq(8).all()  # 16 texts, paired both ways
    known = frame[frame["low"].notna()]
    assert len(known) > 10
    assert ((known["low"] <= known["recovered"]) & (known["recovered"] <= known["high"])).all()
    assert frame.loc[frame["site"] == "z", "head"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    for site, names in (("embed", ["embed"]), ("resid_pre", ["L0", "L1"]), ("z", ["L0H0", "L0H1", "L1H0", "L1H1"])):
        axes = result.plot(site=site)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["D", "newB", "newD?"]
        assert [label.get_text() for label in axes.get_yticklabels()] == names
        norm = axes.images[0].norm
        assert isinstance(norm, matplotlib.colors.Normalize)
        assert norm.vmin == -norm.vmax
        shown = np.ma.filled(axes.images[0].get_array(), np.nan)
        rows = frame[frame["site"] == site].reset_index()
        np.testing.assert_allclose(shown.ravel(), rows["recovered"])
    with pytest.raises(ValueError, match="no edit of site 'mlp_out'; there are embed, resid_pre, z"):
        result.plot(site="mlp_out")
    for part in (
        "n = 8 (16 pairs, some of the same texts)",
        "newB",
        "own completions",
        "95 % intervals",
        "clean run into the corrupt run",
    ):
        assert part in result.caption()
    noise = patch(tiny_model(0), pairs, by="all", direction="noise")
    assert "corrupt run into the clean run" in noise.caption()
    assert [label.get_text() for label in noise.plot().get_xticklabels()] == ["all"]
    senders = patch_senders(tiny_model(0), pairs, senders=["D", ("newB", "newB?")])
    assert [label.get_text() for label in senders.plot().get_yticklabels()] == ["D", "newB + newB?"]
    assert "newD? reads keys and values of one position" in senders.caption()
    for i, each in enumerate((result, noise, senders)):
        loaded = AbstractResult.load(each.save(tmp_path / str(i)))
        assert isinstance(loaded, PatchingResult)
        same(each, loaded)


def same(result: AbstractResult, loaded: AbstractResult) -> None:
    """Every field, to the bit and the dtype."""
    for name, value in vars(result).items():
        found = vars(loaded)[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found, value)
            assert found.dtype == value.dtype
        else:
            assert found == value
            assert type(found) is type(value)


def test_every_site_can_be_patched(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model = tiny_model(0, **SHORT)
    sites = [site for site in ACTIVATIONS if site != "pos_embed"]
    result = patch(model, pairs, sites=sites, by="all")
    for site in sites:
        assert np.abs(result.recovered[np.array(result.site) == site]).max() > 1e-4
    assert patch(model, pairs, sites="pos_embed", by="all").recovered == pytest.approx(0, abs=1e-5)


# ------------------------------------------------------------------------------------- groups, and the first difference


def test_groups_of_positions_are_patched_together(tiny_model: MakeModel, task: BooleanTask) -> None:
    model, pairs = tiny_model(0), task.pairs("newB", "newD")
    names = list(pairs.clean.positions)
    result = patch(model, pairs, positions={"everything": names, "first": names[:1]})
    assert set(result.position) == {"everything", "first"}
    frame = result.to_frame().set_index(["layer", "position"])
    assert frame.loc[(0, "everything"), "recovered"] == pytest.approx(1, abs=1e-5)
    alone = patch(model, pairs, positions=names[:1]).to_frame().set_index("layer")
    assert frame.loc[(1, "first"), "recovered"] == pytest.approx(alone.loc[1, "recovered"], abs=1e-4)


def test_first_difference_reads_the_first_answer_that_differs(tiny_model: MakeModel, task: BooleanTask) -> None:
    model, pairs = tiny_model(0), task.pairs("D", "newD", hold=())
    logits = model(pairs.clean.tokens)
    metric = first_difference(pairs)
    found = metric(logits, pairs.clean)
    for row in range(len(pairs)):
        for field in task.fields:
            right, wrong = (int(side.answer[field.name][row]) for side in (pairs.clean, pairs.corrupt))
            if right != wrong:
                here = logits[row, int(pairs.clean.position(field.predict)[row])]
                assert found[row] == pytest.approx(float(here[right] - here[wrong]), abs=1e-5)
                break
    with pytest.raises(ValueError, match="pair 0 has the same answers"):
        first_difference(PairBatch(pairs.clean, pairs.clean, "D", "newD", "own", pairs.differs))


def test_an_index_is_the_position_that_has_it(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model = tiny_model(0, **SHORT)
    names = list(pairs.clean.positions)
    by_name = patch(model, pairs, sites="resid_pre", positions=[names[1]], progress=False)
    by_index = patch(model, pairs, sites="hook_resid_pre", positions=[1], progress=False)
    assert by_index.to_frame().equals(by_name.to_frame())
    grouped = patch(model, pairs, sites="resid_pre", positions={"both": [0, names[1]]}, progress=False)
    assert set(grouped.to_frame()["position"]) == {"both"}
    sent = patch_senders(model, pairs, senders=[0, [0, 1]], progress=False)
    assert sent.to_frame()["position"].tolist() == [names[0], f"{names[0]} + {names[1]}"]
    with pytest.raises(ValueError, match="positions holds 99, but no named position is token 99 in every row"):
        patch(model, pairs, positions=[99])


def test_findings_say_first_that_a_model_solves_few_pairs(task: BooleanTask) -> None:
    model, pairs = planted_boolean(task, "direct"), task.pairs("newB", target="newD")
    assert "says little" not in patch(model, pairs).findings()[0]
    with torch.no_grad():
        model.b_U[task.field("newD").candidates[1]] += 100  # always says 1
    with pytest.warns(UserWarning, match="solves both sides of 0 of 16"):
        found = patch(model, pairs).findings()
    assert found[0].startswith(f"{model_name(model)} solves both sides of 0 of 16 pairs, so this says")


def test_what_differs_and_where_logits_are_read_is_known_by_position(
    tiny_model: MakeModel, task: BooleanTask, ragged: PairBatch
) -> None:
    model, pairs = tiny_model(0), task.pairs("newB", target="newD")
    found = patch(model, pairs, progress=False)
    differ = [
        name
        for name, index in pairs.corrupt.positions.items()
        if any(
            pairs.clean.tokens[row, at] != pairs.corrupt.tokens[row, at]
            for row, at in enumerate(index.tolist())
            if at >= 0
        )
    ]
    at = pairs.corrupt.field("newD").predict
    assert list(found.config["differ"]) == [name for name in differ if name in found.position]
    assert 0 < len(differ) < len(set(found.position))
    assert at in found.config["predict"]
    assert all(torch.equal(pairs.corrupt.positions[n], pairs.corrupt.positions[at]) for n in found.config["predict"])
    names = [name for name in dict.fromkeys(found.position) if name not in (*differ, at)]
    groups = {"both": [differ[0], names[0]], "rest": names[:2]}
    assert patch(model, pairs, positions=groups, progress=False).config["differ"] == ("both",)
    assert "differ" not in patch(model, pairs, by="all", progress=False).config
