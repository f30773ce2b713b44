"""One thread at a time in one model, and what a model is refused for at once."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.core.batch import TokenBatch
from interp_kit.core.pairs import PairBatch
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Edit
from interp_kit.engine.metrics import LogitDifference
from interp_kit.models.hold import held

MakeModel = Callable[..., Any]


@pytest.fixture(scope="module")
def pairs(task: AbstractTask) -> PairBatch:
    return task.pairs("newB", "newD", limit=6)


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """What functions give that begin together, each in a thread of its own."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(begin, work) for work in works]]


def test_sweeps_of_weights_in_two_threads_are_those_of_one(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model, before = tiny_model(0), tiny_model(0).state_dict()
    metric = ik.logit_difference(pairs)
    lists = [[Edit("W_V", layer, ik.Scale(factor)) for factor in np.linspace(-3, 3, 8)] for layer in (0, 1)]

    def work(edits: list[Edit]) -> np.ndarray:
        return ik.sweep(model, pairs.clean, edits, metric).values

    expected = [work(edits) for edits in lists]
    for found in (at_once([lambda e=e: work(e) for e in lists]) for _ in range(2)):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_hooks_of_two_threads_do_not_mix(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model = tiny_model(0)

    def work(some: PairBatch) -> np.ndarray:
        return ik.patch_senders(model, some, senders=["A", "newA", "newB"]).values

    pairs = pairs.take([0, 1])
    sides = [pairs, pairs.swapped()]
    expected = [work(some) for some in sides]
    for found in (at_once([lambda s=s: work(s) for s in sides]) for _ in range(2)):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_while_a_block_is_open_other_threads_are_refused_and_not_kept_waiting(
    tiny_model: MakeModel, pairs: PairBatch
) -> None:
    model, batch = tiny_model(0), pairs.clean
    edit, metric = Edit("W_V", 0, ik.Zero()), ik.logit_difference(pairs)
    with ThreadPoolExecutor(1) as pool:
        with ik.editing(model, batch, edit):
            inside = ik.sweep(model, batch, [], metric).baseline  # the thread of the block goes on
            with pytest.raises(RuntimeError, match=r"in use by thread 'MainThread', inside `with editing"):
                pool.submit(ik.sweep, model, batch, [edit], metric).result(60)
            with pytest.raises(RuntimeError, match="in use by thread"):
                pool.submit(ik.harvest, model, batch, "resid_pre.1").result(60)
            other = pool.submit(ik.sweep, tiny_model(0), batch, [edit], metric).result(60)  # another model is free
        found = pool.submit(ik.sweep, model, batch, [edit], metric).result(60)
    np.testing.assert_allclose(inside, other.values[0], atol=1e-5)
    np.testing.assert_array_equal(found.values, other.values)


def test_a_thread_waits_for_an_analysis(tiny_model: MakeModel) -> None:
    model, order = tiny_model(0), []
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with held(model):
            entered.set()
            leave.wait(30)
            order.append("first")

    def second() -> None:
        entered.wait(30)
        threading.Timer(0.1, leave.set).start()
        with held(model):
            order.append("second")

    at_once([first, second])
    assert order == ["first", "second"]


def test_threads_decode_together(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model, batch, together = tiny_model(0), pairs.clean, threading.Barrier(2)
    free = torch.arange(batch.tokens.shape[1]) >= batch.prompt_length[:, None]
    seen: list[int] = []

    def meet(site: str, layer: int, start: int, value: torch.Tensor) -> None:
        if (site, start) == ("embed", 0):
            seen.append(together.wait(30))

    found = at_once([lambda: ik.decode(model, batch.tokens, free, edit=meet).tokens] * 2)
    assert torch.equal(found[0], ik.decode(model, batch.tokens, free).tokens)
    assert torch.equal(found[0], found[1])
    assert sorted(seen) == [0, 1]


@pytest.mark.parametrize("edits", [("W_V", "W_V"), ("resid_pre", "resid_mid"), ("W_V", "z")], ids=str)
def test_blocks_may_end_in_any_order(tiny_model: MakeModel, pairs: PairBatch, edits: tuple[str, str]) -> None:
    model, batch = tiny_model(0), pairs.clean
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (Edit(site, 0, ik.Scale(factor)) for site, factor in zip(edits, (0.1, 3.0), strict=True))

    def generator(edit: Edit) -> Generator[None, None, None]:
        with ik.editing(model, batch, edit):
            yield

    def logits(*group: Edit) -> torch.Tensor:
        with torch.no_grad(), ik.editing(tiny_model(0), batch, group) as edited:
            return edited(batch.tokens)

    with torch.no_grad():
        one, two = generator(first), generator(second)
        next(one)
        next(two)
        torch.testing.assert_close(model(batch.tokens), logits(first, second))
        one.close()
        torch.testing.assert_close(model(batch.tokens), logits(second))
        two.close()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_compiled_model_is_unwrapped_or_refused_at_once(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model, edit, metric = tiny_model(0), Edit("resid_pre", 1, ik.Zero()), ik.logit_difference(pairs)
    expected = ik.sweep(model, pairs.clean, [edit], metric).values

    def never(graph: object, inputs: object) -> Any:
        raise AssertionError("nothing is to be compiled")

    wrapped: Any = torch.compile(model, backend=never)
    np.testing.assert_array_equal(ik.sweep(wrapped, pairs.clean, [edit], metric).values, expected)
    np.testing.assert_array_equal(
        ik.sweep(model=wrapped, batch=pairs.clean, edits=[edit], metrics=metric).values, expected
    )
    with pytest.raises(ValueError, match=r"give model\._orig_mod"), ik.editing(wrapped, pairs.clean, edit):
        pytest.fail("the body must not run")
    part = tiny_model(0)
    part.blocks[1].compile(backend=never)
    with pytest.raises(ValueError, match=r"blocks\.1 is compiled"):
        ik.sweep(part, pairs.clean, [edit], metric)
    part.blocks[1] = torch.compile(tiny_model(0).blocks[1], backend=never)
    with pytest.raises(ValueError, match=r"blocks\.1 is compiled"):
        ik.harvest(part, pairs.clean, "resid_pre.0")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", ["boolean-gpt2", None, 3, np.zeros(2)], ids=str)
def test_what_is_no_model_is_named(given: Any, pairs: PairBatch) -> None:
    with pytest.raises(TypeError, match=r"expected a HookedTransformer, as interp_kit\.load\(name\) gives"):
        ik.patch(given, pairs)


# models that see what stands after


def test_a_model_that_attends_both_ways_is_studied_only_where_that_is_exact(
    tiny_model: MakeModel, task: AbstractTask, parity: AbstractTask
) -> None:
    model, batch = tiny_model(0, attention_dir="bidirectional"), task.batch(task.enumerate()[:2])
    edit = Edit("resid_pre", 1, ik.Zero(), position="newB")
    metric = ik.logit_difference("newD")
    found = ik.sweep(model, batch, [edit], metric).values[0, 0]
    for row, value in enumerate(found):
        one = batch.take([row])
        with torch.no_grad(), ik.editing(model, one, edit) as edited:
            assert float(metric(edited(one.tokens), one)) == pytest.approx(float(value), abs=1e-5)
    ragged, small = parity.batch(parity.enumerate()), tiny_model(0, attention_dir="bidirectional", d_vocab=5)
    assert not ragged.mask.all()
    for run in (
        lambda: ik.sweep(small, ragged, [Edit("resid_pre", 1)], ik.logit_difference("parity")),
        lambda: ik.ablate(small, ragged),
        lambda: ik.harvest(small, ragged, "resid_pre.1"),
        lambda: ik.editing(small, ragged, Edit("resid_pre", 1)).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"row \d+ of the batch is padded"):
            run()
    one = parity.batch([e for e in parity.enumerate() if len(e.tokens) == 6])
    assert len(ik.harvest(small, one, "resid_pre.1")["resid_pre.1"]) == int(one.mask.sum())
    for run in (
        lambda: ik.complete(model, batch),
        lambda: ik.evaluate(model, task),
        lambda: ik.das(model, task, "newB", "newD"),
        lambda: ik.probe(model, batch, "newB"),
        lambda: ik.decode(model, batch.tokens, torch.arange(batch.tokens.shape[1]) > 3),
    ):
        with pytest.raises(ValueError, match="attention_dir is 'bidirectional'"):
            run()


# sites that a model lacks


LACKING: dict[str, tuple[dict[str, Any], str, str]] = {
    "pos_embed, alibi": ({"positional_embedding_type": "alibi"}, "pos_embed", "positional_embedding_type is 'alibi'"),
    "W_pos, alibi": ({"positional_embedding_type": "alibi"}, "W_pos", "positional_embedding_type is 'alibi'"),
    "pos_embed, rotary": (
        {"positional_embedding_type": "rotary", "rotary_dim": 4}, "pos_embed", "positional_embedding_type is 'rotary'"
    ),
    "W_pos, rotary": (
        {"positional_embedding_type": "rotary", "rotary_dim": 4}, "W_pos", "positional_embedding_type is 'rotary'"
    ),
    "mlp_out, attention only": ({"attn_only": True}, "mlp_out", "the model has no blocks.0.hook_mlp_out"),
    "mlp_post, attention only": ({"attn_only": True}, "mlp_post", "the model has no blocks.0.mlp.hook_post"),
    "resid_mid, attention only": ({"attn_only": True}, "resid_mid", "the model has no blocks.0.hook_resid_mid"),
    "W_in, attention only": ({"attn_only": True}, "W_in", "the model has no parameter blocks.0.mlp.W_in"),
    "resid_mid, parallel": ({"parallel_attn_mlp": True}, "resid_mid", "the model has no blocks.0.hook_resid_mid"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "site", "says"), LACKING.values(), ids=LACKING)
@pytest.mark.parametrize("source", ["zero", "copy"])
def test_a_site_that_a_model_lacks_is_one_line(
    tiny_model: MakeModel, pairs: PairBatch, config: dict[str, Any], site: str, says: str, source: str
) -> None:
    if source == "copy" and site.startswith("W_"):
        return
    model, layer = tiny_model(0, **config), None if site in ("pos_embed", "W_pos") else 0
    edit = Edit(site, layer, ik.Copy(pairs.corrupt) if source == "copy" else ik.Zero())
    with pytest.raises(ValueError, match=says):
        ik.sweep(model, pairs.clean, [edit], ik.logit_difference(pairs))
    with pytest.raises(ValueError, match=says), ik.editing(model, pairs.clean, edit):
        pytest.fail("the body must not run")


@pytest.mark.parametrize(
    ("config", "hook", "says"),
    [
        ({}, "blocks.0.attn.hook_result", "its use_attn_result is False"),
        ({}, "blocks.0.hook_q_input", "its use_split_qkv_input is False"),
        ({}, "blocks.0.hook_attn_in", "its use_attn_in is False"),
        ({}, "blocks.0.hook_mlp_in", "its use_hook_mlp_in is False"),
        ({"attn_only": True}, "blocks.0.hook_mlp_out", "its attn_only is True"),
        ({"positional_embedding_type": "alibi"}, "pos_embed", "its positional_embedding_type is 'alibi'"),
        ({"normalization_type": None}, "ln_final.hook_normalized", "no site 'ln_final.hook_normalized'"),
    ],
)
def test_hooks_that_a_model_never_calls_are_named_with_their_option(
    tiny_model: MakeModel, pairs: PairBatch, config: dict[str, Any], hook: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        ik.harvest(tiny_model(0, **config), pairs.clean, hook)


def test_a_hook_that_is_never_called_is_no_edit_of_nothing(
    tiny_model: MakeModel, pairs: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(0, positional_embedding_type="alibi")
    monkeypatch.setattr("interp_kit.engine.edit_checks._check_positional", lambda model, edit: None)
    with pytest.raises(ValueError, match="the model never calls hook_pos_embed"):
        ik.sweep(model, pairs.clean, [Edit("pos_embed", None, ik.Zero())], ik.logit_difference(pairs))


# metrics that have no gradient, and pairs that do not fit in memory


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
@pytest.mark.parametrize(
    ("metric", "name"),
    [(ik.accuracy, "accuracy of newD"), (lambda pairs: ik.exact_match(), "exact match of completion")],
    ids=["accuracy", "exact match"],
)
def test_steps_are_not_scored_by_gradients(
    tiny_model: MakeModel, pairs: PairBatch, method: Any, metric: Any, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name} is a step, which has none: use logit_difference"):
        ik.score_edges(tiny_model(0), pairs, method=method, metric=metric)


def test_kl_is_flat_at_the_run_itself_and_only_there(tiny_model: MakeModel, pairs: PairBatch) -> None:
    model = tiny_model(0)
    for direction in ("noise", "denoise"):
        with pytest.raises(ValueError, match="kl of newD is least and its gradient zero: use logit_difference"):
            ik.score_edges(model, pairs, method="eap", metric=ik.kl, direction=direction)
    exact = ik.score_edges(model, pairs, method="exact", metric=ik.kl)
    followed = ik.score_edges(model, pairs, metric=ik.kl)
    assert np.abs(exact.score).max() > 1e-3
    assert np.corrcoef(exact.score, followed.score)[0, 1] > 0.5


class Rounded(LogitDifference):
    """A logit difference in tenths: steps, under a name that does not say so."""

    def measure(self, logits: Any, batch: TokenBatch, reference: Any = None) -> torch.Tensor:
        return super().measure(logits, batch, reference).mul(10).round() / 10


def test_a_metric_that_is_found_flat_is_refused(tiny_model: MakeModel, pairs: PairBatch) -> None:
    for method in ("eap", "eap-ig"):
        with pytest.raises(ValueError, match="logit difference of newD is flat where its gradient is taken"):
            ik.score_edges(tiny_model(0), pairs, method=method, metric=lambda p: Rounded(p.target))


@pytest.mark.parametrize(
    ("method", "by"), [("exact", "all"), ("eap", "all"), ("eap-ig", "all"), ("eap-ig", "position")]
)
def test_pairs_split_by_memory_have_the_same_scores(
    tiny_model: MakeModel, pairs: PairBatch, method: Any, by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = pairs.take(range(3))
    options: dict[str, Any] = {"method": method, "by": by} | ({"steps": 2} if method == "eap-ig" else {})
    model = tiny_model(0, n_layers=1)
    whole = ik.score_edges(model, some, **options)
    parts: list[int] = []
    take = TokenBatch.take
    monkeypatch.setattr(TokenBatch, "take", lambda self, rows: parts.append(len(rows)) or take(self, rows))
    split = ik.score_edges(model, some, memory=1, **options)
    assert set(parts) == {1}
    np.testing.assert_allclose(split.score, whole.score, atol=2e-5)
