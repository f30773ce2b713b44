"""Reading Hugging Face GPT-2 checkpoints of any shape, safely: safetensors or torch files of plain tensors, whole or in
shards, checked key by key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_kit.core.files import read_json
from interp_kit.models.tensor_files import SUFFIXES, CheckpointError, check_finite, read_safetensors, read_torch

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# causal masks that old checkpoints store beside the weights
BUFFERS = re.compile(r"(^|\.)attn\.(bias|masked_bias)$")
# in the order in which transformers looks for them
NOT_REACHED = {"ConnectError", "ConnectTimeout", "ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WRAPPERS = ("_orig_mod.", "module.")  # put before every key by torch.compile and by data-parallel training


def fetch(source: str | Path) -> Path:
    """A local directory for a path or a hub id. Raises CheckpointError if there is neither."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; a GPT-2 checkpoint is a directory with config.json and weights")
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"no directory {source}, and it cannot be a hub id")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
        if not any((folder / name).exists() for name in WEIGHT_FILES[:2]):  # older repositories have torch files only
            folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.txt", "pytorch_model*.bin"]))
        return folder
    except Exception as error:
        away = {kind.__name__ for kind in type(error).__mro__} & NOT_REACHED
        why = "is not reached from here" if away else f"does not give it: {_first_line(error)}"
        raise CheckpointError(f"no directory {source}, and the hub {why}") from error


def is_path(name: str | Path) -> bool:
    """True for what can only be a path: a name of the kit has no slash, and a hub id one between two words."""
    text = str(name)
    return (
        isinstance(name, Path)
        or Path(name).suffix in SUFFIXES
        or text.startswith((".", "/", "~"))
        or (text.count("/") > 1 or text.endswith("/"))
    )


def read_gpt2(source: str | Path, dtype: torch.dtype = torch.float32) -> "GPT2LMHeadModel":
    """Load a GPT-2 from a directory or hub id, in eval mode, cast to `dtype`.

    Raises CheckpointError if files are missing or damaged, where a pickle would run code, where weights and config
    contradict each other (naming the first parameters that do), or where a weight is nan or infinite.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = fetch(source)
    config_file = directory / "config.json"
    if not config_file.exists():
        raise CheckpointError(f"{directory} has no config.json")
    try:
        raw = read_json(config_file)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    try:
        if not isinstance(raw, dict) or raw.get("model_type") != "gpt2":
            found = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
            raise CheckpointError(f"{config_file}: model_type {found!r}, expected 'gpt2'")
        config = GPT2Config.from_dict(raw)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{config_file}: {' '.join(str(error).split())}") from error
    if config.n_inner is not None and config.n_inner < 1:
        raise CheckpointError(
            f"{config_file}: n_inner is {config.n_inner}, expected at least 1 neuron (or null for 4 n_embd)"
        )
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
    check_against(model.state_dict(), state, directory)
    check_finite(state, directory)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    return model.eval()  # pyright: ignore[reportArgumentType]


def weight_files(directory: str | Path) -> list[Path]:
    """The files that hold a directory's weights: one, or an index and its shards in order.

    Raises:
        CheckpointError: There are none, the index is damaged, or names a shard outside the directory.
    """
    directory = Path(directory)
    path = next((directory / name for name in WEIGHT_FILES if (directory / name).exists()), None)
    if path is None:
        raise CheckpointError(f"{directory} has no weights ({', '.join(WEIGHT_FILES)})")
    if not path.name.endswith(".index.json"):
        return [path]
    return [path, *(directory / shard for shard in sorted(set(_index(path).values())))]


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The state dict of a directory: safetensors or a torch file, whole or in shards.

    Every key has to lie in the shard that the index names for it, and in no other: transformers takes one of two
    without a word.

    Raises:
        CheckpointError: A file is missing, damaged or no state dict of tensors, or contradicts the index.
    """
    first, *shards = weight_files(directory)
    if not shards:
        return _state(first)
    state: dict[str, Tensor] = {}
    named = _index(first)
    for shard in shards:
        found = _state(shard)
        for key in found.keys() | {key for key, name in named.items() if name == shard.name}:
            if named.get(key) != shard.name:
                where = f"names {named[key]} for it" if key in named else "does not name it"
                raise CheckpointError(f"{first}: {key} lies in {shard.name}, but the index {where}")
            if key not in found:
                raise CheckpointError(f"{first}: {key} is not in {shard.name}, which the index names for it")
        state |= found
    return state


def _index(path: Path) -> dict[str, str]:
    """Key -> name of its shard."""
    try:
        data = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    named = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(shard, str) for shard in named.values()):
        raise CheckpointError(f"{path} cannot be read: it has no weight_map of keys to files")
    if any(Path(shard).name != shard for shard in named.values()):
        raise CheckpointError(f"{path}: a shard lies outside the directory")
    if any(not (path.parent / shard).exists() for shard in named.values()):
        missing = next(shard for shard in named.values() if not (path.parent / shard).exists())
        raise CheckpointError(f"{path} cannot be read: its shard {missing} is missing")
    return named


def _state(path: Path) -> dict[str, Tensor]:
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path} is not a state dict of tensors")
    return state


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.float().nan_to_num(), b.float().nan_to_num())


def _normalised(state: dict[str, Tensor], tied: bool, directory: Path) -> dict[str, Tensor]:
    """Keys as GPT2LMHeadModel has them: wrappers' prefixes taken off, its own added, masks dropped, and of a tied pair
    the one that is missing filled in."""
    while state and (wrapper := next((w for w in WRAPPERS if all(key.startswith(w) for key in state)), None)):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not BUFFERS.search(key)}
    if not any(key.startswith("transformer.") for key in state):
        state = {key if key.startswith("lm_head.") else f"transformer.{key}": value for key, value in state.items()}
    embedding, head = state.get("transformer.wte.weight"), state.get("lm_head.weight")
    if tied and embedding is not None and head is not None and not _equal(head, embedding):
        raise CheckpointError(
            f"{directory}: config.json ties the word embeddings, but lm_head.weight differs from wte.weight"
        )
    both = embedding if embedding is not None else head
    if tied and both is not None:
        state |= {"transformer.wte.weight": both, "lm_head.weight": both}
    return state


def check_against(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], directory: Path) -> None:
    """Raise CheckpointError, naming the first three, for weights that are missing, too many, misshapen or integers."""
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
