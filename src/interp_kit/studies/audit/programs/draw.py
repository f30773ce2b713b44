"""Random programs: boolean equations that nobody here wrote, and the mechanism that each is compiled to."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from interp_kit.core.identity import derive_seed
from interp_kit.models.compiler import compile_task
from interp_kit.models.compiler.plan import Mechanism
from interp_kit.models.planted import ground_truth
from interp_kit.tasks.boolean import BooleanTask

if TYPE_CHECKING:
    from interp_kit.models.hooked_model import HookedTransformer

INPUTS, EQUATIONS, DEPTH = (3, 5), (2, 4), 3  # fewest and most; operators above one another, at most
WIDEST = 64  # d_model, at most
CELLS: tuple[tuple[Mechanism, bool, bool], ...] = tuple(product(get_args(Mechanism), (True, False), (False, True)))
NAMES = "ABCDE"


@dataclass(frozen=True)
class Program:
    """A task, and how it is compiled. Programs of consecutive numbers go through CELLS in turn."""

    number: int
    seed: int
    equations: tuple[tuple[str, str], ...]
    inputs: str
    mechanism: Mechanism
    layer_norm: bool
    superposed: bool

    @property
    def task(self) -> BooleanTask:
        """The equations as a task."""
        return BooleanTask(dict(self.equations), self.inputs)

    def compiled(self) -> "HookedTransformer":
        """The model."""
        return compile_task(
            self.task, self.mechanism, layer_norm=self.layer_norm, superposed=self.superposed, seed=self.seed
        )

    @property
    def cell(self) -> str:
        """Its mechanism in words."""
        return f"{self.mechanism}{', superposed' * self.superposed}{', no LayerNorm' * (not self.layer_norm)}"


def draw(number: int, seed: int = 0) -> Program:
    """The program of a number: equations are drawn until the last that reads an earlier one is changed by it alone, in
    some minimal pair of the two, and the model is at most WIDEST wide."""
    mechanism, layer_norm, superposed = CELLS[number % len(CELLS)]
    own = derive_seed(seed, f"program {number}") % 2**31
    rng = np.random.default_rng(own)
    while True:
        inputs = NAMES[: rng.integers(INPUTS[0], INPUTS[1] + 1)]
        equations = _equations(inputs, int(rng.integers(EQUATIONS[0], EQUATIONS[1] + 1)), rng)
        program = Program(number, own, equations, inputs, mechanism, layer_norm, superposed)
        if _asks(program):
            return program


def _equations(inputs: str, n: int, rng: np.random.Generator) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for i in range(n):
        names = [*inputs, *(name for name, _ in found)]
        found.append((f"new{inputs[i % len(inputs)]}{i // len(inputs) or ''}", _expression(names, DEPTH, rng)))
    return tuple(found)


def _expression(names: Sequence[str], depth: int, rng: np.random.Generator) -> str:
    if depth == 0 or (depth < DEPTH and rng.random() < 0.4):
        return str(rng.choice(list(names)))
    sign = str(rng.choice(["and", "or", "^", "not"]))
    if sign == "not":
        return f"(1 ^ {_expression(names, depth - 1, rng)})"
    return f"({_expression(names, depth - 1, rng)} {sign} {_expression(names, depth - 1, rng)})"


def _asks(program: Program) -> bool:
    """True if the task's question is about an earlier output that changes the target by itself, and truth is known."""
    task = program.task
    if task.question is None or task.question[0] in program.inputs:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that the variable alone never changes the target
        try:
            model: Any = program.compiled()
            ground_truth(model)
        except (UserWarning, ValueError):
            return False
    return model.cfg.d_model <= WIDEST
