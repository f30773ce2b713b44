"""Where a model can be read and edited: activation sites, weight sites, and what happens there, as data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_count, check_names, check_number, check_seed, expect, one_or_more
from interp_kit.core.types import HookedModel

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


class Source:
    """What an edit puts at its site. One of the classes below."""


Values = Tensor | np.ndarray | Sequence[Any] | np.generic | float | int


def _numbers(name: str, given: Any) -> Tensor:
    """A tensor of what numbers an edit was given, wherever they lie: they follow the model's dtype and device when they
    are written. Raises TypeError for what is not made of real numbers, ValueError for nan."""
    try:
        value = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError):
        found = f"{type(given).__name__} of {getattr(np.asarray(given, dtype=object), 'dtype', 'objects')}"
        raise TypeError(f"{name} takes a tensor, an array or a list of real numbers, not a {found}") from None
    if value.is_complex() or value.layout != torch.strided or value.is_meta:
        raise TypeError(
            f"{name} takes a dense tensor of real numbers, not {value.dtype}, {value.layout}, {value.device}"
        )
    if value.is_floating_point() and bool(value.isnan().any()):
        raise ValueError(f"{name}: {int(value.isnan().sum())} of {value.numel()} numbers are nan")
    return value


@dataclass(frozen=True, eq=False, init=False)
class Set(Source):
    """Write this value, broadcast to the edited slice: (batch, …) at a named position, (batch, pos, …) elsewhere. It
    may be a tensor of any dtype and device, an array, a list or a number."""

    value: Tensor

    def __init__(self, value: Values) -> None:
        object.__setattr__(self, "value", _numbers("Set", value))


@dataclass(frozen=True)
class Zero(Source):
    """Write zero. Far from anything that the model has seen: prefer Mean or Resample."""


@dataclass(frozen=True, eq=False)
class Mean(Source):
    """Write the mean over the rows of `over` (the batch itself by default) at the same named position."""

    over: TokenBatch | None = None


@dataclass(frozen=True, eq=False)
class Resample(Source):
    """Write the activation of another row of `over` (the batch itself by default) at the same named position.

    From the batch itself, no row keeps its own activation.
    """

    seed: int = 0
    over: TokenBatch | None = None


@dataclass(frozen=True, eq=False)
class Copy(Source):
    """Write the activation that the same model has on `batch`, row by row: patching, interchange."""

    batch: TokenBatch


@dataclass(frozen=True, eq=False)
class CopyAttended(Source):
    """Path patching by sender: the edited position reads keys and values of `batch` at `senders`; nobody else does.

    For site "z" with a named position, the receiver. Only the attention of the receiver changes: no earlier position
    does, and later ones only by what they read of the receiver (Goldowsky-Dill et al. 2023, with positions as senders).
    """

    batch: TokenBatch
    senders: tuple[str, ...]


@dataclass(frozen=True, eq=False, init=False)
class Add(Source):
    """Add scale * vector: steering. `vector` is broadcast like Set's value."""

    vector: Tensor
    scale: float | int

    def __init__(self, vector: Values, scale: float | int = 1.0) -> None:
        object.__setattr__(self, "vector", _numbers("Add", vector))
        object.__setattr__(self, "scale", scale)


@dataclass(frozen=True)
class Scale(Source):
    """Multiply by a factor; -1 flips."""

    factor: float


@dataclass(frozen=True, eq=False)
class Edit:
    """One intervention: where, and what is written there.

    site: a key of ACTIVATIONS or WEIGHTS; layer: None for embeddings and unembedding; head: for q k v z and attention
    weights, None means all; position: a named position, an index, or None for all (activations only); neuron: index on
    the last axis (an MLP neuron at mlp_post); mask: for weights, True entries are edited.
    """

    site: str
    layer: int | None = None
    source: Source = field(default_factory=Zero)
    head: int | None = None
    position: str | int | None = None
    neuron: int | None = None
    mask: Bool[Tensor, "..."] | None = None

    @property
    def is_weight(self) -> bool:
        """Whether the site is a parameter."""
        return self.site in WEIGHTS

    @property
    def tail(self) -> tuple:
        """What of an activation (batch, pos, …) is edited, as an index of the axes behind batch and pos."""
        head = (slice(None) if self.head is None else self.head,) if self.site in ("q", "k", "v", "z") else ()
        return (*head, slice(None) if self.neuron is None else self.neuron)

    def __str__(self) -> str:
        parts = [self.site, *(f"{n}={v}" for n, v in (("layer", self.layer), ("head", self.head)) if v is not None)]
        parts += [f"{n}={v}" for n, v in (("position", self.position), ("neuron", self.neuron)) if v is not None]
        return f"{' '.join(parts)} <- {type(self.source).__name__}"


EditGroup = tuple[Edit, ...]
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


def check_edit(model: HookedModel, batch: TokenBatch, edit: Edit) -> None:
    """Raise ValueError saying what of an edit does not fit the model or the batch."""
    cfg = model.cfg
    _check_numbers(edit)
    if edit.site not in ACTIVATIONS and edit.site not in WEIGHTS:
        raise ValueError(f"no site {edit.site!r}; there are {', '.join([*ACTIVATIONS, *WEIGHTS])}")
    if edit.layer is not None and not 0 <= edit.layer < cfg.n_layers:
        raise ValueError(f"{edit}: the model has layers 0 to {cfg.n_layers - 1}")
    if edit.head is not None:
        if not has_heads(edit.site):
            raise ValueError(f"{edit}: {edit.site!r} has no heads")
        heads = getattr(cfg, "n_key_value_heads", None) if edit.site in ("k", "v", "W_K", "W_V") else None
        if not 0 <= edit.head < (heads or cfg.n_heads):
            raise ValueError(f"{edit}: the model has heads 0 to {(heads or cfg.n_heads) - 1}")
    if edit.is_weight:
        if edit.position is not None:
            raise ValueError(f"{edit}: a weight has no position")
        if not isinstance(edit.source, Set | Zero | Add | Scale):
            raise ValueError(f"{edit}: a weight takes Set, Zero, Add or Scale")
        _check_positional(model, edit)
        weight = find_weight(dict(model.named_parameters()), edit)
        if edit.mask is not None and (not isinstance(edit.mask, Tensor) or edit.mask.dtype != torch.bool):
            found = getattr(edit.mask, "dtype", type(edit.mask).__name__)
            raise ValueError(f"{edit}: mask is a bool tensor of the weight's shape {tuple(weight.shape)}, not {found}")
        if edit.mask is not None and edit.mask.shape != weight.shape:
            raise ValueError(f"{edit}: mask of shape {tuple(edit.mask.shape)}, weight of {tuple(weight.shape)}")
        _check_neuron(edit, weight.shape[-1])
        shape = weight.shape if edit.head is None else weight.shape[1:]
        _check_shape(edit, shape if edit.neuron is None else shape[:-1])
        return
    if edit.mask is not None:
        raise ValueError(f"{edit}: mask is for weights; name a position, head or neuron instead")
    name = hook_name(edit.site, edit.layer)
    _check_positional(model, edit)
    hooks = getattr(model, "hook_dict", {})
    # TransformerLens gives blocks without an MLP a hook for its output, which nothing ever passes
    without_mlp = edit.site in ("mlp_out", "mlp_post") and getattr(cfg, "attn_only", False)
    if (hooks and name not in hooks) or without_mlp:
        raise ValueError(f"{edit}: the model has no {name}")
    if edit.neuron is not None:
        _check_neuron(edit, getattr(cfg, ACTIVATIONS[edit.site][1][-1]))
    if isinstance(edit.position, str):
        batch.position(edit.position)
    elif edit.position is not None and not 0 <= edit.position < batch.tokens.shape[1]:
        raise ValueError(f"{edit}: the batch has positions 0 to {batch.tokens.shape[1] - 1}")
    if isinstance(edit.source, Set | Add):
        _check_shape(edit, (*batch.tokens.shape[: 1 + (edit.position is None)], *_tail_shape(cfg, edit)))
    if isinstance(edit.source, CopyAttended):
        if edit.site != "z" or not isinstance(edit.position, str):
            raise ValueError(f'{edit}: CopyAttended is for site "z" at a named position')
        positions = getattr(cfg, "positional_embedding_type", "standard")
        if positions not in ("standard", "shortformer") or getattr(cfg, "attn_scores_soft_cap", -1.0) > 0:
            raise ValueError(
                f"{edit}: CopyAttended needs attention scores q k / scale, without soft cap; this model's positions are"
                f" {positions}"
            )


def _check_numbers(edit: Edit) -> None:
    """Raise ValueError for indices and factors of an edit that are none; their upper bounds are the model's."""
    for option in ("layer", "head", "neuron"):
        if (value := getattr(edit, option)) is not None:
            check_count(option, value, least=-(2**31))
    if edit.position is not None and not isinstance(edit.position, str):
        check_count("position", edit.position, least=-(2**31))
    match edit.source:
        case Scale(factor=factor):
            check_number("factor", factor)
        case Add(scale=scale):
            check_number("scale", scale)
        case Resample(seed=seed):
            check_seed(seed)


def everywhere(
    model: HookedModel, sites: str | Sequence[str], source: Source, positions: Sequence[str | None]
) -> list[Edit]:
    """One edit for every layer of the sites, every head where a site has heads, and every position (None: all)."""
    found = []
    for site in check_names("sites", one_or_more(sites)):
        template, heads = ACTIVATIONS.get(site, ("{layer}",))[0], [None]
        if site in ACTIVATIONS and has_heads(site):
            grouped = getattr(model.cfg, "n_key_value_heads", None) if site in ("k", "v") else None
            heads = range(grouped or model.cfg.n_heads)
        for layer in range(model.cfg.n_layers) if "{layer}" in template else [None]:
            found += [Edit(site, layer, source, head=head, position=name) for head in heads for name in positions]
    return found


def find_weight(parameters: Mapping[str, Tensor], edit: Edit) -> Tensor:
    """The parameter that a weight edit is about. Raises ValueError where there is none."""
    template = WEIGHTS[edit.site][0]
    if ("{layer}" in template) != (edit.layer is not None):
        raise ValueError(f"{edit}: site {edit.site!r} {'needs a' if edit.layer is None else 'has no'} layer")
    name = template.format(layer=edit.layer)
    if name not in parameters:
        raise ValueError(f"{edit}: the model has no parameter {name}")
    return parameters[name]


def _check_neuron(edit: Edit, width: int) -> None:
    if edit.neuron is not None and not 0 <= edit.neuron < width:
        raise ValueError(f"{edit}: the last axis has entries 0 to {width - 1}")


def _check_positional(model: HookedModel, edit: Edit) -> None:
    """Raise ValueError for position embeddings of a model that adds none."""
    kind = getattr(model.cfg, "positional_embedding_type", "standard")
    if edit.site in ("pos_embed", "W_pos") and kind not in ("standard", "shortformer"):
        raise ValueError(f"{edit}: the model adds no position embeddings, its positional_embedding_type is {kind!r}")


def _tail_shape(cfg: Any, edit: Edit) -> tuple[int, ...]:
    """The shape of an edited slice behind batch and pos."""
    heads = (getattr(cfg, "n_key_value_heads", None) if edit.site in ("k", "v") else None) or cfg.n_heads
    axes = ACTIVATIONS[edit.site][1]
    each = () if "head" not in axes or edit.head is not None else (heads,)
    return each if edit.neuron is not None else (*each, getattr(cfg, axes[-1]))


def _check_shape(edit: Edit, shape: Sequence[int]) -> None:
    """Raise ValueError where the numbers of a Set or an Add are not broadcast to the edited slice."""
    if not isinstance(edit.source, Set | Add):
        return
    value = edit.source.value if isinstance(edit.source, Set) else edit.source.vector
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    if value.ndim > len(shape) or any(given not in (1, wanted) for given, wanted in pairs):
        raise ValueError(f"{edit}: numbers of shape {tuple(value.shape)} do not fit the edited slice {tuple(shape)}")


def as_group(edit: Edit | Sequence[Edit]) -> EditGroup:
    """One edit, or several applied together, as a tuple. Raises ValueError for none, TypeError for what is no edit."""
    group = (edit,) if isinstance(edit, Edit) else tuple(edit)
    if not group:
        raise ValueError("an empty group of edits")
    for one in group:
        expect("an edit", one, Edit, "interp_kit.Edit(site, layer, source)")
    return group


Direction = Literal["denoise", "noise"]


def check_by(by: str, positions: object) -> None:
    """Raise ValueError for another `by` than "position" or "all", and for positions named where all are edited
    together."""
    check_choice("by", by, ("position", "all"))
    if by == "all" and positions:
        raise ValueError(f'positions {positions} are named, but by="all" edits every position together')


def grouped(positions: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Name -> positions that are edited together: each alone, or in the groups of a mapping. Raises ValueError for
    none, an empty group, and a position that is named twice in one."""
    if not isinstance(positions, Mapping):
        return {name: [name] for name in check_names("positions", positions)}
    check_names("positions", list(positions))
    return {name: list(check_names(f"positions[{name!r}]", group)) for name, group in positions.items()}
