"""Routes from a mediator to a target, and the verdict on which of them a model takes."""

import numpy as np

from interp_kit.core.stats.intervals import FEWEST_OF_RATIO, Estimate

SOLVED = 0.95  # of the inputs: below it a model does not compute the target, so there is no route to name
SHARED = 0.2  # of the recovery: a second route with more, or with less than its negative, is not passed by
FEWEST = FEWEST_OF_RATIO  # independent units of pairs: with fewer there is no interval
TOO_FEW, OPPOSED = "too few independent pairs", ", opposed by "
ROUTES = ("via token", "direct", "latent", "relayed")


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


def opposing_routes(high: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, end in zip(ROUTES, high, strict=True) if end < -SHARED)
