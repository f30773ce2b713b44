"""Isomorphism classes of DAGs: a fingerprint that isomorphic graphs share, and the exact check.

The fingerprint is of Weisfeiler and Leman's colour refinement (1-WL) over directed edges. Splits are a function of it,
so graphs that it cannot tell apart are in one split, isomorphic or not.
"""

import hashlib
from collections.abc import Iterable, Sequence

import networkx

Parents = Sequence[Sequence[int]]


def fingerprint(parents: Parents) -> str:
    """16 hexadecimal digits: the same for isomorphic DAGs, on every machine."""
    n = len(parents)
    children: list[list[int]] = [[] for _ in range(n)]
    for v, of in enumerate(parents):
        for p in of:
            children[p].append(v)
    colour, history, count = [0] * n, [], 1
    while True:
        signs = [
            (colour[v], tuple(sorted([colour[p] for p in parents[v]])), tuple(sorted([colour[c] for c in children[v]])))
            for v in range(n)
        ]
        history.append(sorted(signs))
        rank = {sign: i for i, sign in enumerate(sorted(set(signs)))}
        colour = [rank[sign] for sign in signs]
        if len(rank) == count:
            return hashlib.sha256(repr(history).encode()).hexdigest()[:16]
        count = len(rank)


def share(fingerprint: str, seed: int) -> float:
    """A number from 0 to 1 that is uniform over classes and the same for all graphs of one."""
    digest = hashlib.sha256(f"{seed} {fingerprint}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def isomorphic(a: Parents, b: Parents) -> bool:
    """True if the two DAGs are the same but for names, by an exact search."""
    return networkx.is_isomorphic(_graph(a), _graph(b))


def count_classes(graphs: Iterable[tuple[str, Parents]]) -> int:
    """The number of isomorphism classes among DAGs with their fingerprints, by exact checks where those agree."""
    found: dict[str, list[Parents]] = {}
    for name, parents in graphs:
        known = found.setdefault(name, [])
        if not any(isomorphic(parents, other) for other in known):
            known.append(parents)
    return sum(map(len, found.values()))


def _graph(parents: Parents) -> networkx.DiGraph:
    graph = networkx.DiGraph([(p, v) for v, of in enumerate(parents) for p in of])
    graph.add_nodes_from(range(len(parents)))
    return graph
