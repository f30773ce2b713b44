"""Compact graph questions drawn on a device by torch, so that data never limit training.

Structure comes from tables made once by the task's numpy semantics; tables of probabilities are drawn, and factors and
answers computed, on the device. Several questions share one graph and one text (`Packed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import QUERIES, STATES, UNIT, balanced, n_rows, queries
from interp_kit.tasks.graphs.shapes import NODES, shapes
from interp_kit.tasks.graphs.structure import STEPS

N_SLOT, N_QUERY = len(layout.SLOT), len(layout.QUERY)


@dataclass(frozen=True)
class Draw:
    """Questions: k on each of n graphs.

    dag: (n,) row of the generator's `parents`; table: (n, 5, 4) in halves, -1 for none; query: (n, k) index into
    QUERIES; value: (n, k) of x.
    """

    dag: Tensor
    table: Tensor
    query: Tensor
    value: Tensor


@dataclass(frozen=True)
class Answers:
    """Answers to the questions of a Draw, in 1/32: factors (n, k, 5, 8), answer (n, k), both -1 for none; valid
    (n, k) as in the task."""

    factors: Tensor
    answer: Tensor
    valid: Tensor


class Generator:
    """Questions of the graphs of one split (None: all), by the task's balance over kinds and depths.

    depths: the sets of depths that `draw` can be asked for, by their index.
    """

    def __init__(self, split: str | None, depths: Sequence[Sequence[int]], device: str | torch.device) -> None:
        everything = shapes()
        self.rows = everything.of(split)
        self.device = torch.device(device)
        parents, weight = everything.parents[self.rows], everything.weight[self.rows]
        plan = queries(parents)
        masses = [balanced(weight, plan, allowed) for allowed in depths]
        power = 1 << np.arange(NODES)[::-1]
        live = (np.where(plan.live >= 0, power[np.maximum(plan.live, 0)], 0)).sum(-1)
        x = np.tile(QUERIES[:, 1], len(parents))
        taken = np.where(plan.order >= 0, power[np.maximum(plan.order, 0)], 0).cumsum(1) | power[x][:, None]
        self.graph_mass = self._float(np.stack([m.sum(1).cumsum() for m in masses]))
        self.query_mass = self._float(np.stack([m.cumsum(1) for m in masses]))
        self.parents, self.n_rows = self._int(parents), self._int(n_rows(parents))
        self.order, self.live_names = self._int(plan.order), self._int(plan.live)
        self.live, self.taken = self._int(live), self._int(taken)
        self.depth, self.connected = self._int(plan.depth), self._int(plan.connected)
        self.queries, self.bits = self._int(QUERIES), self._int(STATES.T)
        subsets = range(UNIT)
        self.entry = self._int(np.array([[_entry(s, state) for state in range(UNIT)] for s in subsets]))
        self.counted = self._int(np.array([[int(state & ~s == 0) for state in range(UNIT)] for s in subsets]))

    def _int(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array.astype(np.int64), device=self.device)

    def _float(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array.astype(np.float64), device=self.device)

    def draw(self, n: int, k: int, which: int, generator: torch.Generator | None = None) -> Draw:
        """k questions on each of n graphs, of depths `depths[which]`. Graphs are drawn by the mass of their questions,
        then questions within the graph."""
        device, random = self.device, {"device": self.device, "generator": generator}
        mass = self.graph_mass[which]
        at = torch.rand(n, dtype=torch.float64, **random) * mass[-1]
        dag = torch.searchsorted(mass, at, right=True).clamp_max(len(mass) - 1)
        within = self.query_mass[which][dag]
        point = torch.rand(n, k, dtype=torch.float64, **random) * within[:, -1:]
        query = torch.searchsorted(within, point, right=True).clamp_max(len(QUERIES) - 1)
        table = torch.randint(3, (n, NODES, 4), **random)
        there = torch.arange(4, device=device) < self.n_rows[dag][..., None]
        value = torch.randint(2, (n, k), **random)
        return Draw(dag, torch.where(there, table, -1), query, value)

    def solve(self, draw: Draw) -> Answers:
        """Exact factors and answers."""
        n, k = draw.query.shape
        parents = self.parents[draw.dag]
        values = self.bits[parents.clamp_min(0)] * (parents >= 0)[..., None]
        row = torch.where(parents[..., 1:] >= 0, 2 * values[:, :, 0] + values[:, :, 1], values[:, :, 0])
        one = draw.table.gather(2, row)
        chance = torch.where(self.bits == 1, one, 2 - one)  # (n, 5, 32)
        asked = draw.dag[:, None] * len(QUERIES) + draw.query  # (n, k) rows of the tables
        product = (self.bits[self.queries[draw.query][..., 1]] == draw.value[..., None]) * UNIT
        order, live, taken = self.order[asked], self.live[asked], self.taken[asked]
        size = (self.live_names[asked] >= 0).sum(-1)
        graphs = torch.arange(n, device=self.device)[:, None]
        factors = []
        last = torch.zeros(n, k, 8, dtype=torch.long, device=self.device)
        for step in range(STEPS):
            there = (order[..., step] >= 0)[..., None]
            product = torch.where(there, product * chance[graphs, order[..., step]] // 2, product)
            held = product * self.counted[taken[..., step]]
            sums = torch.zeros(n, k, 8, dtype=torch.long, device=self.device)
            sums.scatter_add_(2, self.entry[live[..., step]], held)
            last = torch.where(there, sums, last)
            exists = there & (torch.arange(8, device=self.device) < (1 << size[..., step])[..., None])
            factors.append(torch.where(exists, sums, -1))
        total = last[..., 0] + last[..., 1]
        valid = (total > 0) & (UNIT * last[..., 1] % total.clamp_min(1) == 0)
        answer = torch.where(valid, UNIT * last[..., 1] // total.clamp_min(1), -1)
        return Answers(torch.stack(factors, 2), answer, valid)

    def tokens(self, draw: Draw, answers: Answers, trace: bool) -> tuple[Tensor, Tensor]:
        """(n, 35) tokens of the graphs, and (n, k, length) of each question with its completion: the trace if asked
        for, the answer (0/32 where there is none) and the end."""
        n = len(draw.dag)
        parents = self.parents[draw.dag]
        names = torch.arange(NODES, device=self.device)[None, :, None].expand(n, -1, 1)
        table = torch.where(draw.table < 0, layout.ABSENT, layout.HALVES + draw.table)
        slots = torch.cat([names, torch.where(parents < 0, layout.ABSENT, parents), table], 2).reshape(n, N_SLOT)
        kind, x, y = self.queries[draw.query].unbind(-1)
        fixed = torch.ones_like(x)
        given = layout.HALVES + 2 * draw.value
        columns = [layout.KINDS + kind, x, given, fixed * layout.ASKED, y, fixed * layout.EQUALS]
        if trace:
            asked = draw.dag[:, None] * len(QUERIES) + draw.query
            order, live = self.order[asked], self.live_names[asked]
            for step, axes in layout.STEP_AXES:
                columns.append(_token(order[..., step], 0))
                columns += list(_token(live[..., step, :axes], 0).unbind(-1))
                columns += list(_token(answers.factors[:, :, step, : 2**axes], layout.AMOUNTS).unbind(-1))
        columns += [layout.AMOUNTS + answers.answer.clamp_min(0), fixed * layout.END]
        return slots, torch.stack(columns, -1)


def _token(values: Tensor, first: int) -> Tensor:
    return torch.where(values < 0, layout.ABSENT, first + values)


def _entry(subset: int, state: int) -> int:
    """The values of a subset of the variables in a state, read as a binary number; 0 for subsets of over three, which
    no factor has."""
    bits = [state >> b & 1 for b in range(NODES)[::-1] if subset >> b & 1]
    return int("".join(map(str, bits)), 2) if 0 < len(bits) < 4 else 0


@dataclass(frozen=True)
class Packed:
    """Several questions in one text: the graph, then each question with its completion, blind to the others.

    positions: (length,) position of each token as if its question stood alone; mask: (length, length) True where a
    query (row) may attend to a key (column); predicts: (k * answered,) index of each token that predicts a supervised
    one. The last token of each block predicts nothing and is left out; `length` is padded to a multiple of 8.
    """

    positions: Tensor
    mask: Tensor
    predicts: Tensor

    @classmethod
    def of(cls, k: int, block: int, device: str | torch.device) -> "Packed":
        """k questions of `block` tokens, completion included."""
        used = block - 1
        length = -(-(N_SLOT + k * used) // 8) * 8
        index = torch.arange(length)
        group = torch.where(index < N_SLOT, -1, (index - N_SLOT) // used)
        positions = torch.where(group < 0, index, N_SLOT + (index - N_SLOT) % used)
        mask = (index[None] <= index[:, None]) & ((group[None] == -1) | (group[None] == group[:, None]))
        inside = (index - N_SLOT) % used
        predicts = (group >= 0) & (group < k) & (inside >= N_QUERY - 1)
        return cls(positions.to(device), mask.to(device), predicts.nonzero()[:, 0].to(device))

    def pack(self, slots: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """(n, length) inputs and (n, k * answered) the tokens to be predicted, of what `Generator.tokens` gives."""
        n = len(slots)
        text = torch.cat([slots, blocks[..., :-1].reshape(n, -1)], 1)
        text = torch.nn.functional.pad(text, (0, len(self.positions) - text.shape[1]), value=layout.END)
        return text, blocks[..., N_QUERY:].reshape(n, -1)
