"""Whole answers under an exchange of the rule, and answers to quizzes whose f_A shows two rules at once.

A rule that a network held as one thing could not be two. If each object of A is looked up by itself, quizzes of two
rules, of which no network has seen any, are answered by both.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_kit.core.identity import derive_seed
from interp_kit.core.pairs import PairBatch
from interp_kit.core.stats.intervals import Estimate, mean_estimate, wilson
from interp_kit.engine.decode import Change, decode
from interp_kit.engine.harvest import harvest
from interp_kit.models.hooked_model import HookedModel
from interp_kit.studies.culture.rules.exchange import PLACES, UNIT
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.composed import AT_ONCE, PLAIN, two_rules
from interp_kit.tasks.culture.grids import CELLS, QUARTER
from interp_kit.tasks.culture.task import CultureTask
from interp_kit.tasks.culture.world import TASKS

UNEDITED, EXCHANGED = "unedited", "f_A cells exchanged"
INTACT, AT_INPUT, PUT_IN = "f_A of the first rule", "f_A of both rules", "the second rule's cells of f_A put in"
START = 1 + QUARTER + 1  # of f_A's cells: after BOS, A and a marker


@dataclass(frozen=True)
class Answers:
    """Whole answers, written freely and greedily.

    names: of the conditions; cells: (condition, quiz, 100) what was written; first, second, both: (quiz, 100) the right
    answers by either rule and by both at once (None where that is not defined); quizzes: (condition, quiz, 404) with
    what was written; kind: of each quiz, its two rules.
    """

    names: tuple[str, ...]
    quizzes: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    both: NDArray[np.int64] | None
    kind: tuple[str, ...]

    @property
    def cells(self) -> NDArray[np.int64]:
        """(condition, quiz, 100) what was written."""
        return self.quizzes[..., -CELLS:]

    def whole(self, condition: str, answer: str, kind: str | None = None) -> Estimate:
        """The share of quizzes whose answer is, in every cell, the one of "first", "second" or "both", with Wilson's
        95 % interval; of all, or of those of a kind."""
        right = (self.cells[self.names.index(condition)] == getattr(self, answer)).all(1)
        right = right if kind is None else right[np.array(self.kind) == kind]
        return wilson(int(right.sum()), len(right), UNIT)

    def differing(self, condition: str, answer: str) -> Estimate:
        """Of the cells on which the two rules differ, the share that is as `answer` has it: the mean over quizzes."""
        differ = self.first != self.second
        found = ((self.cells[self.names.index(condition)] == getattr(self, answer)) & differ).sum(1) / differ.sum(1)
        return mean_estimate(found, UNIT, (0.0, 1.0))

    def to_frame(self) -> pd.DataFrame:
        """One row per condition, kind of quiz and answer: the share of quizzes answered so in every cell, with
        interval."""
        answers = ("first", "second") if self.both is None else ("first", "second", "both")
        rows = [
            (name, kind, answer, share.value, share.low, share.high, share.n)
            for name in self.names
            for kind in dict.fromkeys(self.kind)
            for answer in answers
            for share in (self.whole(name, answer, kind),)
        ]
        return pd.DataFrame(rows, columns=["condition", "rules", "answer", "share", "low", "high", "n"])


def answers_at_once(model: HookedModel, n: int, layer: int, seed: int = 0) -> Answers:
    """Ask quizzes whose f_A shows two rules at once, n of each of AT_ONCE: in the text, or by putting the residual
    stream before `layer` of those cells of f_A that belong to what the second rule changes into a run of the first."""
    drawn = two_rules(n * len(AT_ONCE), AT_ONCE, np.random.default_rng(derive_seed(seed, "at once")), apart=True)
    first, second = (worlds.quizzes().astype(np.int64) for worlds in (drawn.first, drawn.second))
    both = drawn.both()
    task = CultureTask(tasks=PLAIN)
    other = task.batch(task.examples(drawn.second), str(model.cfg.device))
    site = f"resid_pre.{layer}"
    put = harvest(model, other, site, positions=PLACES["f_A cells"])[site]
    mask = torch.as_tensor(_belongs(first, second)).to(put.device)[..., None]

    def write(where: str, number: int, at: int, value: Tensor) -> None:
        if where == "resid_pre" and number == layer and at == 0:
            cells = value[:, START : START + CELLS]
            cells.copy_(torch.where(mask, put, cells))

    given = [(INTACT, first, None), (AT_INPUT, both, None), (PUT_IN, first, write)]
    written = [_written(model, np.pad(quizzes, ((0, 0), (1, 0))), edit) for _, quizzes, edit in given]
    one, two, at_once = (quizzes[:, -CELLS:] for quizzes in (first, second, both))
    kind = tuple(f"{TASKS[a]} and {TASKS[b]}" for a, b in zip(drawn.first.task, drawn.second.task, strict=True))
    return Answers(tuple(name for name, *_ in given), np.stack(written), one, two, at_once, kind)


def _written(model: HookedModel, tokens: NDArray[np.integer], edit: Change | None) -> NDArray[np.int64]:
    """(n, 404) quizzes whose last grid is written greedily."""
    free = torch.arange(1 + grids.LENGTH) > grids.LENGTH - CELLS
    text = torch.as_tensor(tokens).to(model.cfg.device)
    return decode(model, text, free, edit=edit, batch_size=None, progress=False).tokens[:, 1:].cpu().numpy()


def _belongs(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n, 100) True on the cells of f_A that the second rule changes, or that have the colour in A of what it does."""
    a, shown = grids.split(second)[:, 0], grids.split(second)[:, 1]
    changed = a != shown
    colours = (changed[:, :, None] & (a[:, :, None] == np.arange(1, grids.COLOURS))).any(1)
    own = (colours[:, None, :] & (a[:, :, None] == np.arange(1, grids.COLOURS))).any(2)
    return changed | own


def exchanged_answers(model: HookedModel, pairs: PairBatch, layer: int) -> Answers:
    """Whole answers when the cells of f_A before `layer` are those of the same quiz under the other rule, all of it."""
    site = f"resid_pre.{layer}"
    put = harvest(model, pairs.corrupt, site, positions=PLACES["f_A cells"])[site]

    def write(where: str, number: int, at: int, value: Tensor) -> None:
        if where == "resid_pre" and number == layer and at == 0:
            value[:, START : START + CELLS] = put

    tokens = pairs.clean.tokens.cpu().numpy()
    written = np.stack([_written(model, tokens, edit) for edit in (None, write)])
    first, second = (side.tokens[:, -CELLS:].cpu().numpy() for side in (pairs.clean, pairs.corrupt))
    return Answers((UNEDITED, EXCHANGED), written, first, second, None, ("any two",) * len(first))
