"""The planted boolean models: the same answers on every true text, by different mechanisms.

The first three differ in one attention head, the one that brings newB to `newD?`, the position whose logits predict
newD:

    via-token   reads newB's own token, so newD = f(A, the newB token that stands in the text)
    direct      reads D's token, so newD = f(A, not D): newB is never used
    latent      reads, at position `newB?`, the direction into which layer 0 computed newB and from which newB's own
                logits come, so one internal site drives both predictions

Four more are built of the same parts:

    lookup      a memoriser: five heads bring the prompt's bits to `newD?`, where one neuron for each of the 32 prompts
                writes the answer that this prompt has; nothing computes newB on the way, and no neuron an OR
    backup      via-token with a spare: L1H1 reads newB's token as before, layer 1's MLP tells whether a bit arrived,
                and L2H2 fetches the same token where none did, as the backup name movers of Wang et al. 2022
                (arXiv:2211.00593). A wrong bit is a bit: patched with that of another run, L1H1 is believed
    decoy       direct, and L0H2 copies newB's token to `newD?` into a direction that nothing reads
    superposed  latent with 47 features in 42 dimensions: tokens, positions and answers are 44 random directions in 38
                dimensions, each of which overlaps the others; slots and constant keep dimensions of their own

Outside of MECHANISMS, `planted_repair` writes newB by a head into the logits, and has a backup of known strength.

How it is built (all features orthonormal, all orthogonal to the all-ones vector, drawn at random by the seed; where
they are in superposition, each is read by its least-squares reader):

 1. Embedding. token one-hot + position one-hot + CONSTANT times one fixed direction. Features have mean 0, so
    LayerNorm's centring does nothing, and the constant dominates the norm, so LayerNorm divides by nearly the same
    `scale` everywhere (within 6 %). Bits are -1 or +1, so a flipped bit leaves the norm as it was: but for the size of
    a sum at its own position, no variable leaks through LayerNorm.
 2. Attention, layer 0. A position one-hot queries the positions of its operands; two heads bring two operands, each as
    a bit of -1 or +1, into the slot of the head. The sums need one head: equal attention over all operands gives their
    mean. Every other query rests on the first comma, which carries no bit. (A's own position can only read itself;
    nothing looks at the slots there.)
 3. MLP, layer 0. One neuron for each row of a field's truth table, open at the field's prediction position only, writes
    -1 or +1 into the field's answer direction; two neurons a sum pass its mean on.
 4. Layer 1 does the same for newD alone, from A and what the mechanism names.
 5. Unembedding. An answer direction drives the tokens of its field, the position one-hot the tokens that can stand next
    (comma, newline and end-of-text follow from position alone).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.transformer_block import TransformerBlock

from interp_kit.core.config import check_number
from interp_kit.core.example import Example, Field
from interp_kit.core.task import AbstractTask
from interp_kit.models.planted.attention import N_HEADS, Head, set_attention
from interp_kit.models.planted.directions import N_SLOTS, Basis, orthonormal, superposed
from interp_kit.models.planted.embedding import empty_model, set_embedding, set_unembedding
from interp_kit.models.planted.neurons import field_neurons, filled_neurons, is_bit, set_mlp

PLANTED_MECHANISMS = ("via-token", "direct", "latent")
MECHANISMS = (*PLANTED_MECHANISMS, "lookup", "backup", "decoy", "superposed")
# Field -> the variables whose tokens it is computed from, in layer 0.
WIRING: dict[str, tuple[str, ...]] = {
    "newA": ("A", "C"),
    "newB": ("D",),
    "newC": ("B", "E"),
    "sum1": ("A", "B", "C", "D", "E"),
    "sum2": ("newA", "newB", "newC", "newD"),
}
# newD, in layer 1, is computed from A's token and, by mechanism, from (what is read, the position where it is read).
LATE_FIELD, LATE_OPERAND = "newD", "A"
NEWD_SOURCE: dict[str, tuple[str, str]] = {
    "via-token": ("newB", "newB"),
    "direct": ("D", "D"),
    "latent": ("newB", "newB?"),
}
PRIMARY, BACKUP, DECOY = 1, 2, 2  # Heads: what brings newB, its backup in layer 2, the decoy in layer 0.


@dataclass(frozen=True, eq=False)
class _Frame:
    """Directions that every part of a model is written from.

    token_bit: (d_model,) reader of a bit's token, +1 on "1" and -1 on "0".
    """

    task: AbstractTask
    examples: Sequence[Example]
    basis: Basis
    token_bit: Float[Tensor, " d_model"]

    @property
    def positions(self) -> Mapping[str, int]:
        return self.examples[0].positions

    @property
    def late(self) -> Field:
        return self.task.field(LATE_FIELD)

    def carry(self, name: str, slot: Tensor, reads: Tensor | None = None, silenced_by: Tensor | None = None) -> Head:
        """The head that brings what stands at position `name` to newD's prediction position."""
        reads = self.token_bit if reads is None else reads
        return Head({self.late.predict: (name,)}, reads, slot, silenced_by)

    def attend(self, block: TransformerBlock, heads: Mapping[int, Head]) -> None:
        at = self.positions
        rest = min(set(at.values()) - {at[name] for name in WIRING["sum1"]})
        operands = [*(name for names in WIRING.values() for name in names), *(name for _, name in NEWD_SOURCE.values())]
        set_attention(block, self.basis, at, rest, sorted({rest, *(at[name] for name in operands)}), heads)

    def answer(self, block: TransformerBlock, operands: Sequence[str], slots: Tensor | None = None) -> None:
        """The MLP that writes newD from its operands, which stand in the slots."""
        set_mlp(block, field_neurons(self.late, operands, self.examples, self.basis, slots))


def planted_boolean(task: AbstractTask, mechanism: str, seed: int = 0) -> HookedTransformer:
    """The boolean model of one of MECHANISMS; the seed draws the residual basis, which no answer depends on.

    Vocabulary, positions, fields and truth tables are the task's own. At one seed the three PLANTED_MECHANISMS share
    every weight but those of layer 1, head 1 and, for "direct", the outputs of newD's truth table in layer 1's MLP.

    Raises ValueError for an unknown mechanism, and for a task whose fields are not functions of the planted wiring.
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"no mechanism {mechanism!r}; there are {', '.join(MECHANISMS)}")
    frame = _frame(task, mechanism, seed)
    n_layers, n_heads = 3 if mechanism == "backup" else 2, 5 if mechanism == "lookup" else N_HEADS
    model = empty_model(task, frame.token_bit.shape[0], n_layers=n_layers, n_heads=n_heads)
    with torch.no_grad():
        set_embedding(model, frame.basis)
        _first_layer(model.blocks[0], frame, decoy=mechanism == "decoy")
        _LATER.get(mechanism, _read_and_answer)(model, frame, mechanism)
        set_unembedding(model, task, frame.examples, frame.basis)
    return model


def planted_repair(task: AbstractTask, strength: float = 1.0, seed: int = 0) -> HookedTransformer:
    """The boolean model "direct", but for newB, which heads write straight into its answer direction: L1H1 from D's
    token, and L2H2 the same, times `strength`, only where L1H1 is silent. So without L1H1 the logit difference of newB
    falls by 1 - strength of what L1H1 writes, and by all of it if later components are kept from answering.

    Raises ValueError as `planted_boolean` does, and for a negative strength.
    """
    check_number("strength", strength, least=0)
    frame = _frame(task, "direct", seed)
    model = empty_model(task, frame.token_bit.shape[0], n_layers=3)
    write, newb = frame.basis.write, frame.task.field("newB")
    route, flag, answer = {newb.predict: ("D",)}, write.spare[0], write.answer["newB"]
    with torch.no_grad():
        set_embedding(model, frame.basis)
        _first_layer(model.blocks[0], frame, decoy=False, without=("newB",))
        heads = {0: frame.carry(LATE_OPERAND, write.slot[0]), 2: frame.carry("D", write.slot[1])}
        heads[PRIMARY] = Head(route, frame.token_bit, write.spare[1] - answer)
        frame.attend(model.blocks[1], heads)
        neurons = field_neurons(frame.late, (LATE_OPERAND, "D"), frame.examples, frame.basis)
        neurons += filled_neurons(frame.positions[newb.predict], frame.basis.read.spare[1], frame.basis, flag)
        set_mlp(model.blocks[1], neurons)
        silenced = frame.basis.read.spare[0]
        frame.attend(model.blocks[2], {BACKUP: Head(route, frame.token_bit, -strength * answer, silenced)})
        set_unembedding(model, task, frame.examples, frame.basis)
    return model


def _frame(task: AbstractTask, mechanism: str, seed: int) -> _Frame:
    examples = task.enumerate()
    missing = {LATE_FIELD, *WIRING} - {field.name for field in task.fields}
    if missing or any(example.positions != examples[0].positions for example in examples):
        raise ValueError(f"{task.name} is not a boolean task: it lacks {sorted(missing) or 'fixed positions'}")
    bits = bit_tokens(examples, [name for names in WIRING.values() for name in names])
    length = len(examples[0].tokens)
    basis = superposed(task, examples, seed) if mechanism == "superposed" else orthonormal(task, length, seed)
    token = basis.read.token
    return _Frame(task, examples, basis, token[bits[1]] - token[bits[0]])


def bit_tokens(examples: Sequence[Example], variables: Sequence[str]) -> dict[int, int]:
    """Bit -> the token that writes it, the same for every variable. Raises ValueError if it is not."""
    pairs = {(e.labels[name], e.tokens[e.positions[name]]) for e in examples for name in variables}
    if len(pairs) != 2 or {value for value, _ in pairs} != {0, 1}:
        raise ValueError(f"the operands are not bits written with the same two tokens: (value, token) {sorted(pairs)}")
    return dict(pairs)


def _first_layer(block: TransformerBlock, frame: _Frame, *, decoy: bool, without: Sequence[str] = ()) -> None:
    """Every field but newD and those `without`, from tokens; with `decoy`, a head more."""
    fields, write = [frame.task.field(name) for name in WIRING if name not in without], frame.basis.write
    routes = zip(_early_routes(fields), write.slot, strict=True)
    heads = {number: Head(route, frame.token_bit, slot) for number, (route, slot) in enumerate(routes)}
    if decoy:
        heads[DECOY] = frame.carry("newB", write.spare[0])
    frame.attend(block, heads)
    set_mlp(
        block,
        [
            neuron
            for field in fields
            for neuron in field_neurons(field, WIRING[field.name], frame.examples, frame.basis)
        ],
    )


def _early_routes(fields: Sequence[Field]) -> list[dict[str, tuple[str, ...]]]:
    """Head -> prediction position -> positions it reads. A sum takes one head for all operands, a bit one for each."""
    routes: list[dict[str, tuple[str, ...]]] = [{} for _ in range(N_SLOTS)]
    for field in fields:
        operands = WIRING[field.name]
        groups = [(name,) for name in operands] if is_bit(field) else [operands]
        for route, group in zip(routes, groups, strict=False):
            route[field.predict] = group
    return routes


def _read_and_answer(model: HookedTransformer, frame: _Frame, mechanism: str) -> None:
    """Layer 1 brings A and what the mechanism names, and answers newD."""
    variable, source = NEWD_SOURCE[{"decoy": "direct", "superposed": "latent"}.get(mechanism, mechanism)]
    reads = frame.basis.read.answer[variable] if source.endswith("?") else None
    slot = frame.basis.write.slot
    block = model.blocks[1]
    frame.attend(block, {0: frame.carry(LATE_OPERAND, slot[0]), PRIMARY: frame.carry(source, slot[1], reads)})
    frame.answer(block, (LATE_OPERAND, variable))


def _look_up(model: HookedTransformer, frame: _Frame, _: str) -> None:
    """Layer 1 brings all five bits, and has one neuron for each prompt."""
    names, directions = frame.task.inputs, frame.basis.write
    slots = torch.cat([directions.slot, directions.spare])[: len(names)]
    frame.attend(model.blocks[1], {i: frame.carry(name, slots[i]) for i, name in enumerate(names)})
    frame.answer(model.blocks[1], names, slots)


def _with_backup(model: HookedTransformer, frame: _Frame, _: str) -> None:
    """Layer 1 brings A and newB's token, and flags that a bit came; layer 2 brings it where none did, and answers."""
    directions = frame.basis.write
    slot, flag = directions.slot, directions.spare[0]
    first, second = model.blocks[1], model.blocks[2]
    frame.attend(first, {0: frame.carry(LATE_OPERAND, slot[0]), PRIMARY: frame.carry("newB", slot[1])})
    set_mlp(first, filled_neurons(frame.positions[frame.late.predict], slot[1], frame.basis, flag))
    frame.attend(second, {BACKUP: frame.carry("newB", slot[1], silenced_by=flag)})
    frame.answer(second, (LATE_OPERAND, "newB"))


_LATER: dict[str, Callable[[HookedTransformer, _Frame, str], None]] = {"lookup": _look_up, "backup": _with_backup}
