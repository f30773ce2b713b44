"""Answers to questions about a printed model, what they cost, and how far the shortcuts are from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from interp_kit.tasks.graphs.inference import Found, Inference, Values
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel, most_probable, rounded

TOLERANCE = 0.01  # TVD that strict scoring allows: a shortcut within it is as good as the answer.
SAME = 1e-9


@dataclass(frozen=True)
class Solved:
    """A question's answer with its columns.

    distribution: exact up to floats; answer: in hundredths; mode: the most probable value, of equals the first;
    ancestor_treewidth: exact, of the moralised ancestor graph; min_fill_products, min_fill_sums: multiplications and
    additions of elimination in min-fill's order; ve_operations: both; tvd_no_obs, tvd_no_do, tvd_neither: distance to
    the answers that leave out the observations, the intervention, or both, None if the question has not these;
    is_core: all of them are beyond the tolerance of strict scoring; is_lookup: the answer is a row of the target's
    table.
    """

    distribution: tuple[float, ...]
    answer: tuple[int, ...]
    mode: int
    ancestor_treewidth: int
    min_fill_products: int
    min_fill_sums: int
    tvd_no_obs: float | None
    tvd_no_do: float | None
    tvd_neither: float
    is_lookup: bool

    @property
    def ve_operations(self) -> int:
        """Products and sums."""
        return self.min_fill_products + self.min_fill_sums

    @property
    def is_core(self) -> bool:
        """True if no shortcut is as good as the answer."""
        return all(tvd is None or tvd > TOLERANCE + SAME for tvd in (self.tvd_no_obs, self.tvd_no_do, self.tvd_neither))


class Solver:
    """Solves questions about one printed model; what several of them need is found once."""

    def __init__(self, model: PrintedModel) -> None:
        self.printed = model
        self._floats = Inference(model.model)
        self._simple: dict[object, list[float]] = {}
        self._rows = [table.reshape(-1, table.shape[-1]).tolist() for table in model.model.tables]

    @cached_property
    def _integers(self) -> Inference:
        return Inference(self.printed.integers)

    def solve(self, question: Question) -> Solved:
        """Answer a question. Raises ValueError for names and values that the model has not, and for evidence that
        cannot be."""
        model = self.printed.model
        given, changed = model.assignment(question.given), model.assignment(question.set)
        return self.solve_numbers(question.level, model.number(question.target), given, changed, question.mechanism)

    def solve_numbers(
        self, level: str, target: int, given: Values, changed: Values, mechanism: str | None = None
    ) -> Solved:
        """The same by numbers of variables, which are taken to be the model's."""
        found = _ask(self._floats, level, target, given, changed, mechanism)
        weights = found.factors[-1].tolist()
        total = sum(weights)
        if not total > 0:
            words = ", ".join(f"{self.printed.names[v]} = {value}" for v, value in given.items())
            raise ValueError(f"the evidence {words} has probability 0: nothing follows from it")

        def exact() -> list[int]:
            return _ask(self._integers, level, target, given, changed, mechanism).factors[-1].tolist()

        distribution = [weight / total for weight in weights]
        prior = _tvd(distribution, self._simply(target))
        no_obs, no_do = prior if given else None, prior if changed else None
        if given and changed:
            no_obs = _tvd(distribution, self._simply(target, changed=changed))
            no_do = _tvd(distribution, self._simply(target, given=given))
        rows = self._rows[target]
        return Solved(
            tuple(distribution),
            rounded(weights, exact),
            most_probable(weights, exact),
            found.network.treewidth,
            found.plan.products,
            found.plan.sums,
            no_obs,
            no_do,
            prior,
            any(max(abs(p - q) for p, q in zip(row, distribution, strict=True)) < SAME for row in rows),
        )

    def _simply(self, target: int, *, given: Values | None = None, changed: Values | None = None) -> list[float]:
        """A simpler answer: P(target), P(target | given) or P(target | do(changed))."""
        key = (target, *(given or {}).items(), None, *(changed or {}).items())
        if key not in self._simple:
            weights = self._floats.ask((target,), changed or {}, given or {}, {}).factors[-1].tolist()
            total = sum(weights)
            self._simple[key] = [weight / total for weight in weights]
        return self._simple[key]


def _ask(inference: Inference, level: str, target: int, given: Values, changed: Values, mechanism: str | None) -> Found:
    nothing: Mapping[int, int] = {}
    if level == "counterfactual":
        return inference.ask((target,), nothing, given, changed, mechanism)
    return inference.ask((target,), changed, given, nothing)


def _tvd(a: Sequence[float], b: Sequence[float]) -> float:
    return sum([abs(p - q) for p, q in zip(a, b, strict=True)]) / 2
