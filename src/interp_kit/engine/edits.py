"""Interventions as data: an Edit is a site, a layer, a head, a position, and what is put there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Bool
from torch import Tensor

from interp_kit.core.config import check_choice, check_count, check_names, expect, one_or_more
from interp_kit.engine.sites import WEIGHTS, check_layer, has_heads, layers_of, parse_site
from interp_kit.engine.sources import Add as Add
from interp_kit.engine.sources import Copy as Copy
from interp_kit.engine.sources import CopyAttended as CopyAttended
from interp_kit.engine.sources import Mean as Mean
from interp_kit.engine.sources import Resample as Resample
from interp_kit.engine.sources import Scale as Scale
from interp_kit.engine.sources import Set as Set
from interp_kit.engine.sources import Source as Source
from interp_kit.engine.sources import Zero as Zero
from interp_kit.models.circuit import HEAD, MLP
from interp_kit.models.following import Follows
from interp_kit.models.hooked_model import HookedModel


@dataclass(frozen=True, eq=False)
class Edit(Follows):
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
        """True if the site is a parameter."""
        return self.site in WEIGHTS

    @property
    def needs_hooks(self) -> bool:
        """True if it is more than new values of an activation, and so runs through TransformerLens hooks."""
        return self.is_weight or isinstance(self.source, CopyAttended)

    @property
    def tail(self) -> tuple:
        """Edited part of an activation (batch, pos, …), as an index of the axes after batch and pos."""
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


def output(node: str, source: Source) -> Edit:
    """The edit of what a head ("L0H1") or an MLP ("L0 MLP") gives. Raises ValueError for another name."""
    if found := HEAD.fullmatch(node):
        return Edit("z", int(found[1]), source, head=int(found[2]))
    if found := MLP.fullmatch(node):
        return Edit("mlp_out", int(found[1]), source)
    raise ValueError(f"{node!r} is neither a head nor an MLP; expected a name such as L0H1 or L0 MLP")


def as_data(edit: Edit) -> dict[str, Any] | None:
    """The edit as JSON values, as a playground page has it in its address; None for one that holds tensors."""
    source: dict[str, Any] = {"kind": type(edit.source).__name__}
    if isinstance(edit.source, Scale):
        source["factor"] = edit.source.factor
    elif edit.mask is not None or not isinstance(edit.source, Zero | Mean):
        return None
    parts = {name: getattr(edit, name) for name in ("site", "layer", "head", "position", "neuron")}
    return {name: value for name, value in parts.items() if value is not None} | {"source": source}


def as_group(edit: Edit | Sequence[Edit]) -> EditGroup:
    """One edit, or several applied together, as a tuple. Raises ValueError for none, TypeError for anything but an
    edit."""
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
