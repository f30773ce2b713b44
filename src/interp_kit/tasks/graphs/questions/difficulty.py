"""Difficulty by structure: how deep and how large the graph of ancestors is that a question needs.

For each level it is another graph: the ancestors of target and evidence (observational), those of the target in the
mutilated graph (interventional), those of the copied target and of the evidence in the twin network (counterfactual;
its noise is not counted).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp_kit.tasks.graphs.models import topological

FAR = 10**4  # Distance where there is no path.
BUCKETS = ("d0", "d1", "d2", "d3", "d4", "d5", "d6+")


@dataclass(frozen=True)
class Depths:
    """Columns of n questions.

    ancestor_depth: largest shortest distance of an ancestor to the nearest target (the evidence is one, too), an
    intervened ancestor one less; ancestor_size: number of ancestors, targets included; longest_path_depth: length of
    the longest path to a target; on_path: True if what is set (or, in observational questions, observed) has a path to
    the target.
    """

    ancestor_depth: np.ndarray
    ancestor_size: np.ndarray
    longest_path_depth: np.ndarray
    on_path: np.ndarray


class Graph:
    """Shortest and longest distances between all variables, with and without the edges into each variable."""

    def __init__(self, parents: Sequence[Sequence[int]]) -> None:
        self.parents = parents
        self.n = len(parents)
        self._children = [[v for v in range(self.n) if u in parents[v]] for u in range(self.n)]
        self._upwards = topological(parents)[::-1]

    @cached_property
    def shortest(self) -> np.ndarray:
        """(n + 1, n, n) at [x, v, t]: fewest edges from v to t without the edges into x; x = n cuts none."""
        return self._distances(np.minimum, FAR)

    @cached_property
    def longest(self) -> np.ndarray:
        """(n + 1, n, n) the same for most edges, negative if there is no path."""
        return self._distances(np.maximum, -FAR)

    def _distances(self, better: np.ufunc, none: int) -> np.ndarray:
        found = np.full((self.n + 1, self.n, self.n), none)
        for v in self._upwards:
            for child in self._children[v]:
                through = found[:, child] + 1
                through[child] = none
                better(found[:, v], through, out=found[:, v])
            found[:, v, v] = 0
        return found

    @cached_property
    def descends(self) -> np.ndarray:
        """(n, n) True at [x, v] if v is x or descends from it."""
        return self.shortest[self.n] < FAR

    def connected(self, level: str, x: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(k,) False if the graph alone shows that something does not matter: the evidence and the target have no
        ancestor in common (in the other world, of which noise and all that is not changed are the same), or what is
        set is not an ancestor of the target."""
        here = self.shortest[self.n] < FAR
        if level == "observational":
            return (here[:, z] & here[:, y][..., None]).any((0, 2))
        there = self.shortest[x, :, y] < FAR
        rows = np.arange(len(y))
        on_path = there[rows, x]
        if level == "interventional":
            return on_path
        there[rows, x] = False
        return on_path & (here[:, z].any(-1).T & there).any(1)

    def depths(self, level: str, x: np.ndarray, z: np.ndarray, y: np.ndarray) -> Depths:
        """The columns of questions. x: (k,) what is set; z: (k, observed) the evidence; y: (k,) the target. Of those
        that a level has not, nothing is read."""
        shortest, longest, none = self.shortest, self.longest, self.n
        rows = np.arange(len(y))
        if level == "observational":
            near = shortest[none][:, z].min(-1).T
            near = np.minimum(near, shortest[none][:, y].T)
            far = np.maximum(longest[none][:, z].max(-1).T, longest[none][:, y].T)
            on_path = (shortest[none][z, y[:, None]] < FAR).any(-1)
            return Depths(_deepest(near), (near < FAR).sum(1), np.maximum(far.max(1), 0), on_path)
        there, far = shortest[x, :, y], longest[x, :, y]
        on_path = shortest[x, x, y] < FAR
        size = (there < FAR).sum(1)
        there[rows, x] -= (there[rows, x] < FAR) & (there[rows, x] > 0)
        if level == "interventional":
            return Depths(_deepest(there), size, np.maximum(far.max(1), 0), on_path)
        here = shortest[none][:, z].min(-1).T
        copied = self.descends[x]
        shared = np.where(copied, FAR, np.minimum(there, here))
        depth = np.maximum(_deepest(shared), np.maximum(*(_deepest(np.where(copied, d, FAR)) for d in (there, here))))
        size = (shared < FAR).sum(1) + sum((copied & (d < FAR)).sum(1) for d in (there, here))
        far = np.maximum(far.max(1), longest[none][:, z].max(-1).max(0))
        return Depths(depth, size, np.maximum(far, 0), on_path)


def bucket(depth: int) -> str:
    """The bucket of an ancestor_depth."""
    return BUCKETS[min(depth, len(BUCKETS) - 1)]


def _deepest(distance: np.ndarray) -> np.ndarray:
    """(k,) the largest distance of each row that is one."""
    return np.where(distance < FAR, distance, 0).max(1)
