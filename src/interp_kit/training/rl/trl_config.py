"""Options for training a policy through trl, and the prompts that it learns from."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from interp_kit.core.config import check_choice, check_count, check_number
from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask

Loss = Literal["dapo", "grpo", "dr_grpo", "cispo", "rloo"]


@dataclass(frozen=True)
class TRLConfig:
    """Policy gradient through trl, with several sampled completions per prompt.

    Attributes:
        loss: A loss type of trl's GRPO, or "rloo". "dr_grpo" does not divide advantages by their deviation.
        samples: Completions per prompt.
        batch_size: Prompts per step, of all processes together. Below 256 completions most of a step is overhead.
        temperature: Of sampling, and of the probabilities that are learned.
        longest: Most tokens of a completion, the end-of-text included.
        beta: Weight of the KL divergence from the start model; 0 neither uses nor measures it.
        epochs: Passes over the prompts.
        optimiser: "adamw" on everything; or "muon": Muon on the matrices of the blocks, AdamW on the rest.
        learning_rate: Of AdamW.
        matrix_learning_rate: Of Muon.
        warm_up: Steps over which the rates rise.
        flat: Share of the steps after which they fall to 0.
        clip: Greatest norm of the gradient.
        log_every: Steps between lines of the history.
        save_every: Steps between checkpoints from which a killed run goes on.
        seed: Order of the prompts, and samples.

    Raises:
        ValueError: An option that describes no training.
    """

    loss: Loss = "dapo"
    samples: int = 8
    batch_size: int = 128
    temperature: float = 1.0
    longest: int = 2
    beta: float = 0.02
    epochs: int = 1
    optimiser: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 0.0003
    matrix_learning_rate: float = 0.002
    warm_up: int = 20
    flat: float = 0.4
    clip: float = 1.0
    log_every: int = 10
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, get_args(Loss))
        check_choice("optimiser", self.optimiser, ("adamw", "muon"))
        for option in ("samples", "longest"):  # one sample has none to compare with; one token cannot end an answer
            check_count(option, getattr(self, option), least=2)
        for option in ("batch_size", "epochs", "log_every", "save_every"):
            check_count(option, getattr(self, option))
        check_count("warm_up", self.warm_up, least=0)
        for option in ("temperature", "learning_rate", "matrix_learning_rate", "clip"):
            check_number(option, getattr(self, option), above=0)
        check_number("beta", self.beta, least=0)
        check_number("flat", self.flat, least=0, below=1)
        check_count("seed", self.seed, least=0, most=2**32 - 1)

    @property
    def forwards(self) -> int:
        """Runs of a prompt through a model: to sample, to learn, for the reference, and RLOO's own score."""
        return self.samples * (2 + (self.beta > 0) + (self.loss == "rloo"))


@dataclass(frozen=True)
class VerifiedPrompts:
    """Samples to learn from.

    Attributes:
        text: Each prompt.
        answer: The right answer of each, as the verifier takes it.
        group: What each is counted under in the history, such as its rule or its distribution.

    Raises:
        ValueError: No prompts, or columns of other lengths.
    """

    text: tuple[str, ...]
    answer: tuple[int, ...]
    group: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.text or not len(self.text) == len(self.answer) == len(self.group):
            sizes = ", ".join(str(len(column)) for column in (self.text, self.answer, self.group))
            raise ValueError(f"prompts have {sizes} texts, answers and groups; expected as many of each, at least one")

    @classmethod
    def of_examples(
        cls, task: AbstractTask, examples: Sequence[Example], group: Callable[[Example], str]
    ) -> "VerifiedPrompts":
        """The prompts of examples; their answers are those of the task's first field."""
        decode, field = task.tokenizer().decode, task.fields[0].name  # pyright: ignore[reportAttributeAccessIssue]
        return cls(
            tuple(decode(list(example.tokens[: example.prompt_length])) for example in examples),
            tuple(int(example.labels[field]) for example in examples),
            tuple(group(example) for example in examples),
        )

    @property
    def digest(self) -> str:
        """sha256 of all three columns."""
        return hashlib.sha256(json.dumps([self.text, self.answer, self.group]).encode()).hexdigest()
