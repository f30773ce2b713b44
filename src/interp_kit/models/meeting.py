"""Check of a model against examples: every analysis checks here, before it runs, that both are what it needs and that
the examples are of the task that the model learned."""

from typing import Any

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import expect
from interp_kit.core.identity import Identity
from interp_kit.core.pairs import PairBatch
from interp_kit.core.task import AbstractTask
from interp_kit.models.hooked_model import HookedModel, model_name

Examples = TokenBatch | PairBatch | AbstractTask
MADE_BY = {
    TokenBatch: "task.batch(examples)",
    PairBatch: "the pairs of task.pairs(variable, target)",
    AbstractTask: "as of interp_kit.task(name)",
}


def check_meeting(model: object, examples: object, *kinds: type[Examples]) -> None:
    """Check a model and the examples that it is to read, which are of one of `kinds`.

    Raises TypeError if either is something else, and ValueError, naming both, if the model is known to have learned
    another task. If either task is unknown the two go together as far as token ids fit.
    """
    check_model(model)
    expect("the second argument", examples, kinds, " or ".join(MADE_BY[kind] for kind in kinds))
    check_same_task(model, examples)  # pyright: ignore[reportArgumentType]


def check_model(model: object, what: str = "the model") -> None:
    """Raises TypeError if this is not a model."""
    name = f"; did you mean interp_kit.load({model!r})?" if isinstance(model, str) else ""
    if isinstance(model, str) or not (callable(model) and hasattr(model, "cfg") and hasattr(model, "run_with_hooks")):
        found = f"the text {model!r}" if isinstance(model, str) else f"a {type(model).__name__}"
        raise TypeError(f"{what} is {found}; expected a HookedTransformer, as interp_kit.load(name) gives{name}")
    if type(model).__name__ == "TransformerBridge":
        raise TypeError(
            f"{what} is a TransformerBridge, whose activations are not a HookedTransformer's; give"
            " interp_kit.load(bridge), which converts it and compares logits"
        )


def check_same_task(model: Any, examples: Any) -> None:
    """Raises ValueError, naming both, if a model and examples are known to be of different tasks."""
    learned, asked = learned_by(model), examples.identity
    if learned.differs(asked):
        same = "the same name, but other equations, fields or token ids; " if learned.name == asked.name else ""
        raise ValueError(
            f"{model_name(model)} learned task {learned}, and the examples are of task {asked}: {same}make them of"
            " interp_kit.task_of(model)"
        )


def learned_by(model: HookedModel) -> Identity:
    """The task that a model learned, as far as it is known."""
    found = getattr(getattr(model, "provenance", None), "identity", None)
    return found if isinstance(found, Identity) else Identity(None)
