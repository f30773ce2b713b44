"""Origin of an autoencoder: the weights whose activations it was trained on, and whether a model has them.

An autoencoder of another model fits wherever the widths do, and every figure of it is then wrong.
"""

import numpy as np
import torch

from interp_kit.analysis.dictionaries.sae_result import SAEResult
from interp_kit.core.config import expect
from interp_kit.engine.harvest_store import digest_of
from interp_kit.models.hooked_model import HookedModel, model_name

DIGITS = 16


def weights_of(model: HookedModel) -> str:
    """The dtype of a model's weights and a hash of them, such as "float32:0123456789abcdef"."""
    named = list(model.named_parameters())
    kind = str(named[0][1].dtype).removeprefix("torch.") if named else ""
    return f"{kind}:{digest_of({}, named)[:DIGITS]}"


def digest_of_sae(sae: SAEResult) -> str:
    """A hash of an autoencoder's weights, by which results of it are recognised."""
    return digest_of({}, ((name, torch.from_numpy(sae.weights[name])) for name in sorted(sae.weights)))[:DIGITS]


def check_sae(model: HookedModel, sae: object) -> None:
    """Check that an autoencoder is one of this model, as far as it is known.

    Weights decide if they are known in the same precision, else the names that both were loaded by.

    Raises:
        TypeError: It is not an autoencoder.
        ValueError: It is known to be of another model, or holds values that are not finite.
    """
    expect("sae", sae, SAEResult, "as train_sae gives")
    assert isinstance(sae, SAEResult)
    for name, value in sae.weights.items():
        if not np.isfinite(value).all():
            raise ValueError(f"the autoencoder's {name} holds values that are nan or infinite; train it anew")
    known, here = sae.config.get("weights"), weights_of(model)
    trained_on, name = sae.config.get("model"), model_name(model)
    if isinstance(known, str) and known.partition(":")[0] == here.partition(":")[0]:
        differs = known != here
    else:
        differs = trained_on not in (None, name) and type(model).__name__ not in (trained_on, name)
    if differs:
        of = f"{trained_on}, not on {name}" if trained_on != name else f"other weights than {name} has now"
        raise ValueError(f"the autoencoder was trained on {of}; give the model that it was trained on")
