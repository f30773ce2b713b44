"""Direct attribution and the lens: n and intervals are of independent texts."""

from typing import Any

import numpy as np
import pytest

from interp_kit.analysis.circuits.direct_attribution import direct_logit_attribution, logit_lens
from interp_kit.core.batch import TokenBatch
from interp_kit.tasks.boolean import BooleanTask


@pytest.mark.parametrize("analysis", [direct_logit_attribution, logit_lens])
def test_repeated_texts_and_pairs_count_once(
    analysis: Any, task: BooleanTask, batch: TokenBatch, tiny_model: Any
) -> None:
    model = tiny_model()
    once = analysis(model, batch.take(range(8)), "newB")
    again = analysis(model, batch.take(list(range(8)) * 4), "newB")
    assert set(once.to_frame()["n"]) == set(again.to_frame()["n"]) == {8}
    assert again.values.shape[-1] == 32, "rows stay those of the batch"
    np.testing.assert_allclose(again.mean, once.mean, atol=1e-5)
    spans = [float(np.nanmean(one.high - one.low)) for one in (once, again)]
    assert spans[1] == pytest.approx(spans[0], rel=0.05)
    assert "n = 8" in again.caption()
    pairs = task.pairs("B", "newB", limit=16)
    assert set(analysis(model, pairs).to_frame()["n"]) == {len(np.unique(pairs.units()))}
