"""Orders of elimination and the exact treewidth of a graph, as {vertex: neighbours}."""

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TypeVar

V = TypeVar("V", bound=Hashable)
Graph = dict[V, set[V]]


def interaction(scopes: Iterable[Collection[V]]) -> Graph:
    """The graph in which the variables of each scope are neighbours (of a model's families: the moral graph)."""
    graph: Graph = {}
    for scope in scopes:
        for v in scope:
            graph.setdefault(v, set()).update(scope)
    for v, near in graph.items():
        near.discard(v)
    return graph


def min_fill(graph: Graph[V], last: Collection[V] = ()) -> tuple[list[V], int]:
    """All vertices but `last`, at each step the one whose removal joins the fewest pairs (ties: fewest neighbours, then
    the first), and the width: most neighbours at removal."""
    names = list(graph)
    place = {v: i for i, v in enumerate(names)}
    near = [sum(1 << place[u] for u in graph[v]) for v in names]  # sets as bits
    cost = [_missing(near, i) for i in range(len(names))]
    left, order, width = [i for i, v in enumerate(names) if v not in last], [], 0
    while left:
        i = min(left, key=cost.__getitem__)
        around, joins = near[i], cost[i][0] > 0
        width = max(width, around.bit_count())
        left.remove(i)
        order.append(names[i])
        changed = around
        for j in _bits(around):
            near[j] = (near[j] | around) & ~(1 << i | 1 << j)
            changed |= near[j] if joins else 0
        for j in _bits(changed & ~(1 << i)):
            cost[j] = _missing(near, j)
    return order, width


def _missing(near: Sequence[int], i: int) -> tuple[int, int]:
    """Twice the pairs of i's neighbours that are not neighbours of each other, and the number of neighbours."""
    around = near[i]
    count = around.bit_count()
    if count < 2:
        return 0, count
    return sum([count - 1 - (near[j] & around).bit_count() for j in _bits(around)]), count


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def treewidth(graph: Graph) -> int:
    """Exact, by branch and bound over orders of elimination (Gogate & Dechter 2004): min-fill above, minor-min-width
    below, simplicial and almost simplicial vertices first, each set of removed vertices once."""
    return max((_treewidth(part) for part in _components(graph)), default=0)


def _treewidth(graph: Graph) -> int:
    best = min_fill(graph)[1]
    if best <= 2:  # min-fill is exact on forests, and anything but a forest has 2 or more
        return best
    seen: dict[frozenset, int] = {}

    def search(rest: Graph, width: int) -> None:
        nonlocal best
        rest = {v: set(near) for v, near in rest.items()}
        below = max(width, _minor_min_width(rest))
        while below < best and (v := _reducible(rest, below)) is not None:
            width = max(width, len(rest[v]))
            _remove(rest, v)
            below = max(below, width)
        if below >= best:
            return
        if len(rest) <= width + 1:
            best = width
            return
        key = frozenset(rest)
        if seen.get(key, best) <= width:
            return
        seen[key] = width
        for v in sorted(rest, key=lambda v: (_fill(rest, v), len(rest[v]))):
            if len(rest[v]) < best:
                after = {u: set(near) for u, near in rest.items()}
                _remove(after, v)
                search(after, max(width, len(rest[v])))

    search(graph, 0)
    return best


def _components(graph: Graph) -> list[Graph]:
    parts, left = [], set(graph)
    while left:
        reached, edge = set(), {next(iter(left))}
        while edge:
            reached |= edge
            edge = {u for v in edge for u in graph[v]} - reached
        parts.append({v: graph[v] for v in graph if v in reached})
        left -= reached
    return parts


def _fill(graph: dict[V, set[V]], v: V) -> int:
    near = graph[v]
    return sum(len(near) - 1 - len(graph[u] & near) for u in near) // 2


def _remove(graph: dict[V, set[V]], v: V) -> None:
    near = graph.pop(v)
    for u in near:
        graph[u] |= near
        graph[u] -= {u, v}


def _reducible(graph: dict[V, set[V]], below: int) -> V | None:
    """A vertex that may go first at no loss: its neighbours are a clique, or all but one of at most `below` are."""
    for v, near in graph.items():
        if _fill(graph, v) == 0:
            return v
        if len(near) <= below and any(_is_clique(graph, near - {u}) for u in near):
            return v
    return None


def _is_clique(graph: dict[V, set[V]], vertices: set[V]) -> bool:
    return all(len(graph[u] & vertices) == len(vertices) - 1 for u in vertices)


def _minor_min_width(graph: Graph) -> int:
    """A lower bound: contract a vertex of least degree into its neighbour of least degree, over and over."""
    graph, bound = {v: set(near) for v, near in graph.items()}, 0
    while graph:
        v = min(graph, key=lambda v: len(graph[v]))
        bound = max(bound, len(graph[v]))
        near = graph.pop(v)
        for u in near:
            graph[u].discard(v)
        if near:
            into = min(near, key=lambda u: len(graph[u]))
            for u in near - {into}:
                graph[u].add(into)
                graph[into].add(u)
    return bound
