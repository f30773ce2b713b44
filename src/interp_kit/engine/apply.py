"""A whole run of the model under edits, as TransformerLens hooks."""

import functools

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.decode import Change
from interp_kit.engine.edits import CopyAttended, Edit, EditGroup
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.fast.write import write
from interp_kit.engine.inputs import check_fits, unpadded, whole_text
from interp_kit.engine.references import References
from interp_kit.engine.sites import hook_name
from interp_kit.engine.weight_edits import edited_weights
from interp_kit.models.hold import check_padding
from interp_kit.models.hooked_model import Hook, HookedModel

NOT_FINITE = "the unedited model gives nan or infinite logits on this batch"


class Engine:
    """One batch on one model, run whole with its edits as hooks: the yardstick of all faster ways, and what runs where
    they cannot. executor: what computes the activations that edits refer to; the model itself if None. references:
    those of another model, such as the one that this one was trained from."""

    def __init__(
        self,
        model: HookedModel,
        batch: TokenBatch,
        executor: Executor | None = None,
        references: References | None = None,
    ) -> None:
        check_fits(batch.tokens, model.cfg.n_ctx, model.cfg.d_vocab)
        check_padding(model, batch.mask)
        self.model, self.batch = model, batch
        self.references = references or References(model, batch, executor)
        self.rows = torch.arange(len(batch), device=batch.tokens.device)
        self._called: set[str] = set()  # hooks that an edit was applied at

    @functools.cached_property
    def logits(self) -> Tensor:
        """(batch, pos, vocab) of the unedited run, through the model itself. Raises FloatingPointError if they are
        not finite."""
        logits = whole_text(self.model, self.batch.tokens)
        if not torch.isfinite(logits[self.batch.mask]).all():
            raise FloatingPointError(NOT_FINITE)
        return logits

    def run(self, group: EditGroup) -> Tensor:
        """(batch, pos, vocab) logits under the edits of one group."""
        hooks = self.hooks(group)  # before the weights change: what is copied or averaged is the unedited model's
        with edited_weights(self.model, group):
            tokens = self.batch.tokens
            logits = self.model.run_with_hooks(tokens, fwd_hooks=hooks, **unpadded(self.model, tokens))
        for edit in group:
            if not edit.needs_hooks and hook_name(edit.site, edit.layer) not in self._called:
                raise ValueError(f"{edit}: the model never calls {hook_name(edit.site, edit.layer)}")
        return logits

    def hooks(self, group: EditGroup) -> list[Hook]:
        """The hooks of a group's activation edits."""
        return [hook for edit in group if not edit.is_weight for hook in self._hooks(edit)]

    def change(self, group: EditGroup) -> Change:
        """The group's activation edits for `decode`, at the batch's own positions: the text after them is new. Raises
        Unsupported if it has edits by sender."""
        edits = [edit for edit in group if not edit.is_weight]
        if any(edit.needs_hooks for edit in edits):
            raise Unsupported("senders are edited")
        self.references.harvest([group])  # before weights change
        length = self.batch.tokens.shape[1]

        def apply(site: str, layer: int, start: int, value: Tensor) -> None:
            here = slice(start, min(start + value.shape[1], length))
            for edit in edits:
                if (edit.site, edit.layer or 0) == (site, layer) and start < length:
                    write(value[:, : here.stop - start], edit, here, self.batch, self.references.new_value)

        return apply

    def _hooks(self, edit: Edit) -> list[Hook]:
        if isinstance(edit.source, CopyAttended):
            return self._attended_hooks(edit, edit.source)
        name = hook_name(edit.site, edit.layer)
        where = self._index(edit)
        new = self.references.new_value(edit, where)

        def apply(activation: Tensor, hook: object) -> Tensor:
            self._called.add(name)
            activation = activation.clone()
            activation[where] = new(activation[where]).to(activation.dtype)
            return activation

        return [(name, apply)]

    def _index(self, edit: Edit) -> tuple:
        """The edited slice of a site's activation: (batch, …) at a position, (batch, pos, …) at all."""
        if edit.position is None:
            # only the batch's own positions: under decoding the text after it is new
            return (slice(None), slice(0, self.batch.tokens.shape[1]), *edit.tail)
        at = self.batch.position(edit.position) if isinstance(edit.position, str) else edit.position
        return (self.rows, at, *edit.tail)

    def _attended_hooks(self, edit: Edit, source: CopyAttended) -> list[Hook]:
        """Recompute what the receiver reads from the senders, with their keys and values from `source.batch`."""
        assert edit.layer is not None
        assert isinstance(edit.position, str)
        prefix = f"blocks.{edit.layer}.attn"
        at = self.batch.position(edit.position)
        heads = slice(None) if edit.head is None else slice(edit.head, edit.head + 1)
        keys = self._heads(self.references.activation(source.batch, "k", edit.layer))
        values = self._heads(self.references.activation(source.batch, "v", edit.layer))
        scale = self.model.blocks[edit.layer].attn.attn_scale  # pyright: ignore[reportAttributeAccessIssue]
        senders = [self.batch.position(name) for name in dict.fromkeys(source.senders)]
        seen: dict[str, Tensor] = {}

        def remember(name: str) -> Hook:
            return (f"{prefix}.hook_{name}", lambda activation, hook: seen.__setitem__(name, activation))

        def scores(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()
            query = seen["q"][self.rows, at]
            for sender in senders:
                new = torch.einsum("bhd,bhd->bh", query, keys[self.rows, sender]) / scale
                activation[self.rows, heads, at, sender] = new[:, heads]
            return activation

        def mixed(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()
            for sender in senders:
                weight = seen["pattern"][self.rows, :, at, sender]
                change = values[self.rows, sender] - self._heads(seen["v"])[self.rows, sender]
                activation[self.rows, at, heads] += (weight[..., None] * change)[:, heads]
            return activation

        return [
            *(remember(name) for name in ("q", "v", "pattern")),
            (f"{prefix}.hook_attn_scores", scores),
            (f"{prefix}.hook_z", mixed),
        ]

    def _heads(self, activation: Tensor) -> Tensor:
        """Repeat grouped keys or values to one a query head."""
        return activation.repeat_interleave(self.model.cfg.n_heads // activation.shape[2], dim=2)
