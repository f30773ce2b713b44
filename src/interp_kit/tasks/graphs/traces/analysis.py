"""Errors of a trace, located and named. No service is asked: terms are looked up by exact inference, formulas are
tested as identities, arithmetic is done again. Of a counterfactual question, whose terms may speak of either of two
worlds, the arithmetic alone is checked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp_kit.tasks.graphs.questions import verifier
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel
from interp_kit.tasks.graphs.traces import formulas
from interp_kit.tasks.graphs.traces.lookup import Budget, TooMuchError, World, others
from interp_kit.tasks.graphs.traces.reader import Reader
from interp_kit.tasks.graphs.traces.steps import CALCULATION, COPY, FORMULA, OTHER, Located, State
from interp_kit.tasks.graphs.traces.text import LONGEST, chains

NO_NUMBERS, NONE, CANNOT_TELL = "no numeric computation", "none", "cannot tell"
CLASSES = (COPY, CALCULATION, FORMULA, OTHER, NO_NUMBERS, NONE, CANNOT_TELL)
KINDS = (formulas.INDEPENDENCE, formulas.MARGINALISATION, formulas.INTERVENTION, formulas.UNEXPLAINED)

Judge = Callable[[Question, str], str]


@dataclass(frozen=True)
class Analysis:
    """Findings in a trace.

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
        reader, cut = Reader(self._state(question)), len(text) > LONGEST
        try:
            for chain in chains(text, self.model.names):
                reader.read(chain)
        except TooMuchError:
            cut = True
        if not right:
            reader.finish(verifier.parse(text), text)
        errors = tuple(reader.state.errors)
        if errors:
            name, kind = errors[0].name, errors[0].kind
        elif not reader.computes:
            name, kind = NO_NUMBERS, ""
        else:
            name, kind = NONE if right else CANNOT_TELL, ""
        judged = None if judge is None else judge(question, text)
        return Analysis(name, kind, errors, right, reader.strategy, reader.count, cut, judged)

    def _state(self, question: Question) -> State:
        do = dict(question.set) if question.level == "interventional" else {}
        return State(self.model, question, self.cards, do, self.worlds(do), self.worlds({}))

    def worlds(self, do: Mapping[str, int]) -> tuple[World, ...]:
        """The printed model and the others, under an intervention."""
        key = tuple(sorted(do.items()))
        if key not in self._worlds:
            self._worlds[key] = tuple(World(model, do, self.budget) for model in (self.model, *self._others))
        return self._worlds[key]


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
