"""Examples that models learn from: quizzes drawn by what is still wrong, as they are read, and what counts in a
loss."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import draw_worlds


@dataclass(frozen=True)
class Chunk:
    """n quizzes of many steps.

    task, structure: (n,) indices in TASKS and STRUCTURES; noisy, clean: (n, 404) as models read them, and as they
    should be; weight: (n, 404) of each position in the loss; made: (n,) True for quizzes that models made, of no task.
    """

    task: NDArray[np.int64]
    structure: NDArray[np.int64]
    noisy: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    weight: NDArray[np.float32]
    made: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.task)


def draw_chunk(
    config: CultureConfig,
    n: int,
    right: NDArray[np.float64],
    done: float,
    known: NDArray[np.int64],
    rng: np.random.Generator,
) -> Chunk:
    """Draw n quizzes.

    Args:
        config: Of the run.
        n: How many.
        right: (task, structure) share of training answers that were right.
        done: Share of the schedule that is over.
        known: (m, 404) quizzes that models made, to be learned as well.
        rng: Source of all draws.
    """
    making = done < config.making or done >= 1 - config.making
    task, structure = by_what_is_wrong(n, right, config.focus, config.share if making else 0.0, rng)
    noisy, clean = quiz_batch(task, structure, rng, config.noise, config.smudge)
    made = rng.random(n) < min(0.5, len(known) / config.turn)
    if made.any():
        chosen = known[rng.integers(len(known), size=int(made.sum()))]
        clean[made] = grids.reconfigure(chosen, structure[made])
        noisy[made] = grids.add_noise(clean[made], grids.noisy_cells(structure[made]), rng, config.noise)
    hint = config.hint if done < 0.5 else config.late_hint
    weight = loss_weights(structure, config.rest if making else 0.0, hint)
    return Chunk(task, structure, noisy, clean, weight, made)


def quiz_batch(
    task: NDArray[np.int64], structure: NDArray[np.int64], rng: np.random.Generator, noise: float, smudge: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(n, 404) world quizzes as they are read, with noise on the prompt (`smudge` where quizzes are made: on the first
    grid), and as they should be."""
    clean = grids.reconfigure(draw_worlds(task, rng).quizzes(), structure)
    noisy = grids.add_noise(clean, grids.noisy_cells(structure), rng, noise)
    if smudge:
        first = ~np.isin(structure, grids.EVALUATED)[:, None] & grids.cells_of(np.eye(len(grids.GRIDS), dtype=bool)[0])
        noisy = grids.add_noise(noisy, first, rng, smudge)
    return noisy, clean


def by_what_is_wrong(
    n: int, right: NDArray[np.float64], focus: float, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) tasks and structures: uniform with weight 1 - focus, in proportion to the share of wrong answers with weight
    focus; `share` of the quizzes in the structure that makes them."""
    evaluated = list(grids.EVALUATED)
    wrong = 1 - right[:, evaluated]
    weight = (1 - focus) / wrong.size + focus * wrong / max(wrong.sum(), 1e-9)
    task, at = np.divmod(rng.choice(wrong.size, size=n, p=(weight / weight.sum()).ravel()), len(evaluated))
    structure = np.array(evaluated)[at]
    if share:
        makes = [k for k in range(len(grids.STRUCTURES)) if k not in evaluated]
        structure = np.where(rng.random(n) < share, rng.choice(makes, size=n), structure)
    return task, structure


def loss_weights(structure: NDArray[np.int64], rest: float, hint: float = 1.0) -> NDArray[np.float32]:
    """(n, 404) 1 on the last grid (on all three that are made, where quizzes are made), `hint` on the second, of which
    its first can say much, `rest` elsewhere."""
    second = grids.cells_of(np.array([False, True, False, False]))
    return np.where(grids.predicted_cells(structure), 1.0, np.where(second, hint, rest)).astype(np.float32)
