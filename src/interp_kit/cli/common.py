"""What the commands share: how a model is named, and what is done with a result."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from interp_kit.core.result import AbstractResult
    from interp_kit.core.task import AbstractTask

MODEL_HELP = (
    "shipped name, planted name (boolean-direct, boolean-direct@3, induction), twin:NAME, untrained:NAME, directory,"
    " or hub id"
)
Model = Annotated[str, tyro.conf.arg(help=MODEL_HELP)]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every analysis."""

    task: str | None = None
    """task by name; default: the one that the model learnt"""
    json: Path | None = None
    """write the table as JSON records to this file ("-": standard output)"""
    save: Path | None = None
    """save the result to this folder (safetensors and JSON)"""
    device: str = "cpu"
    """torch device"""
    progress: bool = True
    """show a progress bar"""

    def finish(self, result: "AbstractResult", lines: Sequence[str] = ()) -> None:
        """Print the table, and write what was asked for."""
        from interp_kit.core.files import write_text

        frame = result.to_frame()
        rows = json.loads(frame.to_json(orient="records") or "[]")
        records = json.dumps({"config": dict(result.config), "rows": rows}, indent=2, default=str)
        if self.json is not None and str(self.json) == "-":
            print(records)
        else:
            print("\n".join([*lines, frame.to_string(index=False, float_format=lambda v: f"{v:.3f}", max_rows=60)]))
            print(result.caption())
        if self.json is not None and str(self.json) != "-":
            print(f"wrote {write_text(self.json, records + chr(10))}")
        if self.save is not None:
            print(f"saved {result.save(self.save)}")

    def open(self, name: str) -> tuple[Any, "AbstractTask"]:
        """The model and its task."""
        from interp_kit.recipes.zoo import load, task_of

        model = load(name, device=self.device)
        return model, task_of(model, self.task)
