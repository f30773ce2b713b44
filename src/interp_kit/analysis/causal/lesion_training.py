"""A lesion that is held while training goes on: the edits of the intact model, put into a copy whose weights move."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.apply import Engine
from interp_kit.engine.edit_checks import check_edits
from interp_kit.engine.edits import Copy, Edit, EditGroup, Mean, as_data, as_group
from interp_kit.engine.inputs import check_fits, has_hooks, taught, whole_text
from interp_kit.engine.references import Activations, References
from interp_kit.engine.weight_edits import applied
from interp_kit.models.hooked_model import HookedModel

# Outputs of components, and the stream itself: what else is edited (q, k, v) has no effect of its own on the logits.
WRITES = ("z", "attn_out", "mlp_post", "mlp_out", "resid_pre", "resid_mid", "resid_post", "embed", "pos_embed")
DIVERGED = "training diverged after {} steps: nan or infinite numbers; lower learning_rate"
CLIP = 1.0  # greatest norm of a gradient
FIXED = "pos_embed.W_pos"  # of a MyGPT, whose positions are a table and no weights

Hold = Callable[[HookedModel, TokenBatch], AbstractContextManager[None]]


class Lesion:
    """Edits whose new values stay those of the intact model, whatever becomes of the weights.

    Raises TypeError for anything but an edit, ValueError for an edit that is not of an output, that takes its values
    from other rows, or that does not fit the model.

    Args:
        model: The intact model, which is only read.
        batch: The examples that means are taken over.
        edits: What is held: zeros, means, numbers that are the same for every text, or multiples of what is there.
    """

    def __init__(self, model: HookedModel, batch: TokenBatch, edits: Edit | Sequence[Edit]) -> None:
        self.model, self._known = model, Activations()
        self.group: EditGroup = tuple(_held(edit, batch) for edit in as_group(edits))
        self.check(batch.take([0]))  # numbers that differ by row do not fit one row
        self.check(batch)

    def check(self, batch: TokenBatch) -> None:
        """Raise ValueError if an edit does not fit the texts of a batch."""
        check_edits(self.model, batch, [self.group])

    @contextmanager
    def hold(self, model: HookedModel, batch: TokenBatch) -> Iterator[None]:
        """Keep the edits active in `model`, which has the form of the intact one, for texts of `batch`."""
        hooks = Engine(model, batch, references=References(self.model, batch, known=self._known)).hooks(self.group)
        with applied(model, self.group, hooks):
            yield

    def data(self) -> list[dict[str, Any]]:
        """The edits as JSON values; empty if one of them has none."""
        found = [as_data(edit) for edit in self.group]
        return [one for one in found if one is not None] if all(found) else []

    def direct(self, batch: TokenBatch) -> EditGroup:
        """The same edits, with the output of every other component kept as it is without them: what then changes in the
        logits is what they write to the residual stream, and no answer of a later component to it."""
        cfg = self.model.cfg
        sites = ("z",) if getattr(cfg, "attn_only", False) else ("z", "mlp_post")
        kept = [Edit(site, layer, Copy(batch)) for layer in range(cfg.n_layers) for site in sites]
        return (*kept, *self.group)


@contextmanager
def intact(model: HookedModel, batch: TokenBatch) -> Iterator[None]:
    """No lesion: the control."""
    yield


def _held(edit: Edit, batch: TokenBatch) -> Edit:
    """The edit with its means taken over `batch`. Raises ValueError for one that cannot be held."""
    if edit.site not in WRITES:
        raise ValueError(f"{edit}: a lesion holds an output, at one of {', '.join(WRITES)}; hold z of the head instead")
    if isinstance(edit.source, Mean):
        return edit if edit.source.over is not None else replace(edit, source=Mean(batch))
    if edit.source.needs(batch) is not None:
        raise ValueError(
            f"{edit}: its values are those of the rows of one batch, and training has others; hold Zero, Mean, Set, Add"
            " or Scale"
        )
    return edit


def trainable_copy(model: HookedModel) -> tuple[HookedModel, list[Tensor]]:
    """A copy, and its parameters that learn: all but the position table of a MyGPT.

    Raises ValueError if hooks are active in the model, which the copy would keep.
    """
    if has_hooks(model):
        raise ValueError("the model has active hooks; close `with editing(…)`, or remove them, before a lesion")
    student = copy.deepcopy(model)
    fixed = {FIXED} if getattr(model, "mygpt", None) is not None else set()
    learning = []
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name not in fixed)
        parameter.grad = None
        if name not in fixed:
            learning.append(parameter)
    return student, learning


def check_texts(model: HookedModel, batch: TokenBatch) -> None:
    """Raise ValueError for texts that the model cannot read, or that have nothing to learn."""
    check_fits(batch.tokens, model.cfg.n_ctx, model.cfg.d_vocab)
    if not bool(taught(batch).any(1).all()):
        raise ValueError("an example has no completion, so there is nothing to learn from it")


def retrain(
    student: HookedModel,
    parameters: Sequence[Tensor],
    batch: TokenBatch,
    hold: Hold,
    steps: int,
    learning_rate: float,
    after: Callable[[int], None],
) -> None:
    """Train on the completions of a batch, in its order, an equal part of its rows per step: AdamW at a constant rate,
    without weight decay.

    Args:
        student: What `trainable_copy` gave, changed in place.
        parameters: What learns.
        batch: (steps * size) texts.
        hold: Applied to the student in every forward pass.
        steps: How many.
        learning_rate: Of AdamW.
        after: Called with the number of steps done, from 0.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0)
    size = len(batch) // steps
    after(0)
    for step in range(steps):
        part = batch.take(range(step * size, (step + 1) * size))
        read = taught(part)[:, :-1]
        with torch.enable_grad():
            with hold(student, part):
                logits = whole_text(student, part.tokens)
            loss = F.cross_entropy(logits[:, :-1][read].float(), part.tokens[:, 1:][read])
            if not torch.isfinite(loss):
                raise FloatingPointError(DIVERGED.format(step))
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        after(step + 1)
