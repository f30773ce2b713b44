"""Every model by one name: shipped, planted, untrained, or a path. What the command line and the recipes resolve."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from interp_kit.core.seeding import derive_seed
from interp_kit.core.task import AbstractTask, Example
from interp_kit.core.types import attach
from interp_kit.models.checkpoints import Provenance, UnknownCheckpoint, provenance, read_manifest
from interp_kit.models.checkpoints import load as load_checkpoint
from interp_kit.models.convert import untrained as fresh
from interp_kit.models.planted import PLANTED_TASKS, planted_model
from interp_kit.tasks.boolean.text import GPT2_SIZE
from interp_kit.tasks.registry import TASKS, task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

PLANTED = tuple(PLANTED_TASKS)


def planted(name: str, seed: int = 0) -> "HookedTransformer":
    """A transformer whose weights we constructed, so that its mechanism is known; the seed rotates its residual basis.

    Raises ValueError for an unknown name, listing those there are.
    """
    if name not in PLANTED:
        raise ValueError(f"no planted model {name!r}; there are {', '.join(PLANTED)}")
    model = planted_model(name, task(PLANTED_TASKS[name]), seed)
    attach(model, provenance=_named(f"{name}@{seed}", f"{name}@{seed}", PLANTED_TASKS[name]))
    return model


def untrained(model: "HookedTransformer", seed: int = 0) -> "HookedTransformer":
    """The same architecture with fresh random weights: the control of every analysis."""
    control = fresh(model, seed)
    origin = provenance(model)
    attach(control, provenance=_named(f"untrained:{origin.name}@{seed}", f"untrained@{seed}", origin.task or "boolean"))
    return control


def load(
    name: str | Path,
    *,
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    root: str | Path | None = None,
) -> "HookedTransformer":
    """A model by name: a planted one (`boolean-direct`, `boolean-direct@3` for seed 3), `untrained:NAME` (`@SEED`),
    `twin:NAME` (the trained twin of a planted one), else a checkpoint: by name in `checkpoints/` (or `root`), by
    directory (GPT-2) or `.pth` file (MyGPT), or by hub id, converted and checked. fold, dtype: of GPT-2s.

    The model carries `provenance`, and a checkpoint `conversion` (max |logit difference| against its source), which is
    also logged. Raises CheckpointError for an unknown name (listing those there are), a changed or damaged file, or a
    config that cannot be converted; ValueError for an unknown twin.
    """
    text = str(name)
    stem, _, seed = text.rpartition("@")
    stem, number = (stem, int(seed)) if stem and seed.isdigit() else (text, 0)
    if stem.startswith("untrained:"):
        trained = load(stem.removeprefix("untrained:"), fold=fold, dtype=dtype, device=device, root=root)
        return untrained(trained, derive_seed(number, "untrained") % 2**31)
    if text.startswith("twin:"):
        from interp_kit.recipes.circuit_twins import twin

        return twin(text.removeprefix("twin:")).to(device, print_details=False)
    if stem in PLANTED:
        return planted(stem, number).to(device, print_details=False)
    try:
        return load_checkpoint(name, fold=fold, dtype=dtype, device=device, root=root)
    except UnknownCheckpoint as error:
        near = get_close_matches(text, [*read_manifest(root), *PLANTED], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownCheckpoint(
            f"{hint}{error}; planted: {', '.join(PLANTED)}; and untrained:NAME, twin:NAME"
        ) from error


def task_of(model: "HookedTransformer", name: str | None = None) -> AbstractTask:
    """The task a model learnt, or the one named, in the vocabulary that the model has. Raises ValueError where neither
    says which task, or where the vocabulary is not the task's."""
    known = name or provenance(model).task
    if known is None:
        raise ValueError(f"which task? Name one of {', '.join(TASKS)}")
    made = task(known)
    if known == "boolean" and model.cfg.d_vocab == GPT2_SIZE:
        made = task(known, vocabulary="gpt2")
    if model.cfg.d_vocab != len(made.vocabulary):
        raise ValueError(
            f"the model has {model.cfg.d_vocab} tokens and task {known!r} {len(made.vocabulary)}:"
            " ids do not mean the same"
        )
    return made


def omitted_examples(model: "HookedTransformer", known: AbstractTask) -> list[Example]:
    """The examples that a shipped model was never trained on; none where nothing is known to be left out."""
    rows = set(provenance(model).omitted)
    return [e for e in known.pool() if ",".join(str(e.labels[name]) for name in known.inputs) in rows] if rows else []


def _named(name: str, initialisation: str, task: str = "boolean") -> Provenance:
    return Provenance(name=name, path="", sha256="", initialisation=initialisation, task=task)
