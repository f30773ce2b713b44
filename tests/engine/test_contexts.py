"""Every analysis gives the same numbers in whatever torch context it is called."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp_kit as ik
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Edit
from interp_kit.engine.fast import matmul as products

TARGET = "newD"


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """The default dtype of torch as float64, which belongs to the process."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    products._multiplies.cache_clear()  # it is asked once a process
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": float64,
}


def _sweep(model: Any, task: AbstractTask) -> list[Any]:
    pairs = task.pairs("newB", TARGET, limit=8)
    edits = [Edit("resid_pre", 1, ik.Mean()), Edit("W_V", 0, ik.Scale(0.3)), Edit("z", 1, ik.Resample(1), head=1)]
    return [ik.sweep(model, pairs.clean, edits, [ik.logit_difference(pairs), ik.kl(pairs)]).values]


def _patch(model: Any, task: AbstractTask) -> list[Any]:
    pairs = task.pairs("newB", TARGET, limit=2)
    return [
        ik.patch(model, pairs, positions=["D", "newB"]).values,
        ik.patch_senders(model, pairs, senders=["D"]).values,
    ]


def _ablate(model: Any, task: AbstractTask) -> list[Any]:
    return [ik.ablate(model, task.batch(task.enumerate()[:8])).effect]


def _probe(model: Any, task: AbstractTask) -> list[Any]:
    batch = task.batch(task.enumerate())
    found = ik.probe(model, batch, "newB", positions=["newB?"], folds=4, repeats=1, control_repeats=0)
    return [found.score, found.untrained]


def _interchange(model: Any, task: AbstractTask) -> list[Any]:
    found = ik.interchange(model, task, "newB", TARGET, positions=["newB"], limit=16)
    return [found.accuracy, found.kept]


def _das(model: Any, task: AbstractTask) -> list[Any]:
    found = ik.das(model, task, "newB", TARGET, layer=0, position=["newB"], seeds=(0,), steps=3, limit=16)
    return [found.held_out, found.random, np.abs(found.basis)]


def _exact(model: Any, task: AbstractTask) -> list[Any]:
    return [ik.score_edges(model, task.pairs("newB", TARGET, limit=4), method="exact").score]


def _gradients(model: Any, task: AbstractTask) -> list[Any]:
    pairs = task.pairs("newB", TARGET, limit=4)
    return [
        ik.score_edges(model, pairs, method="eap").score,
        ik.score_edges(model, pairs, method="eap-ig", steps=2, metric=ik.kl, by="position").score,
        ik.direct_logit_attribution(model, pairs).values,
    ]


def _circuits(model: Any, task: AbstractTask) -> list[Any]:
    pairs = task.pairs("newB", TARGET, limit=2)
    circuit = ik.score_edges(model, pairs, method="eap")
    results = [
        ik.faithfulness(model, pairs, circuit, sizes=[5], controls=1, ablation=ablation).values
        for ablation in ("counterfactual", "mean", "resample")
    ]
    return [*results, ik.path_patch(model, pairs, list(circuit.edges[:3])).values, ik.logit_lens(model, pairs).values]


def _decode(model: Any, task: AbstractTask) -> list[Any]:
    batch = task.batch(task.enumerate()[:8])
    free = torch.arange(batch.tokens.shape[1]) >= batch.prompt_length[:, None]
    found = ik.decode(model, batch.tokens, free, temperature=1.5, seed=3)
    under = ik.generate_under(model, batch, {"less": Edit("z", 0, ik.Zero(), head=0)})
    return [found.tokens, found.log_prob, under.tokens, under.edited_logits]


def _sae(model: Any, task: AbstractTask) -> list[Any]:
    config = ik.SAEConfig(architecture="topk", width=6, k=2, training_samples=512, batch_size=64)
    found = ik.train_sae(model, task, site="mlp_out.1", config=config, progress=False)
    return [found.frequency, found.weights["W_dec"], found.ce_sae["held_out"].value]


ANALYSES = (
    _sweep, _patch, _ablate, _probe, _interchange, _das, _exact, _gradients, _circuits, _decode, _sae,
)  # fmt: skip
WIDE = {"d_model": 64, "n_heads": 2, "d_head": 8, "d_mlp": 64}  # as wide as oneDNN wants it


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model(3, **WIDE)


@pytest.fixture(scope="module")
def plainly(model: Any, task: AbstractTask) -> Callable[[Callable], list[np.ndarray]]:
    """plainly(analysis): its numbers outside of any context, computed once."""
    known: dict[Callable, list[np.ndarray]] = {}

    def numbers(analysis: Callable) -> list[np.ndarray]:
        if analysis not in known:
            known[analysis] = [np.asarray(x) for x in analysis(model, task)]
        return known[analysis]

    return numbers


@pytest.mark.filterwarnings("ignore:.*latents.*:UserWarning")
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda f: f.__name__[1:])
def test_numbers_are_those_of_no_context(
    analysis: Callable, context: Callable, model: Any, task: AbstractTask, plainly: Callable
) -> None:
    expected = plainly(analysis)
    with context():
        found = [np.asarray(x) for x in analysis(model, task)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1.0, float(np.nanmax(np.abs(theirs)))), rtol=0)


@pytest.mark.parametrize("make", ["model", "batch"])
def test_what_is_made_in_inference_mode_can_be_studied_by_gradients(
    tiny_model: Callable[..., Any], task: AbstractTask, make: str
) -> None:
    with torch.inference_mode(make == "model"):
        model = tiny_model(0)
    with torch.inference_mode(make == "batch"):
        pairs = task.pairs("newB", TARGET, limit=4).take([0, 2, 3])
    expected = ik.score_edges(tiny_model(0), task.pairs("newB", TARGET, limit=4).take([0, 2, 3]), method="eap")
    np.testing.assert_allclose(ik.score_edges(model, pairs, method="eap").score, expected.score, atol=1e-6)
    with ik.editing(model, pairs.clean, Edit("W_V", 0, ik.Zero())):
        assert not model.blocks[0].attn.W_V.any()
    assert model.blocks[0].attn.W_V.all()


def test_weights_of_inference_mode_are_named_where_a_gradient_is_to_pass_them(
    tiny_model: Callable[..., Any], task: AbstractTask
) -> None:
    model, before = tiny_model(0), tiny_model(0).state_dict()
    with torch.inference_mode():
        for name, weight in list(model.named_parameters()):
            owner = model.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(weight.clone(), requires_grad=False))
    with pytest.raises(ValueError, match=r"made under torch\.inference_mode"):
        ik.das(model, task, "newB", TARGET, steps=1)
    batch = task.batch(task.enumerate()[:4])
    with ik.editing(model, batch, [Edit("W_V", 0, ik.Scale(0.1)), Edit("W_V", 0, ik.Add(0.3))]):
        assert not torch.equal(model.blocks[0].attn.W_V, before["blocks.0.attn.W_V"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


ROW = [0.25 * i - 1 for i in range(16)]
NUMBERS: dict[str, Any] = {
    "list": ROW,
    "tuple": tuple(ROW),
    "float64 array": np.array(ROW),
    "float16 array": np.array(ROW, dtype=np.float16),
    "strided array": np.array(ROW)[::-1][::-1],
    "float64 tensor": torch.tensor(ROW, dtype=torch.float64),
    "bfloat16 tensor": torch.tensor(ROW, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("given", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("source", [ik.Set, ik.Add])
def test_numbers_of_edits_may_come_as_they_are(
    tiny_model: Callable[..., Any], task: AbstractTask, source: Any, given: Any
) -> None:
    model, pairs = tiny_model(0), task.pairs("newB", TARGET, limit=4)
    edits = [Edit("resid_pre", 1, source(x), position="newB") for x in (given, torch.tensor(ROW))]
    edits += [Edit("b_O", 0, source(x)) for x in (given, torch.tensor(ROW))]
    found = ik.sweep(model, pairs.clean, edits, ik.logit_difference(pairs)).values
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert not np.allclose(found[0], found[2])


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("loud", TypeError, "Set takes a tensor, an array or a list of real numbers, not a str"),
        ([1.0, [2.0]], TypeError, "Set takes a tensor, an array or a list of real numbers, not a list"),
        (None, TypeError, "not a NoneType"),
        ([1j], TypeError, "complex"),
        (torch.empty(3, device="meta"), TypeError, "meta"),
        (torch.zeros(3, 3).to_sparse(), TypeError, "sparse"),
        ([1.0, float("nan")], ValueError, "1 of 2 numbers are nan"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_real_number_is_refused_when_the_edit_is_written(given: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        ik.Set(given)


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(5, 16), torch.zeros(1, 1, 1, 16)], ids=str)
@pytest.mark.parametrize("site", ["resid_pre", "b_O"])
def test_numbers_that_do_not_fit_are_refused_before_anything_runs(
    tiny_model: Callable[..., Any], task: AbstractTask, value: Tensor, site: str
) -> None:
    batch, position = task.batch(task.enumerate()[:4]), None if site == "b_O" else "newB"
    with pytest.raises(ValueError, match=r"numbers of shape .* do not fit the edited slice"):
        ik.sweep(tiny_model(0), batch, [Edit(site, 0, ik.Add(value), position=position)], ik.kl(TARGET))


def test_kl_of_bfloat16_logits_is_not_negative(task: AbstractTask) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = task.pairs("newB", TARGET, limit=8)
    before = torch.randn(len(pairs), 1, 15, generator=generator) * 3
    after = before + 0.01 * torch.randn(before.shape, generator=generator)
    half, clean = (x.to(torch.bfloat16) for x in (after, before))
    found = ik.kl(pairs).measure(half, pairs.clean, clean)
    assert found.dtype == torch.float32
    assert float(found.min()) > -1e-6
    torch.testing.assert_close(found, ik.kl(pairs).measure(half.float(), pairs.clean, clean.float()))
