"""State dicts of TransformerLens's HookedTransformer, whose keys are `blocks.0.attn.W_Q` and the like."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from interp_kit.models.foreign.reader import File, Found, named_as
from interp_kit.models.tensor_files import CheckpointError

BUFFERS = r"blocks\.\d+\.attn\.(mask|IGNORE|rotary_(sin|cos))"
# Of a stored config: what says nothing about the computation, and what is read here or follows from shapes.
SILENT = re.compile(
    "device|dtype|seed|init_(mode|weights)|initializer_range|n_(params|devices)|(model|tokenizer)_name|checkpoint_.*"
    "|from_checkpoint|.*_bos|tokenizer_.*|trust_remote_code|original_architecture|use_(attn_result|split_qkv_input)"
    "|use_(attn_in|hook_mlp_in|hook_tokens)|load_in_4bit|tie_word_embeddings|uses_rms_norm|layer_norm_folding"
    "|is_layer_norm_activation|ungroup_grouped_query_attention"
)
READ = re.compile(
    "n_(layers|heads|ctx|key_value_heads)|d_(model|head|mlp|vocab|vocab_out)|act_fn|eps|(use_)?attn_scale|attn_only"
    "|normalization_type|positional_embedding_type|parallel_attn_mlp|gated_mlp|rotary_(base|dim|adjacent_pairs)"
    "|scale_attn_by_inverse_layer_idx|final_rms"
)
NORMS = {"ln1.w ln1.b": ("LN",), "ln1.w": ("RMS",), "": ("LNPre", "RMSPre", None)}


class TransformerLens:
    """Reads HookedTransformer state dicts."""

    name = "TransformerLens"

    def recognises(self, keys: Collection[str]) -> bool:
        return "embed.W_E" in keys and "unembed.W_U" in keys

    def read(self, file: File) -> Found:
        d_vocab, d_model = file.take("embed.W_E", None, None).shape
        n_layers = file.size("n_layers", file.layers("blocks"))
        d_vocab_out = file.take("unembed.W_U", d_model, None).shape[1]
        if not n_layers:
            raise CheckpointError(f"{file.path}: there are no blocks")
        _check_config(file)
        n_heads, _, d_head = file.take("blocks.0.attn.W_Q", None, d_model, None).shape
        config: dict[str, Any] = {
            "n_layers": n_layers,
            "d_model": file.size("d_model", d_model),
            "d_head": file.size("d_head", d_head),
            "n_heads": file.heads(n_heads, "n_heads", found=n_heads),
            "d_vocab": file.size("d_vocab", d_vocab),
            "d_vocab_out": d_vocab_out,
            "eps": float(file.setting("eps", default=1e-5)),
            "attn_scale": float(file.setting("attn_scale", default=d_head**0.5)),
            "normalization_type": _norm(file),
            "parallel_attn_mlp": file.setting("parallel_attn_mlp", default=False),
            **{name: bool(file.stored.get(name, False)) for name in ("scale_attn_by_inverse_layer_idx", "final_rms")},
            **_positions(file, d_model, d_head),
            **_mlp(file, d_model),
        }
        if file.stored.get("use_attn_scale") is False:
            config |= {"use_attn_scale": False}
        if file.has("blocks.0.attn._W_K"):
            config["n_key_value_heads"] = len(file.take("blocks.0.attn._W_K", None, d_model, d_head))
        weights = {key: value for key, value in file.state.items() if not re.fullmatch(BUFFERS, key)}
        final = file.setting("final_norm", default=config["normalization_type"] is not None, assumed=False)
        if not file.has("ln_final.w") and config["normalization_type"] in ("LN", "RMS"):
            final = False
        tables = {
            key: file.state[key] for key in file.state if re.fullmatch(r"blocks\.\d+\.attn\.rotary_(sin|cos)", key)
        }
        return Found(config, weights, final, tables=tables)


def _check_config(file: File) -> None:
    """Raise CheckpointError for a setting that is not read here and not as it is by default."""
    from transformer_lens import HookedTransformerConfig

    default = HookedTransformerConfig(n_layers=1, d_model=1, n_ctx=1, d_head=1, d_vocab=1, act_fn="relu", device="cpu")
    for name, value in file.stored.items():
        read = SILENT.fullmatch(name) or READ.fullmatch(name)
        if hasattr(default, name) and not read and value != getattr(default, name):
            raise CheckpointError(
                f"{file.path}: {name} is {str(value)[:40]!r}, which is not read from files; build the HookedTransformer"
                " and pass it to interp_kit.load"
            )


def _norm(file: File) -> str | None:
    """The kind of normalisation, as far as the keys say."""
    there = " ".join(part for part in ("ln1.w", "ln1.b") if file.has(f"blocks.0.{part}"))
    possible = NORMS.get(there, ())
    if len(possible) == 1:
        kind = file.setting("normalization_type", default=possible[0], assumed=False)
    elif "normalization_type" in file.stored and "normalization_type" not in file.given:
        kind = file.stored["normalization_type"]
    elif "normalization_type" in file.given:
        kind = file.given["normalization_type"]
    else:
        kind = file.setting("normalization_type")
    if kind not in possible:
        raise CheckpointError(
            f"{file.path}: normalization_type is {str(kind)[:40]!r}, and its norms have {there or 'no weights'}:"
            f" expected {' or '.join(map(str, possible)) or 'ln1.w, or ln1.w and ln1.b'}"
        )
    return kind


def _positions(file: File, d_model: int, d_head: int) -> dict[str, Any]:
    kind = file.stored.get("positional_embedding_type", "standard" if file.has("pos_embed.W_pos") else "rotary")
    if file.has("pos_embed.W_pos") and kind == "standard":
        table = file.take("pos_embed.W_pos", None, d_model)
        return {"n_ctx": file.size("n_ctx", len(table))}
    if kind != "rotary":
        raise CheckpointError(
            f"{file.path}: positional_embedding_type is {str(kind)[:40]!r}; standard (pos_embed.W_pos) and rotary are"
            " read from files; build the HookedTransformer and pass it to interp_kit.load"
        )
    table = _rotary(file)
    known = {} if table is None else _rotary_settings(table)
    if table is None and "rotary_base" not in {**file.given, **file.stored}:
        raise CheckpointError(
            f"{file.path}: it has neither pos_embed.W_pos nor rotary_sin, so how it knows positions is not in it; if by"
            f" rotary embeddings, name them: {named_as('rotary_base', 'n_ctx')}; else build the HookedTransformer"
        )
    adjacent = file.setting(
        "rotary_adjacent_pairs", default=known.get("rotary_adjacent_pairs", False), assumed=table is None
    )
    dim = file.setting("rotary_dim", default=known.get("rotary_dim", d_head), assumed=table is None)
    n_ctx = file.setting("n_ctx", default=None if table is None else len(table))
    if not (2 <= dim <= d_head and dim % 2 == 0) or not 1 <= n_ctx <= 2**24:
        raise CheckpointError(
            f"{file.path}: rotary_dim is {dim} and n_ctx {n_ctx}; expected an even 2 to {d_head}, and 1 to {2**24}"
        )
    base = float(file.setting("rotary_base", default=known.get("rotary_base", 1e4), assumed=False))
    return {
        "positional_embedding_type": "rotary",
        "rotary_dim": dim,
        "rotary_base": base,
        "rotary_adjacent_pairs": adjacent,
        "n_ctx": n_ctx,
    }


def _rotary(file: File) -> Tensor | None:
    key = "blocks.0.attn.rotary_sin"
    return file.take(key, None, None) if file.has(key) else None


def _rotary_settings(sin: Tensor) -> dict[str, Any]:
    """Settings that the table of sines shows; the built model's is compared with it afterwards."""
    dim = sin.shape[1]
    if len(sin) < 2 or dim < 4:
        return {"rotary_dim": dim}
    adjacent = bool((sin[1, 0] - sin[1, 1]).abs() < 1e-7)
    second = float(sin[1, 2 if adjacent else 1])  # the sine of base ** (-2 / dim)
    angle = float(sin[1:2, :].double().asin()[0, 2 if adjacent else 1])
    base = angle ** (-dim / 2) if 0 < second < 1 else 1e4
    return {"rotary_dim": dim, "rotary_adjacent_pairs": adjacent, "rotary_base": float(f"{base:.4g}")}


def _mlp(file: File, d_model: int) -> dict[str, Any]:
    if not file.has("blocks.0.mlp.W_in"):
        return {"attn_only": True, "act_fn": None}
    d_mlp = file.take("blocks.0.mlp.W_in", d_model, None).shape[1]
    return {
        "d_mlp": file.size("d_mlp", d_mlp),
        "act_fn": _activation(file),
        "gated_mlp": file.has("blocks.0.mlp.W_gate"),
    }


def _activation(file: File) -> str:
    from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

    act = file.setting("act_fn")
    if act not in SUPPORTED_ACTIVATIONS:
        near = get_close_matches(act, SUPPORTED_ACTIVATIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CheckpointError(
            f"{file.path}: act_fn {act[:40]!r} cannot be read; these can: {', '.join(SUPPORTED_ACTIVATIONS)}{hint}"
        )
    return act


READER = TransformerLens()
