"""Show, with evidence, how small transformers compute: every analysis from the command line (--version: print it)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import tyro

import interp_kit
from interp_kit.cli import analyses, dictionaries, models, studies
from interp_kit.core.program import ended


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print what makes a shell complete commands and options when you press Tab.

    bash: source <(interp-kit completion bash). zsh: interp-kit completion zsh > a folder of $fpath/_interp-kit.
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """the shell that you type in"""

    def execute(self) -> None:
        """Write the script to standard output."""
        from interp_kit.cli.completion import script

        print(script(Command, self.shell))


# One frozen dataclass per command; nothing heavy is imported before a command runs.
Command = (
    Annotated[models.Generate, tyro.conf.subcommand("generate")]
    | Annotated[models.Verl, tyro.conf.subcommand("verl")]
    | Annotated[models.Train, tyro.conf.subcommand("train")]
    | Annotated[models.Test, tyro.conf.subcommand("test")]
    | Annotated[models.Load, tyro.conf.subcommand("load")]
    | Annotated[models.Playground, tyro.conf.subcommand("playground")]
    | Annotated[analyses.Probe, tyro.conf.subcommand("probe")]
    | Annotated[analyses.Patch, tyro.conf.subcommand("patch")]
    | Annotated[analyses.Interchange, tyro.conf.subcommand("interchange")]
    | Annotated[analyses.Edges, tyro.conf.subcommand("edges")]
    | Annotated[analyses.Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[analyses.Lesion, tyro.conf.subcommand("lesion")]
    | Annotated[analyses.Mechanism, tyro.conf.subcommand("mechanism")]
    | Annotated[dictionaries.Sae, tyro.conf.subcommand("sae")]
    | Annotated[dictionaries.Align, tyro.conf.subcommand("align")]
    | Annotated[models.TrainCulture, tyro.conf.subcommand("train-culture")]
    | Annotated[studies.Report, tyro.conf.subcommand("report")]
    | Annotated[studies.CultureReport, tyro.conf.subcommand("culture-report")]
    | Annotated[studies.Audit, tyro.conf.subcommand("audit")]
    | Annotated[studies.Circuits, tyro.conf.subcommand("circuits")]
    | Annotated[studies.Study, tyro.conf.subcommand("study")]
    | Annotated[studies.Traces, tyro.conf.subcommand("traces")]
    | Annotated[Completion, tyro.conf.subcommand("completion")]
)


COMMANDS = tuple(one.__metadata__[0].name for one in get_args(Command))


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Exit status 1 with one clear line if the input is at fault."""
    if (sys.argv[1:] if argv is None else list(argv)) == ["--version"]:
        print(f"interp-kit {interp_kit.__version__}")
        return 0
    return ended("interp-kit", lambda: _command(argv).execute())


def _command(argv: Sequence[str] | None) -> Any:
    """The command with its options. Raises ValueError for an unknown command, and for an option that a config
    refuses."""
    first = next(iter(sys.argv[1:] if argv is None else argv), "-")
    if not first.startswith("-") and first not in COMMANDS:
        near = get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no command {first!r}; {hint}expected one of {', '.join(COMMANDS)}")
    return tyro.cli(Command, args=argv, prog="interp-kit", description=__doc__)  # pyright: ignore[reportArgumentType, reportCallIssue]
