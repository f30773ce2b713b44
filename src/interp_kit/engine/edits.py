"""Interventions as data: an Edit is a site, a layer, a head, a position, and what is put there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_count, check_names, expect, one_or_more
from interp_kit.engine.sites import WEIGHTS, check_layer, has_heads, layers_of, parse_site
from interp_kit.models.hooked_model import HookedModel


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

    site: in any spelling of `engine.sites.parse_site` ("z" with a layer, "z.0", "blocks.0.attn.hook_z"), kept as a key
    of ACTIVATIONS or WEIGHTS; layer: None for embeddings and unembedding; head: for q k v z and attention
    weights, None means all; position: a named position, an index, or None for all (activations only); neuron: index on
    the last axis (an MLP neuron at mlp_post); mask: for weights, True entries are edited.

    Raises ValueError for an unknown site, a missing layer, indices that are negative or not whole; TypeError for a
    source that is not a Source. What only a model or a batch can tell is checked where the edit meets them.
    """

    site: str
    layer: int | None = None
    source: Source = field(default_factory=Zero)
    head: int | None = None
    position: str | int | None = None
    neuron: int | None = None
    mask: Bool[Tensor, "..."] | None = None

    def __post_init__(self) -> None:
        for option in ("layer", "head", "neuron"):
            if (value := getattr(self, option)) is not None:
                check_count(option, value, least=0)
        if self.position is not None and not isinstance(self.position, str):
            check_count("position", self.position, least=0)
        expect("source", self.source, Source, "as interp_kit.Zero() or interp_kit.Set(value)")
        site, layer = parse_site(self.site, self.layer)
        check_layer(site, layer)
        object.__setattr__(self, "site", site)
        object.__setattr__(self, "layer", layer)

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


def everywhere(
    model: HookedModel, sites: str | Sequence[str], source: Source, positions: Sequence[str | None]
) -> list[Edit]:
    """One edit for every layer of the sites (of "mlp_out.2" or "blocks.2.hook_mlp_out", its own), every head where a
    site has heads, and every position (None: all). Raises ValueError for a site that is named twice."""
    found, seen = [], set()
    for site in check_names("sites", one_or_more(sites)):
        (key, layers), heads = layers_of(model, site), [None]
        if has_heads(key):
            grouped = getattr(model.cfg, "n_key_value_heads", None) if key in ("k", "v") else None
            heads = range(grouped or model.cfg.n_heads)
        for layer in layers:
            if (key, layer) in seen:
                raise ValueError(f"sites {sites} name {key!r} of layer {layer} twice")
            seen.add((key, layer))
            found += [Edit(key, layer, source, head=head, position=name) for head in heads for name in positions]
    return found


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
