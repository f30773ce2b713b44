"""Train a culture network on a round, and see what changes: `python -m benchmarks.learn_round runs/round --id 2`.

Two copies of a shipped network go on with the same world quizzes, steps and seed. One also gets, in each batch, quizzes
that the round kept, a third of the batch; the other does not. Half of those kept are held out. Printed for the network
before, the control and the copy: the probability of solving the quizzes trained on and those held out (as the judges
have it, with a new seed of noise), and world accuracy by structure with Wilson's 95 % interval.
"""

import argparse
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray

from interp_kit.core.identity import derive_seed
from interp_kit.core.stats.intervals import mean_estimate
from interp_kit.models.mygpt import MyGPT
from interp_kit.studies.culture.models import load_culture
from interp_kit.studies.culture.quiz_tests import run_tests
from interp_kit.studies.culture.round import kept
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.studies.culture.training.draws import draw_chunk, loss_weights
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import PRESETS
from interp_kit.studies.culture.training.quiz_making import solving_probability
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS

RATE = 0.1  # share of the peak rate at the first step, 0 at the last
WORLD, MADE = 32, 16  # quizzes of a batch


def trained(model: MyGPT, made: NDArray[np.int64], steps: int, seed: int) -> MyGPT:
    """A copy after so many steps on world quizzes, and on quizzes `made` (n, 404) if there are any."""
    learner = Learner(PRESETS["wide"], seed=seed, budget=round(steps * WORLD / RATE), precision="bfloat16")
    learner.model.load_state_dict(deepcopy(model).state_dict())
    learner._refresh()
    config = CultureConfig(focus=0.0)
    world, other = (np.random.default_rng(derive_seed(seed, name)) for name in ("world", "made"))
    for step in range(steps):
        learner.seen = learner.budget - (steps - step) * WORLD
        chunk = draw_chunk(config, WORLD, np.zeros((len(TASKS), len(grids.STRUCTURES))), 0.9, made[:0], world)
        parts = [(chunk.noisy, chunk.clean, chunk.weight)]
        if len(made):
            structure = np.array(grids.EVALUATED)[other.integers(len(grids.EVALUATED), size=MADE)]
            clean = grids.reconfigure(made[other.integers(len(made), size=MADE)], structure).astype(np.uint8)
            noisy = grids.add_noise(clean, grids.noisy_cells(structure), other)
            parts.append((noisy, clean, loss_weights(structure, 0.0, config.late_hint)))
        noisy, clean, weight = (torch.as_tensor(np.concatenate(each)) for each in zip(*parts, strict=True))
        learner.step(noisy, clean, weight)
    return learner.model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("round")
    parser.add_argument("--id", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tested", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    quizzes, _ = kept(options.round)
    order = np.random.default_rng(derive_seed(options.seed, "split")).permutation(len(quizzes))
    learnt, held = np.array_split(quizzes[order], 2)
    before = load_culture(options.id)
    arms = {
        "before": before,
        "control": trained(before, learnt[:0], options.steps, options.seed),
        "with the round": trained(before, learnt, options.steps, options.seed),
    }
    for name, some in (("trained on", learnt), ("held out", held)):
        for arm, model in arms.items():
            p = solving_probability(model, some, derive_seed(options.seed, "asked"))
            print(f"{arm}: p of solving those {name} {mean_estimate(p, 'quizzes', (0.0, 1.0))}", np.round(p, 2))
    print(run_tests(arms, options.tested, options.seed, progress=False))


if __name__ == "__main__":
    main()
