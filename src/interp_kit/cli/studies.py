"""Commands that run a whole study and write its page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from interp_kit.cli.common import Progress
from interp_kit.core.showing import PROGRESS

Page = Annotated[Path, tyro.conf.arg(help="the page")]
Jobs = Annotated[int | None, tyro.conf.arg(help="processes; default: one a core, at most four")]
TOLD, LONGEST = 3, 400  # findings that a terminal shows, and characters of one


def _tell(page: Path) -> None:
    """Print the first findings of a page, and its address on the last line."""
    text = page.with_suffix(".md")  # a shard of the audit has none
    lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
    for line in [line for line in lines if line.startswith("- ")][:TOLD]:
        print(line if len(line) <= LONGEST else f"{line[: LONGEST - 2].rsplit(' ', 1)[0]} …")
    print(page)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The main study of the boolean task, recomputed from the checkpoints, as a page."""

    out: Page = Path("reports/boolean.html")
    playground: Path | None = None
    """write a playground page of the first model to this file (.html), and link the findings to it"""
    jobs: Jobs = None
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from interp_kit.studies.boolean.command import main as run

        _tell(run(self.out, playground=self.playground, jobs=self.jobs, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class CultureReport:
    """The study of the culture models, recomputed from the checkpoints, as a page with grids."""

    out: Page = Path("reports/culture.html")
    ids: tuple[int, ...] = ()
    """numbers of the models; default: all there are"""
    checkpoint_dir: str | None = None
    """folder with gpt_NNN.pth, or id of a hub repository; default: checkpoints/culture"""
    tests: int = 1000
    """quizzes to test the models on"""
    jobs: Jobs = None
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from interp_kit.studies.culture.command import main as run

        _tell(run(self.out, self.ids, self.checkpoint_dir, tests=self.tests, jobs=self.jobs, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Every method on models whose circuit is known by construction, as a page: when to believe which."""

    out: Path = Path("reports/audit.html")
    """the page; its figures, tables and the scores of every program go into folders beside it"""
    programs: int = 0
    """random programs to compile and audit; default: the planted models instead"""
    trained: int = 0
    """how many of them to train a network on too"""
    seed: int = 0
    """of the programs"""
    shard: str = ""
    """i/n, to run every n-th model only, from the i-th, counted from 0; into a folder of pieces beside the page"""
    merge: bool = False
    """make the page of the planted models' pieces, once all are there"""
    jobs: Jobs = None
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from interp_kit.studies.audit.command import main as run

        given = {"programs": self.programs, "trained": self.trained, "seed": self.seed}
        shards = {"shard": self.shard, "merge": self.merge}
        _tell(run(self.out, **given, **shards, jobs=self.jobs, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class Circuits:
    """Circuits of the trained boolean models and one culture model, with faithfulness curves, as a page."""

    out: Page = Path("reports/circuits.html")
    jobs: Jobs = None
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from interp_kit.studies.circuits.study import main as run

        _tell(run(self.out, jobs=self.jobs, progress=self.progress))


# name on the command line -> the module that runs the study
STUDIES = {"cards": "cards.command", "features": "culture.features.command", "graphs": "graphs.command"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """The study of one family of tasks, recomputed from the checkpoints, as a page. cards: does supervised fine-tuning
    memorise where reinforcement learning generalises? features: what do the features of a culture model tell, and are
    they used? graphs: does a model that answers causal questions at once compute what another writes down?"""

    family: Annotated[Literal["cards", "features", "graphs"], tyro.conf.Positional]
    out: Path | None = None
    """the page; default: reports/<family>.html"""
    jobs: Jobs = None
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from importlib import import_module

        run = import_module(f"interp_kit.studies.{STUDIES[self.family]}").main
        _tell(run(self.out or Path("reports") / f"{self.family}.html", jobs=self.jobs, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Accuracy of generations on causal-graph questions, and where their reasoning errs; no service is asked. In
    free prose many errors are missed; of counterfactual questions the arithmetic alone is checked."""

    generations: Annotated[Path, tyro.conf.Positional]
    """JSON lines or .parquet with id (of the question), system and text"""
    questions: Path
    """a parquet file that `interp-kit generate graphs` wrote"""
    out: Path | None = None
    """write a page to this file (.html)"""
    json: Path | None = None
    """write all tables to this file as JSON, in place of any that is there"""
    examples: int = 2
    """random generations to show, per system"""
    seed: int = 0
    """of the examples"""
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from interp_kit.studies.graphs.generation_command import main as run

        print(
            run(
                self.generations, self.questions, self.out, self.json,
                examples=self.examples, seed=self.seed, progress=self.progress,
            )
        )  # fmt: skip
