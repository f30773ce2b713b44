"""Every model by one name: shipped, planted, untrained, or a path. What the command line and the recipes resolve."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import nn

from interp_kit.core.config import check_flag, check_seed, expect, listed
from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask
from interp_kit.models.checkpoints import Provenance, UnknownCheckpoint, provenance, read_manifest
from interp_kit.models.checkpoints import load as load_checkpoint
from interp_kit.models.convert import NOT_CONVERTED
from interp_kit.models.convert import untrained as fresh
from interp_kit.models.foreign.hugging_face import from_memory
from interp_kit.models.hooked_model import attach
from interp_kit.models.meeting import check_model
from interp_kit.models.planted import PLANTED_TASKS, planted_model
from interp_kit.registry.tasks import TASKS, find, names, rebuild, task
from interp_kit.tasks.boolean.text import GPT2_SIZE

if TYPE_CHECKING:
    from interp_kit.models.hooked_model import HookedTransformer

PLANTED = tuple(PLANTED_TASKS)


def planted(name: str, seed: int = 0) -> "HookedTransformer":
    """A transformer whose weights we constructed, so that its mechanism is known; the seed rotates its residual basis.

    Raises ValueError for an unknown name, listing those there are.
    """
    if name not in PLANTED:
        raise ValueError(f"no planted model {name!r}; there are {', '.join(PLANTED)}")
    check_seed(seed)
    known = task(PLANTED_TASKS[name])
    model = planted_model(name, known, seed)
    text = f"{name}@{seed}"
    attach(model, provenance=Provenance(text, "", "", text, known.name, description=known.describe()))
    return _said(model)


def untrained(model: "HookedTransformer", seed: int = 0) -> "HookedTransformer":
    """The same architecture with fresh random weights, for the same task: the control of every analysis.

    Weights are normal of standard deviation `model.cfg.initializer_range`, biases 0. A file of bare weights does not
    say it: 0.02 is taken then, and `load(..., config={"initializer_range": 0.05})` names another. A HookedTransformer
    that names none has TransformerLens's 0.8 / sqrt(d_model). MyGPTs are drawn as their original is.
    """
    check_model(model)
    check_seed(seed)
    control, origin = fresh(model, seed), provenance(model)
    name, start = f"untrained:{origin.name}@{seed}", f"untrained@{seed}"
    attach(control, provenance=Provenance(name, "", "", start, origin.task, description=origin.description))
    return _said(control)


def load(
    name: str | Path | nn.Module,
    *,
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    root: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> "HookedTransformer":
    """A model by name: a planted one (`boolean-direct`, `boolean-direct@3` for seed 3), `untrained:NAME` (`@SEED`),
    `twin:NAME` (the trained twin of a planted one), else a checkpoint: by name in `checkpoints/` (or `root`), by
    directory (Hugging Face) or file of weights, or by hub id, converted and checked; or a model in memory.

    The model carries `provenance`, and `conversion`: max |logit difference| against its source, which is also logged,
    or that there was nothing to convert.

    Args:
        name: The name, path or hub id. Files may be torch's, safetensors or JSON, of MyGPT, TransformerLens, nanoGPT,
            minGPT, GPT-2, Karpathy's lecture or Llama's layout. Of models in memory a HookedTransformer is given back
            as it is; a Hugging Face model or TransformerBridge is converted.
        fold: Fold norms and centre weights, as TransformerLens does by default. Not of MyGPTs.
        dtype: Of the weights. Not of MyGPTs.
        device: Of the model.
        root: A folder with a manifest in place of `checkpoints/`.
        config: For files of weights, what their shapes do not say, such as {"act_fn": "gelu", "n_heads": 4}; the keys
            are those of `models.foreign.reader.OPTIONS`.

    Raises:
        CheckpointError: An unknown name (listing those there are), a path of nothing, a changed or damaged file, a
            layout that is not known (listing the file's keys), a setting that the file does not say, or a config that
            cannot be converted.
        ValueError: An unknown twin, or options that do not go with what is loaded.
    """
    expect("name", name, (str, Path, nn.Module), "a model is loaded by its name or path")
    check_flag("fold", fold)
    expect("config", config, (Mapping, type(None)), 'such as {"n_heads": 4}')
    if isinstance(name, nn.Module):
        if fold or root is not None or config or dtype != torch.float32 or device != "cpu":
            raise ValueError("a model in memory is taken as it is: fold, dtype, device, root and config are of files")
        return _said(_in_memory(name))
    return _identified(_load(name, fold, dtype, device, root, config))


def _in_memory(source: nn.Module) -> "HookedTransformer":
    if type(source).__name__ == "TransformerBridge" or hasattr(getattr(source, "config", None), "model_type"):
        return from_memory(source)
    check_model(source)
    return source  # pyright: ignore[reportReturnType]


def _load(
    name: str | Path,
    fold: bool,
    dtype: torch.dtype,
    device: str,
    root: str | Path | None,
    config: Mapping[str, Any] | None,
) -> "HookedTransformer":
    text = str(name)
    stem, _, seed = text.rpartition("@")
    stem, number = (stem, int(seed)) if stem and seed.isdigit() else (text, 0)
    if stem.startswith("untrained:"):
        trained = _identified(_load(stem.removeprefix("untrained:"), fold, dtype, device, root, config))
        return untrained(trained, derive_seed(number, "untrained") % 2**31)
    if config and (text.startswith("twin:") or stem in PLANTED):
        raise ValueError(f"config is for files of weights, which {text!r} is not; load it without")
    if text.startswith("twin:"):
        from interp_kit.registry.twins import twin

        return twin(text.removeprefix("twin:")).to(device, print_details=False)
    if stem in PLANTED:
        return planted(stem, number).to(device, print_details=False)
    try:
        return load_checkpoint(name, fold=fold, dtype=dtype, device=device, root=root, config=config)
    except UnknownCheckpoint as error:
        known = [*read_manifest(root), *PLANTED]
        of_group = [one for one in known if one.startswith((f"{text}/", f"{text}-"))]
        near = of_group if len(of_group) > 1 else get_close_matches(text, known, n=1)
        what = repr(near[0]) if len(near) == 1 else f"one of {listed(near)}"
        hint = f"did you mean {what}? " if near else ""
        raise UnknownCheckpoint(
            f"{hint}{error}; planted: {', '.join(PLANTED)}; and untrained:NAME, twin:NAME"
        ) from error


def task_of(model: "HookedTransformer", name: str | None = None) -> AbstractTask:
    """The task that a model learned, with its own equations and options, in the token ids that the model has; or the
    one named, if nothing says which the model learned.

    name: of a shipped, registered or installed task, or an address such as `my_file.py:MyTask`.

    Raises ValueError if neither says which task, if the model learned another than the one named, if its task cannot
    be made again, and if the vocabulary is not the task's.
    """
    check_model(model)
    named = None if name is None else find(name)
    learned = provenance(model)
    if named is not None and learned.task not in (None, named.name):
        raise ValueError(f"{learned.name} learned task {learned.task!r}, not {named.name!r}")
    if learned.description is not None:
        return rebuild(learned.description, named)
    known = name or learned.task
    if known is None:
        raise ValueError(f"which task? Name one of {', '.join(names())}, or an address such as my_file.py:MyTask")
    made = task(known)
    if known == "boolean" and model.cfg.d_vocab == GPT2_SIZE:
        made = task(known, vocabulary="gpt2")
    if model.cfg.d_vocab != len(made.vocabulary):
        raise ValueError(
            f"the model has {model.cfg.d_vocab} tokens and task {known!r} {len(made.vocabulary)}:"
            " ids do not mean the same"
        )
    return made


def _said(model: "HookedTransformer") -> "HookedTransformer":
    """The model with a `conversion`, also where nothing was converted."""
    if not hasattr(model, "conversion"):
        attach(model, conversion=NOT_CONVERTED)
    return model


def _identified(model: "HookedTransformer") -> "HookedTransformer":
    """A model whose manifest names its task learned it as it is by default: that description is kept on it."""
    origin = provenance(model)
    if origin.description is None and origin.task in TASKS:
        attach(model, provenance=replace(origin, description=task_of(model).describe()))
    if origin.task is None:
        logger.trace(
            "{}: the task is unknown; examples of any task are taken whose token ids the model has", origin.name
        )
    return _said(model)


def omitted_examples(model: "HookedTransformer", known: AbstractTask) -> list[Example]:
    """The examples that a shipped model was never trained on; none where nothing is known to be left out."""
    rows = set(provenance(model).omitted)
    return [e for e in known.pool() if ",".join(str(e.labels[name]) for name in known.inputs) in rows] if rows else []
