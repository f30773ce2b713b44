"""A round of culture: quizzes that one model makes and others keep, with the evidence beside them.

`python -m interp_kit.studies.culture.round --maker checkpoints/culture/gpt_004.pth --out runs/round` writes
`c_quizzes.pth`, in the original's format, and `c_quizzes.json`: the rule, the seed of the judges' noise, how many were
made, of which kinds those were that were judged, and each judge's probability of solving each quiz that is kept, with a
checksum of both. It goes on where it was stopped.
"""

import argparse
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from loguru import logger
from matplotlib.axes import Axes

from interp_kit.core.files import check_writable, read_json, replacing, write_json
from interp_kit.core.program import ended
from interp_kit.core.stats.intervals import wilson
from interp_kit.models.checkpoints import checksum, provenance, weights_hash
from interp_kit.models.mygpt import load_mygpt
from interp_kit.reports.plotting import png
from interp_kit.studies.culture.models import culture_ids, load_culture
from interp_kit.studies.culture.training.quiz_making import (
    QUIZZES,
    Agreement,
    batches,
    judging_seed,
    load_quizzes,
    save_round,
)
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.explain import Halves, explain
from interp_kit.tasks.culture.figures import plot_quizzes
from interp_kit.tasks.culture.world import TASKS

EVIDENCE = "c_quizzes.json"
FIELDS = (
    "rule",
    "seed",
    "judging seed",
    "judges",
    "maker",
    "made at a time",
    "made",
    "judged",
    "kinds",
    "p",
    "quizzes",
    "check",
)


def culture_round(
    maker: str | Path,
    out: str | Path,
    ids: Sequence[int] = (),
    checkpoint_dir: str | Path | None = None,
    *,
    rule: Agreement | None = None,
    seed: int = 0,
    made: int = 200,
    most: int = 20_000,
) -> Path:
    """Let `maker` make quizzes, `made` at a time, until there are `most`, and keep in OUT those that the judges `ids`
    (default: all of checkpoint_dir) agree on. Gives the path of the evidence; c_quizzes.pth is not written while no
    quiz is kept.

    Raises ValueError if OUT holds a round of another rule, seed, maker or judges, or quizzes without evidence;
    CheckpointError for a damaged model.
    """
    out, rule = Path(out), rule or Agreement(temperature=1.0)
    if min(made, most) < 1:
        raise ValueError(f"a round of {made} quizzes at a time and {most} at most")
    for name in (QUIZZES, EVIDENCE):
        check_writable(out / name)
    models = load_culture(list(dict.fromkeys(ids)) or culture_ids(checkpoint_dir), checkpoint_dir)
    source = load_mygpt(maker)[0]
    asked = {
        "rule": asdict(rule),
        "seed": seed,
        "judging seed": judging_seed(seed),
        "judges": {provenance(model).name: provenance(model).sha256 for model in models},
        "maker": weights_hash(maker),
        "made at a time": made,
    }
    quizzes, found = _before(out, asked)
    if found["made"] >= most:
        return out / EVIDENCE
    _write(out, found, quizzes)
    for batch in batches(models, seed, rule, makers=[source], made=made, start=found["made"], known=quizzes):
        quizzes = np.concatenate([quizzes, batch.quizzes])
        found["p"] += batch.p.T.tolist()
        found["made"], found["judged"] = batch.made, found["judged"] + len(batch.judged)
        found["kinds"] = dict(sorted((Counter(found["kinds"]) + Counter(kinds(batch.judged))).items()))
        if len(quizzes):
            save_round(out / QUIZZES, quizzes)
        _write(out, found, quizzes)
        logger.info("{} made, {} kept", batch.made, len(quizzes))
        if batch.made >= most:
            break
    return out / EVIDENCE


def _before(out: Path, asked: dict) -> tuple[np.ndarray, dict]:
    """The quizzes (n, 404) and the evidence of the round that is gone on with; none, and an empty one, at first."""
    none = np.zeros((0, grids.LENGTH), np.int64)
    if not (out / EVIDENCE).exists():
        if (out / QUIZZES).exists():
            raise ValueError(f"{out / QUIZZES} stands there without {EVIDENCE}: it is of no round that could go on")
        return none, {**asked, "made": 0, "judged": 0, "kinds": {}, "p": []}
    found = _evidence(out / EVIDENCE)
    for key, value in asked.items():
        if found.get(key) != value:
            raise ValueError(f"{out / EVIDENCE} is of another round: {key} is {found.get(key)!r}, not {value!r}")
    return _quizzes(out, found), found


def _write(out: Path, found: dict, quizzes: np.ndarray) -> None:
    """Write the evidence, with a checksum of its quizzes and one of itself."""
    found["quizzes"] = _digest(quizzes)
    found["check"] = checksum({key: value for key, value in found.items() if key != "check"})
    write_json(out / EVIDENCE, found)


def _digest(quizzes: np.ndarray) -> str:
    return hashlib.sha256(quizzes.astype(np.uint8).tobytes()).hexdigest()


def _evidence(path: Path) -> dict:
    """The evidence as it was written. Raises ValueError naming the file and what is missing, damaged or edited."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is a {type(found).__name__}, expected a mapping")
    if missing := [key for key in FIELDS if key not in found]:
        raise ValueError(f"{path} has no {missing[0]!r}: it is damaged, or of before rounds had checksums")
    if found["check"] != checksum({key: value for key, value in found.items() if key != "check"}):
        raise ValueError(f"{path} is not as it was written: its check does not fit; restore it, or make the round anew")
    rows, judges = found["p"], found["judges"]
    for key in ("made", "judged"):
        if type(found[key]) is not int or found[key] < 0:
            raise ValueError(f"{path}: {key} is {found[key]!r}, expected a number of quizzes")
    if not isinstance(judges, dict) or not isinstance(found["rule"], dict) or not isinstance(rows, list):
        raise ValueError(f"{path}: judges and rule are mappings, p a list; found {judges!r:.40}, {found['rule']!r:.40}")
    counts = found["kinds"].values() if isinstance(found["kinds"], dict) else [-1]
    if not all(type(n) is int and n > 0 for n in counts) or sum(counts) != found["judged"]:
        raise ValueError(f"{path}: kinds are {found['kinds']!r:.80}, expected the {found['judged']} judged, counted")
    for n, row in enumerate(rows):
        numbers = row if isinstance(row, list) and len(row) == len(judges) else [math.nan]
        if not all(type(p) in (int, float) and 0 <= p <= 1 + 1e-9 for p in numbers):
            raise ValueError(f"{path}: p of quiz {n} is {row!r:.80}, expected {len(judges)} probabilities")
    return found


def _quizzes(out: Path, found: dict) -> np.ndarray:
    """(n, 404) the quizzes that the evidence is of. Raises ValueError if there are others."""
    n = len(found["p"])
    quizzes = np.concatenate(load_quizzes(out / QUIZZES)) if n else np.zeros((0, grids.LENGTH), np.int64)
    if len(quizzes) < n:
        raise ValueError(f"{out / QUIZZES} has {len(quizzes)} quizzes, {EVIDENCE} has {n}")
    quizzes = quizzes[:n]  # the two files are not one write: the first may be ahead
    if _digest(quizzes) != found["quizzes"]:
        raise ValueError(f"{out / QUIZZES} holds other quizzes than those that {EVIDENCE} is of")
    return quizzes


def kept(out: str | Path) -> tuple[np.ndarray, dict]:
    """The quizzes (n, 404) of a round and its evidence. Raises ValueError if OUT holds none, or they do not belong
    together."""
    out = Path(out)
    if not (out / EVIDENCE).exists():
        raise ValueError(f"{out} holds no round: there is no {EVIDENCE}")
    found = _evidence(out / EVIDENCE)
    return _quizzes(out, found), found


def summary(out: str | Path) -> str:
    """Summary of a round: what it kept, with Wilson's 95 % interval over the quizzes judged; the share of these that a
    rule of the world explains, beside that of all judged; and which judge is lost at how many."""
    quizzes, found = kept(out)
    made = f"{found['made']:,} made, {found['judged']:,} of them not trivial"
    if not found["judged"]:
        return f"{made}, none kept"
    share = wilson(len(quizzes), found["judged"], "quizzes")
    text = f"{made}, {len(quizzes)} kept: {share.value:.2%} [{share.low:.2%}, {share.high:.2%}]"
    if len(quizzes) == 0:
        return text
    explained = [Counter(kinds(quizzes)), Counter(found["kinds"])]
    of = " of those kept, ".join(
        "{0.value:.2f} [{0.low:.2f}, {0.high:.2f}]".format(
            wilson(sum(counts[task] for task in TASKS), counts.total(), "quizzes")
        )
        for counts in explained
    )
    lost = (np.array(found["p"]) <= found["rule"]["lost"]).sum(0)
    judges = ", ".join(f"{name} at {n}" for name, n in zip(found["judges"], lost, strict=True))
    return f"{text}\na rule of the world explains {of} of those judged; lost: {judges}"


def kinds(quizzes: np.ndarray) -> list[str]:
    """Say for each quiz (n, 404) which rule of the world it is of: the name of one that paints both halves with the
    same colours and direction; else which paint a half alone; else "no rule"."""
    cells = grids.split(quizzes).astype(np.uint8)
    halves = [_rules(explain(cells[:, k], cells[:, k + 1]), len(quizzes)) for k in (0, 2)]
    found = []
    for a, b in zip(*halves, strict=True):
        names = [sorted({TASKS[task] for task, *_ in half}) for half in (a, b)]
        if common := sorted({TASKS[task] for task, *_ in a & b}):
            found.append(common[0])
        elif a and b:
            found.append(f"A: {names[0][0]}, B: {names[1][0]}" + " otherwise" * (names[0][0] == names[1][0]))
        else:
            found.append(f"A: {names[0][0]}" if a else f"B: {names[1][0]}" if b else "no rule")
    return found


def _rules(found: Halves, n: int) -> list[set[tuple[int, ...]]]:
    """Of each of n halves what paints it: rule, direction and colours."""
    rules: list[set[tuple[int, ...]]] = [set() for _ in range(n)]
    for row, task, direction, colours in zip(found.row, found.task, found.direction, found.colours, strict=True):
        rules[row].add((int(task), int(direction), *colours.tolist()))
    return rules


def by_kind(out: str | Path) -> pd.DataFrame:
    """One row per kind of quiz that a round judged (see `kinds`).

    kept: how many of it are kept; share, low, high: of all n that are kept, with Wilson's 95 % interval; judged,
    judged_share: the same of all that were judged, kept or not, the baseline; lost by …: how many each judge loses.

    Raises:
        ValueError: OUT holds no round, or one that kept nothing.
    """
    quizzes, found = kept(out)
    if not len(quizzes):
        raise ValueError(f"{out}: no quiz is kept, so there are no kinds")
    lost = np.array(found["p"]) <= found["rule"]["lost"]
    of = np.array(kinds(quizzes))
    each_kept, judged = Counter(of.tolist()), Counter(found["kinds"])
    rows = []
    for kind in sorted({*each_kept, *judged}, key=lambda kind: (-each_kept[kind], -judged[kind], kind)):
        share = wilson(each_kept[kind], len(of), "quizzes")
        each = {f"lost by {name.rpartition('/')[2]}": int(lost[of == kind, j].sum())
                for j, name in enumerate(found["judges"])}  # fmt: skip
        rows.append({"kind": kind, "kept": each_kept[kind], "share": share.value, "low": share.low,
                     "high": share.high, "n": len(of), "judged": judged[kind],
                     "judged_share": judged[kind] / found["judged"], **each})  # fmt: skip
    return pd.DataFrame(rows)


def picture(out: str | Path, rows: Sequence[int] = ()) -> Axes:
    """The quizzes of a round, or some of them by number, each under who is lost. Raises ValueError for a number that
    there is not."""
    quizzes, found = kept(out)
    rows = list(rows) or list(range(len(quizzes)))
    if not rows or min(rows) < 0 or max(rows) >= len(quizzes):
        raise ValueError(f"no quizzes {rows}: {len(quizzes)} are kept")
    titles = []
    for p in np.array(found["p"])[rows]:
        lost = p <= found["rule"]["lost"]
        names = [name.rpartition("/")[2] for name, bad in zip(found["judges"], lost, strict=True) if bad]
        sure = f"the others are sure ({p[~lost].min():.2f} or more)" if not lost.all() else "none is sure"
        titles.append(f"lost: {', '.join(names)} (p = {p[lost].max():.2f}); {sure}")
    return plot_quizzes(quizzes[rows], titles=titles)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maker", type=Path, required=True, help="the model that makes them")
    parser.add_argument("--out", type=Path, default=Path("runs/round"), help="the folder that gets both files")
    parser.add_argument("--ids", type=int, nargs="*", default=[], help="numbers of the judges; default: all")
    parser.add_argument("--checkpoint-dir", help="their folder; default: checkpoints/culture")
    parser.add_argument("--max-fail", type=int, default=1, help="how many judges may fail at a quiz that is kept")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the first grid (the original's is 1.5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=20_000, help="quizzes to make")
    parser.add_argument("--made", type=int, default=200, help="quizzes made at a time, lost where a round is stopped")
    parser.add_argument("--picture", type=Path, help="draw what is kept into this file (.png)")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="numbers of the quizzes drawn; default: all")
    options = parser.parse_args(argv)
    if options.picture is not None:
        check_writable(options.picture)
    rule = Agreement(max_fail=options.max_fail, temperature=options.temperature)
    path = culture_round(
        options.maker,
        options.out,
        options.ids,
        options.checkpoint_dir,
        rule=rule,
        seed=options.seed,
        made=options.made,
        most=options.most,
    )
    print(f"{path}\n{summary(options.out)}")
    if len(kept(options.out)[0]):
        print(by_kind(options.out).round(3).to_string(index=False))
    if options.picture is not None:
        with replacing(options.picture) as aside:
            aside.write_bytes(png(picture(options.out, options.rows), dpi=80))
    return 0


if __name__ == "__main__":
    raise SystemExit(ended("culture_round", main))
