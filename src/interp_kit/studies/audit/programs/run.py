"""The audit of one compiled program, or of a network trained to compute alike: a file per network, so that a run that
was cut off goes on where it stopped."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import process_time
from typing import Any, Literal

import numpy as np
import torch

from interp_kit.core.config import check_count, check_seed
from interp_kit.core.files import read_json, write_json
from interp_kit.core.parallel import in_processes
from interp_kit.core.showing import PROGRESS
from interp_kit.models.compiler import plan_of
from interp_kit.models.compiler.truth import alone
from interp_kit.models.planted import ground_truth
from interp_kit.registry.models import untrained
from interp_kit.studies.audit.case import Case, Method, auroc, true_parts, with_own_edges
from interp_kit.studies.audit.methods import METHODS
from interp_kit.studies.audit.programs.draw import CELLS, Program, draw
from interp_kit.studies.audit.programs.result import ALIKE
from interp_kit.training.interchange import InterchangeConfig, components, fidelity, train_interchange

PAIRS = 16  # of a program, at most
TIE = 1e-3
CONTROLS = len(CELLS)  # programs of which an untrained model is audited too: one of each cell
CHEAP = tuple(method for method in METHODS if not method.name.startswith("DAS"))  # DAS alone costs ten times the rest
# a network is trained for the first, and anew for the next if it does not compute as its program does
TRAININGS = tuple(InterchangeConfig(steps=n, batch_size=32, learning_rate=4e-3, warmup=50) for n in (1200, 6000))
Kind = Literal["compiled", "untrained", "trained"]


@dataclass(frozen=True)
class Work:
    """One network to audit: what stands in its file's name, and where that is."""

    kind: Kind
    number: int
    seed: int
    folder: Path

    @property
    def path(self) -> Path:
        """The file of its scores."""
        return self.folder / f"{self.kind}-{self.seed}-{self.number:04d}.json"

    @property
    def key(self) -> str:
        """Digest of all that its scores depend on, beside the code."""
        training = TRAININGS if self.kind == "trained" else None
        methods = [f"{method.level}: {method.name}" for method in CHEAP]
        return sha256(repr((methods, PAIRS, training)).encode()).hexdigest()[:16]

    def done(self) -> dict[str, Any] | None:
        """The contents of the file; None if there is none, or it is of other methods."""
        found = read_json(self.path) if self.path.exists() else None
        return found if isinstance(found, dict) and found.get("key") == self.key else None


def works(folder: str | Path, programs: int, trained: int, seed: int) -> list[Work]:
    """All networks of an audit. Raises ValueError for no program, or more trained networks than programs."""
    check_count("programs", programs)
    check_count("trained", trained, 0, programs)
    check_seed(seed)
    numbers: list[tuple[Kind, int]] = [
        *(("compiled", programs), ("untrained", min(programs, CONTROLS)), ("trained", trained))
    ]
    return [Work(kind, number, seed, Path(folder)) for kind, n in numbers for number in range(n)]


def run(work: Sequence[Work], *, jobs: int | None = 1, progress: bool = PROGRESS) -> list[dict[str, Any]]:
    """The contents of every network's file, after those without one were audited."""
    in_processes(_finish, [one for one in work if one.done() is None], jobs, name="networks", progress=progress)
    return [found for one in work if (found := one.done()) is not None]


def _finish(work: Work) -> None:
    program = draw(work.number, work.seed)
    record = {"key": work.key, "kind": work.kind, "number": work.number, **audited(program, work.kind)}
    work.folder.mkdir(parents=True, exist_ok=True)
    write_json(work.path, record)


def audited(program: Program, kind: Kind = "compiled", methods: Sequence[Method] = CHEAP) -> dict[str, Any]:
    """Scores of every method on a program, and what is known of the program, as JSON.

    cell, equations, inputs, question: the program. alone: level -> the least share of the gap that the plan says a true
    part moves alone; follows: of a trained network, the share of changed answers in which it follows the compiled one,
    over all nodes. scores: one entry per method, with its AUROC, CPU seconds, and its lowest score of a true part and
    highest of a false one.
    """
    compiled = program.compiled()
    truth, task = ground_truth(compiled), program.task
    facts: dict[str, Any] = {
        "cell": program.cell, "mechanism": program.mechanism, "layer_norm": program.layer_norm,
        "superposed": program.superposed, "equations": dict(program.equations), "inputs": program.inputs,
        "question": [truth.variable, truth.target],
    }  # fmt: skip
    model, started = compiled, process_time()
    if kind == "untrained":
        model = untrained(compiled, program.seed)
    if kind == "trained":
        model, facts["follows"], facts["kept"] = _trained(program, compiled)
    case = Case(model, task, truth, most=PAIRS)
    if kind == "trained":
        facts["training_seconds"] = round(process_time() - started, 2)
        case = with_own_edges(case)
    facts["pairs"] = len(case.pairs)
    facts["alone"] = alone(plan_of(compiled), truth, case.pairs)
    _ = case.everything, case.graph  # built once for all, so that no method pays for them
    facts["scores"] = [_judged(case, method, kind) for method in methods]
    return facts


def _judged(case: Case, method: Method, kind: Kind) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method.name, "level": method.level}
    start = process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=UserWarning
        )  # of unsolved pairs, and of a variable that several move
        try:
            scores = _in_steps(method.run(case).scores)
            row["seconds"] = round(process_time() - start, 4)
            if kind == "trained" and method.defines_edges:
                return row | {"auroc": None, "failure": "defines the true edges"}
            found = auroc(case, method, scores)
        except ValueError as error:
            return row | {"seconds": round(process_time() - start, 4), "auroc": None, "failure": str(error)[:200]}
    true = true_parts(case, method.level)
    inside, outside = ([v for k, v in scores.items() if (k in true) is side] for side in (True, False))
    return row | {"auroc": round(found, 4), "least_true": float(min(inside)), "most_false": float(max(outside))}


def _in_steps(scores: Mapping[Any, float]) -> dict[Any, float]:
    """Scores in steps of TIE of the largest: what lies closer is rounding of float32, and must not be ranked."""
    values = np.array(list(scores.values()))
    step = TIE * float(np.abs(values).max(initial=0.0))
    return dict(zip(scores, (np.round(values / step) * step if step > 0 else values).tolist(), strict=True))


def _trained(program: Program, teacher: Any) -> tuple[Any, float, float]:
    """A network of the same architecture taught to compute in the same nodes, and how well it follows: the share of the
    answers that an interchange changes in which it changes alike, and of those it leaves."""
    everything = program.task.batch(program.task.enumerate())
    every = torch.arange(len(everything))
    base, source = everything.take(every.repeat_interleave(len(every))), everything.take(every.repeat(len(every)))
    student, share, kept = teacher, 0.0, 0.0
    for training in TRAININGS:
        student = untrained(teacher, program.seed)
        with torch.inference_mode(False), torch.enable_grad():
            train_interchange(student, teacher.requires_grad_(False), everything, training, progress=False)
        student.requires_grad_(False)
        found = fidelity(student, teacher, base, source)
        nodes = components(teacher)
        changes = np.array([found.changes[node] for node in nodes], dtype=float)
        followed = np.array([found.followed[node] for node in nodes])
        share = float(np.nansum(np.where(changes > 0, followed, 0.0) * changes) / changes.sum())
        kept = float(np.nanmean([found.kept[node] for node in nodes]))
        if share >= ALIKE:
            break
    return student, round(share, 4), round(kept, 4)
