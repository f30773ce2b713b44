"""The checkpoints that come with the library: a manifest with hashes, and `load` by name, path or hub id."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from interp_kit.core.config import from_mapping, listed
from interp_kit.core.files import check_regular, read_bytes, read_json, write_json
from interp_kit.core.folders import replacing_directory
from interp_kit.core.identity import Identity, check_description, fingerprint
from interp_kit.models.convert import convert_gpt2, convert_mygpt
from interp_kit.models.foreign.containers import read_content
from interp_kit.models.foreign.hugging_face import ARCHITECTURES, convert_directory, model_type
from interp_kit.models.foreign.load import load_file
from interp_kit.models.gpt2 import fetch, is_path, read_gpt2, weight_files
from interp_kit.models.hooked_model import attach
from interp_kit.models.mygpt import load_mygpt
from interp_kit.models.tensor_files import SUFFIXES, CheckpointError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

MANIFEST = "manifest.json"
TRAINING = "training.json"  # beside the weights: how, and on which task, they were trained
# How to get what a wheel leaves out: only the small checkpoints are in it.
ELSEWHERE = (
    "an installed package has the boolean models only, so take the others from a clone of the repository"
    " ($INTERP_KIT_CHECKPOINTS names its folder checkpoints), or load a model by its path or hub id"
)
# Files beside the weights that decide what a checkpoint computes, or how text becomes tokens for it.
DECIDING = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TRAINING,
)


@dataclass(frozen=True)
class Entry:
    """One shipped checkpoint: where it lies, its hash, and how it came to be.

    path: relative to the manifest; sha256: of the weights file; task: what it learned; recipe: the module that trains
    it; seed: of training; initialisation: models that share it start from the same weights; revision: of the code that
    trained it; omitted: inputs that its data do not contain; metrics: measured by the recipe; files: sha256 of each
    file beside the weights that decides what it computes, as `deciding_files` gives them.
    """

    path: str
    sha256: str
    task: str
    recipe: str
    seed: int
    initialisation: str
    revision: str
    omitted: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """Origin of a loaded model.

    name: for tables; initialisation: None where unknown; sha256: of its weights; digest: of all that decides what it
    computes, weights and config and tokenizer; task: name of the task that it learned, None where unknown;
    description: of that task (`AbstractTask.describe`).
    """

    name: str
    path: str
    sha256: str
    initialisation: str | None = None
    task: str | None = None
    omitted: tuple[str, ...] = ()
    digest: str = ""
    description: Mapping[str, Any] | None = None

    @cached_property
    def identity(self) -> Identity:
        """The task that the model learned."""
        return Identity(self.task, "" if self.description is None else fingerprint(self.description))


def read_description(directory: Path) -> dict[str, Any] | None:
    """The description of its task that training wrote into a checkpoint's folder; None where there is none. Raises
    CheckpointError if the file is damaged."""
    path = directory / TRAINING
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
        found = facts.get("description") if isinstance(facts, dict) else None
        return None if found is None else check_description(found, str(path))
    except ValueError as error:
        raise CheckpointError(f"{error}; delete the file to load the model as one of unknown task") from error


def provenance(model: object) -> Provenance:
    """Origin of a model; "unnamed" for one that was not loaded here."""
    return getattr(model, "provenance", Provenance(name=type(model).__name__, path="", sha256=""))


def checkpoint_root() -> Path:
    """The folder with the manifest: $INTERP_KIT_CHECKPOINTS, else the first that has one of the repository's
    `checkpoints`, those installed with the package, and ./checkpoints."""
    if named := os.environ.get("INTERP_KIT_CHECKPOINTS"):
        return Path(named)
    package = Path(__file__).resolve().parents[1]
    places = (package.parents[1] / "checkpoints", package / "checkpoints")
    return next((place for place in places if (place / MANIFEST).exists()), Path("checkpoints"))


def read_manifest(root: str | Path | None = None) -> dict[str, Entry]:
    """Name -> entry, empty where there is no manifest.

    Raises:
        CheckpointError: Naming the file and an entry that is malformed, or was edited since it was written.
    """
    path = Path(root or checkpoint_root()) / MANIFEST
    if not path.exists():
        return {}
    try:
        rows = read_json(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(rows, dict):
        raise CheckpointError(f"{path} is not a mapping of names to entries")
    entries = {name: _entry(row, f"{path}, entry {name!r}") for name, row in rows.items()}
    for name, entry in entries.items():
        if rows[name].get("check") != _check(name, entry):
            raise CheckpointError(
                f"{path}, entry {name!r} is not as it was written: its check is {rows[name].get('check')!r}, expected"
                f" {_check(name, entry)!r}; restore the file, or write the entry with its recipe"
            )
    return entries


def _entry(row: object, where: str) -> Entry:
    if not isinstance(row, dict):
        raise CheckpointError(f"{where}: {row!r} is not a mapping")
    for key in ("path", "sha256", "task", "recipe", "initialisation", "revision"):
        if not isinstance(row.get(key, ""), str):
            raise CheckpointError(f"{where}: {key} is {row[key]!r}, no text")
    if type(row.get("seed", 0)) is not int:
        raise CheckpointError(f"{where}: seed is {row['seed']!r}, no whole number")
    omitted = row.get("omitted", [])
    if not isinstance(omitted, list) or not all(isinstance(text, str) for text in omitted):
        raise CheckpointError(f"{where}: omitted is {omitted!r}, no list of texts")
    for key in ("metrics", "files"):
        if not isinstance(row.get(key, {}), dict):
            raise CheckpointError(f"{where}: {key} is {row[key]!r}, no mapping")
    try:
        return from_mapping(Entry, {key: value for key, value in row.items() if key != "check"})
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_manifest(entries: Mapping[str, Entry], root: str | Path) -> Path:
    """Write the manifest, whole or not at all; each entry with a check value, so that an edited one is noticed."""
    rows = {name: {**asdict(entry), "check": _check(name, entry)} for name, entry in entries.items()}
    return write_json(Path(root) / MANIFEST, rows)


def _check(name: str, entry: Entry) -> str:
    return checksum([name, asdict(entry)])


def checksum(data: Any) -> str:
    """sha256 of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()


def weights_hash(path: str | Path) -> str:
    """sha256 of a `.pth` file, or of the weights file of a checkpoint directory; of index and shards, one after the
    other, if it has shards. Raises CheckpointError naming a file that is missing or not a regular one."""
    files = weight_files(path) if Path(path).is_dir() else [Path(path)]
    found = hashlib.sha256()
    for file in files:
        try:
            with check_regular(file).open("rb") as content:
                while part := content.read(2**20):
                    found.update(part)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
    return found.hexdigest()


def store(source: Path, target: Path, kind: str, facts: Mapping[str, Any] | None = None) -> None:
    """Copy the visible files of a trained model's folder to the checkpoint `target`, whole or not at all.

    kind: of the folder, see `core.folders`; facts: what training.json says in place of the source's.
    """
    with replacing_directory(target, kind) as aside:
        for file in sorted(source.iterdir()):
            if not file.name.startswith("."):  # the mark of the folder
                shutil.copy(file, aside)
        if facts is not None:
            write_json(aside / TRAINING, dict(facts))


def deciding_files(path: str | Path) -> dict[str, str]:
    """sha256 of each file of a checkpoint directory, beside the weights, that decides what it computes; none for a
    `.pth` file, which holds all. Line ends do not count."""
    found = {}
    for name in DECIDING if Path(path).is_dir() else ():
        if (Path(path) / name).exists():
            try:
                content = read_bytes(Path(path) / name)
            except (OSError, ValueError) as error:
                raise CheckpointError(str(error)) from error
            found[name] = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    return found


def digest_of(path: str | Path) -> str:
    """sha256 of all that decides what a checkpoint computes: its weights and its deciding files."""
    return checksum([weights_hash(path), deciding_files(path)])


def verify_entry(entry: Entry, path: str | Path, what: str) -> None:
    """Compare a checkpoint with its entry of the manifest.

    Args:
        entry: What the manifest says.
        path: The directory or `.pth` file.
        what: The checkpoint's name, for messages.

    Raises:
        CheckpointError: It is missing, or its weights or a file that decides what it computes was changed, added or
            taken away.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{what}: {path} is missing; {ELSEWHERE}")
    known, found = {path.name: entry.sha256}, {path.name: weights_hash(path)}
    if path.is_dir():
        known, found = {**known, **entry.files}, {**found, **deciding_files(path)}
    for name in (*known, *found):
        mine, said = found.get(name), known.get(name)
        if mine != said:
            file = path if name == path.name else path / name
            has = f"has sha256 {mine[:12]}…" if mine else "is missing"
            raise CheckpointError(
                f"{what}: {file} {has}, the manifest says {f'{said[:12]}…' if said else 'nothing of it'};"
                " load it by its path if the change is meant"
            )


class UnknownCheckpoint(CheckpointError):
    """No checkpoint of that name, here or on the hub."""


def load(
    name: str | Path,
    *,
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    root: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> "HookedTransformer":
    """A model by name in `checkpoints/`, by directory (Hugging Face), file (MyGPT, or a layout of `models.foreign`), or
    by hub id, converted and checked. fold, dtype: of all but MyGPTs; config: see `models.foreign.load.load_file`.

    The model carries `provenance` and `conversion` (max |logit difference| against its source), which is also logged.
    Raises CheckpointError for an unknown name (listing those there are), a path of nothing, a changed or damaged file,
    or a config that cannot be converted; ValueError for a config of what says all itself.
    """
    entries = read_manifest(root)
    entry = entries.get(str(name))
    if entry is not None:
        directory = Path(root or checkpoint_root()) / entry.path
        verify_entry(entry, directory, f"checkpoint {name!r}")
    else:
        file = Path(name)
        if is_path(name) and not file.exists():
            raise CheckpointError(f"no such file or folder: {name}")
        try:
            weights = file.suffix in SUFFIXES and file.name != "config.json" and file.is_file()
            directory = file if weights else fetch(name)
        except CheckpointError as error:
            if is_path(name):
                raise
            raise UnknownCheckpoint(
                f"unknown checkpoint {str(name)!r}: {error}; shipped: {listed(entries, str(name))}"
            ) from error
    sha256, digest = weights_hash(directory), digest_of(directory)
    model = _model(directory, fold, dtype, device, config)
    if settings := getattr(model, "settings", None):
        digest = checksum([digest, settings])
    description = read_description(directory)
    origin = Provenance(
        name=str(name),
        path=str(directory),
        sha256=sha256,
        digest=digest,
        initialisation=entry.initialisation if entry else None,
        task=description["name"] if description else entry.task if entry else None,
        omitted=entry.omitted if entry else (),
        description=description,
    )
    attach(model, provenance=origin)
    given = ", ".join(f"{key}={value!r}" for key, value in (config or {}).items())
    logger.info("{}: {}{}", name, model.conversion, f"; read with {given}, which no weight can confirm" * bool(given))
    return model


def _model(
    path: Path, fold: bool, dtype: torch.dtype, device: str, config: Mapping[str, Any] | None
) -> "HookedTransformer":
    """The model of a directory or file, converted."""
    content = None
    if path.is_file():
        content = read_content(path)
        if not (isinstance(content, tuple | list) and len(content) == 2):  # a MyGPT: its state dict and its accuracy
            return load_file(path, content, config=config, fold=fold, dtype=dtype, device=device)
    if config:
        raise ValueError(f"config is for files of weights; {path} says all itself, so load it without")
    if content is not None:
        return convert_mygpt(load_mygpt(path)[0], device=device)
    kind = model_type(path)
    if kind not in (None, "gpt2", *ARCHITECTURES):
        raise CheckpointError(
            f"{path / 'config.json'}: model_type {kind!r}, expected 'gpt2' or one of {', '.join(ARCHITECTURES)}; build"
            " a HookedTransformer of it and pass that to interp_kit.load"
        )
    if kind in ARCHITECTURES:
        return convert_directory(path, kind, fold=fold, dtype=dtype, device=device)
    return convert_gpt2(read_gpt2(path, dtype), fold=fold, device=device)
