"""The planted models: one behaviour, three mechanisms, each shown by the intervention that tells it from the others."""

from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.hook_points import HookPoint

from interp_kit.core.batch import TokenBatch
from interp_kit.core.pairs import PairBatch
from interp_kit.models.planted import NEWD_SOURCE, PLANTED_MECHANISMS, planted_boolean
from interp_kit.tasks.boolean import BooleanTask

TASK = BooleanTask()
BATCH = TASK.batch(TASK.enumerate())
AT = TASK.enumerate()[0].positions
PROMPT = TASK.enumerate()[0].prompt_length
SITES = ("D", "newB?", "newB")

mechanisms = pytest.mark.parametrize("mechanism", PLANTED_MECHANISMS)
seeds = pytest.mark.parametrize("seed", [0, 1])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads, and many times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@lru_cache
def build(mechanism: str, seed: int = 0) -> HookedTransformer:
    return planted_boolean(TASK, mechanism, seed)


@torch.inference_mode()
def logits(model: HookedTransformer, batch: TokenBatch) -> Float[Tensor, "batch pos vocab"]:
    return model(batch.tokens)


def answers(values: Float[Tensor, "batch pos vocab"], field: str) -> Int[Tensor, " batch"]:
    return values[:, AT[f"{field}?"]].argmax(-1)


@torch.inference_mode()
def patched(mechanism: str, pairs: PairBatch, hook: str, position: str) -> Float[Tensor, "batch pos vocab"]:
    """Logits of the clean run with one activation, at one position, from the corrupt run."""
    model = build(mechanism)
    _, cache = model.run_with_cache(pairs.corrupt.tokens, names_filter=hook)

    def swap(value: Tensor, hook: HookPoint) -> Tensor:
        value[:, AT[position]] = cache[hook.name][:, AT[position]]
        return value

    return model.run_with_hooks(pairs.clean.tokens, fwd_hooks=[(hook, swap)])


@seeds
@mechanisms
def test_writes_every_text_from_the_bare_prompt(mechanism: str, seed: int) -> None:
    model = build(mechanism, seed)
    tokens = BATCH.tokens[:, :PROMPT]
    with torch.inference_mode():
        while tokens.shape[1] < BATCH.tokens.shape[1]:
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert len(tokens) == 32
    assert torch.equal(tokens, BATCH.tokens)


@seeds
@mechanisms
def test_is_sure_on_true_texts_and_on_conflict_prompts(mechanism: str, seed: int) -> None:
    model = build(mechanism, seed)
    predicted = slice(PROMPT - 1, AT["eos"])
    probability = logits(model, BATCH).softmax(-1)[:, predicted]
    assert probability.gather(-1, BATCH.tokens[:, PROMPT:, None]).min() > 0.99
    for pairs in (TASK.conflict_pairs("newB", "newD"), TASK.pairs("newB", "newD", completion="clean")):
        assert logits(model, pairs.corrupt).softmax(-1)[:, predicted].amax(-1).min() > 0.99


@seeds
@mechanisms
def test_flipped_newB_token_flips_newD_only_where_the_token_is_read(mechanism: str, seed: int) -> None:
    pairs = TASK.conflict_pairs("newB", "newD")
    assert len(pairs) == 16
    assert (pairs.clean.label("A") == 0).all()
    assert pairs.token_differs.nonzero()[:, 1].unique().tolist() == [AT["newB"]]
    followed = answers(logits(build(mechanism, seed), pairs.corrupt), "newD") != pairs.clean.answer["newD"]
    assert followed.float().mean() == (1 if mechanism == "via-token" else 0)


@seeds
@mechanisms
def test_flipped_D_under_a_held_completion_flips_newD_only_where_the_token_is_not_read(
    mechanism: str, seed: int
) -> None:
    pairs = TASK.pairs("newB", "newD", completion="clean")
    assert pairs.token_differs.nonzero()[:, 1].unique().tolist() == [AT["D"]]
    values = logits(build(mechanism, seed), pairs.corrupt)
    followed = answers(values, "newD") == pairs.corrupt.answer["newD"]
    assert followed.float().mean() == (0 if mechanism == "via-token" else 1)
    assert torch.equal(answers(values, "newB"), pairs.corrupt.answer["newB"])  # newB itself follows D in all three.


@pytest.mark.parametrize("site", SITES)
@mechanisms
def test_layer_1_reads_newB_at_the_stated_source_and_nowhere_else(mechanism: str, site: str) -> None:
    pairs = TASK.pairs("newB", "newD", completion="own")  # D, `newB?` and newB all differ between the two runs.
    values = patched(mechanism, pairs, "blocks.1.attn.hook_v", site)
    expected = pairs.corrupt if site == NEWD_SOURCE[mechanism][1] else pairs.clean
    assert torch.equal(answers(values, "newD"), expected.answer["newD"])
    assert values[:, AT["newD?"]].softmax(-1).amax(-1).min() > 0.99


@mechanisms
def test_latent_site_drives_newB_in_all_and_newD_in_one(mechanism: str) -> None:
    pairs = TASK.pairs("newB", "newD", completion="own")
    values = patched(mechanism, pairs, "blocks.0.hook_resid_post", "newB?")
    assert torch.equal(answers(values, "newB"), pairs.corrupt.answer["newB"])
    expected = pairs.corrupt if mechanism == "latent" else pairs.clean
    assert torch.equal(answers(values, "newD"), expected.answer["newD"])


@mechanisms
def test_attention_is_hard(mechanism: str) -> None:
    with torch.inference_mode():
        _, cache = build(mechanism).run_with_cache(BATCH.tokens)

    def mass(layer: int, head: int, query: str, *keys: str) -> float:
        return float(cache["pattern", layer][:, head, AT[query], [AT[key] for key in keys]].sum(-1).min())

    assert mass(1, 0, "newD?", "A") > 1 - 1e-4
    assert mass(1, 1, "newD?", NEWD_SOURCE[mechanism][1]) > 1 - 1e-4
    assert mass(0, 0, "newB?", "D") > 1 - 1e-4
    assert mass(0, 0, "sum1?", *TASK.inputs) > 1 - 1e-4
    assert mass(0, 0, "sum2?", *(name for name in BATCH.answer if name.startswith("new"))) > 1 - 1e-4
    for head in range(4):  # Everything else rests where no bit stands.
        assert mass(1, head, "newB?", "A,") > 1 - 1e-4


@mechanisms
def test_neurons_are_shut_but_at_the_position_of_their_field(mechanism: str) -> None:
    with torch.inference_mode():
        _, cache = build(mechanism).run_with_cache(BATCH.tokens)
    late = TASK.field("newD").predict
    early = {field.predict for field in TASK.fields} - {late}
    for layer, names in ((0, early), (1, {late})):
        active = (cache["post", layer] > 1e-4).sum(-1)
        assert active.any(0).nonzero().flatten().tolist() == sorted(AT[name] for name in names)
        assert active.max() == 1  # One row of one truth table.


def test_models_differ_in_layer_1_alone() -> None:
    states = [build(mechanism).state_dict() for mechanism in PLANTED_MECHANISMS]
    differ = {name for name in states[0] if any(not torch.equal(states[0][name], s[name]) for s in states[1:])}
    assert differ == {f"blocks.1.{name}" for name in ("attn.W_Q", "attn.W_V", "mlp.W_out")}
    by_name = dict(zip(PLANTED_MECHANISMS, states, strict=True))
    assert torch.equal(by_name["via-token"]["blocks.1.mlp.W_out"], by_name["latent"]["blocks.1.mlp.W_out"])
    for name in ("attn.W_Q", "attn.W_V"):
        for head in (0, 2, 3):
            values = [s[f"blocks.1.{name}"][head] for s in states]
            assert all(torch.equal(values[0], value) for value in values[1:])


@mechanisms
def test_seed_turns_the_basis_and_nothing_else(mechanism: str) -> None:
    before = torch.get_rng_state()
    first, second = planted_boolean(TASK, mechanism, 0), planted_boolean(TASK, mechanism, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(logits(first, BATCH), logits(second, BATCH), rtol=0, atol=1e-3)
    # No coordinate is privileged: none holds a feature by itself, as one-hot coordinates would.
    for model in (first, second):
        token = model.W_E.detach()
        assert token.norm(dim=-1).allclose(torch.ones(len(TASK.vocabulary)), atol=1e-5)
        assert token.abs().max() < 0.7
    assert (first.W_E - second.W_E).norm(dim=-1).min() > 0.5


def test_layer_norm_is_real_and_nearly_constant() -> None:
    model = build("latent")
    norms = [model.ln_final, *(norm for block in model.blocks for norm in (block.ln1, block.ln2))]
    assert all(type(norm) is LayerNorm for norm in norms)
    with torch.inference_mode():
        _, cache = model.run_with_cache(BATCH.tokens)
    scales = torch.cat([value.flatten() for name, value in cache.items() if name.endswith("hook_scale")])
    assert scales.max() / scales.min() < 1.06
    for layer in range(2):
        assert cache["resid_post", layer].mean(-1).abs().max() < 1e-5


def test_unknown_mechanism_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="via-token, direct, latent"):
        planted_boolean(TASK, "by-magic")


@pytest.mark.parametrize(
    ("equations", "message"),
    [
        ({"newA": "B", "newB": "not D", "newC": "B and E", "newD": "A or newB"}, "newA is not a function of A, C"),
        ({"newA": "A ^ C", "newB": "not D"}, "lacks"),
        ({"newA": "A ^ C", "newB": "D or not D", "newC": "B and E", "newD": "A or newB"}, "only 2 values of A, newB"),
    ],
)
def test_task_that_the_wiring_does_not_fit_is_refused(equations: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planted_boolean(BooleanTask(equations), "via-token")


def test_truth_tables_come_from_the_task() -> None:
    task = BooleanTask({"newA": "A and C", "newB": "not D", "newC": "B ^ E", "newD": "A ^ newB"})
    batch = task.batch(task.enumerate())
    for mechanism in PLANTED_MECHANISMS:
        values = logits(planted_boolean(task, mechanism), batch)
        for field in task.fields:
            assert torch.equal(answers(values, field.name), batch.answer[field.name])
