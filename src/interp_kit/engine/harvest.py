"""The activations of several sites over a batch, read once for all who need them (`harvest_files` keeps them on disk).

A forward pass ends after the last site that is asked for, and of each activation only what is asked for is kept. Plain
torch (`Executor`) computes it where that gives what hooks give on the first tokens; TransformerLens's cache elsewhere.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_flag, check_names, one_or_more
from interp_kit.core.own_tokens import position_names
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.fast.forward import BEHIND, TOLERANCE, Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.inputs import check_fits, unpadded
from interp_kit.engine.sites import ACTIVATIONS, find_hook
from interp_kit.models.hold import check_padding, on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting

TOKENS = 2048  # of one forward pass: enough for full speed, and little enough for the caches
SAMPLE = (2, 8)  # rows and positions on which the executor has to give what hooks give
STEP = 8  # positions are cut to a multiple of this: oneDNN prepares for every new shape
OPTIONS = {  # end of a hook's name -> the option of a config that it is there by
    "hook_pos_embed": "positional_embedding_type",
    "attn.hook_result": "use_attn_result",
    **{f"hook_{x}_input": "use_split_qkv_input" for x in "qkv"},
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_mlp_out": "attn_only",
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@on_model(causal=False)
def harvest(
    model: HookedModel,
    batch: TokenBatch,
    sites: str | Sequence[str],
    *,
    positions: Sequence[str | int] | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = PROGRESS,
) -> dict[str, Tensor]:
    """Activations of a batch at some sites.

    Args:
        model: Any model.
        batch: Examples.
        sites: Hook names, or "mlp_out.2".
        positions: Named positions, or their indices; None: all real tokens.
        dtype: float64, float32, bfloat16 or float16; None: the model's own.
        progress: Whether to show a bar.

    Returns:
        Site -> (vector, …) of all real tokens in reading order, that of `batch.mask.nonzero()`; with `positions`
        (batch, position, …) of the named ones.

    Raises:
        ValueError: A site or position is unknown, the model never calls the site, it has no position axis, texts do not
            fit the model, or activations are nan or infinite (in that dtype).
    """
    check_flag("progress", progress)
    found = reading(model, batch, sites, positions, dtype).read(progress=progress)
    for hook, values in found.items():
        refuse_infinite(hook, values, 1 if positions is None else 2)
    return {site: found[find_hook(model, site)] for site in ([sites] if isinstance(sites, str) else sites)}


def reading(
    model: HookedModel,
    batch: TokenBatch,
    sites: str | Sequence[str],
    positions: Sequence[str | int] | None,
    dtype: torch.dtype | None,
) -> "Reader":
    """The reader of these sites. Raises ValueError as `Reader` does, for no sites, and for a site that it has not or
    never calls."""
    check_meeting(model, batch, TokenBatch)
    hooks = [find_hook(model, site) for site in check_names("sites", one_or_more(sites))]
    if positions is not None:
        positions = check_names("positions", position_names("positions", positions, batch.positions))
    reader = Reader(model, batch, hooks, positions, dtype)
    for hook in reader.hooks:
        if hook not in reader.shapes:
            raise ValueError(f"the model never calls {hook}: {_left_out(model.cfg, hook)}")
    return reader


def _left_out(cfg: Any, hook: str) -> str:
    """Option of a config that leaves a hook out."""
    for part, option in OPTIONS.items():
        if hook.endswith(part):
            return f"its {option} is {getattr(cfg, option, None)!r}"
    return "an option of its config leaves it out"


def refuse_infinite(hook: str, values: Tensor, axes: int) -> None:
    """Raise ValueError naming the hook if vectors, behind that many axes, are nan or infinite."""
    if torch.isfinite(values.sum(dtype=torch.promote_types(values.dtype, torch.float32))):
        return  # one number says it, unless it overflows
    finite = torch.isfinite(values).flatten(axes).all(-1)
    if not finite.all():
        raise ValueError(
            f"{hook}: {int((~finite).sum())} of {finite.numel()} activations are nan or infinite"
            + (f" in {values.dtype}" if values.dtype in (torch.float16, torch.bfloat16) else "")
        )


class Reader:
    """Reading of the activations of a batch at some hooks, of all real tokens or at named positions.

    shapes: hook -> axes after batch and pos, of those that the model calls; dtype: of what is read; executor: None
    where hooks read it, for then something is asked for that it does not visit, or does not give as hooks do.

    Raises ValueError for an unknown position or dtype, texts that do not fit the model, and a hook without a position
    axis.
    """

    def __init__(
        self,
        model: HookedModel,
        batch: TokenBatch,
        hooks: Sequence[str],
        positions: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"activations are kept as {', '.join(map(str, DTYPES))}, not {dtype}")
        check_fits(batch.tokens, model.cfg.n_ctx, model.cfg.d_vocab)
        check_padding(model, batch.mask)
        self.model, self.batch, self.hooks = model, batch, tuple(dict.fromkeys(hooks))
        self.at: Tensor | None = None
        if positions is not None:
            at = [batch.position(name) for name in positions]
            self.at = torch.stack(at, dim=1) if at else batch.tokens[:, :0]
        sample = batch.tokens[: SAMPLE[0], : SAMPLE[1]]
        expected = self._hooked(sample)
        self.shapes = {hook: tuple(value.shape[2:]) for hook, value in expected.items()}
        self.dtype = dtype or next((value.dtype for value in expected.values()), torch.float32)
        places = {
            template.format(layer=layer): (site, layer)
            for layer in reversed(range(max(1, model.cfg.n_layers)))
            for site, (template, _) in ACTIVATIONS.items()
        }
        self.executor: Executor | None = None
        if all(hook in places and hook in expected for hook in self.hooks):
            self.sites = {places[hook]: hook for hook in self.hooks}
            self.executor = self._executor(sample, expected)

    def count(self, start: int, end: int) -> int:
        """Number of vectors that the rows from `start` to `end` give; where positions are named, how many rows there
        are."""
        mask = self.batch.mask[start:end]
        return int(mask.sum()) if self.at is None else len(mask)

    def read(self, start: int = 0, end: int | None = None, *, progress: bool = False) -> dict[str, Tensor]:
        """hook -> (vector, …) or (row, position, …) activations of the rows from `start` to `end`."""
        end = len(self.batch) if end is None else min(end, len(self.batch))
        count = self.count(start, end)
        found: dict[str, Tensor] = {}
        done, step = 0, max(1, TOKENS // self.batch.tokens.shape[1])
        steps = bar(end - start, "rows", progress)
        with steps as shown, torch.inference_mode(False), torch.no_grad():  # so that it can be trained on
            for first in range(start, end, step):
                part = self._part(slice(first, min(first + step, end)))
                for hook, value in part.items():
                    if hook not in found:
                        found[hook] = torch.empty(count, *value.shape[1:], dtype=self.dtype, device=value.device)
                    found[hook][done : done + len(value)] = value
                done += len(next(iter(part.values())))
                shown.update(min(step, end - first))
        return found

    def _part(self, rows: slice) -> dict[str, Tensor]:
        tokens, mask, at = self.batch.tokens[rows], self.batch.mask[rows], None if self.at is None else self.at[rows]
        if self.executor is not None:  # it is causal: what stands after all that is asked for changes nothing
            needed = mask.any(0).nonzero() if at is None else at
            last = int(needed.max()) + 1 if needed.numel() else 1
            tokens = tokens[:, : -(-last // STEP) * STEP]
            mask = mask[:, : tokens.shape[1]]
        whole, row = bool(mask.all()), torch.arange(len(tokens), device=tokens.device)[:, None]

        def pick(value: Tensor) -> Tensor:
            if at is not None:
                return value[row, at]
            return value.flatten(0, 1) if whole else value[mask]

        if self.executor is not None:
            return self._executed(self.executor, tokens, pick, at)
        return {hook: pick(value) for hook, value in self._hooked(tokens).items()}

    def _hooked(self, tokens: Tensor) -> dict[str, Tensor]:
        """hook -> (batch, pos, …) activations in TransformerLens's cache."""
        layers = [int(found[1]) + 1 if (found := re.match(r"blocks\.(\d+)\.", hook)) else 0 for hook in self.hooks]
        early = ("hook_embed", "hook_pos_embed")
        behind = any(not layer and hook not in early for layer, hook in zip(layers, self.hooks, strict=True))
        with torch.inference_mode():
            _, cache = self.model.run_with_cache(
                tokens,
                names_filter=list(self.hooks),
                stop_at_layer=None if behind else max(layers, default=0),
                return_type=None,
                **unpadded(self.model, tokens),
            )
        found = {hook: cache[hook] for hook in self.hooks if hook in cache}
        for hook, value in found.items():
            if value.ndim < 3 or value.shape[0] not in (1, len(tokens)) or value.shape[1] != tokens.shape[1]:
                raise ValueError(f"{hook} has shape {tuple(value.shape)}, which is not (batch, pos, …)")
            found[hook] = value.expand(len(tokens), *value.shape[1:])
        return found

    def _executed(
        self, executor: Executor, tokens: Tensor, pick: Callable[[Tensor], Tensor], at: Tensor | None = None
    ) -> dict[str, Tensor]:
        """hook -> what `pick` makes of the (batch, pos, …) activations by the executor; at: (batch, position) that it
        picks, where it picks positions."""
        found: dict[str, Tensor] = {}
        last = len(executor.layers) - 1
        few = at if at is not None and last >= 0 and 2 * at.shape[1] <= tokens.shape[1] else None

        def visit(site: str, layer: int, value: Tensor) -> None:
            if (site, layer) in self.sites:
                picked = few is not None and (layer > last or (layer == last and site in BEHIND))
                found[self.sites[site, layer]] = value if picked else pick(value)
                if len(found) == len(self.sites):
                    raise _Complete

        with contextlib.suppress(_Complete):
            visit("resid_pre", last + 1, executor.run(tokens, visit, at=few))
        return {hook: found[hook] for hook in self.hooks}

    def _executor(self, sample: Tensor, expected: dict[str, Tensor]) -> Executor | None:
        """As much of the model as is needed; None where it is not computed, or otherwise than `expected`."""
        before = ("embed", "pos_embed", "resid_pre")  # what a block begins with
        try:
            executor = Executor(self.model, blocks=max(layer + (site not in before) for site, layer in self.sites))
        except Unsupported:
            return None
        for hook, value in self._executed(executor, sample, lambda value: value).items():
            allowed = TOLERANCE * max(1.0, float(expected[hook].abs().max()))
            if value.shape != expected[hook].shape or not (value - expected[hook]).abs().max() <= allowed:
                return None
        return executor


class _Complete(Exception):
    """Everything that was asked for is there: nothing behind it need be computed."""
