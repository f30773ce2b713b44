"""Learning curves of the card models: validation accuracy against prompts, by arm and seed, from their
`training.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from interp_kit.core.files import read_json, replacing
from interp_kit.core.program import ended
from interp_kit.reports.plotting import COLOURS, GRID, SOFT, new_axes
from interp_kit.studies.cards.recipe import FOLDER, Arm, arms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AIM = 0.95


def curve(arm: Arm, history: Sequence[Mapping[str, Any]], per_step: float) -> tuple[list[float], list[float]]:
    """Prompts read since initialisation, and validation accuracy, at each validation of an arm.

    Args:
        arm: The arm.
        history: Of its `training.json`.
        per_step: Prompts per step, on average over an epoch.
    """
    found = [(int(row["step"]), float(row["eval_accuracy"])) for row in history if "eval_accuracy" in row]
    before = sum(other.prompts for other in arms() if other.name == arm.start)
    return [before + step * per_step for step, _ in found], [accuracy for _, accuracy in found]


def plot_curves(folder: str | Path, ax: "Axes | None" = None) -> "Axes":
    """Validation accuracy (n = 400 deals) against prompts, one line per model in `folder`, one colour per arm.

    Raises:
        ValueError: The folder holds no model of the recipe.
    """
    ax = ax or new_axes(7.0, 4.0)
    kinds = list(dict.fromkeys(arm.kind for arm in arms()))
    shown: set[str] = set()
    for arm in arms():
        path = Path(folder) / arm.name / "training.json"
        if not path.exists():
            continue
        facts = read_json(path)
        read = facts["examples"] * facts["config"]["epochs"]
        x, y = curve(arm, facts["history"], read / facts["steps"])
        label = None if arm.kind in shown else arm.kind
        colour = COLOURS[kinds.index(arm.kind) % len(COLOURS)]
        ax.plot([value / 1000 for value in x], y, color=colour, linewidth=1, alpha=0.8, label=label)
        shown.add(arm.kind)
    if not shown:
        raise ValueError(f"{folder} holds no model of the recipe; name the folder {FOLDER!r} of the checkpoints")
    ax.axhline(AIM, color=SOFT, linewidth=0.8)
    ax.set(
        xlabel="thousand prompts read (small-n: n distinct ones, again and again)",
        ylabel="validation accuracy",
        ylim=(0, 1),
        title=f"SFT on the card game, one line per seed (n = 400 deals; line: {AIM})",
    )
    ax.grid(color=GRID)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw the learning curves of the card models."""

    models: Path = Path("checkpoints") / FOLDER
    """folder of the models"""
    out: Path = Path("docs/cards_sft.png")
    """PNG file"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""

    def work() -> None:
        from interp_kit.reports.plotting import png

        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.cards.curves")
        picture = png(plot_curves(options.models))
        with replacing(options.out) as aside:
            aside.write_bytes(picture)

    return ended("cards-curves", work)


if __name__ == "__main__":
    raise SystemExit(main())
