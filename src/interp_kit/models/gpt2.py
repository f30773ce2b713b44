"""Reading Hugging Face GPT-2 checkpoints of any shape, safely: safetensors or weights-only torch files, checked key
by key."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_kit.core.files import read_json

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# causal masks that old checkpoints store beside the weights
BUFFERS = re.compile(r"(^|\.)attn\.(bias|masked_bias)$")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, hostile or contradicts itself; the message names file and reason."""


def fetch(source: str | Path) -> Path:
    """A local directory for a path or a hub id. Raises CheckpointError where there is neither."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; a GPT-2 checkpoint is a directory with config.json and weights")
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"no directory {source}, and it cannot be a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:
        raise CheckpointError(f"no directory {source}, and the hub does not give it: {_first_line(error)}") from error


def read_gpt2(source: str | Path, dtype: torch.dtype = torch.float32) -> "GPT2LMHeadModel":
    """Load a GPT-2 from a directory or hub id, in eval mode, cast to `dtype`.

    Raises CheckpointError where files are missing or damaged, where a pickle would run code, where weights and config
    contradict each other (naming the first parameters that do), or where a weight is nan or infinite.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = fetch(source)
    config_file = directory / "config.json"
    if not config_file.exists():
        raise CheckpointError(f"{directory} has no config.json")
    try:
        raw = read_json(config_file)
        if not isinstance(raw, dict) or raw.get("model_type") != "gpt2":
            found = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
            raise CheckpointError(f"{config_file}: model_type {found!r}, expected 'gpt2'")
        config = GPT2Config.from_dict(raw)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{config_file}: {' '.join(str(error).split())}") from error
    state = _normalised(read_weights(directory), config.tie_word_embeddings, directory)
    layers = {match[1] for key in state if (match := re.match(r"transformer\.h\.(\d+)\.", key))}
    if config.n_layer != len(layers):
        raise CheckpointError(f"{config_file}: n_layer is {config.n_layer}, but the weights hold {len(layers)} layers")
    try:
        with torch.device(
            "meta"
        ):  # Shapes alone: a config may ask for more than fits, and no random numbers are drawn.
            model = GPT2LMHeadModel(config)
    except Exception as error:
        raise CheckpointError(f"{config_file}: no GPT-2 can be built from it: {_first_line(error)}") from error
    _check_against(model.state_dict(), state, directory)
    for name, value in state.items():
        if count := int((~torch.isfinite(value.float())).sum()):
            raise CheckpointError(f"{directory}: {name} has {count} nan or infinite values")
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    return model.eval()  # pyright: ignore[reportArgumentType]


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The state dict of a directory: safetensors, sharded safetensors, or a torch file read with weights_only=True."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in WEIGHT_FILES:
        path = directory / name
        if not path.exists():
            continue
        try:
            if name.endswith(".index.json"):
                shards = sorted(set(read_json(path)["weight_map"].values()))
                if any(Path(shard).name != shard for shard in shards):
                    raise CheckpointError(f"{path}: a shard lies outside the directory")
                return {key: value for shard in shards for key, value in load_file(directory / shard).items()}
            if name.endswith(".safetensors"):
                return load_file(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        except CheckpointError:
            raise
        except Exception as error:  # A damaged torch file fails in a dozen ways.
            reason = _first_line(error)
            if isinstance(error, SafetensorError) and _first_byte(path) in (b"\x80", b"P"):
                reason = "it is a pickle or a zip file, not safetensors; nothing in it was executed"
            elif isinstance(error, pickle.UnpicklingError):
                reason = f"it holds more than plain tensors, and nothing in it was executed ({reason})"
            raise CheckpointError(f"{path} cannot be read: {reason}") from error
        if not isinstance(state, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        ):
            raise CheckpointError(f"{path} is not a state dict of tensors")
        return dict(state)
    raise CheckpointError(f"{directory} has no weights ({', '.join(WEIGHT_FILES)})")


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.float().nan_to_num(), b.float().nan_to_num())


def _first_byte(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(1)


def _normalised(state: dict[str, Tensor], tied: bool, directory: Path) -> dict[str, Tensor]:
    """Keys as GPT2LMHeadModel has them: prefix added, masks dropped, the tied head filled in."""
    state = {key: value for key, value in state.items() if not BUFFERS.search(key)}
    if not any(key.startswith("transformer.") for key in state):
        state = {key if key.startswith("lm_head.") else f"transformer.{key}": value for key, value in state.items()}
    embedding, head = state.get("transformer.wte.weight"), state.get("lm_head.weight")
    if tied and embedding is not None:
        if head is not None and not _equal(head, embedding):
            raise CheckpointError(
                f"{directory}: config.json ties the word embeddings, but lm_head.weight differs from wte.weight"
            )
        state["lm_head.weight"] = embedding
    return state


def _check_against(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], directory: Path) -> None:
    problems = [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} is not in the model that config.json describes" for name in found if name not in expected),
        *(
            f"{name} has shape {tuple(found[name].shape)}, config.json asks for {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ),
        *(
            f"{name} holds {v.dtype}, no floating-point numbers"
            for name, v in found.items()
            if not v.is_floating_point()
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"{directory}: config and weights contradict each other: {'; '.join(problems[:3])}{more}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def architecture(config: Any) -> str:
    """One line that names a GPT-2's shape."""
    return f"gpt2 {config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, {config.vocab_size} tokens"
