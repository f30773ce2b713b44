"""One step of a trace's chain, `earlier = later`: whether it errs, and how.

Values that a trace has stated before stand for its terms from there on, so that an error that only propagates an
earlier one does not count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from interp_kit.tasks.graphs.models import DiscreteModel
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.traces import formulas
from interp_kit.tasks.graphs.traces.expressions import (
    Expression,
    Number,
    Operation,
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
from interp_kit.tasks.graphs.traces.lookup import World
from interp_kit.tasks.graphs.traces.usual import usual_formulas

COPY, CALCULATION, FORMULA, OTHER = "copy", "calculation", "formula", "other"
TOLERANCE = 0.02 + 1e-9  # By which calculations may miss.
DIGITS = 0.005 + 1e-9  # By which a copied number of two digits may miss.


@dataclass(frozen=True)
class Located:
    """An error. name: "copy", "calculation", "formula" or "other"; kind: of a formula's error, one of KINDS, else "";
    line: of the text, from 1; segment: of its chain, from 0; text: that segment as read."""

    name: str
    kind: str
    line: int
    segment: int
    text: str


@dataclass
class State:
    """State of reading a text.

    do: the intervention that holds throughout; worlds: under it, the printed model first; plain: the same without it;
    stated: values that the text gave to terms; errors: located so far.
    """

    model: DiscreteModel
    question: Question
    cards: Mapping[str, int]
    do: Mapping[str, int]
    worlds: tuple[World, ...]
    plain: tuple[World, ...]
    stated: dict[object, float] = field(default_factory=dict)
    errors: list[Located] = field(default_factory=list)


class Step:
    """Checks one step of a chain: name, kind, and whether the error is in the segment before."""

    def __init__(self, state: State, worlds: tuple[World, ...], left: Term | None) -> None:
        self.state, self.worlds, self.left = state, worlds, left
        self.cards, self.stated = state.cards, state.stated

    def check(self, earlier: Expression, later: Expression) -> tuple[str, str, bool] | None:
        """The error of `earlier = later`, None if there is none that can be located."""
        one, other = any(terms(earlier)), any(terms(later))
        if not one and not other:
            wrong = abs(number_of(earlier) - number_of(later)) > TOLERANCE
            return (CALCULATION, "", False) if wrong else None
        if self.state.question.level == "counterfactual":
            return None  # of which of its two worlds a term speaks, the notation of a trace does not tell
        if one and other:
            return self._formula(earlier, later)
        if not one or unbound(earlier):
            return None
        if isinstance(earlier, Term):
            return self._valued(earlier, later)
        return self._substituted(written_out(earlier, self.cards), later)

    def _formula(self, earlier: Expression, later: Expression) -> tuple[str, str, bool] | None:
        if formulas.holds(earlier, later, self.worlds, self.cards) is not False:
            return None
        if self.left is None:
            return FORMULA, formulas.UNEXPLAINED, False
        kind = formulas.explained(self.left, later, self.worlds, self.state.plain, self.cards)
        return FORMULA, kind, False

    def _row(self, term: Term) -> float | None:
        """The entry of its table if a term is one."""
        return self.state.plain[0].row(term)

    def _true(self, term: Term) -> float | None:
        try:
            return self.worlds[0](term)
        except UndefinedError:
            return None

    def _observed(self, term: Term) -> float | None:
        """The value without the intervention."""
        try:
            return self.state.plain[0](term) if self.state.do and not term.do else None
        except UndefinedError:
            return None

    def _known(self, term: Term) -> list[float]:
        """Meanings that a term may have: as stated, and what is true."""
        found = [self.stated.get(self.worlds[0].key(term)), self._true(term)]
        return [number for number in found if number is not None]

    def _fits(self, term: Term, number: float) -> bool:
        """True if a number may have been put in for a term. One that was stated is copied, so it is as stated."""
        known = self._known(term)
        row = self._row(term) is not None
        if not known:
            return True
        if row or self.worlds[0].key(term) not in self.stated:
            return any(abs(number - one) <= (DIGITS if row else TOLERANCE) for one in known)
        return abs(number - known[0]) <= 2 * DIGITS or abs(number - known[-1]) <= DIGITS

    def _valued(self, term: Term, later: Expression) -> tuple[str, str, bool] | None:
        """A term, and straight after it its value or the calculation of it."""
        number, row, known = number_of(later), self._row(term), self._known(term)
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
            if self.state.errors:
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
        return None if self.state.errors else (OTHER, "", False)

    def _usual(self, term: Term) -> tuple[Expression, ...]:
        return usual_formulas(term, self.worlds, self.cards, self.state.question.target)

    def _pool_misses(self, part: Expression) -> bool:
        """True if a number is none of the tables', none that was stated, and none of their complements."""
        tables = self.state.model.tables
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
            if any(self._row(t) is not None or self.worlds[0].key(t) in self.stated for t, _ in missed):
                return COPY, "", False
            return None if self.state.errors else (OTHER, "", False)
        if missed == [] and not isinstance(later, Number):
            return None
        possible = [v for lookup in (self._best, self._truth) if (v := _maybe(formula, lookup)) is not None]
        if not possible or any(abs(v - number) <= TOLERANCE for v in possible):
            return None
        if isinstance(later, Number):
            observed = _maybe(formula, self._seen)
            if observed is not None and self.state.do and abs(observed - number) <= DIGITS:
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
