"""The files that state dicts come in: torch files, safetensors and JSON, and what training wraps around them.

JSON as in browser demos: a tensor is nested lists of numbers, or an object with its `shape`, its `dtype` (float32 if it
is not said) and its numbers, little-endian and base64, or a flat list. Objects in objects and lists make dotted keys.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.files import check_regular, read_json
from interp_kit.models.foreign.reader import shown
from interp_kit.models.gpt2 import WRAPPERS
from interp_kit.models.tensor_files import CheckpointError, read_safetensors, read_torch

STATES = ("model", "state_dict", "model_state_dict", "model_state", "weights", "tensors", "params", "parameters")
CONFIGS = ("model_args", "config", "cfg", "model_config", "hparams", "hyper_parameters", "args")
DATA = ("data", "base64", "b64", "values", "buffer")
DTYPES = {
    **dict.fromkeys(("float32", "f32", "<f4", "float", "torch.float32", "F32"), "<f4"),
    **dict.fromkeys(("float16", "f16", "<f2", "half", "torch.float16", "F16"), "<f2"),
    **dict.fromkeys(("float64", "f64", "<f8", "double", "torch.float64", "F64"), "<f8"),
}
PREFIXES = (*WRAPPERS, "model.", "net.", "_forward_module.")
LARGE_JSON = 256 * 2**20


def read_content(path: Path) -> Any:
    """The value of a file: nested mappings, lists and tensors. Raises CheckpointError if it is damaged, larger than it
    may be, or holds more than plain values."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".json":
        try:
            check_regular(path)
            return read_json(path, LARGE_JSON)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    try:
        return read_torch(path)
    except CheckpointError as error:
        if "no dense tensor or plain value" not in str(error):
            raise
        raise CheckpointError(
            f"{error}; write torch.save(model.state_dict(), path), and name what it does not say by config={{…}}"
            " (in a shell --config)"
        ) from error


def unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in a file's content, without what torch.compile, data-parallel training and trainers put around
    it or before its keys; and the settings that stand beside it.

    Raises:
        CheckpointError: There is no state dict of tensors; it says which keys there are.
    """
    stored: dict[str, Any] = {}
    while isinstance(content, Mapping):
        for name in CONFIGS:
            if isinstance(content.get(name), Mapping):
                stored = {**{str(key): value for key, value in content[name].items()}, **stored}
        inner = next((content[name] for name in STATES if isinstance(content.get(name), Mapping)), None)
        if inner is None or any(isinstance(value, Tensor) and value.ndim > 1 for value in content.values()):
            break
        content = inner
    if path.suffix == ".json":
        content = (
            _flat({k: v for k, v in content.items() if k not in CONFIGS}, path) if isinstance(content, Mapping) else {}
        )
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict but {type(content).__name__}; {_remedy()}")
    if wrong := [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]:
        kind = type(content[wrong[0]]).__name__
        raise CheckpointError(
            f"{path}: {str(wrong[0])[:60]!r} is {kind}, no tensor; {shown([str(k) for k in content])}; {_remedy()}"
        )
    state = dict(content)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, stored | _beside(path, stored)


def _remedy() -> str:
    return "build a HookedTransformer with its weights and pass it to interp_kit.load"


def _beside(path: Path, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in a file `NAME.json` or `config.json` beside one of weights that says none."""
    places = () if stored or path.suffix == ".json" else (path.with_suffix(".json"), path.parent / "config.json")
    found = next((place for place in places if place.exists()), None)
    if found is None:
        return {}
    try:
        data = read_json(found)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{found}, beside {path.name}, cannot be read: {error}") from error
    return data if isinstance(data, dict) else {}


def _flat(content: Mapping[str, Any], path: Path, prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "shape" in value and any(kind in value for kind in DATA):
            found[name] = _tensor(name, value, path)
        elif isinstance(value, Mapping):
            found |= _flat(value, path, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            found |= _flat({str(i): item for i, item in enumerate(value)}, path, f"{name}.")
        elif isinstance(value, list):
            found[name] = _numbers(name, value, path)
    return found


def _tensor(name: str, value: Mapping[str, Any], path: Path) -> Tensor:
    shape, kind = value["shape"], value.get("dtype", value.get("type", "float32"))
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**40 for n in shape) or len(shape) > 8:
        raise CheckpointError(f"{path}: {name} has shape {str(shape)[:60]}, expected a list of whole numbers")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise CheckpointError(f"{path}: {name} has dtype {str(kind)[:40]!r}; these can be read: {', '.join(DTYPES)}")
    data = next(value[kind] for kind in DATA if kind in value)
    if isinstance(data, list):
        numbers = _numbers(name, data, path).flatten()
    else:
        try:
            raw = base64.b64decode(data, validate=True)
            numbers = torch.from_numpy(np.frombuffer(raw, dtype=DTYPES[kind]).astype(DTYPES[kind][1:]))
        except (binascii.Error, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {name} holds no base64 of {kind}: {error}") from error
    if numbers.numel() != math.prod(shape):
        raise CheckpointError(
            f"{path}: {name} has {numbers.numel()} numbers, its shape {shape} asks for {math.prod(shape)}"
        )
    return numbers.reshape(shape)


def _numbers(name: str, value: list[Any], path: Path) -> Tensor:
    try:
        array = np.array(value)
        if array.dtype.kind not in "fi":
            raise ValueError("they are not numbers, or their lists not of one length")
        return torch.from_numpy(array.astype(np.float32))
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: {name} holds no list of numbers: {error}") from error
