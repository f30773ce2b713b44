"""The features of a culture model on grids: what is measured against single quizzes, and a page that says it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp_kit as ik
from interp_kit.analysis.dictionaries.activations import answer_cross_entropy, harvest
from interp_kit.core.identity import derive_seed
from interp_kit.models.convert import hooked_transformer
from interp_kit.reports.plotting import png
from interp_kit.reports.report import Figure
from interp_kit.studies.culture.features.page import features_page
from interp_kit.studies.culture.features.study import FACTORS, SIZES, FeatureStudy, examine_features

pytestmark = pytest.mark.slow
TASK = ik.CultureTask()


@pytest.fixture(scope="module")
def model() -> Any:
    return hooked_transformer(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=len(TASK.vocabulary), seed=0, n_ctx=405,
        act_fn="gelu_new",
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(model: Any) -> FeatureStudy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = ik.SAEConfig(width=24, k=4, training_samples=4096, max_examples=24)
        sae = ik.train_sae(model, TASK, site="mlp_out.0", config=config, progress=False)
        return examine_features(
            model, sae, "tiny", quizzes=48, answered=6, pairs=4, permutations=2, steered=20, progress=False
        )


def test_all_features_once_are_the_reconstruction(model: Any, study: FeatureStudy) -> None:
    """At k = 4 no token has more than four, so more change nothing; and factor 1 is the autoencoder itself."""
    four, one = SIZES.index(4), FACTORS.index(1.0)
    np.testing.assert_allclose(study.recovered[four + 1], study.recovered[four], atol=1e-6)
    examples = TASK.sample(6, derive_seed(0, "answered features") % 2**31)
    acts = harvest(model, TASK, study.sae.hook, examples, [], progress=False)
    clean, mean, new = (
        answer_cross_entropy(model, acts, vectors)
        for vectors in (None, acts.position_means(), study.sae.to_sae_lens()(acts.vectors))
    )
    expected = (mean - new).mean() / (mean - clean).mean()
    assert study.recovered[four, one] == pytest.approx(expected, abs=1e-4)


def test_cards_show_where_a_feature_is_largest(study: FeatureStudy) -> None:
    assert len({card.feature for card in study.cards}) == len(study.cards) > 3
    for card in study.cards:
        assert card.quizzes.shape == card.fires.shape == (3, 405)
        assert card.fires.any(1).all()
        assert 0 < card.share <= 1
        assert card.raises[0][1] >= card.raises[1][1] >= 0 >= card.lowers[0][1]
    assert study.cards[0].tells
    assert (study.written.moments[:, 2] >= 1).all()
    assert len(study.written.cosine) == study.alive.sum()


def test_the_page_is_whole(study: FeatureStudy, tmp_path: Path) -> None:
    page = features_page(study)
    assert "24 features" in page.findings[0]
    told = study.aligned.findings()
    assert page.findings[1 : 1 + len(told)] == told
    captions = [part.caption for section in page.sections for part in section.parts if isinstance(part, Figure)]
    assert len(set(captions)) == len(captions), "one caption for two figures"
    titles = [section.title for section in page.sections]
    assert titles[:2] == ["What the features keep", "Rules and latents"]
    used = titles[2 : -len(study.cards)]
    assert used[-3:] == ["Steered to the other rule", "Steered to another colour", "Features and the vocabulary"]
    assert png(page.sections[-1].parts[0].axes)[:4] == b"\x89PNG"  # pyright: ignore[reportAttributeAccessIssue]
