"""The script for a graphics card: on the processor, and on the pretended card, whose times mean nothing."""

from pathlib import Path

import pytest
import torch
from pretend import card

ROOT = Path(__file__).parents[2]
WORKS = ("patch, heads", "score_edges", "resid_pre by position", "ranking of 6", "TopK SAE", "culture network")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_runs(device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    gpu = __import__("benchmarks.gpu", fromlist=["gpu"])
    monkeypatch.setattr(gpu, "show_no_bars", lambda: None)
    monkeypatch.setattr(__import__("benchmarks.measure", fromlist=["measure"]), "SECONDS", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    if device == "cpu":
        gpu.main(gpu.Options(device, tiny=True))
    else:
        with card():
            gpu.main(gpu.Options(device, tiny=True))
    shown = capsys.readouterr().out
    assert shown.startswith(f"### {'cpu' if device == 'cpu' else 'a card'} (tiny")
    assert [work for work in WORKS if f"| {work}" not in shown] == []


def test_numbers_that_differ_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    gpu = __import__("benchmarks.gpu", fromlist=["gpu"])
    monkeypatch.setattr(gpu, "differences", lambda size, device: iter([("patch", 2e-3)]))
    with pytest.raises(AssertionError, match=r"patch: 2\.0e-03 from the processor's"):
        gpu.main(gpu.Options("cpu", tiny=True))
