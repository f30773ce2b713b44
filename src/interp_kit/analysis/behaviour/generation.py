"""Text that a model writes when a part of it is removed: free generation under interventions, beside the intact text,
and the cells at which the two part ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, expect
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, bar, numbered
from interp_kit.core.stats.intervals import wilson
from interp_kit.engine.apply import Engine
from interp_kit.engine.decode import decode
from interp_kit.engine.edit_checks import check_edits
from interp_kit.engine.edits import Edit
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.inputs import whole_text
from interp_kit.engine.sweep import editing
from interp_kit.engine.weight_edits import edited_weights
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import SOFT, intervals, new_axes

INTACT = "intact"


@dataclass(frozen=True, kw_only=True)
class Generations(AbstractResult):
    """Greedy completions of the same prompts, intact and under each named intervention.

    conditions: names, "intact" first; tokens: (condition, batch, pos); truth: (batch, pos); asked: (batch, pos) 1 on
    the completion; parted: (condition, batch) the first position at which the text differs from the intact one, which
    is where the two arguments of the maximum first differ on the same text, -1 where it never does; intact_logits,
    edited_logits: (condition, batch, vocab) there, nan where it never does; names: position index -> name, for texts of
    one layout; vocabulary: text of each token id.
    """

    conditions: tuple[str, ...]
    tokens: np.ndarray
    truth: np.ndarray
    asked: np.ndarray
    parted: np.ndarray
    intact_logits: np.ndarray
    edited_logits: np.ndarray
    names: tuple[str, ...]
    vocabulary: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Examples behind every figure."""
        return self.truth.shape[0]

    @property
    def wrong(self) -> np.ndarray:
        """(condition, batch, pos) True on completion tokens that are not the true ones."""
        return np.not_equal(self.tokens, self.truth) & (self.asked == 1)

    def right(self) -> np.ndarray:
        """(condition, batch) True where the whole completion is right."""
        return np.logical_not(self.wrong.any(-1))

    def to_frame(self, groups: Mapping[str, Sequence[int]] | None = None) -> pd.DataFrame:
        """One row per condition and group of examples (name -> rows; all of them by default): share of completions that
        are wholly right with Wilson interval, mean number of wrong tokens, share of texts that part from the intact."""
        groups = groups or {"all": range(self.n)}
        rows = []
        for c, condition in enumerate(self.conditions):
            for group, members in groups.items():
                index = list(members)
                if not index:
                    continue
                share = wilson(int(self.right()[c, index].sum()), len(index))
                rows.append(
                    {
                        "condition": condition,
                        "group": group,
                        "right": share.value,
                        "low": share.low,
                        "high": share.high,
                        "wrong_tokens": float(self.wrong[c, index].sum(-1).mean()),
                        "parted": float((self.parted[c, index] >= 0).mean()),
                        "n": len(index),
                    }
                )
        return pd.DataFrame(rows)

    def caption(self) -> str:
        """See AbstractResult."""
        return (
            f"Share of greedy completions of {self.config['model']} that are right in every token, intact and with"
            f" parts removed (n = {numbered(self.n, 'distinct prompts')}, 95 % Wilson intervals)."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of right completions under each condition."""
        frame = self.to_frame()
        series = {"right": (frame["right"].to_numpy(), frame["low"].to_numpy(), frame["high"].to_numpy())}
        return intervals(
            list(frame["condition"]),
            series,
            ax=ax,
            title=f"free generation, {self.config['model']} (n = {self.n})",
            x_label="completions right in every token",
            limits=(-0.02, 1.02),
        )

    def plot_logits(self, condition: str, row: int, ax: Axes | None = None) -> Axes:
        """Bars of all logits, intact and edited, at the cell where this text parts from the intact one.

        Raises ValueError for an unknown condition, or a text that does not part.
        """
        c = self._condition(condition)
        at = int(self.parted[c, row])
        if at < 0:
            raise ValueError(f"the text of row {row} is the same intact and under {condition!r}")
        ax = ax or new_axes(7.0, 3.2)
        where = np.arange(len(self.vocabulary))
        for offset, logits, label, colour in (
            (-0.2, self.intact_logits, INTACT, "#0072B2"),
            (0.2, self.edited_logits, condition, "#E69F00"),
        ):
            ax.bar(where + offset, logits[c, row], 0.4, label=label, color=colour)
        ax.axhline(0, color=SOFT, linewidth=0.8)
        ax.set_xticks(where, self.vocabulary)
        name = self.names[at] if at < len(self.names) else str(at)
        true = self.vocabulary[int(self.truth[row, at])]
        ax.set(title=f"where the texts part: {name}, truth {true}", xlabel="token", ylabel="logit")
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
        return ax

    def _condition(self, name: str) -> int:
        if name not in self.conditions:
            raise ValueError(f"no condition {name!r}; there are {', '.join(self.conditions)}")
        return self.conditions.index(name)


@on_model()
def generate_under(
    model: HookedModel,
    batch: TokenBatch,
    edits: Mapping[str, Edit | Sequence[Edit]],
    *,
    batch_size: int | None = 64,
    progress: bool = PROGRESS,
) -> Generations:
    """Complete each prompt greedily, intact and under each named intervention, and find where the texts part.

    Keys and values are kept while a text grows, whatever is edited; only edits by sender, and models that `Executor`
    does not support, run the whole text for every token.

    Args:
        model: A causal model.
        batch: Prompts with their true completions.
        edits: Name of a condition -> one edit, or several made together.
        batch_size: Texts per forward pass; None: all.
        progress: Whether to show a bar.

    Returns:
        The text of every condition, the intact one first, and where it is wrong.

    Raises:
        ValueError: There is no edit, a condition is called "intact", or an edit does not fit the model.
    """
    check_meeting(model, batch, TokenBatch)
    expect("edits", edits, Mapping, "names of conditions, each with its edits")
    if batch_size is not None:
        check_count("batch_size", batch_size)
    check_flag("progress", progress)
    if not edits or INTACT in edits:
        raise ValueError(f'edits is of {list(edits)}: name at least one edit, and none "intact"')
    groups = {name: (edit,) if isinstance(edit, Edit) else tuple(edit) for name, edit in edits.items()}
    check_edits(model, batch, groups.values())
    at = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    asked = batch.mask & (at >= batch.prompt_length[:, None])
    lengths = batch.mask.sum(1)
    with bar(1 + len(groups), "conditions", progress) as shown:
        return _generated(model, batch, groups, asked, lengths, batch_size, shown.update)


def _generated(
    model: HookedModel,
    batch: TokenBatch,
    groups: Mapping[str, Sequence[Edit]],
    asked: Tensor,
    lengths: Tensor,
    batch_size: int | None,
    done: Callable[[], Any],
) -> Generations:
    """The texts intact and under each group of edits; `done` is called after each."""
    intact = decode(model, batch.tokens, asked, lengths=lengths, batch_size=batch_size).tokens
    done()
    shape = (1 + len(groups), len(batch), len(batch.vocabulary))
    tokens, parted = [intact], torch.full(shape[:2], -1)
    logits = torch.full((2, *shape), torch.nan, dtype=torch.float32)
    rows = torch.arange(len(batch), device=intact.device)
    before = _logits(model, intact)
    for c, group in enumerate(groups.values(), 1):
        written = _write_under(model, batch, group, asked, batch_size)
        with editing(model, batch, group) as edited:
            after = _logits(edited, intact)
        differs = (written != intact) & asked
        first = torch.where(differs.any(1), differs.int().argmax(1), -1)
        has = first >= 0
        width = shape[2]
        logits[0, c, has.cpu()] = before[rows[has], first[has] - 1, :width].float().cpu()
        logits[1, c, has.cpu()] = after[rows[has], first[has] - 1, :width].float().cpu()
        parted[c] = first.cpu()
        tokens.append(written)
        done()
    return Generations(
        conditions=(INTACT, *groups),
        tokens=torch.stack(tokens).cpu().numpy(),
        truth=batch.tokens.cpu().numpy(),
        asked=asked.cpu().numpy().astype(np.uint8),
        parted=parted.numpy(),
        intact_logits=logits[0].numpy(),
        edited_logits=logits[1].numpy(),
        names=_layout(batch),
        vocabulary=batch.vocabulary,
        config={"analysis": "generate_under", "model": model_name(model), "task": batch.task},
    )


@torch.inference_mode()
def _logits(model: HookedModel, tokens: Tensor) -> Tensor:
    """(batch, pos, vocab) logits by `Executor` if it supports the model as it is, else by the model itself."""
    try:
        return Executor(model).prefill(tokens, every=True, capacity=tokens.shape[1])
    except Unsupported:
        return whole_text(model, tokens)


def _write_under(
    model: HookedModel,
    batch: TokenBatch,
    group: Sequence[Edit],
    asked: Tensor,
    batch_size: int | None,
) -> Tensor:
    """(batch, pos) the texts as the edited model completes them."""
    lengths = batch.mask.sum(1)
    if all(edit.is_weight for edit in group):
        with editing(model, batch, group) as edited:
            return decode(edited, batch.tokens, asked, lengths=lengths, batch_size=batch_size).tokens
    options = {"lengths": lengths, "batch_size": None}
    try:
        with torch.inference_mode():
            change = Engine(model, batch).change(tuple(group))
        with edited_weights(model, group):
            return decode(model, batch.tokens, asked, edit=change, **options).tokens
    except Unsupported:
        with editing(model, batch, group) as edited:
            return decode(edited, batch.tokens, asked, cached=False, **options).tokens


def _layout(batch: TokenBatch) -> tuple[str, ...]:
    """The name of each position where all rows have one layout, else nothing."""
    names = [""] * batch.tokens.shape[1]
    for name, index in batch.positions.items():
        if (index != index[0]).any():
            return ()
        names[int(index[0])] = name
    return tuple(names)
