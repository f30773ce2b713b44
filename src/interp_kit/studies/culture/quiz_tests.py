"""Evaluation of models on quizzes: the evaluation of the culture project, with counts, intervals and a ceiling.

World quizzes, of which up to half give way to culture quizzes where there are any, each asked in one of the four
structures that end in the grid to be predicted; a quiz is right if all of its 404 tokens are. One pass over the true
quiz decides what decoding would write: the truth is a draft, of which decoding keeps a cell as long as its own choice
is the same (as in speculative decoding), so the answer is right if no choice differs.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, SECONDS
from interp_kit.engine.decode import decode
from interp_kit.models.checkpoints import provenance
from interp_kit.models.convert import convert_mygpt
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.mygpt import MyGPT
from interp_kit.studies.culture.reading import Reader, readable
from interp_kit.studies.culture.scores import CultureTests
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.rectangles import CELLS
from interp_kit.tasks.culture.solver import solve
from interp_kit.tasks.culture.world import TASKS, draw_worlds

MADE = "culture"  # the task of quizzes that models made
DECODED_TOGETHER = 64
# (batch, 404) quizzes -> (batch, 404, 15) logits, those at t predicting token t from the tokens before it
Predict = Callable[[Tensor], Tensor]
Model = MyGPT | HookedModel | Predict
Key = tuple[int, int]  # of model, and of the first of the quizzes that run together
Run = Callable[[Mapping[Key, tuple[Any, ...]], int, str], Iterator[tuple[Key, NDArray[np.float64]]]]


@dataclass(frozen=True)
class QuizSet:
    """n distinct quizzes to be asked. clean: (n, 404) in the structure asked; task: (n,) index in TASKS, len(TASKS) for
    a quiz that models made; structure: (n,) index in STRUCTURES; noise: levels; read: (level, n, 404) as models read
    them."""

    clean: NDArray[np.uint8]
    task: NDArray[np.int64]
    structure: NDArray[np.int64]
    noise: tuple[float, ...]
    read: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.clean)


def draw_quizzes(
    n: int,
    seed: int = 0,
    *,
    noise: Sequence[float | int] = (0.0, grids.NOISE),
    culture_quizzes: Any = None,
) -> QuizSet:
    """n distinct quizzes, each in one of the evaluated structures, drawn uniformly.

    culture_quizzes: (m, 404) quizzes that models made, in any structure; as many of the distinct ones as there are,
    up to half of n, take the place of world quizzes. noise: probabilities with which a cell of a structure's noisy grid
    becomes a random colour. Raises ValueError for n below 1, a noise outside 0..1 or none, and anything but quizzes.
    """
    if n < 1:
        raise ValueError(f"a test needs at least one quiz, got n = {n}")
    if not noise or any(not 0 <= p <= 1 for p in noise):
        raise ValueError(f"noise is a probability, got {', '.join(map(str, noise)) or 'none'}")
    rng = np.random.default_rng(derive_seed(seed, "quizzes"))
    made = np.zeros((0, grids.LENGTH), np.uint8)
    if culture_quizzes is not None and len(culture_quizzes):
        given = grids.check(np.asarray(culture_quizzes), "culture quizzes")
        distinct = np.unique(grids.reconfigure(given, 0), axis=0).astype(np.uint8)
        made = distinct[rng.permutation(len(distinct))[: n // 2]]
    quizzes, task = made, np.full(len(made), len(TASKS))
    while len(quizzes) < n:  # world quizzes repeat hardly ever
        drawn = rng.integers(len(TASKS), size=n - len(quizzes))
        quizzes = np.concatenate([quizzes, draw_worlds(drawn, rng).quizzes()])
        quizzes, first = np.unique(quizzes, axis=0, return_index=True)
        task = np.concatenate([task, drawn])[first]
    order = rng.permutation(n)
    structure = np.array(grids.EVALUATED)[rng.integers(len(grids.EVALUATED), size=n)]
    clean = grids.reconfigure(quizzes[order], structure)
    read = []
    for p in noise:
        rng = np.random.default_rng(derive_seed(seed, "noise", float(p)))
        read.append(grids.add_noise(clean, grids.noisy_cells(structure), rng, p))
    return QuizSet(clean, task[order], structure, tuple(map(float, noise)), np.stack(read))


def run_tests(
    models: Model | Sequence[Model] | Mapping[str, Model],
    n: int = 2000,
    seed: int = 0,
    *,
    greedy: bool = False,
    noise: Sequence[float | int] | float | int = (0.0, grids.NOISE),
    culture_quizzes: Any = None,
    decoded: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = PROGRESS,
) -> CultureTests:
    """Ask models n quizzes (see `draw_quizzes`), the same for all, and count what they solve.

    models: MyGPTs, HookedTransformers (edits that are active count), or functions from (batch, 404) quizzes to logits,
    those at t predicting token t; a mapping names them. An untrained model among them is a control. greedy: answers by
    argmax; else sampled at temperature 1. noise: levels of noise on the prompt, each asked of the same quizzes.
    decoded: write every answer token by token with `decode`, which is slower and has the same distribution. workers:
    threads that run at a time, by default one a core; results do not depend on them.

    Raises ValueError for no model, two of one name, logits that are not (batch, 404, 15) and, with `decoded`, a
    function; FloatingPointError naming a model that gives nan or infinite logits.
    """
    named = _named(models)
    levels = (noise,) if isinstance(noise, float | int) else tuple(noise)
    quizzes = draw_quizzes(n, seed, noise=levels, culture_quizzes=culture_quizzes)
    with (
        _without_dropout(named.values()),
        _running(workers or _cores(), progress) as run,
        ThreadPoolExecutor(1) as aside,
    ):
        ceiling = aside.submit(_ceiling, quizzes)
        found = _asked(run, named, quizzes, greedy, seed, batch_size, decoded)
    right, expected, cells, loss = found.transpose(3, 0, 1, 2)
    grid = quizzes.clean.reshape(n, len(grids.GRIDS), grids.QUARTER)[:, :, 1:]
    made = int((quizzes.task == len(TASKS)).sum())
    return CultureTests(
        models=tuple(named),
        tasks=(*TASKS, MADE) if made else TASKS,
        structures=tuple(grids.STRUCTURES[s].name for s in grids.EVALUATED),
        noise=np.array(quizzes.noise),
        task=quizzes.task,
        structure=quizzes.structure,
        right=right.astype(bool),
        expected=expected,
        cells=cells,
        loss=loss,
        copied=(grid[:, 2] == grid[:, 3]).mean(1),
        ceiling=ceiling.result(),
        config={
            "analysis": "run_tests",
            "task": "culture",
            "models": [_origin(name, model) for name, model in named.items()],
            "n": n,
            "seed": seed,
            "greedy": greedy,
            "decoded": decoded,
            "noise": list(quizzes.noise),
            "culture": made,
        },
    )


def _asked(
    run: Run, named: Mapping[str, Model], quizzes: QuizSet, greedy: bool, seed: int, batch: int | None, decoded: bool
) -> NDArray[np.float64]:
    """(model, level, quiz, 4) right, expected, cells, loss."""
    n, levels = len(quizzes), len(quizzes.noise)
    # A structure without a noisy grid reads the same at every level: such rows are run once.
    rows, quiz = quizzes.read.reshape(-1, grids.LENGTH), np.tile(np.arange(n), levels)
    _, first, again = np.unique(np.column_stack([quiz, rows]), axis=0, return_index=True, return_inverse=True)
    read, clean = (torch.as_tensor(x[first]).long() for x in (rows, quizzes.clean[quiz]))
    found, jobs = np.zeros((len(named), len(first), 4)), {}
    for m, (name, model) in enumerate(named.items()):
        chance = np.random.default_rng(derive_seed(seed, "answers", name)).random((n, CELLS))[quiz[first]]
        size = batch or (4 if _device(model) == "cpu" else 256)
        reader = Reader(model) if isinstance(model, MyGPT) and readable(model) else None
        for at in range(0, len(first), size):
            part = slice(at, at + size)
            jobs[m, at] = (_read, model, read[part], clean[part], torch.as_tensor(chance[part]), greedy, reader)
    for (m, at), values in run(jobs, len(named) * len(first), "testing"):
        found[m, at : at + len(values)] = values
    if decoded:
        jobs.clear()
        for m, (name, model) in enumerate(named.items()):
            writer = _writer(name, model)
            for at in range(0, len(first), DECODED_TOGETHER):
                part, stream = slice(at, at + DECODED_TOGETHER), derive_seed(seed, "decoded", name, at)
                jobs[m, at] = (_write, writer, read[part], clean[part], None if greedy else 1.0, stream)
        for (m, at), values in run(jobs, len(named) * len(first), "decoding"):
            found[m, at : at + len(values), 0] = values
    return found[:, again.reshape(-1)].reshape(len(named), levels, n, 4)


@torch.inference_mode()
def _read(
    model: Model, read: Tensor, clean: Tensor, chance: Tensor, greedy: bool, reader: Reader | None = None
) -> NDArray[np.float64]:
    """(batch, 4) right, expected, cells, loss of quizzes (batch, 404); chance: (batch, 100) uniform in [0, 1); reader:
    gives the logits of the model, faster."""
    log_p = logits(model, read, reader).float().cpu().log_softmax(-1)
    truth = log_p.gather(-1, clean[..., None])[..., 0].double()
    answer = truth[:, -CELLS:]
    best = log_p[:, -CELLS:].argmax(-1) == clean[:, -CELLS:]
    kept = best if greedy else chance.log() < answer
    return torch.stack([kept.all(1), answer.sum(1).exp(), best.double().mean(1), -truth.mean(1)], dim=1).numpy()


def logits(model: Model, quizzes: Tensor, reader: Reader | None = None) -> Tensor:
    """(batch, 404, 15) logits of (batch, 404) quizzes, those at t predicting token t; by `reader` if there is one.

    Raises ValueError for logits of another shape, FloatingPointError for nan or infinite ones, naming the model.
    """
    hooked = not isinstance(model, MyGPT) and hasattr(model, "cfg")
    tokens = quizzes.to(_device(model))
    found = reader(tokens) if reader is not None else model(F.pad(tokens, (1, -1)) if hooked else tokens)
    expected = (*quizzes.shape, grids.VOCABULARY)
    if tuple(found.shape) != expected:
        raise ValueError(f"{provenance(model).name} gives logits of shape {tuple(found.shape)}, expected {expected}")
    if not found.isfinite().all():
        raise FloatingPointError(f"{provenance(model).name} gives nan or infinite logits")
    return found


def _writer(name: str, model: Model) -> HookedModel:
    if isinstance(model, MyGPT):
        return convert_mygpt(model, device=_device(model))
    if not isinstance(model, HookedModel):
        raise ValueError(f"{name} is a function: only models can be decoded")
    return model


def _write(
    model: HookedModel, read: Tensor, clean: Tensor, temperature: float | None, seed: int
) -> NDArray[np.float64]:
    """(batch,) 1 where the answer that the model writes token by token is right."""
    free = torch.arange(1 + grids.LENGTH) > grids.LENGTH - CELLS
    done = decode(model, F.pad(read, (1, 0)), free, temperature=temperature, seed=seed, progress=False)
    return (done.tokens[:, -CELLS:].cpu() == clean[:, -CELLS:]).all(1).double().numpy()


@contextmanager
def _without_dropout(models: Iterable[Any]) -> Iterator[None]:
    training = [model for model in models if getattr(model, "training", False)]
    try:
        for model in training:
            model.eval()
        yield
    finally:
        for model in training:
            model.train()


@contextmanager
def _running(workers: int, progress: bool) -> Iterator[Run]:
    """A function that runs jobs, key -> (function, *arguments), in threads, and gives keys and results as they come.

    Torch's own threads are off while there are several workers: products this small gain little from a second one.
    """
    before = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers)

    def run(jobs: Mapping[Key, tuple[Any, ...]], total: int, what: str) -> Iterator[tuple[Key, NDArray[np.float64]]]:
        futures = {pool.submit(*job): key for key, job in jobs.items()}
        with tqdm(total=total, desc=what, unit=" quizzes", disable=not progress, delay=SECONDS) as bar:
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.update(len(future.result()))

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _named(models: Model | Sequence[Model] | Mapping[str, Model]) -> dict[str, Model]:
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        each = list(models) if isinstance(models, Sequence) else [models]
        names = [provenance(model).name for model in each]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two models are named {repeated[0]!r}: pass a mapping of names to models")
        named = dict(zip(names, each, strict=True))
    if not named:
        raise ValueError("no model to test")
    return named


def _device(model: Any) -> str:
    weight = next(iter(model.parameters()), None) if hasattr(model, "parameters") else None
    return "cpu" if weight is None else str(weight.device)


def _origin(name: str, model: Any) -> dict[str, Any]:
    where = provenance(model)
    return {"name": name, "sha256": where.sha256, "initialisation": where.initialisation}


def _ceiling(quizzes: QuizSet) -> NDArray[np.float64]:
    """(n,) probability of the oracle's answer given the prompt without noise; nan for quizzes that models made."""
    world = quizzes.task < len(TASKS)
    found = np.full(len(quizzes), np.nan)
    if world.any():
        canonical = grids.reconfigure(quizzes.clean[world], 0)
        found[world] = solve(canonical, quizzes.structure[world]).posterior
    return found
