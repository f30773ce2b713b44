"""`interp-kit study graphs`: runs the study of graph questions and writes its page."""

from pathlib import Path

from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.graphs.page import page
from interp_kit.studies.graphs.study import study


def main(path: str | Path = "reports/graphs.html", *, progress: bool = PROGRESS, jobs: int | None = None) -> Path:
    """Run the study on the shipped checkpoints and write the page. Returns its path."""
    path = page_path(path)
    return page(study(progress=progress, jobs=jobs)).write(path)
