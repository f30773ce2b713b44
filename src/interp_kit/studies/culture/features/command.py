"""`interp-kit study features`: reads the features of a shipped autoencoder of a culture model and writes their page."""

from pathlib import Path

from interp_kit.analysis.dictionaries.shipped import load_sae, sae_origin
from interp_kit.core.parallel import processes
from interp_kit.core.showing import PROGRESS
from interp_kit.registry.models import load
from interp_kit.reports.report import page_path
from interp_kit.studies.culture.features.page import features_page
from interp_kit.studies.culture.features.study import examine_features

SAE = "culture"


def main(path: str | Path = "reports/features.html", *, jobs: int | None = None, progress: bool = PROGRESS) -> Path:
    """Examine the features and write the page. Returns its path. It runs in one process, whatever `jobs`."""
    path = page_path(path)
    processes(jobs)
    name = sae_origin(SAE)["model"]
    return features_page(examine_features(load(name), load_sae(SAE), name, progress=progress)).write(path)
