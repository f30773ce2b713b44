"""One MyGPT and its optimisers: a training step, and a state that goes to disk and back."""

import math
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from interp_kit.core.files import replacing
from interp_kit.core.identity import derive_seed
from interp_kit.models.mygpt import Block, MyGPT
from interp_kit.models.tensor_files import CheckpointError, read_torch
from interp_kit.studies.culture.training.forward import block_runner, logits_of, quarters_of
from interp_kit.studies.culture.training.presets import GPTPreset
from interp_kit.studies.culture.training.states import check_optimiser, checked_state
from interp_kit.tasks.culture.grids import GRIDS, QUARTER, STRUCTURES
from interp_kit.tasks.culture.world import TASKS
from interp_kit.training.muon import Muon

MEMORY = 0.01  # how much one answer moves the running share of right ones


class Learner:
    """A model in training.

    seen: quizzes so far; budget: quizzes in all, over which learning rates are scheduled; spent, seconds: of training
    so far and in all, which stand in place of these where `seconds` is not 0; right: (task, structure) the running
    share of training quizzes whose last grid was right. precision: of the passes forward and backward on a CPU
    ("float32", or "bfloat16" where it has that); on a GPU they are in bfloat16 as autocast has it. The weights that are
    learned are float32 throughout. compiled: whether a GPU runs one compiled block in place of each. micro_batch:
    quizzes of one pass; by default 4 on a CPU, elsewhere the whole batch. Where a process group is up, its processes
    share every step: each has its own quizzes, all move by the mean of the gradients.
    """

    def __init__(
        self, preset: GPTPreset, *, seed: int, budget: int, device: str = "cpu", precision: str = "float32",
        micro_batch: int | None = None,
    ) -> None:  # fmt: skip
        self.preset, self.seed, self.budget, self.device = preset, seed, budget, device
        self.on_cpu = torch.device(device).type == "cpu"
        self.micro_batch = micro_batch or (4 if self.on_cpu else preset.batch)
        self.seen, self.spent, self.seconds, self.compiled = 0, 0.0, 0.0, False
        self.right = np.zeros((len(TASKS), len(STRUCTURES)))
        self.model = MyGPT(preset.network(), seed=seed, dropout=preset.dropout).to(device)
        if preset.optimiser == "muon":
            _quiet_start(self.model, preset.embedding_scale)
        self._precision = torch.bfloat16 if self.on_cpu and precision == "bfloat16" else torch.float32
        self._working = self.model if self._precision == torch.float32 else deepcopy(self.model).to(self._precision)
        self.optimisers = self._optimisers()

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        if self.preset.optimiser == "adam":
            return [torch.optim.Adam(self.model.parameters(), lr=self.preset.lr)]
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if name.startswith("blocks.") and p.ndim > 1]
        rest = [p for name, p in named if not (name.startswith("blocks.") and p.ndim > 1)]
        adam = torch.optim.AdamW(rest, lr=self.preset.lr, betas=(0.9, 0.95), weight_decay=0.0)
        muon = Muon(
            matrices, lr=self.preset.matrix_lr, weight_decay=self.preset.weight_decay, precision=self._precision
        )
        return [muon, adam]

    def done(self, seen: int | None = None) -> float:
        """The share of the schedule that is over, now or when `seen` quizzes are; by time always now."""
        return self.spent / self.seconds if self.seconds else (self.seen if seen is None else seen) / self.budget

    def rate(self) -> float:
        """The factor on the learning rates now: linear warm-up, 1, linear decay to 0 at the end of the schedule."""
        warm = min(1.0, (self.seen / self.preset.batch + 1) / max(1, self.preset.warm_up))
        if self.preset.decay == 0:
            return warm
        return min(warm, max(0.0, (1 - self.done()) / self.preset.decay))

    def note(
        self, task: NDArray[np.integer], structure: NDArray[np.integer], correct: Tensor, counts: NDArray[np.bool_]
    ) -> None:
        """Move the running shares of right answers by those (n,) that count."""
        for t, s, ok in zip(task[counts], structure[counts], correct.cpu().numpy()[counts], strict=True):
            self.right[t, s] += (ok - self.right[t, s]) * MEMORY

    def step(
        self, tokens: Tensor, targets: Tensor, weight: Tensor, *, whole: float | int = 0.0
    ) -> tuple[float, Tensor]:
        """One update on quizzes `tokens` (batch, 404), as they are read (noisy), towards `targets`, each position with
        its weight (batch, 404) in the loss; best on the CPU, as parts are moved one by one. Gives the weighted mean
        loss, in nats, and (batch,) whether the last grid was all right.

        whole: the share, in what is minimised, of the probability that a sampled last grid is not all right. As just
        one answer is right, its gradient is the policy gradient (Williams 1992) of reward 1 for that answer, exactly
        and without sampling. The rest is the loss. Both have the same scale where the answer is uncertain.

        Raises FloatingPointError if the loss is not finite.
        """
        self.model.train()
        everything, total, right = float(on_host(weight.sum())), torch.zeros((), device=self.device), []
        run = block_runner(kernel=self.on_cpu and not self.preset.dropout, compiled=self.compiled and not self.on_cpu)
        for part in range(0, len(tokens), self.micro_batch):
            rows = slice(part, part + self.micro_batch)
            counts = on_host((weight[rows] > 0).unflatten(1, (len(GRIDS), QUARTER)).any(2).any(0))
            quarters = [quarter for quarter, any_ in enumerate(counts) if any_]
            read, truth, share = (x[rows].to(self.device) for x in (tokens, targets, weight))
            target = quarters_of(truth.long(), quarters)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=not self.on_cpu):
                logits = logits_of(self._working, read.long(), quarters, run=run)
            each = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
            loss = each @ quarters_of(share, quarters).flatten() / everything
            goal = loss
            if whole:
                nats = each.view_as(target)[:, -QUARTER + 1 :].sum(1)
                goal = (1 - whole) * loss + whole * (1 - (-nats).exp()).sum() / everything
            goal.backward()
            total += loss.detach()
            right.append((logits[:, -QUARTER + 1 :].argmax(-1) == target[:, -QUARTER + 1 :]).all(1))
        total = float(on_host(total))
        self._gather_gradients()
        if not math.isfinite(total):
            raise FloatingPointError(f"seed {self.seed}: the loss is {total} after {self.seen} quizzes")
        if self.preset.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.preset.clip)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                base = self.preset.matrix_lr if isinstance(optimiser, Muon) else self.preset.lr
                group["lr"] = base * self.rate()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self._refresh()
        self.seen += len(tokens) * shards()
        return total, torch.cat(right)

    @torch.no_grad()
    def _gather_gradients(self) -> None:
        """The gradients of the working copy, averaged over the processes of a group, on the weights that are
        learned."""
        pairs = list(zip(self.model.parameters(), self._working.parameters(), strict=True))
        pairs = [(learnt, worked) for learnt, worked in pairs if worked.grad is not None]
        if self._working is not self.model:
            for learnt, worked in pairs:
                assert worked.grad is not None
                learnt.grad, worked.grad = worked.grad.to(learnt.dtype), None
        if shards() > 1:
            grads = [learnt.grad for learnt, _ in pairs if learnt.grad is not None]
            flat = torch.cat([grad.flatten() for grad in grads]) / shards()
            distributed.all_reduce(flat)
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    @torch.no_grad()
    def _refresh(self) -> None:
        """Round the weights that are learned into the working copy."""
        if self._working is not self.model:
            for worked, learnt in zip(self._working.parameters(), self.model.parameters(), strict=True):
                worked.copy_(learnt)

    @torch.no_grad()
    def revive(self, tokens: Tensor) -> float:
        """Give every hidden unit that is off at all positions of `tokens` (batch, 404) a fresh start, with no output
        yet and no momentum (Sokar et al. 2023); gives the share of units that were.

        Muon moves whole layers at once and can switch most of a ReLU layer off for good within some thousand steps.
        """
        off: list[Tensor] = []

        def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
            off.append((output <= 0).flatten(0, -2).all(0))

        blocks = [block for block in self.model.blocks if isinstance(block, Block)]
        handles = [block.fc1.register_forward_hook(watch) for block in blocks]
        try:
            for rows in tokens.split(self.micro_batch):
                self.model(rows.to(self.device).long())
        finally:
            for handle in handles:
                handle.remove()
        dead = torch.stack(off).unflatten(0, (-1, len(blocks))).all(0)
        if shards() > 1:
            everywhere = dead.int()
            distributed.all_reduce(everywhere, distributed.ReduceOp.MIN)
            dead = everywhere.bool()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "revive", self.seen))
        for block, units in zip(blocks, dead, strict=True):
            width = block.fc1.in_features**-0.5
            fresh = (torch.rand(block.fc1.weight.shape, generator=generator, dtype=torch.float32) * 2 - 1) * width
            block.fc1.weight.copy_(torch.where(units[:, None], fresh.to(block.fc1.weight), block.fc1.weight))
            block.fc1.bias.masked_fill_(units, 0)
            block.fc2.weight.masked_fill_(units, 0)
            for optimiser in self.optimisers:
                for parameter in (block.fc1.weight, block.fc1.bias, block.fc2.weight):
                    of_fc1 = parameter is block.fc1.weight
                    for value in optimiser.state.get(parameter, {}).values():
                        if isinstance(value, Tensor) and value.shape == parameter.shape:
                            value.masked_fill_(units[:, None] if of_fc1 else units, 0)
        self._refresh()
        return float(on_host(dead.float().mean()))

    def save(self, path: str | Path) -> None:
        """Write everything that training goes on from, whole or not at all."""
        state = {
            "preset": asdict(self.preset),
            "seed": self.seed,
            "budget": self.budget,
            "seen": self.seen,
            "spent": self.spent,
            "right": torch.as_tensor(self.right),
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        with replacing(path) as aside:
            torch.save(state, aside)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", precision: str = "float32") -> "Learner":
        """A learner as it was saved. Raises CheckpointError naming a file that is damaged or of another kind, and the
        entry that is wrong."""
        try:
            state = checked_state(read_torch(path))
            learner = cls(
                GPTPreset(**state["preset"]),
                seed=state["seed"], budget=state["budget"], device=device, precision=precision,
            )  # fmt: skip
            learner.model.load_state_dict(state["model"])
            for optimiser, saved in zip(learner.optimisers, state["optimisers"], strict=True):
                check_optimiser(optimiser, saved)
                optimiser.load_state_dict(saved)
            learner._refresh()
            learner.seen, learner.spent, learner.right = state["seen"], state["spent"], state["right"].numpy()
        except Exception as error:
            raise CheckpointError(f"{path} is not a training state that can be gone on from: {error}") from error
        return learner


def on_host(value: Tensor) -> Any:
    """Values of a tensor, as numbers; the one place at which the processor waits for a GPU."""
    return value.tolist()


def shards() -> int:
    """Number of processes that share a step."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _quiet_start(model: MyGPT, embedding_scale: float) -> None:
    """Zero what each block adds and the readout, so that the first steps are taken from the embeddings alone."""
    _silence(model)
    with torch.no_grad():
        model.embed.weight.mul_(embedding_scale)
        model.readout.weight.zero_()
        model.readout.bias.zero_()


@torch.no_grad()
def _silence(model: MyGPT) -> None:
    """Zero what each block adds."""
    for block in model.blocks:
        assert isinstance(block, Block)
        block.w_o.zero_()
        block.fc2.weight.zero_()
        block.fc2.bias.zero_()
