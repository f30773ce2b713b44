"""Options for supervised training."""

from dataclasses import dataclass
from typing import Literal

from interp_kit.core.config import check_choice, check_count, check_number


@dataclass(frozen=True)
class SFTConfig:
    """A GPT-2 and how it is trained. The defaults are the documented recipe of the boolean task.

    Attributes:
        d_model: Width of the residual stream.
        n_layers: Blocks.
        n_heads: Attention heads per block.
        n_ctx: Positions of the model.
        dropout: Probability of dropout, everywhere.
        initializer_range: Standard deviation of the first weights.
        epochs: Passes over the examples.
        optimiser: "adamw" on everything; or "muon": Muon on the matrices of the blocks, AdamW on the rest.
        learning_rate: Of AdamW.
        matrix_learning_rate: Of Muon.
        warm_up: Steps over which the rates rise linearly.
        flat: Share of all steps after which the rates fall linearly to 0.
        clip: Greatest norm of the gradient.
        batch_size: Texts per step.
        weight_decay: Decoupled; with "muon", of the matrices of the blocks.
        loss_on: Every token of the text, or the completion alone.
        check_every: Steps between validations (and checkpoints of unfinished work); 0: once per epoch.
        keep: Weights of the "last" step, or those of "best" validation accuracy.
        seed: Initialisation, data order and dropout.
        data_seed: Data order, if another than that of `seed`.

    Raises:
        ValueError: An option that describes no model or no training.
    """

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_ctx: int = 64
    dropout: float = 0.1
    epochs: float = 3.0
    learning_rate: float = 5e-4
    batch_size: int = 16
    weight_decay: float = 0.0
    loss_on: Literal["all", "completion"] = "all"
    seed: int = 42
    initializer_range: float = 0.02
    optimiser: Literal["adamw", "muon"] = "adamw"
    matrix_learning_rate: float = 0.02
    warm_up: int = 0
    flat: float = 0.0
    clip: float = 1.0
    check_every: int = 0
    keep: Literal["last", "best"] = "last"
    data_seed: int | None = None

    def __post_init__(self) -> None:
        for option in ("d_model", "n_layers", "n_heads", "n_ctx", "batch_size"):
            check_count(option, getattr(self, option))
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model is {self.d_model}; expected a multiple of n_heads, which is {self.n_heads}")
        check_number("dropout", self.dropout, least=0, below=1)
        for option in ("epochs", "learning_rate", "matrix_learning_rate", "initializer_range", "clip"):
            check_number(option, getattr(self, option), above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("flat", self.flat, least=0, below=1)
        check_choice("loss_on", self.loss_on, ("all", "completion"))
        check_choice("optimiser", self.optimiser, ("adamw", "muon"))
        check_choice("keep", self.keep, ("last", "best"))
        for option in ("warm_up", "check_every"):
            check_count(option, getattr(self, option), least=0)
        check_count("seed", self.seed, least=0, most=2**32 - 1)
        if self.data_seed is not None:
            check_count("data_seed", self.data_seed, least=0, most=2**32 - 1)
