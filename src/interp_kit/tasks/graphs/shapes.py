"""Every labelled DAG of the compact form, how often the sampler draws it, its isomorphism class and its split.

Five variables, at most two parents each. The sampler: the number of roots is uniform on 1 to 4; each later node has one
or two parents, uniform without replacement among the earlier ones; names are then permuted at random.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

NODES = 5
SPLITS = ("train", "val", "test")
DEALT = (0, 2, 0, 1)  # Split of each class, classes in order of falling frequency: 50 % train, 25 % test, 25 % val.
PERMUTATIONS = np.array(list(itertools.permutations(range(NODES))))


@dataclass(frozen=True)
class Shapes:
    """DAGs, one per row.

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
def classes() -> Shapes:
    """One DAG of each isomorphism class, with the weight of the class."""
    drawn = list(_ordered())
    codes = _codes(edges_of(np.array([parents for parents, _ in drawn])))
    weight: dict[int, Fraction] = {}
    for code, (_, probability) in zip(codes.min(1).tolist(), drawn, strict=True):
        weight[code] = weight.get(code, Fraction()) + probability
    ranked = sorted(weight, key=lambda code: (-weight[code], code))
    number = np.arange(len(ranked))
    return Shapes(
        _parents(_decoded(np.array(ranked))),
        np.array([float(weight[code]) for code in ranked]),
        number,
        np.array(DEALT)[number % len(DEALT)],
    )


@cache
def shapes() -> Shapes:
    """Every labelled DAG, class by class. Those of one class are equally likely."""
    of = classes()
    members = [np.unique(codes) for codes in _codes(edges_of(of.parents))]
    sizes = np.array([len(codes) for codes in members])
    number = np.repeat(of.isomorphic, sizes)
    parents = _parents(_decoded(np.concatenate(members)))
    return Shapes(parents, (of.weight / sizes)[number], number, of.split[number])


def class_of(parents: np.ndarray) -> np.ndarray:
    """(n,) number of the isomorphism class of (n, 5, 2) parents. Raises ValueError for a graph that the sampler never
    draws, such as one with a cycle or without edges."""
    known = _codes(edges_of(classes().parents)).min(1)
    found = _codes(edges_of(parents)).min(1)
    number = np.argmax(found[:, None] == known, axis=1)
    strange = np.flatnonzero(known[number] != found)
    if len(strange):
        raise ValueError(
            f"graph {strange[0]} is of no class that is ever drawn: parents {parents[strange[0]].tolist()}"
        )
    return number


def renamed(parents: np.ndarray, name: np.ndarray) -> np.ndarray:
    """(n, 5, 2) parents after variable v of graph i is renamed to name[i, v], parents in rising order again."""
    new = np.where(parents < 0, NODES, np.take_along_axis(name[:, None], np.maximum(parents, 0), axis=2))
    rows = np.take_along_axis(np.sort(new, axis=2), np.argsort(name, axis=1)[..., None], axis=1)
    return np.where(rows == NODES, -1, rows)


def _ordered() -> Iterator[tuple[list[list[int]], Fraction]]:
    """Every DAG that the sampler draws before names are permuted, with its probability; earlier nodes come first."""
    for roots in range(1, NODES):
        choices = []
        for node in range(roots, NODES):
            counts = [k for k in (1, 2) if k <= node]
            sets = [list(itertools.combinations(range(node), k)) for k in counts]
            choices.append([(each, Fraction(1, len(counts) * len(same))) for same in sets for each in same])
        for combination in itertools.product(*choices):
            probability = Fraction(1, NODES - 1)
            for _, share in combination:
                probability *= share
            yield [[-1, -1]] * roots + [[*chosen, -1][:2] for chosen, _ in combination], probability


def edges_of(parents: np.ndarray) -> np.ndarray:
    """(n, 5, 5) True at [i, a, b] if a is a parent of b."""
    return (parents[:, None, :, :] == np.arange(NODES)[None, :, None, None]).any(-1)


def _codes(edges: np.ndarray) -> np.ndarray:
    """(n, 120) each graph under each renaming, as an integer."""
    power = 1 << np.arange(NODES**2)
    return np.stack([edges[:, p][:, :, p].reshape(len(edges), -1) @ power for p in PERMUTATIONS], axis=1)


def _decoded(codes: np.ndarray) -> np.ndarray:
    return (codes[:, None] >> np.arange(NODES**2) & 1).astype(bool).reshape(-1, NODES, NODES)


def _parents(edges: np.ndarray) -> np.ndarray:
    found = np.sort(np.where(edges.transpose(0, 2, 1), np.arange(NODES), NODES), axis=2)[..., :2]
    return np.where(found == NODES, -1, found)
