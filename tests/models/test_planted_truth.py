"""The ground truth of every planted model, proved by exhaustive intervention, with no method of the library: the output
of each node, then each single edge, takes its value from the corrupt run, over all minimal pairs."""

from collections.abc import Callable
from functools import lru_cache, partial

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.core.pairs import PairBatch
from interp_kit.engine.sites import ACTIVATIONS
from interp_kit.models.circuit import EMBED, HEAD, LOGITS, MLP, Edge, GroundTruth, edges, nodes
from interp_kit.models.planted import PLANTED_TASKS, ground_truth, planted_model
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.induction import InductionTask

TASKS = {"boolean": BooleanTask(), "induction": InductionTask()}
LEAST = 0.05  # of the clean-corrupt gap
Parts = dict[str, Tensor]  # node -> (batch, pos, d_model) what it adds to the residual stream

names = pytest.mark.parametrize("name", PLANTED_TASKS)


@lru_cache
def build(name: str, seed: int = 0) -> HookedTransformer:
    return planted_model(name, TASKS[PLANTED_TASKS[name]], seed).requires_grad_(False)


@lru_cache
def pairs_of(name: str) -> PairBatch:
    """All minimal pairs; of induction, where letters are alike, those of four families of worlds: each move of the key
    32 times."""
    truth = ground_truth(name)
    pairs = TASKS[PLANTED_TASKS[name]].pairs(truth.variable, truth.target)
    return pairs.take(range(4 * 8 * 12)) if name == "induction" else pairs


def by_parts(
    model: HookedTransformer, tokens: Tensor, change: Callable[[str, str, Tensor, Parts], Tensor] | None = None
) -> tuple[Tensor, Parts]:
    """Logits and what each node adds, written out once more. change: (receiver, input, residual stream, parts) -> the
    residual stream that this input is computed from."""

    def seen(receiver: str, way: str) -> Tensor:
        total = torch.stack(list(before.values())).sum(0)
        return total if change is None else change(receiver, way, total, before)

    parts = {EMBED: model.W_E[tokens] + model.W_pos[: tokens.shape[1]]}
    hidden = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for layer, block in enumerate(model.blocks):
        before, attn = dict(parts), block.attn
        for number in range(model.cfg.n_heads):
            name = f"L{layer}H{number}"
            q, k, v = (
                block.ln1(seen(name, way)) @ weight[number] + bias[number]
                for way, weight, bias in (
                    ("q", attn.W_Q, attn.b_Q),
                    ("k", attn.W_K, attn.b_K),
                    ("v", attn.W_V, attn.b_V),
                )
            )
            scores = (q @ k.mT / model.cfg.d_head**0.5).masked_fill(hidden, -torch.inf)
            parts[name] = scores.softmax(-1) @ v @ attn.W_O[number]
        before = dict(parts)
        if not model.cfg.attn_only:
            x = block.ln2(seen(f"L{layer} MLP", "mlp"))
            parts[f"L{layer} MLP"] = (x @ block.mlp.W_in + block.mlp.b_in).relu() @ block.mlp.W_out + block.mlp.b_out
    before = dict(parts)
    return model.ln_final(seen(LOGITS, "logits")) @ model.W_U + model.b_U, parts


def difference(logits: Tensor, pairs: PairBatch) -> Tensor:
    """(pair,) logit of the clean answer minus that of the corrupt one, where the target is predicted."""
    rows = torch.arange(len(pairs))
    at = logits[rows, pairs.clean.position(pairs.clean.field(pairs.target).predict)]
    return at[rows, pairs.clean.answer[pairs.target]] - at[rows, pairs.corrupt.answer[pairs.target]]


@lru_cache
def unchanged(name: str) -> tuple[Tensor, float]:
    """The logit difference of the clean runs, and its mean distance from that of the corrupt ones."""
    pairs = pairs_of(name)
    clean, corrupt = (difference(build(name)(batch.tokens), pairs) for batch in (pairs.clean, pairs.corrupt))
    return clean, float((clean - corrupt).mean())


def changed(name: str, logits: Tensor) -> float:
    """Mean |change| of the logit difference, as a share of the clean-corrupt gap."""
    clean, gap = unchanged(name)
    return float((difference(logits, pairs_of(name)) - clean).abs().mean()) / gap


def architecture(model: HookedTransformer) -> tuple[str, ...]:
    return nodes(model.cfg.n_layers, model.cfg.n_heads, with_mlp=not model.cfg.attn_only)


def node_changes(name: str) -> dict[str, float]:
    """What each node's output of the corrupt run does in the clean one, by TransformerLens's hooks."""
    model, pairs = build(name), pairs_of(name)
    _, cache = model.run_with_cache(pairs.corrupt.tokens)

    def swap(value: Tensor, hook: object, number: int | None) -> Tensor:
        source = cache[hook.name]  # pyright: ignore[reportAttributeAccessIssue]
        if number is None:
            return source
        value[:, :, number] = source[:, :, number]
        return value

    found = {}
    for node in set(architecture(model)) - {EMBED, LOGITS}:
        if match := HEAD.fullmatch(node):
            hook, number = f"blocks.{match[1]}.attn.hook_z", int(match[2])
        else:
            layer = MLP.fullmatch(node)
            assert layer is not None
            hook, number = f"blocks.{layer[1]}.hook_mlp_out", None
        hooks = [(hook, partial(swap, number=number))]
        found[node] = changed(name, model.run_with_hooks(pairs.clean.tokens, fwd_hooks=hooks))
    return found


def edge_changes(name: str) -> dict[Edge, float]:
    """What each single edge does: one input of one receiver sees its sender as it is in the corrupt run."""
    model, pairs = build(name), pairs_of(name)
    _, corrupt = by_parts(model, pairs.corrupt.tokens)
    found = {}
    for edge in edges(architecture(model)):

        def change(receiver: str, way: str, total: Tensor, parts: Parts, edge: Edge = edge) -> Tensor:
            if (receiver, way) != (edge.receiver, edge.input):
                return total
            return total + corrupt[edge.sender] - parts[edge.sender]

        found[edge] = changed(name, by_parts(model, pairs.clean.tokens, change)[0])
    return found


@names
def test_parts_add_up_to_the_model(name: str) -> None:
    model, tokens = build(name), pairs_of(name).clean.tokens
    torch.testing.assert_close(by_parts(model, tokens)[0], model(tokens), rtol=0, atol=5e-3)


@names
def test_pairs_are_answered_right_on_both_sides(name: str) -> None:
    model, pairs = build(name), pairs_of(name)
    for batch in (pairs.clean, pairs.corrupt):
        rows = torch.arange(len(batch))
        at = model(batch.tokens)[rows, batch.position(batch.field(pairs.target).predict)]
        assert torch.equal(at.argmax(-1), batch.answer[pairs.target])


@names
def test_nodes_are_those_that_change_the_answer(name: str) -> None:
    found = node_changes(name)
    truth = ground_truth(name)
    assert {node for node, value in found.items() if value > LEAST} == truth.nodes, found
    assert truth.backup | truth.decoy <= set(found)


@pytest.mark.slow
@names
def test_edges_are_those_that_change_the_answer(name: str) -> None:
    found = edge_changes(name)
    assert {edge for edge, value in found.items() if value > LEAST} == ground_truth(name).edges, found


def patched_at(name: str, site: tuple[str, int, str]) -> float:
    model, pairs = build(name), pairs_of(name)
    hook = ACTIVATIONS[site[0]][0].format(layer=site[1])
    _, cache = model.run_with_cache(pairs.corrupt.tokens, names_filter=hook)
    rows, index = torch.arange(len(pairs)), pairs.clean.position(site[2])

    def swap(value: Tensor, hook: object) -> Tensor:
        value[rows, index] = cache[hook.name][rows, index]  # pyright: ignore[reportAttributeAccessIssue]
        return value

    return changed(name, model.run_with_hooks(pairs.clean.tokens, fwd_hooks=[(hook, swap)]))


@names
def test_site_carries_the_whole_change_and_the_decoy_site_none(name: str) -> None:
    truth = ground_truth(name)
    assert patched_at(name, truth.site) == pytest.approx(1, abs=0.02)
    if truth.decoy_site is not None:
        assert patched_at(name, truth.decoy_site) < 1e-3


def test_truth_has_every_name_and_refuses_others() -> None:
    assert all(isinstance(ground_truth(name), GroundTruth) for name in PLANTED_TASKS)
    with pytest.raises(ValueError, match="no planted model 'boolean'; there are boolean-via-token, boolean-direct"):
        ground_truth("boolean")
