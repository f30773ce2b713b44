"""Questions in words: the printed model, the question, and how to answer, in three variants.

All variants state the same problem; names come from the model, and the order in which variables, edges and tables are
printed is random, so that neither tells the topological order.
"""

from collections.abc import Mapping
from functools import cached_property, lru_cache

import numpy as np

from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel, decimal

VARIANTS = ("generic", "specific", "answer-only")
REFERENCES = ("distribution", "argmax", "sample")

MECHANISMS = {
    "selectors": (
        "Mechanism: each variable has one independent random draw for every assignment of values to its parents, made"
        " from the row of its table for that assignment. A variable takes the value that was drawn for the assignment"
        " its parents have. All these draws are the same in the observed world and in the imagined one."
    ),
    "uniform": (
        "Mechanism: each variable has one independent random number, uniform between 0 and 1, and takes the first value"
        " at which the cumulative sum of the row of its table, values in the printed order, exceeds that number. These"
        " numbers are the same in the observed world and in the imagined one."
    ),
}
ASKED = {
    "distribution": "What is the probability distribution of {target}{world}?",
    "argmax": "What is the most probable value of {target}{world} (the first one if several are equally probable)?",
    "sample": "Draw a value of {target} at random from its probability distribution{world}.",
}
METHODS = {
    "observational": (
        "Method: keep only the target, the observed variables and their ancestors. Fix the observed values in every"
        " table, then eliminate the other variables one by one: multiply the tables that contain a variable and sum it"
        " out. Normalise what is left over the target."
    ),
    "interventional": (
        "Method: delete the edges into the variable that is set, with its table, and fix its value in every other"
        " table. Keep only the target and its ancestors, and eliminate the other variables one by one: multiply the"
        " tables that contain a variable and sum it out."
    ),
    "counterfactual": (
        "Method: abduction, action, prediction. Copy the variable that is set and its descendants into an imagined"
        " world; all others are the same in both. In the imagined world, delete the edges into the variable that is"
        " set and fix its value. For every other copied variable find, from the mechanism, the joint probability of its"
        " values in both worlds given its parents in both. Fix the observed values in the observed world, eliminate all"
        " variables but the target in the imagined world, and normalise."
    ),
}
FORMS = {
    "distribution": (
        "ANSWER [{form}]",
        "the probabilities of the values {values}, in this order, with two digits after the point and summing to 1",
    ),
    "argmax": ("ANSWER [v]", "v one of the values {values}"),
    "sample": ("ANSWER [v]", "v one of the values {values}"),
}


class Printer:
    """Prints questions about one model."""

    def __init__(self, model: PrintedModel) -> None:
        self.model = model
        self._cards = dict(zip(model.names, model.cardinalities, strict=True))

    @cached_property
    def _blocks(self) -> list[tuple[str, list[str], str]]:
        """For each variable: its values, its edges, its table."""
        model = self.model
        blocks = []
        for name, of, table in zip(model.names, model.parents, model.counts, strict=True):
            values = ", ".join(map(str, range(table.shape[-1])))
            rows = []
            for at in np.ndindex(table.shape[:-1]):
                given = ", ".join(f"{model.names[p]} = {value}" for p, value in zip(of, at, strict=True))
                row = ", ".join(decimal(count) for count in table[at].tolist())
                rows.append(f"P({name} | {given}) = [{row}]" if of else f"P({name}) = [{row}]")
            blocks.append((f"{name}: {values}", [f"{model.names[p]} -> {name}" for p in of], "\n".join(rows)))
        return blocks

    @cached_property
    def _edges(self) -> list[str]:
        return [edge for _, several, _ in self._blocks for edge in several]

    def problem(self, question: Question, reference: str, rng: np.random.Generator) -> str:
        """The model in random order, the mechanism if the question needs one, and the question."""
        edges = self._edges
        draws = rng.random(len(self._blocks) + len(edges)).tolist()
        order = sorted(range(len(self._blocks)), key=draws.__getitem__)
        of_edges = sorted(range(len(edges)), key=draws[len(order) :].__getitem__)
        parts = [
            "A causal model over discrete variables. Each variable depends directly on its parents only.",
            "Variables and their values:\n" + "\n".join([self._blocks[v][0] for v in order[::-1]]),
            "Edges, from parent to child:\n" + (", ".join([edges[i] for i in of_edges]) or "none"),
            "Probabilities of the values of each variable, in the order of its values, given its parents:\n"
            + "\n".join([self._blocks[v][2] for v in order]),
        ]
        if question.mechanism is not None:
            parts.append(MECHANISMS[question.mechanism])
        parts.append(f"Question: {_asked(question, reference)}")
        return "\n\n".join(parts)

    def instruction(self, question: Question, reference: str, variant: str) -> str:
        """Instruction how to answer, in one of the VARIANTS."""
        return _instruction(question.level, self._cards[question.target], reference, variant)

    def completion(self, reference: str, answer: tuple[int, ...] | int) -> str:
        """The right reply to the answer-only variant. answer: hundredths, or the value for argmax and sample."""
        return f"ANSWER {reference_text(reference, answer)}"


@lru_cache
def _instruction(level: str, count: int, reference: str, variant: str) -> str:
    form, words = FORMS[reference]
    form = form.format(form=", ".join(f"p{value}" for value in range(count)))
    words = words.format(values=", ".join(map(str, range(count))))
    if variant == "answer-only":
        return f"Reply with one line and nothing else: {form} with {words}."
    last = f"End with a line of the form {form} with {words}."
    if variant == "generic":
        return f"Think step by step. {last}"
    return f"{METHODS[level]} {last}"


def reference_text(reference: str, answer: tuple[int, ...] | int) -> str:
    """Form of the right answer in data: `[0.25, 0.75]`, or `[1]` for a value."""
    if reference == "distribution" and not isinstance(answer, int):
        return f"[{', '.join([decimal(count) for count in answer])}]"
    return f"[{answer}]"


def _asked(question: Question, reference: str) -> str:
    given, changed = _listed(question.given, "is"), question.set
    asked = ASKED[reference].format(target=question.target, world="{world}")
    if question.level == "observational":
        return f"Suppose it is observed that {given}. {asked.format(world=' given this observation')}"
    if question.level == "interventional":
        return f"Suppose an intervention sets {_listed(changed, 'to')}. {asked.format(world=' after it')}"
    had = f" had {_listed(changed, 'been set to')}, by an intervention, in the same situation"
    return f"Suppose it is observed, without any intervention, that {given}. {asked.format(world=had)}"


def _listed(values: Mapping[str, int], verb: str) -> str:
    return " and ".join(f"{name} {verb} {value}" for name, value in values.items())
