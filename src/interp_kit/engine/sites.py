"""Where a model can be read and edited: activation sites, weight sites, and what happens there, as data."""

import re

from jaxtyping import Float
from torch import Tensor

from interp_kit.models.hooked_model import HookedModel

# site -> (TransformerLens hook, axes behind batch and pos)
ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "resid_pre": ("blocks.{layer}.hook_resid_pre", ("d_model",)),
    "resid_mid": ("blocks.{layer}.hook_resid_mid", ("d_model",)),
    "resid_post": ("blocks.{layer}.hook_resid_post", ("d_model",)),
    "attn_out": ("blocks.{layer}.hook_attn_out", ("d_model",)),
    "mlp_out": ("blocks.{layer}.hook_mlp_out", ("d_model",)),
    "q": ("blocks.{layer}.attn.hook_q", ("head", "d_head")),
    "k": ("blocks.{layer}.attn.hook_k", ("head", "d_head")),
    "v": ("blocks.{layer}.attn.hook_v", ("head", "d_head")),
    "z": ("blocks.{layer}.attn.hook_z", ("head", "d_head")),
    "mlp_post": ("blocks.{layer}.mlp.hook_post", ("d_mlp",)),
    "embed": ("hook_embed", ("d_model",)),
    "pos_embed": ("hook_pos_embed", ("d_model",)),
}

PAIRWISE = ("hook_pattern", "hook_attn_scores")  # one value a pair of positions, so no vector a position

# site -> parameter, has a head axis in front
WEIGHTS: dict[str, tuple[str, bool]] = {
    **{name: (f"blocks.{{layer}}.attn.{name}", True) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")},
    "b_O": ("blocks.{layer}.attn.b_O", False),
    **{name: (f"blocks.{{layer}}.mlp.{name}", False) for name in ("W_in", "b_in", "W_out", "b_out")},
    "W_E": ("embed.W_E", False),
    "W_pos": ("pos_embed.W_pos", False),
    "W_U": ("unembed.W_U", False),
    "b_U": ("unembed.b_U", False),
}


Reference = Float[Tensor, "batch pos ..."]


def hook_name(site: str, layer: int | None) -> str:
    """The TransformerLens name of an activation site. Raises ValueError for an unknown site or a missing layer."""
    if site not in ACTIVATIONS:
        raise ValueError(f"no activation site {site!r}; there are {', '.join(ACTIVATIONS)}")
    template = ACTIVATIONS[site][0]
    if ("{layer}" in template) != (layer is not None):
        raise ValueError(f"site {site!r} {'needs a' if layer is None else 'has no'} layer")
    return template.format(layer=layer)


def as_hook(site: str) -> str:
    """The TransformerLens name of a key of ACTIVATIONS with its layer ("mlp_out.2", "embed"); any other name as it is.
    Raises ValueError for a key with a missing layer, or one that it has not."""
    name, _, layer = site.rpartition(".")
    if name in ACTIVATIONS and layer.isdecimal():
        return hook_name(name, int(layer))
    return hook_name(site, None) if site in ACTIVATIONS else site


def find_hook(model: HookedModel, site: str) -> str:
    """The hook of a site: a TransformerLens name ("blocks.2.hook_mlp_out"), or a key of ACTIVATIONS with its layer
    ("mlp_out.2", "embed"). Raises ValueError listing both where the model has no such site."""
    hooks: dict = getattr(model, "hook_dict", {})
    found = site if site in hooks else as_hook(site)
    if found not in hooks:
        known = sorted({re.sub(r"^blocks\.\d+\.", "blocks.{layer}.", hook) for hook in hooks})
        raise ValueError(
            f"the model has no site {site!r}; there are {', '.join(ACTIVATIONS)}, written as in 'mlp_out.0' with layers"
            f" 0 to {model.cfg.n_layers - 1}, and the hooks {', '.join(known)}"
        )
    if found.endswith(PAIRWISE):
        raise ValueError(f"{found} has a value for every pair of positions, so no vector a position")
    return found


def has_heads(site: str) -> bool:
    """Whether a site has a head axis."""
    return "head" in ACTIVATIONS[site][1] if site in ACTIVATIONS else WEIGHTS[site][1]
