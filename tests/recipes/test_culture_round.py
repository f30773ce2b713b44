"""A round of culture: it goes on where it was stopped, and what it keeps holds the rule when that is worked out again,
in the shipped round too."""

import json
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_kit.core.seeding import derive_seed
from interp_kit.models.checkpoints import checkpoint_root
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, save_mygpt
from interp_kit.recipes import culture_round as recipe
from interp_kit.recipes.culture_models import load_culture
from interp_kit.recipes.culture_round import EVIDENCE, QUIZZES, culture_round, main
from interp_kit.tasks.culture import grids
from interp_kit.training.culture.making import Agreement, Batch, load_quizzes

SIZES = MyGPTConfig(15, 16, 4, 8, 16, 2, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four judges that know nothing, and a maker beside them."""
    folder = tmp_path_factory.mktemp("judges")
    for k in range(4):
        save_mygpt(MyGPT(SIZES, seed=k), 0.0, folder / f"gpt_{k:03d}.pth")
    maker = MyGPT(SIZES, seed=9)
    with torch.no_grad():
        maker.readout.bias[grids.COLOURS :] = -30  # no markers where colours belong
    save_mygpt(maker, 0.0, folder / "maker" / "gpt_004.pth")
    return folder


def kept(out: Path) -> tuple[np.ndarray, dict]:
    return np.concatenate(load_quizzes(out / QUIZZES)), json.loads((out / EVIDENCE).read_text())


def test_it_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    # judges that are never sure and always lost: with four failures allowed everything is kept
    rule, maker = Agreement(max_fail=4, temperature=1.0), folder / "maker" / "gpt_004.pth"
    options = {"rule": rule, "seed": 5, "made": 2}
    culture_round(maker, tmp_path / "whole", checkpoint_dir=folder, most=6, **options)
    for most in (2, 4, 6, 6):
        path = culture_round(maker, tmp_path / "parts", checkpoint_dir=folder, most=most, **options)
    whole, parts = kept(tmp_path / "whole"), kept(tmp_path / "parts")
    np.testing.assert_array_equal(whole[0], parts[0])
    assert whole[1] == parts[1] == json.loads(path.read_text())
    assert whole[1]["made"] == 6
    assert len(whole[0]) == len(whole[1]["p"]) == whole[1]["judged"]
    assert [len(part) for part in load_quizzes(path.parent / QUIZZES)] == [5, 1]
    assert whole[1]["judges"] == [f"gpt_{k:03d}" for k in range(4)]


def test_killed_between_its_two_files_it_keeps_them_in_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, maker = Agreement(max_fail=4, temperature=1.0), folder / "maker" / "gpt_004.pth"
    options = {"rule": rule, "seed": 5, "made": 2, "most": 4}
    write = recipe.write_json

    def killed(path: Path, data: dict) -> None:
        if data["made"] == 4:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(recipe, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        culture_round(maker, tmp_path, checkpoint_dir=folder, **options)
    assert len(kept(tmp_path)[0]) > len(kept(tmp_path)[1]["p"])
    monkeypatch.undo()
    culture_round(maker, tmp_path, checkpoint_dir=folder, **options)
    assert len(kept(tmp_path)[0]) == len(kept(tmp_path)[1]["p"])


def test_a_quiz_is_kept_once_and_none_is_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiz = grids.compose(np.random.default_rng(0).integers(0, 11, size=(2, 4, 100)))
    shown = [Batch(quiz[:0], np.zeros((4, 0)), 2, 200), Batch(quiz, np.zeros((4, 2)), 3, 400)]
    shown.append(Batch(quiz[1:], np.zeros((4, 1)), 1, 600))
    monkeypatch.setattr(recipe, "batches", lambda *_, start, **__: islice(iter(shown), start // 200, None))
    maker = folder / "maker" / "gpt_004.pth"
    culture_round(maker, tmp_path, checkpoint_dir=folder, most=200)
    assert not (tmp_path / QUIZZES).exists()
    culture_round(maker, tmp_path, checkpoint_dir=folder, most=600)
    quizzes, evidence = kept(tmp_path)
    np.testing.assert_array_equal(quizzes, quiz)
    assert (len(evidence["p"]), evidence["judged"], evidence["made"]) == (2, 6, 600)


def test_another_round_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    maker = str(folder / "maker" / "gpt_004.pth")
    command = ["--maker", maker, "--out", str(tmp_path), "--checkpoint-dir", str(folder), "--most", "200"]
    (tmp_path / EVIDENCE).write_text("{}")
    with pytest.raises(ValueError, match="of another round: rule is None"):
        main(command)


def test_the_shipped_round_holds_the_rule_worked_out_again() -> None:
    """By a loop over judges, rounds, structures and quizzes, from the definition."""
    folder = checkpoint_root() / "culture"
    quizzes, evidence = kept(folder)
    models = load_culture(range(len(evidence["judges"])), folder)
    assert len({quiz.tobytes() for quiz in quizzes}) == len(quizzes) == len(evidence["p"]) > 0
    p = np.zeros((len(quizzes), len(models)))
    for (row, quiz), (m, model) in product(enumerate(quizzes), enumerate(models)):
        rng = np.random.default_rng(derive_seed(evidence["judging seed"], "noise", quiz.astype(np.uint8).tobytes()))
        for _ in range(evidence["rule"]["rounds"]):
            chance = 1.0
            for structure in ("A f_A B f_B", "f_A A f_B B"):
                clean = grids.reconfigure(quiz[None], grids.structure(structure))
                read = grids.add_noise(clean, grids.noisy_cells(grids.structure(structure)), rng, grids.NOISE)
                with torch.inference_mode():
                    probabilities = model(torch.as_tensor(read).long())[0, -100:].double().softmax(-1)
                chance *= float(probabilities[torch.arange(100), torch.as_tensor(clean[0, -100:]).long()].prod())
            p[row, m] += chance / evidence["rule"]["rounds"]
    np.testing.assert_allclose(p, np.array(evidence["p"]), atol=1e-3)
    assert ((p >= 0.95) | (p <= 0.5)).all()
    assert ((p <= 0.5).sum(1) == 1).all()
    cells = grids.split(quizzes)
    assert (cells[:, 0] != cells[:, 1]).any(1).all()
    assert (cells[:, 2] != cells[:, 3]).any(1).all()
