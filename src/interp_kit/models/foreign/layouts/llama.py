"""Meta's Llama layout and that of Karpathy's llama2.c: `layers.0.attention.wq.weight`, `feed_forward.w1`."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from interp_kit.models.foreign.plain import activation, attend
from interp_kit.models.foreign.reader import File, Found
from interp_kit.models.tensor_files import CheckpointError

BUFFERS = r"freqs_(cos|sin|cis)|rope\.freqs"


class Llama:
    """Reads Llama state dicts: RMSNorm, rotary embeddings of adjacent pairs, gated MLPs, grouped queries."""

    name = "Llama (Meta, llama2.c)"

    def recognises(self, keys: Collection[str]) -> bool:
        return "tok_embeddings.weight" in keys and "layers.0.attention.wq.weight" in keys

    def read(self, file: File) -> Found:
        vocab, width = file.take("tok_embeddings.weight", None, None).shape
        n_layers = file.size("n_layers", file.layers("layers"))
        into = file.take("layers.0.attention.wq.weight", None, width).shape[0]
        n_heads = file.heads(into, "n_heads")
        d_head = into // n_heads
        groups, left = divmod(file.take("layers.0.attention.wk.weight", None, width).shape[0], d_head)
        if left or not groups or n_heads % groups or d_head % 2:
            raise CheckpointError(
                f"{file.path}: n_heads is {n_heads}, for which heads are {d_head} wide; wk does not have such heads"
            )
        hidden = file.take("layers.0.feed_forward.w1.weight", None, width).shape[0]
        config = {
            "n_layers": n_layers,
            "d_model": file.size("d_model", width, "dim"),
            "n_heads": n_heads,
            "d_head": d_head,
            "n_ctx": file.setting("n_ctx", "max_seq_len"),
            "d_mlp": hidden,
            "d_vocab": file.size("d_vocab", vocab, "vocab_size"),
            "act_fn": file.setting("act_fn", default="silu"),
            "eps": float(file.setting("eps", "norm_eps", default=1e-5)),
            "normalization_type": "RMS",
            "gated_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_adjacent_pairs": True,
            "rotary_dim": d_head,
            "rotary_base": float(file.setting("rotary_base", "rope_theta", default=1e4)),
            **({} if groups == n_heads else {"n_key_value_heads": groups}),
        }
        if not 1 <= config["n_ctx"] <= 2**24:
            raise CheckpointError(f"{file.path}: its max_seq_len is {config['n_ctx']}, expected 1 to {2**24}")
        weights = _weights(file, config, vocab, groups)
        file.done(BUFFERS)
        return Found(config, weights, forward=_forward(file.state, config, groups))


def _weights(file: File, config: dict[str, Any], vocab: int, groups: int) -> dict[str, Tensor]:
    width, heads, d_head, hidden = (config[name] for name in ("d_model", "n_heads", "d_head", "d_mlp"))
    tied = not file.has("output.weight") and file.path.suffix == ".safetensors"  # which leaves shared tensors out
    weights = {
        "embed.W_E": file.take("tok_embeddings.weight", vocab, width),
        "ln_final.w": file.take("norm.weight", width),
        "unembed.W_U": file.take("tok_embeddings.weight" if tied else "output.weight", vocab, width).T,
        "unembed.b_U": torch.zeros(vocab),
    }
    mark = "" if groups == heads else "_"
    for i in range(config["n_layers"]):
        here, there = f"blocks.{i}", f"layers.{i}"
        for ours, theirs, n in (("W_Q", "wq", heads), (f"{mark}W_K", "wk", groups), (f"{mark}W_V", "wv", groups)):
            found = file.take(f"{there}.attention.{theirs}.weight", n * d_head, width)
            weights[f"{here}.attn.{ours}"] = found.unflatten(0, (n, d_head)).transpose(1, 2)
            weights[f"{here}.attn.{ours.replace('W', 'b')}"] = torch.zeros(n, d_head)
        found = file.take(f"{there}.attention.wo.weight", width, heads * d_head)
        weights[f"{here}.attn.W_O"] = found.T.unflatten(0, (heads, d_head))
        weights[f"{here}.attn.b_O"] = torch.zeros(width)
        for ours, theirs, out, into in (
            ("gate", 1, hidden, width),
            ("out", 2, width, hidden),
            ("in", 3, hidden, width),
        ):
            weights[f"{here}.mlp.W_{ours}"] = file.take(f"{there}.feed_forward.w{theirs}.weight", out, into).T
        weights |= {f"{here}.mlp.b_in": torch.zeros(hidden), f"{here}.mlp.b_out": torch.zeros(width)}
        weights[f"{here}.ln1.w"] = file.take(f"{there}.attention_norm.weight", width)
        weights[f"{here}.ln2.w"] = file.take(f"{there}.ffn_norm.weight", width)
    return weights


def _forward(stored: Any, config: dict[str, Any], groups: int) -> Callable[[Tensor], Tensor]:
    """The layout's own computation, with complex numbers as the original has it, by which the conversion is checked."""
    state, heads, d_head = {key: value.float() for key, value in stored.items()}, config["n_heads"], config["d_head"]
    act = activation(config["act_fn"])

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["eps"]) * state[f"{name}.weight"]

    def rotated(x: Tensor) -> Tensor:
        frequencies = config["rotary_base"] ** -(torch.arange(0, d_head, 2).float() / d_head)
        angles = torch.outer(torch.arange(x.shape[1]).float(), frequencies)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, d_head // 2, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)

    def run(tokens: Tensor) -> Tensor:
        x = state["tok_embeddings.weight"][tokens]
        for i in range(config["n_layers"]):
            at, normed = f"layers.{i}.attention", norm(x, f"layers.{i}.attention_norm")
            q, k, v = (normed @ state[f"{at}.w{kind}.weight"].T for kind in "qkv")
            k, v = (
                y.unflatten(-1, (groups, d_head)).repeat_interleave(heads // groups, 2).flatten(2)
                for y in (rotated(k), v)
            )
            x = x + attend(rotated(q), k, v, heads) @ state[f"{at}.wo.weight"].T
            at, normed = f"layers.{i}.feed_forward", norm(x, f"layers.{i}.ffn_norm")
            hidden = act(normed @ state[f"{at}.w1.weight"].T) * (normed @ state[f"{at}.w3.weight"].T)
            x = x + hidden @ state[f"{at}.w2.weight"].T
        return norm(x, "norm") @ state.get("output.weight", state["tok_embeddings.weight"]).T

    return run


READER = Llama()
