"""Every labelled DAG of the compact form, how often the sampler draws it, its isomorphism class and its split.

Five variables, at most two parents each. The sampler: the number of roots is uniform on 1 to 4; each later node has one
or two parents, uniform without replacement among the earlier ones; names are then permuted at random.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

NODES = 5
SPLITS = ("train", "val", "test")
DEALT = (0, 2, 0, 1)  # Split of each class, classes in order of falling frequency: 50 % train, 25 % test, 25 % val.

Edges = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Shapes:
    """The labelled DAGs, one per row.

    parents: (dags, 5, 2) parents of each variable in rising order, -1 for none; weight: (dags,) probability under the
    sampler; isomorphic: (dags,) number of the isomorphism class, the most frequent class first; split: (dags,) index
    into SPLITS, a function of the class.
    """

    parents: np.ndarray
    weight: np.ndarray
    isomorphic: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.weight)

    def of(self, split: str | None) -> np.ndarray:
        """Rows of one split, or of all. Raises ValueError for an unknown split."""
        if split is None:
            return np.arange(len(self))
        if split not in SPLITS:
            raise ValueError(
                f"graphs cannot be drawn from split {split!r}: expected one of {', '.join(SPLITS)} or None"
            )
        return np.flatnonzero(self.split == SPLITS.index(split))


@cache
def shapes() -> Shapes:
    """All of them, in a fixed order."""
    weight: dict[Edges, Fraction] = defaultdict(Fraction)
    kind: dict[Edges, Edges] = {}
    total: dict[Edges, Fraction] = defaultdict(Fraction)
    permutations = list(itertools.permutations(range(NODES)))
    for edges, probability in _ordered():
        renamed = {frozenset((name[a], name[b]) for a, b in edges) for name in permutations}
        form = min(renamed, key=sorted)
        total[form] += probability
        for other in renamed:  # Each labelled DAG of a class is as likely as any other.
            kind[other] = form
    members: dict[Edges, int] = defaultdict(int)
    for form in kind.values():
        members[form] += 1
    for edges, form in kind.items():
        weight[edges] = total[form] / members[form]
    ranked = sorted(total, key=lambda form: (-total[form], sorted(form)))
    rank = {form: i for i, form in enumerate(ranked)}
    rows = sorted(kind, key=lambda edges: (rank[kind[edges]], sorted(edges)))
    number = np.array([rank[kind[edges]] for edges in rows])
    return Shapes(
        parents=np.array([_parents(edges) for edges in rows], dtype=np.int64),
        weight=np.array([float(weight[edges]) for edges in rows]),
        isomorphic=number,
        split=np.array(DEALT)[number % len(DEALT)],
    )


def _ordered() -> Iterator[tuple[Edges, Fraction]]:
    """Every DAG that the sampler draws before names are permuted, with its probability; earlier nodes come first."""
    for roots in range(1, NODES):
        choices = []
        for node in range(roots, NODES):
            counts = [k for k in (1, 2) if k <= node]
            sets = [
                (c, Fraction(1, len(counts))) for k in counts for c in [list(itertools.combinations(range(node), k))]
            ]
            choices.append([(node, chosen, share / len(c)) for c, share in sets for chosen in c])
        for combination in itertools.product(*choices):
            edges = frozenset((parent, node) for node, chosen, _ in combination for parent in chosen)
            probability = Fraction(1, NODES - 1)
            for *_, share in combination:
                probability *= share
            yield edges, probability


def _parents(edges: Edges) -> list[list[int]]:
    rows = [sorted(a for a, b in edges if b == node) for node in range(NODES)]
    return [[*row, -1, -1][:2] for row in rows]
