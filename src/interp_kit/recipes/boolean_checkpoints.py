"""Recipe of the shipped boolean checkpoints: five seeds on all 32 inputs, and five omission sets each of 4 and of 8 inputs.

The omission sets are drawn here by committed seeds, before any training, and none is discarded. Rerun with
`python -m interp_kit.recipes.boolean_checkpoints --work runs/boolean --jobs 2` (about 3 minutes a model and core);
finished models are kept, so an interrupted run goes on.
"""

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from interp_kit.core.seeding import derive_seed
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.boolean.dataset import Input, splits

DATA_SEED = 42


@dataclass(frozen=True)
class Run:
    """One model: its name, the training seed, and which inputs no file of its data contains."""

    name: str
    seed: int
    omit: tuple[Input, ...] = ()


def omission_set(size: int, index: int) -> tuple[Input, ...]:
    """The committed omission set number `index` of `size` inputs, drawn uniformly without replacement."""
    rng = random.Random(derive_seed(0, "boolean omission", size, index))
    everything = [tuple(int(v) for v in row) for row in BooleanTask().model.all_inputs()]
    return tuple(sorted(rng.sample(everything, size)))


def runs() -> list[Run]:
    """All fifteen models, in training order."""
    seeds = [Run("boolean-gpt2", 42), *(Run(f"boolean-gpt2-seed{seed}", seed) for seed in (1, 2, 3, 4))]
    omitted = [
        Run(f"boolean-gpt2-omit{size}-set{index}", 100 * size + index, omission_set(size, index))
        for size in (4, 8)
        for index in range(5)
    ]
    return [*seeds, *omitted]


def train(run: Run, work: Path, threads: int = 1) -> Path:
    """Train one model by the documented recipe into WORK/<name>; a finished one is kept."""
    import torch

    from interp_kit.training.sft import SFTConfig, train_sft

    directory = work / run.name
    if directory.exists():
        return directory
    torch.set_num_threads(threads)
    task = BooleanTask()
    data = splits(task, omit=frozenset(run.omit), seed=DATA_SEED)
    return train_sft(
        task,
        task.examples(data["train"]),
        directory,
        SFTConfig(seed=run.seed),
        validation=task.examples(data["valid"]),
        device="cpu",
        progress=False,
    )


def train_all(work: Path, jobs: int = 2) -> list[Path]:
    """Train every model that WORK does not hold yet, `jobs` at a time with one thread each."""
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(train, runs(), [work] * len(runs())))
