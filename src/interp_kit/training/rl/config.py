"""Options for training a policy whose answer is one token."""

from dataclasses import dataclass
from typing import Literal, get_args

from interp_kit.core.config import check_choice, check_count, check_number

Advantage = Literal["grpo", "dr_grpo", "rloo"]


@dataclass(frozen=True)
class RLConfig:
    """Policy gradient with several samples of each prompt, compared with one another.

    Attributes:
        samples: Completions per prompt.
        batch_size: Prompts per step.
        temperature: Of sampling, and of the probabilities that are learned.
        advantage: Of a sample among those of its prompt. "grpo": reward minus the mean, over the standard deviation
            (Shao et al. 2024); "dr_grpo": minus the mean alone (Liu et al. 2025); "rloo": minus the mean of the others
            (Ahmadian et al. 2024).
        beta: Weight of the KL divergence from the start model, by the estimator of Schulman (2020), as trl's.
        format_bonus: Reward of an answer of the right kind, beside 1 for the right one; below 1.
        learning_rate: Of AdamW on embeddings, biases and norms.
        matrix_learning_rate: Of Muon on the matrices of the blocks.
        warm_up: Steps over which the rates rise.
        flat: Share of the steps after which they fall to 0.
        clip: Largest norm of the gradient.
        log_every: Steps between lines of the history.
        save_every: Least number of steps between states from which a killed run goes on; they are written with a line
            of the history.
        seed: Of the samples.

    Raises:
        ValueError: An option that describes no training.
    """

    samples: int = 8
    batch_size: int = 128
    temperature: float = 1.0
    advantage: Advantage = "grpo"
    beta: float = 0.0
    format_bonus: float = 0.0
    learning_rate: float = 0.0003
    matrix_learning_rate: float = 0.002
    warm_up: int = 20
    flat: float = 0.4
    clip: float = 1.0
    log_every: int = 25
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("samples", self.samples, least=2)
        for option in ("batch_size", "log_every", "save_every"):
            check_count(option, getattr(self, option))
        check_count("warm_up", self.warm_up, least=0)
        check_choice("advantage", self.advantage, get_args(Advantage))
        for option in ("temperature", "learning_rate", "matrix_learning_rate", "clip"):
            check_number(option, getattr(self, option), above=0)
        check_number("beta", self.beta, least=0)
        check_number("format_bonus", self.format_bonus, least=0, below=1)
        check_number("flat", self.flat, least=0, below=1)
        check_count("seed", self.seed, least=0, most=2**32 - 1)
