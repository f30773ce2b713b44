"""Ablation importance against runs edited by hand, and on planted models, whose idle heads are known."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.core.batch import TokenBatch
from interp_kit.engine.metrics import (
    ExactMatch,
    Probability,
    accuracy,
    exact_match,
    kl,
    log_probability,
    logit_difference,
    probability,
)
from interp_kit.models.checkpoints import Provenance
from interp_kit.models.hooked_model import attach
from interp_kit.models.planted import PLANTED_MECHANISMS, planted_boolean
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]
IDLE = ["L0H2", "L0H3", "L1H2", "L1H3"]


def importance(result: AblationResult, field: str | None = None) -> dict[str, float]:
    return dict(zip(result.component, result.importance(field).tolist(), strict=True))


def logit_gap(logits: Tensor, task: BooleanTask, field: str) -> np.ndarray:
    """Right minus mean wrong logit, example by example."""
    known = task.field(field)
    found = []
    for row, example in enumerate(task.enumerate()):
        here, right = logits[row, example.positions[known.predict]], known.token(example.labels[field])
        found.append(here[right] - here[[c for c in known.candidates if c != right]].mean())
    return torch.stack(found).numpy()


# -------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_effect_is_what_the_run_without_the_component_loses(
    tiny_model: MakeModel, task: BooleanTask, batch: TokenBatch, kind: Any
) -> None:
    model = tiny_model(0)
    fields = ["newB", "sum2"]
    result = ablate(model, batch, kind=kind, units=("head", "mlp", "layer"), fields=fields)
    assert result.component == ("L0H0", "L0H1", "L1H0", "L1H1", "L0 MLP", "L1 MLP", "L0", "L1")
    assert result.layer.tolist() == [0, 0, 1, 1, 0, 1, 0, 1]
    assert result.effect.shape == (8, 2, 32)
    parts: dict[str, list[tuple[str, Any]]] = {
        "L0H1": [("blocks.0.attn.hook_z", 1)],
        "L1H0": [("blocks.1.attn.hook_z", 0)],
        "L0 MLP": [("blocks.0.hook_mlp_out", slice(None))],
        "L1": [("blocks.1.attn.hook_z", slice(None)), ("blocks.1.hook_mlp_out", slice(None))],
    }
    with torch.inference_mode():
        before, cache = model.run_with_cache(batch.tokens)
        for name, hooks in parts.items():

            def remove(activation: Tensor, hook: HookPoint, part: Any) -> Tensor:
                activation = activation.clone()
                mean = cache[hook.name].mean(0, keepdim=True)
                activation[:, :, part] = 0 if kind == "zero" else mean[:, :, part].expand_as(activation[:, :, part])
                return activation

            removed = [
                (hook, lambda activation, hook, part=part: remove(activation, hook, part)) for hook, part in hooks
            ]
            logits = model.run_with_hooks(batch.tokens, fwd_hooks=removed)
            for j, field in enumerate(fields):
                expected = logit_gap(before, task, field) - logit_gap(logits, task, field)
                np.testing.assert_allclose(result.effect[result.component.index(name), j], expected, atol=2e-5)
                np.testing.assert_allclose(result.baseline[j], logit_gap(before, task, field), atol=2e-5)
                assert np.abs(expected).max() > 1e-3


def test_resampling_is_averaged_over_draws(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(1)
    options: dict[str, Any] = {"kind": "resample", "fields": ["newD"], "units": ("head",)}
    draws = [ablate(model, batch, resamples=1, seed=seed, **options).effect for seed in (5, 6, 7)]
    together = ablate(model, batch, resamples=3, seed=5, **options)
    np.testing.assert_allclose(together.effect, np.mean(draws, axis=0), atol=1e-6)
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    np.testing.assert_array_equal(together.effect, ablate(model, batch, resamples=3, seed=5, **options).effect)
    assert together.config["resamples"] == 3
    assert ablate(model, batch, kind="mean", fields=["newD"]).config["resamples"] == 1


def test_kl_is_itself_and_never_negative(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(2)
    at = int(batch.position("newA?")[0])
    for kind in ("zero", "resample"):
        result = ablate(model, batch, kind=kind, metric=kl, fields=["newA"], units=("mlp",), resamples=4)
        assert (result.effect > 0).all()
        np.testing.assert_allclose(result.baseline, 0, atol=1e-5)
    zero = ablate(model, batch, kind="zero", metric=kl, fields=["newA"], units=("mlp",))
    with torch.inference_mode():
        before = model(batch.tokens)[:, at].log_softmax(-1)
        hook = ("blocks.1.hook_mlp_out", lambda activation, hook: torch.zeros_like(activation))
        after = model.run_with_hooks(batch.tokens, fwd_hooks=[hook])[:, at].log_softmax(-1)
    np.testing.assert_allclose(zero.effect[1, 0], (before.exp() * (before - after)).sum(-1), atol=1e-5)
    loss = ablate(model, batch, kind="zero", metric=probability, fields=["newA"], units=("mlp",))
    right = batch.answer["newA"]
    rows = torch.arange(32)
    np.testing.assert_allclose(loss.effect[1, 0], before.exp()[rows, right] - after.exp()[rows, right], atol=1e-6)


def test_importance_is_a_mean_over_the_rows_and_fields_asked_for(tiny_model: MakeModel, batch: TokenBatch) -> None:
    result = ablate(tiny_model(3), batch, fields=["newA", "newB"])
    np.testing.assert_allclose(result.importance(), result.effect.mean(axis=(1, 2)))
    np.testing.assert_allclose(result.importance("newB"), result.effect[:, 1].mean(-1))
    np.testing.assert_allclose(result.importance("newA", [3, 30]), result.effect[:, 0, [3, 30]].mean(-1))
    np.testing.assert_allclose(result.importance(rows=range(4)), result.effect[:, :, :4].mean(axis=(1, 2)))
    assert result.n == 32


def test_a_model_without_mlps_has_heads_only(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0, attn_only=True, d_mlp=None, act_fn=None)
    result = ablate(model, batch, kind="zero", units=("head", "mlp", "layer"), fields=["newA"])
    assert result.component == ("L0H0", "L0H1", "L1H0", "L1H1", "L0", "L1")


# ---------------------------------------------------------------------------------------------------------- planted


@pytest.mark.parametrize("mechanism", PLANTED_MECHANISMS)
def test_idle_heads_of_planted_models_do_not_matter(task: BooleanTask, batch: TokenBatch, mechanism: str) -> None:
    model = planted_boolean(task, mechanism, 1)
    for kind in ("zero", "mean", "resample"):
        for metric in (logit_difference, kl):
            result = ablate(model, batch, kind=kind, metric=metric, resamples=2)
            by_name = importance(result)
            assert [by_name[name] for name in IDLE] == pytest.approx([0] * 4, abs=1e-4)
            assert (result.effect[[result.component.index(name) for name in IDLE]].max()) < 1e-4
    losses = ablate(model, batch, kind="mean", metric=accuracy)
    assert (losses.baseline == 1).all()
    # what newD is looked up from (A by head 0, newB by head 1), and the table itself
    needed = importance(losses, "newD")
    assert min(needed["L1H0"], needed["L1H1"], needed["L1 MLP"]) > 0.15  # a mean leaves ties, which rounding breaks
    assert importance(losses, "newA")["L1H0"] == 0
    assert importance(losses, "newA")["L0H1"] > 0.2


# ----------------------------------------------------------------------------------------------------------- ragged


def test_ragged_batches_are_ablated_by_name(tiny_model: MakeModel, parity: Any) -> None:
    model = tiny_model(5, d_vocab=5, n_ctx=8)
    examples = parity.enumerate()
    batch = parity.batch(examples)
    with torch.inference_mode():
        caches = [model.run_with_cache(parity.batch([example]).tokens)[1] for example in examples]
    result = ablate(model, batch, kind="mean", units=("mlp",))
    rows = ablate(model, batch, kind="zero", units=("head", "mlp"))
    for row, example in enumerate(examples):
        single = parity.batch([example])

        def mean(activation: Tensor, hook: HookPoint, names: dict[str, int] = example.positions) -> Tensor:
            activation = activation.clone()
            for name, index in names.items():
                there = [
                    c[hook.name][0, e.positions[name]]
                    for c, e in zip(caches, examples, strict=True)
                    if name in e.positions
                ]
                activation[:, index] = torch.stack(there).mean(0)
            return activation

        with torch.inference_mode():
            before = model(single.tokens)[0, example.prompt_length - 1]
            after = model.run_with_hooks(single.tokens, fwd_hooks=[("blocks.0.hook_mlp_out", mean)])
        sign = 1 if example.labels["parity"] else -1
        after = after[0, example.prompt_length - 1]
        expected = sign * ((before[1] - before[0]) - (after[1] - after[0]))
        np.testing.assert_allclose(result.effect[0, 0, row], float(expected), atol=2e-5)
        alone = ablate(model, single, kind="zero", units=("head", "mlp"))
        np.testing.assert_allclose(rows.effect[:, :, row], alone.effect[:, :, 0], atol=2e-5)
    drawn = ablate(model, batch.take(range(2, 14)), kind="resample")
    assert np.isfinite(drawn.effect).all()
    assert np.abs(drawn.effect).max() > 1e-3


# ------------------------------------------------------------------------------------------------- errors and figures


def test_what_is_unknown_is_refused(tiny_model: MakeModel, batch: TokenBatch, unchecked: None) -> None:
    model = tiny_model(0)
    with pytest.raises(ValueError, match="kind is 'median'; expected one of zero, mean, resample"):
        ablate(model, batch, kind="median")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="units is 'expert'; expected one of head, mlp, attention, layer, neuron"):
        ablate(model, batch, units=("head", "expert"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no field 'newE'; there are newA, newB, newC, newD, sum1, sum2"):
        ablate(model, batch, fields=["newE"])
    result = ablate(model, batch, fields=["newA"], units=("mlp",))
    with pytest.raises(ValueError, match="no field 'newB'; there are newA"):
        result.importance("newB")
    with pytest.raises(ValueError, match="at least two rows"):
        ablate(model, batch.take([0]), kind="resample", fields=["newA"])
    model.b_U[0] = float("inf")
    with pytest.raises(FloatingPointError, match="nan or infinite"):
        ablate(model, batch)


def test_tables_figures_and_files(tiny_model: MakeModel, batch: TokenBatch, tmp_path: Path) -> None:
    model = tiny_model(4)
    attach(model, provenance=Provenance(name="tiny", path="", sha256="", initialisation="tiny@4", task="boolean"))
    result = ablate(model, batch, kind="mean", fields=["newA", "sum1"])
    assert result.config["initialisation"] == "tiny@4"
    assert result.config["model"] == "tiny"
    frame = result.to_frame()
    assert len(frame) == 6 * 2
    for _, row in frame.iterrows():
        i = result.component.index(row["component"])
        np.testing.assert_allclose(row["importance"], result.importance(row["field"])[i], atol=1e-6)
        assert row["low"] < row["importance"] < row["high"]
        assert row["n"] == 32
        assert row["layer"] == result.layer[i]
    axes = result.plot()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["newA", "sum1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(result.component)
    norm = axes.images[0].norm
    assert norm.vmin == -norm.vmax != 0
    np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), np.nan), result.effect.mean(-1))
    for part in ("n = 32 examples", "mean ablation", "tiny", "logit difference", "95 % intervals"):
        assert part in result.caption()
    loaded = AblationResult.load(result.save(tmp_path / "heads"))
    for name, value in vars(result).items():
        found = vars(loaded)[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found, value)
            assert found.dtype == value.dtype
        else:
            assert found == value
    assert loaded.to_frame().equals(frame)


# ------------------------------------------------------------------------------------------------ whole completions


@pytest.mark.parametrize("metric", [exact_match, log_probability])
def test_whole_completions_are_measured_token_by_token(tiny_model: MakeModel, parity: Any, metric: Any) -> None:
    model, batch = tiny_model(4, d_vocab=5), parity.batch(parity.enumerate())
    result = ablate(model, batch, kind="zero", units=("mlp",), metric=metric)
    assert result.fields == ("completion",)
    logits = model(batch.tokens).log_softmax(-1)
    for row in range(len(batch)):
        scores, right = [], True
        for at in range(int(batch.prompt_length[row]), int(batch.mask[row].sum())):
            scores.append(float(logits[row, at - 1, batch.tokens[row, at]]))
            right &= int(logits[row, at - 1].argmax()) == int(batch.tokens[row, at])
        expected = float(right) if metric is exact_match else np.mean(scores)
        assert result.baseline[0, row] == pytest.approx(expected, abs=1e-5)


def test_a_neuron_is_its_direction_of_the_mlp(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0)
    result = ablate(model, batch, kind="zero", units=("neuron",), metric=log_probability)
    assert result.component[:2] == ("L0N0", "L0N1")
    assert len(result.component) == model.cfg.n_layers * model.cfg.d_mlp
    at = result.component.index("L1N3")
    model.blocks[1].mlp.W_out.data[3] = 0
    assert result.effect[at] == pytest.approx(
        (result.baseline - ablate(model, batch, kind="zero", metric=log_probability).baseline), abs=1e-5
    )


def test_groups_of_examples(tiny_model: MakeModel, batch: TokenBatch) -> None:
    result = ablate(tiny_model(0), batch, kind="zero", metric=log_probability)
    rows = {"D": np.flatnonzero(batch.label("D").numpy()).tolist(), "first": [0], "none": []}
    frame = result.grouped(rows)
    assert set(frame["group"]) == {"D", "first"}
    assert frame[frame["group"] == "D"]["importance"].to_numpy() == pytest.approx(result.importance(rows=rows["D"]))
    assert (frame[frame["group"] == "first"]["n"] == 1).all()
    estimated = frame[frame["group"] == "D"]
    assert (estimated["low"] <= estimated["importance"]).all()
    assert frame.loc[frame["group"] == "first", ["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([32], "rows are from 32 to 32; the batch has 0 to 31"), ([-1], "counted from 0"), ([True, False], "not a mask"),
     ([0, 0], "each example once")],
)  # fmt: skip
def test_rows_that_are_no_examples_are_refused(
    tiny_model: MakeModel, batch: TokenBatch, rows: list, message: str
) -> None:
    result = ablate(tiny_model(0), batch, kind="zero", units=["layer"])
    with pytest.raises(ValueError, match=message):
        result.grouped({"some": rows})
    with pytest.raises(ValueError, match=message):
        result.importance(rows=rows)


def test_a_metric_of_one_field_is_not_one_of_the_completion() -> None:
    with pytest.raises(ValueError, match="exact match is measured over the completion, not at 'newB'"):
        ExactMatch("newB")
    with pytest.raises(ValueError, match="probability is measured at one field"):
        Probability("completion")


def test_repeated_examples_count_once(tiny_model: MakeModel, batch: TokenBatch) -> None:
    once = ablate(tiny_model(0), batch.take(range(8)), progress=False).to_frame()
    with pytest.warns(UserWarning, match="24 of 32 rows repeat"):
        again = ablate(tiny_model(0), batch.take(list(range(8)) * 4), progress=False).to_frame()
    assert set(again["n"]) == {8}
    np.testing.assert_allclose(again["low"], once["low"], atol=1e-5)


def test_repeats_are_not_told_above_an_error(task: BooleanTask, tiny_model: Callable[..., Any]) -> None:
    batch = task.batch(task.enumerate()[:4] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="no field 'zz'"):
            ablate(tiny_model(), batch, fields=["zz"])
        with pytest.raises(ValueError, match="token ids from"):
            ablate(tiny_model(d_vocab=9), batch)
