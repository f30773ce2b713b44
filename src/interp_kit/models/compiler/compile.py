"""The compiler: boolean equations become a transformer by a plan, and the plan says what is true of it."""

from functools import partial
from typing import get_args

import numpy as np
import torch
from transformer_lens import HookedTransformer

from interp_kit.core.config import check_choice, check_flag, check_seed
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask
from interp_kit.models.checkpoints import Provenance
from interp_kit.models.compiler.layout import lay_out
from interp_kit.models.compiler.plan import Mechanism, Plan, equations_of, make_plan
from interp_kit.models.compiler.truth import truth_of
from interp_kit.models.compiler.weights import (
    LEAST_D_MLP,
    MOST_D_MLP,
    Frame,
    head_width,
    layer_neurons,
    neuron_count,
    right_answers,
    write_heads,
)
from interp_kit.models.hooked_model import attach
from interp_kit.models.planted.boolean import bit_tokens
from interp_kit.models.planted.embedding import empty_model, set_embedding, set_unembedding
from interp_kit.models.planted.neurons import set_mlp

WORLDS = 1024  # at most, on which a compiled model is calibrated and proved


def compile_task(
    task: AbstractTask,
    mechanism: Mechanism = "latent",
    *,
    layer_norm: bool = True,
    superposed: bool = False,
    variable: str | None = None,
    target: str | None = None,
    seed: int = 0,
) -> HookedTransformer:
    """Compile boolean equations into a transformer that answers all of them, and whose circuit is known.

    After Tracr (Lindner et al. 2023, arXiv:2301.05062) and InterpBench (Gupta et al. 2024, arXiv:2407.14494). The plan
    (`plan_of`) gives every equation one layer. There, heads bring its operands to the position that predicts it, one
    head per operand, and one neuron per cube of its truth table writes the answer. A mechanism says by which way an
    earlier output reaches a field that reads it:

    - "via-token": from the output's own token in the text;
    - "direct": not at all; the field is computed from the inputs;
    - "latent": from where the output was computed, the position before its token;
    - "redundant": by two heads, one of each of these ways. Either alone suffices, two that differ give no answer;
    - "majority": by three heads, latent and twice the token. Any one may be wrong.

    The last two copy one operand per field: the question's variable for its target, else the first output. The seed
    draws the residual basis, the order of heads, a basis within each head, the order of neurons, the layer of each
    field where the plan leaves a choice, and decoys: heads that bring bits where nothing reads them.

    Args:
        task: A `BooleanTask`, of any equations with at most 12 operands each.
        mechanism: One of those above.
        layer_norm: Whether the model has LayerNorms; without, "LN" is absent, not frozen.
        superposed: Pack tokens, positions and answers as overlapping directions into fewer dimensions than there are of
            them.
        variable: What `ground_truth(model)` asks about; by default the mediator of `task.question`.
        target: The equation whose answer it asks about; by default that of `task.question`.
        seed: See above; no answer depends on it.

    Returns:
        A HookedTransformer; `ik.ground_truth(model)` is its circuit, `ik.task_of(model)` the task.

    Raises:
        ValueError: The task is not boolean, an equation has too many operands, or the weights do not answer the task
            (which is checked on all worlds, or 1,024 of them).

    Examples:
        >>> task = ik.BooleanTask({"M": "P ^ Q", "Y": "M and R"}, "PQR")
        >>> ik.ground_truth(ik.compile_task(task, "latent")).site
        ('resid_pre', 1, 'M?')
    """
    check_choice("mechanism", mechanism, get_args(Mechanism))
    check_flag("layer_norm", layer_norm)
    check_flag("superposed", superposed)
    check_seed(seed)
    equations_of(task)
    question = None if task.question is None and target is None else task.asked(variable, target)
    name = f"{mechanism}{', superposed' * superposed}{', no LayerNorm' * (not layer_norm)}"
    rng = np.random.default_rng(derive_seed(seed, f"compiled {name}"))
    plan = make_plan(
        task, mechanism, question, layer_norm=layer_norm, superposed=superposed, seed=seed, rng=rng
    )  # fmt: skip
    model = _written(plan, task, torch.Generator().manual_seed(int(rng.integers(2**62))))
    description = task.describe()
    text = f"compiled:{name}@{seed}"
    origin = Provenance(text, "", "", text, task.name, description=description)
    attach(model, provenance=origin, plan=plan, truth=partial(truth_of, plan, task))
    return model


def plan_of(model: HookedTransformer) -> Plan:
    """The plan by which a model was compiled; `.to_frame()` lists what each head and MLP does. Raises ValueError for
    any other model."""
    plan = getattr(model, "plan", None)
    if not isinstance(plan, Plan):
        raise ValueError("the model was not compiled; compile_task makes one")
    return plan


def _written(plan: Plan, task: AbstractTask, generator: torch.Generator) -> HookedTransformer:
    """The model of a plan. Raises ValueError if it does not answer the task."""
    examples = task.enumerate() if (task.n_worlds or WORLDS + 1) <= WORLDS else task.sample(WORLDS, 0)
    n_decoys = len({read.node for read in plan.decoys})
    layout = lay_out(
        task,
        examples,
        plan.n_slots,
        n_decoys,
        superposed=plan.superposed,
        layer_norm=plan.layer_norm,
        generator=generator,
    )
    tokens = bit_tokens(examples, [*plan.inputs, *plan.functions])
    frame = Frame(plan, task, examples, task.batch(examples), layout, (tokens[0], tokens[1]), generator)
    needed = max(neuron_count(plan, layer) for layer in range(plan.n_layers))
    if needed > MOST_D_MLP:
        raise ValueError(f"{task.name} needs {needed} neurons in a layer; at most {MOST_D_MLP} are written")
    model = empty_model(
        task, layout.junk.shape[1], n_layers=plan.n_layers, n_heads=plan.n_heads,
        n_ctx=max(64, len(examples[0].tokens)), d_head=head_width(frame), d_mlp=max(LEAST_D_MLP, needed),
        layer_norm=plan.layer_norm,
    )  # fmt: skip
    with torch.no_grad():
        set_embedding(model, layout.basis)
        for layer in range(plan.n_layers):
            write_heads(model, layer, frame)
            set_mlp(model.blocks[layer], layer_neurons(model, layer, frame))
        set_unembedding(model, task, examples, layout.basis)
        right = right_answers(model, frame.batch, examples[0].prompt_length)
    if not right.all():
        raise ValueError(
            f"the compiled model answers {float(right.float().mean()):.4f} of {task.name}'s tokens; choose another seed"
        )
    return model
