"""Questions as data: a level, a target, what was observed and what is set."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from interp_kit.tasks.graphs.counterfactual import MECHANISMS

LEVELS = ("observational", "interventional", "counterfactual")
KINDS = (
    ("observational", None),
    ("interventional", None),
    ("counterfactual", "selectors"),
    ("counterfactual", "uniform"),
)


@dataclass(frozen=True)
class Question:
    """The distribution of `target` at one of three levels.

    given: what was observed (observational and counterfactual); set: what is set (interventional), or what the observed
    world is imagined to have had instead (counterfactual); mechanism: of counterfactuals, see `twin_factor`.

    Raises ValueError for an unknown level, or if it has what its level has not or lacks what it needs.
    """

    level: str
    target: str
    given: Mapping[str, int] = field(default_factory=dict)
    set: Mapping[str, int] = field(default_factory=dict)
    mechanism: str | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"the question's level is {self.level!r}: expected one of {', '.join(LEVELS)}")
        observes, sets = self.level != "interventional", self.level != "observational"
        for name, there, wanted in (("given", self.given, observes), ("set", self.set, sets)):
            if bool(there) != wanted:
                raise ValueError(
                    f"an {self.level} question has {name} = {dict(there)}: expected {'one or more' if wanted else 'no'}"
                    " variables with their values"
                )
        allowed = MECHANISMS if self.level == "counterfactual" else (None,)
        if self.mechanism not in allowed:
            raise ValueError(
                f"an {self.level} question has mechanism {self.mechanism!r}: expected {' or '.join(map(str, allowed))}"
            )

    def __str__(self) -> str:
        """In the field's notation; the world in which X were x is written as an index, `Y[X = x]`."""
        given, changed = (", ".join(f"{k} = {v}" for k, v in of.items()) for of in (self.given, self.set))
        if self.level == "observational":
            return f"P({self.target} | {given})"
        if self.level == "interventional":
            return f"P({self.target} | do({changed}))"
        return f"P({self.target}[{changed}] | {given})"
