"""Weights of a plan, layer by layer: the heads, then, from what they are seen to bring, the neurons."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask
from interp_kit.models.compiler.layout import Layout
from interp_kit.models.compiler.logic import Cube
from interp_kit.models.compiler.plan import Plan, Read, Route
from interp_kit.models.planted.attention import SCORE
from interp_kit.models.planted.directions import CONSTANT
from interp_kit.models.planted.neurons import Neuron

LEAST_D_HEAD, LEAST_D_MLP, MOST_D_MLP = 8, 16, 4096


@dataclass(frozen=True, eq=False)
class Frame:
    """Plan, layout and examples that every part of a model is written from. batch: of the examples, whose activations
    set the neurons."""

    plan: Plan
    task: AbstractTask
    examples: Sequence[Example]
    batch: TokenBatch
    layout: Layout
    bits: tuple[int, int]
    generator: torch.Generator

    @property
    def at(self) -> Mapping[str, int]:
        """Named positions, the same in every example."""
        return self.examples[0].positions

    @property
    def decoys(self) -> list[str]:
        """The heads that bring what nothing reads, in order."""
        return sorted({read.node for read in self.plan.decoys})

    def predict(self, field: str) -> int:
        """The position whose logits predict a field."""
        return self.at[self.task.field(field).predict]

    def place(self, read: Read) -> int:
        """The position that a read looks at."""
        return self.at[read.variable] if read.route == "token" else self.predict(read.variable)

    def reader(self, route: Route) -> Float[Tensor, " d_model"]:
        """Reads a bit, -1 or +1, where it stands: its token, or what its field's neurons wrote."""
        read = self.layout.basis.read
        if route == "token":
            return read.token[self.bits[1]] - read.token[self.bits[0]]
        return torch.stack([read.answer[name] for name in self.plan.functions]).sum(0)

    def rest(self, route: Route) -> int:
        """Position at which a head looks that has nothing to bring: the comma after the first input has no bit, and
        the first input no answer."""
        return 1 if route == "token" else 0


def head_width(frame: Frame) -> int:
    """d_head: one dimension for each position that a head tells apart."""
    reads = (*frame.plan.reads, *frame.plan.decoys)
    heads = {(read.layer, read.head) for read in reads}
    sources = ({frame.place(r) for r in reads if (r.layer, r.head) == one} | {0, 1} for one in heads)
    return max(LEAST_D_HEAD, *(len(found) for found in sources))


def write_heads(model: HookedTransformer, layer: int, frame: Frame) -> None:
    """Write every head of a layer, each in a random basis of its own dimensions."""
    attn, basis, length = model.blocks[layer].attn, frame.layout.basis, len(frame.examples[0].tokens)
    for number in range(model.cfg.n_heads):
        reads = [read for read in (*frame.plan.reads, *frame.plan.decoys) if (read.layer, read.head) == (layer, number)]
        if not reads:  # idle
            continue
        route = reads[0].route
        wanted: dict[int, set[int]] = {position: {frame.rest(route)} for position in range(length)}
        for name in {read.field for read in reads}:
            wanted[frame.predict(name)] = {frame.place(read) for read in reads if read.field == name}
        codes = _rotation(model.cfg.d_head, frame.generator)
        strength = math.sqrt(SCORE * math.sqrt(model.cfg.d_head)) * basis.read.scale
        code = {
            source: strength * row for source, row in zip(sorted(set().union(*wanted.values())), codes, strict=False)
        }
        keys, queries = (torch.zeros(model.cfg.d_model, model.cfg.d_head, dtype=torch.float64) for _ in range(2))
        for source, row in code.items():
            keys += torch.outer(basis.read.position[source], row)
        for position, sources in wanted.items():
            for source in sources:
                queries += torch.outer(basis.read.position[position], code[source])
        slot = reads[0].slot
        writes = frame.layout.junk[frame.decoys.index(reads[0].node)] if slot is None else basis.write.slot[slot]
        attn.W_K[number], attn.W_Q[number] = keys, queries
        value = _rotation(model.cfg.d_head, frame.generator)[0]
        attn.W_V[number] = torch.outer(basis.read.scale * frame.reader(route), value)
        attn.W_O[number] = torch.outer(value, writes)


def _rotation(size: int, generator: torch.Generator) -> Float[Tensor, "d_head d_head"]:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def layer_neurons(model: HookedTransformer, layer: int, frame: Frame) -> list[Neuron]:
    """The neurons of every field of a layer, in random order; its heads must be written."""
    fields = [name for name, its in frame.plan.layer.items() if its == layer]
    if not fields:
        return []
    mid = f"blocks.{layer}.hook_resid_mid"
    _, cache = model.run_with_cache(frame.batch.tokens, names_filter=mid)
    seen = model.blocks[layer].ln2(cache[mid]).double()
    found = [neuron for name in fields for neuron in _field(name, seen, frame)]
    order = torch.randperm(len(found), generator=frame.generator).tolist()
    return [found[i] for i in order]


def neuron_count(plan: Plan, layer: int) -> int:
    """Number of neurons of a layer."""
    total = 0
    for name, its in plan.layer.items():
        if its == layer:
            function = plan.functions.get(name)
            total += 2 if function is None else sum(1 + _is_copied(cube, plan, name) for cube in function.cubes)
    return total


def _is_copied(cube: Cube, plan: Plan, field: str) -> bool:
    names = [read.variable for read in plan.of(field)]
    return any(names.count(name) > 1 for name, _ in cube.literals)


def _field(name: str, seen: Float[Tensor, "batch pos d_model"], frame: Frame) -> list[Neuron]:
    """The neurons of a field. Everything they compare is measured at the field's position first, so that neither
    LayerNorm nor an overlap of features moves a threshold; thresholds are read from the constant direction."""
    read, plan, place = frame.layout.basis.read, frame.plan, frame.predict(name)
    x, answer = seen[:, place], frame.layout.basis.write.answer[name]
    unit = read.constant / CONSTANT
    unit = unit / (x @ unit).mean()
    here = read.position[place] / (x @ read.position[place]).mean()
    function = plan.functions.get(name)
    if function is None:
        operands = [one.variable for one in plan.of(name)]
        slot = plan.of(name)[0].slot
        share = torch.stack([_bit(frame, one) for one in operands]).mean(0)
        mean = _calibrated(read.slot[slot], x, share, unit)
        # max(x, 0) - max(-x, 0) = x: the mean of the operands, signed, passes two rectified neurons.
        return [(3 * here + sign * mean - 3 * unit, sign * answer) for sign in (1, -1)]
    brought: dict[str, list[Tensor]] = {}
    for one in plan.of(name):
        slot = _calibrated(read.slot[one.slot], x, _bit(frame, one.variable), unit)
        brought.setdefault(one.variable, []).append(slot)
    return [neuron for cube in function.cubes for neuron in _cube(cube, brought, here, unit, answer)]


def _cube(
    cube: Cube, brought: Mapping[str, Sequence[Tensor]], here: Tensor, unit: Tensor, answer: Tensor
) -> list[Neuron]:
    """A neuron that is 1 where every literal holds, and shut elsewhere. Where one comes in several copies there are
    two, whose difference is 1 if at least one more copy is for the literal than against it."""
    copies = max([len(brought[name]) for name, _ in cube.literals], default=1)
    total, least, heavy = torch.zeros_like(here), 0.0, 0.0
    for name, bit in cube.literals:
        weight = 1.0 if copies == 1 or len(brought[name]) > 1 else float(copies)
        total = total + weight * (2 * bit - 1) * torch.stack(list(brought[name])).sum(0)
        heavy += weight * len(brought[name])
        least += 0.0 if len(brought[name]) > 1 else weight
    gate, sign = heavy + 2, 2.0 * cube.value - 1
    if copies == 1:
        return [(gate * here + total - (gate + least - 1) * unit, sign * answer)]
    return [
        (gate * here + total - (gate + least + more) * unit, (1 - 2 * more) * sign * answer) for more in (0, 1)
    ]  # fmt: skip


def _bit(frame: Frame, variable: str) -> Float[Tensor, " batch"]:
    return 2.0 * frame.batch.label(variable).double() - 1


def _calibrated(slot: Tensor, x: Float[Tensor, "batch d_model"], value: Tensor, unit: Tensor) -> Tensor:
    """Reader of a slot that gives `value`, on the average: least squares in the amount and a constant."""
    found = x @ slot
    if value.std(unbiased=False) < 1e-9:  # only one value ever occurs
        return slot * (value.mean() / found.mean())
    design = torch.stack([value, torch.ones_like(value)], 1)
    amount, offset = torch.linalg.lstsq(design, found[:, None]).solution[:, 0]
    return (slot - offset * unit) / amount


def right_answers(model: HookedTransformer, batch: TokenBatch, prompt_length: int) -> Bool[Tensor, "batch pos"]:
    """True for each token after the prompt that the model answers right, given the true ones before it."""
    found = model(batch.tokens[:, :-1]).argmax(-1)[:, prompt_length - 1 :]
    return found == batch.tokens[:, prompt_length:]
