"""The shipped circuit twins by name: trained networks that compute in the nodes of a planted one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_kit.models.checkpoints import (
    MANIFEST,
    Provenance,
    checkpoint_root,
    digest_of,
    read_manifest,
    verify_entry,
)
from interp_kit.models.convert import NOT_CONVERTED, untrained
from interp_kit.models.hooked_model import attach
from interp_kit.models.planted import PLANTED_TASKS, planted_model
from interp_kit.models.tensor_files import CheckpointError, check_finite, read_safetensors
from interp_kit.registry.tasks import task as task_named

if TYPE_CHECKING:
    from interp_kit.models.hooked_model import HookedTransformer

FOLDER = "circuit-twins"  # in the folder of the checkpoints, with a manifest of its own
TWINNED, SEEDS = ("boolean-latent", "boolean-via-token"), (0, 1, 2)
RECIPE = "interp_kit.studies.audit.twins"
# Twin -> the planted model that it follows, and the seed of its training.
TWINS = {name if seed == 0 else f"{name}-seed{seed}": (name, seed) for name in TWINNED for seed in SEEDS}


def twin(name: str, root: str | Path | None = None) -> "HookedTransformer":
    """A shipped twin by name: one of TWINS (`boolean-latent`, `boolean-latent-seed1`, …).

    Raises CheckpointError for a name without a twin, and for a file that is missing or was changed.
    """
    folder = Path(root or checkpoint_root()) / FOLDER
    entries = read_manifest(folder)
    if name not in entries or name not in TWINS:
        raise CheckpointError(f"no twin {name!r} in {folder}; there are {', '.join(entries) or 'none'}")
    entry = entries[name]
    planted, _ = TWINS[name]
    for key, expected in written(name).items():
        if getattr(entry, key) != expected:
            raise CheckpointError(
                f"{folder / MANIFEST}, entry {name!r}: {key} is {getattr(entry, key)!r}, expected {expected!r}"
            )
    path = folder / entry.path
    verify_entry(entry, path, f"the twin {name!r}")
    task = task_named(entry.task)
    model = untrained(planted_model(planted, task))
    weights = read_safetensors(path / "model.safetensors")
    check_finite(weights, path)
    expected = {key: value.shape for key, value in model.named_parameters()}
    for key in (*expected, *weights):
        if key not in expected or key not in weights or weights[key].shape != expected[key]:
            has = f"of shape {tuple(weights[key].shape)}" if key in weights else "missing"
            wanted = tuple(expected[key]) if key in expected else "no such key"
            raise CheckpointError(f"{path}: its weights are not those of {planted}: {key} is {has}, expected {wanted}")
    known = model.state_dict()  # The masks of attention are part of it, and no weights.
    model.load_state_dict(known | weights)
    attach(
        model,
        conversion=NOT_CONVERTED,
        provenance=Provenance(
            name=f"twin:{name}",
            path=str(path),
            sha256=entry.sha256,
            digest=digest_of(path),
            initialisation=entry.initialisation,
            task=entry.task,
            description=task.describe(),
        ),
    )
    return model


def written(name: str) -> dict[str, Any]:
    """Facts that a twin's name alone states in its manifest entry."""
    planted, seed = TWINS[name]
    return {
        "path": name,
        "task": PLANTED_TASKS[planted],
        "recipe": RECIPE,
        "seed": seed,
        "initialisation": f"twin-{planted}-seed{seed}",
    }
