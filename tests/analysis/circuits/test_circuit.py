"""Edge scores, circuits and their faithfulness: against finite differences, completeness, and circuits known by
construction."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import networkx
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer

import interp_kit as ik
from interp_kit.analysis.circuits.carried import outputs_of, patched
from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.analysis.circuits.direct_attribution import BIAS
from interp_kit.analysis.circuits.drawing import GREY, NEGATIVE, POSITIVE, draw
from interp_kit.analysis.circuits.edge_gradients import COMPLETE, FIRST
from interp_kit.analysis.circuits.edge_scores import score_edges
from interp_kit.analysis.circuits.faithfulness import SMALL, areas
from interp_kit.core.batch import TokenBatch
from interp_kit.core.pairs import PairBatch
from interp_kit.core.task import AbstractTask
from interp_kit.engine.graph import Graph
from interp_kit.models.circuit import Edge
from interp_kit.reports.plotting import figure_of, png
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]
DIRECTIONS: tuple[Literal["noise", "denoise"], ...] = ("noise", "denoise")
LATENT = {
    Edge("embed", "L0H0", "v"),
    Edge("L0H0", "L0 MLP", "mlp"),
    Edge("L0 MLP", "L1H1", "v"),
    Edge("L1H1", "L1 MLP", "mlp"),
    Edge("L1 MLP", "logits", "logits"),
}


@pytest.fixture(scope="module")
def pairs(task: BooleanTask) -> PairBatch:
    return task.pairs("newB", "newD")


@pytest.fixture(scope="module")
def latent() -> HookedTransformer:
    return ik.planted("boolean-latent")


@pytest.fixture(scope="module")
def untrained(latent: HookedTransformer) -> HookedTransformer:
    return ik.untrained(latent)


@pytest.fixture(scope="module")
def random(tiny_model: MakeModel) -> HookedTransformer:
    """Random weights, biases and norms: nothing in it is 0, no score is equal to another."""
    return tiny_model(4, eps=0.5)


@pytest.fixture(scope="module")
def one_way(pairs: PairBatch) -> PairBatch:
    """Each two texts in one order alone: averages from clean to corrupt and back are then no longer the same."""
    sides = zip(pairs.clean.tokens.tolist(), pairs.corrupt.tokens.tolist(), strict=True)
    return pairs.take([i for i, (clean, corrupt) in enumerate(sides) if clean < corrupt])


@pytest.fixture(scope="module")
def seen(random: HookedTransformer, pairs: PairBatch) -> ActivationCache:
    """What TransformerLens has of the random model on the clean side, each head's output apart."""
    random.set_use_attn_result(True)
    _, cache = random.run_with_cache(pairs.clean.tokens)
    random.set_use_attn_result(False)
    return cache


def difference(logits: Tensor, pairs: PairBatch) -> Tensor:
    """(pair,) logit of the clean answer minus that of the corrupt one, of logits (pair, vocab)."""
    rows = torch.arange(len(pairs))
    return logits[rows, pairs.clean.answer["newD"]] - logits[rows, pairs.corrupt.answer["newD"]]


@pytest.fixture(scope="module")
def scored(latent: HookedTransformer, pairs: PairBatch) -> Circuit:
    return score_edges(latent, pairs, method="exact")


def test_a_gradient_is_what_a_small_part_of_the_patch_does(latent: HookedTransformer, one_way: PairBatch) -> None:
    model = ik.untrained(latent).to(torch.float64)
    model.cfg.dtype = torch.float64
    found = score_edges(model, one_way, method="eap")
    graph, metric = Graph(model), ik.logit_difference(one_way)
    reference, reads, share = graph.outputs(one_way.corrupt.tokens), metric.reads(one_way.clean), 1e-4
    masks = torch.stack([graph.mask(one_way.clean, [edge]).double() * share for edge in graph.edges])
    with torch.no_grad():
        start = metric.measure(graph.logits(one_way.clean.tokens, reads), one_way.clean)[0]
        moved = metric.measure(graph.logits(one_way.clean.tokens, reads, masks, reference), one_way.clean)
    expected = ((start - moved) / share).mean(1).numpy()
    np.testing.assert_allclose(found.score, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_true_edge_alone_is_worth_the_whole_gap(
    latent: HookedTransformer, pairs: PairBatch, direction: Literal["noise", "denoise"]
) -> None:
    found = score_edges(latent, pairs, method="exact", direction=direction).top(5)
    assert set(found.edges) == LATENT
    assert found.config["gap"] > 1
    assert found.score == pytest.approx([found.config["gap"]] * 5, rel=1e-3)


def test_edges_that_run_in_parts_have_the_scores_of_all_together(
    random: HookedTransformer, pairs: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = score_edges(random, pairs, method="exact")
    monkeypatch.setattr(Graph, "chunk", lambda graph, tokens, memory: 7)
    np.testing.assert_allclose(score_edges(random, pairs, method="exact").score, together.score, atol=1e-5)


def test_double_precision_is_kept(tiny_model: MakeModel, random: HookedTransformer, pairs: PairBatch) -> None:
    double = score_edges(tiny_model(4, eps=0.5).to(torch.float64), pairs, method="exact")
    np.testing.assert_allclose(double.score, score_edges(random, pairs, method="exact").score, atol=1e-4)


def test_midpoints_are_the_same_from_either_end(random: HookedTransformer, one_way: PairBatch) -> None:
    noise, denoise = (score_edges(random, one_way, steps=3, direction=direction) for direction in DIRECTIONS)
    assert noise.config["steps"] == denoise.config["steps"] == 3
    np.testing.assert_allclose(noise.score, denoise.score, atol=1e-4)
    ends = [score_edges(random, one_way, method="eap", direction=direction).score for direction in DIRECTIONS]
    assert np.abs(ends[0] - ends[1]).max() > 0.01  # the gradient is another at each end


def test_steps_double_until_they_are_complete_twice(random: HookedTransformer, pairs: PairBatch) -> None:
    found = score_edges(random, pairs).config
    last, before = (score_edges(random, pairs, steps=found["steps"] // by).config["incomplete"] for by in (1, 2))
    assert found["incomplete"] == pytest.approx(last, abs=1e-5)
    assert max(last, before) <= COMPLETE
    assert found["steps"] >= 2 * FIRST


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["boolean-latent", "boolean-direct", "untrained:boolean-latent"])
def test_what_leaves_the_embedding_adds_up_to_the_gap(name: str, direction: str, pairs: PairBatch) -> None:
    from interp_kit.registry.models import load

    found = score_edges(load(name), pairs, method="eap-ig", direction=direction)  # pyright: ignore[reportArgumentType]
    total = sum(s for e, s in zip(found.edges, found.score, strict=True) if e.sender == "embed")
    assert total == pytest.approx(found.config["gap"], rel=0.02)
    assert found.config["incomplete"] <= 0.02


def test_scores_by_position_add_up(latent: HookedTransformer, pairs: PairBatch) -> None:
    whole = score_edges(latent, pairs, method="eap")
    parts = score_edges(latent, pairs, method="eap", by="position")
    summed = parts.score.reshape(len(whole), len(pairs.clean.positions)).sum(1)
    np.testing.assert_allclose(summed, whole.score, atol=1e-4)


def test_a_position_that_a_row_has_not_adds_nothing(tiny_model: MakeModel, parity: AbstractTask) -> None:
    model, pairs = tiny_model(4, d_vocab=5, n_ctx=8), parity.pairs("x", "parity", hold=("bits",))
    assert (pairs.clean.positions["bit2"] < 0).any()
    whole, parts = score_edges(model, pairs, method="eap"), score_edges(model, pairs, method="eap", by="position")
    summed = parts.score.reshape(len(whole), len(pairs.clean.positions)).sum(1)
    np.testing.assert_allclose(summed, whole.score, atol=1e-4)


@pytest.mark.parametrize("method", ["exact", "eap", "eap-ig"])
def test_the_true_edges_score_highest(latent: HookedTransformer, pairs: PairBatch, method: str) -> None:
    found = score_edges(latent, pairs, method=method)  # pyright: ignore[reportArgumentType]
    assert set(found.top(5).edges) == LATENT
    assert np.abs(found.top(6).score[5]) < 0.02 * found.config["gap"]


@pytest.mark.slow
def test_by_position_the_way_is_known_too(latent: HookedTransformer, pairs: PairBatch) -> None:
    found = score_edges(latent, pairs, method="exact", by="position").top(5)
    assert {(e.sender, e.position) for e in found.edges} == {
        ("embed", "D"), ("L0H0", "newB?"), ("L0 MLP", "newB?"), ("L1H1", "newD?"), ("L1 MLP", "newD?"),
    }  # fmt: skip


def test_acdc_leaves_the_true_edges(latent: HookedTransformer, pairs: PairBatch) -> None:
    assert set(ik.acdc(latent, pairs, threshold=0.01).edges) == LATENT
    with pytest.raises(ValueError, match="nothing is left"):
        ik.acdc(latent, pairs, threshold=1e9)
    with pytest.raises(ValueError, match="threshold is "):
        ik.acdc(latent, pairs, threshold=0.0)


def test_acdc_goes_edge_by_edge_as_it_says(random: HookedTransformer, one_way: PairBatch) -> None:
    threshold = 0.02
    found = ik.acdc(random, one_way, threshold=threshold, metric=ik.logit_difference)
    graph, kept = Graph(random), dict(zip(found.edges, found.score, strict=True))
    reference, removed = outputs_of(graph, one_way.corrupt), []
    for edge in reversed(graph.edges):
        without = [removed, [*removed, edge]]
        before, after = patched(graph, one_way.clean, reference, without, ik.logit_difference(one_way)).mean(1).tolist()
        if edge in kept:
            assert kept[edge] == pytest.approx(after - before, abs=1e-5)
        else:
            removed.append(edge)
        assert (abs(after - before) >= threshold) == (edge in kept)
    assert 5 < len(kept) < len(graph.edges) - 5
    assert found.score.min() < 0 < found.score.max()


def test_paths_recover_what_they_carry(latent: HookedTransformer, pairs: PairBatch) -> None:
    wrong = Edge("embed", "L1H1", "v")
    found = ik.path_patch(latent, pairs, {"true": [Edge("L0 MLP", "L1H1", "v", "newB?")], "wrong": [wrong]})
    assert found.recovered == pytest.approx([1, 0], abs=1e-3)
    noise = ik.path_patch(latent, pairs, [Edge("L1H1", "L1 MLP", "mlp"), wrong], direction="noise")
    assert noise.recovered == pytest.approx([1, 0], abs=1e-3)
    assert noise.path[0] == "L1H1 → L1 MLP"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_paths_lead_from_one_run_to_the_other(
    random: HookedTransformer, pairs: PairBatch, direction: Literal["noise", "denoise"]
) -> None:
    found = ik.path_patch(random, pairs, [Edge("embed", "L0 MLP", "mlp")], direction=direction)
    sides = (pairs.clean, pairs.corrupt) if direction == "noise" else (pairs.corrupt, pairs.clean)
    for ours, side in zip((found.start, found.goal), sides, strict=True):
        logits = random(side.tokens)[torch.arange(len(pairs)), side.position("newD?")]
        np.testing.assert_allclose(ours, difference(logits, pairs), atol=1e-4)


def test_an_edge_without_position_is_that_edge_at_every_position(random: HookedTransformer, pairs: PairBatch) -> None:
    whole, there = Edge("embed", "L0 MLP", "mlp"), Edge("L0 MLP", "L1H0", "v", "newB?")
    spread = [replace(whole, position=name) for name in pairs.clean.positions]
    found = ik.path_patch(random, pairs, [[whole, there], [*spread, there], [there]])
    np.testing.assert_allclose(found.values[0], found.values[1], atol=1e-4)
    assert np.abs(found.values[0] - found.values[2]).max() > 0.01


def test_true_edges_alone_do_all(latent: HookedTransformer, pairs: PairBatch, scored: Circuit) -> None:
    for ablation in ("counterfactual", "mean", "resample"):
        found = ik.faithfulness(latent, pairs, scored, sizes=[0, 4, 5, 110], ablation=ablation)  # pyright: ignore[reportArgumentType]
        assert found.value[[0, 2, 3]] == pytest.approx([0, 1, 1], abs=0.02), ablation
        assert found.value[1] < 0.1  # four of five carry nothing through
    assert found.random[:, 2].max() < 0.1


def test_with_no_edge_the_answer_is_read_from_what_ablation_gives(
    random: HookedTransformer, one_way: PairBatch
) -> None:
    scores, n = score_edges(random, one_way, method="eap"), len(one_way)

    def answers(stream: Tensor) -> Tensor:
        return difference(random.unembed(random.ln_final(stream.expand(n, 1, -1)))[:, 0], one_way)

    streams = [random.run_with_cache(side.tokens)[1]["resid_post", 1] for side in (one_way.clean, one_way.corrupt)]
    stream = torch.cat(streams)[:, int(one_way.clean.position("newD?")[0])]
    by_stream = torch.stack([answers(one) for one in stream], 1)  # (pair, stream read from)

    def ablated(ablation: Literal["counterfactual", "mean", "resample"], seed: int = 0) -> Tensor:
        found = ik.faithfulness(random, one_way, scores, sizes=[0], ablation=ablation, controls=0, seed=seed)
        return torch.from_numpy(found.values[0])

    torch.testing.assert_close(
        ablated("counterfactual"), by_stream[torch.arange(n), torch.arange(n) + n], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(ablated("mean"), answers(stream.mean(0)), atol=1e-4, rtol=0)
    donors = []
    for seed in range(5):
        away = (by_stream - ablated("resample", seed)[:, None]).abs().min(1)
        assert away.values.max() < 1e-4
        assert (away.indices % n != torch.arange(n)).all()
        donors += (away.indices // n).tolist()
    assert set(donors) == {0, 1}  # prompts of either side


def test_areas_are_mibs() -> None:
    """By hand, over the shares .001 .002 .005 .01 .02 .05 .1 .2 .5 1."""
    by_hand = {  # faithfulness at each -> (CPR, CMD)
        # .00025 + .0015 + .0105 + .0325 + .085 + .315 + .55; .004 + .00475 + .0085 + .0195 + .0175 + .015 + .045 + .05
        (0, 0, 0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.2, 1): (0.99475, 0.16425),
        (1,) * 10: (0.999, 0),  # nothing is added below the smallest size
        (0,) * 9 + (1,): (0.25, 0.749),
        (0, 0, 0, 0, 0, 1, 1, 1, 1, 1): (0.965, 0.034),  # .015 + .95; .019 + .015
        (-1, 2) + (1,) * 8: (0.001 * 0.5 + 0.003 * 1.5 + 0.995, 0.001 * 1.5 + 0.003 * 0.5),
    }
    for curve, expected in by_hand.items():
        assert areas(np.array(curve)) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="areas need faithfulness at 10 shares"):
        areas(np.array([0.0, 1.0]))


def test_the_default_grid_is_mibs(latent: HookedTransformer, pairs: PairBatch, scored: Circuit) -> None:
    """Of 110 edges, five of which do all: MIB rounds down, and takes areas over the shares that were asked for."""
    found = ik.faithfulness(latent, pairs, scored, controls=1)
    assert found.sizes.tolist() == [0, 0, 0, 1, 2, 5, 11, 22, 55, 110]
    assert found.share.tolist() == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    np.testing.assert_allclose(found.value, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], atol=0.02)
    assert (found.cpr, found.cmd) == pytest.approx((0.965, 0.034), abs=0.005)
    assert found.to_frame()["share"].tolist() == found.share.tolist()
    assert found.config["grid"] == "mib"
    assert "MIB's CPR 0.96" in found.caption() or "MIB's CPR 0.97" in found.caption()


def test_a_finer_grid_gives_the_same_areas(random: HookedTransformer, pairs: PairBatch) -> None:
    scores = score_edges(random, pairs, method="eap")
    mib, fine = (ik.faithfulness(random, pairs, scores, sizes=sizes, controls=2) for sizes in ("mib", "fine"))
    assert set(fine.sizes) == set(mib.sizes) | set(SMALL)
    assert set(SMALL) - set(mib.sizes)
    assert (np.diff(fine.sizes) >= 0).all()
    assert (fine.cpr, fine.cmd) == pytest.approx((mib.cpr, mib.cmd))
    np.testing.assert_allclose(fine.random_cpr, mib.random_cpr, atol=1e-6)
    for curve, cpr, cmd in zip(
        [mib.value, *mib.random], [mib.cpr, *mib.random_cpr], [mib.cmd, *mib.random_cmd], strict=True
    ):
        spans = list(pairwise(zip(mib.share.tolist(), curve.tolist(), strict=True)))
        assert cpr == pytest.approx(sum((b - a) * (u + v) / 2 for (a, u), (b, v) in spans))
        assert cmd == pytest.approx(sum((b - a) * (abs(1 - u) + abs(1 - v)) / 2 for (a, u), (b, v) in spans))
    by_size = dict(zip(fine.sizes.tolist(), fine.value.tolist(), strict=True))
    assert mib.value.tolist() == pytest.approx([by_size[size] for size in mib.sizes.tolist()], abs=1e-5)
    given = ik.faithfulness(random, pairs, scores, sizes=[0, 5, 20, 40], controls=0)
    assert np.isnan([given.cpr, given.cmd]).all()  # no area of other sizes goes by MIB's names
    assert "CPR" not in given.caption()
    with pytest.raises(ValueError, match="sizes: got 'coarse', expected 'mib', 'fine', or numbers of edges"):
        ik.faithfulness(random, pairs, scores, sizes="coarse")


def test_areas_tell_a_true_ranking_from_a_wrong_one(
    latent: HookedTransformer, pairs: PairBatch, scored: Circuit
) -> None:
    right = ik.faithfulness(latent, pairs, scored)
    wrong = ik.faithfulness(latent, pairs, replace(scored, score=-np.abs(scored.score)), signed=True, controls=0)
    assert right.cpr > 0.95
    assert right.cmd < 0.05
    assert wrong.cpr < 0.3
    assert right.random_cpr.mean() < 0.6
    part = ik.faithfulness(latent, pairs, scored.top(5), controls=2)
    assert np.isnan(part.cpr)
    assert part.value[-1] == pytest.approx(1, abs=1e-3)


def test_a_curve_ends_at_a_tick_of_all_edges(latent: HookedTransformer, pairs: PairBatch, scored: Circuit) -> None:
    drawn = ik.faithfulness(latent, pairs, scored, sizes=[0, 5, len(scored)], controls=1).plot()
    ticks = dict(zip(drawn.get_xticks(), (label.get_text() for label in drawn.get_xticklabels()), strict=True))
    assert ticks == {x: f"{x}" for x in (0, 1, 2, 5, 10, 20, 50, len(scored))}
    figure = figure_of(drawn)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in drawn.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_all_edges_at_all_positions_are_the_whole_model(latent: HookedTransformer, pairs: PairBatch) -> None:
    scores = score_edges(latent, pairs, method="eap", by="position")
    found = ik.faithfulness(latent, pairs, scores, controls=2)
    assert found.total == len(scores) == 110 * len(pairs.clean.positions)
    assert found.sizes[-1] == found.total
    assert found.value[-1] == pytest.approx(1, abs=1e-3)
    assert found.random[:, -1] == pytest.approx([1, 1], abs=1e-3)
    assert found.to_frame()["share"].iloc[-1] == 1
    assert np.isfinite(found.cpr)
    mixed = replace(scores, position=("", *scores.position[1:]))
    with pytest.raises(ValueError, match="some edges of the circuit have a position and some have none"):
        ik.faithfulness(latent, pairs, mixed)


def test_an_untrained_model_has_no_such_circuit(untrained: HookedTransformer, pairs: PairBatch) -> None:
    best = score_edges(untrained, pairs, method="exact").top(5)
    assert set(best.edges) != LATENT


@pytest.mark.parametrize("name", ["boolean-latent", "untrained:boolean-latent", "culture"])
def test_direct_contributions_add_up_to_the_logit_difference(name: str, pairs: PairBatch) -> None:
    from interp_kit.models.convert import convert_mygpt
    from interp_kit.models.mygpt import MyGPT, MyGPTConfig
    from interp_kit.registry.models import load

    if name == "culture":  # sinusoidal positions, no final norm
        model = convert_mygpt(MyGPT(MyGPTConfig(15, d_model=16, d_key=4, d_value=4, d_mlp=32, n_heads=2, n_layers=2)))
    else:
        model = load(name)
    found = ik.direct_logit_attribution(model, pairs)
    expected = ik.sweep(model, pairs.clean, [], ik.logit_difference(pairs)).baseline[0]
    np.testing.assert_allclose(found.values.sum(0), expected, atol=1e-4)
    assert found.component[-1] == BIAS
    lens = ik.logit_lens(model, pairs, positions=["newB?", "newD?"])
    np.testing.assert_allclose(lens.values[-1, 1], expected, atol=1e-4)
    assert lens.values.shape == (model.cfg.n_layers + 1, 2, len(pairs))


def test_a_direct_contribution_is_an_output_through_the_norm_of_all(
    random: HookedTransformer, pairs: PairBatch, seen: ActivationCache
) -> None:
    found = ik.direct_logit_attribution(random, pairs)
    rows, at = torch.arange(len(pairs)), pairs.clean.position("newD?")
    scale = seen["ln_final.hook_scale"][rows, at]
    outs = {"embed": seen["resid_pre", 0]}
    for layer in (0, 1):
        outs |= {f"L{layer}H{head}": seen["result", layer][:, :, head] for head in (0, 1)}
        outs |= {f"L{layer} MLP": seen["mlp_out", layer]}
    assert found.component == (*outs, BIAS)
    for node, values in zip(outs, found.values, strict=False):
        out = outs[node][rows, at]
        held = (out - out.mean(-1, keepdim=True)) / scale * random.ln_final.w
        np.testing.assert_allclose(values, difference(held @ random.W_U, pairs), atol=1e-4, err_msg=node)
    logits = random(pairs.clean.tokens)[rows, at]
    np.testing.assert_allclose(found.values.sum(0), difference(logits, pairs), atol=1e-4)


def test_the_lens_reads_the_stream_after_each_block(
    random: HookedTransformer, pairs: PairBatch, seen: ActivationCache
) -> None:
    found = ik.logit_lens(random, pairs, positions=["D", "newB?", "newD?"])
    for values, stream in zip(
        found.values, (seen["resid_pre", 0], seen["resid_post", 0], seen["resid_post", 1]), strict=True
    ):
        logits = random.unembed(random.ln_final(stream))
        for here, name in zip(values, found.position, strict=True):
            at = logits[torch.arange(len(pairs)), pairs.clean.position(name)]
            np.testing.assert_allclose(here, difference(at, pairs), atol=1e-4)


LLAMA = {
    "normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu", "n_heads": 4, "d_head": 4, "n_key_value_heads": 2,
    "positional_embedding_type": "rotary",
}  # fmt: skip
PYTHIA = {"parallel_attn_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 4, "act_fn": "gelu"}


@pytest.mark.parametrize("config", [LLAMA, PYTHIA], ids=["llama", "pythia"])
def test_other_architectures_by_edges_lens_and_attribution(
    tiny_model: MakeModel, pairs: PairBatch, config: dict
) -> None:
    """Against the model's own hooks and logits; gradients against finite differences along each swap."""
    model = tiny_model(3, **config)
    rows, at = torch.arange(len(pairs)), pairs.clean.position("newD?")
    logits, cache = model.run_with_cache(pairs.clean.tokens)
    expected = difference(logits[rows, at], pairs)
    found = ik.direct_logit_attribution(model, pairs)
    np.testing.assert_allclose(found.values.sum(0), expected, atol=1e-4)
    heads = {name: row for name, row in zip(found.component, found.values, strict=True) if name.startswith("L1H")}
    direction = difference(model.W_U.T[None].expand(len(pairs), -1, -1), pairs)  # (pair, d_model)
    scaled = cache["blocks.1.attn.hook_z"][rows, at][..., None] * model.W_O[1]
    scaled = scaled.sum(-2) / cache["ln_final.hook_scale"][rows, at][:, None]
    if config is PYTHIA:
        scaled = scaled - scaled.mean(-1, keepdim=True)
    own = torch.einsum("bhd,bd->hb", scaled * model.ln_final.w, torch.as_tensor(direction))
    np.testing.assert_allclose(np.stack(list(heads.values())), own, atol=1e-4)
    lens = ik.logit_lens(model, pairs, positions=["newD?"])
    for values, name in zip(lens.values, ("0.hook_resid_pre", "0.hook_resid_post", "1.hook_resid_post"), strict=True):
        read = model.unembed(model.ln_final(cache[f"blocks.{name}"]))[rows, at]
        np.testing.assert_allclose(values[0], difference(read, pairs), atol=1e-4)
    scored, graph = ik.score_edges(model, pairs, method="eap", direction="noise", progress=False), Graph(model)
    known, step = dict(zip(scored.edges, scored.score, strict=True)), 1e-2
    reads, reference = at[:, None], graph.outputs(pairs.corrupt.tokens)
    swapped = torch.zeros(len(graph.edges), len(graph.senders), len(graph.receivers))
    for number, edge in enumerate(graph.edges):
        swapped[number][graph.place(edge)] = step
    with torch.no_grad():
        moved = graph.logits(pairs.clean.tokens, reads, swapped, reference)[:, :, 0]
    fall = [(expected - difference(logits, pairs)).mean() / step for logits in moved]
    np.testing.assert_allclose([known[edge] for edge in graph.edges], fall, atol=0.03 * float(max(map(abs, fall))))
    assert (Edge("L0H0", "L0 MLP", "mlp") in known) == (config is LLAMA)


def test_direct_attribution_of_a_field(latent: HookedTransformer, task: BooleanTask) -> None:
    batch = task.batch(task.enumerate())
    found = ik.direct_logit_attribution(latent, batch, "newA")
    assert found.component[int(found.mean.argmax())] == "L0 MLP"
    with pytest.raises(ValueError, match="which field"):
        ik.direct_logit_attribution(latent, batch)
    with pytest.raises(ValueError, match="not a logit difference"):
        ik.direct_logit_attribution(latent, batch, metric=ik.kl("newA"))


@pytest.mark.parametrize("analysis", [ik.direct_logit_attribution, ik.logit_lens])
def test_the_only_field_of_a_batch_need_not_be_named(latent: HookedTransformer, analysis: Callable[..., Any]) -> None:
    tokens = torch.arange(24).reshape(6, 4) % latent.cfg.d_vocab
    batch = TokenBatch.from_tokens(tokens, answer=[0, 1, 2, 0, 1, 2])
    found, named = analysis(latent, batch), analysis(latent, batch, "answer")
    np.testing.assert_array_equal(found.values, named.values)
    assert found.config == named.config
    with pytest.raises(ValueError, match="which field"):
        analysis(latent, TokenBatch.from_tokens(tokens))


def test_only_what_matters_is_coloured() -> None:
    names = ("L0H0", "L0H1", "L1H0", "L1H1")
    edges = [Edge("embed", name, "v") for name in names]
    scores, clear = np.array([2.0, -1.0, 0.1, 1.5]), np.array([True, True, True, False])
    ax = draw(edges, scores, (), clear=clear, title="T", label="logit difference")
    drawn = {
        to_hex(arrow.get_edgecolor()): arrow.get_linewidth()
        for arrow in ax.patches
        if isinstance(arrow, FancyArrowPatch)
    }
    assert set(drawn) == {to_hex(colour) for colour in (POSITIVE, NEGATIVE, GREY)}
    assert drawn[to_hex(POSITIVE)] > drawn[to_hex(NEGATIVE)] > drawn[to_hex(GREY)]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "logit difference falls without it, by up to 2",
        "logit difference rises without it, by up to 1",
        "under 10% of the largest, or not told from 0",
    ]
    named = {text.get_text(): text.get_color() for text in ax.texts}
    assert named["L0H0"] == named["L0H1"] != named["L1H0"] == named["L1H1"]


def test_a_circuit_is_a_graph_and_a_picture_and_a_file(scored: Circuit, tmp_path: Path) -> None:
    best = scored.top(7)
    graph = best.top(5).connected().to_networkx()
    assert networkx.shortest_path(graph, "embed", "logits") == ["embed", "L0H0", "L0 MLP", "L1H1", "L1 MLP", "logits"]
    loose = best.top(5).take([1, 2, 3, 4])  # without the best, which all the others need
    assert len(loose.connected()) == 0
    assert png(best.plot())[:4] == b"\x89PNG"
    best.save(tmp_path / "circuit")
    again = Circuit.load(tmp_path / "circuit")
    assert again.edges == best.edges
    np.testing.assert_array_equal(again.score, best.score)
    assert scored.node_scores()["L0H3"] == pytest.approx(0, abs=1e-3)


def test_a_part_of_a_circuit_keeps_what_its_edges_have(scored: Circuit) -> None:
    best = scored.top(7)
    for edge, *figures in zip(best.edges, best.score, best.low, best.high, strict=True):
        i = scored.edges.index(edge)
        np.testing.assert_array_equal(figures, [scored.score[i], scored.low[i], scored.high[i]])
    for node, total in scored.node_scores().items():
        parts = [score for sender, score in zip(scored.sender, scored.score, strict=True) if sender == node]
        assert total == pytest.approx(sum(parts), abs=1e-5)
    loose = {Edge("embed", "L0H1", "q"), Edge("L1H0", "logits", "logits"), Edge("L0H2", "L1H3", "k")}
    some = scored.take([i for i, edge in enumerate(scored.edges) if edge in LATENT | loose])
    assert len(some) == 8
    assert set(some.connected().edges) == LATENT


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(latent: HookedTransformer, pairs: PairBatch, scored: Circuit) -> None:
    larger = ik.load("boolean-gpt2")
    with pytest.raises(ValueError, match="a circuit of boolean-latent@0, with 12 nodes, on boolean-gpt2"):
        ik.faithfulness(larger, pairs, scored)
    with pytest.raises(ValueError, match=r"score of embed → L0H0\.q is nan"):
        replace(scored, score=np.full(len(scored), np.nan))
    with pytest.raises(ValueError, match="no edge L7H0 → logits"):
        ik.path_patch(latent, pairs, [Edge("L7H0", "logits", "logits")])
    with pytest.raises(ValueError, match="no position 'newZ'"):
        ik.path_patch(latent, pairs, [Edge("L1H0", "logits", "logits", "newZ")])
    with pytest.raises(ValueError, match="no path"):
        ik.path_patch(latent, pairs, [])
    with pytest.raises(ValueError, match="k is 111; expected a whole number from 1 to 110"):
        scored.top(111)
    with pytest.raises(ValueError, match="sizes"):
        ik.faithfulness(latent, pairs, scored.top(5), sizes=[6])
    with pytest.raises(ValueError, match="ablation is 'none'"):
        ik.faithfulness(latent, pairs, scored, ablation="none")  # pyright: ignore[reportArgumentType]
    same = replace(pairs, corrupt=pairs.clean)
    with pytest.raises(ValueError, match="do not differ"):
        score_edges(latent, same)
    with pytest.raises(ValueError, match="method is 'best'"):
        score_edges(latent, pairs, method="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="steps is 0"):
        score_edges(latent, pairs, steps=0)
