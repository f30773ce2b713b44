"""`causal-experiment`: the data, the training and the test of the boolean task, with the flags people already use.

    causal-experiment --generate -o '1,1,1,1,1;0,0,0,0,0' --train --test '1,0,1,0,1'

Actions run in the order generate, train, test. Results go to standard output, the log to standard error and to a file.
Nothing heavy is imported before an action needs it.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from interp_kit.core.program import ended
from interp_kit.models.device import check_device
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.boolean.dataset import (
    SPLITS,
    Input,
    check_splits,
    parse_omissions,
    read_split,
    splits,
    write_splits,
)
from interp_kit.tasks.boolean.text import END_OF_TEXT

if TYPE_CHECKING:
    from interp_kit.core.example import Example

DEFAULT_MODEL = "boolean-gpt2"
GREEN, RED, PLAIN = "\033[32m", "\033[31m", "\033[0m"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the actions asked for: 0, or 1 after one line on standard error that says what is wrong, or 2 for none."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.generate and not options.train and options.test is None:
        parser.print_help()
        return 2
    if options.omit is not None and not options.generate:
        parser.error("--omit says what --generate leaves out; without --generate it would do nothing")
    return ended("causal-experiment", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    task = BooleanTask()
    # what can be wrong with the request is found before anything is written
    omitted = parse_omissions(options.omit or "", len(task.inputs))
    inputs = splits(task, omit=omitted) if options.generate else {}
    example = None if options.test is None else task.example(options.test)
    if options.generate:
        check_splits(task, options.data_dir)
    if options.train:
        from interp_kit.core.folders import check_folder
        from interp_kit.training.sft import KIND

        check_folder(options.output, KIND)
    with _logging(options.log_dir):
        seen: set[Input] | None = None
        if inputs:
            generate(task, options.data_dir, inputs, omitted)
        if options.train:
            seen = train(task, options)
        if example is not None:
            ask(task, example, options, seen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="causal-experiment",
        description="Five bits in, four computed bits and two sums out: make the data, train a small GPT-2, ask it.",
    )
    action, option = parser.add_argument_group("actions, in this order"), parser.add_argument_group("options")
    sizes = ", ".join(f"{name}.jsonl ({size:,})" for name, size in SPLITS.items())
    action.add_argument("--generate", action="store_true", help=f"write {sizes}")
    action.add_argument("--train", action="store_true", help="train a GPT-2 on the data files and evaluate it")
    action.add_argument(
        "--test", metavar="INPUT", help="the truth for an input like 1,0,1,0,1, then the model's answer"
    )
    option.add_argument("-o", "--omit", metavar="'I;J'", help="inputs that --generate leaves out of all three files")
    option.add_argument("--data-dir", type=Path, default=Path("dataset"), help="folder of the data (%(default)s)")
    output = Path("out/tiny-gpt2-causal/final")
    option.add_argument("--output", type=Path, default=output, help="folder of the trained model (%(default)s)")
    fallback = f"the --output folder if it is there, else {DEFAULT_MODEL}"
    option.add_argument("--model", metavar="NAME", help=f"what --test asks: a folder or a shipped name ({fallback})")
    option.add_argument("--epochs", type=_positive(float), help="of training (3)")
    option.add_argument("--learning-rate", type=_positive(float), help="of training (5e-4)")
    option.add_argument("--batch-size", type=_positive(int), help="of training (16)")
    option.add_argument(
        "--seed", type=int, default=42, help="of training; the data are always drawn by 42 (%(default)s)"
    )
    option.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), help="default: training takes a GPU if there is one"
    )
    option.add_argument("--no-progress", action="store_true", help="no progress bar")
    option.add_argument("--log-dir", type=Path, default=Path("logs"), help="folder of the log file (%(default)s)")
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
        return value

    parse.__name__ = kind.__name__  # argparse names the type in its message
    return parse


@contextlib.contextmanager
def _logging(directory: Path) -> Iterator[None]:
    """The log on the console from INFO and in DIRECTORY from DEBUG, while the block runs.

    Raises OSError naming the folder if it cannot be written.
    """
    logger.remove()
    logger.add(sys.stderr, level="INFO", format="<green>{time:HH:mm:ss}</green> <level>{level:<7}</level> {message}")
    try:
        file = directory / "causal-experiment.log"
        logger.add(file, level="DEBUG", rotation="100 MB", retention="10 days", encoding="utf-8", diagnose=False)
    except OSError as error:
        logger.remove()
        raise OSError(f"cannot write logs into {directory}: {error.strerror or error}") from error
    try:
        yield
    except Exception:
        logger.opt(exception=True).debug("stopped by an error")
        raise
    finally:
        logger.remove()


def generate(task: BooleanTask, directory: Path, inputs: dict[str, list[Input]], omitted: frozenset[Input]) -> None:
    """Write the data files and say what is in them. Raises OSError if they cannot be written."""
    for path, rows in zip(write_splits(task, directory, inputs), inputs.values(), strict=True):
        print(f"{path}: {len(rows):,} examples, {len(set(rows))} distinct inputs")
    logger.debug("wrote {} without {}", directory, sorted(omitted))
    if omitted:
        print(f"in none of these files: {_listed(omitted)}")


def train(task: BooleanTask, options: argparse.Namespace) -> set[Input]:
    """Train on the data files, then evaluate what was written; the inputs that the training data show.

    Raises ValueError naming file and line if the data break the rules, OSError where the model cannot be written,
    FloatingPointError where training diverges.
    """
    data = {name: _read(task, options.data_dir / f"{name}.jsonl") for name in SPLITS}
    seen = set(data["train"])
    unseen = sorted({tuple(row) for row in task.model.all_inputs().tolist()} - seen)
    if unseen:
        print(f"never seen in training: {len(unseen)} inputs: {_listed(unseen)}")
    else:
        print(f"all {len(seen)} inputs are in the training data: what follows measures memory, and no more")
    if surplus := (set(data["valid"]) | set(data["test"])) - seen:
        logger.warning("{} inputs of valid.jsonl and test.jsonl are not in train.jsonl", len(surplus))

    from interp_kit.analysis.behaviour.evaluation import evaluate
    from interp_kit.models.checkpoints import load
    from interp_kit.training.sft import SFTConfig, train_sft

    check_device(options.device)
    given = {name: getattr(options, name) for name in ("epochs", "learning_rate", "batch_size")}
    config = SFTConfig(seed=options.seed, **{name: value for name, value in given.items() if value is not None})
    logger.info("training on {:,} examples: {}", len(data["train"]), config)
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its losses
        directory = train_sft(
            task,
            task.examples(data["train"]),
            options.output,
            config,
            validation=task.examples(data["valid"]),
            device=options.device,
            progress=not options.no_progress,
        )
    logger.info("wrote {}", directory)
    model = load(directory, device=options.device or "cpu")
    print(f"model: {directory}")
    print(evaluate(model, task, omitted=task.examples(unseen) if unseen else ()))
    return seen


def ask(task: BooleanTask, example: "Example", options: argparse.Namespace, seen: set[Input] | None) -> None:
    """Print the truth about one input, then the model's answer, field by field, each ok (green) or WRONG (red).

    seen: the inputs in the training data, where this run has trained. Raises CheckpointError (a ValueError) if the
    model cannot be loaded, ValueError where it does not fit the task.
    """
    record = task.record(example)
    print(f"prompt: {record['prompt']}\ntruth by the rules:\n{record['completion'].strip()}", flush=True)

    from interp_kit.analysis.behaviour.evaluation import completions, parse_fields
    from interp_kit.registry.models import load, task_of

    check_device(options.device)
    name = options.model or (str(options.output) if options.output.exists() else DEFAULT_MODEL)
    with contextlib.redirect_stdout(sys.stderr):
        model = load(name, device=options.device or "cpu")
    spoken = task_of(model, task.name)  # in the token ids of the model
    assert isinstance(spoken, BooleanTask)
    if spoken.meaning() | {"vocabulary": ""} != task.meaning() | {"vocabulary": ""}:
        rules = "; ".join(f"{equation.name} = {equation.expression}" for equation in spoken.model.equations)
        raise ValueError(f"{name} learned other rules ({rules}): causal-experiment knows those of the study alone")
    example = spoken.example(record["prompt"])
    row = completions(model, spoken, [example])[0]
    values = parse_fields(spoken, row, example)
    written = "".join(spoken.vocabulary[token] for token in row[example.prompt_length :]).removesuffix(END_OF_TEXT)
    exact = tuple(row) == example.tokens

    shipped = options.model is None and name == DEFAULT_MODEL
    print(f"model: {name}{f', which comes with interp_kit ({options.output} is not there)' if shipped else ''}")
    print(f"it writes:\n{written.strip()}")
    for field, value in values.items():
        truth = example.labels[field]
        shown = repr(spoken.vocabulary[row[example.positions[field]]]) if value is None else str(value)
        line = f"{field:<6}{shown:<3} {'ok' if value == truth else f'WRONG, it is {truth}'}"
        print(f"  {_coloured(line, value == truth)}")
    print(_coloured("exact match: yes" if exact else f"exact match: NO, the text is {written!r}", exact))
    known = seen if options.model is None else None
    print(f"in the training data: {_whether_seen(record['prompt'], name, model, known)}")


def _read(task: BooleanTask, path: Path) -> list[Input]:
    """The inputs of a data file. Raises ValueError naming it if it is missing, no text, or against the rules."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; causal-experiment --generate writes it")
    return read_split(task, path)


def _whether_seen(prompt: str, name: str, model: Any, seen: set[Input] | None) -> str:
    from interp_kit.models.checkpoints import read_manifest

    if seen is None and name not in read_manifest():
        return "unknown"
    held_out = prompt in model.provenance.omitted if seen is None else prompt not in _listed(seen).split("; ")
    return "no, it was held out" if held_out else "yes"


def _coloured(text: str, right: bool) -> str:
    """Green or red on a terminal; NO_COLOR (no-color.org) keeps it plain."""
    plain = os.environ.get("NO_COLOR") or not sys.stdout.isatty()
    return text if plain else f"{GREEN if right else RED}{text}{PLAIN}"


def _listed(rows: Iterable[Input]) -> str:
    return "; ".join(",".join(map(str, row)) for row in sorted(rows))


if __name__ == "__main__":
    sys.exit(main())
