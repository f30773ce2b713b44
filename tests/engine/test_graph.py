"""The graph of a model against the model itself under TransformerLens hooks, one edge at a time."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.graph import Graph
from interp_kit.models.circuit import HEAD, MLP, Edge, edges, nodes

ROWS, LENGTH, VOCABULARY = 3, 5, 7


def network(
    seed: int, *, layers: int = 2, attn_only: bool = False, final_norm: bool = True, **more: Any
) -> HookedTransformer:
    """Random weights, biases too, with d_head * heads unlike d_model."""
    sizes = {"n_layers": layers, "d_model": 8, "n_ctx": LENGTH, "d_head": 3, "n_heads": 2, "d_vocab": VOCABULARY}
    kind = {"d_mlp": 10, "act_fn": "gelu_new", "attn_only": attn_only, "normalization_type": "LN", "device": "cpu"}
    cfg = HookedTransformerConfig(**{**sizes, **kind, "seed": seed, **more})
    model = HookedTransformer(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.4)
    if not final_norm:
        model.ln_final = torch.nn.Identity()
        model.setup()
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    if not attn_only:
        model.set_use_hook_mlp_in(True)
    return model.eval()


def texts(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(0, VOCABULARY, (2, ROWS, LENGTH), generator=generator)
    return clean, corrupt


def output_hook(node: str) -> tuple[str, int | None]:
    """The hook that holds what a node adds, and which head of it."""
    if node == "embed":
        return "blocks.0.hook_resid_pre", None
    if found := HEAD.fullmatch(node):
        return f"blocks.{found[1]}.attn.hook_result", int(found[2])
    found = MLP.fullmatch(node)
    assert found
    return f"blocks.{found[1]}.hook_mlp_out", None


def by_hand(model: HookedTransformer, clean: Tensor, corrupt: Tensor, edge: Edge, position: int | None) -> Tensor:
    """Logits of the clean run where one edge carries what it does in the corrupt run."""
    name, head = output_hook(edge.sender)
    _, cache = model.run_with_cache(corrupt)
    new, seen = cache[name], {}
    new = new if head is None else new[:, :, head]

    def remember(value: Tensor, hook: object) -> None:
        seen["out"] = value if head is None else value[:, :, head]

    def receive(value: Tensor, hook: object) -> Tensor:
        change = new - seen["out"]
        if position is not None:
            kept = torch.zeros(LENGTH, 1)
            kept[position] = 1
            change = change * kept
        value = value.clone()
        if value.ndim == 4:
            assert receiver_head is not None
            value[:, :, receiver_head] += change
            return value
        return value + change

    receiver_head = None
    if found := HEAD.fullmatch(edge.receiver):
        where, receiver_head = f"blocks.{found[1]}.hook_{edge.input}_input", int(found[2])
    elif found := MLP.fullmatch(edge.receiver):
        where = f"blocks.{found[1]}.hook_mlp_in"
    else:
        where = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    return model.run_with_hooks(clean, fwd_hooks=[(name, remember), (where, receive)])


READS = torch.arange(LENGTH).expand(ROWS, -1)


@given(st.integers(0, 10_000), st.integers(1, 3), st.booleans(), st.booleans(), st.data())
@settings(max_examples=25, deadline=None)
def test_an_edge_is_what_hooks_make_of_it(
    seed: int, layers: int, attn_only: bool, final_norm: bool, data: st.DataObject
) -> None:
    model = network(seed, layers=layers, attn_only=attn_only, final_norm=final_norm)
    graph, (clean, corrupt) = Graph(model), texts(seed)
    edge = data.draw(st.sampled_from(graph.edges))
    position = data.draw(st.sampled_from([None, 0, 2, LENGTH - 1]))
    with torch.no_grad():
        expected = by_hand(model, clean, corrupt, edge, position)
        place = graph.place(edge)
        if position is None:
            swapped = torch.zeros(2, len(graph.senders), len(graph.receivers))
            swapped[1][place] = 1
        else:
            swapped = torch.zeros(2, len(graph.senders), len(graph.receivers), ROWS, LENGTH)
            swapped[1][place][:, position] = 1
        found = graph.logits(clean, READS, swapped, graph.outputs(corrupt))
        plain = model(clean)
    scale = float(plain.abs().max())
    assert (found[0] - plain).abs().max() <= 1e-4 * scale
    assert (found[1] - expected).abs().max() <= 1e-4 * scale


OTHERS: dict[str, dict[str, Any]] = {
    "parallel": {"parallel_attn_mlp": True, "d_head": 4, "positional_embedding_type": "rotary", "rotary_dim": 2},
    "grouped": {"n_heads": 4, "d_head": 4, "n_key_value_heads": 2, "normalization_type": "RMS", "gated_mlp": True,
                "positional_embedding_type": "rotary", "rotary_adjacent_pairs": True, "use_qk_norm": True},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_an_edge_of_another_architecture_is_what_hooks_make_of_it(name: str) -> None:
    model = network(5, **OTHERS[name])
    graph, (clean, corrupt) = Graph(model), texts(5)
    if name == "grouped":  # every head's own keys and values, as the graph has them
        model.set_ungroup_grouped_query_attention(True)
    assert (Edge("L0H0", "L0 MLP", "mlp") in graph.edges) == (name != "parallel")
    wanted = [edge for edge in graph.edges if edge.receiver.startswith("L1") or edge.receiver == "logits"]
    with torch.no_grad():
        plain, reference = model(clean), graph.outputs(corrupt)
        for edge in wanted[:: 3 if name == "grouped" else 1]:
            swapped = torch.zeros(1, len(graph.senders), len(graph.receivers))
            swapped[0][graph.place(edge)] = 1
            found = graph.logits(clean, READS, swapped, reference)[0]
            expected = by_hand(model, clean, corrupt, edge, None)
            assert (found - expected).abs().max() <= 1e-4 * float(plain.abs().max()), edge
            assert edge.input in ("q", "k") or (found - plain).abs().max() > 1e-4, edge
        everything = torch.zeros(1, len(graph.senders), len(graph.receivers))
        for edge in graph.edges:
            everything[0][graph.place(edge)] = 1
        found = graph.logits(clean, READS, everything, reference)[0]
        assert (found - model(corrupt)).abs().max() <= 1e-4 * float(plain.abs().max())
    if name == "parallel":
        with pytest.raises(ValueError, match="no edge L0H0 → L0 MLP"):
            graph.place(Edge("L0H0", "L0 MLP", "mlp"))


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=10, deadline=None)
def test_all_edges_together_are_the_other_run(seed: int, attn_only: bool, final_norm: bool) -> None:
    model = network(seed, attn_only=attn_only, final_norm=final_norm)
    graph, (clean, corrupt) = Graph(model), texts(seed)
    swapped = torch.zeros(1, len(graph.senders), len(graph.receivers))
    for edge in graph.edges:
        swapped[0][graph.place(edge)] = 1
    with torch.no_grad():
        found, expected = graph.logits(clean, READS, swapped, graph.outputs(corrupt))[0], model(corrupt)
    assert (found - expected).abs().max() <= 1e-4 * float(expected.abs().max())


def test_outputs_and_biases_are_the_residual_stream() -> None:
    model = network(3)
    graph, (clean, _) = Graph(model), texts(3)
    _, cache = model.run_with_cache(clean)
    biases = sum(block.attn.b_O for block in model.blocks)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(graph.residual(clean), cache["blocks.1.hook_resid_post"], atol=1e-4)
    assert torch.allclose(graph.outputs(clean).sum(0) + biases, graph.residual(clean), atol=1e-4)


@pytest.mark.parametrize(("layers", "heads", "with_mlp"), [(1, 1, True), (2, 3, True), (3, 2, False)])
def test_there_is_every_edge_forwards_and_no_other(layers: int, heads: int, with_mlp: bool) -> None:
    found = edges(nodes(layers, heads, with_mlp=with_mlp))
    assert len(set(found)) == len(found)
    block = heads + with_mlp
    before = [1 + layer * block for layer in range(layers)]  # senders before each layer
    expected = sum(3 * heads * n + (n + heads) * with_mlp for n in before) + 1 + layers * block
    assert len(found) == expected


@pytest.mark.parametrize(
    ("sender", "receiver", "way", "message"),
    [
        ("L1H0", "L0H0", "q", "does not come after"),
        ("L0H0", "L0H1", "q", "does not come after"),
        ("L0H0", "L1H1", "mlp", "has no input 'mlp'"),
        ("logits", "logits", "logits", "does not come after"),
        ("L0", "logits", "logits", "no node 'L0'"),
    ],
)
def test_an_edge_that_cannot_be_is_refused(sender: str, receiver: str, way: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edge(sender, receiver, way)  # pyright: ignore[reportArgumentType]


def test_an_edge_of_a_larger_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no edge L0H5 → logits"):
        Graph(network(0)).place(Edge("L0H5", "logits", "logits"))


def test_what_the_executor_does_not_compute_is_refused() -> None:
    cfg = HookedTransformerConfig(
        n_layers=1,
        d_model=8,
        n_ctx=4,
        d_head=4,
        n_heads=2,
        d_vocab=5,
        d_mlp=8,
        act_fn="relu",
        output_logits_soft_cap=3.0,
    )
    with pytest.raises(Unsupported, match="output_logits_soft_cap"):
        Graph(HookedTransformer(cfg))


def test_texts_that_do_not_fit_are_refused() -> None:
    graph = Graph(network(0))
    with pytest.raises(ValueError, match="token ids from 7 to 7; the model has 0 to 6"):
        graph.embedding(torch.full((1, 3), 7))
