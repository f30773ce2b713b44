"""Shared options of the commands: how a model is named, and what is done with a result."""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp_kit.core.showing import PROGRESS, numbered

if TYPE_CHECKING:
    from interp_kit.core.example import Example
    from interp_kit.core.result import AbstractResult
    from interp_kit.core.task import AbstractTask

MODEL_HELP = (
    "shipped name, planted name (boolean-direct, boolean-direct@3, induction), twin:NAME, untrained:NAME, directory,"
    " file of weights, or hub id"
)
Model = Annotated[str, tyro.conf.arg(help=MODEL_HELP)]
Config = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="NAME=VALUE ...",
        help="of a file of weights, what its shapes do not say: act_fn=gelu_new n_heads=4 final_norm=false",
    ),
]
Seed = Annotated[int, tyro.conf.arg(help="of everything that is drawn")]
Limit = Annotated[int | None, tyro.conf.arg(help="inputs, at most, drawn by the seed; default: all")]
Progress = Annotated[bool, tyro.conf.arg(help="show a progress bar")]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every analysis."""

    task: str | None = None
    """task by name or address (my_file.py:MyTask, package.module:Name); default: the one that the model learned"""
    json: Path | None = None
    """write the table as JSON records to this file, in place of any that is there ("-": standard output)"""
    save: Path | None = None
    """save the result to this folder (safetensors and JSON); a folder with other content is refused"""
    plot: Path | None = None
    """draw the result into this file (.png), in place of any that is there; of several labels or sites the first"""
    device: str = "cpu"
    """torch device"""
    config: Config = ()
    progress: Progress = PROGRESS

    def finish(self, result: "AbstractResult", lines: Sequence[str] = (), sample: str = "") -> None:
        """Print the verdict and the few rows that carry it, and write what was asked for. `sample`: what was drawn of
        all inputs, which the result keeps in its config and says; "" for no sample."""
        from interp_kit.core.files import replacing, write_text

        if sample:
            result = replace(result, config={**result.config, "sample": sample})
            lines = [f"measured on {sample}", *lines]
        frame = result.to_frame()
        rows = json.loads(frame.to_json(orient="records") or "[]")
        records = json.dumps({"config": dict(result.config), "rows": rows}, indent=2, default=str)
        if self.json is not None and str(self.json) == "-":
            print(records)
        else:
            few = result.highlights()
            rest = f"{len(few)} of {len(frame)} rows; --json FILE writes all.\n" if len(few) < len(frame) else ""
            print("\n".join([*lines, *result.findings()]), end="\n\n" if lines or result.findings() else "")
            print(few.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.3f}"))
            print(f"{rest}\n{result.caption()}")
        if self.json is not None and str(self.json) != "-":
            print(f"wrote {write_text(self.json, records + chr(10))}")
        if self.save is not None:
            self.say(f"saved {result.save(self.save)}")
        if self.plot is not None:
            from interp_kit.reports.plotting import png

            with replacing(self.plot) as aside:
                aside.write_bytes(png(result.plot()))
            self.say(f"drew {self.plot}")

    def say(self, line: str) -> None:
        """Print a line, not among the JSON where that goes to standard output."""
        print(line, file=sys.stderr if str(self.json) == "-" else sys.stdout)

    def open(
        self, name: str, check: "Callable[[AbstractTask], object]" = lambda task: None
    ) -> tuple[Any, "AbstractTask"]:
        """The model and its task, once it is sure that what was asked for can be written. `check` raises ValueError for
        names that the task does not have: before the model loads, if its name and files say which task it learned."""
        from interp_kit.models.device import check_device
        from interp_kit.registry.tasks import find

        if self.task is not None:
            find(self.task, "--task")
        self.check_outputs()
        check_device(self.device)
        settings(self.config)
        expected = foreseen(name, self.task)
        if expected is not None:
            check(expected)
        from interp_kit.registry.models import load, task_of

        model = load(name, device=self.device, config=settings(self.config))
        task = task_of(model, self.task)
        check(task)
        return model, task

    def folders(self) -> dict[Path, str]:
        """The folders to write, with the kind of their content."""
        from interp_kit.core.result import KIND

        return {} if self.save is None else {self.save: KIND}

    def check_outputs(self) -> None:
        """Raise ValueError or OSError if what was asked for cannot be written, or one output would replace another."""
        from interp_kit.core.files import check_writable
        from interp_kit.core.folders import check_folder

        if self.plot is not None and self.plot.suffix != ".png":
            raise ValueError(f"a picture is written to a .png file, not {self.plot}")
        files, folders = [path for path in (self.json, self.plot) if path and str(path) != "-"], self.folders()
        asked = [Path(os.path.realpath(path)) for path in (*files, *folders)]
        if len(set(asked)) < len(files) + len(folders):
            raise ValueError(f"two results would be written to one path: {', '.join(map(str, (*files, *folders)))}")
        for path in files:
            check_writable(path)
        for folder, kind in folders.items():
            if inside := [path for path in asked if Path(os.path.realpath(folder)) in path.parents]:
                raise ValueError(f"{inside[0]} cannot be written into {folder}, which is replaced as a whole")
            check_folder(folder, kind)


def settings(texts: Sequence[str]) -> dict[str, Any] | None:
    """The settings that --config names; None without any. Raises ValueError for a setting that does not exist."""
    from interp_kit.models.foreign.reader import read_settings

    return read_settings("--config", texts) if texts else None


def check_sample(limit: int | None, seed: int) -> None:
    """Raise ValueError for a --limit below 1, or a --seed that is not one."""
    from interp_kit.core.config import check_count, check_seed

    check_seed(seed, "--seed")
    if limit is not None:
        check_count("--limit", limit)


def pooled(task: "AbstractTask", limit: int | None, seed: int) -> "tuple[list[Example], str]":
    """At most `limit` of the task's inputs, and what was drawn (see `sampled`)."""
    pool = task.pool()
    return sampled(pool, limit, seed, "inputs" if task.n_worlds == len(pool) else "inputs drawn")


def sampled(
    examples: "Sequence[Example]", limit: int | None, seed: int, of: str = "inputs"
) -> "tuple[list[Example], str]":
    """At most `limit` of the examples, in their order, drawn by seed; and what was drawn, "" if that is all. of: what
    they are."""
    import numpy as np

    from interp_kit.core.identity import derive_seed

    if limit is None or limit >= len(examples):
        return list(examples), ""
    rows = np.random.default_rng(derive_seed(seed, "limit")).choice(len(examples), limit, replace=False)
    drawn = [examples[row] for row in sorted(rows)]
    return drawn, f"a sample of {limit} of {numbered(len(examples), of)}, seed {seed}"


def foreseen(name: str, asked: str | None = None) -> "AbstractTask | None":
    """The task that a model learned, as far as its name and files say without loading it, or else the one asked for;
    None if neither says. Planted models bear the name of their task in front."""
    from interp_kit.models.checkpoints import checkpoint_root, read_description, read_manifest
    from interp_kit.registry.tasks import TASKS, find, rebuild, task

    stem = re.sub(r"@\d+$", "", name.removeprefix("untrained:").removeprefix("twin:"))
    entry = read_manifest().get(stem)
    folder = Path(stem) if entry is None else checkpoint_root() / entry.path
    if (description := read_description(folder)) is not None:
        kind = None if asked is None else find(asked, "--task")
        return rebuild(description, kind if kind is not None and kind.name == description["name"] else None)
    learned = None if entry is None else entry.task
    if entry is None and not folder.exists():
        learned = next((known for known in TASKS if stem == known or stem.startswith(f"{known}-")), None)
    known = learned or asked
    return None if known is None else task(known)
