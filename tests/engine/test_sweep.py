"""The intervention engine: every edit against the same thing done by hand to the weights, to single tensor entries, or
in plain torch; ragged batches against their rows; nothing left behind."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.apply import Engine
from interp_kit.engine.decode import complete
from interp_kit.engine.edits import Add, Copy, CopyAttended, Edit, Mean, Resample, Scale, Set, Source, Zero
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.metrics import Metric, accuracy, kl, logit_difference, probability
from interp_kit.engine.sites import ACTIVATIONS, hook_name
from interp_kit.engine.sweep import editing, sweep
from interp_kit.engine.weight_edits import edited_weights
from interp_kit.tasks.boolean import BooleanTask

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "layernorm": {},
    "no layernorm": {"normalization_type": None, "n_layers": 3},
    "narrow heads": {"n_heads": 3, "d_head": 5},
    "attention only": {"attn_only": True, "d_mlp": None, "act_fn": None, "n_heads": 4, "d_head": 4},
    "parallel": {"parallel_attn_mlp": True, "d_head": 12},
}
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
MakeModel = Callable[..., HookedTransformer]
Logits = Float[Tensor, "batch pos vocab"]
FIELDS = ("newA", "newD", "sum2")


def metrics(*fields: str) -> list[Metric]:
    return [logit_difference(field) for field in fields or FIELDS]


@torch.inference_mode()
def edited(model: HookedTransformer, batch: TokenBatch, *edits: Edit) -> Logits:
    """All logits under a group of edits."""
    return Engine(model, batch).run(edits)


@torch.inference_mode()
def hooked(model: HookedTransformer, batch: TokenBatch, *hooks: tuple[str, Callable]) -> Logits:
    return model.run_with_hooks(batch.tokens, fwd_hooks=list(hooks))


@torch.inference_mode()
def run(model: HookedTransformer, batch: TokenBatch) -> Logits:
    return model(batch.tokens)


def close(found: Tensor | np.ndarray, expected: Tensor | np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance`, relative to the largest value where that is above 1."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


def entry_by_entry(change: Callable[[Tensor], Tensor], at: Tensor | None, head: int | None, neuron: int | None):
    """A hook that changes one row and position after another: `change` is told the entries of one token."""

    def hook(activation: Tensor, hook: HookPoint) -> Tensor:
        activation = activation.clone()
        for row in range(len(activation)):
            for pos in range(activation.shape[1]) if at is None else [int(at[row])]:
                token = activation[row, pos]
                part = token if head is None else token[head]
                if neuron is None:
                    part[...] = change(part.clone())
                else:
                    part[..., neuron] = change(part[..., neuron].clone())
        return activation

    return hook


# ---------------------------------------------------------------------------------------------------------- ablation


@architectures
def test_head_without_z_is_a_head_without_W_O(tiny_model: MakeModel, batch: TokenBatch, architecture: str) -> None:
    config = ARCHITECTURES[architecture]
    model = tiny_model(1, **config)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            by_hand = tiny_model(1, **config)
            by_hand.blocks[layer].attn.W_O[head] = 0.0
            expected = run(by_hand, batch)
            close(edited(model, batch, Edit("z", layer, head=head)), expected)
            close(edited(model, batch, Edit("W_O", layer, head=head)), expected, 0)
            assert (expected - run(model, batch)).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "attention only"])
def test_mlp_out_zero_is_an_mlp_without_output_weights(
    tiny_model: MakeModel, batch: TokenBatch, architecture: str
) -> None:
    model = tiny_model(2, **ARCHITECTURES[architecture])
    by_hand = tiny_model(2, **ARCHITECTURES[architecture])
    by_hand.blocks[1].mlp.W_out.zero_()
    by_hand.blocks[1].mlp.b_out.zero_()
    expected = run(by_hand, batch)
    close(edited(model, batch, Edit("mlp_out", 1)), expected)
    close(edited(model, batch, Edit("W_out", 1), Edit("b_out", 1)), expected, 0)
    assert (expected - run(model, batch)).abs().max() > 1e-2


@pytest.mark.parametrize("config", [{}, {"parallel_attn_mlp": True}])
def test_no_token_is_padding_whatever_tokenizer_there_is(
    tiny_model: MakeModel, batch: TokenBatch, pads_with_0: SimpleNamespace, config: dict[str, Any]
) -> None:
    model = tiny_model(**config)
    edits = [
        Edit("W_O", 0, Zero(), head=1),
        Edit("z", 1, Mean(), head=0),
        Edit("z", 0, CopyAttended(batch, ("A",)), position="newA?"),
    ]
    expected = sweep(model, batch, edits, metrics())
    model.tokenizer = pads_with_0
    found = sweep(model, batch, edits, metrics())
    close(found.baseline, expected.baseline, 1e-4)
    close(found.values, expected.values, 1e-4)


def test_neuron_without_activation_is_a_neuron_without_output(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model, by_hand = tiny_model(3), tiny_model(3)
    by_hand.blocks[0].mlp.W_out[7] = 0.0
    close(edited(model, batch, Edit("mlp_post", 0, neuron=7)), run(by_hand, batch))
    incoming = tiny_model(3)
    incoming.blocks[0].mlp.W_in[:, 7] = 0.0
    close(edited(model, batch, Edit("W_in", 0, neuron=7)), run(incoming, batch), 0)


@pytest.mark.parametrize("position", ["newB?", None, 4])
def test_mean_is_the_mean_over_the_rows(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable, position: str | int | None
) -> None:
    model = tiny_model(0)
    rows = batch.take([0, 3, 9, 10, 31])
    others = batch.take([1, 2, 4])
    for over in (None, others):
        source = rows if over is None else over
        mean = torch.stack([activation(model, source.take([i]), "mlp_out", 1)[0] for i in range(len(source))]).mean(0)
        # every text of this task has the same layout, so the mean at a name is the mean at its index
        at = None if position is None else rows.position(position) if isinstance(position, str) else None
        where = slice(None) if position is None else int(at[0]) if at is not None else position

        def put(activation: Tensor, hook: HookPoint, mean: Tensor = mean, where: Any = where) -> Tensor:
            activation[:, where] = mean[where]
            return activation

        expected = hooked(model, rows, (hook_name("mlp_out", 1), put))
        close(edited(model, rows, Edit("mlp_out", 1, Mean(over), position=position)), expected)
        assert (expected - run(model, rows)).abs().max() > 1e-2


@pytest.mark.parametrize("position", ["newB", None])
def test_resampling_is_a_permutation_without_fixed_points(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable, position: str | None
) -> None:
    model = tiny_model(0)
    before = activation(model, batch, "resid_mid", 1)
    at = slice(None) if position is None else int(batch.position(position)[0])

    def donors(seed: int) -> list[int]:
        edit = Edit("resid_mid", 1, Resample(seed), position=position)
        after = activation(model, batch, "resid_mid", 1, (edit,))
        same = (after[:, None, at] == before[None, :, at]).flatten(2).all(-1)
        assert (same.sum(-1) == 1).all()
        return same.int().argmax(-1).tolist()

    chosen = [donors(seed) for seed in range(6)]
    for order in chosen:
        assert sorted(order) == list(range(32))
        assert all(donor != row for row, donor in enumerate(order))
    assert donors(3) == chosen[3]
    assert len({tuple(order) for order in chosen}) == 6


def test_heads_resampled_together_come_from_the_same_row(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable
) -> None:
    model = tiny_model(0)
    group = tuple(Edit("z", 1, Resample(4), head=head) for head in range(2))
    close(activation(model, batch, "z", 1, group), activation(model, batch, "z", 1, (Edit("z", 1, Resample(4)),)), 0)


def test_resampling_over_another_batch_takes_its_rows(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable
) -> None:
    model = tiny_model(0)
    rows, over = batch.take(range(8)), batch.take([20, 25, 30])
    edit = Edit("resid_post", 0, Resample(0, over))
    after, there = activation(model, rows, "resid_post", 0, (edit,)), activation(model, over, "resid_post", 0)
    same = (after[:, None] == there[None]).flatten(2).all(-1)
    assert (same.sum(-1) == 1).all()
    assert same.any(0).sum() > 1  # More than one donor.


def test_what_edits_of_one_site_refer_to_is_kept_apart(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model, rows = tiny_model(0), batch.take(range(0, 32, 4))
    overs = [None, batch.take([1, 2, 5]), batch.take([30, 11, 7])]
    sources: list[Source] = [
        *(Mean(over) for over in overs),
        *(Resample(seed, over) for seed in (0, 1) for over in overs),
        *(Copy(batch.take(range(i, 32, 4))) for i in (1, 3)),
    ]
    edits = [Edit("resid_mid", 1, source, position=at) for source in sources for at in (None, "newD?")]
    together = sweep(model, rows, edits, metrics()).values
    for edit, values in zip(edits, together, strict=True):
        close(values, sweep(model, rows, [edit], metrics()).values[0], 1e-4)
    assert len(np.unique(together.round(3), axis=0)) == len(edits)


# --------------------------------------------------------------------------------------------- values, entry by entry


SITES = [(site, None if "{layer}" not in hook else 1) for site, (hook, _) in ACTIVATIONS.items()]


@pytest.mark.parametrize(("site", "layer"), SITES, ids=[site for site, _ in SITES])
@pytest.mark.parametrize("position", [None, "newC?", 11])
def test_sources_do_to_each_entry_what_they_say(
    tiny_model: MakeModel,
    batch: TokenBatch,
    activation: Callable,
    site: str,
    layer: int | None,
    position: str | int | None,
) -> None:
    model, rows = tiny_model(5), batch.take([2, 7, 21])
    before = activation(model, rows, site, layer)
    before = before.expand(3, *before.shape[1:])
    at = rows.position(position) if isinstance(position, str) else None if position is None else torch.full((3,), 11)
    width = before.shape[-1]
    vector = torch.linspace(-1, 2, width)
    changes: list[tuple[Source, Callable[[Tensor], Tensor]]] = [
        (Zero(), torch.zeros_like),
        (Scale(-2.5), lambda old: -2.5 * old),
        (Add(vector, 3.0), lambda old: old + 3.0 * vector),
        (Set(vector), lambda old: vector.expand_as(old)),
    ]
    for source, change in changes:
        expected = hooked(model, rows, (hook_name(site, layer), entry_by_entry(change, at, None, None)))
        close(edited(model, rows, Edit(site, layer, source, position=position)), expected)
        if isinstance(source, Scale):
            assert (expected - run(model, rows)).abs().max() > 1e-3
    neuron = entry_by_entry(lambda old: old + 4.0, at, None, 3)
    found = edited(model, rows, Edit(site, layer, Add(torch.tensor(4.0)), position=position, neuron=3))
    close(found, hooked(model, rows, (hook_name(site, layer), neuron)))
    if "head" in ACTIVATIONS[site][1]:
        head = entry_by_entry(lambda old: old * 3.0, at, 1, None)
        found = edited(model, rows, Edit(site, layer, Scale(3.0), position=position, head=1))
        close(found, hooked(model, rows, (hook_name(site, layer), head)))
        both = entry_by_entry(lambda old: old - 1.0, at, 1, 2)
        source = Add(torch.tensor(1.0), -1.0)
        found = edited(model, rows, Edit(site, layer, source, position=position, head=1, neuron=2))
        close(found, hooked(model, rows, (hook_name(site, layer), both)))


def test_set_takes_a_value_a_row(tiny_model: MakeModel, batch: TokenBatch, activation: Callable) -> None:
    model, rows = tiny_model(0), batch.take([1, 2, 3, 4])
    value = torch.arange(4 * 16).reshape(4, 16).float()
    after = activation(model, rows, "resid_pre", 1, (Edit("resid_pre", 1, Set(value), position="newA"),))
    close(after[:, int(rows.position("newA")[0])], value, 0)
    whole = torch.randn(4, 23, 16, generator=torch.Generator().manual_seed(0))
    close(activation(model, rows, "resid_pre", 1, (Edit("resid_pre", 1, Set(whole)),)), whole, 0)


def test_copy_takes_the_activation_of_the_other_batch_at_that_slice_only(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable
) -> None:
    model, rows, other = tiny_model(0), batch.take([1, 2, 3]), batch.take([30, 11, 7])
    edit = Edit("z", 1, Copy(other), head=1, position="newD?")
    after = activation(model, rows, "z", 1, (edit,))
    expected = activation(model, rows, "z", 1).clone()
    at = int(rows.position("newD?")[0])
    expected[:, at, 1] = activation(model, other, "z", 1)[:, at, 1]
    close(after, expected, 0)


# ----------------------------------------------------------------------------------------------------------- weights


WEIGHT_EDITS = [("W_Q", 1, True), ("b_V", 0, True), ("b_O", 1, False), ("W_in", 0, False), ("b_in", 1, False)]
WEIGHT_EDITS += [("W_E", None, False), ("W_pos", None, False), ("W_U", None, False), ("b_U", None, False)]


@pytest.mark.parametrize(("site", "layer", "heads"), WEIGHT_EDITS, ids=[site for site, _, _ in WEIGHT_EDITS])
def test_weight_edits_are_edits_of_a_copy(
    tiny_model: MakeModel, batch: TokenBatch, site: str, layer: int | None, heads: bool
) -> None:
    model = tiny_model(6)
    owner = {"W_E": "embed", "W_pos": "pos_embed", "W_U": "unembed", "b_U": "unembed"}

    def parameter(of: HookedTransformer) -> Tensor:
        part = getattr(of, owner[site]) if layer is None else of.blocks[layer]
        part = part if layer is None else part.mlp if site.endswith("in") else part.attn
        return getattr(part, site).data

    generator = torch.Generator().manual_seed(0)
    shape = parameter(model).shape
    mask = torch.rand(shape, generator=generator) < 0.4
    noise = torch.randn(shape, generator=generator)

    cases: list[tuple[Edit, Callable[[Tensor], object]]] = [
        (Edit(site, layer, Scale(-1.0), mask=mask), lambda w: w[mask].neg_() is w.masked_scatter_(mask, -w[mask])),
        (Edit(site, layer, Set(noise), mask=mask), lambda w: w.masked_scatter_(mask, noise[mask])),
        (Edit(site, layer, Add(noise, 0.5)), lambda w: w.add_(0.5 * noise)),
        (Edit(site, layer, Zero(), neuron=2), lambda w: w[..., 2].zero_()),
    ]
    if heads:
        cases.append((Edit(site, layer, Scale(3.0), head=1), lambda w: w[1].mul_(3.0)))
        cases.append((Edit(site, layer, Set(noise[1]), head=1), lambda w: w[1].copy_(noise[1])))
        cases.append((Edit(site, layer, Zero(), head=0, mask=mask), lambda w: w[0].masked_fill_(mask[0], 0.0)))
    for edit, by_hand in cases:
        changed = tiny_model(6)
        by_hand(parameter(changed))
        expected = run(changed, batch)
        close(edited(model, batch, edit), expected, 0)
        assert (expected - run(model, batch)).abs().max() > 1e-4


class Stop(Exception):
    """What a body raises that the engine knows nothing of."""


def state(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def untouched(model: HookedTransformer, before: dict[str, Tensor]) -> bool:
    """Weights bit for bit as they were, and no hook left at any hook point."""
    weights = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return weights and not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())


def test_weights_and_hooks_are_put_back_after_an_exception(
    tiny_model: MakeModel, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(0)
    before = state(model)
    # 0.1 is not representable: scaling there and back would not restore it
    group = [Edit("W_E", None, Scale(0.1)), Edit("W_Q", 0, Scale(0.1), head=1), Edit("W_Q", 0, Add(torch.tensor(0.3)))]

    def fail_within(edits: list[Edit]) -> None:
        with edited_weights(model, edits):
            assert not untouched(model, before)
            raise Stop

    with pytest.raises(Stop):
        fail_within(group)
    assert untouched(model, before)

    def fail_editing() -> None:
        with editing(model, batch, [*group, Edit("resid_mid", 0, Scale(0.1))]):
            assert not untouched(model, before)
            raise Stop

    with pytest.raises(Stop):
        fail_editing()
    assert untouched(model, before)
    # an error inside a hook, behind weights that are edited already
    misfit = Edit("resid_mid", 0, Set(torch.ones(3, 3, 3)))
    with pytest.raises(ValueError, match=r"numbers of shape \(3, 3, 3\) do not fit the edited slice \(32, 23, 16\)"):
        sweep(model, batch, [[*group, misfit]], metrics())
    monkeypatch.setattr(Source, "check_shape", lambda source, shape: None)
    with pytest.raises(RuntimeError, match="expand"):
        sweep(model, batch, [[*group, misfit]], metrics())
    assert untouched(model, before)
    # an edit that fails half-way through a group, when the first weight has been changed
    with pytest.raises(RuntimeError), edited_weights(model, [*group, Edit("b_U", None, Set(torch.ones(3, 3, 3)))]):
        pytest.fail("the body must not run")
    assert untouched(model, before)
    original = model.run_with_hooks
    monkeypatch.setattr(model, "run_with_hooks", lambda *a, **k: (original(*a, **k), fail_within([])))
    with pytest.raises(Stop):
        sweep(model, batch, [group], metrics())
    monkeypatch.undo()
    assert untouched(model, before)


def test_a_sweep_leaves_the_model_as_it_was(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0)
    before, logits = state(model), run(model, batch)
    edits = [Edit("W_U", None, Scale(0.1)), Edit("z", 0, Mean()), [Edit("W_in", 0), Edit("resid_pre", 1, Resample())]]
    sweep(model, batch, edits, metrics())
    with editing(model, batch, edits[2]):
        run(model, batch)
    assert untouched(model, before)
    close(run(model, batch), logits, 0)


# ------------------------------------------------------------------------------------------------------------ groups


def test_a_group_is_applied_together_and_in_order(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0)
    vector = torch.linspace(0, 1, 16)
    at = int(batch.position("newB?")[0])

    def first(activation: Tensor, hook: HookPoint) -> Tensor:
        activation = activation.clone()
        activation[:, at] = activation[:, at] * 2 + vector
        return activation

    by_hand = tiny_model(0)
    by_hand.W_U.mul_(-0.5)
    by_hand.blocks[1].attn.W_O[0] = 0
    expected = hooked(by_hand, batch, (hook_name("resid_post", 0), first))
    group = [
        Edit("resid_post", 0, Scale(2.0), position="newB?"),
        Edit("W_U", None, Scale(-0.5)),
        Edit("resid_post", 0, Add(vector), position="newB?"),
        Edit("z", 1, Zero(), head=0),
    ]
    close(edited(model, batch, *group), expected)
    swapped = edited(model, batch, group[2], group[1], group[0], group[3])
    assert (swapped - expected).abs().max() > 1e-3


def test_what_is_copied_or_averaged_comes_from_the_unedited_model(tiny_model: MakeModel, batch: TokenBatch) -> None:
    """Whatever else stands in the group or ran before: the cache of one group must not serve another."""
    model = tiny_model(0)
    other = batch.take(list(reversed(range(32))))
    for source in (Mean(), Copy(other), Resample(1)):
        plain = Edit("resid_post", 0, source, position="newD?")
        weights = Edit("W_in", 0, Scale(-3.0))
        alone = sweep(model, batch, [plain], metrics()).values[0]
        after = sweep(model, batch, [[weights, plain], plain], metrics()).values
        close(after[1], alone, 0)
        with editing(model, batch, [weights, plain]), torch.inference_mode():
            together = torch.stack([metric(model(batch.tokens), batch) for metric in metrics()])
        close(after[0], together, 1e-6)
        assert np.abs(after[0] - after[1]).max() > 1e-3


@given(data=st.data())
@settings(max_examples=15)
def test_many_edits_at_once_are_the_same_edits_alone(
    tiny_model: MakeModel, batch: TokenBatch, data: st.DataObject
) -> None:
    rows = batch.take(range(0, 32, 5))
    model = tiny_model(data.draw(st.integers(0, 3)))
    sources = st.sampled_from([Zero(), Mean(), Resample(1), Scale(-1.0), Copy(rows.take([3, 0, 1, 2, 6, 5, 4]))])
    positions = st.sampled_from([None, *rows.positions])
    activations = st.builds(
        Edit, st.sampled_from(["resid_pre", "z", "mlp_out", "k"]), st.integers(0, 1), sources, position=positions
    )
    weights = st.builds(Edit, st.sampled_from(["W_O", "b_O", "W_out"]), st.integers(0, 1), st.just(Scale(0.1)))
    groups = data.draw(st.lists(st.lists(activations | weights, min_size=1, max_size=3), min_size=2, max_size=4))
    together = sweep(model, rows, groups, metrics())
    assert together.values.shape == (len(groups), 3, 7)
    for group, values in zip(groups, together.values, strict=True):
        alone = sweep(model, rows, [group], metrics())
        close(values, alone.values[0], 1e-4)
        close(together.baseline, alone.baseline, 0)


# ------------------------------------------------------------------------------------------- path patching by sender


def attended_by_hand(
    model: HookedTransformer,
    batch: TokenBatch,
    other: TokenBatch,
    layers: list[int],
    receiver: str,
    senders: list[str],
    heads: list[int],
) -> Logits:
    """Attention of one receiver written out row by row: keys and values of the senders from the other batch."""
    at = int(batch.position(receiver)[0])
    sent = [int(batch.position(name)[0]) for name in senders]
    hooks: list[tuple[str, Callable]] = []
    with torch.inference_mode():
        _, there = model.run_with_cache(other.tokens)
        for layer in layers:
            with model.hooks(hooks):
                _, here = model.run_with_cache(batch.tokens)
            z = here["z", layer][:, at].clone()
            for row in range(len(batch)):
                for head in heads:
                    keys, values = here["k", layer][row, :, head].clone(), here["v", layer][row, :, head].clone()
                    for sender in sent:
                        keys[sender] = there["k", layer][row, sender, head]
                        values[sender] = there["v", layer][row, sender, head]
                    query = here["q", layer][row, at, head]
                    weights = (keys[: at + 1] @ query / math.sqrt(model.cfg.d_head)).softmax(0)
                    z[row, head] = weights @ values[: at + 1]

            def write(activation: Tensor, hook: HookPoint, z: Tensor = z) -> Tensor:
                activation[:, at] = z
                return activation

            hooks.append((hook_name("z", layer), write))
        return model.run_with_hooks(batch.tokens, fwd_hooks=hooks)


@architectures
@pytest.mark.parametrize("senders", [("D",), ("newB",), ("newB?", "A"), ("newD?",)], ids="+".join)
def test_senders_are_read_as_written_out_by_hand(
    tiny_model: MakeModel, batch: TokenBatch, architecture: str, senders: tuple[str, ...]
) -> None:
    model = tiny_model(7, **ARCHITECTURES[architecture])
    clean, corrupt = batch.take([0, 5, 9]), batch.take([31, 6, 20])
    receiver, every = "newD?", range(model.cfg.n_heads)
    for layers, heads in ((list(range(model.cfg.n_layers)), None), ([1], None), ([0], 1)):
        group = [Edit("z", la, CopyAttended(clean, senders), head=heads, position=receiver) for la in layers]
        expected = attended_by_hand(
            model, corrupt, clean, layers, receiver, list(senders), list(every) if heads is None else [heads]
        )
        found = edited(model, corrupt, *group)
        close(found, expected)
        at, unedited = int(batch.position(receiver)[0]), run(model, corrupt)
        close(found[:, :at], unedited[:, :at], 0)
        if layers[-1] == model.cfg.n_layers - 1 == layers[0]:  # No later layer reads the receiver.
            close(found[:, at + 1 :], unedited[:, at + 1 :], 0)
        if senders != ("newD?",) or layers != [0]:  # The receiver's own token is the same in both runs.
            assert (found[:, at] - unedited[:, at]).abs().max() > 1e-4


@architectures
def test_all_senders_together_are_the_other_run(tiny_model: MakeModel, batch: TokenBatch, architecture: str) -> None:
    model = tiny_model(8, **ARCHITECTURES[architecture])
    into, other = batch.take([0, 5, 9, 1]), batch.take([31, 6, 20, 2])
    receiver = "newD?"  # A comma in every text.
    names = list(batch.positions)
    at = names.index(receiver)
    assert torch.equal(into.tokens[:, at], other.tokens[:, at])
    for senders in (names[:at], names[: at + 1]):
        group = [
            Edit("z", la, CopyAttended(other, tuple(senders)), position=receiver) for la in range(model.cfg.n_layers)
        ]
        found = edited(model, into, *group)
        close(found[:, at], run(model, other)[:, at])
        close(found[:, :at], run(model, into)[:, :at], 0)
        assert (found[:, at] - run(model, into)[:, at]).abs().max() > 1e-2


def test_senders_from_the_same_run_change_nothing(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(8)
    group = [Edit("z", la, CopyAttended(batch, ("A", "newB")), position="newD?") for la in range(2)]
    close(edited(model, batch, *group), run(model, batch), 1e-6)


def test_a_sender_named_twice_counts_once(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model, other = tiny_model(8), batch.take(list(reversed(range(32))))
    once = Edit("z", 1, CopyAttended(other, ("D",)), position="newD?")
    twice = Edit("z", 1, CopyAttended(other, ("D", "D")), position="newD?")
    close(edited(model, batch, twice), edited(model, batch, once), 0)


def test_sender_behind_the_receiver_is_an_error(tiny_model: MakeModel, batch: TokenBatch) -> None:
    edit = Edit("z", 0, CopyAttended(batch, ("D", "newD")), position="newD?")
    with pytest.raises(ValueError, match="a sender stands after the receiver 'newD\\?'"):
        sweep(tiny_model(0), batch, [edit], metrics())


# ------------------------------------------------------------------------------------------------------ ragged batches


@pytest.fixture(scope="module")
def ragged_model(tiny_model: MakeModel) -> HookedTransformer:
    return tiny_model(9, d_vocab=5, n_ctx=8)


def alone(parity: Any, row: int) -> TokenBatch:
    return parity.batch([parity.enumerate()[row]])


def test_a_ragged_batch_gives_the_numbers_of_its_rows(parity: Any, ragged_model: HookedTransformer) -> None:
    examples = parity.enumerate()
    batch = parity.batch(examples)
    assert len({len(example.tokens) for example in examples}) > 1
    flipped = [
        parity.example(tuple(1 - bit for bit in example.tokens[: example.labels["bits"]])) for example in examples
    ]
    generator = torch.Generator().manual_seed(0)
    vector, heads = torch.randn(16, generator=generator), torch.randn(2, 8, generator=generator)
    each = torch.randn(len(batch), 16, generator=generator)

    def edits(other: TokenBatch, each: Tensor) -> list[Edit]:
        return [
            *(Edit(site, layer) for site in ("resid_mid", "attn_out", "k") for layer in (0, 1)),
            *(Edit("resid_pre", 1, Zero(), position=p) for p in ("bit0", "parity?")),
            Edit("resid_post", 0, Set(vector), position="parity?"),
            Edit("resid_post", 0, Set(each), position="parity?"),
            Edit("mlp_out", 1, Add(vector, 2.0)),
            Edit("mlp_out", 0, Add(vector, 2.0), position="bit0"),
            Edit("v", 1, Set(heads)),
            Edit("z", 1, Scale(-1.0), head=1),
            Edit("mlp_post", 0, Scale(-1.0), neuron=3, position="parity?"),
            Edit("resid_pre", 1, Copy(other), position="parity?"),
            Edit("z", 0, Copy(other), head=0),
            Edit("embed", None, Copy(other)),
            Edit("W_in", 1, Scale(0.5)),
            Edit("pos_embed", None, Zero()),
        ]

    wanted = [logit_difference("parity"), probability("parity"), kl("parity"), accuracy("parity")]
    found = sweep(ragged_model, batch, edits(parity.batch(flipped), each), wanted)
    for row in range(len(batch)):
        single = edits(parity.batch([flipped[row]]), each[row : row + 1])
        expected = sweep(ragged_model, alone(parity, row), single, wanted)
        close(found.values[:, :, row], expected.values[:, :, 0])
        close(found.baseline[:, row], expected.baseline[:, 0])
    assert np.abs(found.values[:, 0] - found.baseline[0]).max(-1).min() > 1e-4  # Every edit does something.


def test_ragged_senders_give_the_numbers_of_the_rows(parity: Any, ragged_model: HookedTransformer) -> None:
    examples = parity.enumerate()
    flipped = [
        parity.example(tuple(1 - bit for bit in example.tokens[: example.labels["bits"]])) for example in examples
    ]

    def group(other: TokenBatch) -> list[Edit]:
        return [Edit("z", la, CopyAttended(other, ("bit0",)), position="parity?") for la in range(2)]

    metric = logit_difference("parity")
    found = sweep(ragged_model, parity.batch(examples), [group(parity.batch(flipped))], metric)
    for row in range(len(examples)):
        expected = sweep(ragged_model, alone(parity, row), [group(parity.batch([flipped[row]]))], metric)
        close(found.values[0, 0, row], expected.values[0, 0, 0])
    assert np.abs(found.values[0] - found.baseline).min() > 1e-5


def test_ragged_mean_goes_by_name(parity: Any, ragged_model: HookedTransformer, activation: Callable) -> None:
    examples = parity.enumerate()
    batch = parity.batch(examples)
    single = [activation(ragged_model, alone(parity, row), "resid_mid", 1)[0] for row in range(len(batch))]
    mean = {
        name: torch.stack([single[i][e.positions[name]] for i, e in enumerate(examples) if name in e.positions]).mean(0)
        for name in batch.positions
    }
    everywhere = activation(ragged_model, batch, "resid_mid", 1, (Edit("resid_mid", 1, Mean()),))
    here = activation(ragged_model, batch, "resid_mid", 1, (Edit("resid_mid", 1, Mean(), position="parity?"),))
    for row, example in enumerate(examples):
        for name, index in example.positions.items():
            close(everywhere[row, index], mean[name])
            close(here[row, index], mean[name] if name == "parity?" else single[row][index])


def test_ragged_mean_at_a_position_needs_only_that_position(parity: Any, ragged_model: HookedTransformer) -> None:
    long, short = (parity.batch([e for e in parity.enumerate() if e.labels["bits"] == n]) for n in (3, 1))
    metric = logit_difference("parity")
    sweep(ragged_model, long, [Edit("z", 0, Mean(short), position="parity?")], metric)
    everything = parity.batch(parity.enumerate())
    without = everything.take([i for i, e in enumerate(parity.enumerate()) if e.labels["bits"] == 1])
    for over in (short, without):  # The name may be absent, or there with no row that has it.
        with pytest.raises(ValueError, match="the reference batch has no position 'bit1'"):
            sweep(ragged_model, long, [Edit("z", 0, Mean(over))], metric)
        with pytest.raises(ValueError, match="has no position 'bit1'"):
            sweep(ragged_model, long, [Edit("z", 0, Mean(over), position="bit1")], metric)
        with pytest.raises(ValueError, match="has no position 'bit1'"):
            sweep(ragged_model, long, [Edit("z", 0, Resample(0, over))], metric)


def test_ragged_resampling_goes_by_name(parity: Any, ragged_model: HookedTransformer, activation: Callable) -> None:
    examples = parity.enumerate()
    batch = parity.batch(examples)
    single = [activation(ragged_model, alone(parity, row), "resid_mid", 1)[0] for row in range(len(batch))]

    def same(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() < 1e-5)

    crossed = 0
    for seed in range(3):
        # at one name, every row that has it can give
        edit = Edit("resid_mid", 1, Resample(seed), position="parity?")
        after = activation(ragged_model, batch, "resid_mid", 1, (edit,))
        donors = []
        for row, example in enumerate(examples):
            at = example.positions["parity?"]
            found = [i for i, e in enumerate(examples) if same(after[row, at], single[i][e.positions["parity?"]])]
            assert len(found) == 1
            donors += found
            crossed += len(examples[found[0]].tokens) != len(example.tokens)
            for index in range(len(example.tokens)):
                assert index == at or same(after[row, index], single[row][index])
        assert sorted(donors) == list(range(len(batch)))
        assert all(donor != row for row, donor in enumerate(donors))
        # at all positions, a row that has the same names
        after = activation(ragged_model, batch, "resid_mid", 1, (Edit("resid_mid", 1, Resample(seed)),))
        for row, example in enumerate(examples):
            length = len(example.tokens)
            others = [i for i, e in enumerate(examples) if set(e.positions) == set(example.positions) and i != row]
            assert sum(same(after[row, :length], single[i][:length]) for i in others) == 1
    assert crossed > 3


def test_ragged_donors_of_another_batch_have_every_name(
    parity: Any, ragged_model: HookedTransformer, activation: Callable
) -> None:
    over = parity.batch(parity.enumerate())  # rows of one, two and three bits
    rows = over.take([i for i, e in enumerate(parity.enumerate()) if e.labels["bits"] == 2])
    there = activation(ragged_model, over, "resid_mid", 1)
    donors = set()
    for seed in range(4):
        after = activation(ragged_model, rows, "resid_mid", 1, (Edit("resid_mid", 1, Resample(seed, over)),))
        away = (after[:, None] - there[None]).abs().amax((2, 3)).min(1)
        assert away.values.max() < 1e-5
        donors |= {int(over.labels["bits"][i]) for i in away.indices}
    assert donors == {2}


def test_a_row_that_no_other_can_stand_in_for_is_an_error(parity: Any, ragged_model: HookedTransformer) -> None:
    batch = parity.batch([parity.example((0, 1, 1)), parity.example((1,)), parity.example((0,))])
    with pytest.raises(ValueError, match=r"row 0 .* no other row .* same positions"):
        sweep(ragged_model, batch, [Edit("z", 0, Resample())], logit_difference("parity"))
    with pytest.raises(ValueError, match="at least two rows"):
        sweep(ragged_model, batch.take([0]), [Edit("z", 0, Resample())], logit_difference("parity"))


# ---------------------------------------------------------------------------------------------------------- decoding


def test_decoding_under_edits_is_decoding_by_hand(tiny_model: MakeModel, task: BooleanTask, batch: TokenBatch) -> None:
    model, other = tiny_model(11), batch.take(list(reversed(range(32))))
    prompt = int(batch.prompt_length[0])
    with torch.inference_mode():
        _, there = model.run_with_cache(other.tokens)
        at = int(batch.position("newB?")[0])

        def swap(activation: Tensor, hook: HookPoint) -> Tensor:
            if activation.shape[1] > at:
                activation[:, at] = there["resid_mid", 1][:, at]
            return activation

        def without(activation: Tensor, hook: HookPoint) -> Tensor:
            activation[:, :, 1] = 0
            return activation

        weights = tiny_model(11)
        weights.W_U.mul_(-1)
        tokens = batch.tokens[:, :prompt]
        while tokens.shape[1] < batch.tokens.shape[1]:
            hooks = [("blocks.1.hook_resid_mid", swap), ("blocks.0.attn.hook_z", without)]
            tokens = torch.cat([tokens, weights.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1:].argmax(-1)], 1)
    plain = complete(model, batch)
    group = [
        Edit("resid_mid", 1, Copy(other), position="newB?"),
        Edit("z", 0, Zero(), head=1),
        Edit("W_U", None, Scale(-1.0)),
    ]
    with editing(model, batch, group):
        found = complete(model, batch)
    assert torch.equal(found, tokens)
    assert (found != plain).any()
    assert torch.equal(complete(model, batch), plain)


def test_ragged_decoding_under_edits_is_decoding_row_by_row(parity: Any, ragged_model: HookedTransformer) -> None:
    batch = parity.batch(parity.enumerate())
    vector = 3 * torch.randn(16, generator=torch.Generator().manual_seed(1))

    def group(of: TokenBatch) -> list[Edit]:
        return [Edit("resid_post", 0, Add(vector), position="parity?"), Edit("z", 1, Scale(-2.0))]

    with editing(ragged_model, batch, group(batch)):
        found = complete(ragged_model, batch)
    for row in range(len(batch)):
        single = alone(parity, row)
        with editing(ragged_model, single, group(single)):
            expected = complete(ragged_model, single)
        assert torch.equal(found[row, : expected.shape[1]], expected[0])
    assert (found != complete(ragged_model, batch)).any()


def test_editing_works_where_gradients_flow(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0)
    model.requires_grad_(True)
    for source in (Mean(), Copy(batch), Resample(), Scale(2.0)):
        with editing(model, batch, [Edit("resid_pre", 1, source, position="D"), Edit("W_U", None, Scale(2.0))]):
            found = model(batch.tokens)
        expected = edited(model, batch, Edit("resid_pre", 1, source, position="D"), Edit("W_U", None, Scale(2.0)))
        close(found.detach(), expected, 1e-6)


# ----------------------------------------------------------------------------------------------------------- metrics


def test_metrics_are_what_they_are_called(tiny_model: MakeModel, task: BooleanTask, batch: TokenBatch) -> None:
    model = tiny_model(12)
    edit = Edit("resid_mid", 0, Scale(-1.0))
    logits, before = edited(model, batch, edit), run(model, batch)
    pairs = task.pairs("newB", "newD")
    for field in task.fields:
        at = int(batch.position(field.predict)[0])
        p, q = before[:, at].softmax(-1), logits[:, at].softmax(-1)
        expected = {"logit_difference": [], "probability": [], "kl": [], "accuracy": []}
        for row, example in enumerate(task.enumerate()):
            right = field.token(example.labels[field.name])
            wrong = [token for token in field.candidates if token != right]
            expected["logit_difference"].append(logits[row, at, right] - logits[row, at, wrong].mean())
            expected["probability"].append(q[row, right])
            expected["accuracy"].append(torch.tensor(float(logits[row, at].argmax() == right)))
            expected["kl"].append((p[row] * (p[row] / q[row]).log()).sum())
        for metric in (logit_difference, probability, kl, accuracy):
            found = sweep(model, batch, [edit], metric(field.name))
            close(found.values[0, 0], torch.stack(expected[metric.__name__]))
        close(sweep(model, batch, [], kl(field.name)).baseline, torch.zeros(1, 32), 1e-6)
    clean = run(model, pairs.clean)[:, int(batch.position("newD?")[0])]
    rows = torch.arange(len(pairs))
    right, wrong = pairs.clean.answer["newD"], pairs.corrupt.answer["newD"]
    found = sweep(model, pairs.clean, [], logit_difference(pairs)).baseline[0]
    close(found, clean[rows, right] - clean[rows, wrong])
    with pytest.raises(ValueError, match="kl needs the logits of the unedited run"):
        kl("newD")(before, batch)


# ------------------------------------------------------------------------------------------------------------ errors


BAD_EDITS = [
    (Edit("resid_pre", 2), "resid_pre layer=2 <- Zero: the model has layers 0 to 1"),
    (Edit("W_Q", 2), "the model has layers 0 to 1"),
    (Edit("z", 0, head=2), "z layer=0 head=2 <- Zero: the model has heads 0 to 1"),
    (Edit("mlp_out", 0, head=0), "'mlp_out' has no heads"),
    (Edit("W_in", 0, head=0), "'W_in' has no heads"),
    (Edit("z", 0, position="newE"), "no position 'newE'; there are A, 'A,', B"),
    (Edit("z", 0, position=23), "the batch has positions 0 to 22"),
    (Edit("W_O", 0, position="A"), "W_O layer=0 position=A <- Zero: a weight has no position"),
    (Edit("W_O", 0, Mean()), "a weight takes Set, Zero, Add or Scale"),
    (Edit("W_O", 0, mask=torch.ones(2, 8, dtype=torch.bool)), r"mask of shape \(2, 8\), weight of \(2, 8, 16\)"),
    (Edit("z", 0, mask=torch.ones(2, 8, dtype=torch.bool)), "mask is for weights"),
    (Edit("mlp_post", 0, neuron=32), "mlp_post layer=0 neuron=32 <- Zero: .* 0 to 31"),
    (Edit("resid_pre", 0, neuron=16), "0 to 15"),
    (Edit("z", 0, neuron=8), "0 to 7"),
    (Edit("W_in", 0, neuron=32), "0 to 31"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_EDITS, ids=[str(edit) for edit, _ in BAD_EDITS])
def test_edits_that_do_not_fit_are_refused_before_anything_runs(
    tiny_model: MakeModel, batch: TokenBatch, edit: Edit, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(0)

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(ValueError, match=message):
        sweep(model, batch, [Edit("z", 0), [Edit("W_U"), edit]], metrics())
    with pytest.raises(ValueError, match=message), editing(model, batch, edit):
        pytest.fail("the body must not run")


def test_sites_that_a_model_lacks_are_refused(tiny_model: MakeModel, batch: TokenBatch) -> None:
    attention_only, parallel = (tiny_model(0, **ARCHITECTURES[name]) for name in ("attention only", "parallel"))
    for model, edit, name in (
        (attention_only, Edit("mlp_out", 0), "blocks.0.hook_mlp_out"),
        (attention_only, Edit("mlp_post", 1), "blocks.1.mlp.hook_post"),
        (attention_only, Edit("W_in", 0), "blocks.0.mlp.W_in"),
        (parallel, Edit("resid_mid", 0), "blocks.0.hook_resid_mid"),
    ):
        with pytest.raises(ValueError, match=f"the model has no .*{name}"):
            sweep(model, batch, [edit], metrics())


def test_one_edit_and_one_metric_are_lists_of_one(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model, edit = tiny_model(0), Edit("z", 1, Zero(), head=0)
    one, listed = sweep(model, batch, edit, accuracy("newA")), sweep(model, batch, [edit], [accuracy("newA")])
    assert one.values.shape == (1, 1, len(batch))
    np.testing.assert_array_equal(one.values, listed.values)


def test_texts_that_the_model_cannot_read_are_refused(tiny_model: MakeModel, batch: TokenBatch) -> None:
    edit, last = Edit("mlp_out", 0, Zero()), int(batch.tokens.max())
    few, short = tiny_model(0, d_vocab=last), tiny_model(0, n_ctx=batch.tokens.shape[1] - 1)
    ids, length = f"token ids from 0 to {last}; the model has 0 to {last - 1}", "texts of 23 tokens do not fit"
    for model, message in ((few, ids), (short, length)):
        with pytest.raises(ValueError, match=message):
            sweep(model, batch, [], accuracy("newA"))
        with pytest.raises(ValueError, match=message), editing(model, batch, edit):
            pass


def test_an_empty_group_is_refused(tiny_model: MakeModel, batch: TokenBatch) -> None:
    with pytest.raises(ValueError, match="an empty group of edits"):
        sweep(tiny_model(0), batch, [Edit("z", 0), []], metrics())


def test_a_model_that_gives_nan_is_refused(tiny_model: MakeModel, batch: TokenBatch) -> None:
    for value in (float("nan"), float("inf")):
        model = tiny_model(0)
        model.b_U[3] = value
        with pytest.raises(FloatingPointError, match="nan or infinite logits"):
            sweep(model, batch, [Edit("z", 0)], metrics())


def test_batches_that_do_not_line_up_are_refused(
    tiny_model: MakeModel, batch: TokenBatch, parity: Any, ragged_model: HookedTransformer
) -> None:
    with pytest.raises(ValueError, match=r"copied from has tokens \(3, 23\), the edited one \(32, 23\)"):
        sweep(tiny_model(0), batch, [Edit("z", 0, Copy(batch.take([0, 1, 2])))], metrics())
    long, short = parity.batch([parity.example((0, 1, 1))]), parity.batch([parity.example((0, 1))])
    assert long.tokens.shape == short.tokens.shape
    ragged = parity.batch([parity.example((0, 1, 1)), parity.example((1,))])
    with pytest.raises(ValueError, match=r"copied from .* rows must be of equal length"):
        sweep(ragged_model, ragged, [Edit("z", 0, Copy(ragged.take([1, 0])))], logit_difference("parity"))
    with pytest.raises(ValueError, match="position 'parity\\?' stands elsewhere in the batch copied from"):
        sweep(ragged_model, long, [Edit("z", 0, Copy(short), position="parity?")], logit_difference("parity"))
    with pytest.raises(ValueError, match='CopyAttended is for site "z" at a named position'):
        sweep(tiny_model(0), batch, [Edit("z", 0, CopyAttended(batch, ("A",)))], metrics())
    with pytest.raises(ValueError, match='CopyAttended is for site "z" at a named position'):
        sweep(tiny_model(0), batch, [Edit("v", 0, CopyAttended(batch, ("A",)), position="newD?")], metrics())
    with pytest.raises(ValueError, match="row 0 of the batch has no position 'bit2'"):
        sweep(
            ragged_model, parity.batch(parity.enumerate()), [Edit("z", 0, position="bit2")], logit_difference("parity")
        )


def test_rotary_positions_are_not_supported_by_sender_patching(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0, positional_embedding_type="rotary", rotary_dim=4)
    with pytest.raises(ValueError, match="rotary"):
        sweep(model, batch, [Edit("z", 0, CopyAttended(batch, ("A",)), position="newD?")], metrics())


def test_copies_are_independent(tiny_model: MakeModel) -> None:
    """The oracle of the weight tests: two models of one seed share numbers, not storage."""
    first, second = tiny_model(0), tiny_model(0)
    second.W_U.zero_()
    assert first.W_U.abs().max() > 0
    assert torch.equal(copy.deepcopy(first).W_E, second.W_E)


@pytest.mark.parametrize("fast", [True, False])
def test_another_batch_is_measured_in_the_run_that_is_copied_from(
    tiny_model: MakeModel, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    model = tiny_model(0) if fast else tiny_model(0, output_logits_soft_cap=30.0)
    other = batch.take(list(range(len(batch)))[::-1])
    expected = sweep(model, other, [], metrics()).baseline
    runs: list[torch.Tensor] = []
    run = Executor.run
    monkeypatch.setattr(
        Executor, "run", lambda self, tokens, *a, **k: (runs.append(tokens), run(self, tokens, *a, **k))[1]
    )
    for edits in ([Edit("mlp_out", 0, Zero())], [Edit("resid_pre", 0, Copy(other))], []):
        runs.clear()
        swept = sweep(model, batch, edits, metrics(), other=other)
        assert swept.other is not None
        np.testing.assert_allclose(swept.other, expected, atol=1e-5)
        assert sum(tokens is other.tokens for tokens in runs) == fast
        assert (swept.by_hooks == len(edits)) != fast or not edits
    assert sweep(model, batch, [], metrics()).other is None
    assert np.abs(expected - swept.baseline).max() > 1e-3


def test_another_batch_that_is_not_finite_is_said(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0)
    token = next(t for t in range(model.cfg.d_vocab) if 0 < (batch.tokens == t).any(1).sum() < len(batch))
    has = (batch.tokens == token).any(1)
    only, rest = batch.take(has.nonzero()[:1, 0]), batch.take((~has).nonzero()[:, 0])
    with torch.no_grad():
        model.embed.W_E[token] = torch.nan
    sweep(model, rest, [], metrics())
    with pytest.raises(FloatingPointError, match="nan or infinite"):
        sweep(model, rest, [], metrics(), other=only)
