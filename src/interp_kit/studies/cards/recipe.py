"""The arms of the comparison and what they may cost, written down before any of them ran.

Every arm of a seed starts from the same weak model S0, which `supervised` trained on START prompts of "train". From
there each arm spends the same BUDGET. Costs are counted in forward passes over one prompt with its answer; a backward
pass costs two. Rollouts count: a sampled completion is a forward pass over its prompt.

| arm | forward | backward | cost per prompt | prompts for BUDGET |
|---|---|---|---|---|
| SFT on | 1 | 1 | 3 | 360,000 |
| RL, shared prompt (one pass for K samples and the gradient) | 1 | 1 | 3 | 360,000 |
| RL, trl (K = 8: each completion is sampled, scored by both, and learned from) | 3 K | K | 40 | 27,000 |

So a prompt of trl costs 13.3 times that of SFT, one of the shared-prompt loop as much as SFT: there, equal cost is an
equal number of prompts. (Its reference runs on one step in 25, to tell the divergence: 0.04 more.) All continuations
read the same prompts: those of `continuation_deals(seed)`, in order, as many as they have budget for.

Their number was first 240,000, chosen from one pilot run (seed 0, 320,000 prompts from scratch) as what brings SFT to
0.95 on each of the three rules. Seed 1 then had 0.906 on one rule, so it is 360,000 now, for every arm alike; and RL,
which had been charged for a reference that it hardly runs, used three quarters of its budget then and all of it now."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from interp_kit.studies.cards.sft import CardsSFTConfig, deals_of
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.deals import Deals

SEEDS = (0, 1, 2)
START = 51_200  # prompts of S0
CONTINUED = 360_000  # prompts of an SFT continuation
SAMPLES = 8  # completions per prompt in RL
SFT_COST = 1 + 2
SHARED_COST = 1 + 2
TRL_COST = SAMPLES * (1 + 1 + 1 + 2)
BUDGET = CONTINUED * SFT_COST
MEMORISED = {100: 400.0, 300: 140.0, 1000: 60.0}  # distinct prompts -> epochs, 400 to 480 steps each
FOLDER = "cards"


@dataclass(frozen=True)
class Arm:
    """One model.

    Attributes:
        name: Of its checkpoint, below FOLDER.
        seed: Of initialisation (or of the S0 it continues) and data.
        prompts: Training prompts.
        start: Name of the arm it continues, if any.
        order: Seed of the data order, if another than `seed`.
        epochs: Passes over the prompts.
        distinct: No prompt twice.
        method: "sft", "rl" by the loop that shares a prompt's forward pass, or "rl-trl".
    """

    name: str
    seed: int
    prompts: int
    start: str | None = None
    order: int | None = None
    epochs: float = 1.0
    distinct: bool = False
    method: Literal["sft", "rl", "rl-trl"] = "sft"

    @property
    def kind(self) -> str:
        """The name without its seed: "s0", "sft", "sft-reordered", "small-300"."""
        return self.name.rsplit("-seed", 1)[0]

    def deals(self) -> Deals:
        """Its training deals."""
        if self.start is not None:
            return continuation_deals(self.seed).take(np.arange(self.prompts))
        return deals_of(CardsTask("train"), self.prompts, self.seed, distinct=self.distinct)

    def config(self, out: Path, start: Path | None) -> CardsSFTConfig:
        """Train it into the folder `out`, from the folder of the arm that it continues."""
        base = CardsSFTConfig(out)
        keep = "best" if self.start else "last"
        training = replace(base.training, seed=self.seed, data_seed=self.order, epochs=self.epochs, keep=keep)
        return replace(base, start=None if start is None else str(start), device="cpu", training=training)


def continuation_deals(seed: int) -> Deals:
    """The CONTINUED deals that every continuation of S0 of this seed reads, SFT or RL, in this order."""
    return CardsTask("train").deals(CONTINUED, 100 + seed)


def arms() -> list[Arm]:
    """All of them, in training order: first every S0."""
    starts = [Arm(f"s0-seed{s}", s, START) for s in SEEDS]
    small = [
        Arm(f"small-{n}-seed{s}", s, n, epochs=epochs, distinct=True) for n, epochs in MEMORISED.items() for s in SEEDS
    ]
    continued = [
        arm
        for s in SEEDS
        for arm in (
            Arm(f"sft-seed{s}", s, CONTINUED, start=f"s0-seed{s}"),
            Arm(f"sft-reordered-seed{s}", s, CONTINUED, start=f"s0-seed{s}", order=1000 + s),
            Arm(f"rl-seed{s}", s, BUDGET // SHARED_COST, start=f"s0-seed{s}", method="rl"),
            Arm(f"rl-trl-seed{s}", s, BUDGET // TRL_COST, start=f"s0-seed{s}", method="rl-trl"),
        )
    ]
    return [*starts, *continued, *small]


def ledger() -> list[dict[str, Any]]:
    """The rows of the table above: cost per prompt, and the prompts that BUDGET pays for."""
    costs = {"SFT": SFT_COST, "RL, shared prompt": SHARED_COST, "RL, trl": TRL_COST}
    return [{"arm": arm, "cost per prompt": cost, "prompts": BUDGET // cost} for arm, cost in costs.items()]
