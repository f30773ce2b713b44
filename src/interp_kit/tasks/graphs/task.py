"""The graphs task: compact causal questions with named positions, exact factors, and one-input counterfactuals."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from interp_kit.core.example import Example, Field
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import SAMPLE, AbstractTask
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import DEPTHS, UNIT, Solution, Worlds, draw, n_rows, solve
from interp_kit.tasks.graphs.forward import forward
from interp_kit.tasks.graphs.layout import NAMES, PROMPT, TRACE
from interp_kit.tasks.graphs.shapes import NODES, SPLITS, class_of, classes
from interp_kit.tasks.graphs.structure import DO, SEE, acyclic

FORMS = ("direct", "trace")
INPUTS = (*(name for name in layout.SLOT if "." in name), "kind", "X", "x", "Y")
ABOUT = ("depth", "connected", "rows", "prior", "answer")
ENTRY = re.compile(r"s([1-5])\.f([0-7])")
TRIED, ROUNDS = 1000, 24  # questions drawn at a time, and how many times, in search of pairs


class CompactGraphsTask(AbstractTask):
    """Questions P(Y = 1 | do(X = x)) and P(Y = 1 | X = x) over five binary variables, answered in 1/32.

    form: "direct" (the answer follows `=`) or "trace" (the factor after each step of forward elimination, then the
    answer). split: "train", "val" or "test", of which no two hold isomorphic graphs; None draws from all. depths: those
    of the questions drawn (see `structure`).

    The text is described in `layout`. Inputs: `a.pa1`, `a.pa2` (numbers of the parents), `a.t0` … `a.t3` (table rows
    in halves), and so on to `e.t3`; `kind` (0 do, 1 see), `X`, `x`, `Y`. Derived, in the direct form too: each step of
    elimination as `s1` (the variable taken), `s1.l1` … (live variables), `s1.f0` … (entries, in 1/32); `depth`;
    `connected` (0 if the graph alone shows that X tells nothing of Y); `answer`; and two shortcuts to it, `rows` (mean
    of Y's own table rows that agree with x) and `prior` (P(Y = 1) with nothing given). -1 stands for what is not there.

    Answers of `see` are kept to multiples of 1/32: other questions, and impossible evidence, are never drawn. So the
    two kinds differ in which tables they come with.

    Pairs are counterfactuals: clean and corrupt differ in one input token. For a variable that follows from inputs,
    that token is a table row, `kind` or `x`.

    Raises ValueError for an unknown form or split, and for depths that do not occur.
    """

    name = "graphs"
    question = ("x", "answer")
    vocabulary = layout.VOCABULARY
    pad = layout.END
    inputs = INPUTS
    variables = (*INPUTS, *TRACE, *ABOUT)
    numeric = (*(name for name in TRACE if ".f" in name), "rows", "prior", "answer")

    def __init__(self, form: str = "direct", split: str | None = None, depths: Sequence[int] = DEPTHS) -> None:
        if form not in FORMS:
            raise ValueError(f"graphs has no form {form!r}: expected one of {', '.join(FORMS)}")
        if not depths or not set(depths) <= set(DEPTHS):
            raise ValueError(f"graphs has no questions of depths {tuple(depths)}: expected some of {DEPTHS}")
        classes().of(split)
        self.form, self.split, self.depths = form, split, tuple(sorted(set(depths)))
        completion = (*(TRACE if form == "trace" else ()), "answer", "end")
        names = (*PROMPT, *completion)
        self._positions = {name: at for at, name in enumerate(names)}
        self.fields = tuple(
            Field(name, before, *_values(name))
            for before, name in zip(names[len(PROMPT) - 1 :], completion[:-1], strict=False)
        )

    def meaning(self) -> dict[str, Any]:
        """The vocabulary and what is answered in this form: split and depths only say which questions are drawn."""
        return {key: value for key, value in super().meaning().items() if key != "options"}

    def enumerate(self) -> list[Example]:
        """Never possible: raises ValueError."""
        raise ValueError(f"graphs has too many questions to list: {SAMPLE}")

    def sample(self, n: int, seed: int) -> list[Example]:
        """n questions drawn independently: each kind and depth equally often, up to those that are not valid. Raises
        ValueError for n below 1."""
        if n < 1:
            raise ValueError(f"a sample needs at least one example, got n = {n}")
        rng = np.random.default_rng(derive_seed(seed, "graphs", self.split, self.depths))
        return self.examples(draw(n, rng, self.split, self.depths))

    def examples(self, worlds: Worlds) -> list[Example]:
        """The examples of these questions. Raises ValueError if one is not valid."""
        solution = solve(worlds)
        if not solution.valid.all():
            raise ValueError(
                f"question {int(np.flatnonzero(~solution.valid)[0])} has no answer in multiples of 1/{UNIT}: its"
                " evidence is impossible, or conditioning leaves the grid"
            )
        labels = _labels(worlds, solution)
        columns = [layout.slot_tokens(worlds), layout.query_tokens(worlds)]
        if self.form == "trace":
            columns.append(layout.trace_tokens(layout.trace_values(solution)))
        columns += [layout.AMOUNTS + solution.answer[:, None], np.full((len(worlds), 1), layout.END)]
        values = zip(*(column.tolist() for column in labels.values()), strict=True)
        return [
            Example(
                text=" ".join(self.vocabulary[token] for token in row[:-1]),
                tokens=tuple(row),
                prompt_length=len(PROMPT),
                positions=self._positions,
                labels=dict(zip(labels, value, strict=True)),
            )
            for row, value in zip(np.concatenate(columns, axis=1).tolist(), values, strict=True)
        ]

    def worlds(self, labels: Mapping[str, Any]) -> Worlds:
        """The questions with these labels, of a batch or of one example. Raises ValueError if they are not a
        question."""
        column = {name: np.atleast_1d(np.asarray(labels[name], dtype=np.int64)) for name in INPUTS}
        parents = np.stack([np.stack([column[f"{v}.pa{j}"] for j in (1, 2)], 1) for v in NAMES], 1)
        table = np.stack([np.stack([column[f"{v}.t{j}"] for j in range(4)], 1) for v in NAMES], 1)
        worlds = Worlds(parents, table, *(column[name] for name in ("kind", "X", "x", "Y")))
        _check(worlds)
        return worlds

    def intervene(self, example: Example, do: Mapping[str, int]) -> dict[str, int]:
        """Every variable of the example's world under do(variable = value).

        Inputs, entries of factors that exist, and the answer can be set; a factor entry that is set is what later steps
        start from. Raises ValueError for other names, for values that make no question, and if what follows is no
        multiple of 1/32.
        """
        settable = {*INPUTS, "answer"}
        for name in do:
            if name not in settable and not (ENTRY.fullmatch(name) and example.labels.get(name, -1) >= 0):
                raise ValueError(
                    f"{name!r} cannot be set: expected an input, a factor entry that exists, or the answer"
                )
        for name, value in do.items():
            if name not in INPUTS and value not in range(UNIT + 1):
                raise ValueError(f"{name} cannot be {value}; it is one of 0 to {UNIT}")
        worlds = self.worlds({name: do.get(name, example.labels[name]) for name in INPUTS})
        solution = solve(worlds)
        labels = {name: int(column[0]) for name, column in _labels(worlds, solution).items()}
        entries = {(int(m[1]) - 1, int(m[2])): do[name] for name in do if (m := ENTRY.fullmatch(name))}
        if entries:
            steps = forward(worlds, solution.structure, entries)
            for step, factor in enumerate(steps):
                labels |= {f"s{step + 1}.f{k}": _units(value) for k, value in enumerate(factor)}
            if any(name in do and labels[name] != do[name] for name in do if ENTRY.fullmatch(name)):
                raise ValueError(f"the factor entries {', '.join(map(str, do))} do not all exist in that world")
            total = sum(steps[-1])
            share = steps[-1][1] if int(worlds.kind[0]) == DO else (steps[-1][1] / total if total else None)
            labels["answer"] = -1 if share is None else _units(share)
        labels["answer"] = do.get("answer", labels["answer"])
        if labels["answer"] not in range(UNIT + 1):
            settings = ", ".join(f"{name} = {value}" for name, value in do.items())
            raise ValueError(f"under {settings} there is no answer in multiples of 1/{UNIT}")
        return labels

    def _matching(
        self,
        variable: str,
        target: str,
        hold: Sequence[str] | None,
        limit: int | None,
        seed: int,
        same_prompt_length: bool = False,
    ) -> list[tuple[Example, Example]]:
        """Independent questions, each with a counterfactual in one input, until `limit` pairs fit."""
        self.check_names(variable, target, hold)
        rng = np.random.default_rng(derive_seed(seed, "graphs pairs", self.split, self.depths, variable, target))
        limit, found, differing, held = 4096 if limit is None else limit, [], 0, 0
        for _ in range(ROUNDS):
            clean = draw(TRIED, rng, self.split, self.depths)
            corrupt, changed = _counterfactual(clean, variable, rng)
            keep = np.flatnonzero(changed & acyclic(corrupt.parents))
            keep = keep[self._asked(corrupt.take(keep))]
            clean, corrupt = clean.take(keep), corrupt.take(keep)
            a, b = (_labels(side, solve(side)) for side in (clean, corrupt))
            fits = a[variable] != b[variable]
            differing += int(fits.sum())
            for name in hold or ():
                fits &= a[name] == b[name]
            held += int(fits.sum())
            rows = np.flatnonzero(fits & (a[target] != b[target]))[: limit - len(found)]
            found += zip(self.examples(clean.take(rows)), self.examples(corrupt.take(rows)), strict=True)
            if len(found) >= limit:
                break
        if not found:
            raise ValueError(
                f"no such pair of graph questions: of {ROUNDS * TRIED} drawn, {differing} can differ in {variable!r},"
                f" {held} of them with {', '.join(hold) if hold else 'nothing'} held, and in none of them does the"
                f" answer of {target!r} differ"
            )
        return found

    def _asked(self, worlds: Worlds) -> np.ndarray:
        """(n,) True for valid questions of this task's depths and split."""
        solution = solve(worlds)
        asked = solution.valid & np.isin(solution.structure.depth, self.depths)
        if self.split is not None:
            asked &= classes().split[class_of(worlds.parents)] == SPLITS.index(self.split)
        return asked


def _values(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Values that a field can have, and the token of each."""
    amounts = (tuple(range(UNIT + 1)), tuple(range(layout.AMOUNTS, layout.AMOUNTS + UNIT + 1)))
    values, tokens = amounts if name == "answer" or ".f" in name else ((tuple(range(NODES)),) * 2)
    return (values, tokens) if name == "answer" else ((-1, *values), (layout.ABSENT, *tokens))


def _labels(worlds: Worlds, solution: Solution) -> dict[str, np.ndarray]:
    """Every variable of the task, one column per name."""
    plan = solution.structure
    slots = np.concatenate([worlds.parents, worlds.table], axis=2).reshape(len(worlds), len(INPUTS) - 4)
    query = np.stack([worlds.kind, worlds.x, worlds.value, worlds.y], axis=1)
    about = np.stack([plan.depth, plan.connected.astype(int), solution.rows, solution.prior, solution.answer], axis=1)
    columns = np.concatenate([slots, query, layout.trace_values(solution), about], axis=1)
    return dict(zip(CompactGraphsTask.variables, columns.T, strict=True))


def _units(value: Fraction) -> int:
    units = value * UNIT
    if units.denominator != 1 or not 0 <= units <= UNIT:
        raise ValueError(f"an entry that follows is {value}: expected a multiple of 1/{UNIT} between 0 and 1")
    return int(units)


def _check(worlds: Worlds) -> None:
    """Raises ValueError naming the first thing about these that makes no question."""
    none = worlds.parents < 0
    ordered = (worlds.parents[..., 0] < worlds.parents[..., 1]) | none[..., 1]
    there = np.arange(4) < n_rows(worlds.parents)[..., None]
    for wrong, what in (
        (~np.isin(worlds.parents, range(-1, NODES)), "a parent that is not a variable"),
        ((none[..., 0] & ~none[..., 1]) | ~ordered, "parents that are not in rising order, the first one first"),
        (
            np.where(there, ~np.isin(worlds.table, (0, 1, 2)), worlds.table != -1),
            "a table that does not fit its parents",
        ),
        (~np.isin(worlds.kind, (DO, SEE)), "a kind other than 0 (do) and 1 (see)"),
        (~np.isin(worlds.value, (0, 1)), "a value of X other than 0 and 1"),
        (~np.isin(worlds.x, range(NODES)) | ~np.isin(worlds.y, range(NODES)), "an X or Y that is not a variable"),
        (worlds.x == worlds.y, "the same variable as X and Y"),
    ):
        if wrong.any():
            raise ValueError(f"question {int(np.argwhere(wrong)[0][0])} has {what}")
    if not (fine := acyclic(worlds.parents)).all():
        raise ValueError(f"question {int(np.flatnonzero(~fine)[0])} has a graph with a cycle")


def _causes(variable: str) -> tuple[str, ...]:
    if variable in INPUTS:
        return (variable,)
    if variable in ("depth", "connected") or (variable in TRACE and ".f" not in variable):
        return (*(name for name in INPUTS if ".pa" in name), "kind", "X", "Y")
    return (*(name for name in INPUTS if ".t" in name), "kind", "x")


def _counterfactual(worlds: Worlds, variable: str, rng: np.random.Generator) -> tuple[Worlds, np.ndarray]:
    """The questions with one input changed, a random one of `_causes`, and (n,) True where it was."""
    n = len(worlds)
    causes = _causes(variable)
    cause = rng.integers(len(causes), size=n)
    parents, table, kind, x, value, y = (a.copy() for a in vars(worlds).values())
    changed = np.ones(n, dtype=bool)
    for k, name in enumerate(causes):
        at = np.flatnonzero(cause == k)
        shift = rng.integers(1, NODES, size=len(at))
        if "." in name:
            v, part, j = NAMES.index(name[0]), name[2:-1], int(name[-1])
            if part == "t":
                changed[at] = table[at, v, j] >= 0
                table[at, v, j] = np.where(changed[at], (table[at, v, j] + 1 + shift % 2) % 3, -1)
            else:
                old = parents[at, v, j - 1]
                parents[at, v, j - 1] = np.where(old >= 0, (old + shift) % NODES, -1)
                now = parents[at, v]
                changed[at] = (old >= 0) & (now != v).all(1) & ((now[:, 0] < now[:, 1]) | (now[:, 1] < 0))
        elif name == "kind":
            kind[at] = 1 - kind[at]
        elif name == "x":
            value[at] = 1 - value[at]
        else:
            column, other = (x, y) if name == "X" else (y, x)
            column[at] = (column[at] + shift) % NODES
            changed[at] = column[at] != other[at]
    return replace(worlds, parents=parents, table=table, kind=kind, x=x, value=value, y=y), changed
