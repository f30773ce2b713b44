"""A reader of prompts, on its own: it knows nothing but the text, and answers by listing worlds.

`python reader.py FILE` reads a JSON list of prompts and prints a JSON list of replies. It imports nothing of the
package; its arithmetic is in integers, and its counterfactuals list both worlds from the mechanism as it is printed:
"uniform" by every cell of the random numbers, "selectors" by the draws that the two worlds look at.
"""

import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

World = dict[str, int]


@dataclass
class Problem:
    """What a prompt says. rows: variable -> {values of its parents: hundredths}; order: parents first."""

    parents: dict[str, list[str]]
    rows: dict[str, dict[tuple[int, ...], list[int]]]
    order: list[str]
    mechanism: str
    seen: World
    changed: World
    target: str
    counterfactual: bool


def read(text: str) -> Problem:
    """The problem of a prompt."""
    parents: dict[str, list[str]] = {}
    rows: dict[str, dict[tuple[int, ...], list[int]]] = {}
    for name, given, numbers in re.findall(r"^P\((\w+)(?: \| (.*?))?\) = \[(.*?)\]$", text, re.MULTILINE):
        pairs = re.findall(r"(\w+) = (\d+)", given)
        parents[name] = [parent for parent, _ in pairs]
        counts = [int(Fraction(number) * 100) for number in numbers.split(", ")]
        assert sum(counts) == 100, f"a row of {name} does not sum to one"
        rows.setdefault(name, {})[tuple(int(value) for _, value in pairs)] = counts
    listed = re.findall(r"(\w+) -> (\w+)", text)
    assert sorted(listed) == sorted((p, v) for v, of in parents.items() for p in of), "edges and tables differ"
    order: list[str] = []
    while len(order) < len(parents):
        order += [v for v, of in parents.items() if v not in order and set(of) <= set(order)]
    question = text[text.index("Question: ") :]
    target = re.search(r"(?:distribution|value) of (\w+)", question)
    assert target is not None
    counterfactual = " had " in question
    facts, what_if = question.split("What is")[:2]
    seen = facts if "observed" in facts else ""
    changed = what_if.split(" had ")[1] if counterfactual else ("" if seen else facts)
    return Problem(
        parents,
        rows,
        order,
        "selectors" if "every assignment" in text else "uniform",
        {name: int(value) for name, value in re.findall(r"(\w+) is (\d+)", seen)},
        {name: int(value) for name, value in re.findall(r"(\w+) (?:been set )?to (\d+)", changed)},
        target[1],
        counterfactual,
    )


def one_world(problem: Problem) -> Iterator[tuple[World, int]]:
    """Every world under what is set, with its weight."""

    def grow(world: World, left: list[str], weight: int) -> Iterator[tuple[World, int]]:
        if not left:
            yield world, weight
            return
        v = left[0]
        row = problem.rows[v][tuple(world[p] for p in problem.parents[v])]
        for value, count in enumerate(row):
            if v in problem.changed:
                if value == problem.changed[v]:
                    yield from grow({**world, v: value}, left[1:], weight)
            elif count and problem.seen.get(v, value) == value:
                yield from grow({**world, v: value}, left[1:], weight * count)

    return grow({}, problem.order, 1)


def two_worlds(problem: Problem) -> Iterator[tuple[World, Fraction]]:
    """Every imagined world, with its weight, for each observed world that agrees with what was seen."""
    below = set(problem.changed)
    for v in problem.order:
        if below & set(problem.parents[v]):
            below.add(v)

    def pairs(v: str, here: list[int], there: list[int], same: bool) -> Iterator[tuple[int, int, int]]:
        """Values of v in both worlds, with their weight."""
        if problem.mechanism == "uniform":
            cells = [[value for value, count in enumerate(row) for _ in range(count)] for row in (here, there)]
            found: dict[tuple[int, int], int] = {}
            for a, b in zip(*cells, strict=True):  # the random number lies in one of 100 cells, equally likely
                found[a, b] = found.get((a, b), 0) + 1
            yield from ((a, b, count) for (a, b), count in found.items())
        elif same:  # one draw
            yield from ((value, value, count) for value, count in enumerate(here))
        else:
            for (a, p), (b, q) in itertools.product(enumerate(here), enumerate(there)):
                yield a, b, p * q

    def grow(here: World, there: World, left: list[str], weight: Fraction) -> Iterator[tuple[World, Fraction]]:
        if not left:
            yield there, weight
            return
        v = left[0]
        at, imagined = ([world[p] for p in problem.parents[v]] for world in (here, there))
        rows = [problem.rows[v][tuple(values)] for values in (at, imagined)]
        same = at == imagined
        if v in problem.changed:
            options: Iterator[tuple[int, int, int]] = ((a, problem.changed[v], p) for a, p in enumerate(rows[0]))
            unit = 100
        elif v not in below:
            options, unit = ((a, a, p) for a, p in enumerate(rows[0])), 100
        else:
            options = pairs(v, *rows, same)
            unit = 100 if problem.mechanism == "uniform" or same else 10_000
        for a, b, count in options:
            if count and problem.seen.get(v, a) == a:
                yield from grow({**here, v: a}, {**there, v: b}, left[1:], weight * Fraction(count, unit))

    yield from grow({}, {}, problem.order, Fraction(1))


def answer(text: str) -> str:
    """The reply to a prompt that asks for a distribution or for the most probable value."""
    problem = read(text)
    weights: dict[int, Fraction | int] = dict.fromkeys(range(len(next(iter(problem.rows[problem.target].values())))), 0)
    for world, weight in two_worlds(problem) if problem.counterfactual else one_world(problem):
        weights[world[problem.target]] += weight
    total = Fraction(sum(weights.values()))
    if "most probable" in text:
        return f"ANSWER [{max(weights, key=lambda value: (weights[value], -value))}]"
    exact = [100 * weights[value] / total for value in weights]
    found = [int(part) for part in exact]
    for i in sorted(range(len(found)), key=lambda i: (found[i] - exact[i], i))[: 100 - sum(found)]:
        found[i] += 1
    return f"ANSWER [{', '.join(f'{count / 100:.2f}' for count in found)}]"


if __name__ == "__main__":
    print(json.dumps([answer(text) for text in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]))
    assert not [name for name in sys.modules if name.startswith("interp_kit")]
