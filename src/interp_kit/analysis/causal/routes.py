"""Routes from a mediator to a target, and the verdict on which of them a model takes."""

import numpy as np

from interp_kit.core.config import listed
from interp_kit.core.pairs import PairBatch
from interp_kit.core.stats.intervals import FEWEST_OF_RATIO, Estimate, clustered_mean, of_all, wilson
from interp_kit.core.task import AbstractTask
from interp_kit.engine.metrics import logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel

SOLVED = 0.95  # of the inputs: below it a model does not compute the target, so there is no route to name
SHARED = 0.2  # of the recovery: a second route with more, or with less than its negative, is not passed by
FEWEST = FEWEST_OF_RATIO  # independent units of pairs: with fewer there is no interval
TOO_FEW, OPPOSED = "too few independent pairs", ", opposed by "
ROUTES = ("via token", "direct", "latent", "relayed")
SAYS = {
    "via token": "computes {target} from the token of {mediator} that stands in the text (route: via token)",
    "direct": "computes {target} directly from the text before {mediator}, not from {mediator} (route: direct)",
    "latent": "computes {target} from an internal {mediator}, at the place that predicts it (route: latent)",
    "relayed": "computes {target} from positions between {mediator} and {target} (route: relayed)",
    "mixed": "computes {target} by more than one route, some by {mediator} and some past it (verdict: mixed)",
    "none": "computes {target} by no route that these experiments can name (verdict: none)",
    TOO_FEW: "computes {target} by a route that cannot be named: too few pairs are independent",
}


def verdict_of(
    solved: Estimate,
    token: Estimate,
    routes: tuple[np.ndarray, np.ndarray, np.ndarray],
    latent: tuple[np.ndarray, ...],
    units: int,
) -> str:
    """routes: recovery of each of ROUTES, and between what it surely lies."""
    route, least, most = routes
    if solved.value < SOLVED:
        return "none"
    if units < FEWEST or np.isnan(least).any():
        return TOO_FEW
    opposed = OPPOSED + " and ".join(opposing) if (opposing := opposing_routes(most)) else ""
    best = int(np.argmax(route))
    name = ROUTES[best]
    if not least[best] > 0.5:
        return f"mixed{opposed}" if route.clip(min=0).sum() > 0.5 else "none"
    if (np.delete(least, best) > SHARED).any():
        return f"mixed{opposed}"
    by_token = token.value > 0.5
    if by_token != (name == "via token") and name != "relayed":
        return f"mixed{opposed}"
    if name == "latent" and not ((latent[0] > 0.5) & (latent[1] > 0.5)).any():
        return f"mixed{opposed}"
    return f"{name}{opposed}"


def said_of(verdict: str, mediator: str, target: str) -> str:
    """A verdict as a sentence about a model, without its subject."""
    route, opposed, against = verdict.partition(OPPOSED)
    return SAYS[route].format(mediator=mediator, target=target) + (f", opposed by {against}" if opposed else "")


def opposing_routes(high: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, end in zip(ROUTES, high, strict=True) if end < -SHARED)


def check_question(task: AbstractTask, mediator: str, target: str) -> None:
    """Raises ValueError unless the task has both names, and the mediator is a field that is answered before the
    target."""
    task.check_names(mediator, target)
    fields = [field.name for field in task.fields]
    if mediator == target:
        raise ValueError(f"mediator and target are both {target!r}: a mediator is another field, answered before")
    if mediator not in fields:
        kind = "an input" if mediator in task.inputs else "a variable"
        raise ValueError(
            f"mediator {mediator!r} is {kind} of {task.name}, but not a field: only the value of a field is written by"
            f" the model on the way to another; the fields are {listed(fields)}. For a variable that is never"
            " written, use interp_kit.interchange"
        )


def positions_by_route(pairs: PairBatch, mediator: str, target: str) -> dict[str, tuple[str, ...]]:
    """Route -> the positions before the target's prediction that belong to it."""
    batch = pairs.clean
    predicts, receiver = batch.field(mediator).predict, batch.field(target).predict
    order = [name for name in batch.positions if batch.positions[name][0] < batch.positions[receiver][0]]
    at = order.index(predicts)
    return {
        "via token": (mediator,),
        "direct": tuple(order[:at]),
        "latent": (predicts,),
        "relayed": tuple(name for name in order[at + 1 :] if name != mediator),
    }


def flips(model: HookedModel, pairs: PairBatch) -> Estimate:
    """Share of pairs whose answer moves from the clean to the corrupt one, among pairs answered rightly when clean. Its
    interval is over worlds where each stands in one pair, else over the independent units of pairs."""
    metric = logit_difference(pairs)
    before, after = (sweep(model, side, [], metric).baseline[0] for side in (pairs.clean, pairs.corrupt))
    right = before > 0
    n, whole = int(right.sum()), pairs.whole and bool(right.all())
    if not n:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, "worlds")
    moved, group = after[right] < 0, pairs.units()[right]
    if len(np.unique(group)) == n:
        return wilson(int(moved.sum()), n, of_all("worlds", whole))
    return clustered_mean(moved, group, of_all(f"independent units of {n} pairs", whole), (0.0, 1.0))
