"""Right traces from enumeration of the joint distribution, in several templates, and the same with one error put in.

Nothing here uses the analysis that it tests: probabilities come from the whole joint table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from interp_kit.tasks.graphs.models import DiscreteModel, topological
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel, decimal, hundredths, printed
from interp_kit.tasks.graphs.samplers import default_dag, erdos_renyi_dag, random_model

TEMPLATES = ("latex", "markdown", "table", "prose", "swapped", "terse")
CLASSES = ("copy", "calculation", "false independence", "incomplete marginalisation", "mishandled intervention")

Values = dict[str, int]
T = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]  # targets, given


@dataclass
class Step:
    """One chain: term, formula as addends of terms (or a ratio of two terms), its numbers, and the result."""

    left: T
    addends: list[list[T]] = field(default_factory=list)
    ratio: bool = False
    over: tuple[str, ...] = ()  # variables of a sum that may be written with a sign
    numbers: list[list[float]] | None = None
    result: float | None = None
    bare: bool = False  # term = number, with nothing between
    wrong: str = ""
    segment: int = -1


class Oracle:
    """Probabilities by the whole joint table, under an intervention or not."""

    def __init__(self, model: DiscreteModel, do: Mapping[str, int]) -> None:
        self.model, names = model, model.names
        self.do = dict(do)
        joint = np.ones(model.cardinalities)
        for v, table in enumerate(model.tables):
            if names[v] in do:
                table, axes = np.eye(table.shape[-1])[do[names[v]]], (v,)
            else:
                axes = (*model.parents[v], v)
            order = sorted(range(len(axes)), key=lambda i: axes[i])
            shape = [1] * len(names)
            for a in axes:
                shape[a] = model.cardinalities[a]
            joint = joint * table.transpose(order).reshape(shape)
        self.joint = joint

    def weight(self, values: Mapping[str, int]) -> float:
        at = tuple(values.get(name, slice(None)) for name in self.model.names)
        return float(self.joint[at].sum())

    def __call__(self, term: T) -> float:
        targets, given = dict(term[0]), dict(term[1])
        row = self.row(term)
        if row is not None and next(iter(targets)) not in self.do:
            return row
        return self.weight({**targets, **given}) / self.weight(given)

    def row(self, term: T) -> float | None:
        """The table's entry, if the term is one."""
        if not self.is_row(term):
            return None
        (name, value), given = term[0][0], dict(term[1])
        v = self.model.names.index(name)
        return float(self.model.tables[v][(*(given[self.model.names[p]] for p in self.model.parents[v]), value)])

    def is_row(self, term: T) -> bool:
        names = self.model.names
        return len(term[0]) == 1 and {names[p] for p in self.model.parents[names.index(term[0][0][0])]} == set(
            dict(term[1])
        )


@dataclass
class Case:
    """A question with the steps of a right trace."""

    model: PrintedModel
    question: Question
    steps: list[Step]
    answer: tuple[float, ...]
    oracle: Oracle

    @property
    def reference(self) -> str:
        return "[" + ", ".join(decimal(int(c)) for c in hundredths(np.array(self.answer))) + "]"


def case(rng: np.random.Generator, degenerate: bool = False, variables: int = 5) -> Case:
    """A question, observational or interventional, and the steps to its answer, by recursion or by brute force."""
    while True:
        dag = default_dag(variables, rng) if rng.random() < 0.5 else erdos_renyi_dag(variables, 0.5, rng, 2)
        base = random_model(dag, rng, (2, 3))
        if degenerate:
            base = DiscreteModel(base.names, base.parents, tuple(_harder(t, rng) for t in base.tables))
        model = printed(base, rng)
        names, cards = model.names, model.cardinalities
        target = str(rng.choice(names))
        found = _ancestors(model, target)
        above = sorted(found - {target})
        if not above:
            continue
        x = str(rng.choice(above))
        at = {x: int(rng.integers(cards[names.index(x)]))}
        level = ("observational", "interventional")[rng.integers(2)]
        oracle = Oracle(model.model, at if level == "interventional" else {})
        if oracle.weight(at) < 0.02:
            continue
        question = Question(
            level, target, at if level == "observational" else {}, {} if level == "observational" else at
        )
        steps = _steps(model, question, oracle, rng)
        if steps is None or sum(len(s.addends) for s in steps) > 60:
            continue
        given = tuple(question.given.items())
        answer = tuple(oracle((((target, v),), given)) for v in range(cards[names.index(target)]))
        return Case(model, question, steps, answer, oracle)


def _harder(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the rows are 0 and 1."""
    rows = table.reshape(-1, table.shape[-1]).copy()
    for i in range(len(rows)):
        if rng.random() < 0.5:
            rows[i] = np.eye(rows.shape[1])[rng.integers(rows.shape[1])]
    return rows.reshape(table.shape)


def _ancestors(model: PrintedModel, of: str) -> set[str]:
    found, edge = set(), {of}
    while edge:
        name = edge.pop()
        found.add(name)
        edge |= {model.names[p] for p in model.parents[model.names.index(name)]} - found
    return found


def _row(model: PrintedModel, name: str, values: Mapping[str, int]) -> T:
    above = [model.names[p] for p in model.parents[model.names.index(name)]]
    return ((name, values[name]),), tuple((p, values[p]) for p in above)


def _brute(model: PrintedModel, left: T, do: Values) -> Step:
    """A joint probability as the sum of products of rows over all ancestors."""
    fixed = {**dict(left[0]), **do}
    needed: set[str] = set()
    edge = set(dict(left[0]))
    while edge:
        name = edge.pop()
        needed.add(name)
        if name not in do:
            edge |= {model.names[p] for p in model.parents[model.names.index(name)]} - needed
    order = [model.names[v] for v in topological(model.parents) if model.names[v] in needed]
    free = [name for name in order if name not in fixed]
    addends = []
    for at in product(*(range(model.cardinalities[model.names.index(n)]) for n in free)):
        values = {**fixed, **dict(zip(free, at, strict=True))}
        addends.append([_row(model, name, values) for name in order if name not in do])
    return Step(left, addends, over=tuple(free))


def _steps(model: PrintedModel, question: Question, oracle: Oracle, rng: np.random.Generator) -> list[Step] | None:
    names, cards, do = model.names, dict(zip(model.names, model.cardinalities, strict=True)), dict(question.set)
    target, given = question.target, tuple(question.given.items())
    values = range(cards[target])
    if given:
        joints = [_brute(model, (((target, v), *given), ()), {}) for v in values]
        below = Step((given, ()), [[j.left] for j in joints])
        return [*joints, below, *(Step((((target, v),), given), [[j.left], [below.left]], ratio=True)
                                  for v, j in zip(values, joints, strict=True))]  # fmt: skip
    if rng.random() < 0.4:
        return [_brute(model, (((target, v),), ()), do) for v in values]
    steps, done = [], set()

    def marginal(name: str) -> None:
        if name in done or name in do:
            return
        done.add(name)
        above = [names[p] for p in model.parents[names.index(name)]]
        free = [p for p in above if p not in do]
        if len(free) == 2 and not _independent(oracle, free, cards):
            for at in product(*(range(cards[p]) for p in free)):
                steps.append(_brute(model, (tuple(zip(free, at, strict=True)), ()), do))
        else:
            for p in free:
                marginal(p)
        if not free:
            if above:
                held = tuple((p, do[p]) for p in above)
                steps.extend(Step((((name, v),), ()), [[(((name, v),), held)]]) for v in range(cards[name]))
            return
        for v in range(cards[name]):
            addends = []
            for at in product(*(range(cards[p]) for p in free)):
                here = {**do, **dict(zip(free, at, strict=True)), name: v}
                joint = len(free) == 2 and not _independent(oracle, free, cards)
                weights: list[T] = (
                    [(tuple((p, here[p]) for p in free), ())] if joint else [(((p, here[p]),), ()) for p in free]
                )
                addends.append([_row(model, name, here), *weights])
            steps.append(Step((((name, v),), ()), addends, over=tuple(free)))

    marginal(target)
    return steps or None


def _independent(oracle: Oracle, pair: list[str], cards: Mapping[str, int]) -> bool:
    """By the graph: on random tables of it."""
    rng = np.random.default_rng(1)
    tables = []
    for t in oracle.model.tables:
        w = rng.exponential(size=t.shape)
        tables.append(w / w.sum(-1, keepdims=True))
    other = Oracle(DiscreteModel(oracle.model.names, oracle.model.parents, tuple(tables)), oracle.do)
    return all(
        abs(other.weight({pair[0]: a, pair[1]: b}) - other.weight({pair[0]: a}) * other.weight({pair[1]: b})) < 1e-9
        for a in range(cards[pair[0]])
        for b in range(cards[pair[1]])
    )


def corrupted(base: Case, name: str, rng: np.random.Generator) -> tuple[list[Step], int] | None:
    """The steps with one error of this class, and at which; None if the question has no place for it."""
    order = rng.permutation(len(base.steps)).tolist()
    for i in order:
        steps = [replace(s, addends=[list(a) for a in s.addends]) for s in base.steps]
        step = steps[i]
        if _PUT[name](base, step, rng):
            return steps, i
    return None


def _copy(base: Case, step: Step, rng: np.random.Generator) -> bool:
    step.wrong, step.segment = "copy", 2
    return True


def _calculation(base: Case, step: Step, rng: np.random.Generator) -> bool:
    step.wrong, step.segment = "calculation", 3
    return True


def _dropped(base: Case, step: Step, rng: np.random.Generator) -> bool:
    """A sum without one of its addends, which is not 0."""
    worth = [i for i, a in enumerate(step.addends) if np.prod([base.oracle(t) for t in a]) > 0]
    if step.ratio or len(worth) < 2:
        return False
    del step.addends[int(rng.choice(worth))]
    step.wrong, step.segment, step.over = "incomplete marginalisation", 1, ()
    return True


def _assumed(base: Case, step: Step, rng: np.random.Generator) -> bool:
    """A parent left out of a row's condition, or a joint probability as a product, where the graph forbids it."""
    if step.ratio:
        return False
    joints = [t for a in step.addends for t in a if len(t[0]) == 2]
    if joints and step.over:
        step.addends = [
            [part for t in a for part in ([((p,), t[1]) for p in t[0]] if len(t[0]) == 2 else [t])]
            for a in step.addends
        ]
    else:
        rows = sorted({(t[0][0][0], p) for a in step.addends for t in a for p, _ in t[1]})
        if not rows:
            return False
        name, parent = rows[int(rng.integers(len(rows)))]
        if name in base.oracle.do:
            return False
        if parent in base.oracle.do:
            return False  # its condition says nothing where it is set
        step.addends = [
            [(t[0], tuple(p for p in t[1] if p[0] != parent)) if t[0][0][0] == name else t for t in a]
            for a in step.addends
        ]
    step.wrong, step.segment = "false independence", 1
    # by the graph it may still hold, or hold in part: the oracle decides on other tables
    return _differs(base, step)


def _differs(base: Case, step: Step) -> bool:
    rng, found = np.random.default_rng(7), False
    for _ in range(2):
        tables = []
        for t in base.oracle.model.tables:
            w = rng.exponential(size=t.shape) * (t > 0)
            tables.append(w / w.sum(-1, keepdims=True))
        other = Oracle(DiscreteModel(base.oracle.model.names, base.oracle.model.parents, tuple(tables)), base.oracle.do)
        try:
            got = sum(np.prod([other(t) for t in a]) for a in step.addends)
            _ = [base.oracle(t) for a in step.addends for t in a]
        except ZeroDivisionError:
            return False
        found |= bool(abs(got - other(step.left)) > 1e-6)
    return found


def _observed(base: Case, step: Step, rng: np.random.Generator) -> bool:
    """The row of what is set stays a factor, or what is observed stands for what is set."""
    q = base.question
    if q.level != "interventional" or step.ratio:
        return False
    (x, at), seen = next(iter(q.set.items())), Oracle(base.model.model, {})
    above = [base.model.names[p] for p in base.model.parents[base.model.names.index(x)]]
    there = [{**dict(p for t in a for p in (*t[0], *t[1])), x: at} for a in step.addends]
    if (
        above
        and all(set(above) <= set(v) for v in there)
        and x in {p for a in step.addends for t in a for p, _ in t[1]}
    ):
        rows = [_row(base.model, x, v) for v in there]
        if all(abs(seen(r) - 1) < 0.02 for r in rows):
            return False
        for a, row in zip(step.addends, rows, strict=True):
            a.append(row)
        step.wrong, step.segment, step.over = "mishandled intervention", 1, ()
        return True
    name = step.left[0][0][0]
    if len(step.left[0]) > 1 or name == x or seen.weight({x: at}) == 0:
        return False
    put = (step.left[0], ((x, at),))
    if seen.row(put) is not None or abs(seen(put) - base.oracle(step.left)) < 0.03:
        return False
    step.wrong, step.segment, step.bare, step.result = "mishandled intervention", 1, True, seen(put)
    step.left = put
    return True


_PUT: dict[str, Callable[[Case, Step, np.random.Generator], bool]] = {
    "copy": _copy, "calculation": _calculation, "incomplete marginalisation": _dropped,
    "false independence": _assumed, "mishandled intervention": _observed,
}  # fmt: skip


def computed(base: Case, steps: list[Step], rng: np.random.Generator) -> bool:
    """Fill in numbers and results, each from what was stated before; False if an error put in changes nothing."""
    seen = Oracle(base.model.model, {})
    stated: dict[object, float] = {}
    do = set(base.oracle.do.items())

    def key(t: T) -> object:
        return frozenset(t[0]), frozenset(t[1]) - do

    for step in steps:
        if step.bare:
            stated[key(step.left)] = step.result = round(float(step.result or 0), 4)
            continue

        def worth(t: T, step: Step = step) -> float:
            if t[0][0][0] in base.oracle.do or seen.row(t) is not None:
                return round(seen(t), 4)
            return stated[key(t)] if key(t) in stated else round(base.oracle(t), 4)

        step.numbers = [[worth(t) for t in a] for a in step.addends]
        if step.wrong == "copy":
            i = int(rng.integers(len(step.numbers)))
            j = int(rng.integers(len(step.numbers[i])))
            old = step.numbers[i][j]
            new = [c / 100 for c in range(1, 100) if abs(c / 100 - old) > 0.05]
            step.numbers[i][j] = float(rng.choice(new))
        step.result = result = _result(step)
        if result is None:
            return False
        if step.wrong == "calculation":
            new = [r for d in (0.03, 0.05, 0.1, -0.03, -0.05, -0.1) if 0 <= (r := round(result + d, 4)) <= 1]
            step.result = float(rng.choice(new))
        stated[key(step.left)] = float(step.result or 0)
    return True


def _result(step: Step) -> float | None:
    assert step.numbers is not None
    if step.ratio:
        return None if step.numbers[1][0] == 0 else round(step.numbers[0][0] / step.numbers[1][0], 4)
    return round(float(sum(np.prod(a) for a in step.numbers)), 4)


def rendered(base: Case, steps: list[Step], template: str, rng: np.random.Generator) -> tuple[str, list[int]]:
    """The text, and the line of each step."""
    write = _Writer(base, template, rng)
    lines, at = [write.heading()], []
    if template == "table":
        lines += ["| term | formula | numbers | value |", "|---|---|---|---|"]
    for step in steps:
        at.append(sum(line.count("\n") + 1 for line in lines) + 1)
        lines.append(write.step(step))
    q, do = base.question, set(base.oracle.do.items())
    wanted = [(frozenset({(q.target, v)}), frozenset(q.given.items())) for v in range(len(base.answer))]
    have = {(frozenset(s.left[0]), frozenset(s.left[1]) - do): s.result for s in steps}
    final = [float(have.get(key) if have.get(key) is not None else base.answer[i]) for i, key in enumerate(wanted)]  # pyright: ignore[reportArgumentType]
    total = sum(final) or 1
    lines += ["", "ANSWER [" + ", ".join(decimal(int(c)) for c in hundredths(np.array(final) / total)) + "]"]
    return "\n".join(lines), at


class _Writer:
    def __init__(self, base: Case, template: str, rng: np.random.Generator) -> None:
        self.base, self.template, self.rng = base, template, rng
        self.style = int(rng.integers(3))  # how an intervention is written: do(..), as a condition, or not at all

    def heading(self) -> str:
        return {"latex": "We compute step by step:", "table": "The steps:\n", "markdown": "## Steps\n"}.get(
            self.template, "Let me think about it."
        )

    def step(self, step: Step) -> str:
        swap = self.template == "swapped"
        left = self.term(step.left)
        number = f"{step.result:.4f}".rstrip("0").ljust(4, "0")
        if step.bare:
            parts = [left, number]
        else:
            formula = self.sum([[self.term(t) for t in a] for a in step.addends], step, swap)
            assert step.numbers is not None
            numbers = [[f"{n:.4f}".rstrip("0").ljust(4, "0") for n in a] for a in step.numbers]
            if self.template in ("latex", "markdown") and step.over and self.rng.random() < 0.4 and not step.wrong:
                formula = self.sign(step)
            parts = [left, formula, self.sum(numbers, step, swap), number]
            if self.template == "terse" and step.wrong not in ("false independence", "mishandled intervention"):
                del parts[1]
        if self.template == "latex":
            if len(parts) > 3 and self.style == 1:
                return "$$ " + parts[0] + " = " + " = ".join(parts[1:]) + " $$"
            return r"\[ " + r" = ".join(parts[:-1]) + r" \approx " + parts[-1] + r" \]"
        if self.template == "table":
            return "| " + " | ".join(p.replace("|", r"\|") for p in parts) + " |"
        if self.template == "prose":
            return (
                f"Then {parts[0]} is "
                + ", which is ".join(parts[1:-1])
                + (f", which gives {parts[-1]}." if len(parts) > 2 else f"{parts[-1]}.")
            )
        return ("- " if self.template != "terse" else "") + f"**{parts[0]}** = " + " = ".join(parts[1:])

    def sign(self, step: Step) -> str:
        first = [(
            tuple((n, None if n in step.over else v) for n, v in t[0]),
            tuple((n, None if n in step.over else v) for n, v in t[1]),
        ) for t in step.addends[0]]  # fmt: skip
        names = ", ".join(self.name(n) for n in step.over)
        body = (r" \, " if self.template == "latex" else " * ").join(self.term(t) for t in first)  # pyright: ignore[reportArgumentType]
        return (rf"\sum_{{{names}}} {body}") if self.template == "latex" else f"Σ_{{{names}}} {body}"

    def sum(self, addends: list[list[str]], step: Step, swap: bool) -> str:
        latex, prose = self.template == "latex", self.template == "prose"
        if step.ratio:
            (top,), (below,) = addends
            return (
                rf"\frac{{{top}}}{{{below}}}" if latex else f"{top} divided by {below}" if prose else f"{top} / {below}"
            )
        times = r" \cdot " if latex else " times " if prose else " × " if self.template == "markdown" else " * "
        plus = " plus " if prose else " + "
        if swap:
            addends = [a[::-1] for a in addends]
        return plus.join(times.join(a) for a in addends)

    def name(self, name: str) -> str:
        return f"v_{{{name[1:]}}}" if self.template == "latex" else name

    def term(self, t: T) -> str:
        bar = r" \mid " if self.template == "latex" else " | "
        targets, given = list(t[0]), list(t[1])
        if self.template == "swapped":
            targets, given = targets[::-1], given[::-1]
        do = [p for p in self.base.oracle.do.items() if p not in given and p[0] not in dict(targets)]
        conditions = [self.pair(p) for p in given]
        row = self.base.oracle.is_row(t)
        if do and not row and self.style < 2 and not any(p in self.base.oracle.do for p, _ in given):
            conditions += [
                ("do(" if self.style == 0 else "") + self.pair(p) + (")" if self.style == 0 else "") for p in do
            ]
        return f"P({', '.join(map(self.pair, targets))}{bar + ', '.join(conditions) if conditions else ''})"

    def pair(self, pair: tuple[str, int | None]) -> str:
        equals = " = " if self.template in ("latex", "prose") else "="
        return self.name(pair[0]) + ("" if pair[1] is None else f"{equals}{pair[1]}")
