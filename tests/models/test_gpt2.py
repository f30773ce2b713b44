"""Checkpoints that are damaged, hostile or contradict themselves are refused with the file and the reason; sound ones
are read exactly."""

import fnmatch
import io
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp_kit.models.checkpoints import load
from interp_kit.models.gpt2 import CheckpointError, architecture, fetch, read_gpt2, read_weights

MakeDirectory = Callable[..., Path]
State = dict[str, Tensor]


@pytest.fixture
def directory(tiny_gpt2_dir: MakeDirectory) -> Path:
    """A sound checkpoint: 2 layers, 16 wide, one model.safetensors."""
    return tiny_gpt2_dir()


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, change: Callable[[State], object]) -> None:
    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors")


def as_torch_file(directory: Path, content: Any) -> Path:
    (directory / "model.safetensors").unlink()
    torch.save(content, directory / "pytorch_model.bin")
    return directory / "pytorch_model.bin"


@pytest.mark.parametrize("tied", [True, False])
def test_read_is_what_transformers_reads(tiny_gpt2_dir: MakeDirectory, tied: bool) -> None:
    directory = tiny_gpt2_dir(tie_word_embeddings=tied, n_inner=24)
    expected, found = GPT2LMHeadModel.from_pretrained(directory), read_gpt2(directory)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
    assert (found.lm_head.weight is found.transformer.wte.weight) == tied
    assert not found.training
    assert all(parameter.requires_grad for parameter in found.parameters())  # It can be trained on.
    assert architecture(found.config) == "gpt2 2 layers, 2 heads, 16 wide, 15 tokens"


def test_reading_draws_no_random_numbers(directory: Path) -> None:
    before = torch.get_rng_state()
    read_gpt2(directory)
    assert torch.equal(torch.get_rng_state(), before)


def test_changing_what_was_read_does_not_change_the_file(directory: Path) -> None:
    before = (directory / "model.safetensors").read_bytes()
    model = read_gpt2(directory)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (directory / "model.safetensors").read_bytes() == before


# Files ------------------------------------------------------------------------------------------------------------


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20])


def pickle_as_safetensors(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def zip_as_safetensors(directory: Path) -> None:
    torch.save({"a": torch.zeros(1)}, directory / "model.safetensors")


def folder_as_safetensors(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").mkdir()


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def shards(directory: Path, index: Any) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))


def truncate_torch_file(directory: Path) -> None:
    path = as_torch_file(directory, read_gpt2(directory).state_dict())
    path.write_bytes(path.read_bytes()[:-200])


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "model.safetensors cannot be read: .*[Mm]eta|model.safetensors cannot be read: .*buffer"),
    "cut in the header": (cut_header, "model.safetensors cannot be read"),
    "empty file": (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors cannot be read"),
    "text": (lambda d: (d / "model.safetensors").write_text("version https://git-lfs"), "model.safetensors cannot be"),
    "pickle": (pickle_as_safetensors, "model.safetensors cannot be read: it is a pickle or a zip file"),
    "zip": (zip_as_safetensors, "model.safetensors cannot be read: it is a pickle or a zip file"),
    "folder": (folder_as_safetensors, "model.safetensors cannot be read: .*is not a regular file"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "has no weights .model.safetensors, .*bin"),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config is not a json": (lambda d: (d / "config.json").write_text("{"), "config.json.*not valid JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "config.json: model_type 'list', expected"),
    "config without end": (lambda d: linked(d / "config.json"), "config.json is not a regular file"),
    "weights without end": (lambda d: linked(d / "model.safetensors"), "model.safetensors .*is not a regular file"),
    "another model": (lambda d: edit_config(d, model_type="bert"), "config.json: model_type 'bert', expected 'gpt2'"),
    "index is not a json": (lambda d: shards(d, "{"), "index.json cannot be read"),
    "index without map": (lambda d: shards(d, {"metadata": {}}), "index.json cannot be read"),
    "index of numbers": (lambda d: shards(d, {"weight_map": {"a": 3}}), "index.json cannot be read"),
    "index is a list": (lambda d: shards(d, []), "index.json cannot be read"),
    "shard missing": (lambda d: shards(d, {"weight_map": {"a": "b.safetensors"}}), "index.json cannot be .*b.safe"),
    "shard outside": (lambda d: shards(d, {"weight_map": {"a": "../b.safetensors"}}), "shard lies outside"),
    "shard anywhere": (lambda d: shards(d, {"weight_map": {"a": "/etc/passwd"}}), "shard lies outside"),
    "truncated torch file": (truncate_torch_file, "pytorch_model.bin cannot be read"),
    "torch file of a model": (lambda d: as_torch_file(d, GPT2Config()), "pytorch_model.bin cannot be read: it holds"),
    "torch file of a list": (lambda d: as_torch_file(d, [torch.zeros(1)]), "pytorch_model.bin is not a state dict"),
    "torch file of more": (lambda d: as_torch_file(d, {"model": {"a": torch.zeros(1)}}), "bin is not a state dict"),
    "torch file of numbered": (lambda d: as_torch_file(d, {3: torch.zeros(1)}), "bin is not a state dict"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_file_is_named_with_its_reason(directory: Path, name: str) -> None:
    damage, message = FILES[name]
    damage(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(directory)
    assert str(directory) in str(caught.value)


def test_folder_for_weights_is_named(directory: Path) -> None:
    folder_as_safetensors(directory)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        read_weights(directory)


def refusal(directory: Path) -> str | None:
    """What read_weights says against a folder, None where it reads it."""
    try:
        read_weights(directory)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_randomly_damaged_weights_are_read_or_refused_and_nothing_else(
    directory: Path, file: str, legacy: bool
) -> None:
    state = {"wte.weight": torch.randn(5, 4), "b": torch.zeros(3)}
    (directory / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(state, directory / file, _use_new_zipfile_serialization=not legacy)
    else:
        save_file(state, directory / file)
    sound, rng, refused = (directory / file).read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(sound[: rng.randrange(len(sound))] if rng.random() < 0.3 else sound)
        for _ in range(rng.randint(1, 4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (directory / file).write_bytes(damaged)
        message = refusal(directory)
        if message is not None:
            refused += 1
            assert str(directory / file) in message
    assert refused > 40


class Hostile:
    """Unpickled by pickle itself, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return open, (str(self.target), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch", "torch legacy", "torch beside tensors"])
def test_hostile_pickle_is_not_executed(directory: Path, tmp_path: Path, name: str, form: str) -> None:
    target = tmp_path / "made by the pickle"
    (directory / "model.safetensors").unlink()
    content: Any = {"wte.weight": torch.zeros(2), "x": Hostile(target)} if "beside" in form else Hostile(target)
    if form == "pickle":
        (directory / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, directory / name, _use_new_zipfile_serialization="legacy" not in form)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: .*nothing in it was executed"):
        load(directory)
    assert not target.exists()
    if name.endswith(".bin"):  # The file was not a dud.
        torch.load(directory / name, weights_only=False) if form != "pickle" else pickle.loads(
            (directory / name).read_bytes()
        )
        assert target.exists()


# Weights and config ------------------------------------------------------------------------------------------------


def put(key: str, index: tuple[int, ...], value: float) -> Callable[[State], object]:
    return lambda state: state[key].__setitem__(index, value)


WEIGHTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "nan": (put("transformer.h.1.mlp.c_fc.weight", (3, 4), float("nan")), r"h.1.mlp.c_fc.weight has 1 nan or infinite"),
    "nan in the tied head": (put("transformer.wte.weight", (0, 0), float("nan")), "wte.weight has 1 nan or infinite"),
    "infinite": (put("transformer.ln_f.bias", (2,), float("-inf")), "ln_f.bias has 1 nan or infinite"),
    "missing": (lambda s: s.pop("transformer.h.0.attn.c_attn.bias"), "h.0.attn.c_attn.bias is missing"),
    "too much": (lambda s: s.update({"transformer.h.0.extra": torch.zeros(2)}), "h.0.extra is not in the model"),
    "whole numbers": (
        lambda s: s.update({"transformer.ln_f.weight": torch.ones(16, dtype=torch.int32)}),
        "ln_f.weight holds torch.int32",
    ),
    "wrong shape": (
        lambda s: s.update({"transformer.h.1.mlp.c_fc.weight": torch.zeros(64, 16)}),
        r"h.1.mlp.c_fc.weight has shape \(64, 16\), config.json asks for \(16, 64\)",
    ),
    "tied but different": (
        lambda s: s.update({"lm_head.weight": torch.zeros(15, 16)}),
        "config.json ties the word embeddings, but lm_head.weight differs",
    ),
    "tied but of another shape": (
        lambda s: s.update({"lm_head.weight": torch.zeros(14, 16)}),
        "config.json ties the word embeddings, but lm_head.weight differs",
    ),
    "a layer too few": (
        lambda s: [s.pop(key) for key in list(s) if key.startswith("transformer.h.1.")],
        "n_layer is 2, but the weights hold 1 layers",
    ),
    "nothing": (lambda s: s.clear(), "n_layer is 2, but the weights hold 0 layers"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_bad_weights_are_named(directory: Path, name: str) -> None:
    change, message = WEIGHTS[name]
    edit_weights(directory, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(directory)
    assert str(directory) in str(caught.value)


def test_tied_head_may_be_stored_as_well(directory: Path) -> None:
    edit_weights(directory, lambda s: s.update({"lm_head.weight": s["transformer.wte.weight"].clone()}))
    assert read_gpt2(directory).lm_head.weight.shape == (15, 16)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "more layers": ({"n_layer": 3}, "config.json: n_layer is 3, but the weights hold 2 layers"),
    "fewer layers": ({"n_layer": 1}, "config.json: n_layer is 1, but the weights hold 2 layers"),
    "far more layers": ({"n_layer": 10**9}, "n_layer is 1000000000, but the weights hold 2"),
    "negative layers": ({"n_layer": -1}, "n_layer is -1"),
    "wider": ({"n_embd": 32}, r"wte.weight has shape \(15, 16\), config.json asks for \(15, 32\).*and \d+ more"),
    "far wider": ({"n_embd": 10**6}, r"config.json asks for \(15, 1000000\)"),
    "negative width": ({"n_embd": -16}, "config.json: no GPT-2 can be built from it"),
    "longer": ({"n_positions": 10**9}, r"wpe.weight has shape \(24, 16\), config.json asks for \(1000000000, 16\)"),
    "larger vocabulary": ({"vocab_size": 10**12}, r"config.json asks for \(1000000000000, 16\)"),
    "another MLP": ({"n_inner": 8}, r"mlp.c_fc.weight has shape \(16, 64\), config.json asks for \(16, 8\)"),
    "untied": ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
    "three heads": ({"n_head": 3}, "config.json: no GPT-2 can be built from it: .*divisible"),
    "no heads": ({"n_head": 0}, "config.json: no GPT-2 can be built from it"),
    "negative heads": ({"n_head": -2}, "n_embd 16 is not a multiple of n_head -2"),
    "unknown activation": ({"activation_function": "snake"}, "config.json: no GPT-2 can be built from it: .*snake"),
    "text for a number": ({"n_embd": "16"}, "config.json: .*n_embd.*expected int"),
    "null for a number": ({"n_layer": None}, "config.json: .*n_layer"),
    "unknown precision": ({"dtype": "float17"}, "config.json: .*float17"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_that_contradicts_the_weights_or_itself(directory: Path, name: str) -> None:
    changes, message = CONFIGS[name]
    edit_config(directory, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(directory)
    assert str(directory) in str(caught.value) or name == "negative heads"


# Where it comes from ------------------------------------------------------------------------------------------------


def test_path_that_is_a_file(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{directory / 'config.json'} is a file")):
        fetch(directory / "config.json")


@pytest.mark.parametrize("source", ["/no/such/folder", "../up", "a/b/c", "https://example.org/model", "a b"])
def test_what_can_be_no_hub_id_asks_no_hub(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(CheckpointError, match=re.escape(f"no directory {source}, and it cannot be a hub id")):
        fetch(source)


def test_hub_id_is_asked_for_safe_files_only(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    asked = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert read_gpt2("someone/tiny-gpt2").config.n_embd == 16
    assert asked.keys() == {"someone/tiny-gpt2"}
    assert not any("bin" in pattern or "py" in pattern or pattern == "*" for pattern in asked["someone/tiny-gpt2"])


def test_hub_repository_of_torch_files_alone(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    expected = logits_of(GPT2LMHeadModel.from_pretrained(directory))
    stored = as_torch_file(directory, load_file(directory / "model.safetensors"))
    content, asked = stored.read_bytes(), []
    stored.unlink()

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        if any(fnmatch.fnmatch(stored.name, pattern) for pattern in allow_patterns):
            stored.write_bytes(content)
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert (logits_of(read_gpt2("someone/old-gpt2")) - expected).abs().max() < 1e-5
    assert len(asked) == 2
    assert not any(fnmatch.fnmatch(name, pattern) for name in ("x.py", "optimizer.bin") for pattern in asked[1])


# As transformers reads them -----------------------------------------------------------------------------------------


def logits_of(model: Any) -> Tensor:
    tokens = torch.randint(0, 15, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = model.eval()(tokens)
    return found if isinstance(found, Tensor) else found.logits


def only_the_head(directory: Path) -> None:
    edit_weights(directory, lambda s: s.update({"lm_head.weight": s.pop("transformer.wte.weight")}))


def saved_whole(directory: Path) -> None:
    save_model(GPT2LMHeadModel.from_pretrained(directory), str(directory / "model.safetensors"))


def sharded(directory: Path) -> None:
    """`pytorch_model.bin` in two shards, as transformers wrote them before safetensors."""
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = {key: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, key in enumerate(state)}
    for shard in set(names.values()):
        torch.save({key: state[key] for key, name in names.items() if name == shard}, directory / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def sharded_safetensors(directory: Path) -> None:
    GPT2LMHeadModel.from_pretrained(directory).save_pretrained(directory, max_shard_size="8KB")
    (directory / "model.safetensors").unlink(missing_ok=True)


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "a tied head alone": only_the_head,
    "save_model": saved_whole,
    "sharded torch files": sharded,
    "sharded safetensors": sharded_safetensors,
    "a torch file": lambda d: as_torch_file(d, load_file(d / "model.safetensors")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_transformers_reads(directory: Path, name: str) -> None:
    before = logits_of(GPT2LMHeadModel.from_pretrained(directory))
    LAYOUTS[name](directory)
    expected = logits_of(GPT2LMHeadModel.from_pretrained(directory))
    assert torch.equal(before, expected)  # it was not a dud
    assert (logits_of(read_gpt2(directory)) - expected).abs().max() < 1e-5
    assert (logits_of(load(directory)) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_compiled_and_parallel_models(directory: Path, prefix: str) -> None:
    expected = logits_of(GPT2LMHeadModel.from_pretrained(directory))
    state = load_file(directory / "model.safetensors")
    save_file({prefix + key: value for key, value in state.items()}, directory / "model.safetensors")
    assert (logits_of(load(directory)) - expected).abs().max() < 1e-4
    save_file({**state, prefix + "transformer.ln_f.bias": torch.zeros(16)}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(f"{prefix}transformer.ln_f.bias is not in the model")):
        load(directory)


def test_an_mlp_of_no_neurons_is_refused_as_transformers_cannot_run_it(tiny_gpt2_dir: MakeDirectory) -> None:
    directory = tiny_gpt2_dir(n_inner=0)
    with pytest.raises(RuntimeError, match="reshape"):
        logits_of(GPT2LMHeadModel.from_pretrained(directory))
    with pytest.raises(CheckpointError, match=r"config\.json: n_inner is 0, expected at least 1"):
        load(directory)


@pytest.mark.parametrize("kind", ["in two", "elsewhere", "nowhere", "unnamed"])
@pytest.mark.parametrize("layout", [sharded, sharded_safetensors])
def test_an_index_that_its_shards_contradict(directory: Path, layout: Callable[[Path], None], kind: str) -> None:
    """transformers takes one of two without a word; here it is refused."""
    layout(directory)
    path = next(directory.glob("*.index.json"))
    index = json.loads(path.read_text())
    key, other = "transformer.ln_f.bias", "transformer.h.0.ln_1.bias"
    named, away = (
        index["weight_map"][key],
        next(s for s in index["weight_map"].values() if s != index["weight_map"][key]),
    )
    message = f"{key} lies in {away}, but the index names {named} for it"
    match kind:
        case "in two":
            change_shard(directory / away, lambda s: s.update({key: torch.zeros(16)}))
        case "elsewhere":
            index["weight_map"][key] = away
            message = f"{key} "
        case "nowhere":
            change_shard(directory / named, lambda s: s.pop(key))
            message = f"{key} is not in {named}, which the index names for it"
        case _:
            del index["weight_map"][other]
            message = f"{other} lies in .*, but the index does not name it"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(directory)
    assert str(path) in str(caught.value)


def change_shard(path: Path, change: Callable[[State], object]) -> None:
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    change(state)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def test_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no directory someone/none, and the hub is not reached from here$"):
        fetch("someone/none")


def test_read_weights_of_every_kind_of_file(directory: Path, tmp_path: Path) -> None:
    state = {"a": torch.randn(2, 3), "b.c": torch.arange(3.0)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    for name in ("torch", "safe", "shards"):
        (tmp_path / name).mkdir()
    (tmp_path / "torch" / "pytorch_model.bin").write_bytes(buffer.getvalue())
    save_file(state, tmp_path / "safe" / "model.safetensors")
    save_file({"a": state["a"]}, tmp_path / "shards" / "1.safetensors")
    save_file({"b.c": state["b.c"]}, tmp_path / "shards" / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b.c": "2.safetensors"}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("torch", "safe", "shards"):
        found = read_weights(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
