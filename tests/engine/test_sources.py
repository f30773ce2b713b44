"""Sources of a user's own: an edit of one latent of a sparse autoencoder, a mixture with another run, and what is said
of sources that do not fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import interp_kit as ik
from interp_kit.core.batch import TokenBatch
from interp_kit.engine import sweep as sweeping
from interp_kit.engine.apply import Engine
from interp_kit.engine.decode import decode
from interp_kit.engine.edits import Copy, Edit, Mean, Resample, Scale, Source
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.sources.kinds import copied
from interp_kit.engine.sweep import SweepValues, editing, sweep

LATENT, VALUE = 7, 3.0


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder made by hand: (d_model, latent) and (latent, d_model)."""

    encoder: Tensor
    decoder: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.encoder).relu()


@dataclass(frozen=True, eq=False)
class SetLatent(Source):
    """All that an edit of a latent takes: the decoded difference is added, so what the SAE misses stays."""

    sae: SAE
    latent: int
    value: float

    def check_shape(self, shape: Sequence[int]) -> None:
        if shape[-1] != len(self.sae.encoder):
            raise ValueError(f"the SAE reads {len(self.sae.encoder)} numbers, not {shape[-1]}")

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        change = self.value - self.sae.encode(old)[..., self.latent]
        return old + change[..., None] * self.sae.decoder[self.latent]


@dataclass(frozen=True, eq=False)
class Mixed(Source):
    """Some of another run's activation."""

    batch: TokenBatch
    share: float

    def needs(self, batch: TokenBatch) -> TokenBatch:
        return self.batch

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return torch.lerp(old, given, self.share)


def sae(width: int) -> SAE:
    g = torch.Generator().manual_seed(0)
    return SAE(torch.randn(width, 12, generator=g), torch.randn(12, width, generator=g))


@pytest.fixture
def model(tiny_model) -> HookedTransformer:
    return tiny_model(3)


def both_ways(model: HookedTransformer, batch: TokenBatch, edits: list, monkeypatch) -> SweepValues:
    """What the fast path gives, after comparing it with hooks."""
    metric = ik.logit_difference("newD")
    fast = sweep(model, batch, edits, metric)
    assert fast.by_hooks == 0, fast.why

    def refuse(*_: object, **__: object) -> None:
        raise Unsupported("asked for hooks")

    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "Executor", refuse)
        slow = sweep(model, batch, edits, metric)
    assert slow.by_hooks == len(edits)
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-5)
    return fast


def test_a_latent_of_an_sae_is_edited_on_both_paths(model, batch: TokenBatch, monkeypatch) -> None:
    width = model.cfg.d_model
    source = SetLatent(sae(width), LATENT, VALUE)
    edits = [Edit("resid_post", layer, source, position=name) for layer in (0, 1) for name in ("A", "newD?", None)]
    edits += [[Edit("mlp_out", 0, source), Edit("resid_pre", 1, Scale(0.5), position="newD?")]]
    found = both_ways(model, batch, edits, monkeypatch)
    moved = np.abs(found.values - found.baseline).mean(-1).ravel()
    assert moved[3] == 0  # after the last layer nothing reads A
    assert np.delete(moved, 3).min() > 1e-3

    def by_hand(activation: Tensor, hook: object) -> Tensor:
        activation = activation.clone()
        for row, at in enumerate(batch.position("newD?").tolist()):
            latents = (activation[row, at] @ source.sae.encoder).clamp(min=0)
            changed = latents.clone()
            changed[LATENT] = VALUE
            activation[row, at] += (changed - latents) @ source.sae.decoder
        return activation

    with torch.inference_mode():
        logits = model.run_with_hooks(batch.tokens, fwd_hooks=[("blocks.1.hook_resid_post", by_hand)])
    np.testing.assert_allclose(found.values[4, 0], ik.logit_difference("newD")(logits, batch), atol=1e-5)


def test_a_latent_is_edited_while_text_is_written(model, batch: TokenBatch) -> None:
    edit = Edit("resid_post", 0, SetLatent(sae(model.cfg.d_model), LATENT, VALUE))
    free = torch.arange(batch.tokens.shape[1]) >= batch.prompt_length[:, None]
    with editing(model, batch, edit) as edited:
        expected = decode(edited, batch.tokens, free, cached=False)
    with torch.inference_mode():
        found = decode(model, batch.tokens, free, edit=Engine(model, batch).change((edit,)), batch_size=None)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.log_prob, expected.log_prob, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("site", ["resid_pre", "z", "mlp_post"])
def test_a_source_is_given_another_batchs_activation(model, batch: TokenBatch, site: str, monkeypatch) -> None:
    other = batch.take(list(range(len(batch)))[::-1])
    head = 1 if site == "z" else None
    edits = [Edit(site, 1, Mixed(other, s), head=head, position=p) for s in (0.0, 0.4, 1.0) for p in ("newD?", None)]
    found = both_ways(model, batch, edits, monkeypatch).values
    copies = sweep(model, batch, [replace(edit, source=Copy(other)) for edit in edits[:2]], ik.logit_difference("newD"))
    np.testing.assert_allclose(found[:2], np.broadcast_to(copies.baseline, found[:2].shape), atol=1e-5)
    np.testing.assert_allclose(found[4:], copies.values, atol=1e-5)


def test_a_source_that_does_not_fit_is_refused_before_anything_runs(model, batch: TokenBatch, monkeypatch) -> None:
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    width, few = model.cfg.d_model, batch.take([0, 1])
    for edit, message in (
        (Edit("mlp_post", 0, SetLatent(sae(width), 0, 1.0)), f"mlp_post layer=0 <- SetLatent: the SAE reads {width}"),
        (Edit("W_O", 0, SetLatent(sae(width), 0, 1.0)), "a weight takes Set, Zero, Add or Scale"),
        (Edit("z", 0, Mixed(few, 0.5)), "z layer=0 <- Mixed: the batch copied from has tokens"),
        (Edit("z", 0, Mean(replace(few, positions={}))), "z layer=0 <- Mean: the reference batch has no position"),
        (Edit("z", 0, Resample(0, few.take([0])), position="newE"), "no position 'newE'"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep(model, batch, edit, ik.logit_difference("newD"))
        with pytest.raises(ValueError, match=message), editing(model, batch, edit):
            pytest.fail("the body must not run")


class Narrow(Source):
    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        return old[..., :1]  # would be broadcast, were it not refused


class Short(Mixed):
    def reference(self, activation: Tensor, batch: TokenBatch, position: object) -> Tensor:
        return activation[:, :1]


@dataclass
class Unhashable(Narrow):
    latent: int = 0


@pytest.mark.usefixtures("unchecked")
def test_new_values_of_another_shape_are_refused(model, batch: TokenBatch, monkeypatch) -> None:
    for position in ("newD?", None):
        edit, shape = Edit("resid_pre", 0, Narrow(), position=position), r"`new` gave values of shape \(32, .*1\)"
        with pytest.raises(ValueError, match=shape):
            sweep(model, batch, edit, ik.logit_difference("newD"))
        with pytest.raises(ValueError, match=shape), editing(model, batch, edit):
            model(batch.tokens)
    with pytest.raises(ValueError, match=r"`reference` gave a tensor of shape \(32, 1, 16\)"):
        sweep(model, batch, Edit("resid_pre", 0, Short(batch, 0.5)), ik.logit_difference("newD"))
    with pytest.raises(TypeError, match=r"make Unhashable a @dataclass\(frozen=True, eq=False\)"):
        sweep(model, batch, Edit("resid_pre", 0, Unhashable()), ik.logit_difference("newD"))
    with pytest.raises(TypeError, match="source is a ABCMeta; expected Source"):
        sweep(model, batch, Edit("resid_pre", 0, ik.Zero), ik.logit_difference("newD"))  # pyright: ignore


def test_a_subclass_of_copy_is_not_taken_for_a_copy(model, batch: TokenBatch, monkeypatch) -> None:
    """Copies change nothing up to where two texts differ; what follows from one may."""

    class Doubled(Copy):
        def new(self, old: Tensor, given: Tensor | None) -> Tensor:
            assert given is not None
            return 2 * given

    assert copied(Copy(batch)) is batch
    assert copied(Doubled(batch)) is None
    found = both_ways(model, batch, [Edit("resid_pre", 1, Doubled(batch), position="newD?")], monkeypatch)
    assert np.abs(found.values - found.baseline).max() > 1e-3


def test_batches_are_hashed_by_identity_and_sources_by_what_they_hold(batch: TokenBatch, task: ik.BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    same = replace(batch)
    assert len({batch, batch, same}) == 2
    assert batch == batch
    assert batch != same
    assert len({pairs, pairs, replace(pairs)}) == 2
    assert len({Copy(batch), Copy(batch), Copy(same), Mean(), Mean(), Resample(1), Resample(1), Resample(2)}) == 5
