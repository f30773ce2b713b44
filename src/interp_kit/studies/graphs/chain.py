"""Questions on one chain, the graph in which it is plainest what there is to compute on the way.

b -> d -> a -> c, e alone, and always `do b x ? c`: P(c = 1 | do(b = x)) needs P(d = 1 | x), a look-up, then
P(a = 1 | x), a sum over d, then the answer, a sum over a. Elimination takes d, a and c in this order, so its factors
are these three distributions. Tables and x are all that differs, so every named position means the same in every
question, and an activation of one can be copied into another.
"""

from collections.abc import Mapping

import numpy as np

from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask
from interp_kit.tasks.graphs.compact import UNIT, Worlds, random_tables
from interp_kit.tasks.graphs.layout import NAMES
from interp_kit.tasks.graphs.structure import DO
from interp_kit.tasks.graphs.task import CompactGraphsTask

PARENTS = {"b": "", "d": "b", "a": "d", "c": "a", "e": ""}
X, Y = "b", "c"
# what is computed on the way -> the step of elimination whose factor it is
MEDIATORS = {"P(d)": 1, "P(a)": 2}


class ChainTask(CompactGraphsTask):
    """Questions on the chain, with P(d) and P(a), in 1/32, as variables that can be set.

    Otherwise as `CompactGraphsTask`, and of the same meaning: models of one read the other.
    """

    question = ("P(d)", "answer")
    variables = (*CompactGraphsTask.variables, *MEDIATORS)
    numeric = (*CompactGraphsTask.numeric, *MEDIATORS)

    def __init__(self, form: str = "direct") -> None:
        super().__init__(form)

    def sample(self, n: int, seed: int) -> list[Example]:
        """n questions, whose tables and x are independent and uniform."""
        rng = np.random.default_rng(derive_seed(seed, "graphs chain"))
        return self.examples(chain_worlds(n, rng))

    def examples(self, worlds: Worlds) -> list[Example]:
        """As CompactGraphsTask, with the mediators as labels."""
        found = super().examples(worlds)
        for example in found:
            for name, step in MEDIATORS.items():
                example.labels[name] = example.labels[f"s{step}.f1"]  # pyright: ignore[reportIndexIssue]
        return found

    def intervene(self, example: Example, do: Mapping[str, int]) -> dict[str, int]:
        """As CompactGraphsTask; setting a mediator sets both entries of its factor, so that it remains a
        distribution."""
        entries = {name: value for name, value in do.items() if name not in MEDIATORS}
        for name, step in MEDIATORS.items():
            if name in do:
                entries |= {f"s{step}.f0": UNIT - do[name], f"s{step}.f1": do[name]}
        labels = super().intervene(example, entries)
        return labels | {name: labels[f"s{step}.f1"] for name, step in MEDIATORS.items()}

    # pairs of independent questions on the chain, not counterfactuals that would leave it
    _matching = AbstractTask._matching


def chain_worlds(n: int, rng: np.random.Generator) -> Worlds:
    """n questions with uniform tables and x. Raises ValueError for n below 1."""
    if n < 1:
        raise ValueError(f"a sample needs at least one example, got n = {n}")
    parents = np.full((n, len(NAMES), 2), -1)
    for name, parent in PARENTS.items():
        if parent:
            parents[:, NAMES.index(name), 0] = NAMES.index(parent)
    return Worlds(
        parents,
        random_tables(parents, rng),
        np.full(n, DO),
        np.full(n, NAMES.index(X)),
        rng.integers(2, size=n),
        np.full(n, NAMES.index(Y)),
    )
