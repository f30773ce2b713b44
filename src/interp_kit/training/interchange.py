"""Interchange-intervention training: a network learns another's answers, and to compute them in the same nodes.

After Geiger et al. 2022 (arXiv:2112.00826) and the strict form of InterpBench (Gupta et al. 2024, arXiv:2407.14494).
The teacher is a model whose circuit is known. A node, head or MLP, has its output replaced in both networks by that of
another text, and the student has to answer as the teacher then does. Where the teacher's node is idle its answer stays,
so the student learns that this node must not matter either. Beyond that form: several nodes are replaced together, or a
student may do the work of one in two others, each of which alone can be missed; nodes are replaced at half of the
positions, or it may do the work elsewhere; and texts are mixed from two, token by token, where alone two tokens that
otherwise always agree say different things. Weights stay realistic: found by gradient descent from a random start.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_number, check_seed, expect
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.inputs import taught, unpadded, whole_text
from interp_kit.models.circuit import EMBED, HEAD, LOGITS, MLP, nodes
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting

Activations = dict[str, Tensor]


@dataclass(frozen=True)
class InterchangeConfig:
    """Options for training a student.

    steps: each of one node and `batch_size` pairs of texts; warmup: steps of rising learning rate, which then falls
    to 0 by a cosine; sure: logits by which the teacher's answer must lead to be taught, as an intervention may leave it
    with none; several: share of the steps in which not one node is interchanged but a set, each being in it or not by
    chance; partial: share of the pairs in which that is done at half of the positions, drawn anew, instead of all;
    mixed: share of the texts that are mixed from two, each token from either; seed: of order and pairs.
    """

    steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup: int = 100
    sure: float = 3.0
    several: float = 0.5
    partial: float = 0.5
    mixed: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        check_count("warmup", self.warmup, least=0)
        check_number("learning_rate", self.learning_rate, above=0)
        for option in ("weight_decay", "sure"):
            check_number(option, getattr(self, option), least=0)
        for option in ("several", "partial", "mixed"):
            check_number(option, getattr(self, option), least=0, most=1)
        check_seed(self.seed)


@dataclass(frozen=True)
class Fidelity:
    """Agreement of a student with the teacher's nodes, on pairs of texts (base, source), by node; the node "embed"
    stands for the tokens at half of the positions.

    followed: share of the answers that the teacher changes under the interchange and the student changes alike (a node
    that the student does not use scores 0); NaN where the teacher changes none. kept: share of those that the teacher
    leaves and the student leaves; pairs, changes: how many pairs, and how many changed answers among them.
    """

    followed: Mapping[str, float]
    kept: Mapping[str, float]
    pairs: int
    changes: Mapping[str, int]


def components(model: HookedModel) -> tuple[str, ...]:
    """The heads and MLPs of a model, in the order in which they are computed."""
    every = nodes(model.cfg.n_layers, model.cfg.n_heads, with_mlp=not model.cfg.attn_only)
    return tuple(node for node in every if node not in (EMBED, LOGITS))


@on_model("student", "teacher", gradients=True)
def train_interchange(
    student: HookedModel,
    teacher: HookedModel,
    batch: TokenBatch,
    config: InterchangeConfig | None = None,
    *,
    progress: bool = PROGRESS,
) -> list[float]:
    """Train `student` in place; gives the loss of each step.

    batch: the texts that bases and sources are drawn from; what stands after the prompt is taught. student and
    teacher must have the same nodes. Raises ValueError if they have not.
    """
    for model in (student, teacher):
        check_meeting(model, batch, TokenBatch)
    if components(student) != components(teacher):
        raise ValueError(f"the student has nodes {components(student)}, the teacher {components(teacher)}")
    settings = InterchangeConfig() if config is None else config
    expect("config", settings, InterchangeConfig)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "interchange"))
    learnt, every, losses = taught(batch), components(student), []
    with _trainable(student) as parameters:
        optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
        with bar(settings.steps, "interchange", progress) as shown:
            for _ in range(settings.steps):
                base, source, other = torch.randint(len(batch), (3, settings.batch_size), generator=generator)
                chosen = _nodes(every, settings.several, generator)
                size = batch.tokens[base].shape
                mixed = [_where(size, settings.mixed, generator, whole=False) for _ in range(2)]
                where = _where(size, settings.partial, generator, whole=True)
                bases, sources = (
                    _mix(batch.tokens[rows], batch.tokens[other], half)
                    for rows, half in zip((base, source), mixed, strict=True)
                )
                loss = _loss(
                    student, teacher, bases, sources, learnt[base], learnt[source], chosen, where, settings.sure
                )
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
                shown.update()
    return losses


@contextmanager
def _trainable(model: HookedModel) -> Iterator[list[Tensor]]:
    """The model's parameters, which ask for gradients in this block alone."""
    former = [(parameter, parameter.requires_grad) for _, parameter in model.named_parameters()]
    try:
        yield [parameter.requires_grad_(True) for parameter, _ in former]
    finally:
        for parameter, before in former:
            parameter.requires_grad_(before)


@on_model("student", "teacher")
@torch.no_grad()
def fidelity(
    student: HookedModel,
    teacher: HookedModel,
    base: TokenBatch,
    source: TokenBatch,
    *,
    halved: bool = False,
    sure: float = 3.0,
) -> Fidelity:
    """Interchange every node of both, from `source` into `base` row by row, and compare the answers.

    halved: at half of the positions, drawn for each row, instead of all, which a student only follows that has the
    same things at the same positions. Only answers of which the teacher is sure (by `sure` logits) are counted. Raises
    ValueError if the nodes of the two are not the same.
    """
    if components(student) != components(teacher):
        raise ValueError(f"the student has nodes {components(student)}, the teacher {components(teacher)}")
    read = taught(base)
    own = {id(model): _sources(model, source.tokens)[1] for model in (student, teacher)}
    before = whole_text(teacher, base.tokens)[read].argmax(-1)
    followed, kept, changes = {}, {}, {}
    half = _where(base.tokens.shape, 1.0, torch.Generator().manual_seed(0), whole=False)
    for node in (EMBED, *components(student)):
        if node == EMBED:
            tokens = _mix(base.tokens, source.tokens, half)
            answers, wanted = (whole_text(model, tokens)[read] for model in (student, teacher))
        else:
            answers, wanted = (
                interchanged(model, base.tokens, own[id(model)], node, half if halved else None)[read]
                for model in (student, teacher)
            )
        certain, truth = _sure(wanted, sure), wanted.argmax(-1)
        right, moved = answers.argmax(-1) == truth, truth != before
        followed[node] = float(right[certain & moved].float().mean())
        kept[node] = float(right[certain & ~moved].float().mean())
        changes[node] = int((certain & moved).sum())
    return Fidelity(followed, kept, len(base), changes)


@on_model()
def interchanged(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    source: Activations,
    changed: str | Sequence[str],
    where: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits with the output of a node, or of several together, at all positions or those in `where`, as it is in
    `source`: activations by hook name. Raises ValueError if a node is neither a head nor an MLP."""
    hooks = [_hook(node) for node in ([changed] if isinstance(changed, str) else changed)]

    def swap(value: Tensor, hook: object, name: str, number: int | None) -> Tensor:
        chosen = torch.ones_like(tokens, dtype=torch.bool) if where is None else where.to(tokens.device)
        if number is None:
            return torch.where(chosen[:, :, None], source[name], value)
        mine = torch.arange(value.shape[2], device=value.device) == number
        return torch.where((chosen[:, :, None] & mine)[..., None], source[name], value)

    swaps = [(name, partial(swap, name=name, number=number)) for name, number in hooks]
    return model.run_with_hooks(tokens, fwd_hooks=swaps, **unpadded(model, tokens))


def _loss(
    student: HookedModel,
    teacher: HookedModel,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    of_base: Bool[Tensor, "batch pos"],
    of_source: Bool[Tensor, "batch pos"],
    chosen: list[str],
    where: Bool[Tensor, "batch pos"],
    sure: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the teacher's answers to the sources, and to the bases under each interchange."""
    logits, own = _sources(student, source)
    with torch.no_grad():
        answers, teachers = _sources(teacher, source)
        wanted = interchanged(teacher, base, teachers, chosen, where)[of_base]
    changed = interchanged(student, base, own, chosen, where)[of_base]
    return _alike(logits[of_source], answers[of_source], sure) + _alike(changed, wanted, sure)


def _alike(answers: Float[Tensor, "row vocab"], wanted: Float[Tensor, "row vocab"], sure: float) -> Float[Tensor, ""]:
    """Cross-entropy of the teacher's answers where it is sure; 0 where it never is."""
    certain = _sure(wanted, sure)
    if not certain.any():
        return answers.new_zeros(())
    return F.cross_entropy(answers[certain], wanted[certain].argmax(-1))


def _mix(
    base: Int[Tensor, "batch pos"], source: Int[Tensor, "batch pos"], where: Bool[Tensor, "batch pos"]
) -> Int[Tensor, "batch pos"]:
    return torch.where(where.to(base.device), source, base)


def _nodes(every: tuple[str, ...], several: float, generator: torch.Generator) -> list[str]:
    """One of the nodes, or with chance `several` each of them by chance, and one at least."""
    chosen = [every[int(torch.randint(len(every), (), generator=generator))]]
    if float(torch.rand((), generator=generator, dtype=torch.float32)) < several:
        drawn = [float(torch.rand((), generator=generator, dtype=torch.float32)) < 0.5 for _ in every]
        chosen += [node for node, take in zip(every, drawn, strict=True) if take and node not in chosen]
    return chosen


def _where(shape: torch.Size, share: float, generator: torch.Generator, *, whole: bool) -> Bool[Tensor, "batch pos"]:
    """Half of the positions, in a `share` of the rows; in the others all (`whole`) or none."""
    halved = torch.rand(shape[0], 1, generator=generator, dtype=torch.float32) < share
    half = torch.rand(shape, generator=generator, dtype=torch.float32) < 0.5
    return torch.where(halved, half, torch.tensor(whole))


def _sources(model: HookedModel, tokens: Tensor) -> tuple[Tensor, Activations]:
    """Logits, and the output of every head (before W_O) and MLP, with their gradients."""
    kept: Activations = {}

    def keep(value: Tensor, hook: Any) -> None:
        kept[hook.name] = value

    names = {_hook(node)[0] for node in components(model)}
    hooks: list[tuple[str, Callable[..., Tensor | None]]] = [(name, keep) for name in sorted(names)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks, **unpadded(model, tokens)), kept


def _hook(node: str) -> tuple[str, int | None]:
    """Place of a node's output: the hook, and the head's number. Raises ValueError for another node."""
    if found := HEAD.fullmatch(node):
        return f"blocks.{found[1]}.attn.hook_z", int(found[2])
    if found := MLP.fullmatch(node):
        return f"blocks.{found[1]}.hook_mlp_out", None
    raise ValueError(f"{node!r} is neither a head nor an MLP")


def _sure(logits: Float[Tensor, "row vocab"], least: float) -> Bool[Tensor, " row"]:
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return first - second > least


def _rate(step: int, config: InterchangeConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
