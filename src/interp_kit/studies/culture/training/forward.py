"""A MyGPT forward over quizzes: the grids that a loss is of, with gradients, and how right its answers are, without."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.models.mygpt import Block, MyGPT
from interp_kit.studies.culture.training.attention_kernel import causal_attention
from interp_kit.tasks.culture.grids import GRIDS, QUARTER

RunBlock = Callable[[Block, Tensor, list[int]], Tensor]


def logits_of(model: MyGPT, tokens: Tensor, quarters: list[int], *, run: RunBlock) -> Tensor:
    """(batch, 101 * quarters, vocab) logits of those quarters of (batch, 404); the last block skips all others where it
    can. run: how a block is run, see `block_runner`."""
    x = model.embed_tokens(tokens)
    every, last = list(range(len(GRIDS))), len(model.blocks) - 1
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        x = run(block, x, quarters if layer == last else every)
    return model.readout(x)


def block_runner(*, kernel: bool = False, compiled: bool = False) -> RunBlock:
    """A function that runs a block on (batch, 404, d_model) and gives those quarters of what comes out.

    Args:
        kernel: By `causal_attention`, faster on a CPU, without dropout.
        compiled: By torch.compile, once for all blocks, with and without all quarters.
    """
    if kernel:
        return _through
    return _compiled() if compiled else _plain


@cache
def _compiled() -> RunBlock:
    return torch.compile(_plain, dynamic=False)


def _plain(block: Block, x: Tensor, quarters: list[int]) -> Tensor:
    return Block.forward(block, x, lambda y: quarters_of(y, quarters))


def quarters_of(x: Tensor, quarters: list[int]) -> Tensor:
    """(batch, 101 * quarters, …) those quarters of (batch, 404, …)."""
    if len(quarters) == len(GRIDS):
        return x
    return x.unflatten(1, (len(GRIDS), QUARTER))[:, quarters].flatten(1, 2)


def _through(block: Block, x: Tensor, quarters: list[int]) -> Tensor:
    """(batch, 101 * quarters, d_model) those quarters of (batch, 404, d_model), after the block."""
    n_heads, d_key, _ = block.w_q.shape
    weights = torch.cat([w.flatten(0, 1) for w in (block.w_q * d_key**-0.5, block.w_k, block.w_v)])
    sizes = [n_heads * w.shape[1] for w in (block.w_q, block.w_k, block.w_v)]
    q, k, v = (
        a.unflatten(-1, (n_heads, -1)).transpose(1, 2).flatten(0, 1)
        for a in F.linear(block.ln1(x), weights).split(sizes, -1)
    )
    z = causal_attention(q, k, v, [(QUARTER * i, QUARTER * (i + 1)) for i in quarters])
    x = quarters_of(x, quarters) + z.unflatten(0, (-1, n_heads)).transpose(1, 2).flatten(2) @ block.w_o
    return x + block.fc2(F.relu(block.fc1(block.ln2(x))))


@torch.inference_mode()
def answers(model: MyGPT, tokens: Tensor, targets: Tensor, batch: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(n,) whether greedy decoding of the last grid would be all right, and (n,) the probability that sampling it at
    temperature 1 would be.

    Both are exact without decoding: with the truth before each cell, all 100 arguments of the maximum are right if and
    only if greedy decoding is, and the product of the cells' probabilities is that of the whole grid.
    """
    model.eval()
    greedy, sampled = [], []
    for part in range(0, len(tokens), batch):
        rows = slice(part, part + batch)
        log_probs = model(tokens[rows])[:, -QUARTER + 1 :].float().log_softmax(-1)
        truth = targets[rows, -QUARTER + 1 :]
        greedy.append((log_probs.argmax(-1) == truth).all(1))
        sampled.append(log_probs.gather(-1, truth[..., None])[..., 0].double().sum(1).exp())
    return torch.cat(greedy).cpu().numpy(), torch.cat(sampled).cpu().numpy()
