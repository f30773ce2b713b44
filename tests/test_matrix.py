"""Every exported analysis on every registered task: a task that joins the registry, or an analysis that is exported,
joins this matrix. Where the two do not go together, the analysis says so in a ValueError."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

import interp_kit as ik
from interp_kit.core.task import AbstractTask
from interp_kit.models.convert import hooked_transformer
from interp_kit.registry.tasks import TASKS

TOKENS = 8192  # of the examples of a task


@dataclass(frozen=True)
class World:
    """A task, and a small random model of its vocabulary."""

    task: AbstractTask
    folder: Path

    @cached_property
    def examples(self) -> list[ik.Example]:
        """The task's pool, as far as 64 examples, or as many as make 8,192 tokens where the texts are long."""
        pool = self.task.pool()
        return pool[: min(64, TOKENS // max(len(example.tokens) for example in pool))]

    @cached_property
    def model(self) -> Any:
        return hooked_transformer(
            n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=len(self.task.vocabulary), seed=0,
            n_ctx=max(len(example.tokens) for example in self.examples), act_fn="gelu_new",
        )  # fmt: skip

    @cached_property
    def batch(self) -> ik.TokenBatch:
        return self.task.batch(self.examples)

    @property
    def target(self) -> str:
        return self.task.fields[-1].name

    @cached_property
    def mediator(self) -> str:
        """A variable that can be set: of culture an input, else a field that is answered before the target, if any."""
        if "direction" in self.task.variables:
            return "direction"
        return self.task.fields[-3 if len(self.task.fields) > 3 else -1].name

    @cached_property
    def pairs(self) -> ik.PairBatch:
        return self.task.pairs(self.target, self.target, limit=16 if len(self.batch.tokens[0]) < 100 else 4)

    @cached_property
    def positions(self) -> list[str]:
        """At most eight positions, spread over the text, and its last one."""
        names = [name for name, at in self.batch.positions.items() if bool((at >= 0).all())]
        return [*names[: -1 : max(1, len(names) // 7)], names[-1]]

    @cached_property
    def ablation(self) -> Any:
        return ik.ablate(self.model, self.batch, kind="zero")

    @cached_property
    def probed(self) -> Any:
        label = [*(field.name for field in self.task.fields), *self.task.numeric][-1]
        return ik.probe(self.model, self.batch, [label], positions=self.positions, repeats=1, control_repeats=0)

    @cached_property
    def sae(self) -> Any:
        config = ik.SAEConfig(architecture="topk", width=8, k=2, training_samples=2048, max_examples=64)
        return ik.train_sae(self.model, self.task, site="blocks.1.hook_mlp_out", progress=False, config=config)

    @cached_property
    def circuit(self) -> Any:
        return ik.score_edges(self.model, self.pairs, method="eap")


def _patched(w: World) -> Any:
    result = ik.patch(w.model, w.pairs, by="all")
    np.testing.assert_allclose(result.recovered, 1, atol=1e-3)
    return result


def _harvested(w: World) -> Any:
    found = ik.harvest(w.model, w.batch, "mlp_out.1", positions=w.positions)
    files = ik.harvest_to(w.folder / "h", w.model, w.batch, "mlp_out.1", positions=w.positions, rows=32, progress=False)
    for site, values in found.items():
        assert values.shape == (len(w.batch), len(w.positions), 16)
        assert torch.equal(files.load(site), values)
        assert torch.equal(ik.open_harvest(files.directory).load(site), values)


def _swept(w: World) -> Any:
    edits = [ik.Edit("mlp_out", 0, ik.Zero()), ik.Edit("z", 1, ik.Zero(), head=0)]
    metric = ik.logit_difference(w.pairs)
    values = ik.sweep(w.model, w.pairs.corrupt, edits, metric).values
    assert np.isfinite(values).all()
    with ik.editing(w.model, w.pairs.corrupt, edits[0]):
        logits = w.model(w.pairs.corrupt.tokens)
    assert not torch.equal(logits, w.model(w.pairs.corrupt.tokens))


# Each gives a result, or None where it has checked what it gives itself.
def _aligned(w: World) -> Any:
    """Of culture, whose cells are variables too, one latent."""
    only = "direction" if w.mediator == "direction" else None
    return ik.align_features(
        w.model, w.task, w.sae, variables=only, positions=w.positions[-1], target=w.target,
        limit=128, permutations=2, pairs=4,
    )  # fmt: skip


ANALYSES: dict[str, Callable[[World], Any]] = {
    "evaluate": lambda w: ik.evaluate(w.model, w.task, examples=w.examples[:2]),
    "probe": lambda w: w.probed,
    "readability": lambda w: ik.readability(
        [replace(w.probed, config={**w.probed.config, "seed": i}) for i in range(3)]
    ),
    "patch": _patched,
    "patch_senders": lambda w: ik.patch_senders(w.model, w.pairs, senders=w.positions[:2]),
    "mechanism": lambda w: ik.mechanism(w.model, w.task, mediator=w.mediator, target=w.target),
    "interchange": lambda w: ik.interchange(
        w.model, w.task, w.mediator, w.target, positions=w.positions[:2], limit=8
    ),
    "das": lambda w: ik.das(
        w.model, w.task, w.mediator, w.target, layer=0, steps=2, seeds=(0,), limit=8,
        position=w.task.field(w.target).predict,
    ),
    "ablate": lambda w: w.ablation,
    "lesion": lambda w: ik.lesion(
        w.model, w.task, ik.Edit("z", 0, head=1), steps=1, seeds=(0,), batch_size=2, limit=4
    ),
    "jaccard": lambda w: ik.jaccard(
        w.ablation, ik.ablate(w.model, w.batch, kind="mean"), k=2, match="index", permutations=50
    ),
    "diff_models": lambda w: ik.diff_models(w.model, ik.untrained(w.model, 3), w.batch, metric=ik.log_probability),
    "train_sae": lambda w: w.sae,
    "universality": lambda w: ik.universality(
        [w.model, ik.untrained(w.model, 3)], w.batch, site="mlp_post.1", tokens=256, rotations=1
    ),
    "align_features": _aligned,
    "attention_lags": lambda w: ik.attention_lags(w.model, w.batch, {"itself": 0, "before": 1}),
    "generate_under": lambda w: ik.generate_under(
        w.model, w.batch.take(range(4)), {"no MLP": ik.Edit("mlp_out", 0, ik.Zero())}
    ),
    "score_edges": lambda w: w.circuit,
    "score_nodes": lambda w: ik.score_nodes(w.model, w.pairs),
    "acdc": lambda w: ik.acdc(w.model, w.pairs, threshold=1e-6),
    "path_patch": lambda w: ik.path_patch(w.model, w.pairs, [ik.Edge("embed", "logits", "logits")]),
    "faithfulness": lambda w: ik.faithfulness(w.model, w.pairs, w.circuit, sizes=[0, 3], controls=2),
    "direct_logit_attribution": lambda w: ik.direct_logit_attribution(w.model, w.pairs),
    "logit_lens": lambda w: ik.logit_lens(w.model, w.pairs, positions=w.positions[:2]),
    "harvest": _harvested,
    "sweep": _swept,
}  # fmt: skip
SAME = {  # are tried with another
    "harvest_to": "harvest", "open_harvest": "harvest", "editing": "sweep", "universal_features": "universality",
    "train_saes": "train_sae",
}  # fmt: skip
NOT_ANALYSES = {
    "first_difference",
    "exact_match",
    "log_probability",
    "logit_difference",
    "probability",
    "kl",
    "accuracy",
    "complete",
    "completer",
    "decode",
    "load_sae",
    "read_mib",
    "read_sae",
    "write_mib",
}
# (task, analysis) -> what the analysis says: that the two do not go together.
REFUSED = {
    ("induction", "mechanism"): "mediator and target are both 'answer'",  # it has one field
    ("cards", "mechanism"): "mediator and target are both 'answer'",
    ("graphs", "mechanism"): "mediator and target are both 'answer'",
    ("culture", "mechanism"): "mediator 'direction' is an input of culture, but not a field",
}


@pytest.fixture(scope="module", params=sorted(TASKS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One registered task after the other, with at most 80 examples and 64 pairs to draw from."""
    task = ik.task(request.param)
    pool, matching = task.pool()[:80], task._matching
    object.__setattr__(task, "pool", lambda seed=0: pool)
    object.__setattr__(
        task,
        "_matching",
        lambda v, t, hold, limit, *rest, **by: matching(v, t, hold, min(limit or 64, 64), *rest, **by),
    )
    return World(task, tmp_path_factory.mktemp(request.param))


def test_no_analysis_is_missing() -> None:
    exported = {
        name
        for name, module in ik._EXPORTS.items()
        if module.startswith(("interp_kit.analysis.", "interp_kit.engine.")) and inspect.isfunction(getattr(ik, name))
    }
    tried = set(ANALYSES) | set(SAME)
    assert exported - NOT_ANALYSES == tried, (
        f"add to ANALYSES (or NOT_ANALYSES): {sorted(exported - NOT_ANALYSES - tried)}; take out:"
        f" {sorted(tried - (exported - NOT_ANALYSES))}"
    )


def test_examples_carry_names_and_truth(world: World) -> None:
    for example in world.examples:
        assert sorted(example.positions.values()) == list(range(len(example.tokens)))
        assert set(example.labels) == set(world.task.variables)
    for field in world.task.fields:
        assert field.predict in world.batch.positions


@pytest.mark.parametrize("analysis", sorted(ANALYSES))
def test_every_analysis_takes_every_task(world: World, analysis: str, tmp_path: Path) -> None:
    """A result has a table and a figure, says its n, and survives its own files."""
    if said := REFUSED.get((world.task.name, analysis)):
        with pytest.raises(ValueError, match=said):
            ANALYSES[analysis](world)
        return
    result = ANALYSES[analysis](world)
    if result is None:
        return
    frame = result.to_frame()
    assert len(frame)
    assert any(np.isfinite(frame[name]).any() for name in frame.select_dtypes("number"))
    assert isinstance(result.plot(), Axes)
    assert "n = " in result.caption()
    assert type(result).load(result.save(tmp_path / "r")).to_frame().equals(frame)
