"""The parts of a transformer as a graph: every head and MLP adds to the residual stream, and reads what others added.

Nodes are "embed" (tokens and positions), heads "L0H1", MLPs "L0 MLP", and "logits". An edge is what one node's output
does to one input of a later node (Elhage et al. 2021, transformer-circuits.pub/2021/framework).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Input = Literal["q", "k", "v", "mlp", "logits"]

EMBED, LOGITS = "embed", "logits"
HEAD, MLP = re.compile(r"L(\d+)H(\d+)"), re.compile(r"L(\d+) MLP")


def head(layer: int, number: int) -> str:
    """The name of a head."""
    return f"L{layer}H{number}"


def mlp(layer: int) -> str:
    """The name of an MLP."""
    return f"L{layer} MLP"


def stage(node: str) -> int:
    """Stage at which a node is computed: 0 the embedding, then attention and MLP of each layer in turn, the logits
    last. Nodes of one stage do not read each other. Raises ValueError for what is no node's name."""
    if node == EMBED:
        return 0
    if node == LOGITS:
        return 2**31
    for pattern, behind in ((HEAD, 1), (MLP, 2)):
        if found := pattern.fullmatch(node):
            return 2 * int(found[1]) + behind
    raise ValueError(f"no node {node!r}; nodes are embed, L0H1, L0 MLP and logits")


def inputs(node: str) -> tuple[Input, ...]:
    """Inputs of a node: q, k and v of a head, the one input of an MLP or of the logits, nothing for the embedding."""
    stage(node)
    if node == EMBED:
        return ()
    if node == LOGITS:
        return ("logits",)
    return ("q", "k", "v") if HEAD.fullmatch(node) else ("mlp",)


@dataclass(frozen=True, order=True)
class Edge:
    """Contribution of `sender` to the residual stream, as far as it reaches one input of `receiver`; at the named
    position of the text where it is added and read, or at all of them (None).

    Raises ValueError if the receiver has no such input, or does not come after the sender.
    """

    sender: str
    receiver: str
    input: Input
    position: str | None = None

    def __post_init__(self) -> None:
        if self.input not in inputs(self.receiver):
            raise ValueError(f"{self.receiver} has no input {self.input!r}")
        if stage(self.sender) >= stage(self.receiver) or self.sender == LOGITS:
            raise ValueError(f"no edge from {self.sender} to {self.receiver}, which does not come after it")

    def __str__(self) -> str:
        way = f"{self.sender} → {self.receiver}" + (f".{self.input}" if HEAD.fullmatch(self.receiver) else "")
        return way if self.position is None else f"{way} @ {self.position}"


def nodes(n_layers: int, n_heads: int, *, with_mlp: bool = True) -> tuple[str, ...]:
    """Every node of an architecture, in the order in which they are computed."""
    blocks = [
        name
        for layer in range(n_layers)
        for name in (*(head(layer, number) for number in range(n_heads)), *((mlp(layer),) if with_mlp else ()))
    ]
    return (EMBED, *blocks, LOGITS)


def edges(names: Iterable[str], *, parallel: bool = False) -> tuple[Edge, ...]:
    """Every edge among nodes, without positions, by receiver and then by sender. parallel: whether the MLP of a layer
    does not read the heads of its own layer."""
    ordered = sorted(names, key=stage)

    def layer(node: str) -> int:
        return (stage(node) + 1) // 2

    return tuple(
        Edge(sender, receiver, way)
        for receiver in ordered
        for way in inputs(receiver)
        for sender in ordered
        if (layer(sender) < layer(receiver) if parallel else stage(sender) < stage(receiver))
    )


def on_the_way(chosen: Iterable[Edge]) -> list[Edge]:
    """Those of the edges that lie on a way of theirs from the embedding to the logits, positions aside."""
    chosen = list(chosen)
    from_start, to_end = {EMBED}, {LOGITS}
    for edge in sorted(chosen, key=lambda edge: stage(edge.sender)):
        if edge.sender in from_start:
            from_start.add(edge.receiver)
    for edge in sorted(chosen, key=lambda edge: -stage(edge.receiver)):
        if edge.receiver in to_end:
            to_end.add(edge.sender)
    return [edge for edge in chosen if edge.sender in from_start and edge.receiver in to_end]


@dataclass(frozen=True)
class GroundTruth:
    """The circuit of a model that was constructed: what answers `target` from `variable`, known before any method runs.

    nodes: those whose output, as far as it differs when the variable does, changes the answer: the embedding and the
    logits not among them. edges: the same of single edges, without positions. backup: nodes that change nothing while
    all others work, and carry the answer where one of them is removed; they are no `nodes`. decoy: nodes whose output
    tells the variable although nothing that answers reads it; no `nodes` either. site: where the variable stands on
    its way, as (activation site, layer, position name); decoy_site: where it can be read and is not used. positions:
    every position at which something of it stands at that site and layer; that of `site` alone if none are given.
    """

    variable: str
    target: str
    nodes: frozenset[str]
    edges: frozenset[Edge]
    site: tuple[str, int, str]
    backup: frozenset[str] = frozenset()
    decoy: frozenset[str] = frozenset()
    decoy_site: tuple[str, int, str] | None = None
    positions: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.positions:
            object.__setattr__(self, "positions", frozenset({self.site[2]}))
        if self.site[2] not in self.positions:
            raise ValueError(f"the site's position {self.site[2]} is none of {', '.join(sorted(self.positions))}")
        if self.nodes & (self.backup | self.decoy):
            raise ValueError("a backup or a decoy is none of the nodes that answer")
        known = self.nodes | {EMBED, LOGITS}
        for edge in self.edges:
            if edge.position is not None or not {edge.sender, edge.receiver} <= known:
                raise ValueError(f"{edge}: a true edge has no position, and joins true nodes")
