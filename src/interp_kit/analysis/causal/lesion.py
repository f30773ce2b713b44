"""Adaptation of a model to a lesion: repair at once by later components, and relearning around it in training.

Self-repair at once is the direct effect of what is cut less its total effect (McGrath et al. 2023, "The Hydra Effect",
arXiv:2307.15771; Rushing & Nanda 2024, arXiv:2402.15390). Relearning is measured by training a copy on with the lesion
held, beside a copy that is trained on the same texts without it: continued training alone changes components too.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.analysis.causal.lesion_result import LesionResult
from interp_kit.analysis.causal.lesion_training import (
    DIVERGED,
    Hold,
    Lesion,
    check_texts,
    intact,
    retrain,
    trainable_copy,
)
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_count, check_flag, check_number, check_seed
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Edit
from interp_kit.engine.metrics import accuracy, logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting

Kind = Literal["zero", "mean"]
MEASURED = 8  # times that accuracy is measured over a run


@on_model(gradients=True)
def lesion(
    model: HookedModel,
    task: AbstractTask,
    edits: Edit | Sequence[Edit],
    *,
    steps: int = 200,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    batch_size: int = 16,
    learning_rate: float = 5e-4,
    kind: Kind = "mean",
    limit: int = 256,
    progress: bool = PROGRESS,
) -> LesionResult:
    """Hold components at constant values, train on, and measure who takes over.

    A copy is trained on fresh examples of the task with the edits active in every forward pass, and another on the same
    examples in the same order without them. Before, right after the lesion and after training, the importance of every
    head and MLP is measured by `ablate`, with the lesion kept. The model itself is not changed.

    Args:
        model: The intact model.
        task: What it learned. Examples come from `task.sample`, so inputs that it never saw may be among them.
        edits: What is held, at outputs (z, mlp_out, mlp_post, attn_out, embed, or the stream): Zero, Mean (of the
            intact model over the measured examples), Set, Add or Scale.
        steps: Of training, of either copy.
        seeds: Of the training examples and their order.
        batch_size: Texts per step.
        learning_rate: Of AdamW, constant.
        kind: What `ablate` replaces a component's output by to measure its importance.
        limit: Examples that are measured, at most, drawn from `task.pool()`.
        progress: Show a bar.

    Returns:
        Accuracy and logit difference over steps, effects at once, and importance by component.

    Raises:
        TypeError: What is passed in place of a model, a task or an edit.
        ValueError: An option that means nothing, an edit that cannot be held, or active hooks.
        FloatingPointError: The training diverges.

    Examples:
        >>> result = ik.lesion(model, task, ik.Edit("z", 0, ik.Zero(), head=1))
        >>> result.plot(figure="importance")
    """
    check_meeting(model, task, AbstractTask)
    for option, value in (("steps", steps), ("batch_size", batch_size), ("limit", limit)):
        check_count(option, value)
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ValueError(f"seeds is {seeds!r}; expected a sequence of whole numbers")
    seeds = list(seeds)
    if not len(seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {seeds}; name at least one, and each once")
    for seed in seeds:
        check_seed(seed, "seeds")
    check_number("learning_rate", learning_rate, above=0)
    check_choice("kind", kind, get_args(Kind))
    check_flag("progress", progress)
    batch = _measured(model, task, limit)
    cut = Lesion(model, batch, edits)
    trainable_copy(model)  # says what stands against it
    texts = {seed: _texts(model, task, cut, seed, steps * batch_size, batch) for seed in seeds}
    run = _Runs(batch, cut, texts, steps, learning_rate, kind)
    with bar(2 * len(seeds) * steps, "steps", progress) as shown:
        return run.result(model, shown.update, {
            "analysis": "lesion", "model": model_name(model), "task": batch.task, "whole": batch.whole,
            "edits": [str(edit) for edit in cut.group], "cut": cut.data(), "steps": steps, "batch_size": batch_size,
            "learning_rate": learning_rate, "kind": kind,
        })  # fmt: skip


def _measured(model: HookedModel, task: AbstractTask, limit: int) -> TokenBatch:
    """The task's pool, or `limit` examples of it."""
    batch = task.batch(task.pool(), model.cfg.device)
    if len(batch) > limit:
        rows = np.random.default_rng(0).choice(len(batch), limit, replace=False)
        batch = batch.take(np.sort(rows).tolist())
    check_texts(model, batch)
    return batch


def _texts(model: HookedModel, task: AbstractTask, cut: Lesion, seed: int, n: int, measured: TokenBatch) -> TokenBatch:
    """Texts that one seed trains on, in its order."""
    batch = task.batch(task.sample(n, derive_seed(seed, "lesion") % 2**32), measured.tokens.device)
    check_texts(model, batch)
    cut.check(batch)
    return batch


@dataclass(frozen=True)
class _Runs:
    """The two runs of every seed, and what is measured on them."""

    batch: TokenBatch
    cut: Lesion
    texts: dict[int, TokenBatch]
    steps: int
    learning_rate: float
    kind: Kind

    def result(self, model: HookedModel, tick: Callable[[], object], config: dict[str, object]) -> LesionResult:
        """Everything, of the intact model and of its copies."""
        before = ablate(model, self.batch, kind=self.kind, progress=False)
        at_once = self._importance(model, self.cut.hold)
        total, direct = self._effects(model)
        times = sorted({round(i * self.steps / MEASURED) for i in range(MEASURED + 1)})
        curves, after = [], []
        for hold in (self.cut.hold, intact):
            runs = [self._train(model, texts, hold, times, tick) for texts in self.texts.values()]
            curves.append([curve for curve, _ in runs])
            after.append([importance for _, importance in runs])
        measured = np.array(curves)  # (arm, seed, time, metric, field)
        return LesionResult(
            component=before.component,
            fields=before.fields,
            seeds=tuple(self.texts),
            step=np.array(times),
            accuracy=measured[:, :, :, 0],
            difference=measured[:, :, :, 1],
            total=total,
            direct=direct,
            before=before.effect.mean(1),
            at_once=at_once.effect.mean(1),
            after=np.array(after),
            config=config,
        )

    def _importance(self, model: HookedModel, hold: Hold) -> AblationResult:
        """Of every head and MLP, in a model that may solve little."""
        with hold(model, self.batch), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return ablate(model, self.batch, kind=self.kind, progress=False)

    def _effects(self, model: HookedModel) -> tuple[np.ndarray, np.ndarray]:
        """(field, row) loss of the logit difference under the lesion: in all, and by what it writes itself alone."""
        metrics = [logit_difference(field.name) for field in self.batch.fields]
        groups = [self.cut.group, self.cut.direct(self.batch)]
        found = sweep(model, self.batch, groups, metrics, progress=False)
        total, direct = (found.baseline - values for values in found.values)
        return total, direct

    def _train(
        self, model: HookedModel, texts: TokenBatch, hold: Hold, times: Sequence[int], tick: Callable[[], object]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """(metric, field) at each time, and the importance of every component (component,) at the end."""
        student, parameters = trainable_copy(model)
        names, curve = [field.name for field in self.batch.fields], []
        metrics = [metric(name) for metric in (accuracy, logit_difference) for name in names]

        def after(step: int) -> None:
            if step in times:
                with hold(student, self.batch):
                    found = _diverging(step, lambda: sweep(student, self.batch, [], metrics, progress=False).baseline)
                curve.append(found.mean(-1).reshape(2, len(names)))
            if step:
                tick()

        retrain(student, parameters, texts, hold, self.steps, self.learning_rate, after)
        return curve, self._importance(student, hold).importance()


def _diverging(step: int, measured: Callable[[], np.ndarray]) -> np.ndarray:
    """Measures of a model in training, whose logits may have become infinite."""
    try:
        return measured()
    except FloatingPointError as error:
        raise FloatingPointError(DIVERGED.format(step) if step else str(error)) from None
