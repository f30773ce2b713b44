"""Every registered task takes every analysis, through the registry: a task that joins the registry joins this
matrix."""

import numpy as np
import pytest
from matplotlib.axes import Axes

import interp_kit as ik
from interp_kit.core.task import AbstractTask
from interp_kit.models.convert import hooked_transformer
from interp_kit.tasks.registry import TASKS


@pytest.fixture(scope="module", params=sorted(TASKS))
def each_task(request: pytest.FixtureRequest) -> AbstractTask:
    """One registered task after the other."""
    return ik.task(request.param)


@pytest.fixture(scope="module")
def examples(each_task: AbstractTask) -> list[ik.Example]:
    """The task's pool, as far as 64 examples, or as many as make 8,192 tokens where the texts are long."""
    pool = each_task.pool()
    return pool[: min(64, 8192 // max(len(example.tokens) for example in pool))]


@pytest.fixture(scope="module")
def model(each_task: AbstractTask, examples: list[ik.Example]):
    """A small random model of the task's vocabulary."""
    longest = max(len(example.tokens) for example in examples)
    return hooked_transformer(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=32, n_ctx=longest, d_vocab=len(each_task.vocabulary),
        act_fn="gelu_new", seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch(each_task: AbstractTask, examples: list[ik.Example]) -> ik.TokenBatch:
    """Those examples as a batch."""
    return each_task.batch(examples)


def drawn_and_stored(result: ik.AbstractResult, folder) -> None:
    """A result has a table and a figure, says its n, and survives its own files."""
    frame = result.to_frame()
    assert len(frame)
    assert isinstance(result.plot(), Axes)
    assert "n = " in result.caption()
    again = type(result).load(result.save(folder))
    assert again.to_frame().equals(frame)


def test_examples_carry_names_and_truth(
    each_task: AbstractTask, examples: list[ik.Example], batch: ik.TokenBatch
) -> None:
    for example in examples:
        assert sorted(example.positions.values()) == list(range(len(example.tokens)))
        assert set(example.labels) == set(each_task.variables)
    for field in each_task.fields:
        assert field.predict in batch.positions


def test_probe(each_task: AbstractTask, model, batch: ik.TokenBatch, tmp_path) -> None:
    """An amount, or a field where the task has none, at up to 24 positions spread over the text and its last one."""
    names = list(batch.positions)
    spread = [*names[: -1 : max(1, len(names) // 23)], names[-1]]
    label = [*(field.name for field in each_task.fields), *each_task.numeric][-1]
    result = ik.probe(model, batch, [label], positions=spread, repeats=1, control_repeats=0)
    assert np.isfinite(result.score).any()
    drawn_and_stored(result, tmp_path / "r")


def test_patch(each_task: AbstractTask, model, tmp_path) -> None:
    name = each_task.fields[-1].name
    pairs = each_task.pairs(name, name, limit=16)
    result = ik.patch(model, pairs, by="all")
    np.testing.assert_allclose(result.recovered, 1, atol=1e-3)
    drawn_and_stored(result, tmp_path / "r")


def test_ablate_and_jaccard(model, batch: ik.TokenBatch, tmp_path) -> None:
    zero, mean = (ik.ablate(model, batch, kind=kind) for kind in ("zero", "mean"))
    drawn_and_stored(zero, tmp_path / "a")
    overlap = ik.jaccard(zero, mean, k=2, match="index", permutations=50)
    assert 0 <= overlap.index[0] <= 1
    drawn_and_stored(overlap, tmp_path / "j")


def test_train_sae(each_task: AbstractTask, model, tmp_path) -> None:
    config = ik.SAEConfig(architecture="topk", width=8, k=2, training_samples=2048, max_examples=64)
    result = ik.train_sae(model, each_task, site="blocks.1.hook_mlp_out", config=config, progress=False)
    drawn_and_stored(result, tmp_path / "r")
