"""Activations that probes read, by row (site and layer) and named position."""

from collections.abc import Sequence

import numpy as np

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.harvest import Reader
from interp_kit.engine.sites import hook_name, layers_of
from interp_kit.models.hooked_model import HookedModel, model_name


def features_of(
    model: HookedModel, batch: TokenBatch, sites: Sequence[str], positions: Sequence[str]
) -> tuple[list[str], list[list[np.ndarray]]]:
    """Row names, and for each row and position the (batch, d) activations, in float64."""
    wanted = [("embedding", hook_name("resid_pre", 0))]
    for site in sites:
        key, layers = layers_of(model, site)
        wanted += [(f"L{la} {key}", hook_name(key, la)) for la in layers]
    reader = Reader(model, batch, [hook for _, hook in wanted], positions)
    for row, hook in wanted:
        if hook not in reader.shapes:
            raise ValueError(f"{row}: the model has no {hook}")
        if len(reader.shapes[hook]) != 1:
            shape = (*batch.tokens.shape, *reader.shapes[hook])
            raise ValueError(f"{row}: probes read (batch, pos, d) activations, {hook} has shape {shape}")
    found, features = reader.read(), []
    for row, hook in wanted:
        features.append(list(found[hook].double().cpu().numpy().swapaxes(0, 1)))
        if not np.isfinite(features[-1]).all():
            raise FloatingPointError(f"{row} of {model_name(model)} has nan or infinite activations")
    return [row for row, _ in wanted], features
