"""Direct effect of features on the logits: moments of W_dec W_U, and cosines with single tokens, beside random
directions. The final layer norm is left out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp_kit.core.identity import derive_seed
from interp_kit.core.stats.intervals import Estimate, wilson

DRAWS = 4000  # random directions
LEVEL = 0.95


@dataclass(frozen=True)
class Vocabulary:
    """Features, or random directions, against the unembedding.

    Attributes:
        moments: (feature, 3) Standard deviation, skewness and kurtosis (3 of a normal) over tokens.
        cosine: (feature,) Largest absolute cosine with the direction of one token.
        random_moments, random_cosine: The same of random directions of length 1.
    """

    moments: Float[np.ndarray, "feature 3"]
    cosine: Float[np.ndarray, " feature"]
    random_moments: Float[np.ndarray, "draw 3"]
    random_cosine: Float[np.ndarray, " draw"]

    @property
    def usual(self) -> float:
        """The cosine that 95 % of random directions stay below."""
        return float(np.quantile(self.random_cosine, LEVEL))

    @property
    def aligned(self) -> Estimate:
        """The share of features above it; 0.05 is the share of random directions."""
        return wilson(int((self.cosine > self.usual).sum()), len(self.cosine), "features")


def vocabulary(
    decoder: Float[np.ndarray, "feature d"], unembedding: Float[np.ndarray, "d vocab"], seed: int = 0
) -> Vocabulary:
    """Compare decoder vectors with the unembedding, whose mean over tokens is taken off, as softmax does not see it."""
    centred = unembedding - unembedding.mean(1, keepdims=True)
    drawn = np.random.default_rng(derive_seed(seed, "random directions")).standard_normal((DRAWS, len(centred)))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    parts = [(moments(rows @ centred), _cosines(rows, centred)) for rows in (decoder, drawn)]
    return Vocabulary(parts[0][0], parts[0][1], parts[1][0], parts[1][1])


def moments(effects: Float[np.ndarray, "feature vocab"]) -> Float[np.ndarray, "feature 3"]:
    """Standard deviation, skewness and kurtosis over tokens."""
    spread = effects.std(1)
    scaled = (effects - effects.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)[:, None]
    return np.stack([spread, (scaled**3).mean(1), (scaled**4).mean(1)], 1)


def _cosines(rows: Float[np.ndarray, "row d"], columns: Float[np.ndarray, "d vocab"]) -> Float[np.ndarray, " row"]:
    scale = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(columns, axis=0)
    return np.abs(rows @ columns / np.maximum(scale, 1e-12)).max(1)
