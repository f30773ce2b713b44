"""The audit: every method of the kit on models whose circuit was written into the weights, scored against the truth.

How well a method ranks true nodes, edges or positions above all others is its AUROC: 1 where every true one is above
every other, 0.5 for chance. The control asks the same of fresh random weights of the same architecture against the same
truth: what a method scores there, it scores without any mechanism.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from interp_kit.core.parallel import Shard, in_processes
from interp_kit.core.pieces import Pieces
from interp_kit.core.showing import PROGRESS
from interp_kit.models.planted import PLANTED_TASKS, ground_truth
from interp_kit.registry.models import load, planted, task_of, untrained
from interp_kit.studies.audit.case import Case, Method, auroc, with_own_edges
from interp_kit.studies.audit.methods import METHODS
from interp_kit.studies.audit.result import AuditResult
from interp_kit.studies.audit.twins import TWINS

SEEDS = (0, 1, 2)
TWIN = "twin:"  # what names a trained twin


def audit(
    circuits: Sequence[str] = tuple(PLANTED_TASKS),
    methods: Sequence[Method] = METHODS,
    seeds: Sequence[int] = SEEDS,
    *,
    twins: Sequence[str] = tuple(TWINS),
    jobs: int | None = 1,
    pieces: Path | None = None,
    progress: bool = PROGRESS,
) -> AuditResult:
    """Run every method on every planted circuit at every seed, on an untrained model of each, and on trained twins.

    pieces: a folder in which `audit_shard` made everything, which is then read alone. Raises ValueError for an unknown
    circuit or twin, no method or no seed, and pieces that are missing.
    """
    work = _work(circuits, methods, seeds, twins)
    if pieces is None:
        run = partial(_run, methods=tuple(methods))
        found = in_processes(run, work, jobs, name="models", progress=progress)
    else:
        found = _pieces(pieces, work, methods).read()
    shape, first = (len(circuits), len(seeds) + 1, len(methods)), len(found) - len(twins)
    scores, forwards, seconds = (np.array(part).reshape(shape) for part in zip(*found[:first], strict=True))
    return AuditResult(
        method=tuple(method.name for method in methods),
        level=tuple(method.level for method in methods),
        circuit=tuple(circuits),
        seeds=tuple(seeds),
        twins=tuple(twins),
        twin_of=tuple(TWINS[name][0] for name in twins),
        auroc=scores[:, :-1].transpose(2, 0, 1),
        trained=np.array([scored for scored, _, _ in found[first:]]).reshape(len(twins), len(methods)).T,
        control=scores[:, -1].T,
        forwards=forwards[:, :-1].mean(1).T,
        seconds=seconds[:, :-1].mean(1).T,
        config={"analysis": "audit", "circuits": tuple(circuits), "seeds": tuple(seeds)},
    )


def audit_shard(
    folder: Path,
    shard: Shard,
    circuits: Sequence[str] = tuple(PLANTED_TASKS),
    methods: Sequence[Method] = METHODS,
    seeds: Sequence[int] = SEEDS,
    *,
    twins: Sequence[str] = tuple(TWINS),
    jobs: int | None = 1,
    progress: bool = PROGRESS,
) -> list[int]:
    """Make every n-th piece of the audit, from the i-th, in a folder that all shards (i, n) share. Gives the numbers of
    the pieces that are still missing. Raises ValueError as `audit` does, and for a folder of other work."""
    work = _work(circuits, methods, seeds, twins)
    run = partial(_run, methods=tuple(methods))
    return _pieces(folder, work, methods).make(run, work, shard=shard, jobs=jobs, progress=progress)


def _work(
    circuits: Sequence[str], methods: Sequence[Method], seeds: Sequence[int], twins: Sequence[str]
) -> list[tuple[str, int | None]]:
    """Models, each a circuit with its seed, None for an untrained one."""
    if not (circuits and methods and seeds):
        raise ValueError("an audit needs a circuit, a method and a seed")
    for name in circuits:
        ground_truth(name)
    if unknown := set(twins) - set(TWINS):
        raise ValueError(f"no twin {', '.join(sorted(unknown))}; there are {', '.join(TWINS)}")
    return [(name, seed) for name in circuits for seed in (*seeds, None)] + [(f"{TWIN}{name}", 0) for name in twins]


def _pieces(folder: Path, work: Sequence[tuple[str, int | None]], methods: Sequence[Method]) -> Pieces:
    asked = f"audit by {', '.join(f'{method.level} {method.name}' for method in methods)}"
    return Pieces(folder, asked, tuple(f"{name} {'untrained' if seed is None else seed}" for name, seed in work))


def _run(
    work: tuple[str, int | None], methods: Sequence[Method]
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
    """AUROC, forwards and seconds of each method on one model: that of a seed, or for None an untrained one."""
    name, seed = work
    if name.startswith(TWIN):
        model = load(name)
    else:
        model = planted(name, seed or 0) if seed is not None else untrained(planted(name))
    is_twin = name.startswith(TWIN)
    case = Case(model, task_of(model), ground_truth(TWINS[name.removeprefix(TWIN)][0] if is_twin else name))
    case = with_own_edges(case) if is_twin else case
    _ = case.pairs, case.everything, case.graph  # built once for all, so that no method pays for them
    found = []
    for method in methods:
        start = perf_counter()
        with warnings.catch_warnings():
            if seed is None:  # the control solves no pair: that is what it is for
                warnings.filterwarnings("ignore", message=".* solves .* fewer than", category=UserWarning)
            result = method.run(case)
        judged = np.nan if is_twin and method.defines_edges else auroc(case, method, result.scores)
        found.append((judged, result.forwards, perf_counter() - start))
    scores, forwards, seconds = zip(*found, strict=True)
    return scores, forwards, seconds
