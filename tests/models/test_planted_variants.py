"""The planted memoriser, backup, decoy and superposition: each behaves on all 32 inputs as it was built to."""

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.hook_points import HookPoint

from interp_kit.core.batch import TokenBatch
from interp_kit.models.planted import MECHANISMS, PLANTED_MECHANISMS, planted_boolean, planted_equations
from interp_kit.models.planted.boolean import BACKUP, DECOY, PRIMARY
from interp_kit.models.planted.directions import superposed
from interp_kit.tasks.boolean import EQUATIONS, BooleanTask

TASK = BooleanTask()
BATCH = TASK.batch(TASK.enumerate())
AT = TASK.enumerate()[0].positions
PROMPT = TASK.enumerate()[0].prompt_length
NEW = tuple(name for name in MECHANISMS if name not in PLANTED_MECHANISMS)
MARGIN = {"superposed": 5.0}  # Logits between the right token and the next; all others: 7.5.

mechanisms = pytest.mark.parametrize("mechanism", NEW)
Ablation = Callable[[Tensor], Tensor]  # (batch, pos, d_head) of a head -> what stands there instead


@lru_cache
def build(mechanism: str, seed: int = 0) -> HookedTransformer:
    return planted_boolean(TASK, mechanism, seed).requires_grad_(False)


def margin(logits: Tensor, batch: TokenBatch = BATCH) -> Tensor:
    """(batch, completion) logit of the true token minus the largest other."""
    predicted, true = logits[:, PROMPT - 1 : AT["eos"]], batch.tokens[:, PROMPT:, None]
    return (predicted.gather(-1, true) - predicted.scatter(-1, true, -torch.inf).amax(-1, keepdim=True))[..., 0]


def newd(logits: Tensor) -> Tensor:
    return logits[:, AT["newD?"]].argmax(-1)


def ablated(model: HookedTransformer, heads: list[tuple[int, int]], how: Ablation) -> Tensor:
    """Logits on the 32 texts with the outputs of these (layer, head) replaced."""

    def hook_of(number: int) -> Callable[[Tensor, HookPoint], Tensor]:
        def hook(z: Tensor, hook: HookPoint) -> Tensor:
            z[:, :, number] = how(z[:, :, number])
            return z

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_z", hook_of(number)) for layer, number in heads]
    return model.run_with_hooks(BATCH.tokens, fwd_hooks=hooks)


ABLATIONS: dict[str, Ablation] = {"zero": torch.zeros_like, "mean": lambda z: z.mean(0, keepdim=True).expand_as(z)}


@pytest.mark.parametrize("seed", range(4))
@mechanisms
def test_every_text_is_right_by_a_margin(mechanism: str, seed: int) -> None:
    logits = build(mechanism, seed)(BATCH.tokens)
    assert margin(logits).min() > MARGIN.get(mechanism, 7.5)
    assert margin(logits)[:, AT["newD?"] - PROMPT + 1].min() > 9


@mechanisms
def test_seed_turns_the_basis_and_not_the_answers(mechanism: str) -> None:
    first, second = build(mechanism, 0), build(mechanism, 1)
    assert (first.W_E - second.W_E).norm(dim=-1).min() > 0.5
    assert all(type(norm) is LayerNorm for model in (first, second) for norm in (model.ln_final, model.blocks[0].ln1))
    if mechanism != "superposed":  # There the overlaps are drawn too.
        torch.testing.assert_close(first(BATCH.tokens), second(BATCH.tokens), rtol=0, atol=1e-3)


@mechanisms
def test_conflict_prompts_name_the_source(mechanism: str) -> None:
    """newB's token flipped alone moves newD in `backup`; D's token flipped alone moves it in all others."""
    token, prompt = TASK.conflict_pairs("newB", "newD"), TASK.pairs("newB", "newD", completion="clean")
    follows_token = newd(build(mechanism)(token.corrupt.tokens)) != token.clean.answer["newD"]
    follows_prompt = newd(build(mechanism)(prompt.corrupt.tokens)) != prompt.clean.answer["newD"]
    assert follows_token.all() if mechanism == "backup" else not follows_token.any()
    assert follows_prompt.all() if mechanism != "backup" else not follows_prompt.any()


def test_lookup_has_one_neuron_for_each_prompt() -> None:
    _, cache = build("lookup").run_with_cache(BATCH.tokens)
    active = cache["post", 1] > 1e-4
    assert active.any(0).any(-1).nonzero().flatten().tolist() == [AT["newD?"]]
    fires = active[:, AT["newD?"]]
    assert torch.equal(fires.sum(0), torch.ones(32, dtype=torch.long))  # Each neuron knows one prompt,
    assert torch.equal(fires.sum(1), torch.ones(32, dtype=torch.long))  # and each prompt has one neuron.


def test_lookup_forgets_one_prompt_with_one_neuron() -> None:
    _, cache = build("lookup").run_with_cache(BATCH.tokens)
    neuron = int(cache["post", 1][7, AT["newD?"]].argmax())

    def off(post: Tensor, hook: HookPoint) -> Tensor:
        post[:, :, neuron] = 0
        return post

    lost = build("lookup").run_with_hooks(BATCH.tokens, fwd_hooks=[("blocks.1.mlp.hook_post", off)])
    at = lost[:, AT["newD?"]]
    bits = [TASK.field("newD").token(value) for value in (0, 1)]
    unsure = (at[:, bits[1]] - at[:, bits[0]]).abs() < 0.1
    assert unsure.nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("kind", ABLATIONS)
def test_backup_takes_over_where_the_primary_is_gone(kind: str) -> None:
    model, how = build("backup"), ABLATIONS[kind]
    primary, backup = (1, PRIMARY), (2, BACKUP)
    where = AT["newD?"] - PROMPT + 1
    assert margin(ablated(model, [primary], how)).min() > 7
    assert margin(ablated(model, [primary], how))[:, where].min() > 9
    assert margin(ablated(model, [backup], how)).min() > 7
    both = margin(ablated(model, [primary, backup], how))
    assert (both[:, where] < 0.1).any()
    assert both[:, [i for i in range(both.shape[1]) if i != where]].min() > 7  # Only newD is lost.


def test_backup_looks_up_only_where_nothing_came() -> None:
    model = build("backup")
    at, source = AT["newD?"], AT["newB"]
    _, cache = model.run_with_cache(BATCH.tokens)
    assert cache["pattern", 2][:, BACKUP, at, source].max() < 1e-4
    assert cache["z", 2][:, 1:, BACKUP].abs().max() < 1e-3  # The first position can only read itself.

    def off(z: Tensor, hook: HookPoint) -> Tensor:
        z[:, :, PRIMARY] = 0
        return z

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", off)]):
        _, cache = model.run_with_cache(BATCH.tokens)
    assert cache["pattern", 2][:, BACKUP, at, source].min() > 1 - 1e-4


def test_backup_believes_a_wrong_bit() -> None:
    """Patched with the bit of another run the primary is not gone, so the answer follows it."""
    model, pairs = build("backup"), TASK.pairs("newB", "newD")
    _, cache = model.run_with_cache(pairs.corrupt.tokens)

    def swap(z: Tensor, hook: HookPoint) -> Tensor:
        z[:, :, PRIMARY] = cache["z", 1][:, :, PRIMARY]
        return z

    patched = model.run_with_hooks(pairs.clean.tokens, fwd_hooks=[("blocks.1.attn.hook_z", swap)])
    assert torch.equal(newd(patched), pairs.corrupt.answer["newD"])


def readable(model: HookedTransformer, layer: int) -> float:
    """Share of the 32 inputs on which newB is read at `newD?` by a linear probe fitted on the other 31."""
    _, cache = model.run_with_cache(BATCH.tokens)
    x = cache["resid_pre", layer][:, AT["newD?"]].double()
    x = torch.cat([x - x.mean(0), torch.ones(32, 1, dtype=torch.float64)], dim=1)
    y = 2.0 * BATCH.label("newB").double() - 1
    right = 0
    for row in range(32):
        rest = [i for i in range(32) if i != row]
        gram = x[rest] @ x[rest].T + 1e-3 * torch.eye(31, dtype=torch.float64)
        right += int((x[row] @ x[rest].T @ torch.linalg.solve(gram, y[rest])).sign() == y[row])
    return right / 32


def test_decoy_is_readable_where_the_same_model_without_it_shows_nothing() -> None:
    assert readable(build("decoy"), 1) == 1
    _, cache = build("direct").run_with_cache(BATCH.tokens)
    bare = cache["resid_pre", 1][:, AT["newD?"]]
    assert (bare - bare[:1]).abs().max() < 1e-4  # Without the decoy all 32 inputs look alike there.


@pytest.mark.parametrize("kind", ABLATIONS)
def test_decoy_is_not_read(kind: str) -> None:
    model = build("decoy")
    assert (ablated(model, [(0, DECOY)], ABLATIONS[kind]) - model(BATCH.tokens)).abs().max() < 0.2
    direction = model.blocks[0].attn.W_O[DECOY, 0]
    readers = [
        model.W_U,
        *(
            getattr(block.attn, name)[head]
            for block in model.blocks
            for name in ("W_Q", "W_K", "W_V")
            for head in range(4)
        ),
        *(block.mlp.W_in for block in model.blocks),
    ]
    assert direction.norm() == pytest.approx(1)
    assert max(float((direction @ reader).abs().max()) for reader in readers) < 1e-4


def test_superposition_is_real() -> None:
    basis = superposed(TASK, TASK.enumerate(), 0)
    features = torch.cat([basis.write.token, basis.write.position, torch.stack(list(basis.write.answer.values()))])
    assert len(features) == 44
    assert torch.linalg.matrix_rank(features) == 38
    cosine = features @ features.T - torch.eye(44, dtype=features.dtype)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(44, dtype=features.dtype))
    assert cosine.pow(2).mean().sqrt() > 0.14
    assert cosine.abs().max(1).values.min() > 0.2  # Each feature overlaps some other by much.
    assert build("superposed").cfg.d_model == 42 < 44 + 3


def test_superposition_refuses_a_task_that_needs_more_room() -> None:
    task = BooleanTask({**EQUATIONS, "newE": "A and B"})
    with pytest.raises(ValueError, match=r"states that span 4[0-9] dimensions; 38 are shared"):
        superposed(task, task.enumerate(), 0)


def test_other_equations_are_planted_or_refused_by_name() -> None:
    equations = {"M": "P ^ Q", "W": "R and Q", "Y": "M and R"}
    small = BooleanTask(equations, "PQR")
    model = planted_equations(small, small.model.parents, "direct", mediator="M", target="Y", seed=1)
    batch = small.batch(small.enumerate())
    example = small.enumerate()[0]
    answered = slice(example.prompt_length, example.positions["eos"])
    answers = model(batch.tokens).argmax(-1)[:, answered.start - 1 : answered.stop - 1]
    assert torch.equal(answers, batch.tokens[:, answered])
    with pytest.raises(ValueError, match="no mechanism 'lookup'; there are via-token, direct, latent"):
        planted_equations(small, small.model.parents, "lookup", mediator="M", target="Y")
    with pytest.raises(ValueError, match="'Y' is computed from M, R, not from 'W'"):
        planted_equations(small, small.model.parents, "direct", mediator="W", target="Y")
    wide = BooleanTask({"M": "P and Q and R and S and T", "Y": "not M"}, "PQRST")
    with pytest.raises(ValueError, match="5 operands of one field; a planted model carries 4"):
        planted_equations(wide, wide.model.parents, "via-token", mediator="M", target="Y")
