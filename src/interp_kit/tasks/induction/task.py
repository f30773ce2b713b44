"""The induction task: distinct letters, then one of them again; the answer is the letter that followed it.

The smallest text on which an induction head shows (Elhage et al. 2021, transformer-circuits.pub/2021/framework; Olsson
et al. 2022, arXiv:2209.11895): nothing but the order of this one text tells the answer.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from interp_kit.core.config import check_count, listed
from interp_kit.core.example import Example, Field
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import SAMPLE, AbstractTask, check_sample

END = "<end>"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LISTED, POOLED, FAMILIES = 2**16, 4096, 32


class InductionTask(AbstractTask):
    """Texts like `c a f k b e d a` with answer `f`.

    letters: size of the alphabet; length: tokens of the prompt, the last of which repeats one of its first half.

    Inputs are `where` (index at which the repeated letter stands first), `key` (that letter) and `other0`, `other1`, …
    (the rest in the order in which it stands); letters are given by their token id. From them follow `x0`, `x1`, …
    (the letter at each place) and `answer` = the x behind `where`. So to change `where` alone moves the key along
    letters whose order stays.

    Raises ValueError for a length below 4, or an alphabet that leaves no letter unused.
    """

    name = "induction"
    question = ("where", "answer")

    def __init__(self, letters: int = 12, length: int = 8) -> None:
        for option, value in (("letters", letters), ("length", length)):
            check_count(option, value)
        if length < 4 or not length <= letters <= len(LETTERS):
            raise ValueError(
                f"induction with {letters} letters and prompts of {length} tokens: the length must be 4 or more, and"
                f" the letters between it and {len(LETTERS)}"
            )
        self.letters, self.length = letters, length
        self.places = tuple(f"x{i}" for i in range(length - 1))
        others = tuple(f"other{i}" for i in range(length - 2))
        self.inputs = ("where", "key", *others)
        self.variables = (*self.inputs, *self.places, "answer")
        self.numeric = ()
        self.vocabulary = (*LETTERS[:letters], END)
        self.pad = letters
        values = tuple(range(letters))
        self.fields = (Field("answer", "answer?", values, values),)
        self._positions = {name: i for i, name in enumerate([*self.places, "answer?", "answer", "end"])}

    def meaning(self) -> dict[str, Any]:
        """The letters: a longer text asks the same of them."""
        return {key: value for key, value in super().meaning().items() if key != "options"}

    @property
    def n_worlds(self) -> int:
        """Number of worlds."""
        return math.perm(self.letters, self.length - 1) * (self.length // 2)

    def enumerate(self) -> list[Example]:
        """Every world. Raises ValueError if there are over 65,536, as by default."""
        if self.n_worlds > LISTED:
            raise ValueError(f"{self.n_worlds} induction worlds are too many to list ({LISTED} at most): {SAMPLE}")
        orders = itertools.permutations(range(self.letters), self.length - 1)
        return [self.example(where, *order) for order in orders for where in range(self.length // 2)]

    def sample(self, n: int, seed: int) -> list[Example]:
        """n worlds drawn uniformly and independently. Raises ValueError for n below 1."""
        check_sample(n, seed)
        rng = np.random.default_rng(seed)
        wheres = rng.integers(self.length // 2, size=n)
        return [self.example(int(where), *self._draw(rng)[: self.length - 1]) for where in wheres]

    def pool(self, seed: int = 0) -> list[Example]:
        """All worlds where they are 4,096 or fewer; else 32 families of neighbours, so that pairs exist which differ
        in one input: each world drawn, those with one letter of it replaced, and each of these with the key at every
        place."""
        if self.n_worlds <= POOLED:
            return self.enumerate()
        rng = np.random.default_rng(derive_seed(seed, "induction pool"))
        worlds = (self.example(where, *row) for row in self._families(rng) for where in range(self.length // 2))
        return list({example.tokens: example for example in worlds}.values())

    def example(self, where: int, key: int, *others: int) -> Example:
        """The example of these inputs. Raises ValueError if they are not a world: a wrong number of letters, one that
        is there twice, or one out of range."""
        if len(others) != self.length - 2 or len({key, *others}) != self.length - 1:
            raise ValueError(f"letters {(key, *others)}: expected {self.length - 1} distinct ones")
        labels = self._solve({"where": where, "key": key} | {f"other{i}": token for i, token in enumerate(others)})
        prompt = (*(labels[name] for name in self.places), key)
        return Example(
            text=" ".join(self.vocabulary[token] for token in (*prompt, labels["answer"])),
            tokens=(*prompt, labels["answer"], self.pad),
            prompt_length=self.length,
            positions=self._positions,
            labels=labels,
        )

    def intervene(self, example: Example, do: Mapping[str, int]) -> dict[str, int]:
        """Every variable of the example's world under do(variable = value). Letters may then stand twice. Raises
        ValueError for an unknown name, or a value that the variable cannot have."""
        for name in do:
            if name not in self.variables:
                raise ValueError(f"no variable {name!r}; there are {listed(self.variables, name)}")
        return self._solve({name: example.labels[name] for name in self.inputs} | dict(do))

    def _solve(self, given: Mapping[str, int]) -> dict[str, int]:
        """All variables from the inputs; a derived one that is given keeps what is given."""
        for name, value in given.items():
            top = self.length // 2 if name == "where" else self.letters
            if value not in range(top):
                raise ValueError(f"{name} cannot be {value}; it is one of 0 to {top - 1}")
        values = {name: int(given[name]) for name in self.inputs}
        order = [values[name] for name in self.inputs[2:]]
        order.insert(values["where"], values["key"])
        values |= {name: int(given.get(name, order[i])) for i, name in enumerate(self.places)}
        values["answer"] = int(given.get("answer", values[self.places[values["where"] + 1]]))
        return values

    def _draw(self, rng: np.random.Generator) -> list[int]:
        return [int(token) for token in rng.permutation(self.letters)]

    def _families(self, rng: np.random.Generator) -> Iterator[Sequence[int]]:
        for _ in range(FAMILIES):
            *base, spare = self._draw(rng)[: self.length]
            yield base
            for i in range(len(base)):
                yield [*base[:i], spare, *base[i + 1 :]]
