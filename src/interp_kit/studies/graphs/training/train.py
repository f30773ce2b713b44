"""Train networks on compact graph questions, direct or trace, several side by side, for a given time.

    python -m interp_kit.studies.graphs.training.train --form direct --seconds 480 --out runs/direct

Needs torch, numpy and safetensors only. Writes weights (one safetensors per four networks), `FORM.json` (settings,
curve, accuracies) and `FORM.npz` (every evaluation question with every network's prediction).
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.core.files import write_json
from interp_kit.studies.graphs.training.evaluate import check_labels, evaluate
from interp_kit.studies.graphs.training.generator import N_SLOT, Generator, Packed
from interp_kit.studies.graphs.training.stack import Optimiser, Shape, Stack
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.shapes import SPLITS

DEPTHS = ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3))


@dataclass(frozen=True)
class Arm:
    """One network: name; seed of its weights; deepest questions it sees; whether it begins with the shallow ones; rate
    of Muon."""

    name: str
    seed: int
    top: int = 3
    curriculum: bool = True
    rate: float = 0.02


ARMS = (
    Arm("full0", 0), Arm("full1", 1), Arm("full2", 2), Arm("mixed0", 0, curriculum=False),
    Arm("shallow0", 0, top=2), Arm("shallow1", 1, top=2), Arm("slow0", 0, rate=0.01),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """form: "direct" or "trace"; graphs, questions: graphs per step and network, questions on each; seconds: wall
    time of training, without set-up and evaluation; steps: how many in place of a time, which makes a run
    repeatable; warmup: steps; flat: part of the time before the rates fall
    linearly to 0; curriculum: part of the time until the deepest questions come in; evaluated: questions of the test
    split; checked: questions whose labels are compared with the task's before training."""

    form: str = "direct"
    graphs: int = 256
    questions: int = 8
    seconds: float = 480.0
    steps: int | None = None
    warmup: int = 100
    flat: float = 0.5
    curriculum: float = 0.12
    adam: float = 0.003
    seed: int = 0
    evaluated: int = 8192
    checked: int = 20_000

    @property
    def trace(self) -> bool:
        """True for the trace form."""
        return self.form == "trace"

    @property
    def block(self) -> int:
        """Tokens of a question with its completion and end."""
        return len(layout.QUERY) + (len(layout.TRACE) if self.trace else 0) + 2

    def part(self, step: int, seconds: float) -> float:
        """The part of training that is over after `step` steps and `seconds`."""
        return seconds / self.seconds if self.steps is None else step / self.steps


def batch(
    generator: Generator, arms: tuple[Arm, ...], settings: Settings, packed: Packed, part: float, rng: torch.Generator
):
    """(models, graphs, …) inputs, targets and weights of one step, `part` of the time gone."""
    stages = [
        min(arm.top, int((arm.top + 1) * part / settings.curriculum)) if arm.curriculum else arm.top for arm in arms
    ]
    draws = [generator.draw(settings.graphs, settings.questions, stage, rng) for stage in stages]
    draw = type(draws[0])(*(torch.cat([getattr(d, name) for d in draws]) for name in vars(draws[0])))
    answers = generator.solve(draw)
    text, target = packed.pack(*generator.tokens(draw, answers, settings.trace))
    weight = answers.valid[..., None].expand(-1, -1, settings.block - len(layout.QUERY)).reshape(target.shape)
    shape = (len(arms), settings.graphs, -1)
    return text.view(shape), target.view(shape), weight.reshape(shape).float()


def losses(
    stack: Stack, text: Tensor, target: Tensor, weight: Tensor, packed: Packed, answers: Tensor
) -> tuple[Tensor, Tensor]:
    """(models,) mean cross-entropy over supervised tokens, and (models,) accuracy of those at `answers` (answered,)."""
    logits = stack(text, packed.positions, packed.mask, packed.predicts).float()
    loss = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape) * weight
    is_answer = weight * answers
    hit = (logits.argmax(-1) == target) * is_answer
    return loss.sum((1, 2)) / weight.sum((1, 2)), hit.sum((1, 2)) / is_answer.sum((1, 2))


def train(
    arms: tuple[Arm, ...], settings: Settings, out: Path, device: str, *, compiled: bool, start_from: Path | None = None
) -> None:
    """Train, evaluate and write. start_from: weights that `save` wrote, of either form, with networks of these
    names."""
    out.mkdir(parents=True, exist_ok=True)
    shape = Shape(vocabulary=len(layout.VOCABULARY), positions=N_SLOT + settings.block)
    stack = Stack(shape, [arm.seed for arm in arms]).to(device)
    if start_from is not None:
        read(stack, arms, start_from)
    generator = Generator("train", DEPTHS, device)
    rng = torch.Generator(device).manual_seed(settings.seed + 1)
    print(f"labels equal to numpy's on {check_labels(generator, settings.checked, rng)} questions", flush=True)
    packed = Packed.of(settings.questions, settings.block, device)
    optimiser = Optimiser(stack, [arm.rate for arm in arms], settings.adam)
    per = settings.block - len(layout.QUERY)
    answers = torch.arange(per * settings.questions, device=device) % per == per - 2
    forward = _forward(stack, packed, answers, device, compiled)
    curve: list[dict[str, object]] = []
    start = time.monotonic()
    step, spoken, saved = 0, 0.0, start
    sums = torch.zeros(2, len(arms), device=device)
    count = 0
    while (part := settings.part(step, time.monotonic() - start)) < 1:
        loss, accuracy = forward(*batch(generator, arms, settings, packed, part, rng))
        loss.sum().backward()
        falling = min(1.0, (1 - part) / (1 - settings.flat))
        optimiser.step(min(1.0, (step + 1) / settings.warmup) * falling)
        step, count = step + 1, count + 1
        sums += torch.stack([loss.detach(), accuracy])
        if step % 10 == 0 and time.monotonic() - start - spoken >= min(5, settings.seconds / 20):
            mean = (sums / count).tolist()
            spoken = time.monotonic() - start
            curve.append({"seconds": round(spoken, 2), "step": step, "loss": mean[0], "accuracy": mean[1]})
            sums, count = torch.zeros_like(sums), 0
            print(json.dumps(curve[-1]), flush=True)
            if time.monotonic() - saved > 60:
                save(stack, arms, settings, out)
                saved = time.monotonic()
    save(stack, arms, settings, out)
    settled = {"settings": asdict(settings), "arms": [asdict(arm) for arm in arms], "shape": asdict(shape)}
    settled |= {
        "start": None if start_from is None else str(start_from),
        "steps": step,
        "torch": torch.__version__,
        "device": device,
        "curve": curve,
    }
    write_json(out / f"{settings.form}.json", settled)
    held_out = {split: Generator(split, DEPTHS[-1:], device) for split in SPLITS if split != "train"}
    settled["accuracy"] = evaluate(
        stack,
        [arm.name for arm in arms],
        settings.trace,
        settings.evaluated,
        out / f"{settings.form}.npz",
        {"train": generator} | held_out,
    )
    write_json(out / f"{settings.form}.json", settled)
    print(f"{settings.form}: {step} steps, {time.monotonic() - start:.0f} s with evaluation", flush=True)


def _forward(
    stack: Stack, packed: Packed, answers: Tensor, device: str, compiled: bool
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    kind = torch.device(device).type

    def compute(text: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
            return losses(stack, text, target, weight, packed, answers)

    return torch.compile(compute, dynamic=False) if compiled else compute


def save(stack: Stack, arms: tuple[Arm, ...], settings: Settings, out: Path) -> None:
    """Write all weights: `FORM_0.safetensors` has the first four networks, and so on; keys are `arm/parameter`."""
    from safetensors.torch import save_file

    from interp_kit.core.files import replacing

    for first in range(0, len(arms), 4):
        chosen = range(first, min(first + 4, len(arms)))
        state = {f"{arms[i].name}/{name}": value for i in chosen for name, value in stack.state(i).items()}
        with replacing(out / f"{settings.form}_{first // 4}.safetensors") as aside:
            save_file(state, aside, metadata={"shape": json.dumps(asdict(stack.shape))})


@torch.no_grad()
def read(stack: Stack, arms: tuple[Arm, ...], path: Path) -> None:
    """Put weights that `save` wrote into the networks of the same names; of longer texts, the first positions.

    Raises ValueError if the file has no network of a name.
    """
    from safetensors.torch import load_file

    state = load_file(path)
    for i, arm in enumerate(arms):
        for name, value in stack.named().items():
            if f"{arm.name}/{name}" not in state:
                raise ValueError(f"{path} has no {arm.name}/{name}: expected weights of the networks {arms}")
            value[i] = state[f"{arm.name}/{name}"][: value.shape[1]]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("direct", "trace"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--steps", type=int, default=None, help="in place of a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--graphs", type=int, default=256)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--evaluated", type=int, default=8192)
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--start", type=Path, default=None, help="weights to go on from, of either form")
    parser.add_argument("--rate", type=float, default=None, help="of Muon, in place of the arms' own")
    parser.add_argument("--flat", type=float, default=Settings.flat)
    parser.add_argument("--curriculum", type=float, default=Settings.curriculum)
    chosen = parser.parse_args()
    arms = tuple(arm for arm in ARMS if arm.name in chosen.arms)
    if chosen.rate is not None:
        arms = tuple(replace(arm, rate=chosen.rate) for arm in arms)
    settings = replace(
        Settings(), form=chosen.form, graphs=chosen.graphs, questions=chosen.questions, seconds=chosen.seconds,
        steps=chosen.steps, evaluated=chosen.evaluated,
        flat=chosen.flat, curriculum=chosen.curriculum,
    )  # fmt: skip
    train(arms, settings, chosen.out, chosen.device, compiled=chosen.compile, start_from=chosen.start)


if __name__ == "__main__":
    main()
