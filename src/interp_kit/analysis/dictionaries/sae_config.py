"""Options of a sparse autoencoder: which architecture, how wide, how sparse, trained on how much."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from interp_kit.core.config import check_choice, check_count, check_number

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"]
ARCHITECTURES: tuple[Architecture, ...] = ("standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka")
BY_K = ("topk", "batchtopk", "jumprelu", "matryoshka")  # whose sparsity is set by k; that of the others by L1


@dataclass(frozen=True)
class SAEConfig:
    """Options for training and evaluating a sparse autoencoder.

    Attributes:
        architecture: "topk" keeps the k largest latents of a vector (Gao et al. 2024), "batchtopk" the k largest per
            vector on average (Bussmann et al. 2024), "matryoshka" those, of nested dictionaries that must each rebuild
            the vector (Bussmann et al. 2025); "jumprelu" learns a threshold per latent (Rajamanoharan et al. 2024);
            "standard" is ReLU with an L1 penalty (Bricken et al. 2023), "gated" separates which latents are on from
            how strongly (Rajamanoharan et al. 2024).
        width: Number of latents.
        k: Latents on at once, of topk in each vector, else on average; jumprelu is penalised for another number.
        l1_coefficient: Weight of the L1 penalty of standard and gated. Activations are scaled so that it means the
            same at every site.
        training_samples: Vectors seen in training, repeats counted.
        batch_size: Vectors per step.
        learning_rate: Of Adam; it falls to 0 over the last fifth of the steps.
        held_out: Share of the examples kept for evaluation.
        max_examples: A larger task is cut, or sampled, to so many examples.
        matryoshka_widths: Sizes of the nested dictionaries, the last being `width`; by default an eighth, a quarter,
            a half and all of it.

    Raises:
        ValueError: A value makes no autoencoder.
    """

    architecture: Architecture = "topk"
    width: int = 64
    k: int = 8
    l1_coefficient: float = 1.0
    training_samples: int = 500_000
    batch_size: int = 256
    learning_rate: float = 2e-3
    held_out: float = 0.25
    max_examples: int = 2048
    matryoshka_widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, ARCHITECTURES)
        check_count("width", self.width)
        check_count("k", self.k, most=self.width if self.architecture in BY_K else None)
        check_number("l1_coefficient", self.l1_coefficient, least=0)
        check_count("training_samples", self.training_samples)
        check_count("batch_size", self.batch_size, most=self.training_samples)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("held_out", self.held_out, above=0, below=1)
        check_count("max_examples", self.max_examples, least=4)
        self._check_levels()

    def _check_levels(self) -> None:
        if not isinstance(self.matryoshka_widths, tuple):
            raise ValueError(f"matryoshka_widths is {self.matryoshka_widths!r}; expected a tuple of whole numbers")
        for level in self.matryoshka_widths:
            check_count("matryoshka_widths", level, most=self.width)
        rises = all(a < b for a, b in pairwise(self.matryoshka_widths))
        if self.matryoshka_widths and not (rises and self.matryoshka_widths[-1] == self.width):
            raise ValueError(
                f"matryoshka_widths is {self.matryoshka_widths}; expected sizes that rise to the width of {self.width}"
            )

    @property
    def levels(self) -> list[int]:
        """Sizes of the nested dictionaries of matryoshka."""
        return list(self.matryoshka_widths) or sorted({max(1, self.width // part) for part in (8, 4, 2, 1)})
