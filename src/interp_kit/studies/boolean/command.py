"""`interp-kit report`: runs the boolean study and writes its page."""

from pathlib import Path

import numpy as np

from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.boolean.page import write_report
from interp_kit.studies.boolean.study import omitted_models, study


def main(path: str | Path = "reports/boolean.html", *, progress: bool = PROGRESS, jobs: int | None = None) -> Path:
    """Run the study on the shipped checkpoints and write the page. Returns its path."""
    np.seterr(all="raise", under="ignore")
    path = page_path(path)
    return write_report(study(held_out=omitted_models(), progress=progress, jobs=jobs), path)
