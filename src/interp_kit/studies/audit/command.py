"""`interp-kit audit`: runs the audit, on planted models or on compiled programs, and writes its page."""

from pathlib import Path

from loguru import logger

from interp_kit.core.folders import check_folder
from interp_kit.core.parallel import parse_shard
from interp_kit.core.result import KIND as RESULT
from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.audit.programs.run import run, works
from interp_kit.studies.audit.study import audit, audit_shard


def main(
    out: Path,
    *,
    programs: int = 0,
    trained: int = 0,
    seed: int = 0,
    shard: str = "",
    merge: bool = False,
    jobs: int | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Run the whole audit and write its page to `out`, its tables and figures into folders beside it.

    Args:
        out: The page.
        programs: Number of random programs to compile and audit; 0 for the planted models.
        trained: Number of them of which a network is trained too.
        seed: Of the programs.
        shard: "i/n" runs every n-th model, from the i-th, into a folder of pieces beside `out`.
        merge: The page of planted models is made of these pieces, once all are there. For programs no option is needed:
            their files are found again.
        jobs: Number of processes.
        progress: Whether to show a bar.

    Returns:
        The page, or for a shard the folder of its pieces. Scores of programs are kept in `<out>_networks/`, one file
        per network, and are not computed again.

    Raises:
        ValueError: Options that mean nothing together: trained without as many programs, merge with shard or programs.
    """
    from interp_kit.studies.audit.page import page
    from interp_kit.studies.audit.programs.page import page as programs_page
    from interp_kit.studies.audit.programs.result import gather

    if merge and (shard or programs):
        raise ValueError(f"--merge and --{'shard' if shard else 'programs'} cannot be given together")
    if trained and not programs:
        raise ValueError(f"trained is {trained}, and programs 0: networks are trained on programs")
    folder = out.with_name(f"{out.stem}_{'networks' if programs else 'pieces'}")
    work = works(folder, programs, trained, seed) if programs else []
    if shard and programs:
        first, of = parse_shard(shard)
        run(work[first::of], jobs=jobs, progress=progress)
        return folder
    if shard:
        missing = audit_shard(folder, parse_shard(shard), jobs=jobs, progress=progress)
        logger.info("{} pieces are missing yet", len(missing))
        return folder
    out = page_path(out)
    tables = check_folder(out.with_name(f"{out.stem}_tables"), RESULT)
    if programs:
        records = run(work, jobs=jobs, progress=progress)
        result = gather(records, {"analysis": "audit of programs", "seed": seed})
        written = programs_page(result).write(out)
    else:
        result = audit(jobs=jobs, pieces=folder if merge else None, progress=progress)
        written = page(result).write(out)
    result.save(tables)
    return written
