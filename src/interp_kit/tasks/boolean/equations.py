"""Structural equations as data: the one definition that generator, truth, labels and counterfactuals read.

A structural causal model in the sense of Pearl (2009): every endogenous variable has parents and a function of them.
Expressions are parsed with `ast` and walked; nothing of a user's text is ever evaluated as Python.
"""

import ast
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_kit.core.config import listed
from interp_kit.core.task import SAMPLE

INPUTS = ("A", "B", "C", "D", "E")
EQUATIONS: dict[str, str] = {
    "newA": "A ^ C",
    "newB": "not D",
    "newC": "B and E",
    "newD": "A or newB",
}

# Besides variables, positions of the text bear these names.
RESERVED = ("sum1", "sum2", "end", "eos")
MAX_DEPTH = 100

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Equation:
    """name = expression of its parents. `tree` is the checked syntax tree."""

    name: str
    expression: str
    parents: tuple[str, ...]
    tree: ast.expr

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The variable from its parents' values (integer arrays of one shape)."""
        return _evaluate(self.tree, values)


def parse_equations(lines: Sequence[str]) -> dict[str, str]:
    """Equations written as `newA=A ^ C`, in their order. Raises ValueError for a line without `=`, without a name or an
    expression, and for a name that is there twice."""
    found: dict[str, str] = {}
    for line in lines:
        name, equal, expression = (part.strip() for part in line.partition("="))
        if not (equal and name and expression):
            raise ValueError(f"equation {line!r} has no name and expression; expected one as in 'newA=A ^ C'")
        if name in found:
            raise ValueError(f"equation {line!r}: {name} is already {found[name]!r}; give each output once")
        found[name] = expression
    return found


def parse(name: str, expression: str, known: Sequence[str]) -> Equation:
    """Parse one Boolean expression: `and or not`, `& | ^ ~`, parentheses, 0 and 1, and the names in `known`.

    Raises ValueError naming the equation and the part that is not allowed.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        shown = expression if len(expression) < 80 else f"{expression[:79]}…"
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deeply"
        raise ValueError(f"equation {name!r}: cannot parse {shown!r}: {reason}") from error
    parents: list[str] = []
    _check(name, tree, set(known), parents)
    return Equation(name, expression, tuple(dict.fromkeys(parents)), tree)


def _check(name: str, node: ast.expr, known: set[str], parents: list[str], depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"equation {name!r}: nested too deeply (over {MAX_DEPTH} operators)")
    match node:
        case ast.Name(id=parent):
            if parent not in known:
                raise ValueError(
                    f"equation {name!r}: unknown variable {parent!r}; before it stand {', '.join(sorted(known))}"
                )
            parents.append(parent)
        case ast.Constant(value=0 | 1) if type(node.value) is int:  # True and 1.0 are equal to 1.
            pass
        case ast.BoolOp(values=parts):
            for part in parts:
                _check(name, part, known, parents, depth + 1)
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=part):
            _check(name, part, known, parents, depth + 1)
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.BitXor(), right=right):
            _check(name, left, known, parents, depth + 1)
            _check(name, right, known, parents, depth + 1)
        case _:
            raise ValueError(f"equation {name!r}: {ast.unparse(node)!r} is not allowed (use and or not & | ^ ~ 0 1)")


def _evaluate(node: ast.expr, values: Mapping[str, np.ndarray]) -> np.ndarray:
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return np.asarray(int(value))  # pyright: ignore[reportArgumentType]
        case ast.BoolOp(op=op, values=parts):
            function = np.bitwise_and if isinstance(op, ast.And) else np.bitwise_or
            return np.asarray(function.reduce(np.broadcast_arrays(*(_evaluate(part, values) for part in parts))))
        case ast.UnaryOp(operand=part):
            return np.asarray(1 - _evaluate(part, values))
        case ast.BinOp(left=left, op=op, right=right):
            function = {ast.BitAnd: np.bitwise_and, ast.BitOr: np.bitwise_or, ast.BitXor: np.bitwise_xor}[type(op)]  # pyright: ignore[reportArgumentType]
            return np.asarray(function(_evaluate(left, values), _evaluate(right, values)))
    raise AssertionError(f"unchecked node {ast.dump(node)}")


@dataclass(frozen=True)
class StructuralModel:
    """Inputs, Boolean equations in order, and the two sums that every example ends with.

    inputs: exogenous bits; equations: endogenous bits in the order in which they are written, each a function of what
    stands before it; sum1 = number of ones among the inputs, sum2 = among the outputs.
    """

    inputs: tuple[str, ...]
    equations: tuple[Equation, ...]

    @classmethod
    def define(cls, equations: Mapping[str, str] = EQUATIONS, inputs: Sequence[str] = INPUTS) -> "StructuralModel":
        """Parse {name: expression}. Raises ValueError for a bad expression, a duplicate or reserved name, or no
        equation."""
        if not inputs or not equations:
            raise ValueError(
                f"inputs {list(inputs)}, equations {dict(equations)}: a structural model needs at least one input and"
                " one equation"
            )
        known: list[str] = []
        for name in (*inputs, *equations):
            if name in known or name in RESERVED:
                raise ValueError(f"variable {name!r} is defined twice, or its name is reserved")
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"variable {name!r} is not an identifier")
            known.append(name)
        parsed = []
        for i, (name, expression) in enumerate(equations.items()):
            parsed.append(parse(name, expression, known[: len(inputs) + i]))
        return cls(tuple(inputs), tuple(parsed))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The endogenous bits."""
        return tuple(equation.name for equation in self.equations)

    @property
    def variables(self) -> tuple[str, ...]:
        """Inputs, outputs, sum1, sum2."""
        return (*self.inputs, *self.outputs, "sum1", "sum2")

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Variable -> its direct causes."""
        table = {equation.name: equation.parents for equation in self.equations}
        return table | {"sum1": self.inputs, "sum2": self.outputs}

    @property
    def question(self) -> tuple[str, str] | None:
        """(mediator, target): the last equation that reads another one, and the first output that it reads; if none
        does, the last that reads an input. None if all are constants."""
        for causes in (self.outputs, self.inputs):
            for equation in reversed(self.equations):
                if read := [name for name in equation.parents if name in causes]:
                    return read[0], equation.name
        return None

    def all_inputs(self) -> np.ndarray:
        """(2**n, n) every input, counting up in binary with the last bit fastest. Raises ValueError for over 16
        inputs."""
        n = len(self.inputs)
        if n > 16:
            raise ValueError(f"2**{n} inputs are too many to enumerate (16 bits at most): {SAMPLE}")
        return (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1

    def solve(self, inputs: np.ndarray, do: Mapping[str, int] | None = None) -> Values:
        """Every variable's value for each row of inputs, under interventions do(variable = value).

        inputs: (batch, n) of 0 and 1. Raises ValueError for another shape, another value, or a name or value in `do`
        that the model does not have.
        """
        inputs = np.asarray(inputs)
        if inputs.ndim != 2 or inputs.shape[1] != len(self.inputs):
            raise ValueError(f"inputs of shape {inputs.shape}, expected (batch, {len(self.inputs)})")
        if not np.isin(inputs, (0, 1)).all():
            raise ValueError("inputs must be 0 or 1")
        do = {} if do is None else do
        for name, value in do.items():
            if name not in self.variables:
                raise ValueError(f"no variable {name!r}; there are {listed(self.variables, name)}")
            top = len(self.parents[name]) if name in ("sum1", "sum2") else 1
            if value not in range(top + 1):
                raise ValueError(f"{name} cannot be {value}; it is one of 0 to {top}")
        values: Values = {}
        for i, name in enumerate(self.inputs):
            values[name] = _column(do[name] if name in do else inputs[:, i], len(inputs))
        for equation in self.equations:
            values[equation.name] = _column(do[equation.name] if equation.name in do else equation(values), len(inputs))
        for name, parents in (("sum1", self.inputs), ("sum2", self.outputs)):
            total = np.sum([values[parent] for parent in parents], axis=0)
            forced = do.get(name)
            values[name] = _column(total if forced is None else forced, len(inputs))
        return values


def _column(value: np.ndarray | int, n: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=np.int64), (n,))
