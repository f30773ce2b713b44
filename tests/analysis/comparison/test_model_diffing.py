"""Parts of one model put into another: a model that differs in one part, and what is refused."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp_kit.analysis.comparison.model_diffing import ALL, ModelDiffResult, diff_models
from interp_kit.core.batch import TokenBatch
from interp_kit.engine.metrics import log_probability
from interp_kit.models.hooked_model import attach

MakeModel = Callable[..., Any]
CHANGES = {
    "L1H1": lambda model: model.blocks[1].attn.W_V[1].mul_(-1.0),
    "L0 MLP": lambda model: model.blocks[0].mlp.W_out.neg_(),
    "L1 rest": lambda model: model.blocks[1].ln2.w.mul_(0.5),
    "embeddings": lambda model: model.pos_embed.W_pos.neg_(),
    "unembedding": lambda model: model.ln_final.b.add_(0.5),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_model_that_differs_in_one_part(part: str, tiny_model: MakeModel, batch: TokenBatch) -> None:
    receiver = tiny_model(0)
    donor = copy.deepcopy(receiver)
    with torch.no_grad():
        CHANGES[part](donor)
    before = receiver(batch.tokens)
    result = diff_models(receiver, donor, batch, metric=log_probability, progress=False)
    assert torch.equal(receiver(batch.tokens), before)
    frame = result.to_frame().set_index("component")
    others = frame.drop([part, ALL])
    assert (others["distance"] == 0).all()
    assert others["effect"].abs().max() < 1e-6
    assert frame.loc[part, "distance"] > 0
    gap = result.donor - result.receiver
    assert np.abs(gap).max() > 1e-3
    for name in (part, ALL):
        assert result.effect[result.component.index(name)] == pytest.approx(gap, abs=1e-5)


def test_all_parts_together_are_the_donor(tiny_model: MakeModel, batch: TokenBatch) -> None:
    result = diff_models(tiny_model(0), tiny_model(1), batch, metric=log_probability, progress=False)
    assert result.effect[-1] == pytest.approx(result.donor - result.receiver, abs=1e-5)
    assert len(result.component) == len(set(result.component)) == 2 * (2 + 2) + 3
    assert result.n == len(batch)


def test_repeated_examples_count_once(tiny_model: MakeModel, batch: TokenBatch) -> None:
    options: dict[str, Any] = {"metric": log_probability, "progress": False}
    once = diff_models(tiny_model(0), tiny_model(1), batch.take(range(8)), **options)
    with pytest.warns(UserWarning, match="24 of 32 rows repeat"):
        again = diff_models(tiny_model(0), tiny_model(1), batch.take(list(range(8)) * 4), **options)
    assert again.n == 8
    np.testing.assert_allclose(again.to_frame().iloc[:, 1:], once.to_frame().iloc[:, 1:], atol=1e-6)


def test_an_interval_ends_where_the_metric_does(tiny_model: MakeModel, batch: TokenBatch) -> None:
    result = diff_models(tiny_model(0), tiny_model(1), batch, progress=False)
    worst = np.zeros((1, 8)) - (np.arange(8) > 0)
    made = replace(result, component=("all",), layer=np.array([-1]), distance=np.zeros(1), effect=worst)
    assert made.to_frame()["low"].tolist() == [-1]
    unbounded = replace(made, config={**made.config, "bounds": (-np.inf, np.inf)})
    assert unbounded.to_frame()["low"].item() < -1


def test_distances_by_hand(tiny_model: MakeModel, batch: TokenBatch) -> None:
    receiver = tiny_model(0)
    donor = copy.deepcopy(receiver)
    with torch.no_grad():
        for name in ("W_in", "b_in", "W_out", "b_out"):
            getattr(donor.blocks[1].mlp, name).mul_(1.5)
    result = diff_models(receiver, donor, batch, progress=False)
    assert result.distance[result.component.index("L1 MLP")] == pytest.approx(0.5)


def test_what_has_no_counterpart_is_refused(tiny_model: MakeModel, batch: TokenBatch) -> None:
    with pytest.raises(ValueError, match=r"differ in shape: W_Q.0 is \(2, .* in the receiver and \(4, .* in the donor"):
        diff_models(tiny_model(0), tiny_model(0, n_heads=4, d_head=4), batch)
    models = [tiny_model(seed) for seed in (0, 1)]
    for model, start in zip(models, ("a", "b"), strict=True):
        attach(model, provenance=type("Provenance", (), {"name": start, "initialisation": start})())
    with pytest.raises(ValueError, match="a and b start from different weights"):
        diff_models(*models, batch)


def test_tables_figures_and_files(tiny_model: MakeModel, batch: TokenBatch, tmp_path: Path) -> None:
    result = diff_models(tiny_model(0), tiny_model(1), batch, progress=False)
    assert ModelDiffResult.load(result.save(tmp_path / "r")).component == result.component
    assert len(result.plot().get_yticklabels()) == len(result.component)
    assert f"n = {result.n}" in result.caption()
