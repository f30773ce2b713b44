"""Edges and nodes by TransformerLens hooks, slowly: the oracle of attribution and of circuits."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.models.circuit import HEAD, MLP, Edge, nodes

Outputs = dict[str, Tensor]  # node -> (batch, pos, d_model); "embed" without positions


def opened(model: HookedTransformer) -> HookedTransformer:
    """The model with hooks at what each node gives and reads."""
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    if not model.cfg.attn_only:
        model.set_use_hook_mlp_in(True)
    return model


def closed(model: HookedTransformer) -> HookedTransformer:
    """The model as it was."""
    model.set_use_attn_result(False)
    model.set_use_split_qkv_input(False)
    model.set_use_hook_mlp_in(False)
    return model


def given(node: str) -> tuple[str, int | None]:
    """The hook of what a node gives, and which head of it."""
    if node == "embed":
        return "hook_embed", None
    if found := HEAD.fullmatch(node):
        return f"blocks.{found[1]}.attn.hook_result", int(found[2])
    found = MLP.fullmatch(node)
    assert found
    return f"blocks.{found[1]}.hook_mlp_out", None


def received(model: HookedTransformer, edge: Edge) -> tuple[str, int | None]:
    """The hook of what an edge's receiver reads, and which head of it."""
    if found := HEAD.fullmatch(edge.receiver):
        return f"blocks.{found[1]}.hook_{edge.input}_input", int(found[2])
    if found := MLP.fullmatch(edge.receiver):
        return f"blocks.{found[1]}.hook_mlp_in", None
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", None


def senders(model: HookedTransformer) -> tuple[str, ...]:
    return nodes(model.cfg.n_layers, model.cfg.n_heads)[:-1]


def run(
    model: HookedTransformer,
    tokens: Tensor,
    *,
    swapped: Collection[Edge] = (),
    reference: Mapping[str, Tensor] | None = None,
    held: Mapping[str, Tensor] | None = None,
    outer: Mapping[str, Tensor] | None = None,
    inner: Mapping[str, Tensor] | None = None,
    heads: Mapping[tuple[str, int], Tensor] | None = None,
) -> tuple[Tensor, Outputs]:
    """Logits, and what nodes give, where swapped edges carry the reference and held nodes give what they are told to.

    outer: added to what nodes give, inner: to what hooks of receivers hold (to ask for gradients); heads: (hook, head)
    of queries, keys or values -> their values.
    """
    seen: Outputs = {}
    by_give: dict[str, list[tuple[str, int | None]]] = {}
    by_read: dict[str, list[tuple[Edge, int | None]]] = {}
    for node in senders(model):
        hook, head = given(node)
        by_give.setdefault(hook, []).append((node, head))
    for edge in swapped:
        hook, head = received(model, edge)
        by_read.setdefault(hook, []).append((edge, head))
    for hook in inner or {}:
        by_read.setdefault(hook, [])

    def give(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        for node, head in by_give[hook.name]:
            at = slice(None) if head is None else (slice(None), slice(None), head)
            if held is not None and node in held:
                value[at] = held[node]
            if outer is not None and node in outer:
                value[at] = value[at] + outer[node]
            seen[node] = value[at]
        return value

    def read(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        for edge, head in by_read[hook.name]:
            assert reference is not None
            at = slice(None) if head is None else (slice(None), slice(None), head)
            value[at] = value[at] + reference[edge.sender] - seen[edge.sender]
        return value if inner is None or hook.name not in inner else value + inner[hook.name]

    def replace(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        for (name, head), new in (heads or {}).items():
            if name == hook.name:
                value[:, :, head] = new
        return value

    hooks = [(name, give) for name in by_give] + [(name, read) for name in by_read]
    hooks += [(name, replace) for name in {name for name, _ in heads or {}}]
    return model.run_with_hooks(tokens, fwd_hooks=hooks), seen
