"""Places where a model can be read and edited: activation sites, weight sites, and what happens there, as data."""

import re
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from interp_kit.models.hooked_model import HookedModel

# site -> (TransformerLens hook, axes after batch and pos)
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

PAIRWISE = ("hook_pattern", "hook_attn_scores")  # one value per pair of positions, not a vector per position

PATTERN = re.compile(r"(^|\.)(hook_)?(pattern|attn_scores)(\.\d+)?$")  # in any spelling of a site

# site -> parameter, has a head axis in front
WEIGHTS: dict[str, tuple[str, bool]] = {
    **{name: (f"blocks.{{layer}}.attn.{name}", True) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")},
    "b_O": ("blocks.{layer}.attn.b_O", False),
    **{name: (f"blocks.{{layer}}.mlp.{name}", False) for name in ("W_in", "b_in", "W_out", "b_out")},
    **{f"{ln}_{part}": (f"blocks.{{layer}}.{ln}.{part}", False) for ln in ("ln1", "ln2") for part in ("w", "b")},
    **{f"ln_final_{part}": (f"ln_final.{part}", False) for part in ("w", "b")},
    "W_E": ("embed.W_E", False),
    "W_pos": ("pos_embed.W_pos", False),
    "W_U": ("unembed.W_U", False),
    "b_U": ("unembed.b_U", False),
}


Reference = Float[Tensor, "batch pos ..."]


NUMBER = re.compile(r"\d{1,9}")


def _spellings() -> Iterator[tuple[re.Pattern[str], str]]:
    """Spelling of a site with its layer ("mlp_out.2", "blocks.2.hook_mlp_out"; "embed", "hook_embed") or, of every
    layer, as TransformerLens's last part ("hook_mlp_out", "attn.hook_z"), and its key."""
    for name, (template, *_) in (*ACTIVATIONS.items(), *WEIGHTS.items()):
        number = f"({NUMBER.pattern})"
        short = re.escape(name) + (rf"\.{number}" if "{layer}" in template else "")
        yield re.compile(short), name
        yield re.compile(re.escape(template).replace(re.escape("{layer}"), number)), name
        inside = template.removeprefix("blocks.{layer}.")
        if inside != template and name in ACTIVATIONS:
            yield re.compile(rf"({'|'.join(map(re.escape, {inside, inside.rpartition('.')[2]}))})"), name


SPELLINGS = tuple(_spellings())


def parse_site(site: object, layer: int | None = None) -> tuple[str, int | None]:
    """The one parser of sites: every function that takes a site takes each of these spellings.

    Args:
        site: A key of ACTIVATIONS or WEIGHTS ("mlp_out"), a key with its layer ("mlp_out.2"), or TransformerLens's name
            ("blocks.2.hook_mlp_out", "blocks.2.mlp.W_out"; "hook_mlp_out" as the key).
        layer: The layer if it is given beside the site.

    Returns:
        The key, and the layer: None if neither says it.

    Raises:
        ValueError: Unknown site, or two layers that differ. It lists the sites and both spellings.
    """
    if isinstance(site, str):
        if site in ACTIVATIONS or site in WEIGHTS:
            return site, layer
        for pattern, name in SPELLINGS:
            if found := pattern.fullmatch(site):
                number = int(found[1]) if found.groups() and found[1].isdigit() else None
                if number is not None and layer is not None and number != layer:
                    raise ValueError(f"site {site!r} is of layer {number}, and layer is {layer}: give one of them")
                return name, layer if number is None else number
    raise ValueError(unknown_site(site))


def unknown_site(site: object) -> str:
    """Error for a site that does not exist, or is none that can be edited by position."""
    if isinstance(site, str) and PATTERN.search(site):
        return (
            f"site {site!r} has a value per pair of positions, not a vector per position, so it is not patched or"
            " probed: give 'z' for what each head writes by it, or 'q', 'k' and 'v' for what it is made of;"
            " attention_lags() measures patterns, patch_senders() says which position a head reads, and"
            " model.run_with_hooks reads or changes them"
        )
    return (
        f"no site {site!r}; there are the activations {', '.join(ACTIVATIONS)} and the weights {', '.join(WEIGHTS)}, of"
        " one layer written as 'mlp_out.0' or 'blocks.0.hook_mlp_out'"
    )


def parse_activation(site: object, layer: int | None = None) -> tuple[str, int | None]:
    """As `parse_site`, of activations alone. Raises ValueError for a weight too."""
    name, layer = parse_site(site, layer)
    if name not in ACTIVATIONS:
        raise ValueError(f"site {site!r} is a weight; expected an activation: {', '.join(ACTIVATIONS)}")
    return name, layer


def check_layer(site: str, layer: int | None) -> None:
    """Raise ValueError for a missing layer, or one that the site (a key) does not have."""
    template = (ACTIVATIONS.get(site) or WEIGHTS[site])[0]
    if ("{layer}" in template) != (layer is not None):
        raise ValueError(
            f"site {site!r} needs a layer, as in {f'{site}.0'!r}" if layer is None else f"site {site!r} has no layer"
        )


def hook_name(site: str, layer: int | None) -> str:
    """The TransformerLens name of an activation site. Raises ValueError for an unknown site or a missing layer."""
    name, layer = parse_activation(site, layer)
    check_layer(name, layer)
    return ACTIVATIONS[name][0].format(layer=layer)


def layers_of(model: HookedModel, site: str) -> tuple[str, list[int | None]]:
    """The key of an activation site, and the layers that it stands for: its own, or every one of the model. Raises
    ValueError for an unknown site, and a layer that the model does not have."""
    name, layer = parse_activation(site)
    if layer is not None and layer >= model.cfg.n_layers:
        raise ValueError(f"site {site!r}: the model has layers 0 to {model.cfg.n_layers - 1}")
    if "{layer}" not in ACTIVATIONS[name][0]:
        return name, [None]
    return name, list(range(model.cfg.n_layers)) if layer is None else [layer]


def as_hook(site: str) -> str:
    """The TransformerLens name of an activation site in either spelling; any other name as it is. Raises ValueError for
    a key with a missing layer."""
    try:
        name, layer = parse_activation(site)
    except ValueError:
        return site
    return hook_name(name, layer)


def find_hook(model: HookedModel, site: str) -> str:
    """The hook of a site in either spelling, or of any other hook that the model has. Raises ValueError listing both
    if the model has no such site."""
    hooks: dict = getattr(model, "hook_dict", {})
    found = site if site in hooks else as_hook(site)
    if found not in hooks:
        if PATTERN.search(site):
            raise ValueError(unknown_site(site))
        known = sorted({re.sub(r"^blocks\.\d+\.", "blocks.{layer}.", hook) for hook in hooks})
        raise ValueError(
            f"the model has no site {site!r}; there are {', '.join(ACTIVATIONS)}, written as in 'mlp_out.0' with layers"
            f" 0 to {model.cfg.n_layers - 1}, and the hooks {', '.join(known)}"
        )
    if found.endswith(PAIRWISE):
        raise ValueError(
            f"{found} has a value per pair of positions, not a vector per position: read it with"
            " model.run_with_hooks, as attention_lags does"
        )
    return found


def has_heads(site: str) -> bool:
    """True if a site has a head axis."""
    return "head" in ACTIVATIONS[site][1] if site in ACTIVATIONS else WEIGHTS[site][1]
