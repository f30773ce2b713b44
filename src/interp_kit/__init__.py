"""interp_kit: take small transformers that learned tasks whose true algorithm is known, and show how they compute.

Everything below is loaded on first use, so importing the package is instant and brings in no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from interp_kit.core.program import stop_quietly_while_importing

stop_quietly_while_importing()  # before a command of ours imports what takes seconds

# public name -> module that defines it
_EXPORTS = {
    "AbstractTask": "interp_kit.core.task",
    "Example": "interp_kit.core.example",
    "Field": "interp_kit.core.example",
    "TokenBatch": "interp_kit.core.batch",
    "PairBatch": "interp_kit.core.pairs",
    "AbstractResult": "interp_kit.core.result",
    "Estimate": "interp_kit.core.stats.intervals",
    "task": "interp_kit.registry.tasks",
    "register": "interp_kit.registry.tasks",
    "BooleanTask": "interp_kit.tasks.boolean",
    "load": "interp_kit.registry.models",
    "task_of": "interp_kit.registry.models",
    "CheckpointError": "interp_kit.models.gpt2",
    "planted": "interp_kit.registry.models",
    "ground_truth": "interp_kit.models.planted",
    "compile_task": "interp_kit.models.compiler",
    "plan_of": "interp_kit.models.compiler",
    "twin": "interp_kit.registry.twins",
    "untrained": "interp_kit.registry.models",
    "complete": "interp_kit.engine.decode",
    "completer": "interp_kit.engine.decode",
    "train_sft": "interp_kit.training.sft",
    "SFTConfig": "interp_kit.training.sft",
    "Edit": "interp_kit.engine.edits",
    "Set": "interp_kit.engine.edits",
    "Zero": "interp_kit.engine.edits",
    "Mean": "interp_kit.engine.edits",
    "Resample": "interp_kit.engine.edits",
    "Copy": "interp_kit.engine.edits",
    "CopyAttended": "interp_kit.engine.edits",
    "Add": "interp_kit.engine.edits",
    "Scale": "interp_kit.engine.edits",
    "Metric": "interp_kit.engine.metrics",
    "logit_difference": "interp_kit.engine.metrics",
    "probability": "interp_kit.engine.metrics",
    "kl": "interp_kit.engine.metrics",
    "accuracy": "interp_kit.engine.metrics",
    "sweep": "interp_kit.engine.sweep",
    "editing": "interp_kit.engine.sweep",
    "evaluate": "interp_kit.analysis.behaviour.evaluation",
    "harvest": "interp_kit.engine.harvest",
    "harvest_to": "interp_kit.engine.harvest_store",
    "open_harvest": "interp_kit.engine.harvest_store",
    "probe": "interp_kit.analysis.probing.probe",
    "readability": "interp_kit.analysis.probing.readability",
    "patch": "interp_kit.analysis.causal.patching",
    "patch_senders": "interp_kit.analysis.causal.patching",
    "ablate": "interp_kit.analysis.causal.ablation",
    "lesion": "interp_kit.analysis.causal.lesion",
    "jaccard": "interp_kit.analysis.comparison.component_overlap",
    "diff_models": "interp_kit.analysis.comparison.model_diffing",
    "mechanism": "interp_kit.analysis.causal.mechanism",
    "interchange": "interp_kit.analysis.causal.interchange",
    "das": "interp_kit.analysis.causal.das",
    "universality": "interp_kit.analysis.comparison.universality",
    "universal_features": "interp_kit.analysis.comparison.universality",
    "train_sae": "interp_kit.analysis.dictionaries.sae",
    "train_saes": "interp_kit.analysis.dictionaries.sae",
    "read_sae": "interp_kit.analysis.dictionaries.sae_training",
    "SAEConfig": "interp_kit.analysis.dictionaries.sae_config",
    "load_sae": "interp_kit.analysis.dictionaries.shipped",
    "align_features": "interp_kit.analysis.dictionaries.alignment.align",
    "decode": "interp_kit.engine.decode",
    "first_difference": "interp_kit.engine.metrics",
    "exact_match": "interp_kit.engine.metrics",
    "log_probability": "interp_kit.engine.metrics",
    "attention_lags": "interp_kit.analysis.behaviour.attention_lags",
    "generate_under": "interp_kit.analysis.behaviour.generation",
    "CultureTask": "interp_kit.tasks.culture.task",
    "report": "interp_kit.reports.report",
    "write_playground": "interp_kit.playground.page",
    "Edge": "interp_kit.models.circuit",
    "Circuit": "interp_kit.analysis.circuits.circuit",
    "score_edges": "interp_kit.analysis.circuits.edge_scores",
    "score_nodes": "interp_kit.analysis.circuits.node_scores",
    "read_mib": "interp_kit.analysis.circuits.mib",
    "write_mib": "interp_kit.analysis.circuits.mib",
    "acdc": "interp_kit.analysis.circuits.acdc",
    "path_patch": "interp_kit.analysis.circuits.path_patching",
    "faithfulness": "interp_kit.analysis.circuits.faithfulness",
    "direct_logit_attribution": "interp_kit.analysis.circuits.direct_attribution",
    "logit_lens": "interp_kit.analysis.circuits.direct_attribution",
}
__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from interp_kit.analysis.behaviour.attention_lags import attention_lags as attention_lags
    from interp_kit.analysis.behaviour.evaluation import evaluate as evaluate
    from interp_kit.analysis.behaviour.generation import generate_under as generate_under
    from interp_kit.analysis.causal.ablation import ablate as ablate
    from interp_kit.analysis.causal.das import das as das
    from interp_kit.analysis.causal.interchange import interchange as interchange
    from interp_kit.analysis.causal.lesion import lesion as lesion
    from interp_kit.analysis.causal.mechanism import mechanism as mechanism
    from interp_kit.analysis.causal.patching import patch as patch
    from interp_kit.analysis.causal.patching import patch_senders as patch_senders
    from interp_kit.analysis.circuits.acdc import acdc as acdc
    from interp_kit.analysis.circuits.circuit import Circuit as Circuit
    from interp_kit.analysis.circuits.direct_attribution import direct_logit_attribution as direct_logit_attribution
    from interp_kit.analysis.circuits.direct_attribution import logit_lens as logit_lens
    from interp_kit.analysis.circuits.edge_scores import score_edges as score_edges
    from interp_kit.analysis.circuits.faithfulness import faithfulness as faithfulness
    from interp_kit.analysis.circuits.mib import read_mib as read_mib
    from interp_kit.analysis.circuits.mib import write_mib as write_mib
    from interp_kit.analysis.circuits.node_scores import score_nodes as score_nodes
    from interp_kit.analysis.circuits.path_patching import path_patch as path_patch
    from interp_kit.analysis.comparison.component_overlap import jaccard as jaccard
    from interp_kit.analysis.comparison.model_diffing import diff_models as diff_models
    from interp_kit.analysis.comparison.universality import universal_features as universal_features
    from interp_kit.analysis.comparison.universality import universality as universality
    from interp_kit.analysis.dictionaries.alignment.align import align_features as align_features
    from interp_kit.analysis.dictionaries.sae import train_sae as train_sae
    from interp_kit.analysis.dictionaries.sae import train_saes as train_saes
    from interp_kit.analysis.dictionaries.sae_config import SAEConfig as SAEConfig
    from interp_kit.analysis.dictionaries.sae_training import read_sae as read_sae
    from interp_kit.analysis.dictionaries.shipped import load_sae as load_sae
    from interp_kit.analysis.probing.probe import probe as probe
    from interp_kit.analysis.probing.readability import readability as readability
    from interp_kit.core.batch import TokenBatch as TokenBatch
    from interp_kit.core.example import Example as Example
    from interp_kit.core.example import Field as Field
    from interp_kit.core.pairs import PairBatch as PairBatch
    from interp_kit.core.result import AbstractResult as AbstractResult
    from interp_kit.core.stats.intervals import Estimate as Estimate
    from interp_kit.core.task import AbstractTask as AbstractTask
    from interp_kit.engine.decode import complete as complete
    from interp_kit.engine.decode import completer as completer
    from interp_kit.engine.decode import decode as decode
    from interp_kit.engine.edits import Add as Add
    from interp_kit.engine.edits import Copy as Copy
    from interp_kit.engine.edits import CopyAttended as CopyAttended
    from interp_kit.engine.edits import Edit as Edit
    from interp_kit.engine.edits import Mean as Mean
    from interp_kit.engine.edits import Resample as Resample
    from interp_kit.engine.edits import Scale as Scale
    from interp_kit.engine.edits import Set as Set
    from interp_kit.engine.edits import Zero as Zero
    from interp_kit.engine.harvest import harvest as harvest
    from interp_kit.engine.harvest_store import harvest_to as harvest_to
    from interp_kit.engine.harvest_store import open_harvest as open_harvest
    from interp_kit.engine.metrics import Metric as Metric
    from interp_kit.engine.metrics import accuracy as accuracy
    from interp_kit.engine.metrics import exact_match as exact_match
    from interp_kit.engine.metrics import first_difference as first_difference
    from interp_kit.engine.metrics import kl as kl
    from interp_kit.engine.metrics import log_probability as log_probability
    from interp_kit.engine.metrics import logit_difference as logit_difference
    from interp_kit.engine.metrics import probability as probability
    from interp_kit.engine.sweep import editing as editing
    from interp_kit.engine.sweep import sweep as sweep
    from interp_kit.models.circuit import Edge as Edge
    from interp_kit.models.compiler import compile_task as compile_task
    from interp_kit.models.compiler import plan_of as plan_of
    from interp_kit.models.gpt2 import CheckpointError as CheckpointError
    from interp_kit.models.planted import ground_truth as ground_truth
    from interp_kit.playground.page import write_playground as write_playground
    from interp_kit.registry.models import load as load
    from interp_kit.registry.models import planted as planted
    from interp_kit.registry.models import task_of as task_of
    from interp_kit.registry.models import untrained as untrained
    from interp_kit.registry.tasks import register as register
    from interp_kit.registry.tasks import task as task
    from interp_kit.registry.twins import twin as twin
    from interp_kit.reports.report import report as report
    from interp_kit.tasks.boolean import BooleanTask as BooleanTask
    from interp_kit.tasks.culture.task import CultureTask as CultureTask
    from interp_kit.training.sft import SFTConfig as SFTConfig
    from interp_kit.training.sft import train_sft as train_sft


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("interp-kit")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'interp_kit' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
