"""The boolean task: does a small GPT-2 compute newB on the way to newD?"""

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp_kit.core.config import check_choice
from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask, check_sample
from interp_kit.tasks.boolean.equations import EQUATIONS, INPUTS, StructuralModel
from interp_kit.tasks.boolean.text import END_OF_TEXT, TextFormat, build_tokenizer, parse_input

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class BooleanTask(AbstractTask):
    """Structural equations over bits, written as text.

    equations: {output: expression of inputs and earlier outputs}, by default the five rules of the study; inputs: names
    of the input bits; vocabulary: token ids of the shipped checkpoints ("closed", 15 types), or of models trained with
    all of GPT-2's ("gpt2", 50,257). Raises ValueError for an equation that cannot be parsed (see `equations.parse`).
    """

    name = "boolean"

    def __init__(
        self,
        equations: Mapping[str, str] = EQUATIONS,
        inputs: Sequence[str] = INPUTS,
        vocabulary: Literal["closed", "gpt2"] = "closed",
    ) -> None:
        check_choice("vocabulary", vocabulary, ("closed", "gpt2"))
        self.token_ids = vocabulary
        self.model = StructuralModel.define(equations, inputs)
        self.format = TextFormat(self.model, vocabulary)
        self.fields = self.format.fields
        self.inputs = self.model.inputs
        self.variables = self.model.variables
        self.numeric = ("sum1", "sum2")
        self.vocabulary = self.format.vocabulary
        self.pad = self.format.token_id[END_OF_TEXT]
        self.question = self.model.question

    def options(self) -> dict[str, Any]:
        """See AbstractTask."""
        equations = {equation.name: ast.unparse(equation.tree) for equation in self.model.equations}
        return {"equations": equations, "inputs": list(self.inputs), "vocabulary": self.token_ids}

    def meaning(self) -> dict[str, Any]:
        """The equations in their order, brackets and spaces apart; the inputs; which token ids write them."""
        options = self.options()
        return options | {"equations": [list(pair) for pair in options["equations"].items()]}

    @property
    def n_worlds(self) -> int:
        """Number of worlds."""
        return 2 ** len(self.inputs)

    def enumerate(self) -> list[Example]:
        """All 2**n worlds, `0,0,0,0,0` first. Raises ValueError for more than 16 inputs."""
        return self.examples(self.model.all_inputs())

    def sample(self, n: int, seed: int) -> list[Example]:
        """n worlds drawn uniformly with replacement: there are only 2**n distinct ones, so prefer `enumerate`."""
        check_sample(n, seed)
        return self.examples(np.random.default_rng(seed).integers(0, 2, size=(n, len(self.inputs))))

    def examples(self, inputs: Sequence[Sequence[int]] | np.ndarray) -> list[Example]:
        """The examples of these input rows, (n, inputs) of 0 and 1."""
        values = self.model.solve(np.asarray(inputs))
        worlds = [dict(zip(values, (int(v) for v in row), strict=True)) for row in zip(*values.values(), strict=True)]
        return [self._example(world) for world in worlds]

    def example(self, text: str) -> Example:
        """The example of an input written as text, `"1,0,1,0,1"`. Raises ValueError saying what is wrong with it."""
        return self.examples([parse_input(text, len(self.inputs))])[0]

    def playground(self) -> dict[str, Any]:
        """See AbstractTask: inputs as switches, if all worlds are on the page."""
        return {"view": "bits" if len(self.inputs) <= 6 else "tokens"}

    def intervene(self, example: Example, do: Mapping[str, int]) -> dict[str, int]:
        """Every variable of the example's world under do(variable = value). Raises ValueError for an unknown name, or
        a value that the variable cannot have."""
        values = self.model.solve(np.array([[example.labels[name] for name in self.inputs]]), do)
        return {name: int(value[0]) for name, value in values.items()}

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The closed tokenizer: same splits as GPT-2's, ids as in `vocabulary`."""
        return build_tokenizer(tuple(self.format.token_id.items()))

    def record(self, example: Example) -> dict[str, str]:
        """The JSON line of an example: {"prompt": …, "completion": …}."""
        prompt = example.text.split("\n", 1)[0]
        return {"prompt": prompt, "completion": example.text[len(prompt) :]}

    def _example(self, world: dict[str, int]) -> Example:
        pieces = self.format.pieces(world)
        return Example(
            text="".join(pieces[:-1]),
            tokens=tuple(self.format.token_id[piece] for piece in pieces),
            prompt_length=self.format.prompt_length,
            positions=self.format.positions,
            labels=world,
        )
