"""The variables of a quiz: the latents that made it, what follows from them, and counterfactuals in one latent.

Inputs: `task` (index in TASKS) and `structure` (in STRUCTURES); `c0` … `c5`, the colours in the order of the rules (in
half_fill body and line of r0, of r1, of r2; in replace_color and detect `c3` is the added one); `direction`, the shared
discrete parameter; `A.r0` … `B.r2`, the rectangles of either half, by index in `rectangles()`. Classes that follow:
`step`, `growth`, `half`, `polarity` are the direction of translate, grow, half_fill and corners; `vertical` and
`horizontal` are translate's step by axis (0 up or left, 1 neither, 2 down or right); `A.touches1` … say of contact
whether r1 or r2 touches r0. Amounts that follow: `A.r0.i1` … the bounds of each rectangle, `A.changed` and `B.changed`
how many cells f changes. A class that a quiz does not have is -1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.grids import COLOURS
from interp_kit.tasks.culture.truth import changed
from interp_kit.tasks.culture.world import MOST_COLOURS, RULES, TASKS, Array, Worlds

_SIDES = ("A", "B")
_BOUNDS = ("i1", "j1", "i2", "j2")
_COLOURS = tuple(f"c{k}" for k in range(MOST_COLOURS))
_RECTANGLES = tuple(f"{side}.r{k}" for side in _SIDES for k in range(3))
_TOUCHES = tuple(f"{side}.touches{k}" for side in _SIDES for k in (1, 2))
_OF_DIRECTION = {"step": "translate", "growth": "grow", "half": "half_fill", "polarity": "corners"}

INPUTS = ("task", "structure", *_COLOURS, "direction", *_RECTANGLES)
CLASSES = (*_OF_DIRECTION, "vertical", "horizontal", *_TOUCHES)
AMOUNTS = (*(f"{name}.{bound}" for name in _RECTANGLES for bound in _BOUNDS), "A.changed", "B.changed")


def columns(worlds: Worlds, structure: Array) -> dict[str, Array]:
    """Variable -> (n,) values, for every name in INPUTS, CLASSES and AMOUNTS."""
    directed = np.array([rule.directions > 1 for rule in RULES])[worlds.task]
    found = {"task": worlds.task, "structure": structure}
    found |= {name: worlds.colours[:, k] for k, name in enumerate(_COLOURS)}
    found["direction"] = np.where(directed, worlds.direction, -1)
    pairs = [(side, k) for side in range(2) for k in range(3)]
    found |= {name: worlds.rectangles[:, *pair] for name, pair in zip(_RECTANGLES, pairs, strict=True)}
    for name, task in _OF_DIRECTION.items():
        found[name] = np.where(worlds.task == TASKS.index(task), worlds.direction, -1)
    steps = np.array(rect.STEPS)[found["step"]] + 1
    found["vertical"], found["horizontal"] = np.where(found["step"][:, None] >= 0, steps, -1).T
    for side, letter in enumerate(_SIDES):
        for k in (1, 2):
            touch = rect.touching()[worlds.rectangles[:, side, 0], worlds.rectangles[:, side, k]]
            found[f"{letter}.touches{k}"] = np.where(worlds.task == TASKS.index("contact"), touch, -1)
    for name in _RECTANGLES:
        found |= {f"{name}.{bound}": rect.rectangles()[found[name], at] for at, bound in enumerate(_BOUNDS)}
    found["A.changed"], found["B.changed"] = changed(worlds).sum(2).T
    return found


def worlds_of(labels: Mapping[str, Any]) -> Worlds:
    """The worlds that (n,) or single labels describe: those of a batch or of an example. Raises ValueError if one of
    the inputs is missing."""
    missing = [name for name in INPUTS if name not in labels]
    if missing:
        raise ValueError(f"no label {missing[0]!r}: a world is described by {', '.join(INPUTS)}")
    of = {name: np.atleast_1d(np.asarray(labels[name], np.int64)) for name in INPUTS}
    return Worlds(
        task=of["task"],
        colours=np.stack([of[name] for name in _COLOURS], axis=1),
        direction=np.maximum(of["direction"], 0),
        rectangles=np.stack([of[name] for name in _RECTANGLES], axis=1).reshape(-1, 2, 3),
    )


# Counterfactuals: one input changed --------------------------------------------------------------------------------


def parents(variable: str) -> tuple[str, ...]:
    """The inputs a change of which can change the variable and nothing that does not follow from it: the variable
    itself, the rectangle of a bound, …; a cell of a grid depends on colours, direction and rectangles."""
    if variable in INPUTS:
        return (variable,)
    if variable in (*_OF_DIRECTION, "vertical", "horizontal"):
        return ("direction",)
    if variable in _TOUCHES:
        return (f"{variable[0]}.r0", f"{variable[0]}.r{variable[-1]}")
    if variable.endswith(".changed"):
        return ("direction", *(f"{variable[0]}.r{k}" for k in range(3)))
    if variable in AMOUNTS:
        return (variable.rpartition(".")[0],)
    return (*_COLOURS, "direction", *_RECTANGLES)


def altered(
    worlds: Worlds, name: str, rng: np.random.Generator, tasks: Sequence[str] = TASKS, bound: str = ""
) -> Worlds:
    """The worlds with another value of one input, drawn at random; as they were where there is no other.

    A rectangle moves to any place that the other two leave free, or, with `bound` (i1, j1, i2, j2), in that bound
    alone. Another task keeps the rectangles and the colours that it needs, and draws what it lacks. Some rules refuse
    what comes out: see Worlds.accepted. The structure is not part of a world.
    """
    if name in _COLOURS:
        colours = worlds.colours.copy()
        k, new = _COLOURS.index(name), _random_true(_unused(colours), rng)
        colours[:, k] = np.where(colours[:, k] >= 0, new, -1)
        return worlds.changed(colours=colours)
    if name == "direction":
        values = np.array([rule.directions for rule in RULES])[worlds.task]
        return worlds.changed(direction=(worlds.direction + rng.integers(1, np.maximum(values, 2))) % values)
    if name in _RECTANGLES:
        return _elsewhere(worlds, *divmod(_RECTANGLES.index(name), 3), rng, bound)
    if name == "task":
        return _of_other_task(worlds, rng, tasks)
    return worlds


def _random_true(mask: NDArray[np.bool_], rng: np.random.Generator) -> Array:
    """(n,) a random column where each row of (n, k) is True; column 0 where none is."""
    return (mask * (1 - rng.random(mask.shape))).argmax(1)


def _unused(colours: Array) -> NDArray[np.bool_]:
    """(n, 11) the colours, white apart, that a quiz does not have."""
    free = ~(colours[:, :, None] == np.arange(COLOURS)).any(1)
    free[:, 0] = False
    return free


def _elsewhere(worlds: Worlds, side: int, k: int, rng: np.random.Generator, bound: str) -> Worlds:
    r = worlds.rectangles[:, side]
    first, second = (r[:, j] for j in range(3) if j != k)
    free = rect.disjoint()[first] & rect.disjoint()[second]
    if bound:
        kept = [at for at, name in enumerate(_BOUNDS) if name != bound]
        free &= (rect.rectangles()[None, :, kept] == rect.rectangles()[r[:, k], None][..., kept]).all(2)
    free[np.arange(len(r)), r[:, k]] = False
    rectangles = worlds.rectangles.copy()
    rectangles[:, side, k] = np.where(free.any(1), _random_true(free, rng), r[:, k])
    return worlds.changed(rectangles=rectangles)


def _of_other_task(worlds: Worlds, rng: np.random.Generator, tasks: Sequence[str]) -> Worlds:
    chosen = np.array([TASKS.index(task) for task in tasks])
    others = chosen[None] != worlds.task[:, None]
    task = np.where(others.any(1), chosen[_random_true(others, rng)], worlds.task)
    needs = np.array([rule.colours for rule in RULES])[task]
    colours = np.where(np.arange(MOST_COLOURS) < needs[:, None], worlds.colours, -1)
    for k in range(MOST_COLOURS):
        lacking = (k < needs) & (colours[:, k] < 0)
        colours[lacking, k] = _random_true(_unused(colours), rng)[lacking]
    direction = rng.integers(np.array([rule.directions for rule in RULES])[task])
    return worlds.changed(task=task, colours=colours, direction=direction)
