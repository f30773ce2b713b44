"""Transformers whose mechanism is known because it was written into the weights: positive controls for every analysis.

Nothing is trained. As in Tracr (Lindner et al. 2023, arXiv:2301.05062) each feature has a direction of its own in the
residual stream, attention routes features between positions and MLP neurons look functions up; and as in InterpBench
(Gupta et al. 2024, arXiv:2407.14494) the circuit is the ground truth that an analysis has to recover. Unlike Tracr's
models these have a real LayerNorm and no privileged residual coordinate, so an analysis meets what it meets in a
trained model.

The three boolean models give the same answers on every true text. They differ in one attention head, the one that
brings newB to `newD?`, the position whose logits predict newD:

    via-token   reads newB's own token, so newD = f(A, the newB token that stands in the text)
    direct      reads D's token, so newD = f(A, not D): newB is never used
    latent      reads, at position `newB?`, the direction into which layer 0 computed newB and from which newB's own
                logits come, so one internal site drives both predictions

How it is built (all features orthonormal, all orthogonal to the all-ones vector, drawn at random by the seed):

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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.components.transformer_block import TransformerBlock

from interp_kit.core.seeding import derive_seed
from interp_kit.core.task import AbstractTask, Example, Field

PLANTED_MECHANISMS = ("via-token", "direct", "latent")
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

N_CTX, D_MODEL, N_HEADS, D_HEAD, D_MLP, N_SLOTS = 64, 64, 4, 16, 32, 2
CONSTANT = 8.0  # With d_model = 64 the LayerNorm scale is near 1.
SCORE = 16.0  # Attention score of a wanted key, all others 0: 23 keys leak under 1e-5.
GATE = 5.0  # Weight of the position one-hot in a neuron; above 4, all that two slots can add where it must stay shut.
BIT_LOGIT, SUPPORT_LOGIT, COUNT_LOGIT = 5.0, 12.0, 16.0


Neuron = tuple[Tensor, Tensor]  # (d_model,) what it reads, (d_model,) what it writes.


@dataclass(frozen=True, eq=False)
class _Directions:
    """Orthonormal, mean-free residual directions.

    token: one for each token id; position: one for each position of the text; slot: what an attention head writes;
    answer: field -> what its logits are read from; constant: the same amount of it stands everywhere; scale: what
    LayerNorm divides by, so weights that read the residual stream are multiplied by it.
    """

    token: Float[Tensor, "vocab d_model"]
    position: Float[Tensor, "pos d_model"]
    slot: Float[Tensor, "slot d_model"]
    answer: Mapping[str, Float[Tensor, " d_model"]]
    constant: Float[Tensor, " d_model"]
    scale: float


def planted_boolean(task: AbstractTask, mechanism: str, seed: int = 0) -> HookedTransformer:
    """The boolean model of one of PLANTED_MECHANISMS; the seed draws the residual basis, which no answer depends on.

    Vocabulary, positions, fields and truth tables are the task's own. At one seed the three models share every weight
    but those of layer 1, head 1 and, for "direct", the outputs of newD's truth table in layer 1's MLP.

    Raises ValueError for an unknown mechanism, and for a task whose fields are no functions of the planted wiring.
    """
    if mechanism not in PLANTED_MECHANISMS:
        raise ValueError(f"no mechanism {mechanism!r}; there are {', '.join(PLANTED_MECHANISMS)}")
    examples = task.enumerate()
    positions = examples[0].positions
    missing = {LATE_FIELD, *WIRING} - {field.name for field in task.fields}
    if missing or any(example.positions != positions for example in examples):
        raise ValueError(f"{task.name} is no boolean task: it lacks {sorted(missing) or 'fixed positions'}")
    bits = _bit_tokens(examples, [name for names in WIRING.values() for name in names])
    directions = _draw_directions(task, len(examples[0].tokens), seed)
    token_bit = directions.token[bits[1]] - directions.token[bits[0]]

    variable, source = NEWD_SOURCE[mechanism]
    early, late = [task.field(name) for name in WIRING], task.field(LATE_FIELD)
    model = _empty_model(task)
    with torch.no_grad():
        _set_embedding(model, directions)
        first, second = (model.blocks[i] for i in range(2))
        _set_attention(first, directions, positions, _early_routes(early), [token_bit, token_bit])
        neurons = [neuron for field in early for neuron in _neurons(field, WIRING[field.name], examples, directions)]
        _set_mlp(first, neurons)
        routes = [{late.predict: (LATE_OPERAND,)}, {late.predict: (source,)}]
        read = directions.answer[variable] if mechanism == "latent" else token_bit
        _set_attention(second, directions, positions, routes, [token_bit, read])
        _set_mlp(second, _neurons(late, (LATE_OPERAND, variable), examples, directions))
        _set_unembedding(model, task, examples, directions)
    return model


def _empty_model(task: AbstractTask) -> HookedTransformer:
    cfg = HookedTransformerConfig(
        n_layers=2,
        d_model=D_MODEL,
        n_ctx=N_CTX,
        d_head=D_HEAD,
        n_heads=N_HEADS,
        d_mlp=D_MLP,
        d_vocab=len(task.vocabulary),
        act_fn="relu",
        normalization_type="LN",
        init_weights=False,  # Drawing weights only to overwrite them would move the global random stream.
        device="cpu",
        dtype=torch.float32,
        default_prepend_bos=False,
    )
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith(".w") else 0.0)  # Only LayerNorm's gains are called w.
    return model.eval()


def _draw_directions(task: AbstractTask, length: int, seed: int) -> _Directions:
    """Random orthonormal directions, each orthogonal to the all-ones vector, so that every feature has mean 0."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "planted"))
    matrix = torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    matrix[:, 0] = 1.0
    free = torch.linalg.qr(matrix).Q[:, 1:].T
    sizes = [len(task.vocabulary), length, N_SLOTS, len(task.fields), 1]
    if sum(sizes) > len(free):
        raise ValueError(f"{task.name} needs {sum(sizes)} features; {D_MODEL} dimensions hold {len(free)}")
    token, position, slot, answer, constant, _ = free.split([*sizes, len(free) - sum(sizes)])
    named = {field.name: direction for field, direction in zip(task.fields, answer, strict=True)}
    scale = math.sqrt((2 + CONSTANT**2) / D_MODEL)  # An embedding is one token, one position and the constant.
    return _Directions(token, position, slot, named, constant[0], scale)


def _bit_tokens(examples: Sequence[Example], variables: Sequence[str]) -> dict[int, int]:
    """Bit -> the token that writes it, the same for every variable. Raises ValueError where it is not."""
    pairs = {(e.labels[name], e.tokens[e.positions[name]]) for e in examples for name in variables}
    if len(pairs) != 2 or {value for value, _ in pairs} != {0, 1}:
        raise ValueError(f"the operands are not bits written with the same two tokens: (value, token) {sorted(pairs)}")
    return dict(pairs)


def _early_routes(fields: Sequence[Field]) -> list[dict[str, tuple[str, ...]]]:
    """Head -> prediction position -> positions it reads. A sum takes one head for all operands, a bit one for each."""
    routes: list[dict[str, tuple[str, ...]]] = [{} for _ in range(N_SLOTS)]
    for field in fields:
        operands = WIRING[field.name]
        groups = [(name,) for name in operands] if _is_bit(field) else [operands]
        for route, group in zip(routes, groups, strict=False):
            route[field.predict] = group
    return routes


def _is_bit(field: Field) -> bool:
    return set(field.values) == {0, 1}


def _set_embedding(model: HookedTransformer, directions: _Directions) -> None:
    model.embed.W_E.copy_(directions.token)
    # Past the end of the text every position looks like the last, where only padding follows.
    index = torch.arange(N_CTX).clamp(max=len(directions.position) - 1)
    model.pos_embed.W_pos.copy_(directions.position[index] + CONSTANT * directions.constant)


def _set_attention(
    block: TransformerBlock,
    directions: _Directions,
    positions: Mapping[str, int],
    routes: Sequence[Mapping[str, tuple[str, ...]]],
    reads: Sequence[Float[Tensor, " d_model"]],
) -> None:
    """Head h attends, from each position in routes[h], to those named there, and writes what reads[h] finds to slot h.

    A head without a route always rests, and writes nothing. The keys are the same in every layer and model.
    """
    rest = min(set(positions.values()) - {positions[name] for name in WIRING["sum1"]})
    operands = [*(name for names in WIRING.values() for name in names), *(name for _, name in NEWD_SOURCE.values())]
    sources = sorted({rest, *(positions[name] for name in operands)})
    strength = math.sqrt(SCORE * math.sqrt(D_HEAD)) * directions.scale
    code = strength * torch.eye(D_HEAD, dtype=torch.float64)
    keys = torch.zeros(D_MODEL, D_HEAD, dtype=torch.float64)
    for i, source in enumerate(sources):
        keys += torch.outer(directions.position[source], code[i])
    block.attn.W_K.copy_(keys.expand(N_HEADS, -1, -1))
    for head in range(N_HEADS):
        wanted: dict[int, Sequence[int]] = dict.fromkeys(range(len(directions.position)), (rest,))
        if head < len(routes):
            wanted |= {positions[query]: [positions[name] for name in names] for query, names in routes[head].items()}
            block.attn.W_V[head, :, 0] = directions.scale * reads[head]
            block.attn.W_O[head, 0] = directions.slot[head]
        queries = torch.zeros(D_MODEL, D_HEAD, dtype=torch.float64)
        for query, group in wanted.items():
            for source in group:
                queries += torch.outer(directions.position[query], code[sources.index(source)])
        block.attn.W_Q[head] = queries


def _truth_table(field: Field, operands: Sequence[str], examples: Sequence[Example]) -> dict[tuple[int, ...], int]:
    """Values of the operands -> value of the field, as the examples have it. Raises ValueError where there is none."""
    table: dict[tuple[int, ...], int] = {}
    for example in examples:
        row, value = tuple(example.labels[name] for name in operands), example.labels[field.name]
        if table.setdefault(row, value) != value:
            raise ValueError(f"{field.name} is no function of {', '.join(operands)}")
    if _is_bit(field) and len(table) != 2 ** len(operands):
        raise ValueError(f"{field.name}: only {len(table)} values of {', '.join(operands)} ever occur")
    return dict(sorted(table.items()))


def _neurons(
    field: Field, operands: Sequence[str], examples: Sequence[Example], directions: _Directions
) -> list[Neuron]:
    """The neurons that compute a field at its prediction position from the slots, into its answer direction.

    Thresholds are read from the constant direction instead of a bias: a change of the LayerNorm scale then multiplies
    the whole pre-activation, and never moves a threshold.

    Raises ValueError where the field is no function of the operands, or a count that is not their sum.
    """
    table = _truth_table(field, operands, examples)
    here = GATE * directions.position[examples[0].positions[field.predict]]
    answer, unit = directions.answer[field.name], directions.constant / CONSTANT
    if _is_bit(field):
        neurons: list[Neuron] = []
        for row, value in table.items():
            match = torch.stack([(2 * bit - 1) * slot for bit, slot in zip(row, directions.slot, strict=False)]).sum(0)
            # 1 where position and every operand match, at most -1 elsewhere.
            neurons.append((directions.scale * (here + match - (GATE + len(row) - 1) * unit), (2 * value - 1) * answer))
        return neurons
    if any(sum(row) != value for row, value in table.items()):
        raise ValueError(f"{field.name} is not the number of ones among {', '.join(operands)}")
    # max(x, 0) - max(-x, 0) = x: the mean of the operands, signed, passes two rectified neurons.
    mean = directions.slot[0]
    return [(directions.scale * (here + sign * mean - GATE * unit), sign * answer) for sign in (1, -1)]


def _set_mlp(block: TransformerBlock, neurons: Sequence[Neuron]) -> None:
    for i, (read, write) in enumerate(neurons):
        block.mlp.W_in[:, i] = read
        block.mlp.W_out[i] = write


def _set_unembedding(
    model: HookedTransformer, task: AbstractTask, examples: Sequence[Example], directions: _Directions
) -> None:
    """Logits from position (which tokens can stand next) and from the answer directions (which one does).

    A count s gives each value k the logit k * s - k**2 / 2, largest at k = s and linear in s; both are taken about the
    middle of the range, where the mean of the operands is 0.
    """
    support = torch.zeros(len(directions.position), len(task.vocabulary), dtype=torch.float64)
    for example in examples:
        for i, token in enumerate((*example.tokens[1:], task.pad)):
            support[i, token] = SUPPORT_LOGIT
    weight = torch.zeros(D_MODEL, len(task.vocabulary), dtype=torch.float64)
    for field in task.fields:
        here, half = examples[0].positions[field.predict], max(field.values) / 2
        answer = directions.answer[field.name]
        for value, token in zip(field.values, field.candidates, strict=True):
            offset = value - half
            if _is_bit(field):
                support[here, token] = SUPPORT_LOGIT
                weight[:, token] += 2 * offset * BIT_LOGIT * answer
            else:
                support[here, token] = SUPPORT_LOGIT - COUNT_LOGIT * offset**2 / 2
                weight[:, token] += COUNT_LOGIT * offset * half * answer
    weight += directions.position.T @ support
    model.unembed.W_U.copy_(directions.scale * weight)
