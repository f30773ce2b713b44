"""What every study does before it begins."""

from pathlib import Path
from types import ModuleType

import pytest

from interp_kit.studies.audit import command as audit
from interp_kit.studies.boolean import command as boolean_report
from interp_kit.studies.circuits import study as trained_circuits
from interp_kit.studies.culture import command as culture_report


@pytest.mark.parametrize(
    ("recipe", "first"),
    [
        (audit, "audit"),
        (boolean_report, "omitted_models"),
        (culture_report, "culture_ids"),
        (trained_circuits, "in_processes"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_the_path_of_the_page_is_asked_before_any_work(
    recipe: ModuleType, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(recipe, first, begun)
    with pytest.raises(ValueError, match=r"a report is written to a \.html file, not .*page\.md"):
        recipe.main(tmp_path / "page.md")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'file' / 'page.html'}"):
        recipe.main(tmp_path / "file" / "page.html")
    with pytest.raises(AssertionError, match="the work has begun"):
        recipe.main(tmp_path / "page.html")
