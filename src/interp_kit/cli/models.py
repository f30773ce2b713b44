"""Commands that make data and models, and load and test them."""

from dataclasses import dataclass, field
from itertools import chain
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import tyro

from interp_kit.cli.common import Common, Config, Limit, Model, Progress, Seed, check_sample, sampled, settings
from interp_kit.core.showing import PROGRESS
from interp_kit.studies.culture.training.config import CultureConfig


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Write data files: of the boolean task (as `causal-experiment --generate`), questions about causal graphs, or grid
    quizzes."""

    task: Annotated[Literal["boolean", "graphs", "culture"], tyro.conf.Positional] = "boolean"
    """boolean, graphs or culture"""
    out: Path = Path("dataset")
    """the folder that gets train.jsonl, valid.jsonl and test.jsonl (the others: .parquet files and manifest.json)"""
    omit: str = ""
    """boolean: inputs to leave out, '1,1,1,1,1;0,0,0,0,0'"""
    seed: int = 42
    """boolean, culture: of the draws"""
    config: Path | None = None
    """graphs: a YAML file of the fields of GraphsConfig; default: its defaults"""
    n: int = 1_000_000
    """culture: rows"""
    noise: float = 0.05
    """culture: share of a prompt's cells drawn anew"""
    quizzes: Path | None = None
    """culture: a c_quizzes.pth; what models made is then one more label, beside the rules, with as many rows"""
    shard: str = ""
    """graphs, culture: i/n, to make the i-th of n shards only, counted from 0"""
    merge: int = 0
    """graphs: make one data set of this many shards in the folder"""
    jobs: int | None = None
    """graphs, culture: processes; default: one a core, at most four"""
    progress: Progress = PROGRESS

    def execute(self) -> None:
        given = [
            name for name in sorted({*chain(*_OPTIONS.values())}) if getattr(self, name) != getattr(Generate, name)
        ]
        foreign = [f"--{name}" for name in given if name not in _OPTIONS[self.task]]
        if foreign:
            raise ValueError(f"{' and '.join(foreign)} cannot be given with the task {self.task}; leave it out")
        made = {"boolean": self._boolean, "graphs": self._graphs, "culture": self._culture}[self.task]()
        for path in made:
            print(path)

    def _boolean(self) -> list[Path]:
        from interp_kit.tasks.boolean import BooleanTask
        from interp_kit.tasks.boolean.dataset import parse_omissions, splits, write_splits

        task = BooleanTask()
        omitted = parse_omissions(self.omit, len(task.inputs))
        return write_splits(task, self.out, splits(task, omit=omitted, seed=self.seed))

    def _graphs(self) -> list[Path]:
        from interp_kit.core.parallel import parse_shard
        from interp_kit.tasks.graphs.data.config import GraphsConfig, read_config
        from interp_kit.tasks.graphs.data.files import generate, merge

        config = GraphsConfig() if self.config is None else read_config(self.config)
        shard = parse_shard(self.shard)
        if self.merge:
            if self.shard:
                raise ValueError("--shard and --merge cannot be given together; make all shards, then merge them")
            return merge(config, self.out, self.merge)
        return generate(config, self.out, shard=shard, jobs=self.jobs, progress=self.progress)

    def _culture(self) -> list[Path]:
        from interp_kit.core.parallel import parse_shard
        from interp_kit.tasks.culture.data import CultureDataConfig, generate

        config, shard, made = CultureDataConfig(self.n, self.noise, self.seed), parse_shard(self.shard), None
        if self.quizzes is not None:
            from interp_kit.studies.culture.training.quiz_making import load_quizzes

            made = load_quizzes(self.quizzes)[0]
        return generate(config, self.out, made=made, shard=shard, jobs=self.jobs, progress=self.progress)


_OPTIONS = {
    "boolean": ("omit", "seed"),
    "graphs": ("config", "shard", "merge", "jobs"),
    "culture": ("n", "noise", "quizzes", "seed", "shard", "jobs"),
}


@dataclass(frozen=True, kw_only=True)
class Verl:
    """Write what verl needs to train a large model on graph questions: parquets, reward files and launch scripts."""

    data: Annotated[Path, tyro.conf.Positional]
    """a folder that `interp-kit generate graphs` wrote"""
    out: Path
    """the folder that gets the files"""
    preset: Literal["classic", "long"] = "classic"
    """lengths, steps and reward: 8 replies of 1,024 tokens, soft; or 32 of 4,096, strict"""
    variant: Literal["generic", "specific"] = "generic"
    """the prompt of RL"""

    def execute(self) -> None:
        from interp_kit.training.verl import write_verl

        for path in write_verl(self.data, self.out, preset=self.preset, variant=self.variant):
            print(path)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a small GPT-2 on a task from scratch."""

    out: Path
    """the folder that gets the model"""
    task: str = "boolean"
    """task by name or address (my_file.py:MyTask, package.module:Name)"""
    equations: tuple[str, ...] = ()
    """boolean: other equations, as 'newA=A ^ C' 'newB=not D', each of inputs and of those before it"""
    inputs: tuple[str, ...] = ()
    """boolean: names of the input bits; default: A B C D E"""
    data: Path | None = None
    """boolean: a train.jsonl; default: 20,000 examples drawn by the task"""
    examples: int = 20_000
    """how many are drawn (without --data)"""
    epochs: float = 3.0
    """times that each is seen"""
    learning_rate: float = 5e-4
    """of AdamW"""
    batch_size: int = 16
    """examples per step"""
    seed: int = 42
    """of weights, draws and order"""
    device: str | None = None
    """torch device; default: a GPU where there is one"""
    progress: Progress = PROGRESS

    def execute(self) -> None:
        from interp_kit.core.task import AbstractTask
        from interp_kit.models.device import check_device
        from interp_kit.registry.tasks import find, made
        from interp_kit.tasks.boolean import BooleanTask
        from interp_kit.tasks.boolean.dataset import read_split
        from interp_kit.tasks.boolean.equations import parse_equations
        from interp_kit.training.sft import SFTConfig, train_sft

        check_device(self.device)
        kind = find(self.task, "--task")
        options = {"equations": parse_equations(self.equations), "inputs": self.inputs}
        given = {name: value for name, value in options.items() if value}
        if given and not issubclass(kind, BooleanTask):
            raise ValueError(f"--{' and --'.join(given)} are for the boolean task, not {self.task}")
        learnt: AbstractTask = made(kind, given)
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
class TrainCulture:
    """Train a group of culture models in rotation; goes on where it was stopped."""

    out: Path
    """folder of the models, their training states and the curve"""
    config: Annotated[CultureConfig, tyro.conf.arg(name="")] = field(default_factory=CultureConfig)

    def execute(self) -> None:
        from interp_kit.models.device import check_device
        from interp_kit.studies.culture.training.turns import train

        check_device(self.config.device)
        train(self.config, self.out)


@dataclass(frozen=True, kw_only=True)
class Test(Common):
    """Exact match and accuracy by field, seen inputs apart from omitted ones, beside both baselines."""

    model: Annotated[Model, tyro.conf.Positional]
    limit: Limit = None
    seed: Seed = 0

    def execute(self) -> None:
        from interp_kit.analysis.behaviour.evaluation import evaluate
        from interp_kit.registry.models import omitted_examples

        check_sample(self.limit, self.seed)
        model, task = self.open(self.model)
        omitted, examples, known, sample = omitted_examples(model, task), None, None, ""
        if self.limit is not None:
            left_out = {example.tokens for example in omitted}
            pool = task.pool(self.seed)
            seen = [example for example in pool if example.tokens not in left_out]
            known = seen if omitted or task.n_worlds == len(pool) else None
            of = "inputs drawn" if known is None else "seen inputs"
            examples, sample = sampled(seen, self.limit, self.seed, of)
        result = evaluate(model, task, omitted=omitted, examples=examples, known=known, progress=self.progress)
        self.finish(result, (), sample)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load a model and print where it comes from and how exact its conversion is."""

    model: Annotated[Model, tyro.conf.Positional]
    json: Path | None = None
    """write the facts as JSON to this file ("-": standard output)"""
    device: str = "cpu"
    """torch device"""
    config: Config = ()
    fold: bool = False
    """fold LayerNorms and centre weights, as TransformerLens does by default"""

    def execute(self) -> None:
        from interp_kit.core.files import check_writable, write_json
        from interp_kit.models.checkpoints import provenance
        from interp_kit.models.device import check_device
        from interp_kit.registry.models import load

        if self.json is not None and str(self.json) != "-":
            check_writable(self.json)
        check_device(self.device)
        model = load(self.model, device=self.device, fold=self.fold, config=settings(self.config))
        cfg, where = model.cfg, provenance(model)
        facts = {
            "model": where.name,
            "path": where.path,
            "sha256": where.sha256,
            "digest": where.digest,
            "task": where.task,
            "initialisation": where.initialisation,
            "omitted inputs": list(where.omitted),
            "layers": cfg.n_layers,
            "heads": cfg.n_heads,
            "d_model": cfg.d_model,
            "context": cfg.n_ctx,
            "vocabulary": cfg.d_vocab,
            "parameters": sum(p.numel() for p in model.parameters()),
            "conversion": str(model.conversion).removeprefix("conversion checked: "),
        }
        if self.json is not None and str(self.json) != "-":
            write_json(self.json, facts)
        lines = "\n".join(f"{k}: {v}" for k, v in facts.items())
        print(dumps(facts, indent=2) if str(self.json) == "-" else lines)


@dataclass(frozen=True, kw_only=True)
class Playground:
    """Write one HTML file that runs a model in the browser: edit weights and activations, and watch."""

    model: Annotated[Model, tyro.conf.Positional]
    out: Path = Path("playground.html")
    """the page; an unchanged playground page there is replaced, anything else is not"""
    task: str | None = None
    """task by name or address (my_file.py:MyTask, package.module:Name); default: the one that the model learned"""
    config: Config = ()

    def execute(self) -> None:
        from interp_kit.playground.page import playground_path, write_playground
        from interp_kit.registry.models import load, task_of
        from interp_kit.registry.tasks import find

        if self.task is not None:
            find(self.task, "--task")
        playground_path(self.out)
        model = load(self.model, config=settings(self.config))
        page = write_playground(model, self.out, task=None if self.task is None else task_of(model, self.task))
        print(f"wrote {page}, {page.stat().st_size / 1e6:.1f} MB: open it in a browser")
