"""Edge scores, circuits and their faithfulness: against finite differences, completeness, and circuits known by
construction."""

from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import interp_kit as ik
from interp_kit.analysis.attribution import BIAS
from interp_kit.analysis.circuit import Circuit
from interp_kit.analysis.edge_scores import score_edges
from interp_kit.analysis.graph import Graph
from interp_kit.core.batch import PairBatch
from interp_kit.core.circuit import Edge
from interp_kit.core.plotting import png
from interp_kit.tasks.boolean import BooleanTask

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
def scored(latent: HookedTransformer, pairs: PairBatch) -> Circuit:
    return score_edges(latent, pairs, method="exact")


def test_a_gradient_is_what_a_small_part_of_the_patch_does(latent: HookedTransformer, pairs: PairBatch) -> None:
    model = ik.untrained(latent).to(torch.float64)
    model.cfg.dtype = torch.float64
    found = score_edges(model, pairs, method="eap")
    graph, metric = Graph(model), ik.logit_difference(pairs)
    reference, reads, share = graph.outputs(pairs.corrupt.tokens), metric.reads(pairs.clean), 1e-4
    masks = torch.stack([graph.mask(pairs.clean, [edge]).double() * share for edge in graph.edges])
    with torch.no_grad():
        start = metric.measure(graph.logits(pairs.clean.tokens, reads), pairs.clean)[0]
        moved = metric.measure(graph.logits(pairs.clean.tokens, reads, masks, reference), pairs.clean)
    expected = ((start - moved) / share).mean(1).numpy()
    np.testing.assert_allclose(found.score, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize("name", ["boolean-latent", "boolean-direct", "untrained:boolean-latent"])
def test_what_leaves_the_embedding_adds_up_to_the_gap(name: str, direction: str, pairs: PairBatch) -> None:
    from interp_kit.recipes.zoo import resolve

    found = score_edges(resolve(name), pairs, method="eap-ig", direction=direction)  # pyright: ignore[reportArgumentType]
    total = sum(s for e, s in zip(found.edges, found.score, strict=True) if e.sender == "embed")
    assert total == pytest.approx(found.config["gap"], rel=0.02)
    assert found.config["incomplete"] <= 0.02


def test_scores_by_position_add_up(latent: HookedTransformer, pairs: PairBatch) -> None:
    whole = score_edges(latent, pairs, method="eap")
    parts = score_edges(latent, pairs, method="eap", by="position")
    summed = parts.score.reshape(len(whole), len(pairs.clean.positions)).sum(1)
    np.testing.assert_allclose(summed, whole.score, atol=1e-4)


@pytest.mark.parametrize("method", ["exact", "eap", "eap-ig"])
def test_the_true_edges_score_highest(latent: HookedTransformer, pairs: PairBatch, method: str) -> None:
    found = score_edges(latent, pairs, method=method)  # pyright: ignore[reportArgumentType]
    assert set(found.top(5).edges) == LATENT
    assert np.abs(found.top(6).score[5]) < 0.02 * found.config["gap"]


def test_by_position_the_way_is_known_too(latent: HookedTransformer, pairs: PairBatch) -> None:
    found = score_edges(latent, pairs, method="exact", by="position").top(5)
    assert {(e.sender, e.position) for e in found.edges} == {
        ("embed", "D"), ("L0H0", "newB?"), ("L0 MLP", "newB?"), ("L1H1", "newD?"), ("L1 MLP", "newD?"),
    }  # fmt: skip


def test_acdc_leaves_the_true_edges(latent: HookedTransformer, pairs: PairBatch) -> None:
    assert set(ik.acdc(latent, pairs, threshold=0.01).edges) == LATENT
    with pytest.raises(ValueError, match="nothing is left"):
        ik.acdc(latent, pairs, threshold=1e9)
    with pytest.raises(ValueError, match="must be positive"):
        ik.acdc(latent, pairs, threshold=0.0)


def test_paths_recover_what_they_carry(latent: HookedTransformer, pairs: PairBatch) -> None:
    wrong = Edge("embed", "L1H1", "v")
    found = ik.path_patch(latent, pairs, {"true": [Edge("L0 MLP", "L1H1", "v", "newB?")], "wrong": [wrong]})
    assert found.recovered == pytest.approx([1, 0], abs=1e-3)
    noise = ik.path_patch(latent, pairs, [Edge("L1H1", "L1 MLP", "mlp"), wrong], direction="noise")
    assert noise.recovered == pytest.approx([1, 0], abs=1e-3)
    assert noise.path[0] == "L1H1 → L1 MLP"


def test_true_edges_alone_do_all(latent: HookedTransformer, pairs: PairBatch, scored: Circuit) -> None:
    for ablation in ("counterfactual", "mean", "resample"):
        found = ik.faithfulness(latent, pairs, scored, sizes=[0, 4, 5, 110], ablation=ablation)  # pyright: ignore[reportArgumentType]
        assert found.value[[0, 2, 3]] == pytest.approx([0, 1, 1], abs=0.02), ablation
        assert found.value[1] < 0.1  # four of five carry nothing through
    assert found.random[:, 2].max() < 0.1


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


def test_an_untrained_model_has_no_such_circuit(untrained: HookedTransformer, pairs: PairBatch) -> None:
    best = score_edges(untrained, pairs, method="exact").top(5)
    assert set(best.edges) != LATENT


@pytest.mark.parametrize("name", ["boolean-latent", "untrained:boolean-latent", "culture"])
def test_direct_contributions_add_up_to_the_logit_difference(name: str, pairs: PairBatch) -> None:
    from interp_kit.models.convert import convert_mygpt
    from interp_kit.models.mygpt import MyGPT, MyGPTConfig
    from interp_kit.recipes.zoo import resolve

    if name == "culture":  # sinusoidal positions, no final norm
        model = convert_mygpt(MyGPT(MyGPTConfig(15, d_model=16, d_key=4, d_value=4, d_mlp=32, n_heads=2, n_layers=2)))
    else:
        model = resolve(name)
    found = ik.direct_logit_attribution(model, pairs)
    expected = ik.sweep(model, pairs.clean, [], ik.logit_difference(pairs)).baseline[0]
    np.testing.assert_allclose(found.values.sum(0), expected, atol=1e-4)
    assert found.component[-1] == BIAS
    lens = ik.logit_lens(model, pairs, positions=["newB?", "newD?"])
    np.testing.assert_allclose(lens.values[-1, 1], expected, atol=1e-4)
    assert lens.values.shape == (model.cfg.n_layers + 1, 2, len(pairs))


def test_direct_attribution_of_a_field(latent: HookedTransformer, task: BooleanTask) -> None:
    batch = task.batch(task.enumerate())
    found = ik.direct_logit_attribution(latent, batch, "newA")
    assert found.component[int(found.mean.argmax())] == "L0 MLP"
    with pytest.raises(ValueError, match="which field"):
        ik.direct_logit_attribution(latent, batch)
    with pytest.raises(ValueError, match="no logit difference"):
        ik.direct_logit_attribution(latent, batch, metric=ik.kl("newA"))


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
    with pytest.raises(ValueError, match="the top 111 of 110"):
        scored.top(111)
    with pytest.raises(ValueError, match="sizes"):
        ik.faithfulness(latent, pairs, scored.top(5), sizes=[6])
    with pytest.raises(ValueError, match="no ablation 'zero'"):
        ik.faithfulness(latent, pairs, scored, ablation="zero")  # pyright: ignore[reportArgumentType]
    same = replace(pairs, corrupt=pairs.clean)
    with pytest.raises(ValueError, match="do not differ"):
        score_edges(latent, same)
    with pytest.raises(ValueError, match="no method 'best'"):
        score_edges(latent, pairs, method="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least one step"):
        score_edges(latent, pairs, steps=0)
