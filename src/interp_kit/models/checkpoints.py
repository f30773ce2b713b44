"""The checkpoints that come with the library: a manifest with hashes, and `load` by name, path or hub id."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from interp_kit.core.config import from_mapping
from interp_kit.core.files import read_json, write_json
from interp_kit.core.identity import Identity, check_description, fingerprint
from interp_kit.core.types import attach
from interp_kit.models.convert import convert_gpt2, convert_mygpt
from interp_kit.models.gpt2 import WEIGHT_FILES, CheckpointError, fetch, read_gpt2
from interp_kit.models.mygpt import load_mygpt

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

MANIFEST = "manifest.json"
TRAINING = "training.json"  # beside the weights: how, and on which task, they were trained


@dataclass(frozen=True)
class Entry:
    """One shipped checkpoint: where it lies, its hash, and how it came to be.

    path: relative to the manifest; sha256: of the weights file; task: what it learnt; recipe: the module that trains
    it; seed: of training; initialisation: models that share it start from the same weights; revision: of the code that
    trained it; omitted: inputs that its data do not contain; metrics: measured by the recipe.
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


@dataclass(frozen=True)
class Provenance:
    """Where a loaded model comes from. name: for tables; initialisation: None where unknown; sha256 of its weights;
    task: name of the task that it learned, None where unknown; description: of that task (`AbstractTask.describe`)."""

    name: str
    path: str
    sha256: str
    initialisation: str | None = None
    task: str | None = None
    omitted: tuple[str, ...] = ()
    description: Mapping[str, Any] | None = None

    @cached_property
    def identity(self) -> Identity:
        """The task that the model learned."""
        return Identity(self.task, "" if self.description is None else fingerprint(self.description))


def read_description(directory: Path) -> dict[str, Any] | None:
    """The description of its task that training wrote into a checkpoint's folder; None where there is none. Raises
    CheckpointError where the file is damaged."""
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
    """Where a model comes from; "unnamed" for one that was not loaded here."""
    return getattr(model, "provenance", Provenance(name=type(model).__name__, path="", sha256=""))


def checkpoint_root() -> Path:
    """The folder with the manifest: $INTERP_KIT_CHECKPOINTS, the repository's `checkpoints`, or ./checkpoints."""
    if named := os.environ.get("INTERP_KIT_CHECKPOINTS"):
        return Path(named)
    beside_source = Path(__file__).resolve().parents[3] / "checkpoints"
    return beside_source if (beside_source / MANIFEST).exists() else Path("checkpoints")


def read_manifest(root: str | Path | None = None) -> dict[str, Entry]:
    """Name -> entry, empty where there is no manifest. Raises CheckpointError naming the file and a malformed entry."""
    path = Path(root or checkpoint_root()) / MANIFEST
    if not path.exists():
        return {}
    try:
        rows = read_json(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(rows, dict):
        raise CheckpointError(f"{path} is no mapping of names to entries")
    return {name: _entry(row, f"{path}, entry {name!r}") for name, row in rows.items()}


def _entry(row: object, where: str) -> Entry:
    if not isinstance(row, dict):
        raise CheckpointError(f"{where}: {row!r} is no mapping")
    for key in ("path", "sha256", "task", "initialisation"):
        if not isinstance(row.get(key, ""), str):
            raise CheckpointError(f"{where}: {key} is {row[key]!r}, no text")
    if not isinstance(row.get("omitted", []), list):
        raise CheckpointError(f"{where}: omitted is {row['omitted']!r}, no list")
    try:
        return from_mapping(Entry, row)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_manifest(entries: Mapping[str, Entry], root: str | Path) -> Path:
    """Write the manifest, whole or not at all."""
    return write_json(Path(root) / MANIFEST, {name: asdict(entry) for name, entry in entries.items()})


def weights_hash(directory: str | Path) -> str:
    """sha256 of a `.pth` file, or of the weights file of a checkpoint directory; of index and shards, one behind the
    other, where it has shards."""
    if Path(directory).is_file():
        return hashlib.sha256(Path(directory).read_bytes()).hexdigest()
    for name in WEIGHT_FILES:
        path = Path(directory) / name
        if path.is_file():
            shards = sorted(path.parent.glob("*.safetensors")) if name.endswith(".index.json") else []
            return hashlib.sha256(b"".join(file.read_bytes() for file in (path, *shards))).hexdigest()
    raise CheckpointError(f"{directory} has no weights ({', '.join(WEIGHT_FILES)})")


class UnknownCheckpoint(CheckpointError):
    """No checkpoint of that name, here or on the hub."""


def load(
    name: str | Path,
    *,
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    root: str | Path | None = None,
) -> "HookedTransformer":
    """A model by name in `checkpoints/`, by directory (GPT-2) or `.pth` file (MyGPT), or by hub id, converted and
    checked. fold, dtype: of GPT-2s.

    The model carries `provenance` and `conversion` (max |logit difference| against its source), which is also logged.
    Raises CheckpointError for an unknown name (listing those there are), a changed or damaged file, or a config that
    cannot be converted.
    """
    entries = read_manifest(root)
    entry = entries.get(str(name))
    if entry is not None:
        directory = Path(root or checkpoint_root()) / entry.path
        if not directory.exists():
            raise CheckpointError(f"checkpoint {name!r}: {directory} is missing")
        digest = weights_hash(directory)
        if digest != entry.sha256:
            raise CheckpointError(
                f"checkpoint {name!r}: {directory} has sha256 {digest[:12]}…, the manifest says {entry.sha256[:12]}…;"
                " load it by its path if the change is meant"
            )
    else:
        try:
            directory = Path(name) if Path(name).suffix == ".pth" and Path(name).is_file() else fetch(name)
        except CheckpointError as error:
            raise UnknownCheckpoint(
                f"unknown checkpoint {str(name)!r}: {error}; shipped: {', '.join(entries)}"
            ) from error
        digest = weights_hash(directory)
    if directory.is_file():
        model = convert_mygpt(load_mygpt(directory)[0], device=device)
    else:
        model = convert_gpt2(read_gpt2(directory, dtype), fold=fold, device=device)
    description = read_description(directory)
    origin = Provenance(
        name=str(name),
        path=str(directory),
        sha256=digest,
        initialisation=entry.initialisation if entry else None,
        task=description["name"] if description else entry.task if entry else None,
        omitted=entry.omitted if entry else (),
        description=description,
    )
    attach(model, provenance=origin)
    logger.info("{}: {}", name, model.conversion)
    return model
