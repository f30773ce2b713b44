"""`interp-kit audit`: runs the audit and writes its page."""

from pathlib import Path

from interp_kit.core.folders import check_folder
from interp_kit.core.result import KIND as RESULT
from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.audit.study import audit


def main(out: Path, *, jobs: int | None = None, progress: bool = PROGRESS) -> Path:
    """Run the whole audit and write its page to `out`, its tables and figures into folders beside it."""
    from interp_kit.studies.audit.page import page

    out = page_path(out)
    tables = check_folder(out.with_name(f"{out.stem}_tables"), RESULT)
    result = audit(jobs=jobs, progress=progress)
    written = page(result).write(out)
    result.save(tables)
    return written
