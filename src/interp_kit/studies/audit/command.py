"""`interp-kit audit`: runs the audit, on planted models or on compiled programs, and writes its page."""

from pathlib import Path

from interp_kit.core.folders import check_folder
from interp_kit.core.result import KIND as RESULT
from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.audit.programs.run import run, works
from interp_kit.studies.audit.study import audit


def main(
    out: Path,
    *,
    programs: int = 0,
    trained: int = 0,
    seed: int = 0,
    jobs: int | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Run the whole audit and write its page to `out`, its tables and figures into folders beside it.

    Args:
        out: The page.
        programs: Number of random programs to compile and audit; 0 for the planted models.
        trained: Number of them of which a network is trained too.
        seed: Of the programs.
        jobs: Number of processes.
        progress: Whether to show a bar.

    Returns:
        The page. Scores of programs are kept in `<out>_networks/`, one file per network, and are not computed again.

    Raises:
        ValueError: trained is more than programs, or given without.
    """
    from interp_kit.studies.audit.page import page
    from interp_kit.studies.audit.programs.page import page as programs_page
    from interp_kit.studies.audit.programs.result import gather

    out = page_path(out)
    tables = check_folder(out.with_name(f"{out.stem}_tables"), RESULT)
    if programs == 0:
        if trained:
            raise ValueError(f"trained is {trained}, and programs 0: networks are trained on programs")
        result = audit(jobs=jobs, progress=progress)
        written = page(result).write(out)
    else:
        records = run(
            works(out.with_name(f"{out.stem}_networks"), programs, trained, seed), jobs=jobs, progress=progress
        )  # fmt: skip
        result = gather(records, {"analysis": "audit of programs", "seed": seed})
        written = programs_page(result).write(out)
    result.save(tables)
    return written
