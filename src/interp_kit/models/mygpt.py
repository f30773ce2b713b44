"""MyGPT, the network of François Fleuret's culture project, and its `gpt_NNN.pth` files, read safely, key by key.

A pre-LayerNorm transformer with sinusoidal positions, keys and values of different widths, ReLU, no attention biases
and no final LayerNorm. It shifts its own input: a 0 is put in front and the last token dropped, so that logits[t]
predict tokens[t].
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_kit.core.files import replacing
from interp_kit.models.tensor_files import CheckpointError, check_finite, read_torch

VOCABULARY = 15  # colours 0..10 and four markers
EPS = 1e-5


@dataclass(frozen=True)
class MyGPTConfig:
    """The sizes of a MyGPT. d_key, d_value: of one head; d_value need not be d_model / n_heads. Raises ValueError below
    1."""

    d_vocab: int
    d_model: int
    d_key: int
    d_value: int
    d_mlp: int
    n_heads: int
    n_layers: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1")


def sinusoidal(length: int, d_model: int, base: float | int = 1e5) -> Float[Tensor, "pos d_model"]:
    """(length, d_model) sin(t / base^((j - k) / d_model) + k pi/2) at position t and dimension j, with k = j mod 2.

    In float32 throughout, as the original has it: at t = 400 a more precise table is 1e-5 away from what was trained.
    """
    t, j = torch.arange(length, dtype=torch.float32)[:, None], torch.arange(d_model, dtype=torch.float32)[None]
    k = j % 2
    return torch.sin(t / (base ** ((j - k) / d_model)) + math.pi / 2 * k)


class Block(nn.Module):
    """Attention and MLP, each after its LayerNorm and added to the residual stream."""

    def __init__(self, config: MyGPTConfig, dropout: float | int = 0.0) -> None:
        super().__init__()
        d, h, dk, dv = config.d_model, config.n_heads, config.d_key, config.d_value
        self.dropout = dropout
        self.ln1 = nn.LayerNorm(d, eps=EPS, dtype=torch.float32)
        self.w_q, self.w_k = _weight(h, dk, d), _weight(h, dk, d)
        self.w_v, self.w_o = _weight(h, dv, d), _weight(h * dv, d)
        self.ln2 = nn.LayerNorm(d, eps=EPS, dtype=torch.float32)
        self.fc1 = nn.Linear(d, config.d_mlp, dtype=torch.float32)
        self.fc2 = nn.Linear(config.d_mlp, d, dtype=torch.float32)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], keep: Callable[[Tensor], Tensor] | None = None
    ) -> Float[Tensor, "batch kept d_model"]:
        """keep: takes the positions that are wanted out of (batch, pos, …); the others skip the MLP."""
        q, k, v = self.heads(x)
        # Values as wide as keys, or torch falls back to an attention that keeps (pos, pos) for every head.
        width = max(q.shape[-1], v.shape[-1])
        q, k, wide = (F.pad(a, (0, width - a.shape[-1])) for a in (q, k, v))
        z = F.scaled_dot_product_attention(
            q, k, wide, is_causal=True, scale=self.w_q.shape[1] ** -0.5, dropout_p=self.dropout if self.training else 0
        )
        z = z[..., : v.shape[-1]].transpose(1, 2).flatten(2)
        if keep is not None:
            x, z = keep(x), keep(z)
        x = x + z @ self.w_o
        return x + F.dropout(self.fc2(F.relu(self.fc1(self.ln2(x)))), self.dropout, self.training)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, head, pos, d_key or d_value) queries, keys and values."""
        x = self.ln1(x)
        q, k, v = (
            F.linear(x, w.flatten(0, 1)).unflatten(-1, w.shape[:2]).transpose(1, 2)
            for w in (self.w_q, self.w_k, self.w_v)
        )
        return q, k, v


class MyGPT(nn.Module):
    """The network. Weights are drawn from `seed` as the original draws them, whatever the global generator holds.

    dropout: on embeddings, attention and MLP outputs in training mode, as in the original (0.1 there); it is not part
    of a checkpoint."""

    def __init__(self, config: MyGPTConfig, *, seed: int = 0, dropout: float | int = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(config.d_vocab, config.d_model, dtype=torch.float32)
            self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.n_layers))
            self.readout = nn.Linear(config.d_model, config.d_vocab, dtype=torch.float32)
        self._positions = torch.empty(0, config.d_model, dtype=torch.float32)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """(batch, pos, vocab) logits; those at t predict tokens[:, t] from the tokens before it."""
        x = self.embed_tokens(tokens)
        for block in self.blocks:
            x = block(x)
        return self.readout(x)

    @torch.no_grad()
    def attention(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "layer batch head pos pos"]:
        """(layer, batch, head, to, from) attention patterns; `from` t is the token before t, the padded 0 first."""
        x, patterns = self.embed_tokens(tokens), []
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            assert isinstance(block, Block)
            q, k, _ = block.heads(x)
            scores = q @ k.transpose(-1, -2) * self.config.d_key**-0.5
            patterns.append(scores.masked_fill(~seen, -math.inf).softmax(-1))
            x = block(x)
        return torch.stack(patterns)

    def embed_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """(batch, pos, d_model) the tokens shifted right by one, embedded, plus their positions: what block 0 reads."""
        shifted = F.pad(tokens, (1, 0))[:, : tokens.shape[1]]
        x = F.dropout(self.embed(shifted), self.dropout, self.training)
        length = x.shape[1]
        table = self._positions
        if len(table) < length or (table.device, table.dtype) != (x.device, x.dtype):
            with torch.inference_mode(False):
                self._positions = table = sinusoidal(length, x.shape[2]).to(x)
        return x + table[:length]


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=torch.float32) / shape[-1] ** 0.5)


def load_mygpt(path: str | Path, *, d_vocab: int = VOCABULARY) -> tuple[MyGPT, float]:
    """A `gpt_NNN.pth` file of either key layout as a MyGPT in eval mode and float32, and the accuracy stored with it.

    All sizes are read from the shapes. Nothing in the file is executed. Raises CheckpointError naming the file, and the
    key if there is one, for a file that is missing, damaged or hostile, for a missing, unknown or misshapen key, for
    nan or infinite weights, and for a vocabulary that is not `d_vocab`.
    """
    path = Path(path)
    state, accuracy = _read(path)
    wrapped = "embedding.f.0.f.0.weight" in state
    config = _config(state, wrapped, path)
    if config.d_vocab != d_vocab:
        raise CheckpointError(f"{path}: the vocabulary has {config.d_vocab} tokens, expected {d_vocab}")
    with torch.device("meta"):  # Shapes alone: no random numbers are drawn.
        model = MyGPT(config)
    keys = _keys(config.n_layers, wrapped)
    expected = {keys[name]: value.shape for name, value in model.state_dict().items()}
    for key in (*expected, *state):
        _check(key, state, expected, path)
    weights = {name: state[key].float() for name, key in keys.items()}
    check_finite({keys[name]: value for name, value in weights.items()}, path)
    model.load_state_dict(weights, assign=True)
    model._positions = sinusoidal(0, config.d_model)
    return model.eval(), accuracy


def save_mygpt(
    model: MyGPT,
    accuracy: float | int,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    wrapper: bool = False,
) -> Path:
    """Write a model as the original does, whole or not at all. wrapper: the later key layout.

    Raises ValueError if the accuracy is not within 0..1 or a weight not finite, in `dtype`; nothing is then written.
    """
    if isinstance(accuracy, bool) or not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy is {accuracy}, not within 0..1")
    keys = _keys(model.config.n_layers, wrapper)
    state = {keys[name]: value.detach().to("cpu", dtype).clone() for name, value in model.state_dict().items()}
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} has nan or infinite values in {dtype}")
    with replacing(path) as aside:
        torch.save((state, float(accuracy)), aside)
    return Path(path)


def _keys(n_layers: int, wrapped: bool) -> dict[str, str]:
    """The name of each parameter here -> its key in a file."""
    f = "f." if wrapped else ""
    keys = {"embed.weight": f"embedding.{f}0.f.0.weight"}
    for layer in range(n_layers):
        ours, attention, mlp = f"blocks.{layer}", f"trunk.{2 * layer}.{f}f", f"trunk.{2 * layer + 1}.{f}f.f"
        keys |= {f"{ours}.ln1.{kind}": f"{attention}.0.f.0.{kind}" for kind in ("weight", "bias")}
        keys |= {f"{ours}.{name}": f"{attention}.1.{name}" for name in ("w_q", "w_k", "w_v", "w_o")}
        for name, number in (("ln2", 0), ("fc1", 2), ("fc2", 4)):
            keys |= {f"{ours}.{name}.{kind}": f"{mlp}.{number}.{kind}" for kind in ("weight", "bias")}
    return keys | {f"readout.{kind}": f"readout.{f}f.{kind}" for kind in ("weight", "bias")}


def _read(path: Path) -> tuple[dict[str, Any], float]:
    if not path.is_file():
        raise CheckpointError(f"{path} is {'not a file' if path.exists() else 'missing'}")
    content = read_torch(path)
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise CheckpointError(f"{path} holds no pair (state dict, accuracy)")
    state, accuracy = content
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: its first part is not a state dict but {type(state).__name__}")
    if nameless := [key for key in state if not isinstance(key, str)]:
        raise CheckpointError(f"{path}: a key is {reprlib.repr(nameless[0])!r}, no text")
    if isinstance(accuracy, Tensor) and accuracy.numel() == 1:
        accuracy = accuracy.item()
    shown = reprlib.repr(accuracy).strip("'")
    if type(accuracy) not in (int, float) or not math.isfinite(min(accuracy, 2)):
        raise CheckpointError(f"{path}: the stored accuracy is {shown!r}, no finite number")
    if not 0 <= accuracy <= 1:
        raise CheckpointError(f"{path}: the stored accuracy is {shown!r}, not within 0..1")
    return dict(state), float(accuracy)


def _config(state: Mapping[str, Any], wrapped: bool, path: Path) -> MyGPTConfig:
    """The sizes by the shapes of five weights and the number of trunk parts."""
    parts = [int(match[1]) for key in state if (match := re.match(r"trunk\.(\d{1,9})\.", key))]
    n_layers = max(parts, default=0) // 2 + 1
    if parts and n_layers > len(state):  # one key with a large number in it does not make a model of that many layers
        raise CheckpointError(f"{path}: trunk.{max(parts)} is unknown: there are only {len(state)} keys")
    keys = _keys(n_layers, wrapped)

    def shape(name: str, dimensions: int) -> torch.Size:
        _check(keys[name], state, None, path)
        found = state[keys[name]].shape
        if len(found) != dimensions:
            raise CheckpointError(f"{path}: {keys[name]} has shape {tuple(found)}, expected {dimensions} dimensions")
        return found

    d_vocab, d_model = shape("embed.weight", 2)
    n_heads, d_key, _ = shape("blocks.0.w_q", 3)
    d_value, d_mlp = shape("blocks.0.w_v", 3)[1], shape("blocks.0.fc1.weight", 2)[0]
    try:
        return MyGPTConfig(d_vocab, d_model, d_key, d_value, d_mlp, n_heads, n_layers)
    except ValueError as error:
        raise CheckpointError(f"{path}: by the shapes, {error}") from error


def _check(key: str, state: Mapping[str, Any], expected: Mapping[str, torch.Size] | None, path: Path) -> None:
    """Raise CheckpointError if a key is missing, unknown, no floating-point tensor, or misshapen."""
    if key not in state:
        raise CheckpointError(f"{path}: {key} is missing")
    if expected is not None and key not in expected:
        raise CheckpointError(f"{path}: {key} is unknown")
    value = state[key]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"{value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(f"{path}: {key} holds {found}, no dense floating-point numbers")
    if expected is not None and value.shape != expected[key]:
        raise CheckpointError(f"{path}: {key} has shape {tuple(value.shape)}, expected {tuple(expected[key])}")
