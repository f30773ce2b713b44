"""`python -m interp_kit.culture`: what is said of the command there."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp_kit.core.program import ended
from interp_kit.core.showing import PROGRESS, numbered

if TYPE_CHECKING:
    from interp_kit.models.mygpt import MyGPT
    from interp_kit.studies.culture.checks import Check
    from interp_kit.studies.culture.models import create_tokenizer as create_tokenizer
    from interp_kit.studies.culture.models import culture_ids as culture_ids
    from interp_kit.studies.culture.models import generate as generate
    from interp_kit.studies.culture.models import load_culture as load_culture
    from interp_kit.studies.culture.models import load_hooked as load_hooked
    from interp_kit.studies.culture.models import load_quizzes as load_quizzes
    from interp_kit.studies.culture.quiz_tests import QuizSet
    from interp_kit.studies.culture.quiz_tests import run_tests as run_tests
    from interp_kit.studies.culture.scores import CultureTests
    from interp_kit.tasks.culture.figures import plot_quizzes as plot_quizzes
    from interp_kit.tasks.culture.figures import repr_grid as repr_grid


CHECKED = 8  # quizzes that logits are compared on


DECODED = 4  # quizzes that are decoded to compare decoding with and without a cache


@dataclass(frozen=True)
class Options:
    """Check culture models, solve a quiz, and test them: perplexity, and accuracy by structure and by task."""

    ids: Annotated[tuple[int, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...")] = ()
    """numbers of the models; default: every gpt_NNN.pth there is"""
    num_test_samples: int = 200
    """quizzes that each model is tested on"""
    checkpoint_dir: str | None = None
    """folder with gpt_NNN.pth and c_quizzes.pth, or id of a hub repository; default: checkpoints/culture"""
    device: str = "cpu"
    """torch device"""
    json: Path | None = None
    """write everything that is printed to this file"""
    greedy: bool = False
    """take the most probable colours; default: sample at temperature 1"""
    decoded: bool = False
    """write every answer token by token: slower, of the same distribution"""
    noise: float = 0.05
    """probability with which a cell of the prompt's noisy grid is replaced; the noiseless test is made in any case"""
    seed: int = 0
    """of quizzes, noise and samples"""
    workers: int | None = None
    """threads; default: one a core"""
    progress: bool = PROGRESS
    """show a progress bar"""

    def __post_init__(self) -> None:
        for name, value in (("num_test_samples", self.num_test_samples), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}, it must be at least 1")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"--noise is {self.noise}, it is a probability")
        if any(id < 0 for id in self.ids):
            raise ValueError(f"the number of a model cannot be {min(self.ids)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit status 1 where a check fails or, with one clear line, a file is at fault; 2 for wrong usage."""
    return ended("culture", lambda: _checked(argv))


def _checked(argv: Sequence[str] | None) -> int:
    """0, or 1 after naming the checks that fail."""
    options = tyro.cli(Options, args=argv, prog="python -m interp_kit.culture", use_underscores=True)
    from loguru import logger

    logger.disable("interp_kit")  # what it would say is printed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on files that it then refuses
            failed = _run(options)
    finally:
        logger.enable("interp_kit")
    for check in failed:
        print(f"culture: check failed: {check.model}, {check}", file=sys.stderr)
    return 1 if failed else 0


def _run(options: Options) -> "list[Check]":
    """Everything that the command does; the checks that failed."""
    from interp_kit.core.files import check_writable, write_json
    from interp_kit.models.device import check_device
    from interp_kit.studies.culture import models as models
    from interp_kit.studies.culture.quiz_tests import draw_quizzes, run_tests

    if options.json is not None:
        check_writable(options.json)
    check_device(options.device)
    ids = list(dict.fromkeys(options.ids)) or models.culture_ids(options.checkpoint_dir)
    sources = models.load_culture(ids, options.checkpoint_dir, options.device)
    made = None
    if models.has_quizzes(options.checkpoint_dir):
        made = models.load_quizzes(options.checkpoint_dir).unseen
    noise = tuple(dict.fromkeys((0.0, options.noise)))
    quizzes = draw_quizzes(options.num_test_samples, options.seed, noise=noise, culture_quizzes=made)
    checks = _checks(options, sources, quizzes)
    described = [_described(source) for source in sources]
    for model, source in zip(described, sources, strict=True):
        stored = f"stored accuracy {model['stored_accuracy']:.4f} (on its training's own tests)"
        print(f"{model['name']}: {model['parameters']:,} parameters, {stored}")
        print("\n".join(f"  {check}" for check in checks if check.model == _name(source)))
    converted = [source for source in sources if not any(c.model == _name(source) and c.broken for c in checks)]
    shown = _show(options, converted[0], quizzes) if converted else None
    print(_source(made, quizzes), flush=True)
    result = run_tests(
        sources,
        options.num_test_samples,
        options.seed,
        greedy=options.greedy,
        noise=noise,
        culture_quizzes=made,
        decoded=options.decoded,
        workers=options.workers,
        progress=options.progress,
    )
    print(f"\n{result}\n\n{_overall(result, described)}")
    failed = [check for check in checks if not check.passed]
    if options.json is not None:
        content = {
            "options": {**asdict(options), "ids": ids},
            "models": described,
            "checks": [{**asdict(check), "passed": check.passed} for check in checks],
            "quiz": shown,
            "passed": not failed,
            "overall": [
                {"model": m, "noise": p, **asdict(result.accuracy(m, p))} for m in result.models for p in noise
            ],
            "tests": {
                "config": dict(result.config),
                "caption": result.caption(),
                "rows": result.to_frame().to_dict("records"),
            },
        }
        print(f"wrote {write_json(options.json, _plain(content))}")
    return failed


def _checks(options: Options, sources: "Sequence[MyGPT]", quizzes: "QuizSet") -> "list[Check]":
    """Three checks of each model, or the one that it cannot be converted."""
    from tqdm.auto import tqdm

    from interp_kit.models.gpt2 import CheckpointError
    from interp_kit.studies.culture import checks as checks
    from interp_kit.studies.culture.models import hooked

    found = []
    for source in tqdm(sources, desc="checking", unit=" models", disable=not options.progress):
        name = _name(source)
        try:
            model = hooked(source, device=options.device)
        except CheckpointError as error:
            found.append(checks.Check(checks.CONVERSION, name, float("nan"), 0.0, f"it cannot be converted: {error}"))
            continue
        found += [
            checks.check_positions(name, model),
            checks.check_logits(name, source, model, quizzes.clean[:CHECKED]),
            checks.check_decoding(name, source, model, quizzes.read[-1, :DECODED]),
        ]
    return found


def _name(source: "MyGPT") -> str:
    from interp_kit.models.checkpoints import provenance

    return provenance(source).name


def _described(source: "MyGPT") -> dict[str, Any]:
    from interp_kit.models.checkpoints import provenance

    where = provenance(source)
    return {
        "name": where.name,
        "path": where.path,
        "sha256": where.sha256,
        "digest": where.digest,
        "parameters": sum(p.numel() for p in source.parameters()),
        **asdict(source.config),
        "stored_accuracy": getattr(source, "accuracy", float("nan")),
    }


def _show(options: Options, source: "MyGPT", quizzes: "QuizSet") -> dict[str, Any]:
    """Print the first quiz as the first model solves it, cells with noise and wrong cells marked, and the truth where
    the answer is wrong."""
    import numpy as np

    from interp_kit.studies.culture.models import generate
    from interp_kit.studies.culture.quiz_tests import MADE
    from interp_kit.tasks.culture import figures, grids
    from interp_kit.tasks.culture.world import TASKS

    read, clean = quizzes.read[-1, 0], quizzes.clean[0]
    temperature = None if options.greedy else 1.0
    asked = np.where(np.arange(len(read)) < 3 * grids.QUARTER, read, clean)
    answer = generate(source, asked, temperature=temperature, progress=False)
    right, written = bool(answer.right[0]), answer.quizzes[0].cpu().numpy()
    structure = grids.STRUCTURES[quizzes.structure[0]]
    task = [*TASKS, MADE][quizzes.task[0]]
    names = [*structure.order[:3], f"{structure.order[3]} by the model"]
    cells = [part[1:] for part in written.reshape(-1, grids.QUARTER)]
    changed = [*(part[1:] for part in (written != clean).reshape(-1, grids.QUARTER)[:3]), np.zeros(grids.CELLS, bool)]
    wrong = [*np.zeros((3, grids.CELLS), bool), cells[3] != clean[-grids.CELLS :]]
    if not right:
        names.append(f"{structure.order[3]}, the truth")
        cells.append(clean[-grids.CELLS :])
        changed.append(changed[-1])
        wrong.append(changed[-1])
    title = f"{_name(source)} on {task}, {structure.name}: {'right' if right else 'WRONG'}"
    marks = {"changed": np.stack(changed), "wrong": np.stack(wrong)}
    print(f"\n{figures.repr_grid(np.stack(cells), marks, names=names, titles=[title])}\n")
    return {
        "model": _name(source),
        "task": task,
        "structure": structure.name,
        "right": right,
        "written": written.tolist(),
        "truth": clean.tolist(),
    }


def _source(made: Any, quizzes: "QuizSet") -> str:
    from interp_kit.tasks.culture.world import TASKS

    culture = int((quizzes.task == len(TASKS)).sum())
    if made is None:
        return f"tests: {len(quizzes)} world quizzes, there is no c_quizzes.pth"
    return (
        f"tests: {len(quizzes)} quizzes, {culture} of them from the {len(made)} that models made and did not train on"
    )


def _overall(result: "CultureTests", described: Sequence[dict[str, Any]]) -> str:
    lines = [f"overall accuracy, answers {result.answers} (n = {numbered(len(result.task), 'quizzes')})"]
    for model, facts in zip(result.models, described, strict=True):
        found = []
        for noise in result.noise.tolist():
            e = result.accuracy(model, noise)
            level = f"noise {noise:g}" if noise else "no noise"
            found.append(f"{e.value:.4f} [{e.low:.4f}, {e.high:.4f}] with {level}")
        lines.append(f"  {model}: {', '.join(found)}; stored {facts['stored_accuracy']:.4f}")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """JSON values; null for what is not finite."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case float() if value - value != 0:
            return None
    return value.item() if hasattr(value, "item") else value
