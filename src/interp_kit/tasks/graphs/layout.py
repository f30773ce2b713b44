"""The text of compact questions: which token stands at which named position.

    a - - 1/2 - - -   b a - 0 1 - -   …   do a 1 ? e =   16/32 <end>

Five slots of seven tokens: name, parents, table (P = 1 for parents 0 0, 0 1, 1 0, 1 1; `-` for what is not there). The
trace form writes the factor after each step of elimination between `=` and the answer: the variable taken, the live
variables, the entries.
"""

import numpy as np

from interp_kit.tasks.graphs.compact import UNIT, Solution, Worlds
from interp_kit.tasks.graphs.shapes import NODES
from interp_kit.tasks.graphs.structure import AXES

NAMES = "abcde"
ABSENT, HALVES, KINDS, ASKED, EQUALS, AMOUNTS = NODES, NODES + 1, NODES + 4, NODES + 6, NODES + 7, NODES + 8
END = AMOUNTS + UNIT + 1
VOCABULARY = (
    *NAMES, "-", "0", "1/2", "1", "do", "see", "?", "=", *(f"{k}/{UNIT}" for k in range(UNIT + 1)), "<end>",
)  # fmt: skip
SLOT = tuple(
    name for v in NAMES for name in (v, f"{v}.pa1", f"{v}.pa2", *(f"{v}.t{row}" for row in range(4)))
)  # fmt: skip
QUERY = ("kind", "X", "x", "?", "Y", "=")
PROMPT = (*SLOT, *QUERY)
STEP_AXES = tuple((step, axes) for step, axes in enumerate(AXES))
TRACE = tuple(
    f"s{step + 1}{part}"
    for step, axes in STEP_AXES
    for part in ("", *(f".l{axis + 1}" for axis in range(axes)), *(f".f{k}" for k in range(2**axes)))
)


def slot_tokens(worlds: Worlds) -> np.ndarray:
    """(n, 35) the tokens of the graph."""
    n = len(worlds)
    names = np.broadcast_to(np.arange(NODES)[None, :, None], (n, NODES, 1))
    parents = np.where(worlds.parents < 0, ABSENT, worlds.parents)
    table = np.where(worlds.table < 0, ABSENT, HALVES + worlds.table)
    return np.concatenate([names, parents, table], axis=2).reshape(n, len(SLOT))


def query_tokens(worlds: Worlds) -> np.ndarray:
    """(n, 6) the tokens of the question."""
    fixed = np.ones(len(worlds), dtype=int)
    given = HALVES + 2 * worlds.value
    columns = [KINDS + worlds.kind, worlds.x, given, fixed * ASKED, worlds.y, fixed * EQUALS]
    return np.stack(columns, axis=1)


def trace_values(solution: Solution) -> np.ndarray:
    """(n, 39) the value at each position of TRACE: a variable's number or an amount in 1/32, -1 for none."""
    plan, columns = solution.structure, []
    for step, axes in STEP_AXES:
        columns += [plan.order[:, step, None], plan.live[:, step, :axes], solution.factors[:, step, : 2**axes]]
    return np.concatenate(columns, axis=1)


AMOUNT_AT = np.array([".f" in name for name in TRACE])  # Positions of TRACE that hold amounts, not variables.


def trace_tokens(values: np.ndarray) -> np.ndarray:
    """Token ids of `trace_values`."""
    return np.where(values < 0, ABSENT, np.where(AMOUNT_AT, AMOUNTS + values, values))
