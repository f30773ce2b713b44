"""Whole numbers, named positions and the answer of texts that no task made (see `TokenBatch.from_tokens`)."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_kit.core.config import check_names
from interp_kit.core.example import Field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def whole_numbers(
    what: str, value: Any, shape: tuple[int, ...] | None = None, device: torch.device | None = None
) -> Int[Tensor, "..."]:
    """Whole numbers as a tensor. Raises ValueError for anything else, and for another shape."""
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what}: no array of numbers ({error}); expected whole numbers, rows of one length (pad them, with mask=…)"
        ) from error
    if found.is_floating_point() or found.is_complex():
        raise ValueError(f"{what}: {found.dtype}; expected whole numbers")
    if shape is not None and tuple(found.shape) != shape:
        raise ValueError(f"{what}: shape {tuple(found.shape)}; expected {shape}, one number per row")
    return found.long().to(device) if device is not None else found.long()


def named_positions(
    positions: Mapping[str, Any] | Sequence[str] | None, mask: Bool[Tensor, "batch pos"]
) -> dict[str, Int[Tensor, " batch"]]:
    """Name -> (batch,) index, as `TokenBatch.from_tokens` says."""
    first, length = mask.int().argmax(1), mask.sum(1)
    columns = int(length.max())
    if isinstance(positions, Mapping):
        found = {}
        for name, index in positions.items():
            at = whole_numbers(f"position {name!r}", index, device=mask.device)
            at = at.expand(len(mask)) if at.ndim == 0 else whole_numbers(f"position {name!r}", at, (len(mask),))
            if ((at < -1) | (at >= mask.shape[1])).any() or not mask.gather(1, at.clamp(min=0)[:, None]).all():
                raise ValueError(
                    f"position {name!r} is {at.unique().tolist()}; expected the index of a real token, 0 to"
                    f" {mask.shape[1] - 1}, or -1"
                )
            found[name] = at
        check_names("positions", list(found))
        return found
    padded = not bool(mask.all())
    names = [str(i) for i in range(columns)]
    if positions is not None:
        names, padded = list(check_names("positions", positions)), False
        if len(names) != columns:
            raise ValueError(f"positions names {len(names)} tokens; the texts have {columns}")
    order = torch.arange(columns, device=mask.device)
    here = order[None, :] < (length - 1 if padded else length)[:, None]
    found = {name: torch.where(here[:, i], first + i, -1) for i, name in enumerate(names) if bool(here[:, i].any())}
    return {**found, "last": first + length - 1} if padded else found


def row_numbers(rows: Sequence[int] | Tensor, n: int) -> Int[Tensor, " row"]:
    """Row numbers of a batch of n, as `take` says."""
    index = torch.as_tensor(rows)
    if index.dtype == torch.bool:
        raise ValueError("rows are indices, not a mask: give mask.nonzero()[:, 0]")
    if index.ndim != 1 or len(index) == 0:
        raise ValueError(
            f"a batch of no rows: rows are of shape {tuple(index.shape)}, expected one axis of row numbers"
        )
    if index.is_floating_point() or index.is_complex():
        raise ValueError(f"rows are {index.dtype}; expected whole numbers from 0 to {n - 1}")
    if int(index.min()) < -n or int(index.max()) >= n:
        raise ValueError(f"rows are from {int(index.min())} to {int(index.max())}; the batch has 0 to {n - 1}")
    return index.long()


def position_names(option: str, positions: Any, known: Mapping[str, Int[Tensor, " batch"]]) -> Any:
    """Named positions, with whole numbers among them replaced by the name of what stands at that index.

    Args:
        option: The name of the option, for errors.
        positions: One name or number or several; a mapping is left as it is, but for its values.
        known: Name -> (batch,) index.

    Raises:
        ValueError: No name stands at that index in every row.
    """
    if isinstance(positions, Mapping):
        return {key: position_names(f"{option}[{key!r}]", group, known) for key, group in positions.items()}
    if isinstance(positions, np.ndarray | Tensor) and positions.ndim == 1:
        positions = positions.tolist()
    if isinstance(positions, str) or not isinstance(positions, Sequence):
        return positions
    return [
        _name_at(option, int(at), known) if isinstance(at, Integral) and not isinstance(at, bool) else at
        for at in positions
    ]


def _name_at(option: str, at: int, known: Mapping[str, Int[Tensor, " batch"]]) -> str:
    found = next((name for name, index in known.items() if at >= 0 and bool((index == at).all())), None)
    if found is None:
        rows = "an index counts from 0" if at < 0 else f"no named position is token {at} in every row"
        raise ValueError(f"{option} holds {at}, but {rows}; name one of {', '.join(known)}")
    return found


def answer_field(answer: Int[Tensor, " batch"], predict: str, candidates: Sequence[int] | None) -> Field:
    """The field "answer"; its values are the token ids themselves."""
    occur = sorted(set(answer.tolist()))
    ids = occur if candidates is None else whole_numbers("candidates", candidates).flatten().tolist()
    if len(set(ids)) < len(ids) or min(ids, default=0) < 0 or not set(occur) <= set(ids):
        raise ValueError(f"candidates are {ids}; expected distinct token ids, among them the answers {occur}")
    if len(ids) < 2:
        raise ValueError(
            f"the answer is token {ids[0]} in every row; name what else it could be: candidates=({ids[0]}, …)"
        )
    return Field("answer", predict, tuple(ids), tuple(ids))


def word_level(vocabulary: Sequence[str], end: int) -> "PreTrainedTokenizerFast":
    """A Hugging Face tokenizer that splits at spaces.

    Args:
        vocabulary: The text of each token id.
        end: The id that ends a text and fills ragged batches.

    Raises:
        ValueError: A text stands for two ids or holds a space, or the end is not an id.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {text: i for i, text in enumerate(vocabulary)}
    if len(ids) < len(vocabulary):
        twice = next(text for i, text in enumerate(vocabulary) if ids[text] != i)
        raise ValueError(f"the vocabulary has {twice!r} twice; expected one id per text")
    if spaced := [text for text in vocabulary if text.split() != [text]]:
        raise ValueError(f"the vocabulary has {spaced[0]!r}, which cannot be split at spaces; define tokenizer()")
    if end not in range(len(vocabulary)):
        raise ValueError(f"the end of text is token {end}; expected one of 0 to {len(vocabulary) - 1}")
    tokenizer = Tokenizer(models.WordLevel(vocab=ids, unk_token="<not in the task's vocabulary>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([vocabulary[end]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=vocabulary[end],
        pad_token=vocabulary[end],
        clean_up_tokenization_spaces=False,
    )
