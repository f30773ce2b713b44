"""Forward elimination of one compact question in fractions, with factor entries that the caller may set."""

import itertools
from collections.abc import Mapping
from fractions import Fraction

from interp_kit.tasks.graphs.compact import UNIT, Worlds
from interp_kit.tasks.graphs.structure import Structure

Factor = tuple[Fraction, ...]


def forward(worlds: Worlds, plan: Structure, override: Mapping[tuple[int, int], int]) -> list[Factor]:
    """The factor after each step for the only question of `worlds`, entries ordered as in `Solution.factors`.

    override: (step, entry) -> value in 1/32, put in place of what that step computes; later steps start from it.
    """
    parents, table = worlds.parents[0].tolist(), worlds.table[0].tolist()
    given = {int(worlds.x[0]): int(worlds.value[0])}
    live: list[int] = []
    factor: Factor = (Fraction(1),)
    steps: list[Factor] = []
    for step, variable in enumerate(v for v in plan.order[0].tolist() if v >= 0):
        after = [v for v in plan.live[0, step].tolist() if v >= 0]
        sums: dict[tuple[int, ...], Fraction] = {
            bits: Fraction(0) for bits in itertools.product((0, 1), repeat=len(after))
        }
        for bits in itertools.product((0, 1), repeat=len(live)):
            for own in (given[variable],) if variable in given else (0, 1):
                world = given | dict(zip(live, bits, strict=True)) | {variable: own}
                row = 0
                for parent in parents[variable]:
                    row = 2 * row + world[parent] if parent >= 0 else row
                one = Fraction(table[variable][row], 2)
                share = factor[_number(bits)] * (one if own else 1 - one)
                sums[tuple(world[v] for v in after)] += share
        entries = list(sums.values())
        for k in range(len(entries)):
            entries[k] = Fraction(override[step, k], UNIT) if (step, k) in override else entries[k]
        live, factor = after, tuple(entries)
        steps.append(factor)
    return steps


def _number(bits: tuple[int, ...]) -> int:
    return sum(bit << i for i, bit in enumerate(reversed(bits)))
