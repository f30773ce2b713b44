"""Reinforcement learning where the answer is one token: the K samples of a prompt share its forward pass.

A general trainer runs each of the K completions through the model to sample it, again to score it, again for the start
model, and again to learn from it. Here one pass over the prompt gives the distribution of the answer, from which all K
are drawn and from which the gradient flows.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.config import expect, to_mapping
from interp_kit.core.files import replacing, write_json
from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.models.checkpoints import weights_hash
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.models.tensor_files import read_torch
from interp_kit.training.optimisers import MuonWithAdamW, rate
from interp_kit.training.resume import claim_work, close_work
from interp_kit.training.rl.config import RLConfig
from interp_kit.training.rl.objective import Objective, advantages, objective

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

KIND = "trained model"
STATE = "state.pt"


@dataclass(frozen=True)
class Prompts:
    """Samples to learn from.

    Attributes:
        tokens: (n, pos) ids, padded on the right.
        length: (n,) tokens of each prompt; the answer is predicted at the last of them.
        reward: (n,) rows -> (rows, vocab) reward of every token as the answer.
        group: (n,) name of what each prompt is counted under in the history, such as its rule.
    """

    tokens: np.ndarray
    length: np.ndarray
    reward: Callable[[np.ndarray], Tensor]
    group: Sequence[str]

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if n == 0:
            raise ValueError("there is no prompt to learn from")
        if not n == len(self.length) == len(self.group):
            raise ValueError(f"{n} prompts with {len(self.length)} lengths and {len(self.group)} groups")
        if (self.length < 1).any() or (self.length > self.tokens.shape[1]).any():
            raise ValueError("a prompt has at least one token, and no more than its row")


def answer_logits(model: "GPT2LMHeadModel", tokens: Tensor, length: Tensor) -> Tensor:
    """(prompt, vocab) logits where each prompt's answer is predicted; padding on the right changes nothing there."""
    hidden = model.transformer(tokens[:, : int(length.max())]).last_hidden_state
    return model.lm_head(hidden[torch.arange(len(tokens), device=tokens.device), length - 1])


def step_objective(
    model: "GPT2LMHeadModel", reference: "GPT2LMHeadModel | None", prompts: Prompts, rows: np.ndarray,
    config: RLConfig, generator: torch.Generator,
) -> tuple[Objective, Tensor]:  # fmt: skip
    """The objective of one step, and the (prompt, sample) rewards of what was drawn."""
    tokens, length = torch.as_tensor(prompts.tokens[rows]), torch.as_tensor(prompts.length[rows])
    logits = answer_logits(model, tokens, length)
    with torch.no_grad():
        chances = (logits.detach() / config.temperature).softmax(-1)
        sampled = torch.multinomial(chances, config.samples, replacement=True, generator=generator)
        rewards = prompts.reward(rows).gather(1, sampled)
        before = None if reference is None else answer_logits(reference, tokens, length)
    better = advantages(rewards, config.advantage)
    found = objective(logits, before, sampled, better, temperature=config.temperature, beta=config.beta)
    return found, rewards


@torch.inference_mode(False)
def train_shared_prompt(
    start: str | Path, prompts: Prompts, output: str | Path, config: RLConfig | None = None, *,
    tokenizer: Any, facts: Mapping[str, Any] | None = None, work: str | Path | None = None, progress: bool = PROGRESS,
) -> Path:  # fmt: skip
    """Train from the checkpoint `start`, one pass over the prompts in their order, and write OUTPUT.

    Args:
        start: A Hugging Face GPT-2 folder; its weights are also those of the reference.
        prompts: What is learned from.
        output: Folder to write; it appears only when training is complete. `training.json` in it holds the config, the
            cost and the history: reward, success of each group, divergence from the start in nats, entropy.
        config: How it is trained.
        tokenizer: Is saved beside the model.
        facts: More to keep in training.json.
        work: Folder of unfinished work, from which a killed run goes on; default: OUTPUT with ".work" added.
        progress: Whether to show a bar.

    Raises:
        ValueError: The prompts do not fit the model.
        OSError: Before training, for a folder that holds something else.
        FloatingPointError: Training diverged.
    """
    config = RLConfig() if config is None else config
    expect("config", config, RLConfig)
    expect("prompts", prompts, Prompts)
    output = check_folder(output, KIND)
    model, reference = read_gpt2(start), read_gpt2(start)
    _check_fits(model, prompts)
    model.eval()  # no dropout: the policy that samples is the one that learns
    reference.eval().requires_grad_(False)
    optimiser = MuonWithAdamW(model, config.matrix_learning_rate, config.learning_rate)
    steps = len(prompts.tokens) // config.batch_size
    if steps == 0:
        raise ValueError(f"{len(prompts.tokens)} prompts make no batch of {config.batch_size}")
    aside = Path(work) if work else output.with_name(f"{output.name}.work")
    run = {"start": weights_hash(Path(start)), "prompts": _digest(prompts), "config": to_mapping(config)}
    done, history = _open(aside, run, model, optimiser)
    base = [
        group["lr"] for group in MuonWithAdamW(model, config.matrix_learning_rate, config.learning_rate).param_groups
    ]
    window: list[tuple[np.ndarray, Tensor, Objective]] = []
    with bar(steps, "steps", progress) as shown:
        shown.update(done)
        for step in range(done, steps):
            rows = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
            factor = rate(step, steps, config.warm_up, config.flat)
            for group, whole in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = whole * factor
            generator = torch.Generator().manual_seed(derive_seed(config.seed, "samples", step))
            told = (step + 1) % config.log_every == 0 or step + 1 == steps
            compared = reference if config.beta or told else None  # the divergence is measured where it is told
            found, rewards = step_objective(model, compared, prompts, rows, config, generator)
            optimiser.zero_grad()
            found.loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if not bool(torch.isfinite(norm)):
                raise FloatingPointError(
                    f"training diverged at step {step}: the gradient is {norm} (seed {config.seed})"
                )
            optimiser.step()
            window.append((rows, rewards, found))
            if told:
                history.append(_line(step + 1, window, prompts, config))
                window = []
                if step + 1 - done >= config.save_every:
                    done = step + 1
                    _save(aside, done, history, model, optimiser)
            shown.update()
    with replacing_directory(output, KIND) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "training.json", {
            **(facts or {}), "method": "policy gradient, shared prompt", "start": run["start"],
            "config": to_mapping(config), "prompts": steps * config.batch_size, "samples_a_prompt": config.samples,
            "forwards_a_prompt": 2 if config.beta else 1 + 1 / config.log_every, "backwards_a_prompt": 1,
            "history": history,
        })  # fmt: skip
    close_work(aside, (STATE,))
    return output


def _check_fits(model: "GPT2LMHeadModel", prompts: Prompts) -> None:
    longest, size = int(prompts.length.max()), model.config.vocab_size
    if longest > model.config.n_positions:
        raise ValueError(f"a prompt has {longest} tokens, and the model {model.config.n_positions} positions")
    if int(prompts.tokens.max()) >= size or int(prompts.tokens.min()) < 0:
        raise ValueError(f"token ids go up to {prompts.tokens.max()}, and the model's vocabulary has {size}")
    given = prompts.reward(np.arange(1)).shape[-1]
    if given != size:
        raise ValueError(f"rewards are of {given} tokens, and the model's vocabulary has {size}: another tokenizer?")


def _digest(prompts: Prompts) -> str:
    """Identity of these prompts and their rewards."""
    found = hashlib.sha256()
    for part in (prompts.tokens, prompts.length, prompts.reward(np.arange(min(len(prompts.tokens), 64))).numpy()):
        found.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def _line(
    step: int, window: Sequence[tuple[np.ndarray, Tensor, Objective]], prompts: Prompts, config: RLConfig
) -> dict[str, Any]:
    """One line of the history, over the steps since the last."""
    rewards = torch.cat([one for _, one, _ in window])
    group = np.array([prompts.group[row] for rows, _, _ in window for row in rows])
    right = (rewards >= 1).double().mean(1).numpy()
    return {
        "step": step,
        "prompts": step * config.batch_size,
        "reward": round(float(rewards.mean()), 5),
        "kl": round(float(np.mean([float(found.kl) for *_, found in window if found.kl is not None])), 6),
        "entropy": round(float(torch.stack([found.entropy for *_, found in window]).mean()), 5),
        "success": {name: round(float(right[group == name].mean()), 4) for name in sorted(set(group.tolist()))},
    }


def _open(
    folder: Path, run: dict[str, Any], model: "GPT2LMHeadModel", optimiser: MuonWithAdamW
) -> tuple[int, list[dict[str, Any]]]:
    """Steps done and history of unfinished work, which is loaded into model and optimiser."""
    if claim_work(folder, json.loads(json.dumps(run))):
        return 0, []
    if not (folder / STATE).exists():
        return 0, []
    state = read_torch(folder / STATE, "a state of training")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), json.loads(state["history"])


def _save(
    folder: Path, step: int, history: list[dict[str, Any]], model: "GPT2LMHeadModel", optimiser: MuonWithAdamW
) -> None:
    with replacing(folder / STATE) as aside:
        state = {"step": step, "history": json.dumps(history), "model": model.state_dict()}
        torch.save({**state, "optimiser": optimiser.state_dict()}, aside)
