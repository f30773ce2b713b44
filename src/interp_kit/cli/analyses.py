"""Commands that run one analysis on a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from interp_kit.cli.common import MODEL_HELP, Common, Limit, Model, Seed, check_sample, pooled
from interp_kit.core.showing import numbered

if TYPE_CHECKING:
    from interp_kit.core.task import AbstractTask

Variable = Annotated[
    str | None, tyro.conf.arg(help="the variable that the two inputs of a pair differ in; default: the task's mediator")
]
Mediator = Annotated[
    str | None, tyro.conf.arg(help="the variable that may be read on the way; default: the task's mediator")
]
Target = Annotated[str | None, tyro.conf.arg(help="the answer that is measured; default: the task's target")]
Sites = Annotated[
    tuple[str, ...], tyro.conf.arg(help="activation sites, every layer of each: resid_pre, resid_post, z, mlp_out ...")
]
Positions = Annotated[tuple[str, ...], tyro.conf.arg(help="named positions; default: all that every text has")]
Hold = Annotated[
    tuple[str, ...] | None,
    tyro.conf.arg(help="variables that must agree; default: pairs that differ in the fewest inputs"),
]
By = Annotated[Literal["position", "all"], tyro.conf.arg(help="one position at a time, or all together")]
Pairs = Annotated[int, tyro.conf.arg(help="pairs, at most, drawn by the seed")]
Direction = Annotated[
    Literal["denoise", "noise"], tyro.conf.arg(help="denoise: copy clean into corrupt; noise: corrupt into clean")
]
Solved = Annotated[bool, tyro.conf.arg(help="leave out what the unedited model does not solve")]


def drawn(n: int, limit: int, seed: int) -> str:
    """Say how pairs were drawn; "" if they are all there are, being fewer than the limit."""
    return f"{numbered(n, 'pairs')}, as many as the limit allows, drawn by seed {seed}" if n >= limit else ""


def check_sites(sites: Sequence[str]) -> None:
    """Raises ValueError for unknown activation sites."""
    from interp_kit.core.config import check_names
    from interp_kit.engine.sites import parse_activation

    for site in check_names("--sites", sites):
        try:
            parse_activation(site)
        except ValueError as error:
            raise ValueError(f"--sites holds {site!r}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Probe(Common):
    """Linear probes at every layer and named position, with baselines and controls."""

    model: Annotated[Model, tyro.conf.Positional]
    labels: tuple[str, ...] = ()
    """variables; default: all that the model answers"""
    sites: Sites = ("resid_post",)
    positions: Positions = ()
    permutations: int = 0
    """of the labels, for the max-statistic over cells"""
    c: float = 1.0
    """inverse regularisation of classes, on features divided by one number; larger reads smaller directions"""
    alpha: float = 1.0
    """regularisation of amounts, on the same features; smaller reads smaller directions"""
    limit: Limit = None
    seed: Seed = 0

    def execute(self) -> None:
        check_sample(self.limit, self.seed)
        model, task = self.open(self.model, self._check)
        from interp_kit.analysis.probing.probe import probe

        labels = self.labels or tuple(field.name for field in task.fields)
        examples, sample = pooled(task, self.limit, self.seed)
        result = probe(
            model,
            task.batch(examples, self.device),
            labels,
            sites=self.sites,
            positions=self.positions or None,
            permutations=self.permutations,
            c=self.c,
            alpha=self.alpha,
            seed=self.seed,
            progress=self.progress,
        )
        self.finish(result, (), sample)

    def _check(self, task: "AbstractTask") -> None:
        from interp_kit.core.config import check_names

        check_names("--labels", self.labels, task.variables, empty=True)
        check_sites(self.sites)


@dataclass(frozen=True, kw_only=True)
class Patch(Common):
    """Activation patching between pairs of inputs that differ in one variable."""

    model: Annotated[Model, tyro.conf.Positional]
    variable: Variable = None
    target: Target = None
    hold: Hold = None
    completion: Literal["own", "clean"] = "own"
    """answers written before the target: each input's own, or the clean one's on both sides"""
    sites: Sites = ("resid_pre",)
    positions: tuple[str, ...] = ()
    """named positions; default: all that every text has, of senders those before the target's prediction"""
    by: By = "position"
    direction: Direction = "denoise"
    senders: bool = False
    """path patching by sender position into the target's prediction, in place of sites"""
    metric: Literal["logit_difference", "probability"] = "logit_difference"
    """what is measured, of the clean answer"""
    only_solved: Solved = False
    limit: int = 4096
    """most pairs; if they use less than a quarter of the texts, no two share a text"""
    seed: Seed = 0

    def execute(self) -> None:
        check_sample(self.limit, self.seed)
        if self.senders and (self.sites, self.by) != (("resid_pre",), "position"):
            raise ValueError("--senders stands in place of --sites and --by")
        check_sites(self.sites)
        model, task = self.open(
            self.model, lambda task: task.check_names(*task.asked(self.variable, self.target), self.hold)
        )
        variable, target = task.asked(self.variable, self.target)
        from interp_kit.analysis.causal.patching import patch, patch_senders
        from interp_kit.engine.metrics import METRICS

        pairs = task.pairs(
            variable, target, hold=self.hold, completion=self.completion, limit=self.limit, seed=self.seed
        ).to(self.device)
        sample = drawn(len(pairs), self.limit, self.seed)
        options: dict[str, Any] = {
            "metric": METRICS[self.metric],
            "direction": self.direction,
            "only_solved": self.only_solved,
            "progress": self.progress,
        }
        names = self.positions or None
        if self.senders:
            self.finish(patch_senders(model, pairs, senders=names, **options), (), sample)
        else:
            result = patch(model, pairs, sites=self.sites, by=self.by, positions=names, **options)
            self.finish(result, (), sample)


@dataclass(frozen=True, kw_only=True)
class Interchange(Common):
    """Interchange interventions: does a site hold the variable, as the task's equations have it?"""

    model: Annotated[Model, tyro.conf.Positional]
    variable: Variable = None
    target: Target = None
    sites: Sites = ("resid_post",)
    positions: tuple[str, ...] = ()
    """named positions; default: all that every text has, up to the target's prediction"""
    by: By = "position"
    only_solved: Solved = False
    limit: int = 512
    """pairs, and controls"""
    seed: Seed = 0

    def execute(self) -> None:
        check_sites(self.sites)
        model, task = self.open(self.model, lambda task: task.check_names(*task.asked(self.variable, self.target)))
        variable, target = task.asked(self.variable, self.target)
        from interp_kit.analysis.causal.interchange import interchange

        result = interchange(
            model,
            task,
            variable,
            target,
            sites=self.sites,
            positions=self.positions or None,
            by=self.by,
            only_solved=self.only_solved,
            limit=self.limit,
            seed=self.seed,
            progress=self.progress,
        )
        self.finish(result)


@dataclass(frozen=True, kw_only=True)
class Edges(Common):
    """Every edge of the model with its score (attribution or exact patching), and what its best edges do alone."""

    model: Annotated[Model, tyro.conf.Positional]
    variable: Variable = None
    target: Target = None
    hold: Hold = None
    method: Literal["exact", "eap", "eap-ig", "eap-ig-activations"] = "exact"
    """a run for each edge; one gradient; or integrated gradients, up to 2,000 of them where a model is steep, of
    embeddings, or of each component's outputs (as many for each)"""
    by: Annotated[Literal["all", "position"], tyro.conf.arg(help="one score an edge, or one for each position")] = "all"
    top: int = 30
    """how many edges are shown, those of largest score; 0: all (not with --faithfulness)"""
    faithfulness: bool = False
    """how much of the gap the best edges keep alone: half of the independent pairs choose them, the others measure"""
    limit: Pairs = 4096
    seed: int = 0
    """of the pairs that are drawn; and of the halves and the random orders beside them (with --faithfulness)"""

    def execute(self) -> None:
        check_sample(self.limit, self.seed)
        if self.top < 0:
            raise ValueError(f"--top is {self.top}, it must be 0 or more")
        model, task = self.open(
            self.model, lambda task: task.check_names(*task.asked(self.variable, self.target), self.hold)
        )
        variable, target = task.asked(self.variable, self.target)
        from interp_kit.analysis.circuits.edge_scores import score_edges
        from interp_kit.analysis.circuits.faithfulness import faithfulness

        pairs = task.pairs(variable, target, hold=self.hold, limit=self.limit, seed=self.seed).to(self.device)
        sample = drawn(len(pairs), self.limit, self.seed)
        chosen, rest = pairs.halves(self.seed) if self.faithfulness else (pairs, None)
        found = score_edges(model, chosen, method=self.method, by=self.by, progress=self.progress)
        if rest is None:
            self.finish(found.top(min(self.top or len(found), len(found))), (), sample)
        else:
            result = faithfulness(model, rest, found, seed=self.seed, progress=self.progress)
            self.finish(result, (), sample)


@dataclass(frozen=True, kw_only=True)
class Ablate(Common):
    """Importance of every head and MLP; with more than one model, the overlap of their top-k sets."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help=MODEL_HELP)]
    kind: Literal["zero", "mean", "resample"] = "mean"
    """what an output is replaced by: nothing, its mean over texts, or another text's"""
    units: tuple[Literal["head", "mlp", "layer"], ...] = ("head", "mlp")
    """what is ablated, one at a time"""
    metric: Literal["logit_difference", "probability", "kl", "accuracy"] = "logit_difference"
    """what is measured, over all answers"""
    k: int = 5
    """size of the compared sets (with more than one model)"""
    limit: Limit = None
    seed: Seed = 0

    def execute(self) -> None:
        check_sample(self.limit, self.seed)
        from interp_kit.analysis.causal.ablation import ablate
        from interp_kit.analysis.comparison.component_overlap import jaccard
        from interp_kit.engine.metrics import METRICS

        if not self.models:
            raise ValueError("name at least one model")
        results, sample = [], ""
        for name in self.models:
            model, task = self.open(name)
            examples, sample = pooled(task, self.limit, self.seed)
            result = ablate(
                model,
                task.batch(examples, self.device),
                kind=self.kind,
                units=self.units,
                metric=METRICS[self.metric],
                seed=self.seed,
                progress=self.progress,
            )
            results.append(result)
            if len(self.models) > 1 and not 0 < self.k <= len(result.component):
                raise ValueError(f"--k is {self.k}; {name} has {len(result.component)} components")
        self.finish(results[0] if len(results) == 1 else jaccard(*results, k=self.k), (), sample)


@dataclass(frozen=True, kw_only=True)
class Lesion(Common):
    """Hold components at zero or at their mean while training goes on, beside a control: what is repaired at once, what
    is relearned, and which components take over."""

    model: Annotated[Model, tyro.conf.Positional]
    cut: tuple[str, ...]
    """heads and MLPs that are held, as in: --cut L0H1 "L2 MLP\""""
    value: Literal["zero", "mean"] = "zero"
    """what their outputs are held at"""
    steps: int = 200
    """of training, with the lesion and without"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """of the training examples"""
    batch_size: int = 16
    """texts per step"""
    learning_rate: float = 5e-4
    """of AdamW, constant"""
    kind: Literal["zero", "mean"] = "mean"
    """what a component's output is replaced by to measure its importance"""
    limit: int = 256
    """examples that are measured, at most"""

    def execute(self) -> None:
        from interp_kit.core.config import check_names
        from interp_kit.models.circuit import stage

        for name in check_names("--cut", self.cut):
            stage(name)
        model, task = self.open(self.model)
        from interp_kit.analysis.causal.lesion import lesion
        from interp_kit.engine.edits import Mean, Zero, output

        source = Mean() if self.value == "mean" else Zero()
        result = lesion(
            model,
            task,
            [output(name, source) for name in self.cut],
            steps=self.steps,
            seeds=self.seeds,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            kind=self.kind,
            limit=self.limit,
            progress=self.progress,
        )
        self.finish(result)


@dataclass(frozen=True, kw_only=True)
class Mechanism(Common):
    """Find the path by which a prediction uses an intermediate variable: its token, directly, or a latent."""

    model: Annotated[Model, tyro.conf.Positional]
    mediator: Mediator = None
    target: Target = None
    limit: int = 512
    """inputs, pairs and conflict prompts"""
    seed: Seed = 0

    def execute(self) -> None:
        model, task = self.open(self.model, lambda task: task.check_names(*task.asked(self.mediator, self.target)))
        mediator, target = task.asked(self.mediator, self.target)
        from interp_kit.analysis.causal.mechanism import mechanism

        options = {"limit": self.limit, "seed": self.seed, "progress": self.progress}
        result = mechanism(model, task, mediator=mediator, target=target, **options)
        self.finish(
            result, [f"verdict: {result.verdict} (n = {numbered(result.config['units'], 'independent pairs')})"]
        )
