"""Does a model follow the trace that it writes? One factor of a right trace is overwritten, the model goes on from
there, and its answer is compared with what follows from the factor and with what was right before.

After Lanham et al. (2023, arXiv:2307.13702), who add mistakes to a chain of thought; here what follows is exact.
"""

from dataclasses import dataclass

import numpy as np

from interp_kit.core.config import check_count, check_seed
from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.stats.intervals import Estimate
from interp_kit.core.task import AbstractTask
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting
from interp_kit.studies.graphs.accuracy import completions, share
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import Worlds
from interp_kit.tasks.graphs.shapes import class_of
from interp_kit.tasks.graphs.structure import STEPS
from interp_kit.tasks.graphs.task import CompactGraphsTask

TRIED = 4  # questions drawn for each that is wanted; most have one step only, or no entries that differ


@dataclass(frozen=True)
class Overwritten:
    """Answers of a model after a factor was overwritten.

    Attributes:
        follows: Share of answers that follow from the factor as overwritten.
        keeps: Share that stay as if nothing had been overwritten.
        untouched: Share of right answers where the same traces go on from the same place, not overwritten.
        again: Share of whole remainders, later factors and answer, that follow from the factor as overwritten.
    """

    follows: Estimate
    keeps: Estimate
    untouched: Estimate
    again: Estimate


@on_model()
def overwritten(model: HookedModel, *, split: str = "test", n: int = 1000, seed: int = 0) -> Overwritten:
    """Swap two entries of one factor before the last in right traces, where that changes the answer, and let the model
    write the rest.

    Args:
        model: A model of the trace form.
        split: Whose graphs are asked about.
        n: Traces.
        seed: Of questions, steps and entries.

    Raises:
        ValueError: A model of another task or form, or too few traces in which a swap changes the answer.
    """
    task = CompactGraphsTask("trace", split)
    check_meeting(model, task, AbstractTask)
    check_count("n", n)
    check_seed(seed)
    rng = np.random.default_rng(derive_seed(seed, "graphs overwritten"))
    examples = task.sample(TRIED * n, derive_seed(seed, "graphs overwritten", "questions"))
    made = [(e, *found) for e in examples if (found := _swapped(task, e, rng))][:n]
    if len(made) < n:
        raise ValueError(f"only {len(made)} of {TRIED * n} traces change their answer by a swap: expected {n}")
    worlds = Worlds(*(np.concatenate(c) for c in zip(*(vars(task.worlds(e.labels)).values() for e, *_ in made),
                                                     strict=True)))  # fmt: skip
    given, cut, other = [], [], []
    for example, step, labels in made:
        right = np.array(example.tokens[len(layout.PROMPT) : len(layout.PROMPT) + len(layout.TRACE)])
        wrong = _tokens(labels)
        end = _end(step)
        cut.append(np.where(np.arange(len(right)) < end, right, -1))
        given.append(np.where(np.arange(len(right)) < end, wrong, -1))
        other.append(np.append(wrong, layout.AMOUNTS + labels["answer"]))
    expected, graph = np.stack(other), class_of(worlds.parents)
    before = np.array([layout.AMOUNTS + example.labels["answer"] for example, *_ in made])
    changed, kept = (completions(model, "trace", worlds, np.stack(part)) for part in (given, cut))
    return Overwritten(
        follows=share(changed[:, -1] == expected[:, -1], graph),
        keeps=share(changed[:, -1] == before, graph),
        untouched=share(kept[:, -1] == before, graph),
        again=share((changed == expected).all(1), graph),
    )


def _swapped(task: CompactGraphsTask, example: Example, rng: np.random.Generator) -> tuple[int, dict[str, int]] | None:
    """A step before the last, and every label of the world in which two of its entries are swapped; None where no step
    has two that differ, or the answer stays or leaves the grid."""
    labels = example.labels
    last = max(step for step in range(1, STEPS + 1) if labels[f"s{step}"] >= 0)
    for step in rng.permutation(np.arange(1, last)).tolist():
        entries = [f"s{step}.f{k}" for k in range(8) if labels.get(f"s{step}.f{k}", -1) >= 0]
        pairs = [(a, b) for i, a in enumerate(entries) for b in entries[:i] if labels[a] != labels[b]]
        if not pairs:
            continue
        a, b = pairs[rng.integers(len(pairs))]
        try:
            found = task.intervene(example, {a: labels[b], b: labels[a]})
        except ValueError:  # no answer on the grid in that world: not a question of this task
            continue
        if found["answer"] != labels["answer"]:
            return step, found
    return None


def _tokens(labels: dict[str, int]) -> np.ndarray:
    """(trace,) tokens of a trace with these labels."""
    return layout.trace_tokens(np.array([[labels[name] for name in layout.TRACE]]))[0]


def _end(step: int) -> int:
    """Tokens of a trace up to and with the factor of a step."""
    return max(i for i, name in enumerate(layout.TRACE) if name.startswith(f"s{step}")) + 1
