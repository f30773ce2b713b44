"""A file of another library's weights as a HookedTransformer: unwrapped, read by the layout's reader, checked."""

import importlib
import math
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import Tensor

from interp_kit.models.convert import NOT_CONVERTED, SPREAD, built, compared, hooked_transformer
from interp_kit.models.foreign import layouts
from interp_kit.models.foreign.containers import read_content, unwrap
from interp_kit.models.foreign.reader import File, Found, Reader, check_given, named_as, shown
from interp_kit.models.hooked_model import attach
from interp_kit.models.tensor_files import CheckpointError, check_finite

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


def readers() -> list[Reader]:
    """The reader of every layout, by the names of their modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(layouts.__path__))
    return [importlib.import_module(f"{layouts.__name__}.{name}").READER for name in names]


def load_file(
    path: Path,
    content: Any = None,
    *,
    config: Mapping[str, Any] | None = None,
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> "HookedTransformer":
    """A HookedTransformer with the weights of a file in any layout of `readers`.

    Args:
        path: The file: torch's, safetensors or JSON.
        content: Its content if it was read before.
        config: What its shapes do not say, by the names of `foreign.reader.OPTIONS`.
        fold: Fold LayerNorms and centre weights as TransformerLens does by default.
        dtype: Of the model.
        device: Of the model.

    Returns:
        The model. `conversion` is the check against the layout's own forward pass, NOT_CONVERTED of TransformerLens's
        state dicts, which have no other source; `settings` its config.

    Raises:
        CheckpointError: The file is damaged, hostile, of no known layout (with its keys), contradicts itself or
            `config`, or does not say what is needed (with its name).
        ValueError: `config` has a setting that does not exist.
    """
    check_given(config or {})
    state, stored = unwrap(read_content(path) if content is None else content, path)
    reader = next((reader for reader in readers() if reader.recognises(state)), None)
    if reader is None:
        known = ", ".join(reader.name for reader in readers())
        raise CheckpointError(
            f"{path} is of no known layout ({known}): {shown(state)}; build a HookedTransformer with its weights and"
            " pass it to interp_kit.load"
        )
    file = File(path, state, config or {}, stored)
    try:
        found = reader.read(file)
    except CheckpointError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as {reader.name}: {' '.join(str(error).split())[:200]}"
        ) from error
    if file.assumed:
        said = ", ".join(f"{name}={value!r}" for name, value in file.assumed.items())
        logger.warning(
            "{}: taken as {} has it, because the file does not say: {}; name others by config={{…}} (shell: --config)",
            path,
            reader.name,
            said,
        )
    model = _build(path, found, _spread(file, own=found.forward is None), fold, dtype, device)
    attach(
        model,
        conversion=NOT_CONVERTED if found.forward is None else compared(model, found.forward, folded=fold),
        settings={name: str(value) for name, value in found.config.items()} | {"final norm": str(found.final_norm)},
    )
    return model


def _spread(file: File, *, own: bool) -> dict[str, float]:
    """Config of the standard deviation that `untrained` draws weights with: what the caller or the file names, or that
    of GPT-2. For TransformerLens's `own` files its default, and no gain of another distribution."""
    said = file.given.get("initializer_range")
    if said is None and not (own and file.stored.get("init_mode", "gpt2") != "gpt2"):
        said = file.stored.get("initializer_range")
    if isinstance(said, bool) or not isinstance(said, float | int) or not 0 < said < math.inf:
        return {} if own else {"initializer_range": SPREAD}
    return {"initializer_range": float(said)}


@torch.inference_mode(False)
def _build(
    path: Path, found: Found, spread: Mapping[str, float], fold: bool, dtype: torch.dtype, device: str
) -> "HookedTransformer":
    options = {**found.config, **spread, "init_weights": False, "default_prepend_bos": False, "dtype": dtype}
    try:
        with torch.device("meta"):  # Shapes alone: a config may ask for more than fits.
            expected = hooked_transformer(**options, device="meta")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: no HookedTransformer can be built from its settings: {reason}") from error
    known = dict(expected.named_parameters())
    if not found.final_norm:
        known = {name: value for name, value in known.items() if not name.startswith("ln_final.")}
    _check(path, known, found.weights)
    model = hooked_transformer(**options, device=device)
    tables = dict(model.named_buffers())
    for name, table in found.tables.items():
        if (
            name not in tables
            or tables[name].shape != table.shape
            or not torch.allclose(tables[name], table.to(tables[name]), atol=1e-4)
        ):
            raise CheckpointError(
                f"{path}: {name} is not that of the settings rotary_base, rotary_dim and rotary_adjacent_pairs: name"
                f" them: {named_as('rotary_base', 'rotary_dim', 'rotary_adjacent_pairs')}"
            )
    return built(model, found.weights, fold=fold, final_norm=found.final_norm)


def _check(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for weights that are missing, too many, misshapen, or no finite numbers."""
    for name in (*expected, *found):
        if name not in found:
            raise CheckpointError(f"{path}: {name} is missing; {shown(found)}")
        if name not in expected:
            raise CheckpointError(
                f"{path}: {name} is not of the model that its shapes and settings describe; build the HookedTransformer"
                " and pass it to interp_kit.load"
            )
        if found[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            )
        if not found[name].is_floating_point():
            raise CheckpointError(f"{path}: {name} holds {found[name].dtype}, no floating-point numbers")
    check_finite(found, path)
