"""Content of a playground page about a model and its task: a JSON header, and the weights as bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask
from interp_kit.engine.fast.layers import Unsupported, refuse
from interp_kit.engine.sites import ACTIVATIONS, WEIGHTS
from interp_kit.models.checkpoints import provenance
from interp_kit.models.hooked_model import HookedModel, attach

FORMAT = 1
LIMIT = 30_000_000  # parameters
WORLDS = 64  # a task with no more examples is shown with all of them
TOKENS = 3300  # of the examples that are shown of a larger one, and at most
MOST = 16
EXACT = "pos_embed.W_pos"  # kept in float32 where float16 would change it: a sinusoidal table is not a trained weight


class Payload(NamedTuple):
    """header: JSON values; weights: the tensors that it lists, one after the other, little-endian."""

    header: dict[str, Any]
    weights: bytes


def payload(model: HookedModel, task: AbstractTask | None) -> Payload:
    """The header and the weights of a page.

    Args:
        model: A HookedTransformer in the form of GPT-2 or MyGPT.
        task: The task whose examples are shown; None for a model of token ids alone.

    Raises:
        ValueError: The model has too many parameters, a form that the page does not compute, or weights beyond float16.
    """
    tensors, parts = [], []
    for name, value in _parameters(model).items():
        shown, kind = _stored(name, value)
        data = shown.numpy().astype("<f2" if kind == "float16" else "<f4").tobytes()
        tensors.append({"name": name, "shape": list(value.shape), "dtype": kind, "bytes": len(data)})
        parts.append(data + bytes(-len(data) % 4))
    origin = provenance(model)
    header = {
        "format": FORMAT,
        "model": {"name": origin.name, "sha256": origin.sha256, "rounded": _is_rounded(model)},
        "config": _config(model),
        "activations": {name: list(axes) for name, (_, axes) in ACTIVATIONS.items() if _has(model, name)},
        "weights": {name: {"parameter": template, "heads": heads} for name, (template, heads) in WEIGHTS.items()},
        "tensors": tensors,
        "task": None if task is None else _task(task, model),
    }
    return Payload(header, b"".join(parts))


def _has(model: HookedModel, site: str) -> bool:
    """True if a model has an activation site: one without MLPs lacks what is between attention and MLP too."""
    return not (model.cfg.attn_only and site in ("resid_mid", "mlp_out", "mlp_post"))


def as_shown(model: HookedModel) -> Any:
    """A copy of a model with the weights that its page has: rounded to float16, and computed with in float32.

    Args:
        model: A HookedTransformer that `payload` takes.

    Raises:
        ValueError: As `payload` does.
    """
    from copy import deepcopy

    shown = deepcopy(model)
    origin = getattr(model, "provenance", None)
    with torch.no_grad():
        named = dict(shown.named_parameters())
        for name, value in _parameters(model).items():
            named[name].copy_(_stored(name, value)[0].float())
    if origin is not None:
        attach(shown, provenance=origin)
    return shown


def _parameters(model: HookedModel) -> dict[str, Tensor]:
    """Name -> value of every parameter that an edit can name, on the CPU. Raises ValueError as `payload` does."""
    name, number = provenance(model).name, sum(p.numel() for _, p in model.named_parameters())
    if number > LIMIT:
        raise ValueError(
            f"{name} has {number:,} parameters; a playground page takes at most {LIMIT:,}: choose a smaller model"
        )
    try:
        refuse(model, beyond=False)
    except Unsupported as reason:
        raise ValueError(
            f"the playground computes models in the form of GPT-2 and MyGPT, and {name} is not one: {reason}"
        ) from reason
    named = dict(model.named_parameters())
    wanted = [
        template.format(layer=layer)
        for template, _ in WEIGHTS.values()
        for layer in (range(model.cfg.n_layers) if "{layer}" in template else [None])
    ]
    return {key: named[key].detach().cpu() for key in wanted if key in named}


def _stored(name: str, value: Tensor) -> tuple[Tensor, str]:
    half = value.half()
    if not half.isfinite().all():
        raise ValueError(f"{name} has numbers that float16 does not hold (largest {float(value.abs().max()):.3g})")
    if name == EXACT and not torch.equal(half.float(), value.float()):
        return value.float(), "float32"
    return half, "float16"


def _is_rounded(model: HookedModel) -> bool:
    return any(not torch.equal(_stored(name, v)[0].float(), v.float()) for name, v in _parameters(model).items())


def _config(model: HookedModel) -> dict[str, Any]:
    cfg, blocks = model.cfg, list(getattr(model, "blocks"))  # noqa: B009
    final = getattr(model, "ln_final", None)
    return {
        **{name: getattr(cfg, name) for name in ("n_layers", "n_heads", "d_model", "d_head", "n_ctx", "d_vocab")},
        "d_mlp": None if cfg.attn_only else cfg.d_mlp,
        "act_fn": None if cfg.attn_only else cfg.act_fn,
        "scale": [1 / float(block.attn.attn_scale) for block in blocks],
        "eps": float(cfg.eps) if cfg.normalization_type is not None else None,
        "final_norm": cfg.normalization_type is not None and not isinstance(final, torch.nn.Identity),
    }


def _task(task: AbstractTask, model: HookedModel) -> dict[str, Any]:
    examples, expression = shown_examples(task)
    fitting = [i for i, example in enumerate(examples) if len(example.tokens) <= model.cfg.n_ctx]
    if not fitting:
        raise ValueError(f"every example of {task.name} is longer than the model's context of {model.cfg.n_ctx} tokens")
    return {
        "name": task.name,
        "learned": provenance(model).task,
        "vocabulary": list(task.vocabulary),
        "inputs": list(task.inputs),
        "fields": [_field(task, field.name) for field in task.fields],
        "expression": expression,
        "examples": [{"index": i, **_example(task, examples[i])} for i in fitting],
        "whole": task.n_worlds == len(fitting),
        **task.playground(),
    }


def shown_examples(task: AbstractTask) -> tuple[list[Example], str]:
    """The examples of a page, and the Python expression that gives them: all of a small task, a sample of others."""
    if task.n_worlds is not None and task.n_worlds <= WORLDS:
        return task.enumerate(), "task.enumerate()"
    longest = max(len(example.tokens) for example in task.sample(MOST, 0))
    n = max(2, min(MOST, TOKENS // longest))
    return task.sample(n, 0), f"task.sample({n}, seed=0)"


def _field(task: AbstractTask, name: str) -> Mapping[str, Any]:
    field = task.field(name)
    values = {"values": list(field.values), "candidates": list(field.candidates)}
    return {"name": field.name, "predict": field.predict, **(values if len(field.values) <= WORLDS else {})}


def _example(task: AbstractTask, example: Example) -> dict[str, Any]:
    names: list[str | None] = [None] * len(example.tokens)
    for name, at in example.positions.items():
        names[at] = name
    return {
        "tokens": list(example.tokens),
        "prompt": example.prompt_length,
        "names": names,
        "labels": {name: int(example.labels[name]) for name in (*task.inputs, *(f.name for f in task.fields))},
    }
