"""interp_kit: take small transformers that learnt tasks whose true algorithm is known, and show how they compute.

Everything below is loaded on first use, so importing the package is instant and brings in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp_kit.core.program import stop_quietly_while_importing

stop_quietly_while_importing()  # before a command of ours imports what takes seconds

# public name -> module that defines it
_EXPORTS = {
    "AbstractTask": "interp_kit.core.task",
    "Example": "interp_kit.core.task",
    "TokenBatch": "interp_kit.core.batch",
    "PairBatch": "interp_kit.core.batch",
    "AbstractResult": "interp_kit.core.result",
    "Estimate": "interp_kit.core.stats",
    "task": "interp_kit.tasks.registry",
    "BooleanTask": "interp_kit.tasks.boolean",
    "load": "interp_kit.recipes.zoo",
    "task_of": "interp_kit.recipes.zoo",
    "CheckpointError": "interp_kit.models.gpt2",
    "planted": "interp_kit.recipes.zoo",
    "ground_truth": "interp_kit.models.planted",
    "twin": "interp_kit.recipes.circuit_twins",
    "untrained": "interp_kit.recipes.zoo",
    "complete": "interp_kit.models.decode",
    "completer": "interp_kit.models.decode",
    "train_sft": "interp_kit.training.sft",
    "SFTConfig": "interp_kit.training.sft",
    "Edit": "interp_kit.analysis.sites",
    "Set": "interp_kit.analysis.sites",
    "Zero": "interp_kit.analysis.sites",
    "Mean": "interp_kit.analysis.sites",
    "Resample": "interp_kit.analysis.sites",
    "Copy": "interp_kit.analysis.sites",
    "CopyAttended": "interp_kit.analysis.sites",
    "Add": "interp_kit.analysis.sites",
    "Scale": "interp_kit.analysis.sites",
    "Metric": "interp_kit.analysis.metrics",
    "logit_difference": "interp_kit.analysis.metrics",
    "probability": "interp_kit.analysis.metrics",
    "kl": "interp_kit.analysis.metrics",
    "accuracy": "interp_kit.analysis.metrics",
    "sweep": "interp_kit.analysis.sweep",
    "editing": "interp_kit.analysis.sweep",
    "evaluate": "interp_kit.analysis.evaluation",
    "harvest": "interp_kit.analysis.harvest",
    "harvest_to": "interp_kit.analysis.harvest_files",
    "open_harvest": "interp_kit.analysis.harvest_files",
    "probe": "interp_kit.analysis.probing",
    "readability": "interp_kit.analysis.readability",
    "patch": "interp_kit.analysis.patching",
    "patch_senders": "interp_kit.analysis.patching",
    "ablate": "interp_kit.analysis.ablation",
    "jaccard": "interp_kit.analysis.similarity",
    "mechanism": "interp_kit.analysis.mediation",
    "interchange": "interp_kit.analysis.abstraction",
    "das": "interp_kit.analysis.das",
    "train_sae": "interp_kit.analysis.sae",
    "SAEConfig": "interp_kit.analysis.sae_training",
    "decode": "interp_kit.models.decode",
    "first_difference": "interp_kit.analysis.metrics",
    "exact_match": "interp_kit.analysis.metrics",
    "log_probability": "interp_kit.analysis.metrics",
    "attention_lags": "interp_kit.analysis.attention",
    "generate_under": "interp_kit.analysis.generation",
    "CultureTask": "interp_kit.tasks.culture.task",
    "report": "interp_kit.reports.report",
    "Edge": "interp_kit.core.circuit",
    "Circuit": "interp_kit.analysis.circuit",
    "score_edges": "interp_kit.analysis.edge_scores",
    "acdc": "interp_kit.analysis.acdc",
    "path_patch": "interp_kit.analysis.paths",
    "faithfulness": "interp_kit.analysis.faithfulness",
    "direct_logit_attribution": "interp_kit.analysis.attribution",
    "logit_lens": "interp_kit.analysis.attribution",
}
__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from interp_kit.analysis.ablation import ablate as ablate
    from interp_kit.analysis.abstraction import interchange as interchange
    from interp_kit.analysis.acdc import acdc as acdc
    from interp_kit.analysis.attention import attention_lags as attention_lags
    from interp_kit.analysis.attribution import direct_logit_attribution as direct_logit_attribution
    from interp_kit.analysis.attribution import logit_lens as logit_lens
    from interp_kit.analysis.circuit import Circuit as Circuit
    from interp_kit.analysis.das import das as das
    from interp_kit.analysis.edge_scores import score_edges as score_edges
    from interp_kit.analysis.evaluation import evaluate as evaluate
    from interp_kit.analysis.faithfulness import faithfulness as faithfulness
    from interp_kit.analysis.generation import generate_under as generate_under
    from interp_kit.analysis.harvest import harvest as harvest
    from interp_kit.analysis.harvest_files import harvest_to as harvest_to
    from interp_kit.analysis.harvest_files import open_harvest as open_harvest
    from interp_kit.analysis.mediation import mechanism as mechanism
    from interp_kit.analysis.metrics import Metric as Metric
    from interp_kit.analysis.metrics import accuracy as accuracy
    from interp_kit.analysis.metrics import exact_match as exact_match
    from interp_kit.analysis.metrics import first_difference as first_difference
    from interp_kit.analysis.metrics import kl as kl
    from interp_kit.analysis.metrics import log_probability as log_probability
    from interp_kit.analysis.metrics import logit_difference as logit_difference
    from interp_kit.analysis.metrics import probability as probability
    from interp_kit.analysis.patching import patch as patch
    from interp_kit.analysis.patching import patch_senders as patch_senders
    from interp_kit.analysis.paths import path_patch as path_patch
    from interp_kit.analysis.probing import probe as probe
    from interp_kit.analysis.readability import readability as readability
    from interp_kit.analysis.sae import train_sae as train_sae
    from interp_kit.analysis.sae_training import SAEConfig as SAEConfig
    from interp_kit.analysis.similarity import jaccard as jaccard
    from interp_kit.analysis.sites import Add as Add
    from interp_kit.analysis.sites import Copy as Copy
    from interp_kit.analysis.sites import CopyAttended as CopyAttended
    from interp_kit.analysis.sites import Edit as Edit
    from interp_kit.analysis.sites import Mean as Mean
    from interp_kit.analysis.sites import Resample as Resample
    from interp_kit.analysis.sites import Scale as Scale
    from interp_kit.analysis.sites import Set as Set
    from interp_kit.analysis.sites import Zero as Zero
    from interp_kit.analysis.sweep import editing as editing
    from interp_kit.analysis.sweep import sweep as sweep
    from interp_kit.core.batch import PairBatch as PairBatch
    from interp_kit.core.batch import TokenBatch as TokenBatch
    from interp_kit.core.circuit import Edge as Edge
    from interp_kit.core.result import AbstractResult as AbstractResult
    from interp_kit.core.stats import Estimate as Estimate
    from interp_kit.core.task import AbstractTask as AbstractTask
    from interp_kit.core.task import Example as Example
    from interp_kit.models.decode import complete as complete
    from interp_kit.models.decode import completer as completer
    from interp_kit.models.decode import decode as decode
    from interp_kit.models.gpt2 import CheckpointError as CheckpointError
    from interp_kit.models.planted import ground_truth as ground_truth
    from interp_kit.recipes.circuit_twins import twin as twin
    from interp_kit.recipes.zoo import load as load
    from interp_kit.recipes.zoo import planted as planted
    from interp_kit.recipes.zoo import task_of as task_of
    from interp_kit.recipes.zoo import untrained as untrained
    from interp_kit.reports.report import report as report
    from interp_kit.tasks.boolean import BooleanTask as BooleanTask
    from interp_kit.tasks.culture.task import CultureTask as CultureTask
    from interp_kit.tasks.registry import task as task
    from interp_kit.training.sft import SFTConfig as SFTConfig
    from interp_kit.training.sft import train_sft as train_sft


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'interp_kit' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
