"""The direct model trained on with three objectives and nothing else different: cross-entropy of the answer, and policy
gradients for the strict and for the soft reward.

All three start from the shipped direct model, and read the same prompts in the same order, once, at the same rates:
what differs between them is the objective. Rewards are those of the verifier of written answers, for a token that is an
amount: 0.2 for the form, and 0.8 if it is right (strict), or 0.8 (1 - TVD) (soft), where TVD is the distance of the
two probabilities.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from interp_kit.core.config import check_choice
from interp_kit.core.identity import derive_seed
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import UNIT, Worlds, draw, solve
from interp_kit.tasks.graphs.questions.verifier import CONTENT, LENGTH, MODES, PARSED
from interp_kit.tasks.graphs.task import CompactGraphsTask
from interp_kit.training.rl.config import RLConfig
from interp_kit.training.rl.shared_prompt import Prompts, train_shared_prompt
from interp_kit.training.rows import TextRows
from interp_kit.training.sft_config import SFTConfig

OBJECTIVES = ("sft", "grpo-strict", "grpo-soft")
SEEDS = (0, 1, 2)
PROMPTS = 16_000  # read by each arm
VALIDATED = 512
BATCH = 128
RATES = {"learning_rate": 0.0003, "matrix_learning_rate": 0.002, "warm_up": 10, "flat": 0.4}
DEPTHS = (0, 1, 2)  # as the start was trained


@dataclass(frozen=True)
class Arm:
    """One objective and seed (of the prompts and samples)."""

    objective: str
    seed: int

    @property
    def name(self) -> str:
        """Of its checkpoint, below graphs/."""
        return f"direct-{self.objective}-seed{self.seed}"


def arms() -> list[Arm]:
    """All of them."""
    return [Arm(objective, seed) for seed in SEEDS for objective in OBJECTIVES]


def questions(seed: int, n: int = PROMPTS, split: str = "train") -> Worlds:
    """The questions that every arm of a seed reads, in this order."""
    return draw(n, np.random.default_rng(derive_seed(seed, "graphs arms", split)), split, DEPTHS)


def rewards(answer: np.ndarray, mode: str) -> torch.Tensor:
    """(n, vocab) reward of each token as the answer, for right answers in 1/32. Raises ValueError for another mode than
    soft and strict."""
    check_choice("mode", mode, MODES)
    amount = np.arange(UNIT + 1)
    far = np.abs(amount - answer[:, None]) / UNIT
    content = 1 - far if mode == "soft" else (far == 0).astype(float)
    found = torch.zeros(len(answer), len(layout.VOCABULARY))
    found[:, layout.AMOUNTS : layout.AMOUNTS + UNIT + 1] = torch.as_tensor(
        np.where(far == 0, 1.0, PARSED + LENGTH + CONTENT * content), dtype=torch.float32
    )
    return found


def prompts_of(worlds: Worlds, mode: str) -> Prompts:
    """Questions as prompts of the policy, counted by kind and depth."""
    truth = solve(worlds)
    tokens = np.concatenate([layout.slot_tokens(worlds), layout.query_tokens(worlds)], axis=1)
    group = [f"{('do', 'see')[k]}, depth {d}" for k, d in zip(worlds.kind, truth.structure.depth, strict=True)]
    return Prompts(tokens, np.full(len(worlds), tokens.shape[1]), lambda rows: rewards(truth.answer[rows], mode), group)


def rows_of(worlds: Worlds) -> TextRows:
    """Questions as texts: prompt, answer and end."""
    n, answer = len(worlds), solve(worlds).answer
    prompt = np.concatenate([layout.slot_tokens(worlds), layout.query_tokens(worlds)], axis=1)
    tokens = np.concatenate([prompt, layout.AMOUNTS + answer[:, None], np.full((n, 1), layout.END)], axis=1)
    return TextRows(tokens, np.full(n, prompt.shape[1]), np.full(n, tokens.shape[1]))


def train(arm: Arm, start: Path, out: Path) -> Path:
    """Train one arm from the folder of the direct model into OUT; a finished one is kept, an unfinished one goes on."""
    check_choice("objective", arm.objective, OBJECTIVES)
    if out.exists():
        return out
    task, worlds, work = CompactGraphsTask("direct", "train", DEPTHS), questions(arm.seed), out.with_name(
        f"{out.name}.work"
    )  # fmt: skip
    if arm.objective == "sft":
        from interp_kit.training.sft import train_sft

        config = SFTConfig(
            d_model=128, n_layers=4, n_heads=8, n_ctx=43, dropout=0.0, epochs=1.0, optimiser="muon",
            batch_size=BATCH, loss_on="completion", seed=arm.seed, **RATES,
        )  # fmt: skip
        held_out = rows_of(questions(arm.seed, VALIDATED, "val"))
        return train_sft(
            task, rows_of(worlds), out, config, validation=held_out, start=str(start), work=work, device="cpu",
            progress=False,
        )  # fmt: skip
    return train_shared_prompt(
        start, prompts_of(worlds, arm.objective.removeprefix("grpo-")), out,
        RLConfig(batch_size=BATCH, seed=arm.seed, **RATES), tokenizer=task.tokenizer(),
        facts={"task": task.name, "description": task.describe(), "objective": arm.objective},
        work=work, progress=False,
    )  # fmt: skip
