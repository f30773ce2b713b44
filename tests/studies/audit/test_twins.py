"""The shipped twins answer every text, keep to the nodes of their planted model, and are what their manifest says."""

import json
import shutil
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer

from interp_kit.core.pairs import PairBatch
from interp_kit.models.checkpoints import checkpoint_root, read_manifest, weights_hash, write_manifest
from interp_kit.models.convert import untrained
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.planted import PLANTED_TASKS, ground_truth, planted_model
from interp_kit.registry.models import load, task_of
from interp_kit.registry.tasks import task
from interp_kit.registry.twins import FOLDER, twin
from interp_kit.studies.audit.twins import TWINS, train_twin
from interp_kit.training.interchange import components, fidelity, interchanged

names = pytest.mark.parametrize("name", TWINS)
WEAK, STRONG = 0.15, 0.5  # of the clean-corrupt gap: what idle nodes of a trained network still do, and what others do


@lru_cache
def shipped(name: str) -> HookedTransformer:
    return twin(name).requires_grad_(False)


def difference(logits: torch.Tensor, pairs: PairBatch) -> torch.Tensor:
    """(pair,) logit of the clean answer minus that of the corrupt one."""
    rows = torch.arange(len(pairs))
    at = logits[rows, pairs.clean.position(pairs.clean.field(pairs.target).predict)]
    return at[rows, pairs.clean.answer[pairs.target]] - at[rows, pairs.corrupt.answer[pairs.target]]


@names
def test_twin_has_the_architecture_and_none_of_the_weights(name: str) -> None:
    model, planted = shipped(name), planted_model(TWINS[name][0], task(PLANTED_TASKS[TWINS[name][0]]))
    for (key, mine), (other, theirs) in zip(model.named_parameters(), planted.named_parameters(), strict=True):
        assert key == other
        assert mine.shape == theirs.shape
        assert not theirs.any() or not torch.equal(mine, theirs)
    resolved = load(f"twin:{name}")
    assert task_of(resolved).name == PLANTED_TASKS[TWINS[name][0]]
    assert torch.equal(resolved.W_E, model.W_E)


@names
def test_twin_answers_every_text(name: str) -> None:
    known = task(PLANTED_TASKS[TWINS[name][0]])
    batch = known.batch(known.enumerate())
    logits, rows = shipped(name)(batch.tokens), torch.arange(len(batch))
    for field in known.fields:
        right = logits[rows, batch.position(field.predict)].argmax(-1) == batch.answer[field.name]
        assert right.all()


@names
def test_twin_is_as_faithful_as_its_manifest_says(name: str) -> None:
    known, stated = task(PLANTED_TASKS[TWINS[name][0]]), read_manifest(checkpoint_root() / FOLDER)[name].metrics
    batch = known.batch(known.sample(128, 5))
    found = fidelity(shipped(name), planted_model(TWINS[name][0], known), batch, known.batch(known.sample(128, 6)))
    for node, value in stated["followed"].items():
        assert found.followed[node] == pytest.approx(value, abs=0.05)
    for node, value in stated["kept"].items():
        assert found.kept[node] == pytest.approx(value, abs=0.05)


@names
def test_nodes_that_change_the_answer_are_those_of_the_planted_model(name: str) -> None:
    truth, model = ground_truth(TWINS[name][0]), shipped(name)
    pairs = task(PLANTED_TASKS[TWINS[name][0]]).pairs(truth.variable, truth.target)
    _, cache = model.run_with_cache(pairs.corrupt.tokens)
    clean, corrupt = (difference(model(batch.tokens), pairs) for batch in (pairs.clean, pairs.corrupt))
    share = {
        node: float(
            (difference(interchanged(model, pairs.clean.tokens, dict(cache.items()), node), pairs) - clean).abs().mean()
            / (clean - corrupt).mean()
        )
        for node in components(model)
    }
    assert {node for node, value in share.items() if value > STRONG} == truth.nodes, share
    assert {node for node, value in share.items() if value > WEAK} == truth.nodes, share


@pytest.mark.slow
@names
def test_twin_holds_the_same_things_at_the_same_positions(name: str) -> None:
    known = task(PLANTED_TASKS[TWINS[name][0]])
    batch, other = (known.batch(known.sample(128, seed)) for seed in (5, 6))
    teacher = planted_model(TWINS[name][0], known)
    found = fidelity(shipped(name), teacher, batch, other, halved=True)
    changed = [node for node, n in found.changes.items() if n]
    assert min(found.followed[node] for node in changed) > 0.7
    assert min(found.kept.values()) > 0.98
    fresh = fidelity(untrained(teacher), teacher, batch, other, halved=True)
    assert max(fresh.followed[node] for node in changed) < 0.7


def test_a_changed_or_missing_twin_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"no twin 'boolean-direct' in .*; there are boolean-latent"):
        twin("boolean-direct")
    shutil.copytree(checkpoint_root() / FOLDER, tmp_path / FOLDER)
    manifest = tmp_path / FOLDER / "manifest.json"
    entries, rows = read_manifest(tmp_path / FOLDER), json.loads(manifest.read_text())
    rows["boolean-latent"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match=r"entry 'boolean-latent' is not as it was written"):
        twin("boolean-latent", tmp_path)
    one, other = entries["boolean-latent"], entries["boolean-via-token"]
    for wrong, message in (
        (replace(one, sha256="0" * 64), r"has sha256 .*, the manifest says 000000000000…"),
        (other, r"entry 'boolean-latent': path is 'boolean-via-token', expected 'boolean-latent'"),
        (replace(one, seed=1), r"entry 'boolean-latent': seed is 1, expected 0"),
        (replace(one, task="induction"), r"entry 'boolean-latent': task is 'induction', expected 'boolean'"),
        (replace(one, files={}), r"training\.json has sha256 .*, the manifest says nothing of it"),
    ):
        write_manifest({**entries, "boolean-latent": wrong}, tmp_path / FOLDER)
        with pytest.raises(CheckpointError, match=message):
            twin("boolean-latent", tmp_path)
    path = tmp_path / FOLDER / "boolean-latent" / "model.safetensors"
    sound = load_file(path)
    key = next(iter(sound))
    for damage, message in (
        ({**sound, key: sound[key] * torch.nan}, f"{key} has \\d+ nan or infinite values"),
        ({**sound, key: sound[key][:1]}, "its weights are not those of boolean-latent"),
        ({**sound, "more": torch.ones(1)}, "its weights are not those of boolean-latent"),
        (
            {k: v for k, v in sound.items() if k != key},
            f"not those of boolean-latent: .*{key} is missing",
        ),
    ):
        save_file(damage, path)
        changed = replace(one, sha256=weights_hash(path.parent))
        write_manifest({**entries, "boolean-latent": changed}, tmp_path / FOLDER)
        with pytest.raises(CheckpointError, match=message):
            twin("boolean-latent", tmp_path)
    shutil.rmtree(tmp_path / FOLDER / "boolean-latent")
    with pytest.raises(CheckpointError, match="is missing"):
        twin("boolean-latent", tmp_path)
    with pytest.raises(ValueError, match="no planted model 'bolean'"):
        train_twin("bolean")
