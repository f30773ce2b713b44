"""Random DAGs and discrete models. Names are shuffled, so that they do not tell the topological order."""

from collections.abc import Sequence

import numpy as np

from interp_kit.tasks.graphs.models import DiscreteModel, discrete_model

Parents = list[tuple[int, ...]]


def default_dag(n: int, rng: np.random.Generator) -> Parents:
    """Parents of n variables, earlier ones first: the number of roots is uniform on 1 to n - 1; each later variable has
    one or two parents (equally often), uniform without replacement among the earlier. Raises ValueError for n < 2."""
    if n < 2:
        raise ValueError(f"a random DAG of {n} variables: expected 2 or more")
    parents: Parents = [()] * int(rng.integers(1, n))
    for v in range(len(parents), n):
        count = int(rng.integers(1, min(2, v) + 1))
        parents.append(tuple(sorted(rng.choice(v, count, replace=False).tolist())))
    return parents


def erdos_renyi_dag(n: int, edge: float, rng: np.random.Generator, most: int | None = None) -> Parents:
    """Parents of n variables: each earlier one with probability `edge`, at most `most` of them (a random subset).
    Raises ValueError for n below 1 and an `edge` that is not a probability."""
    if n < 1 or not 0 <= edge <= 1:
        raise ValueError(f"a DAG of {n} variables with edge probability {edge}: expected n >= 1 and 0 to 1")
    parents: Parents = []
    for v in range(n):
        chosen = np.flatnonzero(rng.random(v) < edge)
        if most is not None and len(chosen) > most:
            chosen = rng.choice(chosen, most, replace=False)
        parents.append(tuple(sorted(chosen.tolist())))
    return parents


def random_model(
    parents: Sequence[Sequence[int]], rng: np.random.Generator, cardinalities: Sequence[int] = (2, 3)
) -> DiscreteModel:
    """A model on this DAG: each variable's number of values uniform among `cardinalities`, each table row Dirichlet(1,
    …, 1), names v0, v1, … in random order. The model's variables are in the order of their names."""
    n = len(parents)
    values = rng.choice(np.asarray(cardinalities), size=n).tolist()
    name = rng.permutation(n).tolist()
    tables = {}
    for v in sorted(range(n), key=lambda v: name[v]):
        shape = tuple(values[p] for p in parents[v])
        rows = rng.dirichlet(np.ones(values[v]), size=shape)
        tables[f"v{name[v]}"] = ([f"v{name[p]}" for p in parents[v]], rows)
    return discrete_model(tables)
