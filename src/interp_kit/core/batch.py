"""Token batches with named positions and true labels; pairs of them that differ in one variable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_kit.core.config import check_names, listed
from interp_kit.core.example import Example, Field, Labelling
from interp_kit.core.identity import Identity
from interp_kit.core.own_tokens import answer_field, named_positions, row_numbers, whole_numbers
from interp_kit.core.showing import ROWS, caution, counted, line, preview, shortened, some


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Examples as tensors. Ragged rows are padded on the right, so a causal model sees each row as if it stood alone;
    rows that are given padded on the left are moved there, and their named positions with them. A batch is equal to
    itself alone, and hashable as that.

    tokens: (batch, pos) token ids; mask: (batch, pos) True on real tokens; prompt_length: (batch,); positions: name ->
    (batch,) index, -1 where a row has no such position, ordered as they stand in the text; labels: variable ->
    (batch,) true values; fields: what is answered; answer: field -> (batch,) token id of the truth; inputs: the
    exogenous labels; numeric: labels that are amounts; task: its name, "" if there is none; vocabulary: text of each
    token id; fingerprint: of the task (see `core.identity`), "" if only its name is known; whole: these are all the
    examples that the task has, so no sample.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    prompt_length: Int[Tensor, " batch"]
    positions: Mapping[str, Int[Tensor, " batch"]]
    labels: Mapping[str, Int[Tensor, " batch"]]
    fields: tuple[Field, ...]
    answer: Mapping[str, Int[Tensor, " batch"]]
    inputs: tuple[str, ...]
    numeric: tuple[str, ...]
    task: str
    vocabulary: tuple[str, ...]
    fingerprint: str = ""
    whole: bool = False

    def __post_init__(self) -> None:
        if self.mask.is_meta or not (self.mask[:, 1:] > self.mask[:, :-1]).any():
            return
        pads = self.mask.int().argmax(1)
        order = (torch.arange(self.mask.shape[1], device=self.mask.device) + pads[:, None]) % self.mask.shape[1]
        tokens, mask = self.tokens.gather(1, order), self.mask.gather(1, order)
        gaps = (mask[:, 1:] > mask[:, :-1]).any(1)
        if gaps.any():
            raise ValueError(f"row {int(gaps.nonzero()[0])} of the batch has padding between its tokens")
        positions = {
            name: torch.where(index < 0, index, index - pads.to(index)) for name, index in self.positions.items()
        }
        for field, value in (("tokens", tokens), ("mask", mask), ("positions", positions)):
            object.__setattr__(self, field, value)

    @classmethod
    @torch.inference_mode(False)  # gradients may pass by what is made of it
    def from_tokens(
        cls,
        tokens: Any,
        answer: Any = None,
        *,
        positions: Mapping[str, Any] | Sequence[str] | None = None,
        labels: Mapping[str, Any] | None = None,
        mask: Any = None,
        predict: str | None = None,
        candidates: Sequence[int] | None = None,
        numeric: Sequence[str] = (),
        vocabulary: Sequence[str] = (),
    ) -> "TokenBatch":
        """A batch of texts of your own, with no task: for every analysis that takes a batch.

        Tensors, arrays and lists of whole numbers are taken. The texts hold no completion: the answer is not among the
        tokens.

        Args:
            tokens: (batch, pos) token ids.
            answer: (batch,) the true next token at `predict`: the field "answer". None if nothing is asked, as for
                `probe` and `harvest`.
            positions: Names of the tokens, one per column; or name -> index, one or (batch,), -1 if a row has none. By
                default "0", "1", …; if rows are padded, the last token of each row is "last".
            labels: Variable -> (batch,) true values, for `probe`. A label that bears a position's name is taken to be
                written there.
            mask: (batch, pos) True, or 1, on real tokens; None if no row is padded.
            predict: The position whose logits predict the answer; by default the last token of each row.
            candidates: Token ids that the answer can be; by default those that occur.
            numeric: Labels that are amounts, which `probe` fits by regression.
            vocabulary: The text of each token id.

        Raises:
            ValueError: A shape, a dtype, a name or an id does not fit, or all answers are one token and `candidates`
                does not say what else there could be.

        Examples:
            >>> batch = TokenBatch.from_tokens([[3, 1, 4], [1, 5, 9]], answer=[2, 6], labels={"first": [3, 1]})
            >>> batch.fields[0].predict
            '2'
        """
        ids = whole_numbers("tokens", tokens)
        if ids.ndim != 2 or 0 in ids.shape:
            one = "; of one text, give [tokens]" if ids.ndim == 1 and len(ids) else ""
            raise ValueError(
                f"tokens are of shape {tuple(ids.shape)}; expected (batch, pos), with at least one row and one"
                f" token{one}"
            )
        if int(ids.min()) < 0:
            raise ValueError(
                f"tokens have ids from {int(ids.min())}; expected ids of 0 or more (mark padding by mask=…)"
            )
        n, device = len(ids), ids.device
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.as_tensor(mask).to(device)
        if real.dtype != torch.bool and not real.is_floating_point() and bool(((real == 0) | (real == 1)).all()):
            real = real.bool()  # as tokenizers write it
        if real.shape != ids.shape or real.dtype != torch.bool or not real.any(1).all():
            raise ValueError(
                f"mask is {real.dtype} of shape {tuple(real.shape)}; expected booleans, or whole numbers 0 and 1, of"
                f" shape {tuple(ids.shape)}, with a True in every row"
            )
        at = named_positions(positions, real)
        if predict is None:
            last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
            predict = next((name for name, index in at.items() if torch.equal(index, last)), "last")
            at.setdefault(predict, last)
        if predict not in at or (at[predict] < 0).any():
            raise ValueError(f"predict is {predict!r}; expected a position of every row, one of {listed(at, predict)}")
        truth = {} if labels is None else {k: whole_numbers(f"label {k!r}", v, (n,), device) for k, v in labels.items()}
        fields: tuple[Field, ...] = ()
        if answer is not None:
            if "answer" in truth:
                raise ValueError("labels hold 'answer', which is the name of the answer; give the label another name")
            truth["answer"] = whole_numbers("answer", answer, (n,), device)
            fields = (answer_field(truth["answer"], predict, candidates),)
        elif candidates is not None:
            raise ValueError("candidates are given without an answer; give both")
        return cls(
            tokens=ids,
            mask=real,
            prompt_length=real.sum(1),
            positions=dict(sorted(at.items(), key=lambda item: int(item[1].max()))),
            labels=truth,
            fields=fields,
            answer={field.name: truth[field.name] for field in fields},
            inputs=(),
            numeric=check_names("numeric", numeric, truth, empty=True),
            task="",
            vocabulary=tuple(vocabulary),
        )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        rows, columns = self.tokens.shape
        of = f" of {self.task}" if self.task else ""
        size = f"{counted(rows, 'example')}{of}, {counted(columns, 'token')}"
        return line("TokenBatch", size, f"answers {some([field.name for field in self.fields])}")

    def _repr_html_(self) -> str:
        labels = {name: value[:ROWS].tolist() for name, value in self.labels.items()}
        return preview(repr(self), {"text": self.written(ROWS), **labels}, len(self))

    def written(self, most: int | None = None) -> list[str]:
        """Text of the first `most` rows, as the vocabulary writes it; token ids that it lacks, as numbers."""
        known = dict(enumerate(self.vocabulary))
        rows = zip(self.tokens[:most].tolist(), self.mask[:most].tolist(), strict=True)
        return [shortened(" ".join(known.get(t, str(t)) for t, m in zip(*row, strict=True) if m)) for row in rows]

    @property
    def identity(self) -> Identity:
        """The task that the examples are of."""
        return Identity(self.task or None, self.fingerprint)

    def field(self, name: str) -> Field:
        """The field of that name. Raises ValueError listing those there are."""
        for field in self.fields:
            if field.name == name:
                return field
        raise ValueError(f"no field {name!r}; there are {listed([f.name for f in self.fields], name)}")

    def position(self, name: str) -> Int[Tensor, " batch"]:
        """(batch,) index of the named position in each row. Raises ValueError for an unknown name, or a row without
        it."""
        if name not in self.positions:
            raise ValueError(f"no position {name!r}; there are {listed(self.positions, name)}")
        if not (has := self.has(name)).all():
            raise ValueError(f"row {int(np.flatnonzero(~has)[0])} of the batch has no position {name!r}")
        return self.positions[name]

    def has(self, name: str) -> np.ndarray:
        """(batch,) True for the rows that have a named position; False for all if no row has. A batch on a graphics
        card is asked once per name: each time, the host would wait for the card."""
        if (index := self.positions.get(name)) is None:
            return np.zeros(len(self), dtype=bool)
        known = self._known.get(name)
        if known is not None and known[0] is index:
            return known[1]
        found = (index >= 0).cpu().numpy()
        if not index.is_cpu:
            self._known[name] = index, found
        return found

    @cached_property
    def _known(self) -> dict[str, tuple[Tensor, np.ndarray]]:
        """name -> the tensor that was asked, and what `has` found."""
        return {}

    @cached_property
    def _said(self) -> set[str]:
        """Warnings that this batch has given."""
        return set()

    def positions_to(self, target: str) -> list[str]:
        """The named positions that every row has, up to the one that predicts the field `target`."""
        at = self.position(self.field(target).predict)
        return [name for name, index in self.positions.items() if bool(((index >= 0) & (index <= at)).all())]

    def label(self, name: str) -> Int[Tensor, " batch"]:
        """(batch,) true values of a variable. Raises ValueError for an unknown name."""
        if name not in self.labels:
            raise ValueError(f"no label {name!r}; there are {listed(self.labels, name)}")
        return self.labels[name]

    def units(self) -> np.ndarray:
        """(batch,) the number of the independent unit that each row belongs to: rows of one text, with the same named
        positions and answers, are one."""
        text = torch.where(self.mask, self.tokens, -1)
        columns = [self.prompt_length, *self.positions.values(), *self.answer.values()]
        rows = torch.cat([text, torch.stack(columns, 1)], 1).cpu().numpy()
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)

    def distinct(self) -> "TokenBatch":
        """The batch without rows that repeat an earlier one (`units`); itself if none does.

        Warns:
            UserWarning: Rows are left out, so that rows of a result are not those of the batch. Said once per batch.
        """
        first = np.sort(np.unique(self.units(), return_index=True)[1])
        if len(first) == len(self):
            return self
        if "repeats" not in self._said:
            self._said.add("repeats")
            caution(
                f"{len(self) - len(first)} of {len(self)} rows repeat an earlier one and are left out: n counts"
                " distinct examples, and rows of the result are those of batch.distinct()"
            )
        return replace(self.take(first.tolist()), whole=self.whole)

    @torch.inference_mode(False)  # gradients may pass by what is made of it
    def take(self, rows: Sequence[int] | Tensor) -> "TokenBatch":
        """The batch of these rows, in this order. Raises ValueError for no rows, a mask in place of indices, numbers
        that are not whole, and rows that the batch does not have."""
        index = row_numbers(rows, len(self)).to(self.tokens.device)
        return replace(
            self,
            tokens=self.tokens[index],
            mask=self.mask[index],
            prompt_length=self.prompt_length[index],
            positions={name: value[index] for name, value in self.positions.items()},
            labels={name: value[index] for name, value in self.labels.items()},
            answer={name: value[index] for name, value in self.answer.items()},
            whole=self.whole and len(index.unique()) == len(self),
        )

    @torch.inference_mode(False)  # gradients may pass by what is made of it
    def to(self, device: str | torch.device) -> "TokenBatch":
        """The batch on another device; itself if it is there."""
        if self.tokens.device == torch.device(device):
            return self
        return replace(
            self,
            tokens=self.tokens.to(device),
            mask=self.mask.to(device),
            prompt_length=self.prompt_length.to(device),
            positions={name: value.to(device) for name, value in self.positions.items()},
            labels={name: value.to(device) for name, value in self.labels.items()},
            answer={name: value.to(device) for name, value in self.answer.items()},
        )


@torch.inference_mode(False)  # gradients may pass by what is made of it
def collate(task: Labelling, examples: list[Example], device: str | torch.device = "cpu") -> TokenBatch:
    """Examples of `task` as one right-padded batch; see AbstractTask.batch."""
    if not examples:
        raise ValueError(f"examples is empty: a batch of {task.name} needs at least one example")
    length = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), length), task.pad, dtype=torch.long)
    mask = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        mask[row, : len(example.tokens)] = True

    def column(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    def tokens_of(field: Field) -> Tensor:
        values = [example.labels[field.name] for example in examples]
        token = {value: field.token(value) for value in set(values)}
        return column([token[value] for value in values])

    return TokenBatch(
        tokens=tokens.to(device),
        mask=mask.to(device),
        prompt_length=column([example.prompt_length for example in examples]),
        positions={name: index.to(device) for name, index in _positions(examples).items()},
        labels={name: column([example.labels[name] for example in examples]) for name in task.variables},
        fields=task.fields,
        answer={field.name: tokens_of(field) for field in task.fields},
        inputs=task.inputs,
        numeric=task.numeric,
        task=task.name,
        vocabulary=task.vocabulary,
        fingerprint=task.identity.fingerprint,
        whole=len({example.tokens for example in examples}) == task.n_worlds,
    )


def _positions(examples: list[Example]) -> dict[str, Int[Tensor, " batch"]]:
    """Name -> (batch,) index, -1 where there is none, in the order of the text. Examples that share one mapping, as
    those of a fixed format do, are looked up once."""
    kinds = {id(example.positions): example for example in sorted(examples, key=lambda e: -len(e.tokens))}
    mappings = [example.positions for example in kinds.values()]
    names = list(dict.fromkeys(name for mapping in mappings for name in mapping))
    names.sort(key=lambda name: max(mapping.get(name, -1) for mapping in mappings))
    table = torch.tensor([[mapping.get(name, -1) for mapping in mappings] for name in names])
    number = {key: kind for kind, key in enumerate(kinds)}
    rows = torch.tensor([number[id(example.positions)] for example in examples])
    return {name: index[rows] for name, index in zip(names, table, strict=True)}
