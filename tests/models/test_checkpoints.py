"""Checkpoints by name: what the manifest says is what is loaded."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_kit.models.checkpoints import (
    Entry,
    Provenance,
    checkpoint_root,
    deciding_files,
    digest_of,
    load,
    read_manifest,
    weights_hash,
    write_manifest,
)
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, save_mygpt

MakeDirectory = Callable[..., Path]


def entry(path: str, sha256: str, **more: Any) -> Entry:
    fields = {"task": "boolean", "recipe": "tests", "seed": 1, "initialisation": "start-1", "revision": "0"}
    return Entry(**{"path": path, "sha256": sha256, **fields, **more})


def shipped(root: Path, path: str, **more: Any) -> Entry:
    return entry(path, weights_hash(root / path), files=deciding_files(root / path), **more)


@pytest.fixture
def root(tiny_gpt2_dir: MakeDirectory) -> Path:
    """A folder of two shipped checkpoints, `one` and `two`, with their manifest."""
    root = tiny_gpt2_dir(name="one").parent
    shutil.copytree(tiny_gpt2_dir(seed=1), root / "second folder")
    entries = {
        "one": shipped(root, "one", omitted=("1,1,1,1,1",), metrics={"exact": {"value": 1.0}}),
        "two": shipped(root, "second folder", initialisation="start-2"),
    }
    write_manifest(entries, root)
    return root


def test_load_by_name(root: Path) -> None:
    for name, folder in (("one", "one"), ("two", "second folder")):
        model = load(name, root=root)
        state = load_file(root / folder / "model.safetensors")
        assert torch.equal(model.W_E, state["transformer.wte.weight"])
        assert model.provenance.name == name
        assert model.provenance.path == str(root / folder)
        assert model.provenance.sha256 == hashlib.sha256((root / folder / "model.safetensors").read_bytes()).hexdigest()
        assert model.provenance.task == "boolean"
        assert model.conversion.max_difference < 1e-4
    assert model.provenance.initialisation == "start-2"
    assert load("one", root=root).provenance.omitted == ("1,1,1,1,1",)


def test_load_by_path(root: Path, tmp_path: Path) -> None:
    for source in (root / "one", str(root / "one")):
        model = load(source, root=tmp_path)
        known = weights_hash(root / "one"), digest_of(root / "one")
        assert model.provenance == Provenance(str(root / "one"), str(root / "one"), known[0], digest=known[1])


def test_root_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_KIT_CHECKPOINTS", str(root))
    assert checkpoint_root() == root
    assert list(read_manifest()) == ["one", "two"]
    assert load("one").provenance.path == str(root / "one")


def test_unknown_name_lists_the_shipped_ones(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"unknown checkpoint 'thre' *: no directory thre, .*; shipped: one, two$"
    ):
        load("thre", root=root)
    with pytest.raises(CheckpointError, match=r"^no such file or folder: /no/such$"):
        load("/no/such", root=root)


def test_path_that_is_a_file(root: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{root / 'one' / 'config.json'} is a file")):
        load(root / "one" / "config.json", root=root)


def test_changed_weights_are_refused_by_name_and_loaded_by_path(root: Path) -> None:
    path = root / "one" / "model.safetensors"
    state = load_file(path)
    state["transformer.wpe.weight"][0, 0] += 1
    save_file(state, path)
    with pytest.raises(
        CheckpointError, match=r"checkpoint 'one': .*one has sha256 .*, the manifest says .*by its path"
    ):
        load("one", root=root)
    assert float(load(root / "one").W_pos[0, 0]) == float(state["transformer.wpe.weight"][0, 0])
    assert load("two", root=root).provenance.name == "two"


CONFIGS = {
    "heads": {"n_head": 8},
    "activation": {"activation_function": "relu"},
    "epsilon": {"layer_norm_epsilon": 0.5},
    "scale": {"scale_attn_weights": False},
    "scale by layer": {"scale_attn_by_inverse_layer_idx": True},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_changed_config_is_refused_by_name_and_another_model_by_path(root: Path, name: str) -> None:
    path, before = root / "one" / "config.json", load("one", root=root)
    path.write_text(json.dumps({**json.loads(path.read_text()), **CONFIGS[name]}))
    with pytest.raises(CheckpointError, match=r"checkpoint 'one': .*one/config.json has sha256 .*, the manifest says"):
        load("one", root=root)
    after = load(root / "one", root=root)
    tokens = torch.arange(15)[None]
    assert (before(tokens) - after(tokens)).abs().max() > 1e-3  # it was not a dud
    assert after.provenance.sha256 == before.provenance.sha256
    assert after.provenance.digest != before.provenance.digest


def test_files_that_decide_are_neither_added_nor_taken_away(root: Path) -> None:
    assert load("one", root=root).provenance.digest == digest_of(root / "one")
    (root / "one" / "training.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"one/training.json has sha256 .*, the manifest says nothing of it"):
        load("one", root=root)
    (root / "one" / "training.json").unlink()
    (root / "one" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"one/config.json is missing, the manifest says"):
        load("one", root=root)


def test_line_ends_of_a_config_do_not_count(root: Path) -> None:
    path = root / "one" / "config.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load("one", root=root).provenance.name == "one"


EDITS: dict[str, dict[str, Any]] = {
    "omitted inputs": {"omitted": []},
    "the seed": {"seed": 2},
    "the task": {"task": "culture"},
    "the start": {"initialisation": "start-2"},
    "a figure": {"metrics": {"exact": {"value": 0.5}}},
    "the files": {"files": {}},
    "no check": {"check": None},
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_entries_are_named(root: Path, name: str) -> None:
    path = root / "manifest.json"
    rows = json.loads(path.read_text())
    rows["one"] |= EDITS[name]
    path.write_text(json.dumps(rows))
    for read in (read_manifest, lambda root: load("one", root=root)):
        with pytest.raises(CheckpointError, match=r"manifest\.json, entry 'one' is not as it was written"):
            read(root)


def test_exchanged_entries_are_named(root: Path) -> None:
    path = root / "manifest.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({"one": rows["two"], "two": rows["one"]}))
    with pytest.raises(CheckpointError, match=r"entry 'one' is not as it was written"):
        load("one", root=root)


def test_weights_without_end_are_refused(root: Path) -> None:
    path = root / "one" / "model.safetensors"
    path.unlink()
    path.symlink_to("/dev/zero")
    for name in ("one", root / "one"):
        with pytest.raises(CheckpointError, match=r"model\.safetensors .*is not a regular file"):
            load(name, root=root)


def test_changed_manifest_is_refused(root: Path) -> None:
    entries = read_manifest(root)
    write_manifest({**entries, "one": replace(entries["one"], sha256="0" * 64)}, root)
    with pytest.raises(CheckpointError, match="the manifest says 000000000000…"):
        load("one", root=root)


def test_folder_or_weights_that_are_gone(root: Path) -> None:
    (root / "one" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="one has no weights"):
        load("one", root=root)
    shutil.rmtree(root / "second folder")
    with pytest.raises(CheckpointError, match=r"checkpoint 'two': .*second folder is missing"):
        load("two", root=root)


def test_hash_covers_every_shard(tiny_gpt2_dir: MakeDirectory) -> None:
    directory = tiny_gpt2_dir(save={"max_shard_size": "8KB"})
    before = weights_hash(directory)
    assert before == weights_hash(directory)
    shard = sorted(directory.glob("model-*.safetensors"))[-1]
    state = load_file(shard)
    for value in state.values():
        value += 1
    save_file(state, shard)
    assert weights_hash(directory) != before


def test_manifest_round_trip(root: Path, tmp_path: Path) -> None:
    entries = read_manifest(root)
    assert read_manifest(write_manifest(entries, tmp_path).parent) == entries
    assert entries["one"].omitted == ("1,1,1,1,1",)
    assert entries["one"].metrics == {"exact": {"value": 1.0}}
    assert entries["two"].omitted == ()


def test_no_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == {}
    with pytest.raises(CheckpointError, match="no such file or folder: /no/such"):
        load("/no/such", root=tmp_path)


GOOD = {"path": "one", "sha256": "0", "task": "t", "recipe": "r", "seed": 1, "initialisation": "i", "revision": "v"}
MALFORMED: dict[str, tuple[Any, str]] = {
    "no json": ("{", "not valid JSON"),
    "a list": ([GOOD], "not a mapping of names"),
    "an entry that is text": ({"bad": "one"}, "'bad'"),
    "an entry that is a number": ({"bad": 3}, "'bad'"),
    "an entry that is null": ({"good": GOOD, "bad": None}, "'bad'"),
    "an unknown key": ({"bad": {**GOOD, "url": "x"}}, "'bad'.*'url'"),
    "a missing key": ({"bad": {k: v for k, v in GOOD.items() if k != "sha256"}}, "'bad'.*'sha256'"),
    "a number for a path": ({"bad": {**GOOD, "path": 3}}, "'bad'.*path"),
    "null for a hash": ({"bad": {**GOOD, "sha256": None}}, "'bad'.*sha256"),
    "omissions of numbers": ({"bad": {**GOOD, "omitted": [4]}}, "'bad'.*omitted"),
    "a seed of text": ({"bad": {**GOOD, "seed": "1"}}, "'bad'.*seed"),
    "a seed that is true": ({"bad": {**GOOD, "seed": True}}, "'bad'.*seed"),
    "a number for a revision": ({"bad": {**GOOD, "revision": 1.5}}, "'bad'.*revision"),
    "a list of metrics": ({"bad": {**GOOD, "metrics": []}}, "'bad'.*metrics"),
    "a text for files": ({"bad": {**GOOD, "files": "x"}}, "'bad'.*files"),
    "a number of omissions": ({"bad": {**GOOD, "omitted": 4}}, "'bad'.*omitted"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("read", [read_manifest, lambda root: load("bad", root=root)], ids=["read_manifest", "load"])
def test_malformed_manifest_is_named(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    content, message = MALFORMED[name]
    (tmp_path / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=f"(?s){tmp_path / 'manifest.json'}.*{message}"):
        read(tmp_path)


def test_hash_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        weights_hash(tmp_path)


def test_culture_models_load_by_name_and_by_file(tmp_path: Path) -> None:
    model = MyGPT(MyGPTConfig(15, 16, 4, 8, 16, 2, 2), seed=0)
    path = tmp_path / "culture" / "gpt_000.pth"
    save_mygpt(model, 0.5, path)
    digest = weights_hash(path)
    known = Entry("culture/gpt_000.pth", digest, "culture", "somewhere", 0, "its own", "abc")
    write_manifest({"culture/gpt_000": known}, tmp_path)
    named = load("culture/gpt_000", root=tmp_path)
    assert named.provenance.task == "culture"
    assert named.provenance.initialisation == "its own"
    tokens = torch.randint(0, 11, (2, 404), generator=torch.Generator().manual_seed(0))
    shifted = torch.nn.functional.pad(tokens, (1, -1))
    assert (named(shifted) - model(tokens)).abs().max() < 1e-4
    assert (load(path, root=tmp_path)(shifted) - model(tokens)).abs().max() < 1e-4
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="the manifest says"):
        load("culture/gpt_000", root=tmp_path)
