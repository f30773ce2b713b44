"""Planted models of any Boolean equations: the target reads its mediator by a named mechanism (see `boolean`).

The parts are those of the planted boolean models: layer 0 computes every field but the target from tokens, layer 1 the
target. A mechanism says how the mediator reaches the target's prediction:

    via-token   from the mediator's own token
    direct      from the tokens that the mediator is computed from: its token is never used
    latent      from the direction at the mediator's prediction from which its own logits come
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.core.example import Field
from interp_kit.core.task import AbstractTask
from interp_kit.models.planted.attention import D_HEAD, N_HEADS, Head, set_attention
from interp_kit.models.planted.boolean import PLANTED_MECHANISMS, bit_tokens
from interp_kit.models.planted.directions import Directions, orthonormal
from interp_kit.models.planted.embedding import empty_model, set_embedding, set_unembedding
from interp_kit.models.planted.neurons import D_MLP, Neuron, field_neurons, is_bit, set_mlp


def planted_equations(
    task: AbstractTask,
    wiring: Mapping[str, Sequence[str]],
    mechanism: str,
    *,
    mediator: str,
    target: str,
    seed: int = 0,
) -> HookedTransformer:
    """A model that solves a Boolean task, in which `mediator` reaches `target` by one of PLANTED_MECHANISMS.

    Args:
        task: a task whose examples all have one form, and whose fields are bits and sums of bits.
        wiring: field -> the variables that it is computed from (`BooleanTask.model.parents`).
        mechanism: "via-token", "direct" or "latent".
        mediator: a field that `target` is computed from.
        target: the field whose mechanism is planted.
        seed: draws the residual basis, which no answer depends on.

    Returns:
        A two-layer transformer of the task's vocabulary.

    Raises:
        ValueError: for an unknown mechanism, a mediator that is not among the target's operands, a field that is not
            the function that its operands determine, or more operands, positions or neurons than the model holds.
    """
    if mechanism not in PLANTED_MECHANISMS:
        raise ValueError(f"no mechanism {mechanism!r}; there are {', '.join(PLANTED_MECHANISMS)}")
    if mediator not in wiring.get(target, ()):
        raise ValueError(f"{target!r} is computed from {', '.join(wiring.get(target, ()))}, not from {mediator!r}")
    examples, positions = task.enumerate(), task.enumerate()[0].positions
    fields = {field.name: field for field in task.fields}
    others = [name for name in wiring[target] if name != mediator]
    causes = {"direct": list(wiring[mediator])}.get(mechanism, [mediator])
    operands = list(dict.fromkeys([*others, *causes]))
    places = {name: fields[name].predict if mechanism == "latent" and name == mediator else name for name in operands}
    early = {name: list(wiring[name]) for name in fields if name != target}
    bits = bit_tokens(examples, sorted({name for names in (*early.values(), operands) for name in names}))
    basis = orthonormal(task, len(examples[0].tokens), seed)
    token = basis.read.token[bits[1]] - basis.read.token[bits[0]]
    rest = min(set(positions.values()) - {positions[name] for name in task.variables if name in positions})
    read = [*(name for names in early.values() for name in names), *places.values()]
    sources = sorted({rest, *(positions[name] for name in read)})
    slots = _slots(basis.write, [operands, *(names for name, names in early.items() if is_bit(fields[name]))])
    if len(sources) > D_HEAD:
        raise ValueError(f"{task.name} reads {len(sources)} positions; a planted head tells {D_HEAD} apart")

    model = empty_model(task, token.shape[0])
    routes: list[dict[str, tuple[str, ...]]] = [{} for _ in slots]
    for name, names in early.items():
        groups = [(operand,) for operand in names] if is_bit(fields[name]) else [tuple(names)]
        for route, group in zip(routes, groups, strict=False):
            route[fields[name].predict] = group
    late = fields[target]
    heads = {}
    for number, (name, slot) in enumerate(zip(operands, slots, strict=False)):
        reads = basis.read.answer[name] if places[name] != name else token
        heads[number] = Head({late.predict: (places[name],)}, reads, slot)

    def neurons(field: Field, names: Sequence[str]) -> list[Neuron]:
        return field_neurons(field, names, examples, basis, slots)

    with torch.no_grad():
        set_embedding(model, basis)
        first, second = model.blocks
        carriers = {
            number: Head(route, token, slot) for number, (route, slot) in enumerate(zip(routes, slots, strict=True))
        }
        for block, carried in ((first, carriers), (second, heads)):
            set_attention(block, basis, positions, rest, sources, carried)
        for block, found in (
            (first, [one for name, names in early.items() for one in neurons(fields[name], names)]),
            (second, neurons(late, operands)),
        ):
            if len(found) > D_MLP:
                raise ValueError(f"{task.name} needs {len(found)} neurons in a layer; there are {D_MLP}")
            set_mlp(block, found)
        set_unembedding(model, task, examples, basis)
    return model


def _slots(directions: Directions, operands: Sequence[Sequence[str]]) -> Float[Tensor, "slot d_model"]:
    """As many slots as the field with the most operands needs. Raises ValueError for more than there are heads."""
    needed = max(2, *(len(names) for names in operands))
    slots = torch.cat([directions.slot, directions.spare])
    if needed > min(N_HEADS, len(slots)):
        raise ValueError(f"{needed} operands of one field; a planted model carries {min(N_HEADS, len(slots))}")
    return slots[:needed]
