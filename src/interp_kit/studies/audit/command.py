"""`interp-kit audit`: runs the audit and writes its page."""

from pathlib import Path

from loguru import logger

from interp_kit.core.folders import check_folder
from interp_kit.core.parallel import parse_shard
from interp_kit.core.result import KIND as RESULT
from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.audit.study import audit, audit_shard


def main(
    out: Path, *, shard: str = "", merge: bool = False, jobs: int | None = None, progress: bool = PROGRESS
) -> Path:
    """Run the whole audit and write its page to `out`, its tables and figures into folders beside it.

    shard: "i/n" runs every n-th model, from the i-th, into a folder of pieces beside `out`, which it gives; merge: the
    page is made of these pieces, once all are there.
    """
    if merge and shard:
        raise ValueError("--shard and --merge cannot be given together; run all shards, then merge them")
    pieces = out.with_name(f"{out.stem}_pieces")
    if shard:
        missing = audit_shard(pieces, parse_shard(shard), jobs=jobs, progress=progress)
        logger.info("{} pieces are missing yet", len(missing))
        return pieces
    from interp_kit.studies.audit.page import page

    out = page_path(out)
    tables = check_folder(out.with_name(f"{out.stem}_tables"), RESULT)
    result = audit(jobs=jobs, pieces=pieces if merge else None, progress=progress)
    written = page(result).write(out)
    result.save(tables)
    return written
