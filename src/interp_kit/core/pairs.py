"""Pairs of batches that differ in one variable: clean and corrupt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from interp_kit.core.batch import TokenBatch, collate
from interp_kit.core.config import check_seed
from interp_kit.core.example import Example, Labelling
from interp_kit.core.identity import Identity
from interp_kit.core.own_tokens import row_numbers, whole_numbers
from interp_kit.core.showing import ROWS, counted, line, preview


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Clean and corrupt examples, row by row of equal length.

    variable: what was made to differ; target: the field whose answer differs; completion: "own", "clean", "free" or
    "conflict" (see AbstractTask.pairs), or "no" if the texts hold none; differs: for each pair, every variable that
    differs; whole: these are all such pairs that the task has, so no sample.
    """

    clean: TokenBatch
    corrupt: TokenBatch
    variable: str
    target: str
    completion: str
    differs: tuple[tuple[str, ...], ...]
    whole: bool = False

    def __post_init__(self) -> None:
        if self.clean.tokens.shape != self.corrupt.tokens.shape or not torch.equal(self.clean.mask, self.corrupt.mask):
            raise ValueError(
                f"clean and corrupt are of different length: {tuple(self.clean.tokens.shape)} tokens,"
                f" {tuple(self.corrupt.tokens.shape)} tokens"
            )

    @classmethod
    def from_tokens(
        cls,
        clean: Any,
        corrupt: Any,
        answer: Any,
        *,
        positions: Mapping[str, Any] | Sequence[str] | None = None,
        mask: Any = None,
        predict: str | None = None,
        candidates: Sequence[int] | None = None,
        vocabulary: Sequence[str] = (),
        variable: str = "input",
    ) -> "PairBatch":
        """Pairs of texts of your own, with no task: for every analysis that takes pairs.

        Args:
            clean: (batch, pos) token ids.
            corrupt: (batch, pos) token ids, row by row of the length of the clean text.
            answer: Two of (batch,) token ids: the true next token of each clean text, and of each corrupt one.
            positions: Of both sides, as all that follow but the last; see `TokenBatch.from_tokens`.
            mask: (batch, pos) True on real tokens; None if no row is padded.
            predict: The position whose logits predict the answer.
            candidates: Token ids that the answer can be.
            vocabulary: The text of each token id.
            variable: A name for what differs, for tables and captions.

        Raises:
            ValueError: An argument does not fit (see `TokenBatch.from_tokens`), or a pair has equal texts or equal
                answers.

        Examples:
            >>> pairs = PairBatch.from_tokens([[3, 1, 4]], [[3, 2, 4]], answer=([5], [6]))
            >>> pairs.clean.positions["1"].tolist()
            [1]
        """
        try:
            right, wrong = answer
        except (TypeError, ValueError) as error:
            raise ValueError(
                "answer is not two of (batch,) token ids; expected (those of the clean texts, those of the corrupt)"
            ) from error
        for what, given in (("texts", (clean, corrupt)), ("answers", (right, wrong))):
            if _rows_of(given[0]) != _rows_of(given[1]):
                raise ValueError(
                    f"clean and corrupt have {_rows_of(given[0])} and {_rows_of(given[1])} {what}; expected as many,"
                    " row by row"
                )
        if candidates is None:
            ids = [
                whole_numbers(f"answer of the {side} texts", given)
                for side, given in (("clean", right), ("corrupt", wrong))
            ]
            candidates = sorted({token for given in ids for token in given.flatten().tolist()})
        sides = [
            TokenBatch.from_tokens(
                tokens,
                ids,
                positions=positions,
                mask=mask,
                predict=predict,
                candidates=candidates,
                vocabulary=vocabulary,
            )
            for tokens, ids in ((clean, right), (corrupt, wrong))
        ]
        made = cls(sides[0], sides[1], variable, "answer", "no", ((variable,),) * len(sides[0]))
        same = made.clean.answer["answer"] == made.corrupt.answer["answer"]
        for what, equal in (("answers", same), ("texts", ~made.token_differs.any(1))):
            if equal.any():
                raise ValueError(f"pair {int(equal.nonzero()[0])} has equal {what} on both sides; leave it out")
        return made

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        size = counted(len(self), "pair") + (f" of {self.clean.task}" if self.clean.task else "")
        asked = f"{self.variable} -> {self.target}"
        return line(
            "PairBatch", size, asked, f"completion {self.completion}", counted(self.clean.tokens.shape[1], "token")
        )

    def _repr_html_(self) -> str:
        sides = {"clean": self.clean.written(ROWS), "corrupt": self.corrupt.written(ROWS)}
        return preview(repr(self), {**sides, "differs": [", ".join(d) for d in self.differs[:ROWS]]}, len(self))

    @property
    def identity(self) -> Identity:
        """The task that the examples are of."""
        return self.clean.identity

    @property
    def token_differs(self) -> Bool[Tensor, "batch pos"]:
        """(batch, pos) True where the two texts differ; padding does not."""
        return (self.clean.tokens != self.corrupt.tokens) & self.clean.mask

    def swapped(self) -> "PairBatch":
        """The same pairs with clean and corrupt exchanged: patching in the other direction."""
        return replace(self, clean=self.corrupt, corrupt=self.clean)

    def to(self, device: str | torch.device) -> "PairBatch":
        """The pairs on another device; themselves if they are there."""
        if self.clean.tokens.device == self.corrupt.tokens.device == torch.device(device):
            return self
        return replace(self, clean=self.clean.to(device), corrupt=self.corrupt.to(device))

    def take(self, rows: Sequence[int] | Tensor) -> "PairBatch":
        """These pairs, in this order."""
        index = row_numbers(rows, len(self))
        return replace(
            self,
            clean=self.clean.take(index),
            corrupt=self.corrupt.take(index),
            differs=tuple(self.differs[i] for i in index.tolist()),
            whole=self.whole and len(set(index.tolist())) == len(self),
        )

    def texts(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The tokens of both sides of each pair, without padding."""
        length = self.clean.mask.sum(1).tolist()
        rows = zip(self.clean.tokens.tolist(), self.corrupt.tokens.tolist(), length, strict=True)
        return [(tuple(clean[:n]), tuple(corrupt[:n])) for clean, corrupt, n in rows]

    def units(self) -> np.ndarray:
        """(batch,) the number of the independent unit that each pair belongs to: pairs that share a text, or are joined
        by others that do, are one. Of two texts paired both ways, both pairs are one unit."""
        number: dict[tuple[int, ...], int] = {}
        pairs = self.texts()
        clean, corrupt = np.array([[number.setdefault(text, len(number)) for text in pair] for pair in pairs]).T
        joined = coo_array((np.ones(len(pairs)), (clean, corrupt)), shape=(len(number),) * 2)
        return connected_components(joined, directed=False)[1][clean]

    def halves(self, seed: int = 0) -> tuple["PairBatch", "PairBatch"]:
        """The pairs of half of the independent units, drawn by `seed`, and those of the other half: no text is in both.
        Raises ValueError if all pairs are one unit."""
        unit = self.units()
        check_seed(seed)
        order = np.random.default_rng(seed).permutation(unit.max() + 1)
        if len(order) < 2:
            raise ValueError(f"{len(self)} pairs that share texts are one unit, and cannot be halved")
        first = np.isin(unit, order[: len(order) // 2])
        return self.take(np.flatnonzero(first).tolist()), self.take(np.flatnonzero(~first).tolist())

    def apart(self, *, both_ways: bool = False) -> "PairBatch":
        """As many pairs as there can be of which no two share a text, and which are therefore independent: a maximum
        matching of the texts (Edmonds 1965); where pairs taken in order are as many, those.

        Each text then counts about once, however many partners it has, and texts of few partners first. The mean over
        these pairs is therefore not that over all pairs, and may lie outside its interval: for that, take few pairs
        (`AbstractTask.pairs` draws them apart, if they use less than a quarter of the texts).

        Args:
            both_ways: keep a pair and its reverse if both are there. They are one unit (`units`).
        """
        from networkx import Graph, max_weight_matching

        pairs = self.texts()
        seen: set[tuple[int, ...]] = set()
        chosen: set[frozenset[tuple[int, ...]]] = set()
        for pair in pairs:
            if seen.isdisjoint(pair):
                chosen.add(frozenset(pair))
                seen.update(pair)
        most = max_weight_matching(Graph(pairs), maxcardinality=True)
        if len(most) > len(chosen):
            chosen = set(map(frozenset, most))
        rows, taken = [], set()
        for row, pair in enumerate(pairs):
            if frozenset(pair) in chosen and (both_ways or frozenset(pair) not in taken):
                rows.append(row)
                taken.add(frozenset(pair))
        return self.take(rows)


def _rows_of(given: Any) -> int | None:
    """Number of rows of a list, array or tensor; None of anything else."""
    return len(given) if hasattr(given, "__len__") and getattr(given, "ndim", 1) else None


def make_pairs(
    task: Labelling, clean: list[Example], corrupt: list[Example], variable: str, target: str, completion: str
) -> PairBatch:
    """Collate two aligned lists of examples into a PairBatch."""
    return PairBatch(
        clean=collate(task, clean),
        corrupt=collate(task, corrupt),
        variable=variable,
        target=target,
        completion=completion,
        differs=tuple(
            tuple(name for name in task.variables if a.labels[name] != b.labels[name])
            for a, b in zip(clean, corrupt, strict=True)
        ),
    )
