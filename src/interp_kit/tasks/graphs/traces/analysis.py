"""Where a trace errs, and how. No service is asked: terms are looked up by exact inference, formulas are tested as
identities, arithmetic is done again.

Values that a trace has stated before stand for its terms from there on, so that an error that only propagates an
earlier one does not count.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from interp_kit.tasks.graphs.questions import verifier
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel
from interp_kit.tasks.graphs.traces import formulas
from interp_kit.tasks.graphs.traces.usual import usual_formulas
from interp_kit.tasks.graphs.traces.expressions import (
    Expression,
    Number,
    Operation,
    Sum,
    Term,
    UndefinedError,
    aligned,
    number_of,
    numbers,
    terms,
    unbound,
    value,
    written_out,
)
from interp_kit.tasks.graphs.traces.lookup import Budget, TooMuchError, World, others
from interp_kit.tasks.graphs.traces.text import LONGEST, Segment, chains

COPY, CALCULATION, FORMULA, OTHER = "copy", "calculation", "formula", "other"
NO_NUMBERS, NONE, CANNOT_TELL = "no numeric computation", "none", "cannot tell"
CLASSES = (COPY, CALCULATION, FORMULA, OTHER, NO_NUMBERS, NONE, CANNOT_TELL)
KINDS = (formulas.INDEPENDENCE, formulas.MARGINALISATION, formulas.INTERVENTION, formulas.UNEXPLAINED)
STRATEGIES = ("recursion", "brute-force summation", "other")
TOLERANCE = 0.02 + 1e-9  # By which calculations may miss.
DIGITS = 0.005 + 1e-9  # By which a copied number of two digits may miss.

Judge = Callable[[Question, str], str]


@dataclass(frozen=True)
class Located:
    """An error. name: "copy", "calculation", "formula" or "other"; kind: of a formula's error, one of KINDS, else "";
    line: of the text, from 1; segment: of its chain, from 0; text: that segment as read."""

    name: str
    kind: str
    line: int
    segment: int
    text: str


@dataclass(frozen=True)
class Analysis:
    """What was found in a trace.

    name: one of CLASSES, that of the first error if there is one; kind: of a formula's error; errors: all that do not
    only propagate an earlier one; right: True if the final answer is within strict scoring's tolerance; strategy: one
    of STRATEGIES; chains: number of chains that were read; cut: True if the text was too long to be read to its end;
    judged: what the judge said, None without one.
    """

    name: str
    kind: str
    errors: tuple[Located, ...]
    right: bool
    strategy: str
    chains: int
    cut: bool
    judged: str | None = None


class Analyst:
    """Analyses traces about one model."""

    def __init__(self, model: PrintedModel) -> None:
        self.model = model.model
        self.cards = dict(zip(model.names, model.cardinalities, strict=True))
        self._others = others(self.model)
        self._worlds: dict[tuple[tuple[str, int], ...], tuple[World, ...]] = {}
        self.budget = Budget()

    def analyse(self, question: Question, reference: str, text: str, judge: Judge | None = None) -> Analysis:
        """Analyse one trace.

        Args:
            question: What was asked about the model.
            reference: The right answer, as the verifier takes it.
            text: The reply.
            judge: Called with the question and the text; its word is kept beside what was found, and changes nothing.

        Returns:
            The analysis.

        Raises:
            ValueError: for a question or a reference that is not of the model.
        """
        self.model.assignment({**question.given, **question.set})
        self.model.number(question.target)
        found = verifier.distance(verifier.parse(text), reference)
        right = found is not None and found <= verifier.TOLERANCE
        self.budget.left = Budget().left
        reader, cut = _Reader(self, question), len(text) > LONGEST
        try:
            for chain in chains(text, self.model.names):
                reader.read(chain)
        except TooMuchError:
            cut = True
        if not right:
            reader.finish(verifier.parse(text), text)
        errors = tuple(reader.errors)
        if errors:
            name, kind = errors[0].name, errors[0].kind
        elif not reader.computes:
            name, kind = NO_NUMBERS, ""
        else:
            name, kind = NONE if right else CANNOT_TELL, ""
        judged = None if judge is None else judge(question, text)
        return Analysis(name, kind, errors, right, reader.strategy, reader.count, cut, judged)

    def worlds(self, do: Mapping[str, int]) -> tuple[World, ...]:
        """The printed model and the others, under an intervention."""
        key = tuple(sorted(do.items()))
        if key not in self._worlds:
            self._worlds[key] = tuple(World(model, do, self.budget) for model in (self.model, *self._others))
        return self._worlds[key]

    def below(self, of: Mapping[str, int]) -> set[str]:
        """These variables and their descendants."""
        names, found = self.model.names, set(of)
        for _ in names:
            found |= {
                name for name, of in zip(names, self.model.parents, strict=True) if found & {names[p] for p in of}
            }
        return found


class _Reader:
    """Reads the chains of one text in order, and keeps what they state."""

    def __init__(self, analyst: Analyst, question: Question) -> None:
        self.analyst, self.question, self.cards = analyst, question, analyst.cards
        self.do = dict(question.set) if question.level == "interventional" else {}
        self.plain = analyst.worlds({})
        self.worlds = analyst.worlds(self.do)
        imagined = question.level == "counterfactual"
        self.loose = analyst.below(question.set) if imagined else set()
        self.stated: dict[object, float] = {}
        self.errors: list[Located] = []
        self.computes, self.count = False, 0
        self._brute = self._recursive = False

    @property
    def strategy(self) -> str:
        """How the answer was sought."""
        return STRATEGIES[1 if self._brute else 0 if self._recursive else 2]

    def read(self, chain: tuple[Segment, ...]) -> None:
        """Check a chain, step by step; one for each value if it gives several as a list."""
        self.count += 1
        self.computes |= any(
            s.several or (s.expression is not None and not any(terms(s.expression))) for s in chain[1:]
        )
        try:
            for number, one in enumerate(self._single(chain)):
                if self._chain(one, quiet=number > 0):
                    return
        except UndefinedError:
            return

    def _single(self, chain: tuple[Segment, ...]) -> list[list[tuple[Segment, Expression]]]:
        """The chains of single values in one of lists."""
        lengths = {len(s.several) for s in chain if s.several}
        if not lengths:
            return [[(s, s.expression) for s in chain if s.expression is not None]]
        first = chain[0].expression
        free = unbound(first) & {n for n, _ in first.targets} if isinstance(first, Term) else set()
        if len(lengths) > 1 or len(free) != 1 or lengths != {self.cards[next(iter(free))]}:
            return []
        name, found = next(iter(free)), []
        for at in range(self.cards[name]):
            one = []
            for s in chain:
                if s.several:
                    one.append((s, s.several[at]))
                elif s.expression is not None:
                    one.append((s, written_out(s.expression, self.cards, {name: at})))
            found.append(one)
        return found

    def _chain(self, chain: list[tuple[Segment, Expression]], quiet: bool) -> bool:
        """Check each step; True if there is an error in it."""
        first, before = chain[0][1], len(self.errors)
        left = first if isinstance(first, Term) else None
        if left is not None and {n for n, _ in left.targets} <= set(self.do):
            left_worlds = self.plain  # what is set has no distribution but its own, before it is set
        else:
            left_worlds = self.worlds
        step = _Step(self, left_worlds, left)
        for place in range(1, len(chain)):
            (_, earlier), (segment, later) = chain[place - 1], chain[place]
            error = step.check(earlier, later)
            if error is not None:
                name, kind, back = error
                where, at = (chain[place - 1][0], place - 1) if back and place > 1 else (segment, place)
                self.errors.append(Located(name, kind, where.line, at, where.text))
                break
        last = chain[-1][1]
        if left is not None and not any(terms(last)) and not isinstance(last, Sum):
            self._state(left, chain)
        return len(self.errors) > before

    def _state(self, left: Term, chain: list[tuple[Segment, Expression]]) -> None:
        """Keep what a chain says of its term."""
        if unbound(left):
            return
        world = self.worlds[0]
        if not {n for n, _ in left.targets} <= set(self.do):
            self.stated[world.key(left)] = number_of(chain[-1][1])
            formula = [e for _, e in chain[1:] if any(terms(e))]
            used = [t for e in formula for t in self._terms(e)]
            self._recursive |= any(world.key(t) in self.stated and world.row(t) is None for t in used)
            self._recursive |= len(chain) > 2 and world.row(left) is None and not formula
            self._brute |= any(self._is_brute(e) for e in formula)

    def _terms(self, expression: Expression) -> list[Term]:
        return list(terms(written_out(expression, self.cards)))

    def _is_brute(self, expression: Expression) -> bool:
        """True for a sum of products of three or more rows of tables, over two or more variables."""
        whole = written_out(expression, self.cards)
        if isinstance(whole, Operation) and whole.kind == "/":
            return any(self._is_brute(part) for part in whole.parts)
        if not isinstance(whole, Operation) or whole.kind != "+" or len(whole.parts) < 4:
            return False
        return all(
            len(own := list(terms(part))) > 2 and all(self.worlds[0].row(t) is not None for t in own)
            for part in whole.parts
        )

    def finish(self, answer: tuple[Fraction, ...] | None, text: str) -> None:
        """A final answer that is not the one that the trace came to is a copy error."""
        if self.errors or answer is None or self.question.level == "counterfactual":
            return
        q, world = self.question, self.worlds[0]
        if len(answer) != self.cards[q.target]:
            return
        keys = [world.key(Term(((q.target, v),), tuple(q.given.items()))) for v in range(len(answer))]
        missed = [k for k, p in zip(keys, answer, strict=True) if k in self.stated]
        if any(abs(self.stated[k] - p) > TOLERANCE for k, p in zip(keys, answer, strict=True) if k in missed):
            lines = text.splitlines()
            at = max((i for i, line in enumerate(lines, 1) if "ANSWER" in line.upper()), default=len(lines))
            self.errors.append(Located(COPY, "", at, 0, lines[at - 1][:200] if lines else ""))


class _Step:
    """Checks one step of a chain: name, kind, and whether the error is in the segment before."""

    def __init__(self, reader: _Reader, worlds: tuple[World, ...], left: Term | None) -> None:
        self.reader, self.worlds, self.left = reader, worlds, left
        self.cards, self.stated = reader.cards, reader.stated

    def check(self, earlier: Expression, later: Expression) -> tuple[str, str, bool] | None:
        """The error of `earlier = later`, None if there is none that can be located."""
        one, other = any(terms(earlier)), any(terms(later))
        if not one and not other:
            wrong = abs(number_of(earlier) - number_of(later)) > TOLERANCE
            return (CALCULATION, "", False) if wrong else None
        if one and other:
            return self._formula(earlier, later)
        if not one or unbound(earlier):
            return None
        if isinstance(earlier, Term):
            return self._valued(earlier, later)
        return self._substituted(written_out(earlier, self.cards), later)

    def _formula(self, earlier: Expression, later: Expression) -> tuple[str, str, bool] | None:
        if self._imagined(earlier) or self._imagined(later):
            return None
        if formulas.holds(earlier, later, self.worlds, self.cards) is not False:
            return None
        if self.left is None:
            return FORMULA, formulas.UNEXPLAINED, False
        kind = formulas.explained(self.left, later, self.worlds, self.reader.plain, self.cards)
        return FORMULA, kind, False

    def _imagined(self, expression: Expression) -> bool:
        """True for terms whose value in the imagined world the notation of a trace does not tell."""
        loose = self.reader.loose
        return bool(loose) and any(t.do or loose & {n for n, _ in t.pairs} for t in terms(expression))

    def _true(self, term: Term) -> float | None:
        try:
            return None if self._imagined(term) and self.worlds[0].row(term) is None else self.worlds[0](term)
        except UndefinedError:
            return None

    def _observed(self, term: Term) -> float | None:
        """The value without the intervention."""
        try:
            return self.reader.plain[0](term) if self.reader.do and not term.do else None
        except UndefinedError:
            return None

    def _known(self, term: Term) -> list[float]:
        """What a term may be: as stated, and what is true."""
        found = [self.stated.get(self.worlds[0].key(term)), self._true(term)]
        return [number for number in found if number is not None]

    def _fits(self, term: Term, number: float) -> bool:
        """True if a number may have been put in for a term. One that was stated is copied, so it is as stated."""
        known = self._known(term)
        row = self.reader.plain[0].row(term) is not None
        if not known:
            return True
        if row or self.worlds[0].key(term) not in self.stated:
            return any(abs(number - one) <= (DIGITS if row else TOLERANCE) for one in known)
        return abs(number - known[0]) <= 2 * DIGITS or abs(number - known[-1]) <= DIGITS

    def _valued(self, term: Term, later: Expression) -> tuple[str, str, bool] | None:
        """A term, and straight after it its value or the calculation of it."""
        number, row, known = number_of(later), self.reader.plain[0].row(term), self._known(term)
        near = TOLERANCE if row is None and isinstance(later, Number) else DIGITS
        if not known or any(abs(number - one) <= near for one in (*known, *(() if row is None else (row,)))):
            return None
        if row is not None and isinstance(later, Number):
            return COPY, "", False
        observed = self._observed(term)
        if isinstance(later, Number):
            if self.worlds[0].key(term) in self.stated:
                return COPY, "", False
            if any(isinstance(formula, Term) for formula in self._usual(term)):
                return COPY, "", False  # under the intervention it is a row of its table
            if self.reader.errors:
                return None
            if observed is not None and abs(observed - number) <= DIGITS:
                return FORMULA, formulas.INTERVENTION, False
            return OTHER, "", False
        return self._bare(term, later, number)

    def _bare(self, term: Term, later: Expression, number: float) -> tuple[str, str, bool] | None:
        """A calculation without its formula, and not of the right value: it is held against the usual formulas."""
        parts = later.parts if isinstance(later, Operation) and later.kind == "+" else (later,)
        usual = self._usual(term)
        for formula in usual:
            addends = formula.parts if isinstance(formula, Operation) and formula.kind == "+" else ()
            left = [v for addend in addends if (v := _maybe(addend, self._best)) is not None]
            for part in parts:
                hit = next((v for v in left if abs(v - number_of(part)) <= DIGITS / 10), None)
                if hit is None:
                    break
                left.remove(hit)
            else:
                if any(left):
                    return FORMULA, formulas.MARGINALISATION, False
        for formula in usual:
            missed = aligned(formula, later, self._fits)
            if missed is not None and len(missed) < 2:
                return (COPY, "", False) if missed else None
        if any(abs(number - one) <= TOLERANCE for one in self._known(term)):
            return None
        if any(self._pool_misses(part) for part in parts):
            return COPY, "", False
        observed = self._observed(term)
        if observed is not None and abs(observed - number) <= DIGITS:
            return FORMULA, formulas.INTERVENTION, False
        return None if self.reader.errors else (OTHER, "", False)

    def _usual(self, term: Term) -> tuple[Expression, ...]:
        asked = self.reader.question.target
        return () if self._imagined(term) else usual_formulas(term, self.worlds, self.cards, asked)

    def _pool_misses(self, part: Expression) -> bool:
        """True if a number is none of the tables', none that was stated, and none of their complements."""
        tables = self.reader.analyst.model.tables
        known = [float(p) for table in tables for p in table.ravel()] + list(self.stated.values())
        return not all(
            x in (0, 1) or any(min(abs(x - p), abs(1 - x - p)) <= DIGITS for p in known) for x in numbers(part)
        )

    def _best(self, term: Term) -> float:
        known = self._known(term)
        if not known:
            raise UndefinedError(f"{term} has no value")
        return known[0]

    def _substituted(self, formula: Expression, later: Expression) -> tuple[str, str, bool] | None:
        """A formula, and after it its numbers."""
        number = number_of(later)
        missed = aligned(formula, later, self._fits)
        for term, put in missed or []:
            observed = self._observed(term)
            if observed is not None and abs(observed - put) <= DIGITS:
                return FORMULA, formulas.INTERVENTION, True
        if missed:
            if any(self.reader.plain[0].row(t) is not None or self.worlds[0].key(t) in self.stated for t, _ in missed):
                return COPY, "", False
            return None if self.reader.errors else (OTHER, "", False)
        if missed == [] and not isinstance(later, Number):
            return None
        possible = [v for lookup in (self._best, self._truth) if (v := _maybe(formula, lookup)) is not None]
        if not possible or any(abs(v - number) <= TOLERANCE for v in possible):
            return None
        if isinstance(later, Number):
            observed = _maybe(formula, self._seen)
            if observed is not None and self.reader.do and abs(observed - number) <= DIGITS:
                return FORMULA, formulas.INTERVENTION, True
            return CALCULATION, "", False
        return (COPY, "", False) if self._pool_misses(later) else (OTHER, "", False)

    def _truth(self, term: Term) -> float:
        found = self._true(term)
        if found is None:
            raise UndefinedError(f"{term} has no value")
        return found

    def _seen(self, term: Term) -> float:
        found = self._observed(term)
        if found is None:
            raise UndefinedError(f"{term} has no value")
        return found


def _maybe(formula: Expression, lookup: Callable[[Term], float]) -> float | None:
    try:
        return value(formula, lookup)
    except UndefinedError:
        return None


def question_of(row: Mapping[str, Any]) -> tuple[PrintedModel, Question]:
    """The printed model and the question of a row of a data set, as `interp_kit.tasks.graphs.data.rows` writes it.

    Raises ValueError for columns that cannot be read.
    """
    tables = json.loads(row["tables"])
    names = tuple(tables)
    parents = tuple(tuple(names.index(p) for p in table["parents"]) for table in tables.values())
    counts = tuple(np.array(table["hundredths"], dtype=np.int64) for table in tables.values())
    given, changed = json.loads(row["given"]), json.loads(row["set"])
    return PrintedModel(names, parents, counts), Question(row["level"], row["target"], given, changed, row["mechanism"])
