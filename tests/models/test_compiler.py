"""Compiled programs: every answer right, and truth proved by exhaustive intervention with no method of the library."""

import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import interp_kit as ik
from interp_kit.core.pairs import PairBatch
from interp_kit.models.circuit import EMBED, LOGITS, Edge, edges, nodes
from interp_kit.models.compiler import compile_task, plan_of
from interp_kit.models.compiler.logic import tabulate
from interp_kit.models.compiler.plan import Mechanism
from interp_kit.models.compiler.truth import LEAST, Patch, alone, effect, parts
from interp_kit.models.planted import ground_truth
from interp_kit.studies.audit.programs.draw import draw
from interp_kit.tasks.boolean import BooleanTask

MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)
CELLS = list(itertools.product(MECHANISMS, (True, False), (False, True)))
SMALL = BooleanTask({"M": "P ^ Q", "N": "not P", "Y": "M and R"}, "PQR")
ODD = {
    "one input": BooleanTask({"M": "not A", "Y": "M"}, "A"),
    "constants": BooleanTask({"M": "1", "N": "A or not A", "Y": "M and A"}, "AB"),
    "only constants": BooleanTask({"M": "1", "N": "0"}, "AB"),
    "long chain": BooleanTask(
        {"a": "A ^ B", "b": "a ^ C", "c": "b ^ A", "d": "c or not b", "e": "d and c", "f": "e ^ a"}, "ABC"
    ),
    "wide": BooleanTask({"M": "A ^ B ^ C ^ D ^ E ^ F", "Y": "(M and A) or (B and C and D) or not E"}, "ABCDEF"),
    "the shipped task": BooleanTask(),
}


def answered(model: Any, task: BooleanTask) -> bool:
    """True if the tokens that a model generates from each prompt are those of the equations, solved by Python."""
    examples = task.enumerate()
    tokens = torch.tensor([example.tokens[: example.prompt_length] for example in examples])
    while tokens.shape[1] < len(examples[0].tokens):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    for example, row in zip(examples, tokens.tolist(), strict=True):
        values = {name: example.labels[name] for name in task.inputs}
        for name, expression in task.options()["equations"].items():
            values[name] = int(eval(expression, {}, dict(values))) & 1  # of our own tests; ~x & 1 is not x
        outputs = [values[name] for name in task.model.outputs]
        inputs = [values[name] for name in task.inputs]
        wanted = f"{','.join(map(str, inputs))}\n{','.join(map(str, outputs))}\n{sum(inputs)} - {sum(outputs)}\n"
        if "".join(task.vocabulary[token] for token in row) != f"{wanted}<|endoftext|>":
            return False
    return True


def by_parts(
    model: Any, tokens: Tensor, change: Callable[[str, str, Tensor, dict[str, Tensor]], Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and what each node adds, written out from the weights. change: (receiver, input, residual stream, parts)
    -> the residual stream that this input is computed from."""

    def seen(receiver: str, way: str) -> Tensor:
        total = torch.stack(list(before.values())).sum(0)
        return total if change is None else change(receiver, way, total, before)

    plain = model.cfg.normalization_type is None
    found = {EMBED: model.W_E[tokens] + model.W_pos[: tokens.shape[1]]}
    hidden = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for layer, block in enumerate(model.blocks):
        before = dict(found)
        for number in range(model.cfg.n_heads):
            name = f"L{layer}H{number}"
            q, k, v = (
                (seen(name, way) if plain else block.ln1(seen(name, way)))
                @ getattr(block.attn, f"W_{way.upper()}")[number]
                for way in "qkv"
            )
            scores = (q @ k.mT / model.cfg.d_head**0.5).masked_fill(hidden, -torch.inf)
            found[name] = scores.softmax(-1) @ v @ block.attn.W_O[number]
        before = dict(found)
        x = seen(f"L{layer} MLP", "mlp")
        found[f"L{layer} MLP"] = ((x if plain else block.ln2(x)) @ block.mlp.W_in).relu() @ block.mlp.W_out
    before = dict(found)
    last = seen(LOGITS, "logits")
    return (last if plain else model.ln_final(last)) @ model.W_U, found


def difference(logits: Tensor, pairs: PairBatch) -> Tensor:
    """(pair,) logit of the clean answer minus that of the corrupt one, where the target is predicted."""
    rows = torch.arange(len(pairs))
    at = logits[rows, pairs.clean.position(pairs.clean.field(pairs.target).predict)]
    return at[rows, pairs.clean.answer[pairs.target]] - at[rows, pairs.corrupt.answer[pairs.target]]


def carried(model: Any, pairs: PairBatch, chosen: Callable[[str, str], Iterable[str]]) -> tuple[Tensor, Tensor, float]:
    """Logit difference where, at every input of a receiver, the `chosen` senders are as in the corrupt run; that of the
    clean run; and the gap."""
    clean, _ = by_parts(model, pairs.clean.tokens)
    logits, corrupt = by_parts(model, pairs.corrupt.tokens)
    base = difference(clean, pairs)

    def change(receiver: str, way: str, total: Tensor, seen: dict[str, Tensor]) -> Tensor:
        for sender in chosen(receiver, way):
            if sender in seen:
                total = total + corrupt[sender] - seen[sender]
        return total

    found = difference(by_parts(model, pairs.clean.tokens, change)[0], pairs)
    return found, base, float((base - difference(logits, pairs)).mean())


def moved(model: Any, pairs: PairBatch, *patched: Edge) -> float:
    """Share of the gap that the logit difference moves where these edges are as in the corrupt run."""
    found, base, gap = carried(
        model, pairs, lambda receiver, way: [e.sender for e in patched if (e.receiver, e.input) == (receiver, way)]
    )
    return float((found - base).abs().mean()) / gap


def every_edge(model: Any) -> tuple[Edge, ...]:
    return edges(nodes(model.cfg.n_layers, model.cfg.n_heads))


@lru_cache
def small(mechanism: Mechanism, layer_norm: bool = True, superposed: bool = False, seed: int = 0) -> Any:
    model = compile_task(SMALL, mechanism, layer_norm=layer_norm, superposed=superposed, seed=seed)
    return model.requires_grad_(False)


@pytest.mark.parametrize("name", ODD)
def test_odd_tasks_are_answered(name: str) -> None:
    cases: tuple[tuple[Mechanism, bool], ...] = (("latent", True), ("direct", False), ("majority", False))
    for mechanism, superposed in cases:
        model = compile_task(ODD[name], mechanism, superposed=superposed, seed=3)
        if ODD[name].n_worlds <= 8:
            assert answered(model, ODD[name])


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_answer_of_a_small_task_is_right(cell: tuple[Mechanism, bool, bool]) -> None:
    assert answered(small(*cell, seed=1), SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(30))
def test_every_answer_of_a_random_task_is_right(number: int) -> None:
    task = draw(number, seed=1).task
    for cell in CELLS:
        mechanism, layer_norm, superposed = cell
        assert answered(compile_task(task, mechanism, layer_norm=layer_norm, superposed=superposed, seed=number), task)


def check_effects(model: Any, task: BooleanTask) -> None:
    """Every edge of the network moves the answer by what the plan says."""
    truth, plan = ground_truth(model), plan_of(model)
    pairs = task.pairs(truth.variable, truth.target, limit=24)
    clean, corrupt = (
        {name: 2.0 * side.label(name).numpy() - 1 for name in (*plan.inputs, *plan.functions)}
        for side in (pairs.clean, pairs.corrupt)
    )
    _, planned = parts(plan, truth.target)
    for edge in every_edge(model):
        expected = effect(plan, planned.get(edge, Patch()), truth.target, clean, corrupt)
        assert moved(model, pairs, edge) == pytest.approx(expected, abs=0.04), edge


@pytest.mark.parametrize(
    "mechanism", [pytest.param(one, marks=[] if one == "redundant" else [pytest.mark.slow]) for one in MECHANISMS]
)
def test_every_edge_moves_the_answer_as_planned(mechanism: Mechanism) -> None:
    check_effects(small(mechanism), SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_every_edge_of_a_random_program_moves_the_answer_as_planned(number: int) -> None:
    program = draw(number, seed=2)
    check_effects(program.compiled().requires_grad_(False), program.task)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_true_edges_suffice_and_each_is_needed(cell: tuple[Mechanism, bool, bool]) -> None:
    model = small(*cell)
    truth = ground_truth(model)
    pairs = SMALL.pairs(truth.variable, truth.target)
    false = [edge for edge in every_edge(model) if edge not in truth.edges]
    found, base, gap = carried(
        model, pairs, lambda receiver, way: [e.sender for e in false if (e.receiver, e.input) == (receiver, way)]
    )
    assert (found > 0).all()
    assert (base > 0).all()
    assert float((found - base).abs().mean()) < 0.1 * gap
    shares = {edge: moved(model, pairs, edge) for edge in truth.edges}
    if cell[0] in ("redundant", "majority"):
        assert moved(model, pairs, *truth.edges) == pytest.approx(1, abs=0.02)
    else:
        assert min(shares.values()) > LEAST, shares
    predicted = alone(plan_of(model), truth, pairs)
    assert min(shares.values()) == pytest.approx(predicted["edges"], abs=0.04)


def test_copies_hide_from_patching_of_single_parts() -> None:
    lone = {}
    for mechanism in MECHANISMS:
        truth = ground_truth(small(mechanism))
        pairs = SMALL.pairs(truth.variable, truth.target)
        lone[mechanism] = alone(plan_of(small(mechanism)), truth, pairs)
    # Half of the pairs flip P, half Q: each of the two heads that M is computed from moves one half.
    assert lone["via-token"] == {"nodes": 1, "edges": 1, "positions": 1}
    assert lone["latent"] == {"nodes": 0.5, "edges": 0.5, "positions": 1}
    assert lone["redundant"] == {"nodes": 0.25, "edges": 0.25, "positions": 0.5}
    assert lone["majority"] == {"nodes": 0, "edges": 0, "positions": 0}
    truth = ground_truth(small("majority"))
    carriers = [edge for edge in truth.edges if edge.receiver.startswith("L1H") or edge.input == "v"]
    pairs = SMALL.pairs("M", "Y")
    late = [e for e in carriers if plan_of(small("majority")).layer["Y"] == int(e.receiver[1])]
    assert len(late) == 3
    assert [round(moved(small("majority"), pairs, *late[:n]), 1) for n in (1, 2, 3)] == [0, 1, 1]


def test_each_mechanism_has_its_own_truth() -> None:
    assert ground_truth(small("via-token")).positions == {"M"}
    assert ground_truth(small("latent")).positions == {"M?"}
    assert ground_truth(small("redundant")).positions == {"M", "M?"}
    assert ground_truth(small("direct")).positions == {"P", "Q"}
    assert {e.sender for e in ground_truth(small("direct")).edges} & {"L0 MLP"} == set()
    assert any(e.receiver.startswith("L1H") and e.sender.endswith("MLP") for e in ground_truth(small("latent")).edges)
    for mechanism in MECHANISMS:
        truth = ground_truth(small(mechanism))
        assert truth.nodes
        assert truth.decoy
        assert not truth.nodes & truth.decoy
        assert {end for e in truth.edges for end in (e.sender, e.receiver)} - {EMBED, LOGITS} == truth.nodes


def test_other_questions_have_other_truths_and_wrong_ones_are_named() -> None:
    model = small("via-token")
    assert (ground_truth(model).variable, ground_truth(model).target) == ("M", "Y")
    other = ground_truth(model, "P", "N")
    assert other.positions == {"P"}
    assert ("N", other.site[1]) == (other.target, plan_of(model).layer["N"])
    with pytest.raises(ValueError, match="no variable 'Z'"):
        ground_truth(model, "Z", "Y")
    with pytest.raises(ValueError, match="'sum1' is not an equation"):
        ground_truth(model, "P", "sum1")
    with pytest.raises(ValueError, match="was not compiled; name a planted model"):
        ground_truth(ik.planted("boolean-direct"))
    with pytest.raises(ValueError, match="was not compiled; compile_task makes one"):
        plan_of(ik.planted("boolean-direct"))
    with pytest.raises(ValueError, match="the question of a planted model is fixed"):
        ground_truth("boolean-direct", "A", "newD")


def test_the_seed_draws_basis_heads_and_layers() -> None:
    models = [small("latent", seed=seed) for seed in range(6)]
    assert len({tuple(sorted(ground_truth(model).nodes)) for model in models}) > 3
    first, second = (small("latent", seed=seed) for seed in (0, 1))
    assert torch.equal(small("latent").W_E, compile_task(SMALL, "latent").W_E)
    assert not torch.allclose(first.W_E[0, :8], second.W_E[0, :8])
    for model in (first, second):
        share = model.W_E.pow(2).max(1).values / model.W_E.pow(2).sum(1)
        assert float(share[share.isfinite()].max()) < 0.6  # no token stands on one coordinate


def test_superposed_features_overlap_in_fewer_dimensions() -> None:
    packed, plain = (small("latent", superposed=superposed) for superposed in (True, False))
    assert packed.cfg.d_model < plain.cfg.d_model
    token = packed.W_E / packed.W_E.norm(dim=1, keepdim=True)
    assert float((token @ token.T - torch.eye(len(token))).abs().max()) > 0.2


def test_the_plan_says_what_each_part_does() -> None:
    frame = plan_of(small("latent")).to_frame()
    assert {"layer", "node", "position", "does"} == set(frame.columns)
    reads = frame[(frame["position"] == "Y?") & frame["node"].str.contains("H")]["does"].tolist()
    assert any(text.startswith("brings M? (to slot") for text in reads)
    assert "computes Y of M, R" in set(frame["does"])
    assert "counts sum1" in set(frame["does"])


def test_functions_keep_what_matters() -> None:
    found = tabulate("abc", lambda v: v["a"] & (v["b"] | (1 - v["b"])))
    assert found.operands == ("a",)
    assert len(found.cubes) == 2
    and_of_8 = tabulate("abcdefgh", lambda v: np.prod([v[name] for name in "abcdefgh"], 0))
    assert len(and_of_8.cubes) == 9
    with pytest.raises(ValueError, match="13 operands of one field; at most 12"):
        tabulate("abcdefghijklm", lambda v: v["a"])


def test_other_tasks_and_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="induction is not a task of boolean equations"):
        compile_task(ik.task("induction"))
    with pytest.raises(ValueError, match="'sum1' is not an equation"):
        compile_task(SMALL, target="sum1")


def test_analyses_take_a_compiled_model() -> None:
    model = compile_task(SMALL, "latent", layer_norm=False)
    assert ik.task_of(model).identity == SMALL.identity
    found = ik.patch(model, SMALL.pairs("M", "Y"), sites="resid_pre", positions=["M?", "M"]).to_frame()
    found = found[found["layer"] == ground_truth(model).site[1]]
    moved_by = dict(zip(found["position"], found["recovered"].tolist(), strict=True))
    assert moved_by == {"M?": pytest.approx(1, abs=0.01), "M": pytest.approx(0, abs=0.01)}
