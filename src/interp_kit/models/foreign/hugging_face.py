"""Hugging Face models of other architectures than GPT-2, from directories and from memory: GPT-NeoX (Pythia), Llama,
Mistral, Qwen2, Qwen3 and Gemma. Their weights are renamed by TransformerLens's converters, and logits compared."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp_kit.core.files import read_json
from interp_kit.models.convert import ACTIVATIONS, compared, convert_gpt2, convert_hf
from interp_kit.models.gpt2 import check_against, read_weights
from interp_kit.models.hooked_model import attach
from interp_kit.models.tensor_files import CheckpointError, check_finite

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

# what older checkpoints store beside the weights
BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attention\.(bias|masked_bias))$")
SIZES = (
    "num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size",
    "max_position_embeddings",
)  # fmt: skip
RENAMED = {"embed_out.weight": "lm_head.weight"}  # GPT-NeoX before transformers 5.14, and in files


@dataclass(frozen=True)
class Architecture:
    """kind: class in transformers; converter: as `convert_hf` takes it; config: a HookedTransformer's, of theirs."""

    kind: str
    converter: str
    config: Callable[[Any], dict[str, Any]]


def _shared(hf: Any) -> dict[str, Any]:
    """Settings that all of them have. Raises CheckpointError naming what cannot be converted."""
    act = getattr(hf, "hidden_activation", None) or hf.hidden_act
    if act not in ACTIVATIONS:
        raise CheckpointError(f"hidden_act {act!r} cannot be converted; these can: {', '.join(ACTIVATIONS)}")
    n_heads, width = hf.num_attention_heads, hf.hidden_size
    for name in SIZES:
        if type(getattr(hf, name)) is not int or getattr(hf, name) < 1:
            raise CheckpointError(f"{name} is {str(getattr(hf, name))[:40]!r}, expected a whole number from 1")
    head = getattr(hf, "head_dim", None) or width // n_heads
    windows = {kind for kind in (getattr(hf, "layer_types", None) or ()) if kind != "full_attention"}
    window = getattr(hf, "sliding_window", None) if getattr(hf, "use_sliding_window", True) else None
    if windows or (window is not None and window < hf.max_position_embeddings):
        raise CheckpointError(f"attention of a sliding window cannot be converted ({window or sorted(windows)})")
    return {
        "n_layers": hf.num_hidden_layers,
        "d_model": width,
        "n_ctx": hf.max_position_embeddings,
        "d_head": head,
        "n_heads": n_heads,
        "d_mlp": hf.intermediate_size,
        "d_vocab": hf.vocab_size,
        "act_fn": ACTIVATIONS[act],
        "initializer_range": hf.initializer_range,
        "init_weights": False,
        "default_prepend_bos": False,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        **_rotary(hf, head),
    }


def _rotary(hf: Any, head: int) -> dict[str, Any]:
    rope = hf.rope_parameters
    kind = rope.get("rope_type", "default")
    dim = int(head * rope.get("partial_rotary_factor", 1.0))
    known = {"rotary_base": _positive("rope_theta", rope["rope_theta"]), "rotary_dim": dim}
    if dim < 2 or dim % 2:
        raise CheckpointError(f"rotary embeddings of {dim} dimensions cannot be converted; expected an even number")
    if kind == "default":
        return known
    if kind == "llama3":
        return known | {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    raise CheckpointError(f"rope_type {kind!r} cannot be converted; default and llama3 can")


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 < value < 1e30:
        raise CheckpointError(f"{name} is {str(value)[:40]!r}, expected a positive number")
    return float(value)


def _neox(hf: Any) -> dict[str, Any]:
    if not hf.attention_bias:
        raise CheckpointError("attention_bias=False cannot be converted for gpt_neox")
    return _shared(hf) | {
        "eps": _positive("layer_norm_eps", hf.layer_norm_eps),
        "normalization_type": "LN",
        "parallel_attn_mlp": hf.use_parallel_residual,
        "original_architecture": "GPTNeoXForCausalLM",
    }


def _llama(hf: Any) -> dict[str, Any]:
    if getattr(hf, "attention_bias", False) or getattr(hf, "mlp_bias", False):
        raise CheckpointError(f"attention_bias and mlp_bias cannot be converted for {hf.model_type}")
    return _shared(hf) | _grouped(hf, always=False)


def _mistral(hf: Any) -> dict[str, Any]:
    return _shared(hf) | _grouped(hf)


def _qwen3(hf: Any) -> dict[str, Any]:
    return _llama(hf) | {"use_qk_norm": True}


def _gemma(hf: Any) -> dict[str, Any]:
    return _shared(hf) | _grouped(hf)


def _grouped(hf: Any, *, always: bool = True) -> dict[str, Any]:
    """always: whether the converter wants heads in groups even where every head is its own."""
    groups = hf.num_key_value_heads
    if groups < 1 or hf.num_attention_heads % groups:
        raise CheckpointError(
            f"num_key_value_heads {groups} does not divide num_attention_heads {hf.num_attention_heads}"
        )
    shared = {
        "eps": _positive("rms_norm_eps", hf.rms_norm_eps),
        "normalization_type": "RMS",
        "gated_mlp": True,
        "final_rms": True,
    }
    if always or groups != hf.num_attention_heads:
        shared["n_key_value_heads"] = groups
    return shared


ARCHITECTURES = {
    "gpt_neox": Architecture("GPTNeoX", "neox.convert_neox_weights", _neox),
    "llama": Architecture("Llama", "llama.convert_llama_weights", _llama),
    "mistral": Architecture("Mistral", "mistral.convert_mistral_weights", _mistral),
    "qwen2": Architecture("Qwen2", "qwen2.convert_qwen2_weights", _mistral),
    "qwen3": Architecture("Qwen3", "qwen3.convert_qwen3_weights", _qwen3),
    "gemma": Architecture("Gemma", "gemma.convert_gemma_weights", _gemma),
}


def model_type(directory: Path) -> str | None:
    """The model_type that a directory's config.json says; None if it cannot be read."""
    try:
        raw = read_json(directory / "config.json")
    except (OSError, ValueError):
        return None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    return kind if isinstance(kind, str) else None


def convert_directory(
    directory: Path, kind: str, *, fold: bool = False, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> "HookedTransformer":
    """The HookedTransformer of a directory as `save_pretrained` writes it.

    Args:
        directory: With config.json and weights.
        kind: Its model_type, of ARCHITECTURES.
        fold: Fold norms and centre weights as TransformerLens does by default.
        dtype: Of the model.
        device: Of the model.

    Raises:
        CheckpointError: Files are missing or damaged, contradict each other, or describe what cannot be converted.
    """
    hf, config = _read(directory, kind, dtype)
    return convert_hf(hf, config, ARCHITECTURES[kind].converter, fold=fold, device=device)


def _read(directory: Path, kind: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    import transformers

    where, name = directory / "config.json", ARCHITECTURES[kind].kind
    try:
        hf_config = getattr(transformers, f"{name}Config").from_dict(read_json(where))
        config = ARCHITECTURES[kind].config(hf_config)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{where}: {' '.join(str(error).split())[:200]}") from error
    state = {RENAMED.get(key, key): value for key, value in read_weights(directory).items() if not BUFFERS.search(key)}
    layers = {match[1] for key in state if (match := re.match(r"\w+\.layers\.(\d+)\.", key))}
    if config["n_layers"] != len(layers):
        raise CheckpointError(
            f"{where}: num_hidden_layers is {config['n_layers']}, the weights hold {len(layers)} layers"
        )
    try:
        with torch.device("meta"):  # Shapes alone: a config may ask for more than fits.
            model = getattr(transformers, f"{name}ForCausalLM")(hf_config)
    except Exception as error:
        raise CheckpointError(
            f"{where}: no {name} can be built from it: {' '.join(str(error).split())[:200]}"
        ) from error
    if hf_config.tie_word_embeddings:
        both = next((state[key] for key in _tied(model) if key in state), None)
        state |= {} if both is None else dict.fromkeys(_tied(model), both)
    check_against(model.state_dict(), state, directory)
    check_finite(state, directory)
    return _filled(model, hf_config, state, dtype), config


def _tied(model: Any) -> tuple[str, str]:
    """The names of the embedding and of the unembedding."""
    named = {id(module): name for name, module in model.named_modules()}
    return f"{named[id(model.get_input_embeddings())]}.weight", f"{named[id(model.get_output_embeddings())]}.weight"


def _filled(model: Any, hf_config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """The model, which was made on the meta device, with its weights and the tables that no file holds."""
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            if not hasattr(module, "inv_freq"):
                scale = getattr(module, "embed_scale", None)
                if scale is None:
                    raise CheckpointError(f"the table of {name} is in no file, and it is not known how it is made")
                module.embed_scale = torch.tensor(module.scalar_embed_scale)
                continue
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, type(module)(hf_config))
    return model.to(dtype=dtype).eval()


def from_memory(source: nn.Module) -> "HookedTransformer":
    """A HookedTransformer of a model in memory: a Hugging Face one, or a TransformerBridge, whose weights are taken
    from the Hugging Face model in it and whose logits it has to have.

    Raises:
        CheckpointError: Its architecture is not known, or logits differ.
    """
    bridge = type(source).__name__ == "TransformerBridge"
    whole: Any = getattr(source, "original_model", None) if bridge else source
    hf_config = getattr(whole, "config", None)
    kind = getattr(hf_config, "model_type", None)
    if kind not in (*ARCHITECTURES, "gpt2"):
        raise CheckpointError(
            f"a {type(source).__name__} of model_type {kind!r} cannot be converted; these can: gpt2,"
            f" {', '.join(ARCHITECTURES)}; build a HookedTransformer with its weights and pass it to interp_kit.load"
        )
    if not bridge:
        return _of_hf(whole)
    import transformers

    name = "GPT2LMHeadModel" if kind == "gpt2" else f"{ARCHITECTURES[kind].kind}ForCausalLM"
    plain = getattr(transformers, name)(hf_config).eval()
    there = {key.replace("_original_component.", ""): value for key, value in whole.state_dict().items()}
    missing = [key for key in plain.state_dict() if key not in there and key not in _tied(plain)]
    if missing:
        raise CheckpointError(f"the bridge does not hold {missing[0]}; pass the Hugging Face model that it was made of")
    plain.load_state_dict({key: there[key] for key in plain.state_dict() if key in there}, strict=False)
    plain.tie_weights()
    model = _of_hf(plain.to(next(source.parameters()).dtype))
    try:
        attach(model, conversion=compared(model, lambda tokens: _bridge_logits(source, tokens)))
    except CheckpointError as error:
        raise CheckpointError(
            f"the bridge computes other logits than its Hugging Face weights ({error}); if it is in compatibility mode,"
            " or has edited weights, pass the Hugging Face model that it was made of"
        ) from error
    return model


def _bridge_logits(bridge: Any, tokens: torch.Tensor) -> torch.Tensor:
    training = bridge.training
    try:
        return bridge.eval()(tokens.to(next(bridge.parameters()).device))
    finally:
        bridge.train(training)


def _of_hf(hf: Any) -> "HookedTransformer":
    check_finite(dict(hf.named_parameters()), f"the {type(hf).__name__} in memory")
    device, training = str(next(hf.parameters()).device), hf.training
    try:
        hf.eval()
        if hf.config.model_type == "gpt2":
            return convert_gpt2(hf, device=device)
        known = ARCHITECTURES[hf.config.model_type]
        return convert_hf(hf, known.config(hf.config), known.converter, device=device)
    finally:
        hf.train(training)
