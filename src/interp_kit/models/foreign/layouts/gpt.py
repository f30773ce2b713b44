"""GPT-2's layout in one file: nanoGPT, minGPT and makemore (`transformer.h.0.attn.c_attn.weight`, Linear), and Hugging
Face's (the same keys, Conv1D), with or without biases."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.models.convert import ACTIVATIONS
from interp_kit.models.foreign.reader import File, Found
from interp_kit.models.tensor_files import CheckpointError

BUFFERS = r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"


class GPT:
    """Reads nanoGPT, minGPT and Hugging Face GPT-2 state dicts; what differs is told by shapes and by what is missing.

    The activation is not in a file: exact GELU is nanoGPT's, its tanh form minGPT's and GPT-2's. That of the layout is
    taken and said, and can be named.
    """

    name = "nanoGPT / minGPT / GPT-2"

    def recognises(self, keys: Collection[str]) -> bool:
        return any(key.removeprefix("transformer.") == "h.0.attn.c_attn.weight" for key in keys)

    def read(self, file: File) -> Found:
        t = "transformer." if file.has("transformer.wte.weight") else ""
        vocab, width = file.take(f"{t}wte.weight", None, None).shape
        n_layers = file.size("n_layers", file.layers(f"{t}h".replace(".", r"\.")), "n_layer")
        if not n_layers:
            raise CheckpointError(f"{file.path}: there are no layers {t}h.0")
        positions = file.take(f"{t}wpe.weight", None, width)
        sizes = "block_size" if "block_size" in file.stored else "n_positions"
        first = file.state[f"{t}h.0.attn.c_attn.weight"]
        conv1d = tuple(first.shape) == (width, 3 * width)
        head = _head(file, t, vocab, width, needed=bool(t) and not conv1d and file.path.suffix != ".safetensors")
        layers = [_layer(file, f"{t}h.{i}", width, conv1d) for i in range(n_layers)]
        final = {name: _or_zeros(file, f"{t}ln_f.{name}", width) for name in ("weight", "bias")}
        file.done(BUFFERS)
        hidden = len(layers[0]["mlp.c_fc.bias"])
        minimal = (
            file.has(f"{t}h.0.attn.bias")
            and "lm_head.weight" in file.state
            and not torch.equal(file.state["lm_head.weight"], file.state[f"{t}wte.weight"])
        )
        usual = "gelu_new" if conv1d or minimal else "gelu"
        act = file.setting("act_fn", "activation_function", default=usual)
        if act not in ACTIVATIONS:
            raise CheckpointError(
                f"{file.path}: act_fn {str(act)[:40]!r} cannot be read; these can: {', '.join(ACTIVATIONS)}"
            )
        config = {
            "n_layers": n_layers,
            "d_model": file.size("d_model", width, "n_embd"),
            "n_ctx": file.size("n_ctx", len(positions), sizes),
            "n_heads": file.heads(width, "n_head"),
            "d_mlp": hidden,
            "d_vocab": file.size("d_vocab", vocab, "vocab_size"),
            "act_fn": ACTIVATIONS[act],
            "eps": float(file.setting("eps", "layer_norm_epsilon", default=1e-5)),
            "normalization_type": "LN",
        }
        config["d_head"] = width // config["n_heads"]
        plain = {"wte": file.state[f"{t}wte.weight"].float(), "wpe": positions, "head": head}
        return Found(config, _weights(plain, layers, final, config), forward=_forward(plain, layers, final, config))


def _head(file: File, t: str, vocab: int, width: int, *, needed: bool) -> Tensor:
    """The unembedding, or the embedding where files leave a tied one out: Hugging Face's, and safetensors."""
    return file.take("lm_head.weight" if needed or file.has("lm_head.weight") else f"{t}wte.weight", vocab, width)


def _or_zeros(file: File, key: str, length: int) -> Tensor:
    """A tensor, or 0 for a bias of a model that has none."""
    biased = any(re.search(r"(c_\w+|ln_\w)\.bias$", other) for other in file.state)
    return file.take(key, length) if biased or key.endswith("weight") else torch.zeros(length)


def _layer(file: File, at: str, width: int, conv1d: bool) -> dict[str, Tensor]:
    """The weights of a layer, (out, in) as nn.Linear has them, biases of 0 where there are none."""
    found = {}
    hidden = file.state.get(f"{at}.mlp.c_fc.weight", torch.empty(0, 0)).shape[1 if conv1d else 0]
    shapes = {"attn.c_attn": (3 * width, width), "attn.c_proj": (width, width)}
    shapes |= {"mlp.c_fc": (hidden, width), "mlp.c_proj": (width, hidden)}
    for name, (out, into) in shapes.items():
        weight = file.take(f"{at}.{name}.weight", *((into, out) if conv1d else (out, into)))
        found[f"{name}.weight"] = weight.T if conv1d else weight
        found[f"{name}.bias"] = _or_zeros(file, f"{at}.{name}.bias", out)
    for norm in ("ln_1", "ln_2"):
        found |= {f"{norm}.{part}": _or_zeros(file, f"{at}.{norm}.{part}", width) for part in ("weight", "bias")}
    return found


def _weights(
    plain: Mapping[str, Tensor], layers: list[dict[str, Tensor]], final: Mapping[str, Tensor], config: dict[str, Any]
) -> dict[str, Tensor]:
    n, d = config["n_heads"], config["d_head"]
    weights = {"embed.W_E": plain["wte"], "pos_embed.W_pos": plain["wpe"], "unembed.W_U": plain["head"].T}
    weights |= {
        "unembed.b_U": torch.zeros(len(plain["head"])),
        "ln_final.w": final["weight"],
        "ln_final.b": final["bias"],
    }
    for i, layer in enumerate(layers):
        here = f"blocks.{i}"
        for name, weight, bias in zip(
            "QKV", layer["attn.c_attn.weight"].chunk(3), layer["attn.c_attn.bias"].chunk(3), strict=True
        ):
            weights[f"{here}.attn.W_{name}"] = weight.unflatten(0, (n, d)).transpose(1, 2)
            weights[f"{here}.attn.b_{name}"] = bias.unflatten(0, (n, d))
        weights[f"{here}.attn.W_O"] = layer["attn.c_proj.weight"].T.unflatten(0, (n, d))
        weights[f"{here}.attn.b_O"] = layer["attn.c_proj.bias"]
        for ours, theirs in (("in", "c_fc"), ("out", "c_proj")):
            weights[f"{here}.mlp.W_{ours}"] = layer[f"mlp.{theirs}.weight"].T
            weights[f"{here}.mlp.b_{ours}"] = layer[f"mlp.{theirs}.bias"]
        for ours, theirs in (("ln1", "ln_1"), ("ln2", "ln_2")):
            weights |= {f"{here}.{ours}.w": layer[f"{theirs}.weight"], f"{here}.{ours}.b": layer[f"{theirs}.bias"]}
    return weights


def _forward(
    plain: Mapping[str, Tensor], layers: list[dict[str, Tensor]], final: Mapping[str, Tensor], config: dict[str, Any]
) -> Any:
    """The layout's own computation, by which the conversion is checked."""
    from interp_kit.models.foreign.plain import activation, attend

    act, eps, width = activation(config["act_fn"]), config["eps"], config["d_model"]

    def run(tokens: Tensor) -> Tensor:
        x = plain["wte"][tokens] + plain["wpe"][: tokens.shape[1]]
        for layer in layers:
            normed = F.layer_norm(x, (width,), layer["ln_1.weight"], layer["ln_1.bias"], eps)
            q, k, v = F.linear(normed, layer["attn.c_attn.weight"], layer["attn.c_attn.bias"]).split(width, -1)
            z = attend(q, k, v, config["n_heads"])
            x = x + F.linear(z, layer["attn.c_proj.weight"], layer["attn.c_proj.bias"])
            normed = F.layer_norm(x, (width,), layer["ln_2.weight"], layer["ln_2.bias"], eps)
            hidden = act(F.linear(normed, layer["mlp.c_fc.weight"], layer["mlp.c_fc.bias"]))
            x = x + F.linear(hidden, layer["mlp.c_proj.weight"], layer["mlp.c_proj.bias"])
        return F.linear(F.layer_norm(x, (width,), final["weight"], final["bias"], eps), plain["head"])

    return run


READER = GPT()
