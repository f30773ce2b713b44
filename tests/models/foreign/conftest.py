"""Random tiny models in public layouts: the tensors under the layout's own keys, and an independent forward pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

VOCAB, WIDTH, HEADS, LAYERS, CONTEXT = 15, 12, 3, 2, 10


@dataclass
class Layout:
    """state: the tensors; logits: of (batch, pos) tokens, by a forward pass written here; config: what shapes do not
    say."""

    state: dict[str, Tensor]
    logits: Callable[[Tensor], Tensor]
    config: dict[str, Any] = field(default_factory=dict)


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        name: (1.0 if name.endswith(("norm.weight", "ln_1.weight", "ln1.weight")) else 0.0)
        + 0.4 * torch.randn(shape, generator=g)
        for name, shape in shapes.items()
    }


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(batch, pos, d) of one head, by the formula."""
    scores = q @ k.transpose(1, 2) * scale
    ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, -math.inf).softmax(-1) @ v


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def nanogpt(
    *, bias: bool = True, tied: bool = True, act: Callable[[Tensor], Tensor] = F.gelu, conv: bool = False, seed: int = 0
) -> Layout:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCAB, WIDTH),
        "transformer.wpe.weight": (CONTEXT, WIDTH),
    }
    for i in range(LAYERS):
        for name, out, into in (
            ("attn.c_attn", 3 * WIDTH, WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", 4 * WIDTH, WIDTH),
            ("mlp.c_proj", WIDTH, 4 * WIDTH),
        ):
            shapes[f"transformer.h.{i}.{name}.weight"] = (into, out) if conv else (out, into)
            shapes[f"transformer.h.{i}.{name}.bias"] = (out,)
        for name in ("ln_1", "ln_2"):
            shapes |= {f"transformer.h.{i}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")}
    shapes |= {f"transformer.ln_f.{part}": (WIDTH,) for part in ("weight", "bias")}
    state = {name: value for name, value in random(shapes, seed).items() if bias or not name.endswith("bias")}
    state["lm_head.weight"] = state["transformer.wte.weight"] if tied else random({"h": (VOCAB, WIDTH)}, 9)["h"]

    def of(name: str) -> tuple[Tensor, Tensor | float]:
        weight = state[f"transformer.{name}.weight"]
        return (weight if conv or weight.ndim == 1 else weight.T), state.get(f"transformer.{name}.bias", 0.0)

    def logits(tokens: Tensor) -> Tensor:
        x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][: tokens.shape[1]]
        for i in range(LAYERS):
            w, b = of(f"h.{i}.attn.c_attn")
            q, k, v = (layer_norm(x, *of(f"h.{i}.ln_1")) @ w + b).split(WIDTH, -1)
            size = WIDTH // HEADS
            z = [
                softmax_attention(*(a[..., h * size : (h + 1) * size] for a in (q, k, v)), size**-0.5)
                for h in range(HEADS)
            ]
            w, b = of(f"h.{i}.attn.c_proj")
            x = x + torch.cat(z, -1) @ w + b
            w, b = of(f"h.{i}.mlp.c_fc")
            hidden = act(layer_norm(x, *of(f"h.{i}.ln_2")) @ w + b)
            w, b = of(f"h.{i}.mlp.c_proj")
            x = x + hidden @ w + b
        return layer_norm(x, *of("ln_f")) @ state["lm_head.weight"].T

    return Layout(state, logits)


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mingpt(seed: int = 0) -> Layout:
    made = nanogpt(tied=False, act=gelu_new, seed=seed)
    for i in range(LAYERS):
        made.state[f"transformer.h.{i}.attn.bias"] = torch.ones(CONTEXT, CONTEXT).tril()[None, None]
    made.config = {"n_heads": HEADS}
    return made


def gpt2_file(seed: int = 0) -> Layout:
    made = nanogpt(act=gelu_new, conv=True, seed=seed)
    made.state = {
        name.removeprefix("transformer."): value for name, value in made.state.items() if name != "lm_head.weight"
    }
    made.config = {"n_heads": HEADS}
    return made


def lecture(seed: int = 0) -> Layout:
    size, state_shapes = (
        WIDTH // HEADS,
        {"token_embedding_table.weight": (VOCAB, WIDTH), "position_embedding_table.weight": (CONTEXT, WIDTH)},
    )
    for i in range(LAYERS):
        for h in range(HEADS):
            state_shapes |= {
                f"blocks.{i}.sa.heads.{h}.{kind}.weight": (size, WIDTH) for kind in ("key", "query", "value")
            }
        for name, out, into in (
            ("sa.proj", WIDTH, WIDTH),
            ("ffwd.net.0", 4 * WIDTH, WIDTH),
            ("ffwd.net.2", WIDTH, 4 * WIDTH),
        ):
            state_shapes |= {f"blocks.{i}.{name}.weight": (out, into), f"blocks.{i}.{name}.bias": (out,)}
        for name in ("ln1", "ln2"):
            state_shapes |= {f"blocks.{i}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")}
    state_shapes |= {
        "ln_f.weight": (WIDTH,),
        "ln_f.bias": (WIDTH,),
        "lm_head.weight": (VOCAB, WIDTH),
        "lm_head.bias": (VOCAB,),
    }
    s = random(state_shapes, seed)
    tril = {
        f"blocks.{i}.sa.heads.{h}.tril": torch.ones(CONTEXT, CONTEXT).tril()
        for i in range(LAYERS)
        for h in range(HEADS)
    }

    def logits(tokens: Tensor) -> Tensor:
        x = s["token_embedding_table.weight"][tokens] + s["position_embedding_table.weight"][: tokens.shape[1]]
        for i in range(LAYERS):
            n, heads = layer_norm(x, s[f"blocks.{i}.ln1.weight"], s[f"blocks.{i}.ln1.bias"]), []
            for h in range(HEADS):
                q, k, v = (n @ s[f"blocks.{i}.sa.heads.{h}.{kind}.weight"].T for kind in ("query", "key", "value"))
                heads.append(softmax_attention(q, k, v, size**-0.5))
            x = x + torch.cat(heads, -1) @ s[f"blocks.{i}.sa.proj.weight"].T + s[f"blocks.{i}.sa.proj.bias"]
            n = layer_norm(x, s[f"blocks.{i}.ln2.weight"], s[f"blocks.{i}.ln2.bias"])
            hidden = (n @ s[f"blocks.{i}.ffwd.net.0.weight"].T + s[f"blocks.{i}.ffwd.net.0.bias"]).clamp(min=0)
            x = x + hidden @ s[f"blocks.{i}.ffwd.net.2.weight"].T + s[f"blocks.{i}.ffwd.net.2.bias"]
        return layer_norm(x, s["ln_f.weight"], s["ln_f.bias"]) @ s["lm_head.weight"].T + s["lm_head.bias"]

    return Layout(s | tril, logits)


def llama(groups: int = 2, seed: int = 0) -> Layout:
    heads, size, hidden = 4, 4, 20
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (VOCAB, WIDTH),
        "norm.weight": (WIDTH,),
        "output.weight": (VOCAB, WIDTH),
    }
    for i in range(LAYERS):
        at = f"layers.{i}"
        shapes |= {
            f"{at}.attention.w{kind}.weight": (n * size, WIDTH)
            for kind, n in (("q", heads), ("k", groups), ("v", groups))
        }
        shapes |= {
            f"{at}.attention.wo.weight": (WIDTH, heads * size),
            f"{at}.attention_norm.weight": (WIDTH,),
            f"{at}.ffn_norm.weight": (WIDTH,),
        }
        shapes |= {
            f"{at}.feed_forward.w1.weight": (hidden, WIDTH),
            f"{at}.feed_forward.w2.weight": (WIDTH, hidden),
            f"{at}.feed_forward.w3.weight": (hidden, WIDTH),
        }
    s = random(shapes, seed)

    def rms(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * s[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:
        """Each pair of neighbours turned by its own angle at each position."""
        out = x.clone()
        for t in range(x.shape[1]):
            for j in range(size // 2):
                angle = t * 10000 ** (-2 * j / size)
                a, b = x[:, t, 2 * j], x[:, t, 2 * j + 1]
                out[:, t, 2 * j] = a * math.cos(angle) - b * math.sin(angle)
                out[:, t, 2 * j + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    def logits(tokens: Tensor) -> Tensor:
        x = s["tok_embeddings.weight"][tokens]
        for i in range(LAYERS):
            n, z = rms(x, f"layers.{i}.attention_norm"), []
            q, k, v = (n @ s[f"layers.{i}.attention.w{kind}.weight"].T for kind in "qkv")
            for h in range(heads):
                g = h // (heads // groups)
                one, two = slice(h * size, (h + 1) * size), slice(g * size, (g + 1) * size)
                z.append(softmax_attention(turned(q[..., one]), turned(k[..., two]), v[..., two], size**-0.5))
            x = x + torch.cat(z, -1) @ s[f"layers.{i}.attention.wo.weight"].T
            n = rms(x, f"layers.{i}.ffn_norm")
            gate = n @ s[f"layers.{i}.feed_forward.w1.weight"].T
            x = (
                x
                + (gate * gate.sigmoid() * (n @ s[f"layers.{i}.feed_forward.w3.weight"].T))
                @ s[f"layers.{i}.feed_forward.w2.weight"].T
            )
        return rms(x, "norm") @ s["output.weight"].T

    return Layout(s, logits, {"n_heads": heads, "n_ctx": CONTEXT})


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "nanogpt": nanogpt,
    "nanogpt-no-bias": lambda: nanogpt(bias=False),
    "mingpt": mingpt,
    "gpt2-file": gpt2_file,
    "lecture": lecture,
    "llama": llama,
    "llama-ungrouped": lambda: llama(groups=4),
}


@pytest.fixture(scope="session")
def layouts() -> dict[str, Callable[[], Layout]]:
    """Name -> a random model of that layout."""
    return LAYOUTS


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    return torch.randint(VOCAB, (3, CONTEXT), generator=torch.Generator().manual_seed(5))
