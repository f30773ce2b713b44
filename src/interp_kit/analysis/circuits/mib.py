"""Circuits as the files of MIB's circuit track hold them (Mueller et al. 2025, arXiv:2504.13151; the JSON of
github.com/hannamw/EAP-IG, which its submissions use): nodes "input", "a0.h1", "m0" and "logits"; edges "a0.h1->m0" and
"input->a0.h1<q>", each with a score and whether it is in the circuit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.core.config import check_count, check_fields, check_flag, expect
from interp_kit.core.files import read_json, write_text
from interp_kit.models.circuit import EMBED, HEAD, LOGITS, MLP, Edge, edges, nodes, on_the_way
from interp_kit.models.hooked_model import HookedModel, model_name

LIMIT = 512 * 2**20  # bytes
LARGEST = 1e300  # score
MOST = 1000  # layers, and heads of a layer


@dataclass(frozen=True)
class _Shape:
    """The part of a file that says which network it is about."""

    n_layers: int
    n_heads: int
    parallel_attn_mlp: bool
    d_model: int


@dataclass(frozen=True)
class _Scored:
    score: float
    in_graph: bool


def mib_name(node: str) -> str:
    """A node's name in MIB's files. Raises ValueError for what is no node's name."""
    if node in (EMBED, LOGITS):
        return "input" if node == EMBED else "logits"
    if found := HEAD.fullmatch(node):
        return f"a{found[1]}.h{found[2]}"
    if found := MLP.fullmatch(node):
        return f"m{found[1]}"
    raise ValueError(f"no node {node!r}; nodes are embed, L0H1, L0 MLP and logits")


def mib_edge(edge: Edge) -> str:
    """An edge's name in MIB's files, which know no positions."""
    way = f"<{edge.input}>" if HEAD.fullmatch(edge.receiver) else ""
    return f"{mib_name(edge.sender)}->{mib_name(edge.receiver)}{way}"


def write_mib(circuit: Circuit, path: str | Path, model: HookedModel, *, kept: int | None = None) -> Path:
    """Write a circuit as MIB's JSON.

    Args:
        circuit: Edges with scores, without positions. Edges of the model that it lacks are written with score 0.
        path: The file.
        model: The model that the circuit is of; its sizes stand in the file.
        kept: Number of edges that are marked as in the circuit, those of largest absolute score; None: all that
            `circuit` has. Edges on no way from the embedding to the logits are not marked, as in MIB's own files.

    Returns:
        The path.

    Raises:
        ValueError: The circuit is another model's or has positions, the model has no MLPs, or there are fewer edges.
        OSError: The file cannot be written.
    """
    expect("circuit", circuit, Circuit, "as interp_kit.score_edges(model, pairs) gives")
    cfg: Any = model.cfg
    known = nodes(cfg.n_layers, cfg.n_heads, with_mlp=not cfg.attn_only)
    if tuple(circuit.nodes) != known:
        raise ValueError(
            f"a circuit of {circuit.config['model']}, with {len(circuit.nodes)} nodes, for {model_name(model)}, with"
            f" {len(known)}"
        )
    if cfg.attn_only:
        raise ValueError("MIB's files are about models with MLPs, and this one has none")
    if any(circuit.position):
        raise ValueError("MIB's files know no positions: score the edges by='all'")
    if kept is not None:
        check_count("kept", kept, least=0, most=len(circuit))
    scores = dict(zip(circuit.edges, circuit.score.tolist(), strict=True))
    best = circuit.edges if kept is None else [circuit.edges[i] for i in circuit.order()[:kept]]
    chosen = set(on_the_way(best))
    touched = {LOGITS} | {node for edge in chosen for node in (edge.sender, edge.receiver)}
    shape = {name: getattr(cfg, name) for name in ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")}
    whole = edges(known, parallel=shape["parallel_attn_mlp"])
    data = {
        "cfg": shape,
        "nodes": {mib_name(node): {"in_graph": node in touched} for node in known},
        "edges": {mib_edge(e): {"score": scores.get(e, 0.0), "in_graph": e in chosen} for e in whole},
    }
    return write_text(path, json.dumps(data, allow_nan=False) + "\n")


def read_mib(path: str | Path, *, in_graph: bool = False) -> Circuit:
    """Read a circuit from MIB's JSON.

    Args:
        path: The file. Scores of nodes and neurons in it are not read.
        in_graph: Keep only the edges that are marked as in the circuit.

    Returns:
        The edges in the order of the house, with their scores, and no interval, as the file has none (n is 0).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, too large, or not such a circuit.
    """
    check_flag("in_graph", in_graph)
    data = read_json(path, LIMIT)
    if not isinstance(data, dict) or not {"cfg", "nodes", "edges"} <= set(data):
        raise ValueError(f"{path} is not a circuit of MIB: it needs cfg, nodes and edges")
    for name in ("cfg", "nodes", "edges"):
        if not isinstance(data[name], dict):
            raise ValueError(f"{path}: {name} is not a mapping")
    shape = _shape(data["cfg"], path)
    given: dict[str, Any] = data["edges"]
    n_nodes, n_edges = _counts(shape)
    for what, count in (("nodes", n_nodes), ("edges", n_edges)):  # before any list of that length is made
        if len(data[what]) != count:
            raise ValueError(f"{path} has {len(data[what]):,} {what}, and the model of its cfg {count:,}")
    known = nodes(shape.n_layers, shape.n_heads)
    if strange := data["nodes"].keys() - {mib_name(node) for node in known}:
        raise ValueError(f"{path}: the model of its cfg has no node {min(strange)[:60]!r}")
    for name, value in data["nodes"].items():
        flag = value.get("in_graph") if isinstance(value, dict) else value
        if not isinstance(flag, bool):
            raise ValueError(f"{path}: node {name} does not say whether it is in the circuit")
    whole = edges(known, parallel=shape.parallel_attn_mlp)
    if strange := given.keys() - {mib_edge(edge) for edge in whole}:
        raise ValueError(f"{path}: the model of its cfg has no edge {min(strange)[:60]!r}")
    found = {edge: _scored(given[name], name, path) for edge in whole for name in (mib_edge(edge),)}
    of_nodes = any(isinstance(value, dict) and "score" in value for value in data["nodes"].values())
    if of_nodes and not any(one.score for one in found.values()):
        raise ValueError(f"{path} scores nodes, and no edge: only circuits of edges are read")
    kept = {edge: one for edge, one in found.items() if one.in_graph or not in_graph}
    nothing = np.full(len(kept), np.nan)
    return Circuit(
        sender=tuple(edge.sender for edge in kept),
        receiver=tuple(edge.receiver for edge in kept),
        input=tuple(edge.input for edge in kept),
        position=("",) * len(kept),
        score=np.array([one.score for one in kept.values()], dtype=float),
        low=nothing,
        high=nothing,
        nodes=known,
        positions=(),
        n=0,
        config={
            "analysis": "read_mib",
            "model": f"the model of {Path(path).name}",
            "method": "file",
            "in_graph": in_graph,
        },
    )


def _counts(shape: _Shape) -> tuple[int, int]:
    """Numbers of nodes and edges of a network of these sizes."""
    layers, heads = shape.n_layers, shape.n_heads
    before = layers + (heads + 1) * layers * (layers - 1) // 2  # senders before each layer, added up
    inner = 0 if shape.parallel_attn_mlp else heads * layers
    return 2 + layers * (heads + 1), (3 * heads + 1) * before + inner + 1 + layers * (heads + 1)


def _shape(cfg: Mapping[str, Any], path: str | Path) -> _Shape:
    """The sizes, of a cfg that may have more. Raises ValueError for those that no network has."""
    names = _Shape.__dataclass_fields__
    if missing := names.keys() - cfg.keys():
        raise ValueError(f"{path}: cfg lacks {', '.join(sorted(missing))}")
    shape = _Shape(**check_fields(_Shape, {name: cfg[name] for name in names}, f"cfg of {path}"))
    for name in ("n_layers", "n_heads", "d_model"):
        check_count(f"{name} of {path}", getattr(shape, name), most=MOST if name != "d_model" else None)
    return shape


def _scored(value: Any, name: str, path: str | Path) -> _Scored:
    """Score and mark of an edge. Raises ValueError for anything else."""
    at = f"edge {name} of {path}"
    if not isinstance(value, dict) or not {"score", "in_graph"} <= set(value):
        raise ValueError(f"{at} lacks score or in_graph")
    fields = check_fields(_Scored, {key: value[key] for key in ("score", "in_graph")}, at)
    if not abs(fields["score"]) < LARGEST:
        raise ValueError(f"the score of {at} is {str(fields['score'])[:20]}, larger than {LARGEST:.0e}")
    return _Scored(float(fields["score"]), fields["in_graph"])
