"""Quizzes that models make for one another: sampled by one of them, kept where the group agrees but for a few.

The protocol is F. Fleuret's (culture, public domain). A quiz is worth keeping if most models answer it surely and at
least one surely does not: it is hard, and still has an answer.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from interp_kit.core.files import replacing
from interp_kit.core.identity import derive_seed
from interp_kit.engine.decode import decode
from interp_kit.models.convert import convert_mygpt
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.mygpt import MyGPT
from interp_kit.models.tensor_files import CheckpointError, read_torch
from interp_kit.studies.culture.reading import Reader, readable
from interp_kit.tasks.culture import grids

QUIZZES = "c_quizzes.pth"
SLACK = 1e-9  # of sums of probabilities, so that rounding screens nothing out
MAKING, FORWARD, BACKWARD = (grids.structure(name) for name in ("f_B f_A A B", "A f_A B f_B", "f_A A f_B B"))


@dataclass(frozen=True)
class Agreement:
    """Rule for keeping a quiz: every model's probability of solving it is `sure` or more, or `lost` or less, and the
    number of the latter is at least 1 and at most `max_fail`. rounds: draws of the noise that the probability is
    averaged over. temperature: of the first grid; all others are sampled at 1."""

    sure: float = 0.95
    lost: float = 0.5
    max_fail: int = 1
    rounds: int = 3
    temperature: float = 1.5

    def __post_init__(self) -> None:
        if self.max_fail < 1 or self.rounds < 1 or not 0 <= self.lost < self.sure <= 1 or self.temperature <= 0:
            raise ValueError(f"{self} keeps nothing: one model has to fail, and sure is above lost")

    def kept(self, p: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether each quiz is kept, of (model, n) probabilities."""
        return self.open(p) & ((p <= self.lost).sum(0) >= 1)

    def open(self, p: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether each quiz may still be kept, of (model, n) probabilities by the first of the models."""
        decided = ((p >= self.sure) | (p <= self.lost)).all(0)
        return decided & ((p <= self.lost).sum(0) <= self.max_fail)


class Batch(NamedTuple):
    """quizzes: (k, 404) those that are kept; p: (model, k) their probabilities; judged: (n, 404) those that were not
    trivial, and so judged; made: how many were made so far."""

    quizzes: NDArray[np.int64]
    p: NDArray[np.float64]
    judged: NDArray[np.int64]
    made: int


def make_quizzes(model: MyGPT, n: int, seed: int, temperature: float = 1.5) -> NDArray[np.int64]:
    """At most n quizzes (k, 404), in canonical order, sampled by a model that has learned to make them.

    f_B is sampled first, at `temperature`, then f_A, A and B; then f_B anew, from the others. Quizzes whose A equals
    f_A, or B f_B, are dropped, and those in which the model wrote a marker where a colour belongs.
    """
    hooked = convert_mygpt(model)
    blank = np.zeros((n, len(grids.GRIDS), grids.CELLS), np.int64)
    first, later = grids.cells_of(np.eye(4, dtype=bool)[0]), grids.predicted_cells(MAKING)
    heat = np.where(np.arange(grids.LENGTH) < grids.QUARTER, temperature, 1.0)
    prompt = grids.reconfigure(grids.compose(blank), MAKING)
    made = _sample(hooked, prompt, first | later, heat, derive_seed(seed, "make"))
    again = grids.reconfigure(made, FORWARD)
    answer = grids.predicted_cells(FORWARD)
    quizzes = _sample(hooked, again, answer, np.ones(grids.LENGTH), derive_seed(seed, "answer"))
    cells = grids.split(quizzes)
    a, f_a, b, f_b = cells.transpose(1, 0, 2)
    return quizzes[(a != f_a).any(1) & (b != f_b).any(1) & (cells < grids.COLOURS).all((1, 2))]


def _sample(
    model: HookedModel, quizzes: NDArray[np.int64], free: NDArray[np.bool_], heat: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """(n, 404) the quizzes with their free cells sampled at the temperature of each position."""
    tokens = torch.as_tensor(np.pad(quizzes, ((0, 0), (1, 0))))
    cells = torch.as_tensor(np.pad(free, (1, 0)))
    temperature = torch.as_tensor(np.pad(heat, (1, 0), constant_values=1.0)).float()
    return decode(model, tokens, cells, temperature=temperature, seed=seed, progress=False).tokens[:, 1:].cpu().numpy()


@torch.inference_mode()
def solving_probability(
    model: MyGPT,
    quizzes: NDArray[np.integer],
    seed: int,
    *,
    rounds: int = 3,
    noise: float = grids.NOISE,
    batch: int = 4,
) -> NDArray[np.float64]:
    """(n,) probability that the model samples f_B from A f_A B and B from f_A A f_B, both all right: the product of the
    two, averaged over rounds of noise on the third grid. The noise on a quiz follows from `seed` and the quiz alone, so
    that whoever has a quiz and the seed finds the same probability, whichever other quizzes it came with."""
    model.eval()
    read = Reader(model) if readable(model) else model
    rngs = [np.random.default_rng(derive_seed(seed, "noise", quiz.astype(np.uint8).tobytes())) for quiz in quizzes]
    clean = [grids.reconfigure(quizzes, structure) for structure in (FORWARD, BACKWARD)]
    where = [grids.noisy_cells(structure) for structure in (FORWARD, BACKWARD)]
    shape = (len(quizzes), rounds, grids.LENGTH)  # rounds of a quiz beside one another: a Reader runs what they share
    noisy = [np.empty(shape, clean[0].dtype) for _ in clean]
    for (turn, k), (row, rng) in itertools.product(itertools.product(range(rounds), (0, 1)), enumerate(rngs)):
        noisy[k][row, turn] = grids.add_noise(clean[k][row], where[k], rng, noise)
    log_p = np.zeros((len(quizzes), rounds))
    for k, part in itertools.product((0, 1), range(0, len(quizzes), batch)):
        rows = slice(part, part + batch)
        tokens = torch.as_tensor(noisy[k][rows]).long().flatten(0, 1)
        log_probs = read(tokens)[:, -grids.CELLS :].double().log_softmax(-1).unflatten(0, (-1, rounds))
        truth = torch.as_tensor(clean[k][rows, -grids.CELLS :]).long()[:, None, :, None].expand(-1, rounds, -1, -1)
        log_p[rows] += log_probs.gather(-1, truth)[..., 0].sum(-1).numpy()
    return np.exp(log_p).mean(1)


def judge(
    models: Sequence[MyGPT], quizzes: NDArray[np.int64], seed: int, rule: Agreement
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(k,) which of n quizzes the models keep, and their (model, k) probabilities of solving them.

    The models judge one after the other, all with the same noise; a quiz that can no longer be kept is not shown to
    the next. Two rounds of noise come first: they tell which model cannot be sure any more, and which cannot be lost,
    whatever the others bring. Most quizzes that no model can be lost at are done with then.
    """
    at, unsure, lost = np.arange(len(quizzes)), np.zeros(len(quizzes), int), np.zeros(len(quizzes), int)
    first = min(2, rule.rounds)
    enough = rule.rounds * rule.sure - (rule.rounds - first)
    for model in models:
        total = first * solving_probability(model, quizzes[at], seed, rounds=first)
        unsure[at] += total < enough - SLACK
        lost[at] += total <= rule.rounds * rule.lost + SLACK
        at = at[unsure[at] <= rule.max_fail]
    at = at[lost[at] >= 1]
    p = np.zeros((0, len(at)))
    for model in models:
        own = solving_probability(model, quizzes[at], seed, rounds=rule.rounds)
        p = np.concatenate([p, own[None]])
        open_ = rule.open(p)
        at, p = at[open_], p[:, open_]
    kept = rule.kept(p)
    return at[kept], p[:, kept]


def agreed_quizzes(
    models: Sequence[MyGPT],
    wanted: int,
    seed: int,
    rule: Agreement | None = None,
    *,
    makers: Sequence[MyGPT] | None = None,
    made: int = 200,
    most: int = 20_000,
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """(k, 404) quizzes that the group keeps, their (model, k) probabilities, and how many were made to find them.

    Quizzes are made `made` at a time, each time by one of `makers` drawn at random, by default of the group itself,
    until `wanted` are kept or `most` were made. No quiz is kept twice. The probabilities are those that
    `solving_probability` gives with `judging_seed(seed)`. Raises ValueError if none are wanted or made.
    """
    if min(wanted, most, made) < 1:
        raise ValueError(f"a round of {wanted} quizzes wanted, {made} made at a time and {most} at most")
    kept: list[Batch] = []
    for batch in batches(models, seed, rule or Agreement(), makers=makers, made=made):
        kept.append(batch)
        if sum(len(one.quizzes) for one in kept) >= wanted or batch.made >= most:
            break
    quizzes, p = np.concatenate([one.quizzes for one in kept]), np.concatenate([one.p for one in kept], axis=1)
    return quizzes[:wanted], p[:, :wanted], kept[-1].made


def batches(
    models: Sequence[MyGPT],
    seed: int,
    rule: Agreement,
    *,
    makers: Sequence[MyGPT] | None = None,
    made: int = 200,
    start: int = 0,
    known: NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """Quizzes made `made` at a time and judged, without end, as `agreed_quizzes` has them; from the one behind the
    `start` first on, the same whether or not those were made before. None is given twice, nor one of `known` (n, 404),
    the quizzes kept before."""
    makers = models if makers is None else makers
    seen = {quiz.tobytes() for quiz in ([] if known is None else known)}
    rng = np.random.default_rng(derive_seed(seed, "makers"))
    for count in itertools.count(0, made):
        maker = makers[int(rng.integers(len(makers)))]
        if count < start:
            continue
        quizzes = make_quizzes(maker, made, derive_seed(seed, "round", count), rule.temperature)
        at, p = judge(models, quizzes, judging_seed(seed), rule)
        new = []
        for i, quiz in enumerate(quizzes[at]):
            if quiz.tobytes() not in seen:
                seen.add(quiz.tobytes())
                new.append(i)
        yield Batch(quizzes[at[new]], p[:, new], quizzes, count + made)


def judging_seed(seed: int) -> int:
    """The seed of the noise with which a round of that seed is judged."""
    return derive_seed(seed, "judging")


def save_quizzes(path: str | Path, train: Sequence[NDArray[np.int64]], test: Sequence[NDArray[np.int64]]) -> None:
    """Write quizzes as the original does: a list of training and a list of test tensors, int64, canonical order."""
    lists = tuple([torch.as_tensor(grids.check(part)).long() for part in parts] for parts in (train, test))
    with replacing(path) as aside:
        torch.save(lists, aside)


def save_round(path: str | Path, quizzes: NDArray[np.int64]) -> None:
    """Write the quizzes (n, 404) of a round: four fifths to train on, and the last fifth for tests."""
    cut = -(-len(quizzes) * 4 // 5)
    save_quizzes(path, [quizzes[:cut]], [quizzes[cut:]])


def load_quizzes(path: str | Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n, 404) training and (m, 404) test quizzes of a `c_quizzes.pth`. Nothing in the file is executed.

    Raises CheckpointError naming the file, and list, row and position of a token or marker that is out of place.
    """
    path = Path(path)
    found = read_torch(path, "quizzes")
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(part, list) for part in found)):
        raise CheckpointError(f"{path}: expected a list of training and a list of test tensors")
    parts = []
    for name, tensors in zip(("training", "test"), found, strict=True):
        rows = []
        for n, tensor in enumerate(tensors):
            if not isinstance(tensor, torch.Tensor):
                raise CheckpointError(f"{path}: {name} entry {n} is a {type(tensor).__name__}, no tensor")
            if tensor.is_floating_point() or tensor.dtype == torch.bool:  # numpy has no bfloat16
                raise CheckpointError(f"{path}, {name} tensor {n}: expected integers, got {tensor.dtype}")
            try:
                rows.append(grids.check(tensor.numpy(), f"{path}, {name} tensor {n}"))
            except ValueError as error:
                raise CheckpointError(str(error)) from error
        parts.append(np.concatenate(rows).astype(np.int64) if rows else np.zeros((0, grids.LENGTH), np.int64))
    return parts[0], parts[1]
