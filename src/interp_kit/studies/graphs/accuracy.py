"""Accuracy on compact questions by kind and depth, on graphs seen in training and on graphs never seen, beside
baselines that do not reason. Intervals are over isomorphism classes of graphs."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp_kit.core.config import check_count, check_names, check_seed
from interp_kit.core.identity import derive_seed
from interp_kit.core.stats.intervals import Estimate, clustered_mean
from interp_kit.core.task import AbstractTask
from interp_kit.engine.decode import decode
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import DEPTHS, Solution, Worlds, draw, solve
from interp_kit.tasks.graphs.shapes import SPLITS, class_of
from interp_kit.tasks.graphs.task import CompactGraphsTask

KINDS = ("do", "see")
BASELINES = ("majority", "own_rows")
KNOWN = 10_000  # training questions of which the most frequent answer is taken
UNIT_OF = "classes of graphs"


@dataclass(frozen=True)
class Answered:
    """Questions with what a model wrote.

    Attributes:
        worlds: The n questions.
        truth: Their answers and factors.
        graph: (n,) isomorphism class of each graph.
        written: (n, completion) tokens of the greedy completion, the answer last.
        baseline: Name -> (n,) answers without reasoning: the most frequent one of training questions of that kind and
            depth, and the mean of Y's own table rows that agree with x.
    """

    worlds: Worlds
    truth: Solution
    graph: np.ndarray
    written: np.ndarray
    baseline: dict[str, np.ndarray]

    @property
    def right(self) -> np.ndarray:
        """(n,) whether the answer is right."""
        return self.written[:, -1] == layout.AMOUNTS + self.truth.answer

    def cell(self, kind: str, depth: int) -> np.ndarray:
        """(n,) whether a question is of this kind and depth."""
        return (self.worlds.kind == KINDS.index(kind)) & (self.truth.structure.depth == depth)


@dataclass(frozen=True)
class GraphsEvaluation:
    """A model on compact questions.

    Attributes:
        model: Its name.
        form: "direct" or "trace".
        answered: Split -> questions and completions.
    """

    model: str
    form: str
    answered: dict[str, Answered]

    def accuracy(self, split: str, kind: str, depth: int) -> Estimate:
        """Share of right answers."""
        here = self.answered[split]
        cell = here.cell(kind, depth)
        return share(here.right[cell], here.graph[cell])

    def to_frame(self) -> pd.DataFrame:
        """One row per split, kind and depth.

        accuracy, low, high: share of right answers; each baseline's share; above, above_low, above_high: what the model
        has more than the best of them, paired by question; prior: share of questions whose answer is P(Y = 1) with
        nothing given; moved, moved_low, moved_high: share of right answers among the others, in which X matters;
        whole_trace: share of traces without a wrong token (nan for a direct model); n: questions; classes: of graphs.
        """
        rows = []
        for split, here in self.answered.items():
            for kind in KINDS:
                for depth in DEPTHS:
                    cell = here.cell(kind, depth)
                    if cell.any():
                        rows.append({"split": split, "kind": kind, "depth": depth, **self._row(here, cell)})
        return pd.DataFrame(rows)

    def _row(self, here: Answered, cell: np.ndarray) -> dict[str, Any]:
        right, graph, answer = here.right[cell], here.graph[cell], here.truth.answer[cell]
        whole = share(right, graph)
        shares = {name: float((values[cell] == answer).mean()) for name, values in here.baseline.items()}
        best = max(shares, key=shares.__getitem__)
        above = share(right.astype(float) - (here.baseline[best][cell] == answer), graph, (-1.0, 1.0))
        moves = here.truth.prior[cell] != answer
        moved = share(right[moves], graph[moves]) if moves.any() else Estimate(np.nan, np.nan, np.nan, 0, UNIT_OF)
        trace = layout.trace_tokens(layout.trace_values(here.truth))[cell]
        return {
            "accuracy": whole.value,
            "low": whole.low,
            "high": whole.high,
            **shares,
            "best baseline": best,
            "above": above.value,
            "above_low": above.low,
            "above_high": above.high,
            "prior": float((~moves).mean()),
            "moved": moved.value,
            "moved_low": moved.low,
            "moved_high": moved.high,
            "whole_trace": float((here.written[cell, :-1] == trace).all(1).mean()) if self.form == "trace" else np.nan,
            "n": int(cell.sum()),
            "classes": whole.n,
        }


def share(values: np.ndarray, graph: np.ndarray, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """The mean over questions, with an interval over the classes of graphs that they belong to."""
    return clustered_mean(values, graph, UNIT_OF, bounds)


@on_model()
def evaluate_graphs(
    model: HookedModel, form: str = "direct", *, splits: tuple[str, ...] = ("train", "test"), n: int = 4096,
    seed: int = 0,
) -> GraphsEvaluation:  # fmt: skip
    """Answer n questions of each split greedily; each kind and depth equally often.

    Args:
        model: Of the compact questions, as `interp_kit.load` gives it.
        form: "direct", or "trace": the model writes the factors of elimination first, by itself.
        splits: Of "train", "val" and "test", which share no isomorphic graphs; tables are new in each.
        n: Questions a split.
        seed: Of the questions.

    Raises:
        ValueError: An unknown form or split, or a model of another task or form.
    """
    check_meeting(model, CompactGraphsTask(form), AbstractTask)
    check_count("n", n)
    check_seed(seed)
    answered = {}
    for split in check_names("splits", splits):
        task = CompactGraphsTask(form, split)
        worlds = draw(n, np.random.default_rng(derive_seed(seed, "graphs evaluation", split)), task.split)
        truth = solve(worlds)
        written = completions(model, form, worlds)
        answered[split] = Answered(worlds, truth, class_of(worlds.parents), written, _baselines(worlds, truth))
    return GraphsEvaluation(model_name(model), form, answered)


def completions(model: HookedModel, form: str, worlds: Worlds, given: np.ndarray | None = None) -> np.ndarray:
    """(n, completion) tokens that the model writes after each question, the answer last.

    given: (n, trace) tokens of traces, -1 where the model writes; None: it writes all of it.
    """
    prompts = np.concatenate([layout.slot_tokens(worlds), layout.query_tokens(worlds)], axis=1)
    n_trace = len(layout.TRACE) if form == "trace" else 0
    trace = np.full((len(worlds), n_trace), -1) if given is None else given
    text = np.concatenate([prompts, trace, np.full((len(worlds), 1), -1)], axis=1)
    free = torch.as_tensor(text < 0)
    tokens = torch.as_tensor(np.where(text < 0, layout.END, text))
    return decode(model, tokens, free, batch_size=512, progress=False).tokens[:, prompts.shape[1] :].cpu().numpy()


def _baselines(worlds: Worlds, truth: Solution) -> dict[str, np.ndarray]:
    majority = _commonest()[worlds.kind, truth.structure.depth]
    return dict(zip(BASELINES, (majority, truth.rows), strict=True))


@cache
def _commonest() -> np.ndarray:
    """(kind, depth) the most frequent answer among training questions."""
    known = draw(KNOWN, np.random.default_rng(derive_seed(0, "graphs majority")), SPLITS[0])
    theirs = solve(known)
    answers = np.zeros((len(KINDS), len(DEPTHS)), dtype=int)
    for kind, depth in np.ndindex(answers.shape):
        here = (known.kind == kind) & (theirs.structure.depth == DEPTHS[depth])
        answers[kind, depth] = np.bincount(theirs.answer[here]).argmax()
    return answers
