"""The activations of one site over a task: which examples, one vector a real token, how many distinct ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.harvest import harvest as read_sites
from interp_kit.engine.harvest_store import harvest_to
from interp_kit.engine.inputs import unpadded
from interp_kit.engine.sites import parse_activation
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel

ROWS = 64  # rows of one forward pass: logits over a full vocabulary are large
# Sites at which `Executor` lets a value be changed in place.
VISITED = ("embed", "resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
SAME = 1e-5  # relative difference up to which two vectors are one: above float32 noise


@dataclass(frozen=True, eq=False)
class Activations:
    """Every real token of every example at one site.

    hook: TransformerLens name; shape: axes after batch and pos; batch: the examples, training ones first;
    train: (batch,) True on training examples; vectors: (vector, d_in) heads flattened, in reading order of the real
    tokens; row: (vector,) the example of each; prefix: (vector,) equal for equal texts up to and including the token,
    at which a causal model has equal activations.
    """

    hook: str
    shape: tuple[int, ...]
    batch: TokenBatch
    train: Bool[Tensor, " batch"]
    vectors: Float[Tensor, "vector d_in"]
    row: Int[Tensor, " vector"]
    prefix: Int[Tensor, " vector"]

    @property
    def training(self) -> Bool[Tensor, " vector"]:
        """(vector,) True on the vectors of training examples."""
        return self.train[self.row]

    @property
    def unseen(self) -> Bool[Tensor, " vector"]:
        """(vector,) True on held-out vectors whose text up to there stands in no training example."""
        return ~torch.isin(self.prefix, self.prefix[self.training])

    def distinct(self) -> int:
        """Number of different vectors among the training examples, float noise apart. Equal prefixes count once.

        Vectors are one where they agree on several random directions, up to SAME of their root mean square length.
        """
        prefix, vectors = self.prefix[self.training].cpu().numpy(), self.vectors[self.training].cpu().double().numpy()
        rows = vectors[np.unique(prefix, return_index=True)[1]]
        close = SAME * np.sqrt((rows**2).sum(1).mean())
        group = np.zeros(len(rows), dtype=int)
        for direction in np.random.default_rng(0).normal(size=(8, rows.shape[1])):
            along = rows @ direction
            order = np.lexsort((along, group))
            parted = (np.diff(group[order]) > 0) | (np.diff(along[order]) > close)
            group[order] = np.concatenate([[0], np.cumsum(parted)])
        return int(group.max()) + 1

    def position_means(self) -> Float[Tensor, "vector d_in"]:
        """For each vector the mean of the training vectors at its named position, or of all where there are none."""
        named = torch.zeros_like(self.batch.tokens)
        for number, index in enumerate(self.batch.positions.values(), start=1):
            has = (index >= 0).nonzero()[:, 0]
            named[has, index[has]] = number
        name, training = named[self.batch.mask], self.training
        totals = self.vectors.new_zeros(len(self.batch.positions) + 1, self.vectors.shape[1])
        totals.index_add_(0, name[training], self.vectors[training])
        counts = torch.bincount(name[training], minlength=len(totals))[:, None]
        means = torch.where(counts > 0, totals / counts.clamp(min=1), self.vectors[training].mean(0))
        return means[name]


@overload
def split_examples(
    task: AbstractTask, held_out: float, limit: int, seed: int
) -> tuple[list[Example], list[Example]]: ...
@overload
def split_examples(task: TokenBatch, held_out: float, limit: int, seed: int) -> tuple[list[int], list[int]]: ...
def split_examples(
    task: AbstractTask | TokenBatch, held_out: float, limit: int, seed: int
) -> tuple[list[Any], list[Any]]:
    """Distinct examples to train on and to evaluate on, at most `limit` together, a share `held_out` for the second.

    A task that can be enumerated is divided at random, and so are the distinct rows of a batch, which are given by
    their numbers. Any other task is sampled twice, from two seeds, and what the training sample holds is dropped from
    the other. Raises ValueError if either side is left with fewer than two.
    """
    pool: list[Any] | None
    if isinstance(task, TokenBatch):
        pool = list({tuple(row): number for number, row in enumerate(_texts(task))}.values())
    else:
        try:
            pool = _distinct(task.enumerate())
        except ValueError:  # too many to list
            pool = None
    if pool is None:
        assert not isinstance(task, TokenBatch)
        count = round(limit * held_out)
        train = _distinct(task.sample(max(limit - count, 1), derive_seed(seed, "sae", "train examples")))
        known = {example.tokens for example in train}
        others = _distinct(task.sample(max(count, 1), derive_seed(seed, "sae", "held-out examples")))
        test = [example for example in others if example.tokens not in known]
    else:
        order = np.random.default_rng(derive_seed(seed, "sae", "split")).permutation(len(pool))[:limit]
        count = round(len(order) * held_out)
        train, test = [pool[i] for i in order[count:]], [pool[i] for i in order[:count]]
    if len(train) < 2 or len(test) < 2:
        raise ValueError(
            f"{source(task)}: {len(train)} distinct training and {len(test)} held-out examples (a share of {held_out:g}"
            f" of at most {limit}, without those trained on); both sides need two, so hold out a larger share, or draw"
            " fewer examples of a task that a sample exhausts"
        )
    return train, test


def _distinct(examples: list[Example]) -> list[Example]:
    return list({example.tokens: example for example in examples}.values())


def _texts(batch: TokenBatch) -> list[list[int]]:
    """The tokens of each row, without padding."""
    return [row[real].tolist() for row, real in zip(batch.tokens, batch.mask, strict=True)]


def source(task: AbstractTask | TokenBatch) -> str:
    """Origin of the examples, for results and messages: the name of a task, or "" for texts of your own."""
    return task.task if isinstance(task, TokenBatch) else task.name


def harvest(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    hook: str,
    train: list[Any],
    test: list[Any],
    *,
    progress: bool = PROGRESS,
) -> Activations:
    """`harvest_sites` of one hook."""
    return harvest_sites(model, task, (hook,), train, test, progress=progress)[hook]


def harvest_sites(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    hooks: Sequence[str],
    train: list[Any],
    test: list[Any],
    *,
    store: str | Path | None = None,
    progress: bool = PROGRESS,
) -> dict[str, Activations]:
    """Run the model up to the last hook on every example and keep the vectors of the real tokens, in float32.

    Args:
        model: What is run.
        task: Of the examples; or a batch.
        hooks: One or more.
        train: Examples of the task, or row numbers of the batch.
        test: The same, held out.
        store: Folder of shards that is written, or read if it holds this harvest already; None for memory alone.
        progress: Whether to show a bar.

    Returns:
        Activations per hook.

    Raises:
        ValueError: Texts do not fit the model, the model never calls a hook or it has no position axis, activations
            are nan or infinite, or the store holds another harvest.
    """
    if isinstance(task, TokenBatch):
        batch = task.take([*train, *test]).to(str(model.cfg.device))
    else:
        batch = task.batch([*train, *test], device=model.cfg.device)
    wanted = list(dict.fromkeys(hooks))
    if store is None:
        read = read_sites(model, batch, wanted, dtype=torch.float32, progress=progress)
    else:
        files = harvest_to(store, model, batch, wanted, dtype=torch.float32, progress=progress)
        read = {hook: files.load(hook).to(model.cfg.device) for hook in wanted}
    device = batch.tokens.device
    row = torch.arange(len(batch), device=device)[:, None].expand_as(batch.mask)[batch.mask]
    is_train = torch.arange(len(batch), device=device) < len(train)
    prefix = text_prefixes(batch)[batch.mask]
    return {
        hook: Activations(hook, tuple(found.shape[1:]), batch, is_train, found.flatten(1), row, prefix)
        for hook, found in read.items()
    }


def text_prefixes(batch: TokenBatch) -> Int[Tensor, "batch pos"]:
    """(batch, pos) a number for the text up to and including each token, the same for the same text."""
    tokens = batch.tokens.cpu().numpy()
    numbers, current, used = np.empty_like(tokens), np.zeros(len(tokens), dtype=tokens.dtype), 0
    for at in range(tokens.shape[1]):
        current = np.unique(np.stack([current, tokens[:, at]], 1), axis=0, return_inverse=True)[1].reshape(-1) + used
        used = int(current.max()) + 1
        numbers[:, at] = current
    return torch.from_numpy(numbers).to(batch.tokens.device)


def chunks(batch: TokenBatch) -> Iterator[TokenBatch]:
    """The batch in parts of ROWS rows."""
    for start in range(0, len(batch), ROWS):
        yield batch.take(range(start, min(start + ROWS, len(batch))))


@on_model()
def answer_cross_entropy(
    model: HookedModel, activations: Activations, replacement: Float[Tensor, "vector d_in"] | None = None
) -> Float[np.ndarray, " batch"]:
    """(batch,) mean over the answer fields of -log p(true token), with `replacement` written at the site.

    replacement: one vector for each of `activations.vectors`; None leaves the model as it is. Padding is not touched.
    """
    values, run = [], _runner(model, activations.hook)
    with torch.no_grad():
        for start, part in zip(range(0, len(activations.batch), ROWS), chunks(activations.batch), strict=True):
            write = None
            if replacement is not None:
                inside = (activations.row >= start) & (activations.row < start + ROWS)
                write = _writer(part.mask, replacement[inside].unflatten(1, activations.shape))
            values.append(_field_loss(run(part.tokens, write), part))
    return torch.cat(values).double().cpu().numpy()


Write = Callable[[Tensor], Tensor]


def _runner(model: HookedModel, hook: str) -> Callable[[Tensor, Write | None], Tensor]:
    """A function that gives the logits of (batch, pos) texts with what is written at the site: by `Executor` if it
    computes the model and passes by the site, else by the model itself."""
    site, layer = parse_activation(hook)
    try:
        executor = Executor(model) if site in VISITED else None
    except Unsupported:
        executor = None

    def hooked(tokens: Tensor, write: Write | None) -> Tensor:
        hooks = [] if write is None else [(hook, lambda activation, hook: write(activation))]
        return model.run_with_hooks(tokens, fwd_hooks=hooks, **unpadded(model, tokens))

    def executed(tokens: Tensor, write: Write | None) -> Tensor:
        assert executor is not None

        def visit(name: str, at: int, value: Tensor) -> None:
            if write is not None and (name, at) == (site, layer or 0):
                value.copy_(write(value))

        return executor.prefill(tokens, every=True, capacity=tokens.shape[1], visit=visit)

    return hooked if executor is None else executed


def _writer(mask: Tensor, new: Tensor) -> Write:
    def write(activation: Tensor) -> Tensor:
        activation = activation.expand(len(mask), *activation.shape[1:]).clone()
        activation[mask] = new.to(activation.dtype)
        return activation

    return write


def _field_loss(logits: Float[Tensor, "batch pos vocab"], batch: TokenBatch) -> Float[Tensor, " batch"]:
    """(batch,) cross-entropy averaged over the fields that a row has."""
    total, count = torch.zeros(2, len(batch), device=logits.device, dtype=torch.float32).unbind()
    for field in batch.fields:
        at = batch.positions.get(field.predict, torch.full_like(batch.prompt_length, -1))
        rows = (at >= 0).nonzero()[:, 0]
        log_p = logits[rows, at[rows]].float().log_softmax(-1)
        total[rows] -= log_p.gather(1, batch.answer[field.name][rows, None])[:, 0]
        count[rows] += 1
    if (count == 0).any():
        raise ValueError(f"row {int((count == 0).nonzero()[0])} of the batch has no answer field")
    return total / count
