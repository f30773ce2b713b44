"""`interp-kit`: every analysis from the command line. One frozen dataclass a command; nothing heavy is imported before
a command runs.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from interp_kit.core.result import AbstractResult
    from interp_kit.core.task import AbstractTask

MODEL_HELP = "shipped name, planted name (boolean-direct, boolean-direct@3), untrained:NAME, directory, or hub id"
Model = Annotated[str, tyro.conf.arg(help=MODEL_HELP)]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every analysis."""

    task: str | None = None
    """task by name; default: the one that the model learnt"""
    json: Path | None = None
    """write the table as JSON records to this file ("-": standard output)"""
    save: Path | None = None
    """save the result to this folder (safetensors and JSON)"""
    device: str = "cpu"
    """torch device"""
    progress: bool = True
    """show a progress bar"""

    def finish(self, result: "AbstractResult", lines: Sequence[str] = ()) -> None:
        """Print the table, and write what was asked for."""
        from interp_kit.core.files import write_text

        frame = result.to_frame()
        rows = json.loads(frame.to_json(orient="records") or "[]")
        records = json.dumps({"config": dict(result.config), "rows": rows}, indent=2, default=str)
        if self.json is not None and str(self.json) == "-":
            print(records)
        else:
            print("\n".join([*lines, frame.to_string(index=False, float_format=lambda v: f"{v:.3f}", max_rows=60)]))
            print(result.caption())
        if self.json is not None and str(self.json) != "-":
            print(f"wrote {write_text(self.json, records + chr(10))}")
        if self.save is not None:
            print(f"saved {result.save(self.save)}")

    def open(self, name: str) -> tuple[Any, "AbstractTask"]:
        """The model and its task."""
        from interp_kit.recipes.zoo import resolve, task_of

        model = resolve(name, device=self.device)
        return model, task_of(model, self.task)


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Write the data files of the boolean task (as `causal-experiment --generate`)."""

    out: Path = Path("dataset")
    omit: str = ""
    """inputs to leave out, '1,1,1,1,1;0,0,0,0,0'"""
    seed: int = 42

    def execute(self) -> None:
        from interp_kit.tasks.boolean import BooleanTask
        from interp_kit.tasks.boolean.dataset import parse_omissions, splits, write_splits

        task = BooleanTask()
        omitted = parse_omissions(self.omit, len(task.inputs))
        for path in write_splits(task, self.out, splits(task, omit=omitted, seed=self.seed)):
            print(path)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a small GPT-2 on a task from scratch."""

    out: Path
    task: str = "boolean"
    data: Path | None = None
    """boolean: a train.jsonl; default: 20,000 examples drawn by the task"""
    examples: int = 20_000
    epochs: float = 3.0
    learning_rate: float = 5e-4
    batch_size: int = 16
    seed: int = 42
    device: str | None = None
    progress: bool = True

    def execute(self) -> None:
        from interp_kit.core.task import AbstractTask
        from interp_kit.tasks.boolean import BooleanTask
        from interp_kit.tasks.boolean.dataset import read_split
        from interp_kit.tasks.registry import task
        from interp_kit.training.sft import SFTConfig, train_sft

        learnt: AbstractTask = task(self.task)
        if self.data is None:
            examples = learnt.sample(self.examples, self.seed)
        elif isinstance(learnt, BooleanTask):
            examples = learnt.examples(read_split(learnt, self.data))
        else:
            raise ValueError(f"--data is for the boolean task, not {self.task}")
        config = SFTConfig(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size, seed=self.seed
        )
        print(train_sft(learnt, examples, self.out, config, device=self.device, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class Test(Common):
    """Exact match and accuracy by field, seen inputs apart from omitted ones, beside both baselines."""

    model: Annotated[Model, tyro.conf.Positional]

    def execute(self) -> None:
        from interp_kit.analysis.evaluation import evaluate
        from interp_kit.recipes.zoo import omitted_examples

        model, task = self.open(self.model)
        self.finish(evaluate(model, task, omitted=omitted_examples(model, task)))


@dataclass(frozen=True, kw_only=True)
class Load(Common):
    """Load a model and print where it comes from and how exact its conversion is."""

    model: Annotated[Model, tyro.conf.Positional]
    fold: bool = False
    """fold LayerNorms and centre weights, as TransformerLens does by default"""

    def execute(self) -> None:
        from interp_kit.models.checkpoints import provenance
        from interp_kit.recipes.zoo import resolve

        model = resolve(self.model, device=self.device, fold=self.fold)
        cfg, where = model.cfg, provenance(model)
        check = getattr(model, "conversion", None)
        facts = {
            "model": where.name,
            "path": where.path,
            "sha256": where.sha256,
            "task": where.task,
            "initialisation": where.initialisation,
            "omitted inputs": list(where.omitted),
            "layers": cfg.n_layers,
            "heads": cfg.n_heads,
            "d_model": cfg.d_model,
            "context": cfg.n_ctx,
            "vocabulary": cfg.d_vocab,
            "parameters": sum(p.numel() for p in model.parameters()),
            "conversion": str(check) if check else "constructed, nothing to convert",
        }
        if self.json is not None and str(self.json) != "-":
            from interp_kit.core.files import write_json

            write_json(self.json, facts)
        print(
            json.dumps(facts, indent=2) if str(self.json) == "-" else "\n".join(f"{k}: {v}" for k, v in facts.items())
        )


@dataclass(frozen=True, kw_only=True)
class Probe(Common):
    """Linear probes at every layer and named position, with baselines and controls."""

    model: Annotated[Model, tyro.conf.Positional]
    labels: tuple[str, ...] = ()
    """variables; default: all that the model answers"""
    sites: tuple[str, ...] = ("resid_post",)
    positions: tuple[str, ...] = ()
    permutations: int = 0
    """of the labels, for the max-statistic over cells"""
    seed: int = 0

    def execute(self) -> None:
        from interp_kit.analysis.probing import probe

        model, task = self.open(self.model)
        labels = self.labels or tuple(field.name for field in task.fields)
        result = probe(
            model,
            task.batch(task.pool(), self.device),
            labels,
            sites=self.sites,
            positions=self.positions or None,
            permutations=self.permutations,
            seed=self.seed,
            progress=self.progress,
        )
        self.finish(result)


@dataclass(frozen=True, kw_only=True)
class Patch(Common):
    """Activation patching between pairs of inputs that differ in one variable."""

    model: Annotated[Model, tyro.conf.Positional]
    variable: str = "newB"
    target: str = "newD"
    hold: tuple[str, ...] | None = None
    """variables that must agree; default: pairs that differ in the fewest inputs"""
    completion: Literal["own", "clean"] = "own"
    sites: tuple[str, ...] = ("resid_pre",)
    by: Literal["position", "all"] = "position"
    direction: Literal["denoise", "noise"] = "denoise"
    senders: bool = False
    """path patching by sender position into the target's prediction, in place of sites"""
    metric: Literal["logit_difference", "probability"] = "logit_difference"

    def execute(self) -> None:
        from interp_kit.analysis.metrics import METRICS
        from interp_kit.analysis.patching import patch, patch_senders

        model, task = self.open(self.model)
        pairs = task.pairs(self.variable, self.target, hold=self.hold, completion=self.completion).to(self.device)
        options: dict[str, Any] = {
            "metric": METRICS[self.metric],
            "direction": self.direction,
            "progress": self.progress,
        }
        if self.senders:
            self.finish(patch_senders(model, pairs, **options))
        else:
            self.finish(patch(model, pairs, sites=self.sites, by=self.by, **options))


@dataclass(frozen=True, kw_only=True)
class Ablate(Common):
    """Importance of every head and MLP; with more than one model, the overlap of their top-k sets."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help=MODEL_HELP)]
    kind: Literal["zero", "mean", "resample"] = "mean"
    units: tuple[Literal["head", "mlp", "layer"], ...] = ("head", "mlp")
    metric: Literal["logit_difference", "probability", "kl", "accuracy"] = "logit_difference"
    k: int = 5
    """size of the compared sets"""

    def execute(self) -> None:
        from interp_kit.analysis.ablation import ablate
        from interp_kit.analysis.metrics import METRICS
        from interp_kit.analysis.similarity import jaccard

        if not self.models:
            raise ValueError("name at least one model")
        results = []
        for name in self.models:
            model, task = self.open(name)
            batch = task.batch(task.pool(), self.device)
            result = ablate(
                model, batch, kind=self.kind, units=self.units, metric=METRICS[self.metric], progress=self.progress
            )
            results.append(result)
        self.finish(results[0] if len(results) == 1 else jaccard(*results, k=self.k))


@dataclass(frozen=True, kw_only=True)
class Mechanism(Common):
    """By which path a prediction uses an intermediate variable: its token, directly, or a latent."""

    model: Annotated[Model, tyro.conf.Positional]
    mediator: str = "newB"
    target: str = "newD"

    def execute(self) -> None:
        from interp_kit.analysis.mediation import mechanism

        model, task = self.open(self.model)
        result = mechanism(model, task, mediator=self.mediator, target=self.target)
        self.finish(result, [f"verdict: {result.verdict}"])


@dataclass(frozen=True, kw_only=True)
class Sae(Common):
    """Train a sparse autoencoder (SAELens) on one site over the task's stream."""

    model: Annotated[Model, tyro.conf.Positional]
    site: str = "blocks.2.hook_mlp_out"
    architecture: Literal["standard", "topk"] = "topk"
    width: int = 64
    k: int = 8
    training_samples: int = 100_000
    seed: int = 0
    out: Path | None = None
    """write the autoencoder in SAELens's format to this folder"""

    def execute(self) -> None:
        from interp_kit.analysis.sae import train_sae
        from interp_kit.analysis.sae_training import SAEConfig

        model, task = self.open(self.model)
        config = SAEConfig(
            architecture=self.architecture, width=self.width, k=self.k, training_samples=self.training_samples
        )
        result = train_sae(model, task, site=self.site, config=config, seed=self.seed, progress=self.progress)
        self.finish(result)
        if self.out is not None:
            result.save_sae(self.out)
            print(f"wrote {self.out}")


@dataclass(frozen=True, kw_only=True)
class TrainCulture:
    """Train a group of culture models in rotation; goes on where it was stopped."""

    out: Path
    """folder of the models, their training states and the curve"""
    ids: tuple[int, ...] = (0, 1, 2, 3)
    preset: str = "fast"
    """fast, or one of the original: 17K, 4M, 37M, 122M, 352M"""
    budget: int = 240_000
    """quizzes that each model sees"""
    turn: int = 8_000
    """quizzes between evaluations"""
    quizzes: int = 0
    """culture quizzes that the models make once all have passed the threshold"""
    threshold: float = 0.95
    seed: int = 0
    making: float = 0.1
    """share of the budget, at its start and its end, in which making quizzes is learnt, at some cost in accuracy"""
    device: str = "cpu"
    precision: str = "float32"
    """bfloat16 is twice as fast on a CPU that has it"""
    workers: int = 2
    """processes, of one thread each"""
    shards: int = 1
    """processes that share every step of a model"""

    def execute(self) -> None:
        from dataclasses import asdict

        from interp_kit.training.culture.rotation import CultureConfig, train

        options = asdict(self)
        train(CultureConfig(**{name: value for name, value in options.items() if name != "out"}), self.out)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The main study of the boolean task, recomputed from the checkpoints, as a page."""

    out: Path = Path("reports/boolean.html")
    jobs: int | None = None
    """processes; default: one a core"""
    progress: bool = True

    def execute(self) -> None:
        from interp_kit.recipes.boolean_report import main as run

        print(run(self.out, jobs=self.jobs, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class CultureReport:
    """The study of the culture models, recomputed from the checkpoints, as a page with grids."""

    out: Path = Path("reports/culture.html")
    ids: tuple[int, ...] = ()
    """numbers of the models; default: all there are"""
    checkpoint_dir: str | None = None
    tests: int = 1000
    """quizzes to test the models on"""
    jobs: int | None = None
    """processes; default: one a core"""
    progress: bool = True

    def execute(self) -> None:
        from interp_kit.recipes.culture_report import main as run

        print(run(self.out, self.ids, self.checkpoint_dir, tests=self.tests, jobs=self.jobs, progress=self.progress))


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Every method on models whose circuit is known by construction, as a page: when to believe which."""

    out: Path = Path("reports")
    """folder for audit.html, its figures, and the tables"""
    jobs: int = 1
    """processes"""

    def execute(self) -> None:
        from interp_kit.recipes.audit import main as run

        print(run(self.out, jobs=self.jobs))


@dataclass(frozen=True, kw_only=True)
class Circuits:
    """Circuits of the trained boolean models and one culture model, with faithfulness curves, as a page."""

    out: Path = Path("reports/circuits.html")
    jobs: int = 1
    """processes"""

    def execute(self) -> None:
        from interp_kit.recipes.trained_circuits import main as run

        print(run(self.out, jobs=self.jobs))


Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Test, tyro.conf.subcommand("test")]
    | Annotated[Load, tyro.conf.subcommand("load")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Patch, tyro.conf.subcommand("patch")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Mechanism, tyro.conf.subcommand("mechanism")]
    | Annotated[Sae, tyro.conf.subcommand("sae")]
    | Annotated[TrainCulture, tyro.conf.subcommand("train-culture")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[CultureReport, tyro.conf.subcommand("culture-report")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Circuits, tyro.conf.subcommand("circuits")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Exit status 1 with one clear line where the input is at fault."""
    command = tyro.cli(Command, args=argv, prog="interp-kit", description=__doc__)  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        command.execute()  # pyright: ignore[reportAttributeAccessIssue]
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"interp-kit: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
