"""Decoding without a tokenizer, token ids in and out: any cells of a text are written, left to right, and the others
fed as they are, with keys and values kept, and with edits active where the model has them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from loguru import logger
from torch import Tensor, nn

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_seed, expect
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.inputs import check_length, has_hooks, whole_text
from interp_kit.models.convert import key_value_cache
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting, check_model

# (batch, vocab) logits that predict column t of a text (batch, pos) whose columns before t are written.
Predict = Callable[[Tensor, int], Tensor]
Change = Callable[[str, int, int, Tensor], None]  # site, layer, first position, activation: changed in place


@dataclass(frozen=True)
class Decoded:
    """tokens: (batch, pos) the texts, free cells written; log_prob: (batch, pos) natural log-probability, at
    temperature 1, of each token written, nan at the others."""

    tokens: Int[Tensor, "batch pos"]
    log_prob: Float[Tensor, "batch pos"]


@on_model(shared=True)
def decode(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    free: Bool[Tensor, "batch pos"] | Bool[Tensor, " pos"],
    *,
    temperature: float | int | Float[Tensor, " pos"] | None = None,
    seed: int = 0,
    lengths: Int[Tensor, " batch"] | None = None,
    stop: int | Int[Tensor, " batch"] | None = None,
    cached: bool = True,
    edit: Change | None = None,
    batch_size: int | None = 64,
    progress: bool = PROGRESS,
) -> Decoded:
    """Write the free cells of each text, from left to right; each sees all cells before it, written or given.

    Texts run through `Executor` with keys and values kept. If hooks are active, or the executor does not support the
    model, the model itself runs with TransformerLens's cache: a hook then sees a text in pieces, each from one free
    cell up to the next, most of them one token long. A hook that counts positions needs `cached=False`, which runs the
    whole text, padding too, for every token; one that counts rows needs `batch_size=None` beside.

    Args:
        model: A causal model.
        tokens: (batch, pos) token ids.
        free: Cells to write, for each row or for all; what stands in them is not read. Token t is predicted by the
            logits at t - 1, so the first cell cannot be free.
        temperature: Of sampling, for each position or for all; None takes the most probable token.
        seed: Decides the samples, row by row in the order of `tokens`, whatever the batch size.
        lengths: Of rows padded on the right; padding is neither read nor written.
        stop: The last position to write.
        cached: Whether keys and values are kept.
        edit: Called with site, layer, first position and value (batch, new positions, …) of every activation as it is
            computed (sites as in `Executor.run`), to change it in place.
        batch_size: Rows that run together; None: all.
        progress: Whether to show a bar.

    Returns:
        The texts, and the log-probability of each token written.

    Raises:
        ValueError: Token ids are outside the vocabulary, texts longer than the context, shapes do not fit, or a
            temperature is not above 0.
        Unsupported: `edit` is given and the executor does not compute the model.
        FloatingPointError: A logit is nan or infinite; names row and position.
    """
    check_model(model)
    expect("tokens", tokens, Tensor, "ids (batch, pos), as of batch.tokens")
    expect("free", free, Tensor, "True at the cells to be written")
    check_seed(seed)
    check_flag("cached", cached)
    check_flag("progress", progress)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    where, text = _checked(model, tokens, free, lengths, stop)
    heat = None if temperature is None else _heat(temperature, tokens.shape[1])
    result, log_prob = tokens.long(), torch.full(tokens.shape, torch.nan, dtype=torch.float32)
    result = result.clone() if result is tokens else result
    if not where.any():
        return Decoded(result, log_prob.to(result.device))
    size = len(tokens) if batch_size is None else batch_size
    predictor = _predictor(model, cached, edit)
    generator = torch.Generator().manual_seed(derive_seed(seed, "decode"))
    columns = sum(int(part.any(0).sum()) for part in where.split(size))
    with bar(columns, "decoding", progress) as shown:
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            # One number per cell, drawn for every row: no row's sample depends on the rows beside it.
            chance = (
                torch.rand(where[rows].shape, generator=generator, dtype=torch.float64) if heat is not None else None
            )
            written, scores = _write(predictor, model, text[rows], where[rows], heat, chance, start, shown)
            result[rows] = torch.where(where[rows].to(result.device), written.to(result.device), result[rows])
            log_prob[rows] = scores
    return Decoded(result, log_prob.to(result.device))


@torch.inference_mode()
def _write(
    predictor: Callable[[int, int], Predict],
    model: HookedModel,
    text: Tensor,
    where: Tensor,
    heat: Tensor | None,
    chance: Tensor | None,
    first_row: int,
    shown: Any,
) -> tuple[Tensor, Tensor]:
    """(batch, pos) the texts with their free cells written, and log-probabilities."""
    text = text.to(model.cfg.device)
    scores = torch.full(text.shape, torch.nan, dtype=torch.float32, device=text.device)
    broken = torch.zeros_like(text, dtype=torch.bool)
    columns = where.any(0).nonzero()[:, 0].tolist()
    predict = predictor(len(text), max(columns, default=0))
    for t in columns:
        logits = predict(text, t)
        open_rows = where[:, t].nonzero()[:, 0]
        rows = open_rows.to(logits.device)
        logits = logits[rows]
        broken[rows, t] = ~logits.isfinite().all(-1)
        if heat is None or chance is None:
            chosen = logits.argmax(-1)
        else:
            chosen = _sample(logits.double() / heat[t], chance[open_rows, t].to(logits.device))
        text[rows, t] = chosen
        scores[rows, t] = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0].float()
        shown.update()
    _check_finite(broken, first_row)  # once: the host waits for a graphics card here
    return text, scores.cpu()


def _sample(logits: Tensor, chance: Tensor) -> Tensor:
    """(batch,) the token at which the cumulative probability passes `chance`, (batch,) uniform in [0, 1)."""
    passed = logits.softmax(-1).cumsum(-1)
    return (passed <= chance[:, None] * passed[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)


def _predictor(model: HookedModel, cached: bool, edit: Change | None) -> Callable[[int, int], Predict]:
    """For (rows, positions to be read) of a batch of texts, a function that predicts its columns in ascending order."""
    if edit is not None:
        edited = Executor(model)
        return lambda rows, room: _executed(edited, room, edit)
    if not cached:
        return lambda rows, room: lambda text, t: whole_text(model, text)[:, t - 1]
    try:
        executor = Executor(model)
    except Unsupported as error:
        if not has_hooks(model):
            logger.info("decoding through the hooked model, which is slower: {}", error)
        return lambda rows, room: _hooked(model, rows)
    return lambda rows, room: _executed(executor, room)


def _change(edit: Change, start: int, site: str, layer: int, value: Tensor) -> None:
    edit(site, layer, start, value)


def _executed(executor: Executor, room: int, edit: Change | None = None) -> Predict:
    done = 0

    def predict(text: Tensor, t: int) -> Tensor:
        nonlocal done
        new, start, done = text[:, done:t], done, t
        visit = None if edit is None else partial(_change, edit, start)
        return executor.prefill(new, capacity=room, visit=visit) if start == 0 else executor.extend(new, visit=visit)

    return predict


def _hooked(model: HookedModel, rows: int) -> Predict:
    # A mask of ones: the one that TransformerLens makes from a tokenizer takes every token equal to its padding for it.
    cache, done = key_value_cache(model, rows), 0

    def predict(text: Tensor, t: int) -> Tensor:
        nonlocal done
        new, done = text[:, done:t], t
        return model(new, past_kv_cache=cache, attention_mask=torch.ones_like(new))[:, -1]

    return predict


def _checked(
    model: HookedModel,
    tokens: Tensor,
    free: Tensor,
    lengths: Tensor | None,
    stop: int | Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(batch, pos) True where a cell is written, and the texts, with 0 for what is neither read nor a token."""
    check_length(tokens.shape[1], model.cfg.n_ctx)
    rows, width = tokens.shape
    if free.dtype != torch.bool or tuple(free.shape) not in ((rows, width), (width,)):
        raise ValueError(f"free is {free.dtype} {tuple(free.shape)}, not bool {(rows, width)} or {(width,)}")
    at = torch.arange(width)
    where, inside = free.cpu().expand(rows, width), torch.ones(rows, width, dtype=torch.bool)
    if lengths is not None:
        if tuple(lengths.shape) != (rows,) or not ((lengths >= 0) & (lengths <= width)).all():
            raise ValueError(f"lengths must be {rows} numbers from 0 to {width}")
        inside = at < lengths.cpu()[:, None]
    where = where & inside
    if stop is not None:
        last = torch.as_tensor(stop).cpu()
        if last.dtype == torch.bool or last.is_floating_point() or not (last >= 0).all():
            raise ValueError(f"stop is {stop}; expected the number of a position, 0 or more")
        if last.ndim and tuple(last.shape) != (rows,):
            raise ValueError(f"stop is one position or {rows}, not {tuple(last.shape)}")
        where = where & (at <= last.expand(rows)[:, None])
    if where[:, :1].any():
        raise ValueError(f"row {int(where[:, 0].nonzero()[0])}: position 0 cannot be free, nothing stands before it")
    text = tokens.cpu().long()
    known = (text >= 0) & (text < model.cfg.d_vocab)
    if (wrong := inside & ~where & ~known).any():
        row, position = wrong.nonzero()[0].tolist()
        size = model.cfg.d_vocab
        raise ValueError(f"row {row}, position {position}: token {int(text[row, position])} of a vocabulary of {size}")
    return where, torch.where(known, text, 0)


def _heat(temperature: float | int | Tensor, width: int) -> Tensor:
    """(pos,) temperatures."""
    if isinstance(temperature, bool | str):
        raise ValueError(f"temperature is {temperature!r}; expected a finite number above 0, or None")
    heat = torch.as_tensor(temperature, dtype=torch.float64).cpu()
    if heat.ndim and tuple(heat.shape) != (width,):
        raise ValueError(f"temperature is one number or {width}, not {tuple(heat.shape)}")
    if not (heat.isfinite() & (heat > 0)).all():
        raise ValueError("a temperature must be finite and above 0; None takes the most probable token")
    return heat.expand(width)


def _check_finite(broken: Tensor, first_row: int) -> None:
    """Raise FloatingPointError naming the first position, and its first row, whose logits (batch, pos) were broken."""
    if broken.any():
        t, row = broken.T.nonzero()[0].tolist()
        raise FloatingPointError(f"row {row + first_row}, position {t - 1}: the model gives nan or infinite logits")


def complete(model: HookedModel, batch: TokenBatch) -> Int[Tensor, "batch pos"]:
    """(batch, pos) each row's prompt with the model's own greedy completion, as long as the row's true text.

    In a model with hooks the whole row is run at every step, the true text standing in for what is not yet written: a
    causal model cannot see it, and edits at later positions find their place. Rows may differ in length. Raises
    ValueError if the texts exceed the model's context; FloatingPointError where a logit is nan or infinite. The texts
    lie where the batch does, whatever device the model is on.
    """
    check_meeting(model, batch, TokenBatch)
    free = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) >= batch.prompt_length[:, None]
    # keys and values are kept if nothing can edit what has been read: one forward pass of each token
    cached = isinstance(model, nn.Module) and not has_hooks(model)
    return decode(model, batch.tokens, free, lengths=batch.mask.sum(1), cached=cached, batch_size=None).tokens


def completer(model: HookedModel, length: int) -> Callable[[Tensor], Tensor]:
    """A `generate` for AbstractTask.pairs(completion="free"): (batch, pos) prompts -> greedy texts of `length` tokens.

    Raises ValueError if `length` exceeds the model's context.
    """
    check_model(model)
    check_count("length", length)
    check_length(length, model.cfg.n_ctx)

    def generate(prompts: Tensor) -> Tensor:
        prompts = prompts.cpu()
        room = length - prompts.shape[1]
        if room <= 0:
            return prompts
        texts = torch.nn.functional.pad(prompts, (0, room))
        free = torch.arange(length) >= prompts.shape[1]
        return decode(model, texts, free, cached=False, batch_size=None).tokens

    return generate
