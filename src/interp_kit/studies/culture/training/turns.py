"""Several GPTs learn in rotation, the weakest first: a turn is some thousand fresh quizzes, an evaluation, two files.

`gpt_NNN.pth` is the model in the original's format, `gpt_NNN.state` what training goes on from, `curve.jsonl` holds one
line a turn. A run that is killed goes on from the last turn of each model. Turns run in processes of one thread each:
on a CPU two such processes train faster than one of two threads, and on a GPU, which a small network does not fill, as
many as there are models train side by side. Five like the shipped ones, on one GPU, by time:

    interp-kit train-culture --out runs/culture --ids 0 1 2 3 --device cuda --seconds 400 --seed 2026
    interp-kit train-culture --out runs/maker --ids 4 --device cuda --seconds 400 --seed 2026 --finish 0 --making 0.5 \\
        --share 0.35 --smudge 0.02
"""

import fcntl
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import distributed

from interp_kit.core.config import check_fields
from interp_kit.core.files import cannot_write, check_writable, parse_json, read_bytes, read_json, write_json
from interp_kit.core.identity import derive_seed
from interp_kit.core.parallel import Pool
from interp_kit.models.mygpt import load_mygpt, save_mygpt
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.studies.culture.training.draws import Chunk, draw_chunk, quiz_batch
from interp_kit.studies.culture.training.forward import answers
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import PRESETS
from interp_kit.studies.culture.training.quiz_making import QUIZZES, Agreement, agreed_quizzes, load_quizzes, save_round
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS

WHOLE = 5 / 6
RUN = "config.json"  # what was asked of a run


@dataclass(frozen=True)
class Point:
    """One evaluation.

    loss: mean over the turn, in nats; None if the turn had no step left (its line was lost to a kill, and made anew).
    accuracy: mean probability that a sampled answer is right (the original's measure, exact); greedy: share of greedy
    answers that are; by_task, by_structure: accuracy; right: share of training answers that were, by task and
    structure, None where unrecorded; seconds: of the turn; revived: mean share of hidden units that were off and began
    anew, each time; spent: seconds of training so far.
    """

    id: int
    seen: int
    loss: float | None
    accuracy: float
    greedy: float
    by_task: dict[str, float]
    by_structure: dict[str, float]
    right: list[list[float]] | None
    seconds: float
    revived: float = 0.0
    spent: float = 0.0


def turn(config: CultureConfig, id: int, directory: Path, meeting: Path | None = None, rank: int = 0) -> Point:
    """Train one model for one turn, evaluate it, write its files and its line of the curve.

    meeting: a file by which the processes that share the steps find one another, this being number `rank` of them; the
    first evaluates and writes.
    """
    if meeting is not None:
        distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=config.shards)
    products = torch.get_float32_matmul_precision()
    try:
        if torch.device(config.device).type != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32
        return _turn(config, id, directory, rank if meeting is not None else 0)
    finally:
        # both hold for the whole process, which may have other work
        torch.set_float32_matmul_precision(products)
        torch.set_flush_denormal(False)
        if meeting is not None:
            distributed.destroy_process_group()


def _turn(config: CultureConfig, id: int, directory: Path, rank: int) -> Point:
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # momentum of dead units decays into denormals, which made steps three times slower
    started = time.monotonic()
    state, curve = directory / f"gpt_{id:03d}.state", directory / "curve.jsonl"
    if state.exists():
        learner = Learner.load(state, config.device, config.precision)
        if learner.preset != PRESETS[config.preset]:
            raise ValueError(f"{state} is of {learner.preset}, not of preset {config.preset!r}")
    else:
        seed = model_seed(config.seed, id)
        learner = Learner(
            PRESETS[config.preset], seed=seed, budget=config.budget, device=config.device, precision=config.precision
        )
    learner.budget, learner.seconds, learner.compiled = config.budget, config.seconds, config.compiled
    rng = np.random.default_rng(derive_seed(config.seed, "training", id, learner.seen, rank))
    torch.manual_seed(derive_seed(config.seed, "dropout", id, learner.seen))
    known = load_quizzes(directory / QUIZZES)[0] if (directory / QUIZZES).exists() else np.zeros((0, grids.LENGTH), int)
    loss, revived = _learn(config, learner, known, rng)
    point = _evaluate(config, id, learner, loss, started, revived)
    if rank:
        return point
    save_mygpt(learner.model, point.accuracy, directory / f"gpt_{id:03d}.pth")
    learner.save(state)
    _append(curve, point)
    return point


def model_seed(seed: int, id: int) -> int:
    """The seed of a model's weights, of that of the run and its number."""
    return derive_seed(seed, "gpt", id) % 2**31


def _learn(
    config: CultureConfig, learner: Learner, known: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float | None, float]:
    """Take the steps of a turn. Gives the mean loss, None without a step, and the mean share of units that were off.

    While a chunk of quizzes is learned the next is drawn, by what was wrong when the former began, so that draws do not
    depend on who is faster. The first step of a turn, in which a process may compile, does not count as time.
    """
    losses, revived, size = [], [], learner.preset.batch
    last = learner.seen + config.turn if config.seconds else min(learner.seen + config.turn, config.budget)
    with ThreadPoolExecutor(1) as background:

        def draw(seen: int) -> Future[Chunk]:
            n = -(-min(64 * size, last - seen) // config.shards)
            return background.submit(draw_chunk, config, n, learner.right.copy(), learner.done(seen), known, rng)

        ahead = draw(learner.seen) if learner.seen < last else None
        while ahead is not None and learner.done() < 1:
            chunk = ahead.result()
            after = learner.seen + len(chunk) * config.shards
            ahead = draw(after) if after < last else None
            if learner.preset.optimiser == "muon" and learner.rate() > 0.2:
                revived.append(learner.revive(torch.as_tensor(chunk.noisy[:16])))
            for rows in np.array_split(np.arange(len(chunk)), max(1, len(chunk) * config.shards // size)):
                if learner.done() >= 1:
                    break
                began, whole = time.monotonic(), WHOLE if learner.done() >= 1 - config.finish else 0.0
                tokens, targets, weight = (
                    torch.as_tensor(part[rows]) for part in (chunk.noisy, chunk.clean, chunk.weight)
                )
                loss, correct = learner.step(tokens, targets, weight, whole=whole)
                learner.note(chunk.task[rows], chunk.structure[rows], correct, ~chunk.made[rows])
                learner.spent += time.monotonic() - began if losses else 0.0
                losses.append(loss)
    return float(np.mean(losses)) if losses else None, float(np.mean(revived or [0.0]))


def _append(curve: Path, point: Point) -> None:
    """Add a line. One that a kill has cut before is dropped."""
    line = json.dumps(asdict(point), allow_nan=False).encode() + b"\n"
    try:
        with open(curve, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # other processes add theirs
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)
    except OSError as error:
        raise cannot_write(curve, error) from error


def _evaluate(
    config: CultureConfig, id: int, learner: Learner, loss: float | None, started: float, revived: float
) -> Point:
    """On fresh quizzes, the same for every turn and model, uniform over tasks and evaluated structures, with noise."""
    rng = np.random.default_rng(derive_seed(config.seed, "evaluation"))
    task = np.arange(config.tested) % len(TASKS)
    structure = np.array(grids.EVALUATED)[np.arange(config.tested) // len(TASKS) % len(grids.EVALUATED)]
    noisy, clean = (
        torch.as_tensor(x, device=config.device).long() for x in quiz_batch(task, structure, rng, config.noise)
    )
    greedy, sampled = answers(learner.model, noisy, clean, 8 if learner.on_cpu else 256)
    return Point(
        id=id,
        seen=learner.seen,
        loss=loss,
        accuracy=float(sampled.mean()),
        greedy=float(greedy.mean()),
        by_task={name: round(float(sampled[task == t].mean()), 4) for t, name in enumerate(TASKS)},
        by_structure={
            grids.STRUCTURES[s].name: round(float(sampled[structure == s].mean()), 4) for s in grids.EVALUATED
        },
        right=np.round(learner.right, 4).tolist(),
        seconds=time.monotonic() - started,
        revived=revived,
        spent=learner.spent,
    )


def read_curve(directory: str | Path) -> list[Point]:
    """Every evaluation so far, in the order in which they were made. A last line cut off by a kill is left out.

    Raises:
        ValueError: Any other line is damaged. It names the file and the line.
    """
    path = Path(directory) / "curve.jsonl"
    if not path.exists():
        return []
    *lines, cut = read_bytes(path).split(b"\n")
    if cut:
        if not cut.startswith(b"{"):
            raise ValueError(f"{path}, line {len(lines) + 1} is damaged: {cut[:20]!r} begins no point")
        logger.warning("{}: a line that was cut off is left out", path)
    points = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        values = parse_json(line.replace(b'"loss": NaN', b'"loss": null'), where)  # earlier versions wrote it
        if isinstance(values, dict):
            values = {"revived": 0.0, "spent": 0.0} | values  # nor these
        points.append(_checked(Point(**check_fields(Point, values, where)), where))
    return points


def _checked(point: Point, where: str) -> Point:
    """The point. Raises ValueError naming a number in it that cannot be."""
    shares: dict[str, Any] = {"accuracy": point.accuracy, "greedy": point.greedy, "revived": point.revived}
    shares |= {"by_task": point.by_task, "by_structure": point.by_structure}
    if point.right is not None:
        shares["right"] = point.right
    for name, share in shares.items():
        values = np.array(list(share.values()) if isinstance(share, dict) else share, dtype=object).ravel()
        if not len(values) or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
            raise ValueError(f"{where}: {name} is {str(share)[:50]}, expected shares from 0 to 1")
    for name in ("id", "seen", "seconds", "loss", "spent"):
        value = getattr(point, name)
        if value is not None and not 0 <= value < 1e300:
            raise ValueError(f"{where}: {name} is {str(value)[:20]}, expected a number of at least 0")
    return point


def make_round(config: CultureConfig, directory: Path) -> int:
    """Let the models make quizzes for one another, and keep those they agree on: four fifths to train on, a fifth for
    tests, in `c_quizzes.pth`, which is not written where there are none. Gives how many were kept."""
    models, makers = (
        [load_mygpt(directory / f"gpt_{id:03d}.pth")[0] for id in ids]
        for ids in (config.ids, config.makers or config.ids)
    )
    rule = Agreement(max_fail=config.max_fail)
    quizzes, _, made = agreed_quizzes(models, config.quizzes, derive_seed(config.seed, "making"), rule, makers=makers)
    if len(quizzes) == 0:
        logger.warning("none of {} quizzes was kept; {} is not written", made, directory / QUIZZES)
        return 0
    save_round(directory / QUIZZES, quizzes)
    logger.info("{} quizzes kept of {} made", len(quizzes), made)
    return len(quizzes)


def train(config: CultureConfig, directory: str | Path, report: Callable[[Point], None] | None = None) -> list[Point]:
    """Train every model to its budget, turn by turn, the weakest of those at rest first. Goes on where it stopped.

    Once all models have passed the threshold they make quizzes, which from then on are at most half of what they learn
    from. A round of which none is kept is tried again when every model has had its turn. Raises ValueError for an
    unknown preset or no model.
    """
    if config.preset not in PRESETS:
        raise ValueError(f"no preset {config.preset!r}; there are {', '.join(PRESETS)}")
    if not config.ids or config.processes < config.shards:
        raise ValueError("training needs a model, and a worker for each shard")
    if config.tested < (least := len(TASKS) * len(grids.EVALUATED)):
        raise ValueError(f"tested is {config.tested}, it must be at least {least}: a quiz of each task and structure")
    if config.finish and config.making:
        raise ValueError(f"finish is {config.finish} and making {config.making}; set one of them to 0")
    directory = Path(directory)
    _check_out(config, directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RUN, asdict(config))
    latest = {point.id: point for point in read_curve(directory)}
    running: dict[Future[Point], tuple[int, int]] = {}
    tried: dict[int, int] = {}  # what each model had seen at the last round
    with TemporaryDirectory() as meetings, Pool(config.processes, config.threads) as pool:
        while True:
            making = config.quizzes > 0 and not (directory / QUIZZES).exists() and passed(config, latest)
            making = making and all(latest[id].seen > tried.get(id, -1) for id in config.ids)
            for id in sorted(config.ids, key=lambda i: _strength(latest.get(i))):
                open_ = not making and not _finished(config, latest.get(id))
                free = len(running) + config.shards <= config.processes and id not in {i for i, _ in running.values()}
                if open_ and free:
                    seen = latest[id].seen if id in latest else 0
                    meeting = Path(meetings, f"{id}-{seen}") if config.shards > 1 else None
                    for rank in range(config.shards):
                        running[pool.submit(turn, config, id, directory, meeting, rank)] = id, rank
            if not running and making:
                tried = {id: latest[id].seen for id in config.ids}
                make_round(config, directory)
                continue
            if not running:
                return read_curve(directory)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                id, rank = running.pop(future)
                point = future.result()
                if rank == 0:
                    latest[id] = point
                    (report or _log)(point)


def _check_out(config: CultureConfig, directory: Path) -> None:
    """Raise OSError if a file that training would replace was not written by a training in this folder."""
    path = check_writable(directory / RUN)
    former: set[int] = set()
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict) or not {"ids", "preset", "budget", "turn"} <= set(found):
            raise cannot_write(path, FileExistsError("it is of no training of culture models; name another folder"))
        former = set(found["ids"])
    for id in config.ids:
        model = directory / f"gpt_{id:03d}.pth"
        if model.exists() and not model.with_suffix(".state").exists() and id not in former:
            raise cannot_write(model, FileExistsError("it was not trained in this folder; name another folder"))


def _finished(config: CultureConfig, point: Point | None) -> bool:
    """True if a model has all of its budget, or time, behind it."""
    if point is None:
        return False
    return point.spent >= config.seconds if config.seconds else point.seen >= config.budget


def _strength(point: Point | None) -> tuple[float, int]:
    return (point.accuracy, point.seen) if point else (-1.0, 0)


def _log(point: Point) -> None:
    logger.info(
        "gpt {:03d}: {} quizzes, loss {}, accuracy {:.3f} sampled, {:.3f} greedy, {:.0f} s",
        point.id, point.seen, "unknown" if point.loss is None else f"{point.loss:.4f}", point.accuracy, point.greedy,
        point.seconds,
    )  # fmt: skip


def passed(config: CultureConfig, latest: Mapping[int, Point]) -> bool:
    """True if the latest evaluation of every model reaches the threshold, so that they may make quizzes."""
    return all(id in latest and latest[id].accuracy >= config.threshold for id in config.ids)
