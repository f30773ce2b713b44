"""`interp-kit report`: runs the boolean study and writes its page."""

from pathlib import Path

import numpy as np

from interp_kit.core.showing import PROGRESS
from interp_kit.playground.page import playground_path, write_playground
from interp_kit.registry.models import load
from interp_kit.reports.report import page_path
from interp_kit.studies.boolean.page import write_report
from interp_kit.studies.boolean.study import SEEDS, omitted_models, study


def main(
    path: str | Path = "reports/boolean.html",
    *,
    playground: str | Path | None = None,
    progress: bool = PROGRESS,
    jobs: int | None = None,
) -> Path:
    """Run the study on the shipped checkpoints and write the page. playground: where a page of the first model is
    written, which the findings link to. Returns the path of the report."""
    np.seterr(all="raise", under="ignore")
    path = page_path(path)
    there = None if playground is None else playground_path(playground)
    if there is not None and there.resolve() == path.resolve():
        raise ValueError(f"the report and the playground would be written to one path: {path}")
    found = study(held_out=omitted_models(), progress=progress, jobs=jobs)
    if there is not None:
        write_playground(load(SEEDS[0]), there)
    return write_report(found, path, there)
