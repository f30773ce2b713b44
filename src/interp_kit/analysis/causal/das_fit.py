"""Fitting the subspace of distributed alignment search: pairs split by their inputs, and one cell (site, layer,
position) of a network, from which on the layers are run again, with gradients to the subspace's basis alone.
"""

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_kit.analysis.causal.counterfactual import interchanges
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask
from interp_kit.engine.inputs import unpadded
from interp_kit.engine.sites import hook_name
from interp_kit.models.hooked_model import HookedModel

SPLITS = 50  # drawn before a seed is given up because one side has no pair
ENOUGH = 0.01  # nats
READ = 0.2  # of the strongest: a direction that the answer's gradient has less of is not read


@dataclass(frozen=True, eq=False)
class Trials:
    """Interchanges as two batches. right: (pair,) number of the candidate that the causal model answers; changes:
    (pair,) False for controls; inputs: how many distinct examples they were drawn from."""

    base: TokenBatch
    source: TokenBatch
    target: str
    right: Int[Tensor, " pair"]
    changes: Bool[Tensor, " pair"]
    inputs: int

    def shares(self, right: Bool[Tensor, " pair"]) -> tuple[float, float]:
        """Share of right answers among the changed pairs and among the controls, nan where there are none."""
        return float(right[self.changes].float().mean()), float(right[~self.changes].float().mean())

    def arbitrary(self, seed: int) -> "Trials | None":
        """The same pairs of texts, asked for a variable that no model can hold: a bit drawn for each text. Where the
        two bits differ another candidate must be answered, else the base's own stays. None if all pairs, or none, are
        changed."""
        own = torch.tensor(self.base.field(self.target).candidates, device=self.right.device)
        own = (self.base.answer[self.target][:, None] == own).int().argmax(1)
        bits = [
            torch.tensor([derive_seed(seed, "das", "arbitrary", text) % 2 for text in side.tokens.tolist()])
            for side in (self.base, self.source)
        ]
        changes = (bits[0] != bits[1]).to(self.changes.device)
        if bool(changes.all()) or not bool(changes.any()):
            return None
        number = len(self.base.field(self.target).candidates)
        return replace(self, right=torch.where(changes, (own + 1) % number, own), changes=changes)


def split(
    task: AbstractTask, variable: str, target: str, held_out: float, limit: int, seed: int, device: str | torch.device
) -> tuple[Trials, Trials]:
    """Inputs in two parts by `seed`, and the interchanges within each: to fit on, and held out.

    Raises ValueError if no split leaves pairs on both sides, or for what no split could fix (an unknown name).
    """
    pool = task.pool(seed)
    interchanges(task, variable, target, pool=pool, limit=1, seed=seed)  # says what is wrong with the whole pool
    candidates = list(task.field(target).candidates)
    count = min(max(2, round(held_out * len(pool))), len(pool) - 2)
    for turn in range(SPLITS):
        generator = torch.Generator().manual_seed(derive_seed(seed, "das", "split", turn))
        order = torch.randperm(len(pool), generator=generator).tolist()
        sides = []
        for rows in (order[count:], order[:count]):
            try:
                changed, control = interchanges(
                    task, variable, target, pool=[pool[i] for i in sorted(rows)], limit=limit, seed=seed
                )
            except ValueError:
                break
            both = [*changed, *control]
            sides.append(
                Trials(
                    base=task.batch([row.base for row in both], device),
                    source=task.batch([row.source for row in both], device),
                    target=target,
                    right=torch.tensor([candidates.index(row.answer) for row in both], device=device),
                    changes=torch.arange(len(both), device=device) < len(changed),
                    inputs=len(rows),
                )
            )
        if len(sides) == 2:
            return sides[0], sides[1]
    raise ValueError(
        f"{task.name}: with {count} of {len(pool)} inputs held out, do({variable}) changes {target!r} in pairs of both"
        f" sides in none of {SPLITS} splits"
    )


class Cell:
    """One place of a network on given pairs. old, new: (pair, d) the activation there of base and source.

    Raises ValueError if the position stands elsewhere in base and source.
    """

    def __init__(self, model: HookedModel, trials: Trials, site: str, layer: int, position: str) -> None:
        base, source = trials.base, trials.source
        self.model, self.trials, self.name = model, trials, hook_name(site, layer)
        self.rows = torch.arange(len(base), device=base.tokens.device)
        self.at = base.position(base.field(trials.target).predict)
        self.where = base.position(position)
        if not torch.equal(source.position(position), self.where):
            raise ValueError(f"{site} layer={layer}: position {position!r} stands elsewhere in the source")
        self.candidates = torch.tensor(base.field(trials.target).candidates, device=base.tokens.device)
        # the residual stream itself is edited in place of a hook, so that its own layer need not run again
        self.direct = site in ("resid_pre", "resid_post")
        self.start = layer + (site == "resid_post")
        first = self.name if self.direct else hook_name("resid_pre", layer)
        end = 1 + int(torch.maximum(self.at, self.where).max())  # nothing after the prediction is seen by it
        with torch.no_grad():
            runs = [self._cache(side.tokens[:, :end], {self.name, first}) for side in (base, source)]
        self.before = runs[0][first]
        self.old, self.new = (run[self.name][self.rows, self.where] for run in runs)

    def _cache(self, tokens: Tensor, names: set[str]) -> dict[str, Tensor]:
        _, cache = self.model.run_with_cache(
            tokens, names_filter=list(names), return_type=None, **unpadded(self.model, tokens)
        )
        return {name: cache[name] for name in names}

    def logits(self, value: Float[Tensor, "pair d"]) -> Float[Tensor, "pair candidate"]:
        """Of the target's candidates, with `value` written at the cell."""

        def write(activation: Tensor, hook: object = None) -> Tensor:
            return activation.index_put((self.rows, self.where), value.to(activation.dtype))

        if self.direct:
            found = self.model(write(self.before), start_at_layer=self.start)
        else:
            found = self.model.run_with_hooks(self.before, start_at_layer=self.start, fwd_hooks=[(self.name, write)])
        return found[self.rows, self.at][:, self.candidates].float()

    def axes(self, span: str) -> Float[Tensor, "d rank"]:
        """Orthonormal columns: all of the site's ("site"), or those in which these activations differ ("data")."""
        if span == "site":
            return torch.eye(self.old.shape[1], device=self.old.device, dtype=torch.float32)
        seen = torch.cat([self.old, self.new]).float()
        _, size, axes = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        return axes[size > 1e-4 * size.max().clamp(min=1e-30)].T

    def swapped(self, basis: Float[Tensor, "d k"]) -> Float[Tensor, "pair d"]:
        """The base's activation with the source's coordinates in the span of orthonormal columns."""
        old, new = self.old.float(), self.new.float()
        return old + (new - old) @ basis @ basis.T

    def shares(self, basis: Float[Tensor, "d k"], along: Float[Tensor, "d k"] | None = None) -> tuple[float, float]:
        """Share of changed pairs, and of controls, that are answered as the causal model does. along: orthonormal
        directions in which the change of the coordinates is written, by default those of the basis itself."""
        with torch.no_grad():
            change = (self.new.float() - self.old.float()) @ basis
            written = self.old.float() + change @ (basis if along is None else along).T
            return self.trials.shares(self.logits(written).argmax(-1) == self.trials.right)

    def asked(self, trials: Trials) -> "Cell":
        """The same cell on the same texts, asked for other answers."""
        other = copy.copy(self)
        other.trials = trials
        return other

    def read(self, basis: Float[Tensor, "d k"]) -> Float[Tensor, "d read"]:
        """Orthonormal directions that the answer is read from: those of which the gradients of the right candidate's
        lead hold at least READ of the strongest, over base, halfway and end of the swap of the subspace and of the
        whole activation. They span the row space of all that stands downstream, as far as these pairs show it."""
        rows, gradients = torch.arange(len(self.trials.right), device=self.old.device), []
        old, new = self.old.float(), self.new.float()
        with torch.enable_grad():
            for end in (self.swapped(basis), new):
                for share in (0.0, 0.5, 1.0):
                    value = torch.lerp(old, end, share).detach().requires_grad_()
                    logits = self.logits(value)
                    rival = logits.scatter(1, self.trials.right[:, None], float("-inf")).amax(1)
                    lead = (logits[rows, self.trials.right] - rival).sum()
                    gradients += torch.autograd.grad(lead, [value])
        _, size, axes = torch.linalg.svd(torch.cat(gradients), full_matrices=False)
        return axes[size > READ * size.max().clamp(min=1e-30)].T

    def loss(self, basis: Float[Tensor, "d k"]) -> Float[Tensor, ""]:
        """Mean cross-entropy of the right candidate over changed pairs, plus that over controls."""
        each = F.cross_entropy(self.logits(self.swapped(basis)), self.trials.right, reduction="none")
        parts = [each[part].mean() for part in (self.trials.changes, ~self.trials.changes) if bool(part.any())]
        return torch.stack(parts).sum()


def parts(
    basis: Float[Tensor, "d k"], axes: Float[Tensor, "d n"]
) -> tuple[Float[Tensor, "d in"], Float[Tensor, "d out"]]:
    """Orthonormal columns that span the basis's components within the span of orthonormal `axes`, and outside of it."""
    within = axes @ (axes.T @ basis)
    found = []
    for part in (within, basis - within):
        axis, size, _ = torch.linalg.svd(part, full_matrices=False)
        found.append(axis[:, size > 1e-3])
    return found[0], found[1]


def orthonormal(free: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Orthonormal columns of the same span."""
    return torch.linalg.qr(free).Q


def fit(
    cell: Cell, axes: Float[Tensor, "d rank"], free: Float[Tensor, "rank k"], steps: int, learning_rate: float
) -> Float[Tensor, "d k"]:
    """The basis, within the span of orthonormal `axes`, that minimises the cell's loss, by Adam from the span of
    `axes @ free`. Only `free` gets a gradient."""
    with torch.enable_grad():
        free = free.clone().requires_grad_()
        optimiser = torch.optim.Adam([free], lr=learning_rate)
        for _ in range(steps):
            loss = cell.loss(axes @ orthonormal(free))
            if float(loss.detach()) < ENOUGH:
                break
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimiser.step()
    return axes @ orthonormal(free.detach())


def first_basis(width: int, k: int, seed: int, *names: object) -> Float[Tensor, "d k"]:
    """(width, k) normal numbers, whose span is a uniformly random subspace."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "das", "basis", *names))
    return torch.randn(width, k, generator=generator, dtype=torch.float32)
