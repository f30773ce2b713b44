"""Attribution of edges and nodes, ablations, and MIB's areas, against slow runs by TransformerLens hooks."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import interp_kit as ik
from interp_kit.analysis.circuits import edge_gradients
from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.core.pairs import PairBatch
from interp_kit.engine.graph import Graph
from interp_kit.models.circuit import Edge
from interp_kit.tasks.boolean import BooleanTask
from tests.analysis.circuits.by_hooks import closed, opened, received, run, senders

MakeModel = Callable[..., HookedTransformer]
ABLATIONS = ("counterfactual", "mean", "mean-pooled", "zero")
CHOSEN = [Edge("embed", "L0H1", "q"), Edge("L0H0", "L0 MLP", "mlp"), Edge("L0 MLP", "L1H1", "k"),
          Edge("L0H1", "L1H0", "v"), Edge("L1H1", "logits", "logits"), Edge("embed", "logits", "logits")]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_model: MakeModel) -> HookedTransformer:
    return tiny_model(4, eps=0.5)


@pytest.fixture(scope="module")
def pairs(task: BooleanTask) -> PairBatch:
    """Six pairs in one order each, so that the mean of one side is not that of the other."""
    found = task.pairs("newB", "newD")
    sides = zip(found.clean.tokens.tolist(), found.corrupt.tokens.tolist(), strict=True)
    return found.take([i for i, (clean, corrupt) in enumerate(sides) if clean < corrupt][:6])


def difference(logits: Tensor, pairs: PairBatch) -> Tensor:
    """(pair,) the logit difference."""
    rows, at = torch.arange(len(pairs)), pairs.clean.position("newD?")
    here = logits[rows, at]
    return here[rows, pairs.clean.answer["newD"]] - here[rows, pairs.corrupt.answer["newD"]]


def carried(model: HookedTransformer, pairs: PairBatch, ablation: str) -> dict[str, Tensor]:
    """Node -> what its ablated edges carry, by definition."""
    clean, corrupt = (run(model, side.tokens)[1] for side in (pairs.clean, pairs.corrupt))
    if ablation == "counterfactual":
        return corrupt
    both = {node: torch.cat([clean[node], corrupt[node]]) for node in clean}
    over: Mapping[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: x.mean(0), "mean-pooled": lambda x: x.mean((0, 1)), "zero": lambda x: 0 * x[0],
    }  # fmt: skip
    return {node: over[ablation](value).expand_as(clean[node]) for node, value in both.items()}


def gradients(model: HookedTransformer, pairs: PairBatch, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hook of receivers -> gradient of the metric there."""
    n = model.cfg.n_layers
    shape, heads = (*pairs.clean.tokens.shape, model.cfg.d_model), model.cfg.n_heads
    names = [f"blocks.{i}.hook_{x}" for i in range(n) for x in ("q_input", "k_input", "v_input", "mlp_in")]
    names.append(f"blocks.{n - 1}.hook_resid_post")
    leaves = {
        x: torch.zeros((*shape[:2], heads, shape[2]) if "_input" in x else shape, requires_grad=True) for x in names
    }
    with torch.enable_grad():
        value = difference(run(model, pairs.clean.tokens, held=held, inner=leaves)[0], pairs).sum()
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if got is None else got
        for (name, leaf), got in zip(leaves.items(), found, strict=True)
    }


def groups(model: HookedTransformer) -> list[list[str]]:
    """The outputs that EAP-IG's code moves together (`get_scores_ig_activations`, hannamw/EAP-IG): the input, and of
    each layer all heads at once and the MLP."""
    found = [["embed"]]
    for layer in range(model.cfg.n_layers):
        found += [[f"L{layer}H{head}" for head in range(model.cfg.n_heads)], [f"L{layer} MLP"]]
    return found


def by_hand(model: HookedTransformer, pairs: PairBatch, ablation: str, method: str, steps: int) -> dict[Edge, float]:
    """Scores of all edges, the gradients being taken where EAP-IG's code takes them."""
    clean, other = run(model, pairs.clean.tokens)[1], carried(model, pairs, ablation)
    where: list[dict[str, Tensor]] = [{}]
    if method != "eap":
        where = [
            {node: k / steps * clean[node] + (1 - k / steps) * other[node] for node in group}
            for group in (groups(model) if method == "eap-ig-activations" else [["embed"]])
            for k in range(1, steps + 1)
        ]
    total: dict[str, Tensor] = {}
    for held in where:
        for hook, value in gradients(model, pairs, held).items():
            total[hook] = total.get(hook, torch.zeros(())) + value / len(where)
    found = {}
    for edge in Graph(closed(model)).edges:
        hook, head = received(model, edge)
        slope = total[hook] if head is None else total[hook][:, :, head]
        found[edge] = float(((clean[edge.sender] - other[edge.sender]) * slope).sum((1, 2)).mean())
    return found


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations"])
def test_gradients_are_those_of_the_public_code(
    model: HookedTransformer, pairs: PairBatch, ablation: Any, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = None if method == "eap" else 3
    if method == "eap-ig" and ablation != "counterfactual":
        with pytest.raises(ValueError, match="eap-ig goes from one text to another"):
            ik.score_edges(model, pairs, method=method, ablation=ablation)
        return
    monkeypatch.setattr(edge_gradients, "midpoints", lambda n: [1 - k / n for k in range(1, n + 1)])
    found = ik.score_edges(model, pairs, method=method, ablation=ablation, steps=steps)
    expected = by_hand(opened(model), pairs, ablation, method, 3)
    assert found.edges == tuple(expected)
    values = np.array(list(expected.values()))
    np.testing.assert_allclose(found.score, values, atol=1e-4 * np.abs(values).max())
    assert found.config["ablation"] == ablation


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_exact_scores_are_what_hooks_say(model: HookedTransformer, pairs: PairBatch, ablation: Any) -> None:
    found = ik.score_edges(model, pairs, method="exact", ablation=ablation)
    opened(model)
    other = carried(model, pairs, ablation)
    start = difference(model(pairs.clean.tokens), pairs)
    edges = found.edges
    for edge in CHOSEN:
        after = difference(run(model, pairs.clean.tokens, swapped=[edge], reference=other)[0], pairs)
        assert found.score[edges.index(edge)] == pytest.approx(float((start - after).mean()), abs=1e-4), edge
    after = difference(run(model, pairs.clean.tokens, swapped=edges, reference=other)[0], pairs)
    assert found.config["gap"] == pytest.approx(float((start - after).mean()), abs=1e-4)
    closed(model)


def test_activations_double_their_steps_until_no_score_moves(
    model: HookedTransformer, pairs: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = pairs.take([0])
    monkeypatch.setattr(edge_gradients, "FIRST", 2)
    found = ik.score_edges(closed(model), few, method="eap-ig-activations")
    assert found.config["incomplete"] <= edge_gradients.COMPLETE
    assert found.config["steps"] >= 4 * edge_gradients.FIRST  # twice, after the first comparison
    half = ik.score_edges(model, few, method="eap-ig-activations", steps=found.config["steps"] // 2)
    moved = np.abs(found.score - half.score).max() / np.abs(found.score).max()
    assert found.config["incomplete"] == pytest.approx(moved, rel=1e-3)


SPLIT: dict[str, Callable[[HookedTransformer, PairBatch, int], np.ndarray]] = {
    **{
        f"{method}, {ablation}": lambda model, pairs, memory, method=method, ablation=ablation: (
            ik.score_edges(
                model, pairs, method=method, ablation=ablation, steps=2 if "ig" in method else None, memory=memory
            ).score
        )
        for method, ablation in [
            *(("eap", ablation) for ablation in ABLATIONS),
            ("eap-ig", "counterfactual"),
            ("eap-ig-activations", "mean"),
            ("exact", "mean"),
        ]
    },
    **{
        f"faithfulness, {ablation}": lambda model, pairs, memory, ablation=ablation: (
            ik.faithfulness(
                model, pairs, ik.score_edges(model, pairs, method="eap"), ablation=ablation, controls=1, memory=memory
            ).values
        )
        for ablation in ("mean-pooled", "resample")
    },
    **{
        f"nodes, {method}": lambda model, pairs, memory, method=method: (
            ik.score_nodes(model, pairs, method=method, memory=memory).score
        )
        for method in ("exact", "atp*")
    },
}


@pytest.mark.parametrize("name", SPLIT)
def test_memory_changes_no_score(model: HookedTransformer, pairs: PairBatch, name: str) -> None:
    """Of edges by gradients not a bit; where several graphs run together, products of matrices round otherwise."""
    closed(model)
    whole, graph = SPLIT[name](model, pairs, 2**28), Graph(model)
    assert [len(graph.parts(pairs.clean.tokens, memory)) for memory in (1, 10**6, 2**28)] == [6, 2, 1]
    rounding = 0.0 if name.startswith("eap") else 1e-5 * float(np.abs(whole).max())
    for memory in (1, 10**6):
        np.testing.assert_allclose(SPLIT[name](model, pairs, memory), whole, rtol=0, atol=rounding)


def pruned(chosen: set[Edge]) -> set[Edge]:
    """Without nodes that nothing reaches, or that reach nothing, one after the other, and without their edges."""
    while True:
        into, out = {edge.receiver for edge in chosen} | {"embed"}, {edge.sender for edge in chosen} | {"logits"}
        kept = {e for e in chosen if e.sender in into and e.receiver in out}
        if kept == chosen:
            return kept
        chosen = kept


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_areas_are_those_of_mibs_procedure(model: HookedTransformer, pairs: PairBatch, ablation: Any) -> None:
    """`evaluate_area_under_curve` of MIB's circuit track, written anew: top edges by absolute score, pruned, all others
    ablated; (m - m(none)) / (m(model) - m(none)); trapezoids over the shares asked for."""
    circuit = ik.score_edges(closed(model), pairs, method="eap")
    found = ik.faithfulness(model, pairs, circuit, ablation=ablation, controls=0)
    opened(model)
    other, edges = carried(model, pairs, ablation), circuit.edges

    def measured(chosen: set[Edge]) -> float:
        left = [edge for edge in edges if edge not in chosen]
        return float(difference(run(model, pairs.clean.tokens, swapped=left, reference=other)[0], pairs).mean())

    whole, nothing = float(difference(model(pairs.clean.tokens), pairs).mean()), measured(set())
    shares, curve, cut = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1), [], 0
    best = sorted(range(len(edges)), key=lambda i: -abs(circuit.score[i]))
    for share in shares:
        top = {edges[i] for i in best[: int(share * len(edges))]}
        kept = pruned(top)
        cut += len(top) - len(kept)
        curve.append((measured(kept) - nothing) / (whole - nothing))
    area = distance = 0.0
    for (a, u), (b, v) in zip(zip(shares, curve, strict=True), zip(shares[1:], curve[1:], strict=False), strict=False):
        area += (b - a) * (u + v) / 2
        distance += (b - a) * (abs(1 - u) + abs(1 - v)) / 2
    assert cut > 0
    np.testing.assert_allclose(found.value, curve, atol=1e-3)
    assert (found.cpr, found.cmd) == pytest.approx((area, distance), abs=1e-3)
    closed(model)


def nodes_by_hand(model: HookedTransformer, pairs: PairBatch) -> dict[str, dict[str, tuple[float, float]]]:
    """Method -> node -> (mean size, mean effect), by hooks: each node patched; gradients at each node's output; the
    attention that another run's queries give; and layers held one at a time."""
    clean, corrupt = pairs.clean.tokens, pairs.corrupt.tokens
    start, here = run(model, clean)
    before = difference(start, pairs)
    there, (_, cache), (_, own) = run(model, corrupt)[1], model.run_with_cache(corrupt), model.run_with_cache(clean)
    layers = range(model.cfg.n_layers)

    def slopes(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        leaves = {node: torch.zeros_like(here[node], requires_grad=True) for node in here}
        with torch.enable_grad():
            value = difference(run(model, clean, held=held, outer=leaves)[0], pairs).sum()
            return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))

    plain = slopes({})
    without = {layer: slopes({node: here[node] for node in here if node.startswith(f"L{layer}")}) for layer in layers}
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in ("exact", "atp", "atp-qk", "atp*")}

    def enter(name: str, method: str, *effects: Tensor) -> None:
        size = torch.stack(effects[1:] or effects).abs().mean(0)
        found[method][name] = float(size.mean()), float(effects[0].mean())

    def of_output(name: str, node: str, change: Tensor, methods: tuple[str, ...]) -> None:
        fall = [-(change * slope[node]).sum((1, 2)) for slope in (plain, *without.values())]
        own_layer = int(node[1]) if node != "embed" else None
        others = [f for layer, f in zip(layers, fall[1:], strict=True) if layer != own_layer and len(layers) > 1]
        for method in methods:
            enter(name, method, fall[0], *(others if method == "atp*" else ()))

    for node in here:
        enter(node, "exact", before - difference(run(model, clean, held={node: there[node]})[0], pairs))
        of_output(node, node, there[node] - here[node], ("atp", "atp-qk", "atp*"))
        if "H" not in node:
            continue
        layer, head = (int(x) for x in node[1:].split("H"))
        for way in "qkv":
            hook = f"blocks.{layer}.attn.hook_{way}"
            value = cache[hook][:, :, head]
            logits, given = run(model, clean, heads={(hook, head): value})
            enter(f"{node}.{way}", "exact", before - difference(logits, pairs))
            of_output(f"{node}.{way}", node, given[node] - here[node], ("atp-qk", "atp*"))
            step = 1e-3  # a small part of the patch, so that attention follows its gradient
            near = [
                run(model, clean, heads={(hook, head): torch.lerp(own[hook][:, :, head], value, share)})[1][node]
                for share in (step, -step)
            ]
            of_output(f"{node}.{way}", node, (near[0] - near[1]) / (2 * step), ("atp",))
    return found


@pytest.mark.parametrize("config", [{"n_layers": 3}, {"n_layers": 1}], ids=["three layers", "one layer"])
def test_nodes_are_what_hooks_say(tiny_model: MakeModel, pairs: PairBatch, config: dict[str, int]) -> None:
    model = tiny_model(7, eps=0.5, **config).to(torch.float64)
    model.cfg.dtype = torch.float64
    results = {m: ik.score_nodes(model, pairs, method=m) for m in ("exact", "atp", "atp-qk", "atp*")}
    expected = nodes_by_hand(opened(model), pairs)
    for method, result in results.items():
        assert set(result.node) == set(expected[method])
        for values, which in ((result.score, 0), (result.effect, 1)):
            wanted = np.array([expected[method][node][which] for node in result.node])
            np.testing.assert_allclose(values, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=method)
    if config["n_layers"] == 1:  # nothing to leave out
        np.testing.assert_array_equal(results["atp*"].score[1:], results["atp-qk"].score[1:])


def test_a_sure_head_hides_its_keys_from_a_gradient_alone() -> None:
    """The keys of a planted induction head: patched, they carry most of the gap."""
    model = ik.planted("induction")
    truth, task = ik.ground_truth("induction"), ik.task_of(model)
    pairs = task.pairs(truth.variable, truth.target, limit=16)
    found = {m: ik.score_nodes(model, pairs, method=m) for m in ("exact", "atp", "atp-qk", "atp*")}
    keys = {m: float(one.score[one.node.index("L1H1.k")]) for m, one in found.items()}
    assert keys["exact"] > 0.5 * abs(found["exact"].gap)
    assert keys["atp"] < 0.001 * keys["exact"]
    assert keys["atp-qk"] == pytest.approx(keys["exact"], rel=0.03)
    assert keys["atp*"] == pytest.approx(keys["exact"], rel=0.03)


def test_node_scores_are_a_table_a_picture_and_a_caption(model: HookedTransformer, pairs: PairBatch) -> None:
    found = ik.score_nodes(closed(model), pairs)
    assert found.node[:6] == ("embed", "L0H0.q", "L0H0.k", "L0H0.v", "L0H0", "L0H1.q")
    assert found.to_frame()["score"].is_monotonic_decreasing
    assert "attributed by AtP*" in found.caption()
    assert found.plot().get_xlabel() == "change of logit difference of newD"
    assert found.config["forwards"] == 2 + 3 * 3
    with pytest.raises(ValueError, match="no node can carry"):
        ik.score_nodes(model, PairBatch(**{**vars(pairs), "corrupt": pairs.clean}))
    with pytest.raises(ValueError, match=r"atp\* takes the gradient at the unedited run"):
        ik.score_nodes(model, pairs, metric=ik.kl)


def test_means_need_a_run_to_start_from(model: HookedTransformer, pairs: PairBatch) -> None:
    with pytest.raises(ValueError, match="has no other run to start from"):
        ik.score_edges(closed(model), pairs, method="eap", ablation="zero", direction="denoise")


def test_true_edges_are_found_by_every_new_method() -> None:
    model = ik.planted("boolean-latent")
    pairs, truth = ik.task_of(model).pairs("newB", "newD"), ik.ground_truth("boolean-latent")
    for options in ({"method": "eap-ig-activations", "steps": 8}, {"method": "eap", "ablation": "mean"}):
        found: Circuit = ik.score_edges(model, pairs, **options)  # pyright: ignore[reportArgumentType]
        assert set(found.top(len(truth.edges)).edges) == truth.edges, options
        assert math.isnan(found.config["incomplete"]) == (options["method"] != "eap")
    assert senders(model)[0] == "embed"
