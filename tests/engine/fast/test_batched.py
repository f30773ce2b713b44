"""Edits together against edits one by one through TransformerLens hooks."""

import dataclasses
import itertools
import sys
import weakref
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_lens import HookedTransformer, HookedTransformerConfig

from interp_kit.core.batch import TokenBatch
from interp_kit.engine import sweep as sweeping
from interp_kit.engine.apply import Engine
from interp_kit.engine.decode import decode
from interp_kit.engine.edits import Add, Copy, Edit, Mean, Resample, Scale, Set, Zero
from interp_kit.engine.fast import batched as suffix_run
from interp_kit.engine.fast import matmul as products
from interp_kit.engine.fast import plan as suffixes
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.plan import Suffix
from interp_kit.engine.fast.ragged import Windows
from interp_kit.engine.metrics import KL, Probability, log_probability
from interp_kit.engine.references import References
from interp_kit.engine.sites import ACTIVATIONS, has_heads
from interp_kit.engine.sweep import editing, sweep

ROWS, LENGTH, VOCABULARY = 3, 7, 11


def network(
    seed: int, *, d_head: int, layers: int, attn_only: bool, final_norm: bool, act: str, d_model: int = 8
) -> HookedTransformer:
    cfg = HookedTransformerConfig(
        n_layers=layers, d_model=d_model, n_ctx=LENGTH, d_head=d_head, n_heads=2, d_vocab=VOCABULARY, d_mlp=12,
        act_fn=act, attn_only=attn_only, normalization_type="LN", seed=seed, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(cfg)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g) * 0.3)
    if not final_norm:
        model.ln_final = torch.nn.Identity()
        model.setup()
    return model.eval()


def ragged(seed: int) -> TokenBatch:
    """Rows of unequal length with a position that stands elsewhere in each row."""
    g = np.random.default_rng(seed)
    lengths = np.array([LENGTH, LENGTH - 2, LENGTH - 1])
    mask = torch.as_tensor(np.arange(LENGTH) < lengths[:, None])
    tokens = torch.as_tensor(g.integers(0, VOCABULARY, (ROWS, LENGTH))) * mask
    prompt = torch.as_tensor([3, 2, 4])
    everywhere = {f"t{i}": torch.where(mask[:, i], i, -1) for i in range(LENGTH)}
    # the same names whatever the row, where every row has them
    positions = {**everywhere, "end": torch.as_tensor(lengths - 1), "query": prompt - 1}
    return TokenBatch(
        tokens=tokens, mask=mask, prompt_length=prompt, positions=positions, labels={},
        fields=(), answer={"answer": tokens[:, 1]},
        inputs=(), numeric=(), task="random", vocabulary=tuple(map(str, range(VOCABULARY))),
    )  # fmt: skip


@st.composite
def edits(draw: st.DrawFn, layers: int, attn_only: bool, d_head: int, other: TokenBatch) -> Edit:
    sites = [s for s in ACTIVATIONS if not (attn_only and s in ("mlp_out", "mlp_post", "resid_mid"))]
    site = draw(st.sampled_from(sites))
    layer = draw(st.integers(0, layers - 1)) if "{layer}" in ACTIVATIONS[site][0] else None
    head = draw(st.sampled_from([None, 0, 1])) if has_heads(site) else None
    position = draw(st.sampled_from([None, 0, 2, 4, 6, "query", "end", "t1"]))
    width = d_head if has_heads(site) else 12 if site == "mlp_post" else 8
    neuron = draw(st.sampled_from([None, None, 1]))
    shape = () if neuron is not None else (width,)
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    rows_only = torch.randn(ROWS, *((1,) if head is None and has_heads(site) else ()), *shape, generator=g)
    if position is None:
        rows_only = torch.randn(ROWS, LENGTH, *((1,) if head is None and has_heads(site) else ()), *shape, generator=g)
    vector = torch.randn(shape, generator=g)
    source = draw(
        st.sampled_from(
            [Zero(), Scale(-0.5), Add(vector, 2.0), Add(rows_only), Set(rows_only), Set(vector), Copy(other)]
        )
    )
    if position is None and draw(st.booleans()):
        source = Mean()
    if isinstance(position, str) and draw(st.booleans()):
        source = draw(st.sampled_from([Mean(), Resample(3)]))
    return Edit(site, layer, source, head=head, position=position, neuron=neuron)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_edits_give_what_hooks_give(data: st.DataObject) -> None:
    layers, d_head = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([3, 4]))
    attn_only = data.draw(st.booleans())
    model = network(
        data.draw(st.integers(0, 5)), d_head=d_head, layers=layers, attn_only=attn_only,
        final_norm=data.draw(st.booleans()), act=data.draw(st.sampled_from(["relu", "gelu_new"])),
    )  # fmt: skip
    batch = ragged(1)
    shared = torch.tensor([[data.draw(st.sampled_from([0, 1, 3, LENGTH]))] for _ in range(ROWS)])
    alike = torch.arange(LENGTH) < shared
    other = dataclasses.replace(batch, tokens=batch.tokens.where(alike, (batch.tokens * 3 + 1) % VOCABULARY))
    one = edits(layers, attn_only, d_head, other)
    groups = data.draw(st.lists(st.lists(one, min_size=1, max_size=3), min_size=1, max_size=6))
    places = [batch.positions[data.draw(st.sampled_from(["query", "end", "t1"]))] for _ in range(2)]
    each = [KL("answer", at=places[0]), Probability("answer", at=places[1]), log_probability()]
    metrics = data.draw(st.permutations(each))
    with pytest.MonkeyPatch.context() as patched:  # how much goes through a layer at once changes nothing
        patched.setattr(suffix_run, "TILE", data.draw(st.sampled_from([1, 40, suffix_run.TILE])))
        patched.setattr(products, "BLOCKS", data.draw(st.sampled_from([(5, 2), products.BLOCKS])))
        found = sweep(model, batch, groups, metrics, memory=data.draw(st.sampled_from([1, 30_000, 2**29])))
    assert found.by_hooks == 0, found.why
    with torch.inference_mode():
        engine = Engine(model, batch)
        for i, group in enumerate(groups):
            logits = engine.run(tuple(group))
            for j, metric in enumerate(metrics):
                expected = metric(logits, batch, engine.logits)
                assert found.values[i, j] == pytest.approx(expected.numpy(), abs=1e-4, rel=1e-4), (group, metric.name)


@pytest.mark.parametrize("site", ["z", "resid_pre", "k", "mlp_post"])
def test_many_groups_by_blocks_of_products(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    act, d_model = "gelu_new", products.WIDE
    model = network(0, d_head=4, layers=3, attn_only=False, final_norm=True, act=act, d_model=d_model)
    batch, rows = ragged(1), []
    other = dataclasses.replace(batch, tokens=(batch.tokens * 3 + 1) % VOCABULARY)
    head, neuron = (1, None) if site in "zk" else (None, 3 if site == "mlp_post" else None)
    groups = [
        [Edit(site, layer, Copy(other), head=head, neuron=neuron, position=position)]
        for layer in (0, 1)
        for position in (None, 0, 1, 2, "query", "end")
    ] * 7
    monkeypatch.setattr(suffix_run, "TILE", 300)  # tiles of attention, of which the last is smaller
    by = products.Products.__call__
    monkeypatch.setattr(
        products.Products, "__call__", lambda *a, **k: (rows.append(a[1].shape[:-1].numel()), by(*a, **k))[1]
    )
    found = sweep(model, batch, groups, log_probability())
    assert found.by_hooks == 0
    assert set(products.BLOCKS) <= set(rows), "products of every size of block are among them"
    with torch.inference_mode():
        engine = Engine(model, batch)
        expected = [log_probability()(engine.run(tuple(group)), batch).numpy() for group in groups[:12]]
    assert found.values[:, 0] == pytest.approx(np.concatenate([np.stack(expected)] * 7), abs=1e-4)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [512, 512, 128, 128, 120]), ("meta", [1400])])
def test_blocks_and_tiles_are_for_the_processor_alone(device: str, sizes: list[int]) -> None:
    assert [len(rows) for rows in products.blocks(torch.empty(2, 700, 4, device=device))] == sizes
    run = object.__new__(suffix_run._Run)
    run.windows = Windows([0, 0, 0, 0, 20, 25, 0, *[48] * 20], 50, torch.arange(10))  # 500 tokens at first
    run.s = Mock(batch=range(10), end=50)
    run.s.x.embed = torch.empty(0, 4, device=device)
    tiles = [range(0, 2), range(2, 4), range(4, 6), range(6, 8), range(8, 27)]  # the last two: not all padding
    assert list(run._tiles(27)) == (tiles if device == "cpu" else [range(0, 12), range(12, 27)])
    assert list(run._tiles(0)) == []


def test_what_two_texts_share_is_run_only_where_it_undoes_another_edit() -> None:
    model, batch = network(0, d_head=4, layers=2, attn_only=False, final_norm=True, act="relu"), ragged(1)
    batch = dataclasses.replace(batch, positions={**batch.positions, "apart": torch.tensor([LENGTH - 1, 0, 0])})
    tokens = batch.tokens.clone()
    tokens[0, 4:], tokens[1, 3:], tokens[2, 5:] = 1 - tokens[0, 4:].clamp(max=1), 5, 6
    other = dataclasses.replace(batch, tokens=tokens)
    suffix = Suffix(Executor(model), batch, batch.positions["end"][:, None], References(model, batch).new_value)
    add = Edit("resid_pre", 0, Add(torch.arange(8.0)), position=1)
    groups = [
        [Edit("resid_pre", 0, Copy(other), position=2)],
        [Edit("resid_pre", 0, Copy(other), position=3)],
        [Edit("resid_pre", 0, Copy(other))],
        [add, Edit("resid_pre", 1, Copy(other), position=2)],
        [add, Edit("resid_pre", 1, Copy(other), position=0)],
        [Edit("z", 0, Copy(batch))],
        [Edit("resid_pre", 0, Copy(other), position="apart")],
    ]
    assert suffix.entries(map(tuple, groups)).start.tolist() == [-1, 3, 3, 1, 1, -1, LENGTH - 1]
    kept = [len(plan.edits) if (plan := suffix.plan(tuple(group))) else 0 for group in groups]
    assert kept == [0, 1, 1, 2, 1, 0, 1]
    found = sweep(model, batch, groups, log_probability()).values[:, 0]
    with torch.inference_mode():
        expected = [log_probability()(Engine(model, batch).run(tuple(group)), batch).numpy() for group in groups]
    assert found == pytest.approx(np.stack(expected), abs=1e-5)
    alone = sweep(model, batch, [add], log_probability()).values[0, 0]
    assert np.abs(found[3] - alone).max() > 1e-3, "the second edit undoes part of the first"


def test_one_head_and_all_heads_of_a_layer_in_one_group() -> None:
    model, batch = network(0, d_head=3, layers=2, attn_only=False, final_norm=True, act="relu"), ragged(1)
    for layer in (0, 1):
        every, one = (
            Edit("z", layer, Scale(-0.5), position="query"),
            Edit("z", layer, Scale(3.0), head=1, position="t1"),
        )
        groups = [[every, one], [one, every], [every], [one]]
        found = sweep(model, batch, groups, log_probability()).values[:, 0]
        with torch.inference_mode():
            expected = [log_probability()(Engine(model, batch).run(tuple(group)), batch).numpy() for group in groups]
        assert found == pytest.approx(np.stack(expected), abs=1e-5)
        assert np.abs(found[0] - found[2:]).max(1).min() > 1e-3


@pytest.mark.parametrize("layer", [0, 1])
def test_any_two_sites_of_a_layer_in_one_group(layer: int) -> None:
    model, batch = network(0, d_head=3, layers=2, attn_only=False, final_norm=True, act="relu"), ragged(1)
    sites = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
    groups = [
        (Edit(one, layer, Scale(-0.5), position="query"), Edit(two, layer, Scale(3.0), position=at))
        for one, two in itertools.product(sites, repeat=2)
        for at in ("query", "t1")
    ]
    found = sweep(model, batch, groups, log_probability())
    assert found.by_hooks == 0
    with torch.inference_mode():
        expected = [log_probability()(Engine(model, batch).run(group), batch).numpy() for group in groups]
    assert found.values[:, 0] == pytest.approx(np.stack(expected), abs=1e-5)
    first = sweep(model, batch, [group[:1] for group in groups], log_probability()).values[:, 0]
    assert (np.abs(found.values[:, 0] - first).max(1) > 1e-4).mean() > 0.8, "most second edits do something"


@pytest.mark.parametrize("memory", [1, 50_000, 400_000, 2**29])
def test_chunks_run_every_group_once_and_keep_to_the_memory(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffixes, "CHUNK", 2000)
    model, batch = network(0, d_head=4, layers=2, attn_only=False, final_norm=True, act="relu"), ragged(1)
    groups = [(Edit("z", i % 2, Zero(), position=(0, 3, 5)[i % 3]),) for i in range(300)]
    suffix = Suffix(Executor(model), batch, batch.positions["end"][:, None], References(model, batch).new_value)
    entries = suffix.entries(groups)
    chunks = list(suffix.chunks(entries, memory))
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(groups)))
    for chunk in chunks:
        windows = suffix.end - entries.start[chunk]  # what each group carries
        assert len(chunk) == 1 or sum(len(batch) * suffix._bytes(int(window)) for window in windows) <= memory
        assert len(batch) * windows.sum() <= 2000
    for chunk, behind in itertools.pairwise(chunks):  # and no chunk has room for one more
        windows = suffix.end - entries.start[[*chunk, behind[0]]]
        taken = sum(len(batch) * suffix._bytes(int(window)) for window in windows) + 4 * suffix.end**2
        assert len(batch) * windows.sum() > 2000 or taken > memory * suffixes.FILLED
    if memory > 1:
        assert max(map(len, chunks)) > 1


class Living(TorchDispatchMode):
    """The most bytes that tensors made meanwhile hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self._hold(storage.data_ptr(), storage.nbytes(), value)
        return out

    def _hold(self, key: int, size: int, value: torch.Tensor) -> None:
        if key not in self.holders:
            self.now += size
            self.most = max(self.most, self.now)
        self.holders[key] = self.holders.get(key, 0) + 1
        weakref.finalize(value, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.now -= size


@pytest.mark.slow
@pytest.mark.parametrize(("site", "read", "first"), [("z", 1, 0), ("resid_pre", 60, 0), ("mlp_post", 60, 63)])
def test_chunks_take_no_more_than_the_memory(site: str, read: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    length, rows, g = 64, 2, torch.Generator().manual_seed(0)
    monkeypatch.setattr(sys.modules[__name__], "LENGTH", length)
    model = network(0, d_head=32, layers=2, attn_only=False, final_norm=True, act="relu", d_model=32)
    texts = torch.randint(0, VOCABULARY, (2, rows, length), generator=g)
    batch, other = (
        dataclasses.replace(
            ragged(1).take([0, 0]), tokens=text, mask=torch.ones(rows, length, dtype=torch.bool),
            positions={}, prompt_length=torch.ones(rows, dtype=torch.long),
        )
        for text in texts
    )  # fmt: skip
    reads = torch.arange(length - read, length).expand(rows, -1)
    with torch.inference_mode():
        engine = Engine(model, batch)
        suffix = Suffix(Executor(model), batch, reads, engine.references.new_value)
        groups = [(Edit(site, i % 2, Copy(other), position=max(first, i % length)),) for i in range(400)]
        engine.references.harvest(groups)
        entries = suffix.entries(groups)
        for memory in (2**20, 2**22, 2**24):
            peaks = []
            for chunk in suffix.chunks(entries, memory):
                with Living() as living:
                    suffix_run.logits_under(suffix, [groups[i] for i in chunk])
                peaks.append(living.most)
                assert len(chunk) == 1 or living.most <= memory
            assert max(peaks) > memory / 20


def test_text_behind_the_batch_is_not_edited() -> None:
    model, g = network(0, d_head=4, layers=2, attn_only=False, final_norm=True, act="relu"), torch.Generator()
    whole, short = ragged(1), 4
    texts = torch.randint(0, VOCABULARY, (2, ROWS, LENGTH), generator=g.manual_seed(0))
    batch, other = (
        dataclasses.replace(
            whole, tokens=text[:, :short], mask=torch.ones(ROWS, short, dtype=torch.bool),
            positions={f"t{i}": torch.full((ROWS,), i) for i in range(short)},
        )
        for text in texts
    )  # fmt: skip
    each = torch.randn(ROWS, short, 8, generator=g)
    groups: list[list[Edit]] = [
        [Edit("resid_pre", 1, Add(each))],
        [Edit("resid_post", 0, Set(each)), Edit("mlp_out", 1, Scale(-3.0))],
        [Edit("attn_out", 1, Copy(other)), Edit("z", 0, Mean())],
        [Edit("resid_mid", 1, Copy(other), position="t3")],
    ]
    free = torch.arange(LENGTH) >= 2  # pieces begin within the batch, and behind it
    plain = decode(model, texts[0], free, batch_size=None)
    for group in groups:
        with editing(model, batch, group) as edited:
            expected = decode(edited, texts[0], free, cached=False, batch_size=None)
        with torch.inference_mode():
            change = Engine(model, batch).change(tuple(group))
        found = decode(model, texts[0], free, edit=change, batch_size=None)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.log_prob, expected.log_prob, atol=1e-4, rtol=1e-4, equal_nan=True)
        assert not torch.allclose(found.log_prob, plain.log_prob, equal_nan=True)


def test_a_text_that_is_not_finite_behind_what_is_read_is_said() -> None:
    model, batch = network(0, d_head=4, layers=2, attn_only=False, final_norm=True, act="relu"), ragged(1)
    batch.tokens[batch.tokens == VOCABULARY - 1] = 0
    batch.tokens[1, 3] = VOCABULARY - 1
    at = torch.tensor([LENGTH - 1, 1, 1])
    sweep(model, batch, [], Probability("answer", at=at))
    with torch.no_grad():
        model.embed.W_E[VOCABULARY - 1] = torch.nan
    with pytest.raises(FloatingPointError, match="nan or infinite"):
        sweep(model, batch, [], Probability("answer", at=at))


def test_a_model_that_is_not_computed_goes_by_hooks() -> None:
    model = network(0, d_head=4, layers=2, attn_only=False, final_norm=True, act="relu")
    model.blocks[0].mlp.act_fn = torch.tanh  # what the config does not say
    batch = ragged(1)
    found = sweep(model, batch, [Edit("z", 1, head=0)], log_probability())
    assert found.by_hooks == 1
    assert "differ" in found.why
    with torch.inference_mode():
        expected = log_probability()(Engine(model, batch).run((Edit("z", 1, head=0),)), batch)
    assert found.values[0, 0] == pytest.approx(expected.numpy(), abs=1e-6)


def test_a_model_without_blocks_goes_by_hooks() -> None:
    model = network(0, d_head=4, layers=0, attn_only=False, final_norm=True, act="relu")
    batch, edits = ragged(1), [Edit("embed", None, Scale(-2.0), position="t1"), Edit("pos_embed", None, Zero())]
    other = dataclasses.replace(batch, tokens=(batch.tokens * 3 + 1) % VOCABULARY)
    found = sweep(model, batch, edits, log_probability(), other=other)
    assert (found.by_hooks, found.why) == (2, "the model has no blocks")
    with torch.inference_mode():
        expected = [log_probability()(Engine(model, batch).run((edit,)), batch).numpy() for edit in edits]
    assert found.values[:, 0] == pytest.approx(np.stack(expected), abs=1e-6)
    assert np.abs(found.values[0] - found.baseline).max() > 1e-3


def test_weights_go_by_hooks_and_the_rest_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = network(0, d_head=4, layers=2, attn_only=False, final_norm=True, act="relu"), ragged(1)
    group = [Edit("W_O", 0, head=1), Edit("z", 1, head=0)]
    found = sweep(model, batch, [group[0], group[1], group], log_probability())
    assert found.by_hooks == 2
    monkeypatch.setattr(sweeping, "Executor", lambda *_, **__: (_ for _ in ()).throw(sweeping.Unsupported("no")))
    slow = sweep(model, batch, [group[0], group[1], group], log_probability())
    assert (slow.by_hooks, slow.why) == (3, "no")
    assert found.values == pytest.approx(slow.values, abs=1e-5)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_decoding_under_edits_is_running_the_whole_text_under_hooks(data: st.DataObject) -> None:
    layers, attn_only = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    model = network(
        data.draw(st.integers(0, 5)), d_head=3, layers=layers, attn_only=attn_only, final_norm=True, act="relu"
    )
    batch = ragged(1)
    other = dataclasses.replace(batch, tokens=(batch.tokens * 3 + 1) % VOCABULARY)
    group = data.draw(st.lists(edits(layers, attn_only, 3, other), min_size=1, max_size=3))
    holes = torch.as_tensor(data.draw(st.lists(st.booleans(), min_size=LENGTH - 1, max_size=LENGTH - 1)))
    free = (torch.arange(LENGTH) >= batch.prompt_length[:, None]) | torch.cat([torch.tensor([False]), holes])
    options = {"lengths": batch.mask.sum(1), "batch_size": None}
    with editing(model, batch, group) as edited:
        expected = decode(edited, batch.tokens, free, cached=False, **options)
    with torch.inference_mode():
        change = Engine(model, batch).change(tuple(group))
    found = decode(model, batch.tokens, free, edit=change, **options)
    torch.testing.assert_close(found.log_prob, expected.log_prob, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert torch.equal(found.tokens, expected.tokens)
