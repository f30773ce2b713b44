"""`interp-kit culture-report`: runs the culture study and writes its page."""

from collections.abc import Sequence
from pathlib import Path

from interp_kit.core.parallel import processes
from interp_kit.core.showing import PROGRESS
from interp_kit.models.checkpoints import checkpoint_root
from interp_kit.reports.report import page_path
from interp_kit.studies.culture.models import FOLDER, culture_ids, load_culture
from interp_kit.studies.culture.page import page
from interp_kit.studies.culture.quiz_tests import run_tests
from interp_kit.studies.culture.study import study
from interp_kit.studies.culture.training.turns import read_curve


def main(
    path: str | Path = "reports/culture.html",
    ids: Sequence[int] = (),
    checkpoint_dir: str | Path | None = None,
    *,
    tests: int = 1000,
    jobs: int | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Test the models, examine them and write the page. Returns its path."""
    path, ids = page_path(path), list(ids) or culture_ids(checkpoint_dir)
    processes(jobs)  # refused before anything is tested
    models = {f"gpt_{id:03d}": model for id, model in zip(ids, load_culture(ids, checkpoint_dir), strict=True)}
    scores = run_tests(models, tests, workers=jobs, progress=progress)
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else checkpoint_root() / FOLDER
    curve = [point for point in read_curve(folder) if point.id in ids]
    return page(scores, study(ids, checkpoint_dir, jobs=jobs, progress=progress), curve).write(path)
