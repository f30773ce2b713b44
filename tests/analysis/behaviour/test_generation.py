"""Free generation under interventions, against decoding by hand, and where two texts part."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from interp_kit.analysis.behaviour.generation import Generations, generate_under
from interp_kit.core.batch import TokenBatch
from interp_kit.engine.edits import Edit, Mean, Scale, Zero
from interp_kit.models.planted import planted_boolean
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]


@pytest.fixture(scope="module")
def planted() -> HookedTransformer:
    return planted_boolean(BooleanTask(), "via-token")


def by_hand(model: HookedTransformer, batch: TokenBatch, hooks: list) -> np.ndarray:
    """Greedy texts, one token at a time, the whole text run for each."""
    tokens = batch.tokens.clone()
    for t in range(1, tokens.shape[1]):
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)[:, t - 1].argmax(-1)
        open_rows = (t >= batch.prompt_length) & batch.mask[:, t]
        tokens[open_rows, t] = logits[open_rows]
    return tokens.numpy()


def test_texts_are_those_decoded_by_hand(tiny_model: MakeModel, parity) -> None:
    batch, model = parity.batch(parity.enumerate()), tiny_model(5, d_vocab=5)
    edits = {
        "head gone": Edit("W_O", 0, Zero(), head=1),
        "mlp doubled": Edit("mlp_out", 1, Scale(2.0)),
        "mean": Edit("z", 0, Mean(), head=0),
    }
    result = generate_under(model, batch, edits)

    def zeroed(z: torch.Tensor, hook: object) -> torch.Tensor:
        z = z.clone()
        z[:, :, 1] = 0
        return z

    assert result.conditions == ("intact", *edits)
    assert np.array_equal(result.tokens[0], by_hand(model, batch, []))
    assert np.array_equal(result.tokens[1], by_hand(model, batch, [("blocks.0.attn.hook_z", zeroed)]))
    doubled = ("blocks.1.hook_mlp_out", lambda value, hook: 2 * value)
    assert np.array_equal(result.tokens[2], by_hand(model, batch, [doubled]))
    asked = result.asked == 1
    assert (result.tokens[:, ~asked] == batch.tokens.numpy()[~asked]).all()


def test_no_token_is_padding_whatever_tokenizer_there_is(
    tiny_model: MakeModel, parity, pads_with_0: SimpleNamespace
) -> None:
    batch, model = parity.batch(parity.enumerate()), tiny_model(5, d_vocab=5)
    edits = {"head gone": Edit("W_O", 0, Zero(), head=1), "mlp doubled": Edit("mlp_out", 1, Scale(2.0))}
    expected = generate_under(model, batch, edits)
    model.tokenizer = pads_with_0
    found = generate_under(model, batch, edits)
    assert (found.parted[1:] >= 0).any(1).all()
    assert np.array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.intact_logits, expected.intact_logits, atol=1e-4)
    np.testing.assert_allclose(found.edited_logits, expected.edited_logits, atol=1e-4)


def test_texts_part_where_the_argmax_differs_first(planted: HookedTransformer, batch: TokenBatch) -> None:
    result = generate_under(planted, batch, {"no layer 0": Edit("W_O", 0, Zero())})
    assert result.right()[0].all()
    assert not result.right()[1].all()
    for row in range(len(batch)):
        at = int(result.parted[1, row])
        same = result.tokens[0, row] == result.tokens[1, row]
        if at < 0:
            assert same.all()
            assert np.isnan(result.edited_logits[1, row]).all()
            continue
        assert same[:at].all()
        assert not same[at]
        for logits, tokens in (
            (result.intact_logits[1, row], result.tokens[0, row]),
            (result.edited_logits[1, row], result.tokens[1, row]),
        ):
            assert logits[tokens[at]] == pytest.approx(logits.max(), abs=1e-4)  # an ablated planted model has ties


def test_an_idle_edit_changes_nothing(planted: HookedTransformer, batch: TokenBatch) -> None:
    result = generate_under(planted, batch, {"as it was": Edit("mlp_out", 0, Scale(1.0))})
    assert (result.parted == -1).all()
    assert np.array_equal(result.tokens[0], result.tokens[1])
    with pytest.raises(ValueError, match="the same intact"):
        result.plot_logits("as it was", 0)


def test_frame_by_group(planted: HookedTransformer, batch: TokenBatch, tmp_path: Path, task: BooleanTask) -> None:
    result = generate_under(planted, batch, {"no layer 0": Edit("W_O", 0, Zero())})
    groups = {"D": np.flatnonzero(batch.label("D").numpy()).tolist(), "none": []}
    frame = result.to_frame(groups)
    assert list(frame["group"]) == ["D", "D"]
    assert list(frame["n"]) == [16, 16]
    assert frame["right"].iloc[0] == 1.0
    assert (result.wrong.sum(-1) == 0).tolist() == result.right().tolist()
    assert Generations.load(result.save(tmp_path / "g")).to_frame().equals(result.to_frame())
    row = int(np.flatnonzero(result.parted[1] >= 0)[0])
    axes = result.plot_logits("no layer 0", row)
    name = result.names[result.parted[1, row]]
    assert name in batch.positions
    assert name in axes.get_title()
    assert len(result.plot().get_yticklabels()) == 2


def test_bad_calls(planted: HookedTransformer, batch: TokenBatch) -> None:
    with pytest.raises(ValueError, match="name at least one edit"):
        generate_under(planted, batch, {})
    with pytest.raises(ValueError, match='none "intact"'):
        generate_under(planted, batch, {"intact": Edit("mlp_out", 0)})
    with pytest.raises(ValueError, match="no condition 'x'"):
        generate_under(planted, batch, {"a": Edit("mlp_out", 0)}).plot_logits("x", 0)
