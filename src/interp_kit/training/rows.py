"""Training texts as arrays of token ids, and what transformers.Trainer draws batches from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask

NO_LOSS = -100


@dataclass(frozen=True)
class TextRows:
    """n texts as arrays, so that hundreds of thousands need no Example each.

    Attributes:
        tokens: (n, longest) Token ids, padded on the right.
        prompt_length: (n,) Tokens of each prompt.
        length: (n,) Tokens of each whole text.

    Raises:
        ValueError: No texts, arrays of other shapes or of no integers, or a prompt as long as its text.
    """

    tokens: np.ndarray
    prompt_length: np.ndarray
    length: np.ndarray

    def __post_init__(self) -> None:
        shapes = [getattr(self, name).shape for name in ("tokens", "prompt_length", "length")]
        n = len(self.tokens)
        if self.tokens.ndim != 2 or shapes[1:] != [(n,), (n,)]:
            raise ValueError(f"rows have the shapes {shapes}; expected (n, longest), (n,) and (n,)")
        if n == 0:
            raise ValueError("no texts; expected at least one example")
        for name in ("tokens", "prompt_length", "length"):
            if not np.issubdtype(getattr(self, name).dtype, np.integer):
                raise ValueError(f"{name} is of {getattr(self, name).dtype}; expected integers")
        wrong = (self.prompt_length < 0) | (self.prompt_length >= self.length) | (self.length > self.tokens.shape[1])
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"row {row} has a prompt of {self.prompt_length[row]} and a text of {self.length[row]} tokens in an"
                f" array of {self.tokens.shape[1]}; expected prompt < text <= array"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of_examples(cls, task: AbstractTask, examples: Sequence[Example]) -> "TextRows":
        """The examples as arrays. Raises ValueError for none."""
        batch = task.batch(examples)
        return cls(batch.tokens.numpy(), batch.prompt_length.numpy(), batch.mask.sum(1).numpy())

    @property
    def digest(self) -> str:
        """sha256 of all three arrays."""
        found = hashlib.sha256()
        for array in (self.tokens, self.prompt_length, self.length):
            found.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return found.hexdigest()

    @property
    def distinct(self) -> int:
        """Number of texts that differ from each other."""
        inside = np.arange(self.tokens.shape[1]) < self.length[:, None]
        return len(np.unique(np.where(inside, self.tokens, -1), axis=0))


class ExampleDataset(torch.utils.data.Dataset):
    """Padded rows of token ids with labels; NO_LOSS where there is no loss.

    A batch of rows is cut to its longest text.
    """

    def __init__(
        self, task: AbstractTask, examples: "Sequence[Example] | TextRows", loss_on: Literal["all", "completion"]
    ) -> None:
        rows = examples if isinstance(examples, TextRows) else TextRows.of_examples(task, examples)
        self.rows, self.tokens = rows, torch.as_tensor(rows.tokens, dtype=torch.long)
        self.length = torch.as_tensor(rows.length)
        at = torch.arange(self.tokens.shape[1])
        inside = at < self.length[:, None]
        start = torch.as_tensor(rows.prompt_length)[:, None] if loss_on == "completion" else torch.zeros(1, 1)
        self.mask = inside.long()
        self.labels = self.tokens.masked_fill(~(inside & (at >= start)), NO_LOSS)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[i], "attention_mask": self.mask[i], "labels": self.labels[i]}

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """A whole batch, which `torch.utils.data` asks for where there is such a method."""
        chosen = torch.as_tensor(rows)
        longest = int(self.length[chosen].max())
        columns = {"input_ids": self.tokens, "attention_mask": self.mask, "labels": self.labels}
        return {name: column[chosen, :longest] for name, column in columns.items()}
