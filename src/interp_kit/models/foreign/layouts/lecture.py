"""The GPT of Andrej Karpathy's lecture "Let's build GPT": one matrix per head, `blocks.0.sa.heads.0.key.weight`."""

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.models.foreign.plain import activation, attend
from interp_kit.models.foreign.reader import File, Found

BUFFERS = r"blocks\.\d+\.sa\.heads\.\d+\.tril"


class Lecture:
    """Reads the lecture's state dicts. Scores are divided by the root of a head's size; in the video they were divided
    by that of n_embd, for which `attn_scale` can be named."""

    name = "Karpathy's lecture"

    def recognises(self, keys: Collection[str]) -> bool:
        return "token_embedding_table.weight" in keys and "blocks.0.sa.heads.0.key.weight" in keys

    def read(self, file: File) -> Found:
        vocab, width = file.take("token_embedding_table.weight", None, None).shape
        n_heads = file.layers(r"blocks\.0\.sa\.heads")
        d_head = file.take("blocks.0.sa.heads.0.key.weight", None, width).shape[0]
        hidden = file.take("blocks.0.ffwd.net.0.weight", None, width).shape[0]
        config = {
            "n_layers": file.size("n_layers", file.layers("blocks"), "n_layer"),
            "d_model": file.size("d_model", width, "n_embd"),
            "n_heads": file.heads(n_heads, "n_head", found=n_heads),
            "d_head": d_head,
            "n_ctx": file.size("n_ctx", len(file.take("position_embedding_table.weight", None, width)), "block_size"),
            "d_mlp": hidden,
            "d_vocab": file.size("d_vocab", vocab, "vocab_size"),
            "act_fn": file.setting("act_fn", default="relu"),
            "attn_scale": float(file.setting("attn_scale", default=d_head**0.5)),
            "eps": float(file.setting("eps", default=1e-5)),
            "normalization_type": "LN",
        }
        weights = {
            "embed.W_E": file.state["token_embedding_table.weight"].float(),
            "pos_embed.W_pos": file.state["position_embedding_table.weight"].float(),
            "unembed.W_U": file.take("lm_head.weight", vocab, width).T,
            "unembed.b_U": file.take("lm_head.bias", vocab),
        }
        for i in range(config["n_layers"]):
            here = f"blocks.{i}"
            weights |= _heads(file, here, n_heads, d_head, width)
            weights[f"{here}.attn.W_O"] = file.take(f"{here}.sa.proj.weight", width, n_heads * d_head).T.unflatten(
                0, (n_heads, d_head)
            )
            weights[f"{here}.attn.b_O"] = file.take(f"{here}.sa.proj.bias", width)
            for part, number, out, into in (("in", 0, hidden, width), ("out", 2, width, hidden)):
                weights[f"{here}.mlp.W_{part}"] = file.take(f"{here}.ffwd.net.{number}.weight", out, into).T
                weights[f"{here}.mlp.b_{part}"] = file.take(f"{here}.ffwd.net.{number}.bias", out)
            for norm in ("ln1", "ln2"):
                weights |= _norm(file, f"{here}.{norm}", f"{here}.{norm}", width)
        weights |= _norm(file, "ln_final", "ln_f", width)
        file.done(BUFFERS)
        return Found(config, weights, forward=_forward(file.state, config))


def _heads(file: File, here: str, n_heads: int, d_head: int, width: int) -> dict[str, Tensor]:
    found = {}
    for ours, theirs in (("Q", "query"), ("K", "key"), ("V", "value")):
        heads = [file.take(f"{here}.sa.heads.{h}.{theirs}.weight", d_head, width).T for h in range(n_heads)]
        found[f"{here}.attn.W_{ours}"] = torch.stack(heads)
        found[f"{here}.attn.b_{ours}"] = torch.zeros(n_heads, d_head)
    return found


def _norm(file: File, ours: str, theirs: str, width: int) -> dict[str, Tensor]:
    return {f"{ours}.w": file.take(f"{theirs}.weight", width), f"{ours}.b": file.take(f"{theirs}.bias", width)}


def _forward(stored: Any, config: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The layout's own computation, by which the conversion is checked."""
    state, heads, width = {key: value.float() for key, value in stored.items()}, config["n_heads"], config["d_model"]
    act = activation(config["act_fn"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], config["eps"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def run(tokens: Tensor) -> Tensor:
        x = state["token_embedding_table.weight"][tokens]
        x = x + state["position_embedding_table.weight"][: tokens.shape[1]]
        for i in range(config["n_layers"]):
            normed, at = norm(x, f"blocks.{i}.ln1"), f"blocks.{i}.sa.heads"
            q, k, v = (
                torch.cat([normed @ state[f"{at}.{h}.{kind}.weight"].T for h in range(heads)], -1)
                for kind in ("query", "key", "value")
            )
            x = x + linear(attend(q, k, v, heads, 1 / config["attn_scale"]), f"blocks.{i}.sa.proj")
            hidden = act(linear(norm(x, f"blocks.{i}.ln2"), f"blocks.{i}.ffwd.net.0"))
            x = x + linear(hidden, f"blocks.{i}.ffwd.net.2")
        return linear(norm(x, "ln_f"), "lm_head")

    return run


READER = Lecture()
