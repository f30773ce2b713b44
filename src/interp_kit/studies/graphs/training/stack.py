"""Several GPT-2s of one shape trained as one: each parameter has a leading axis over models.

The models share nothing but the launches of their kernels, which would otherwise bound small networks on a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_kit.training.muon import orthogonalise


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT-2 (pre-LayerNorm, learned positions, gelu_new, untied head)."""

    layers: int = 4
    width: int = 128
    heads: int = 8
    vocabulary: int = 47
    positions: int = 43

    def gpt2(self) -> dict[str, object]:
        """The config.json of a Hugging Face GPT-2 of this shape."""
        end = self.vocabulary - 1
        return {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
            "n_layer": self.layers, "n_embd": self.width, "n_head": self.heads, "n_positions": self.positions,
            "vocab_size": self.vocabulary, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
            "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": end, "eos_token_id": end,
        }  # fmt: skip


class Stack(nn.Module):
    """len(seeds) GPT-2s; (models, batch, pos) tokens in, logits out. Model i starts from seeds[i] alone, drawn as
    GPT-2 draws: normal(0, 0.02), what writes to the residual stream narrower by sqrt(2 * layers)."""

    def __init__(self, shape: Shape, seeds: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.seeds = shape, tuple(seeds)
        d, narrow = shape.width, 0.02 / math.sqrt(2 * shape.layers)
        sizes: dict[str, tuple[tuple[int, ...], float | None]] = {
            "transformer.wte.weight": ((shape.vocabulary, d), 0.02),
            "transformer.wpe.weight": ((shape.positions, d), 0.02),
        }
        for i in range(shape.layers):
            block = f"transformer.h.{i}"
            for name, (rows, columns), std in (
                ("attn.c_attn", (d, 3 * d), 0.02), ("attn.c_proj", (d, d), narrow),
                ("mlp.c_fc", (d, 4 * d), 0.02), ("mlp.c_proj", (4 * d, d), narrow),
            ):  # fmt: skip
                sizes[f"{block}.{name}.weight"] = ((rows, columns), std)
                sizes[f"{block}.{name}.bias"] = ((columns,), 0.0)
            for name in ("ln_1", "ln_2"):
                sizes |= {f"{block}.{name}.weight": ((d,), None), f"{block}.{name}.bias": ((d,), 0.0)}
        sizes |= {"transformer.ln_f.weight": ((d,), None), "transformer.ln_f.bias": ((d,), 0.0)}
        sizes["lm_head.weight"] = ((shape.vocabulary, d), 0.02)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.names = tuple(sizes)
        self.weights = nn.ParameterList()
        for size, std in sizes.values():
            draws = [torch.ones(size) if std is None else torch.randn(size, generator=g) * std for g in generators]
            self.weights.append(nn.Parameter(torch.stack(draws)))

    def named(self) -> dict[str, Tensor]:
        """Hugging Face name -> (models, …) parameter."""
        return {name: self.weights[i] for i, name in enumerate(self.names)}

    def state(self, model: int) -> dict[str, Tensor]:
        """The state dict of one model, on the CPU."""
        return {name: value[model].detach().cpu().clone() for name, value in self.named().items()}

    def hidden(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(models, batch, pos, width) the residual stream after the last LayerNorm."""
        p = self.named()
        models, batch, length = tokens.shape
        first = torch.arange(models, device=tokens.device)[:, None, None] * self.shape.vocabulary
        x = F.embedding(tokens + first, p["transformer.wte.weight"].flatten(0, 1))
        x = x + p["transformer.wpe.weight"][:, positions][:, None]
        for i in range(self.shape.layers):
            block = f"transformer.h.{i}"
            h = _linear(_norm(x, p, f"{block}.ln_1"), p, f"{block}.attn.c_attn")
            q, k, v = (
                part.reshape(models * batch, length, self.shape.heads, -1).transpose(1, 2) for part in h.chunk(3, -1)
            )
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            z = z.transpose(1, 2).reshape(models, batch, length, -1)
            x = x + _linear(z, p, f"{block}.attn.c_proj")
            h = F.gelu(_linear(_norm(x, p, f"{block}.ln_2"), p, f"{block}.mlp.c_fc"), approximate="tanh")
            x = x + _linear(h, p, f"{block}.mlp.c_proj")
        return _norm(x, p, "transformer.ln_f")

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """(models, batch, at, vocabulary) logits at these positions."""
        hidden = self.hidden(tokens, positions, mask)[:, :, at]
        return hidden @ self.named()["lm_head.weight"].mT[:, None]


def _linear(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return (flat @ weight + bias[:, None]).reshape(*x.shape[:-1], -1)


def _norm(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    return (
        F.layer_norm(x, x.shape[-1:], eps=1e-5) * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]
    )


class Optimiser:
    """Muon (of the culture networks, float32) on the matrices of the blocks, AdamW on the rest, with one rate per
    model. The query, key and value parts of c_attn are three matrices."""

    def __init__(self, stack: Stack, muon: Sequence[float], adam: float, momentum: float = 0.95) -> None:
        named = stack.named()
        self.matrices = [p for name, p in named.items() if ".c_" in name and name.endswith("weight")]
        chosen = {id(p) for p in self.matrices}
        self.rest = [p for p in named.values() if id(p) not in chosen]
        self.momentum, self.adam_rate = momentum, adam
        self.muon = torch.tensor(muon, device=self.rest[0].device)
        self.buffers = [torch.zeros_like(p) for p in self.matrices]
        fused = self.rest[0].is_cuda
        self.adam = torch.optim.AdamW(self.rest, lr=adam, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update, both rates times `scale`; gradients are cleared."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self.adam.step()
        updates: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p, buffer in zip(self.matrices, self.buffers, strict=True):
            assert p.grad is not None
            buffer.lerp_(p.grad, 1 - self.momentum)
            update = p.grad.lerp(buffer, self.momentum)
            width = p.shape[1]
            parts = 3 if p.shape[2] == 3 * width else 1
            for part, target in zip(update.chunk(parts, -1), p.chunk(parts, -1), strict=True):
                updates.setdefault((part.shape[1], part.shape[2]), []).append((target, part))
        for (inputs, outputs), pairs in updates.items():
            together = torch.stack([update for _, update in pairs])
            whole = orthogonalise(together.flatten(0, 1)).view_as(together)
            rate = self.muon[:, None, None] * (scale * max(1.0, outputs / inputs) ** 0.5)
            for (target, _), update in zip(pairs, whole, strict=True):
                target.sub_(update * rate)
        for p in (*self.matrices, *self.rest):
            p.grad = None
