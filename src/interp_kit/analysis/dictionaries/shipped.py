"""Autoencoders that come with the package, by name: `checkpoints/sae/NAME` in SAELens's format, which plain SAELens
loads, with what they explain and what made them in `provenance.json` beside. Weights are stored in float16.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.files import check_regular, read_json, write_json
from interp_kit.core.folders import replacing_directory
from interp_kit.core.result import pack, unpack
from interp_kit.models.checkpoints import checkpoint_root, weights_hash

FOLDER, KIND = "sae", "shipped autoencoder"
CONFIG, WEIGHTS, PROVENANCE = "cfg.json", "sae_weights.safetensors", "provenance.json"


def store_sae(result: SAEResult, name: str, root: str | Path, **origin: Any) -> Path:
    """Write an autoencoder to ROOT/sae/NAME, whole or not at all.

    Args:
        result: Of `train_sae`.
        name: By which `load_sae` finds it.
        root: A folder of checkpoints.
        origin: Anything else worth knowing of it, as JSON values.

    Raises:
        OSError: The folder holds anything but an autoencoder stored there before.
    """
    from safetensors.numpy import load_file, save_file

    arrays: dict[str, np.ndarray] = {}
    kept = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("weights", "frequency")}
    figures = {key: pack(value, key, arrays) for key, value in kept.items()}
    if arrays:  # the file beside the weights is JSON alone
        raise TypeError(f"{', '.join(arrays)}: figures of a shipped autoencoder hold no arrays")
    folder = Path(root) / FOLDER / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_directory(folder, KIND) as aside:
        result.to_sae_lens().save_model(aside)
        weights = {key: value.astype(np.float16) for key, value in load_file(aside / WEIGHTS).items()}
        save_file(weights, aside / WEIGHTS)
        frequency = [round(value, 6) for value in result.frequency.tolist()]
        about = {"model": result.config["model"], "sha256": weights_hash(aside / WEIGHTS), **origin}
        write_json(aside / PROVENANCE, {**about, "figures": figures, "frequency": frequency})
    return folder


def _folder(root: str | Path | None) -> Path:
    return (checkpoint_root() if root is None else Path(root)) / FOLDER


def saes(root: str | Path | None = None) -> tuple[str, ...]:
    """The names of the autoencoders there are."""
    folder = _folder(root)
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{PROVENANCE}")))


def sae_origin(name: str, root: str | Path | None = None) -> Mapping[str, Any]:
    """Origin of an autoencoder: "model", by which `interp_kit.load` finds it, "sha256" of the weights, and more.

    Raises:
        ValueError: An unknown name, listing those there are; a damaged file.
    """
    if name not in (known := saes(root)):
        raise ValueError(f"no autoencoder {name!r}; there are {', '.join(known) or 'none'}")
    found = read_json(_folder(root) / name / PROVENANCE)
    if not isinstance(found, dict) or not {"model", "sha256", "figures", "frequency"} <= set(found):
        raise ValueError(f"{name}: {PROVENANCE} is damaged; fetch the checkpoints again")
    return found


def load_sae(name: str, root: str | Path | None = None) -> SAEResult:
    """An autoencoder that comes with the package, with what it explains.

    The task that it was trained on is that of its model, with the model's own equations and splits: `ik.task_of(model)`
    gives it, `ik.task(sae.config["task"])` need not.

    Args:
        name: Such as "boolean", "cards" or "culture".
        root: A folder of checkpoints, by default the package's own.

    Raises:
        ValueError: An unknown name, listing those there are; files that are damaged or were changed.

    Examples:
        >>> sae = ik.load_sae("boolean")
        >>> model = ik.load(sae.config["model"])
        >>> task = ik.task_of(model)
    """
    from safetensors.numpy import load_file

    found, folder = sae_origin(name, root), _folder(root) / name
    file = check_regular(folder / WEIGHTS)
    if weights_hash(file) != found["sha256"]:
        raise ValueError(f"{file} is damaged or was changed: its checksum is another; fetch the checkpoints again")
    weights = {key: value.astype(np.float32) for key, value in load_file(file).items()}
    figures = {key: unpack(value, {}) for key, value in found["figures"].items()}
    if set(figures) != {f.name for f in fields(SAEResult)} - {"weights", "frequency"}:
        raise ValueError(f"{folder / PROVENANCE} has other figures than an autoencoder of this version; fetch it again")
    return SAEResult(**figures, weights=weights, frequency=np.array(found["frequency"]))
