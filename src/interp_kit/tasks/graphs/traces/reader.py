"""Reads the chains of a trace in order, checks each step, and keeps what they state."""

from fractions import Fraction

from interp_kit.tasks.graphs.traces.expressions import (
    Expression,
    Operation,
    Sum,
    Term,
    UndefinedError,
    number_of,
    terms,
    unbound,
    written_out,
)
from interp_kit.tasks.graphs.traces.steps import COPY, TOLERANCE, Located, State, Step
from interp_kit.tasks.graphs.traces.text import Segment

STRATEGIES = ("recursion", "brute-force summation", "other")


class Reader:
    """Reads the chains of one text in order, and keeps what they state."""

    def __init__(self, state: State) -> None:
        self.state, self.cards, self.world = state, state.cards, state.worlds[0]
        self.computes, self.count = False, 0
        self._brute = self._recursive = False

    @property
    def strategy(self) -> str:
        """Way in which the answer was sought."""
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
        first, before = chain[0][1], len(self.state.errors)
        left = first if isinstance(first, Term) else None
        if left is not None and {n for n, _ in left.targets} <= set(self.state.do):
            left_worlds = self.state.plain  # what is set has no distribution but its own, before it is set
        else:
            left_worlds = self.state.worlds
        step = Step(self.state, left_worlds, left)
        for place in range(1, len(chain)):
            (_, earlier), (segment, later) = chain[place - 1], chain[place]
            error = step.check(earlier, later)
            if error is not None:
                name, kind, back = error
                where, at = (chain[place - 1][0], place - 1) if back and place > 1 else (segment, place)
                self.state.errors.append(Located(name, kind, where.line, at, where.text))
                break
        last = chain[-1][1]
        if left is not None and not any(terms(last)) and not isinstance(last, Sum):
            self._state(left, chain)
        return len(self.state.errors) > before

    def _state(self, left: Term, chain: list[tuple[Segment, Expression]]) -> None:
        """Keep what a chain says of its term."""
        if unbound(left):
            return
        world = self.world
        if not {n for n, _ in left.targets} <= set(self.state.do):
            self.state.stated[world.key(left)] = number_of(chain[-1][1])
            formula = [e for _, e in chain[1:] if any(terms(e))]
            used = [t for e in formula for t in self._terms(e)]
            self._recursive |= any(world.key(t) in self.state.stated and world.row(t) is None for t in used)
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
            len(own := list(terms(part))) > 2 and all(self.world.row(t) is not None for t in own)
            for part in whole.parts
        )

    def finish(self, answer: tuple[Fraction, ...] | None, text: str) -> None:
        """A final answer that is not the one that the trace came to is a copy error."""
        if self.state.errors or answer is None or self.state.question.level == "counterfactual":
            return
        q, world = self.state.question, self.world
        if len(answer) != self.cards[q.target]:
            return
        keys = [world.key(Term(((q.target, v),), tuple(q.given.items()))) for v in range(len(answer))]
        missed = [k for k, p in zip(keys, answer, strict=True) if k in self.state.stated]
        if any(abs(self.state.stated[k] - p) > TOLERANCE for k, p in zip(keys, answer, strict=True) if k in missed):
            lines = text.splitlines()
            at = max((i for i, line in enumerate(lines, 1) if "ANSWER" in line.upper()), default=len(lines))
            self.state.errors.append(Located(COPY, "", at, 0, lines[at - 1][:200] if lines else ""))
