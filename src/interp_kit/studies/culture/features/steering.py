"""Steering by features: the largest features of a rule, or of a colour, are added times a factor, and answers counted.

The controls are as many random features, scaled to the same length, and the same vectors in an untrained network. A
grid of sizes and factors has a best cell by chance, so the best is chosen on every second quiz and scored on the
others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor

from interp_kit.analysis.dictionaries.alignment.detectors import encode
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.core.pairs import PairBatch
from interp_kit.core.stats.intervals import Estimate, wilson
from interp_kit.engine.edits import Add, Edit
from interp_kit.engine.harvest import harvest
from interp_kit.engine.metrics import first_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel
from interp_kit.studies.culture.rules.exchange import PLACES, Followed
from interp_kit.tasks.culture.grids import CELLS, COLOURS, LENGTH, cell_name
from interp_kit.tasks.culture.world import TASKS

SIZES, FACTORS = (1, 4, 16, 64), (1.0, 2.0, 4.0, 8.0)
FEATURES, RANDOM, UNTRAINED = "features", "random features", "untrained network"
ARMS = (FEATURES, RANDOM, UNTRAINED)
CELL = 44  # of f_B, whose colour is steered


@dataclass(frozen=True)
class Steering:
    """Answers under steering.

    Attributes:
        goal: What answers were steered to.
        sizes, factors: Features added, and times what.
        answers: (arm, size, factor, quiz) 1 as the quiz has it, 2 as it was steered, 0 neither.
        unedited: (quiz,) The same without steering.
        length: (size,) Mean length of what is added at factor 1, in units of the site's own mean length.
    """

    goal: str
    sizes: tuple[int, ...]
    factors: tuple[float, ...]
    answers: Int[np.ndarray, "arm size factor quiz"]
    unedited: Int[np.ndarray, " quiz"]
    length: Float[np.ndarray, " size"]

    def share(self, arm: str, size: int, factor: int) -> Estimate:
        """The share of answers that are as steered, with Wilson's 95 % interval. size, factor: by their numbers."""
        rows = self.answers[ARMS.index(arm), size, factor] == 2
        return wilson(int(rows.sum()), len(rows), "quizzes")

    def best(self) -> tuple[int, int]:
        """Size and factor, by their numbers, at which most answers of every second quiz are as steered."""
        shares = (self.answers[0, ..., ::2] == 2).mean(-1)
        size, factor = np.unravel_index(int(shares.argmax()), shares.shape)
        return int(size), int(factor)

    def held_out(self) -> tuple[dict[str, Estimate], float]:
        """At the best size and factor, on the other quizzes: share by arm, and the p of a sign test (exact, two-sided)
        of features against random ones on the quizzes at which they differ."""
        size, factor = self.best()
        rows = self.answers[:, size, factor, 1::2] == 2
        shares = {
            arm: wilson(int(one.sum()), rows.shape[1], "held-out quizzes") for arm, one in zip(ARMS, rows, strict=True)
        }
        won, lost = int((rows[0] & ~rows[1]).sum()), int((rows[1] & ~rows[0]).sum())
        return shares, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0

    def to_frame(self) -> pd.DataFrame:
        """One row per arm, size and factor."""
        rows = [
            (arm, size, factor, share.value, share.low, share.high, share.n)
            for arm in ARMS
            for i, size in enumerate(self.sizes)
            for j, factor in enumerate(self.factors)
            for share in (self.share(arm, i, j),)
        ]
        return pd.DataFrame(rows, columns=["added", "features", "factor", "as steered", "low", "high", "n"])


def steer_rules(
    model: HookedModel, untrained: HookedModel, sae: SAEResult, pairs: PairBatch, fitted: PairBatch, seed: int = 0
) -> Steering:
    """Add to all cells of f_A what tells another rule from the quiz's own, feature by feature, and read the first cell
    on which the two rules differ.

    Args:
        model: A culture model.
        untrained: The control.
        sae: Of one of the model's sites.
        pairs: Quizzes (clean) and the same under the rule that is steered to (corrupt).
        fitted: Others, from which the mean code of each rule at the cells of f_A is taken.
        seed: Of the random features.
    """
    codes, length = _mean_codes(model, sae, fitted)
    own, other = (side.label("task").tolist() for side in (pairs.clean, pairs.corrupt))
    none = np.zeros(len(sae.frequency))
    change = np.stack([codes.get(b, none) - codes.get(a, none) for a, b in zip(own, other, strict=True)])
    first = first_difference(pairs)
    metric = Followed(first.field, first.right, first.wrong, first.at)
    live = np.stack(list(codes.values())).max(0) > 0
    return _steered(
        "the other rule", model, untrained, sae, pairs.clean, metric, change, PLACES["f_A cells"], live, length, seed
    )


def steer_colours(
    model: HookedModel,
    untrained: HookedModel,
    sae: SAEResult,
    batch: TokenBatch,
    codes: Float[np.ndarray, "quiz pos feature"],
    effects: Float[np.ndarray, "feature vocab"],
    seed: int = 0,
) -> Steering:
    """Add, where one cell of f_B is predicted, the features that raise a random wrong colour most, as strong as they
    are when active.

    Args:
        model, untrained, sae, seed: As for `steer_rules`.
        batch: Quizzes in the order A f_A B f_B.
        codes: Of other quizzes.
        effects: On the logits, of `study._effects`.
    """
    at = LENGTH - CELLS + CELL  # the position before the cell: there is a 0 before all
    truth = batch.tokens[:, at + 1].cpu().numpy()
    rng = np.random.default_rng(derive_seed(seed, "steered colours"))
    wanted = (truth + rng.integers(1, COLOURS, size=len(truth))) % COLOURS
    flat = codes.reshape(-1, codes.shape[-1]).astype(np.float32)
    active = np.maximum((flat > 0).sum(0), 1)
    strength = flat.sum(0) / active  # mean where active
    change = strength * np.maximum(effects[:, wanted].T, 0)  # which features, by how far they raise it
    chosen = np.where(change > 0, strength, 0.0)
    device = batch.tokens.device
    name = cell_name("f_B", CELL - 1)
    right, wrong = (torch.as_tensor(v, device=device) for v in (truth, wanted))
    metric = Followed(cell_name("f_B", CELL), right, wrong, torch.full_like(right, at))
    length = float(np.linalg.norm(flat @ sae.weights["W_dec"].astype(np.float32), axis=1).mean())
    return _steered(
        "another colour", model, untrained, sae, batch, metric, chosen, [name], strength > 0, length, seed, change
    )


def _steered(
    goal: str,
    model: HookedModel,
    untrained: HookedModel,
    sae: SAEResult,
    batch: TokenBatch,
    metric: Followed,
    change: Float[np.ndarray, "quiz feature"],
    positions: Sequence[str],
    live: Bool[np.ndarray, " feature"],
    length: float,
    seed: int,
    order: Float[np.ndarray, "quiz feature"] | None = None,
) -> Steering:
    """Answers of all arms. change: what is added of each feature; order: by which the largest are taken, by default
    how much each writes."""
    decoder = sae.weights["W_dec"].astype(np.float64)
    written = np.abs(change) * np.linalg.norm(decoder, axis=1) if order is None else order
    ranks = np.argsort(-written, axis=1, kind="stable")
    sizes = tuple(size for size in SIZES if size <= int(live.sum()))
    rng = np.random.default_rng(derive_seed(seed, "steering", goal))
    vectors: dict[str, list[np.ndarray]] = {FEATURES: [], RANDOM: []}
    for size in sizes:
        rows = np.zeros_like(change)
        np.put_along_axis(rows, ranks[:, :size], np.take_along_axis(change, ranks[:, :size], 1), 1)
        ours = rows @ decoder
        drawn = np.stack([rng.permutation(np.flatnonzero(live))[:size] for _ in change])
        theirs = np.einsum("qkd,qk->qd", decoder[drawn], np.take_along_axis(change, ranks[:, :size], 1))
        norms = [np.linalg.norm(v, axis=1, keepdims=True) for v in (ours, theirs)]
        vectors[FEATURES].append(ours)
        vectors[RANDOM].append(theirs * norms[0] / np.maximum(norms[1], 1e-12))
    vectors[UNTRAINED] = vectors[FEATURES]
    answers, unedited = [], np.zeros(0)
    for arm in ARMS:
        asked = untrained if arm == UNTRAINED else model
        edits = [
            [Edit(sae.hook, None, Add(torch.as_tensor(vector), factor), position=name) for name in positions]
            for vector in vectors[arm]
            for factor in FACTORS
        ]
        swept = sweep(asked, batch, edits, metric, progress=False)
        answers.append(swept.values[:, 0].astype(int).reshape(len(sizes), len(FACTORS), len(batch)))
        unedited = swept.baseline[0].astype(int) if arm == FEATURES else unedited
    lengths = np.array([np.linalg.norm(v, axis=1).mean() for v in vectors[FEATURES]]) / max(length, 1e-12)
    return Steering(goal, sizes, FACTORS, np.stack(answers), unedited, lengths)


def _mean_codes(
    model: HookedModel, sae: SAEResult, fitted: PairBatch
) -> tuple[Mapping[int, Float[np.ndarray, " feature"]], float]:
    """Rule -> its mean code over quizzes and cells of f_A; and the mean length of the site there."""
    dictionary, names = sae.to_sae_lens(), PLACES["f_A cells"]
    found: dict[int, list[Tensor]] = {}
    lengths = []
    for side in (fitted.clean, fitted.corrupt):
        vectors = harvest(model, side, sae.hook, positions=names, progress=False)[sae.hook].float()
        flat = vectors.flatten(0, 1)
        codes = encode(dictionary, flat).view(len(side), len(names), -1).mean(1)
        lengths.append(float(flat.flatten(1).norm(dim=1).mean()))
        for code, task in zip(codes, side.label("task").tolist(), strict=True):
            found.setdefault(int(task), []).append(code)
    assert all(0 <= task < len(TASKS) for task in found)
    return {task: torch.stack(codes).mean(0).double().cpu().numpy() for task, codes in found.items()}, float(
        np.mean(lengths)
    )
