"""A round of culture: it goes on where it was stopped, and what it keeps holds the rule, worked out again."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from interp_kit.core.identity import derive_seed
from interp_kit.models.checkpoints import checksum, provenance
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, save_mygpt
from interp_kit.reports.plotting import figure_of
from interp_kit.studies.culture import round as recipe
from interp_kit.studies.culture.models import load_culture
from interp_kit.studies.culture.round import EVIDENCE, by_kind, culture_round, kinds, main, picture, summary
from interp_kit.studies.culture.training import quiz_making as making
from interp_kit.studies.culture.training.quiz_making import QUIZZES, Agreement, load_quizzes, save_quizzes, save_round
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS, draw_worlds, sample_worlds

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
    assert sum(whole[1]["kinds"].values()) == whole[1]["judged"]
    assert len(whole[0]) == len(whole[1]["p"]) == whole[1]["judged"]
    assert [len(part) for part in load_quizzes(path.parent / QUIZZES)] == [5, 1]
    assert list(whole[1]["judges"].values()) == [
        hashlib.sha256((folder / f"gpt_{k:03d}.pth").read_bytes()).hexdigest() for k in range(4)
    ]


@pytest.mark.slow
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
    culture_round(maker, tmp_path / "whole", checkpoint_dir=folder, **options)
    whole, parts = kept(tmp_path / "whole"), kept(tmp_path)
    np.testing.assert_array_equal(whole[0], parts[0])
    assert whole[1] == parts[1]
    damaged = load_quizzes(tmp_path / QUIZZES)[0][:1]
    save_quizzes(tmp_path / QUIZZES, [damaged], [])
    with pytest.raises(ValueError, match=r"c_quizzes.pth has 1 quizzes, c_quizzes.json has 4"):
        culture_round(maker, tmp_path, checkpoint_dir=folder, **options | {"most": 6})


def test_a_quiz_is_kept_once_and_none_is_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = grids.compose(np.random.default_rng(0).integers(0, 11, size=(2, 4, 100)))
    made = iter([[first], [first, second, first], [second], [second, first]])
    keeps = iter([[], [0, 1, 2], [0], [0, 1]])
    monkeypatch.setattr(making, "make_quizzes", lambda *_: np.array(next(made)))
    monkeypatch.setattr(making, "judge", lambda *_: (np.array(at := next(keeps), int), np.full((4, len(at)), 0.2)))
    maker = folder / "maker" / "gpt_004.pth"
    culture_round(maker, tmp_path, checkpoint_dir=folder, most=200)
    assert not (tmp_path / QUIZZES).exists()
    assert summary(tmp_path) == "200 made, 1 of them not trivial, 0 kept: 0.00% [0.00%, 79.35%]"
    for most in (600, 800):  # in one go, and gone on with
        culture_round(maker, tmp_path, checkpoint_dir=folder, most=most)
        quizzes, evidence = kept(tmp_path)
        np.testing.assert_array_equal(quizzes, [first, second])
        assert evidence["p"] == [[0.2] * 4] * 2
    assert (evidence["judged"], evidence["made"]) == (7, 800)


def test_a_round_is_summed_up_and_drawn(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = sample_worlds(1, np.random.default_rng(0)).quizzes().astype(np.int64)
    odd = grids.compose(np.random.default_rng(0).integers(0, 11, size=(1, 4, 100)))
    p = np.array([[1.0, 0.98], [0.97, 0.99], [0.2, 0.96], [1.0, 0.5]])
    monkeypatch.setattr(making, "make_quizzes", lambda *_: np.concatenate([world, odd, odd]))
    monkeypatch.setattr(making, "judge", lambda *_: (np.array([0, 1]), p))
    maker, drawn = folder / "maker" / "gpt_004.pth", tmp_path / "new" / "p.png"
    command = ["--maker", str(maker), "--checkpoint-dir", str(folder), "--most", "1", "--out", str(tmp_path)]
    assert main([*command, "--picture", str(drawn)]) == 0
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    share = "2 kept: 66.67% [20.77%, 93.85%]"
    lines = summary(tmp_path).splitlines()
    assert lines[0] == f"200 made, 3 of them not trivial, {share}"
    shares = "0.50 [0.09, 0.91] of those kept, 0.33 [0.06, 0.79] of those judged"
    assert lines[1].startswith(f"a rule of the world explains {shares}; lost: ")
    assert [part.rpartition(" ")[2] for part in lines[1].partition("lost: ")[2].split(", ")] == ["0", "0", "1", "1"]
    titles = [text.get_text() for text in figure_of(picture(tmp_path)).findobj(Text)]
    assert "lost: gpt_002 (p = 0.20); the others are sure (0.97 or more)" in titles
    assert "lost: gpt_003 (p = 0.50); the others are sure (0.96 or more)" in titles
    titles = [text.get_text() for text in figure_of(picture(tmp_path, [1])).findobj(Text)]
    assert not any("gpt_002" in title for title in titles)
    with pytest.raises(ValueError, match=r"no quizzes \[2\]: 2 are kept"):
        picture(tmp_path, [2])
    with pytest.raises(ValueError, match="holds no round"):
        summary(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"rule": Agreement(max_fail=2, temperature=1.0)}, "rule"),
        ({"seed": 6}, "seed"),
        ({"made": 3}, "made at a time"),
        ({"maker": "gpt_000.pth"}, "maker"),
        ({"ids": (0, 1)}, "judges"),
        ({"checkpoint_dir": "others"}, "judges"),
    ],
    ids=lambda x: str(x) if isinstance(x, str) else "",
)
def test_another_round_is_not_gone_on_with(folder: Path, tmp_path: Path, other: dict, named: str) -> None:
    for k in range(4):
        save_mygpt(MyGPT(SIZES, seed=k + 10), 0.0, tmp_path / "others" / f"gpt_{k:03d}.pth")
    begun = {"rule": Agreement(max_fail=4, temperature=1.0), "seed": 5, "made": 2, "maker": "maker/gpt_004.pth"}

    def run(most: int, maker: str, checkpoint_dir: str = "", **options: Any) -> None:
        judges = tmp_path / checkpoint_dir if checkpoint_dir else folder
        culture_round(folder / maker, tmp_path / "round", checkpoint_dir=judges, most=most, **options)

    run(2, **begun)
    run(2, **begun)
    with pytest.raises(ValueError, match=rf"c_quizzes.json is of another round: {named} is "):
        run(4, **begun | other)


def test_what_is_no_round_is_refused(folder: Path, tmp_path: Path) -> None:
    maker = folder / "maker" / "gpt_004.pth"
    save_quizzes(tmp_path / QUIZZES, [grids.compose(np.zeros((1, 4, 100), np.int64))], [])
    with pytest.raises(ValueError, match=r"c_quizzes.pth stands there without c_quizzes.json"):
        culture_round(maker, tmp_path, checkpoint_dir=folder)
    for wrong in ({"most": 0}, {"made": 0}):
        with pytest.raises(ValueError, match="a round of"):
            culture_round(maker, tmp_path / "new", checkpoint_dir=folder, **wrong)
    command = ["--maker", str(maker), "--out", str(tmp_path / "new"), "--checkpoint-dir", str(folder)]
    with pytest.raises(ValueError, match="keeps nothing: one model has to fail"):
        main([*command, "--max-fail", "0"])
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def whole_round(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine quizzes that four judges keep, one of whom is lost at each."""
    out = tmp_path_factory.mktemp("whole")
    quizzes = sample_worlds(9, np.random.default_rng(3)).quizzes().astype(np.int64)
    p = np.where(np.arange(9)[:, None] % 4 == np.arange(4), 0.25, 0.9921875)
    found = {
        "rule": asdict(Agreement()), "seed": 1, "judging seed": 2, "maker": "m" * 64, "made at a time": 200,
        "judges": {f"culture/gpt_{k:03d}": f"{k}" * 64 for k in range(4)}, "made": 400, "judged": 300, "p": p.tolist(),
        "kinds": {"no rule": 291, **Counter(kinds(quizzes))},
    }  # fmt: skip
    save_round(out / QUIZZES, quizzes)
    recipe._write(out, found, quizzes)
    return out


def edited(change: Any, checked: bool = True) -> Any:
    """Change the evidence; with `checked`, as one who writes the check anew."""

    def damage(out: Path) -> None:
        found = json.loads((out / EVIDENCE).read_text())
        change(found)
        if checked:
            found["check"] = checksum({key: value for key, value in found.items() if key != "check"})
        (out / EVIDENCE).write_text(json.dumps(found))

    return damage


def swapped(out: Path) -> None:
    quizzes = np.concatenate(load_quizzes(out / QUIZZES))
    save_quizzes(out / QUIZZES, [quizzes[::-1].copy()], [])


DAMAGE: dict[str, tuple[Any, str]] = {
    "p altered": (edited(lambda f: f["p"][3].__setitem__(1, 0.9), checked=False), "json is not as it was written"),
    "a judge altered": (edited(lambda f: f["judges"].update(x="y"), checked=False), "json is not as it was written"),
    "p missing": (edited(lambda f: f.pop("p")), "json has no 'p'"),
    "no check": (edited(lambda f: f.pop("check"), checked=False), "json has no 'check': it is damaged, or of before"),
    "p nan": (lambda out: nan_in(out), "json is not valid JSON: NaN"),
    "p of text": (edited(lambda f: f["p"][3].__setitem__(1, "0.9")), "p of quiz 3 is .*expected 4 probabilities"),
    "p above 1": (edited(lambda f: f["p"][3].__setitem__(1, 9.5)), "p of quiz 3 is "),
    "p true": (edited(lambda f: f["p"][3].__setitem__(1, True)), "p of quiz 3 is "),
    "p of three judges": (edited(lambda f: f["p"][3].pop()), "p of quiz 3 is "),
    "p no list": (edited(lambda f: f.update(p={})), "p a list"),
    "a quiz less": (edited(lambda f: f["p"].pop()), "pth holds other quizzes than those that c_quizzes.json is of"),
    "a quiz more": (edited(lambda f: f["p"].append([0.5] * 4)), "pth has 9 quizzes, c_quizzes.json has 10"),
    "judged of text": (edited(lambda f: f.update(judged="9")), "judged is '9', expected a number"),
    "kinds of others": (edited(lambda f: f["kinds"].update({"no rule": 290})), "expected the 300 judged, counted"),
    "kinds no mapping": (edited(lambda f: f.update(kinds=[])), "expected the 300 judged, counted"),
    "made negative": (edited(lambda f: f.update(made=-1)), "made is -1, expected a number"),
    "no mapping": (lambda out: (out / EVIDENCE).write_text("[]"), "json is a list, expected a mapping"),
    "other quizzes": (swapped, "pth holds other quizzes"),
    "no quizzes": (lambda out: (out / QUIZZES).unlink(), "pth cannot be read as quizzes"),
}


def nan_in(out: Path) -> None:
    text = (out / EVIDENCE).read_text()
    (out / EVIDENCE).write_text(text.replace("0.9921875", "NaN", 1))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_round_is_refused_by_name(whole_round: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    out = shutil.copytree(whole_round, tmp_path / "round")
    damage(out)
    for read in (summary, picture):
        with pytest.raises(ValueError, match=message) as caught:
            read(out)
        assert str(out) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_judge_named_twice_counts_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--maker", str(folder / "maker" / "gpt_004.pth"), "--checkpoint-dir", str(folder), "--most", "1"]
    assert main([*command, "--out", str(tmp_path), "--ids", "0", "0", "1"]) == 0
    assert len(json.loads((tmp_path / EVIDENCE).read_text())["judges"]) == 2
    assert capsys.readouterr().out.startswith(f"{tmp_path / EVIDENCE}\n")


def test_a_round_holds_the_rule_worked_out_again(folder: Path, tmp_path: Path) -> None:
    """By a loop over judges, rounds, structures and quizzes, from the definition."""
    rule, maker = Agreement(sure=0.5, lost=0.25, max_fail=4, rounds=2), folder / "maker" / "gpt_004.pth"
    culture_round(maker, tmp_path, checkpoint_dir=folder, rule=rule, seed=5, made=3, most=3)
    quizzes, evidence = kept(tmp_path)
    models = load_culture([int(name.rpartition("_")[2]) for name in evidence["judges"]], folder)
    assert [provenance(model).sha256 for model in models] == list(evidence["judges"].values())
    assert len({quiz.tobytes() for quiz in quizzes}) == len(quizzes) == len(evidence["p"]) > 0
    log_p = np.full((len(quizzes), len(models), rule.rounds), 0.0)
    for (row, quiz), (m, model) in product(enumerate(quizzes), enumerate(models)):
        rng = np.random.default_rng(derive_seed(evidence["judging seed"], "noise", quiz.astype(np.uint8).tobytes()))
        for turn in range(rule.rounds):
            for structure in ("A f_A B f_B", "f_A A f_B B"):
                clean = grids.reconfigure(quiz[None], grids.structure(structure))
                read = grids.add_noise(clean, grids.noisy_cells(grids.structure(structure)), rng, grids.NOISE)
                with torch.inference_mode():
                    log_probs = model(torch.as_tensor(read).long())[0, -100:].double().log_softmax(-1)
                log_p[row, m, turn] += float(log_probs[torch.arange(100), torch.as_tensor(clean[0, -100:])].sum())
    recorded = np.array(evidence["p"])
    assert (recorded > 0).all()  # tiny, but numbers that can be compared
    np.testing.assert_allclose(np.log(recorded), np.log(np.exp(log_p).mean(-1)), atol=1e-3)
    assert ((recorded >= rule.sure) | (recorded <= rule.lost)).all()
    cells = grids.split(quizzes)
    assert (cells[:, 0] != cells[:, 1]).any(1).all()
    assert (cells[:, 2] != cells[:, 3]).any(1).all()


def test_kinds_name_the_rule_that_paints_both_halves() -> None:
    task = np.repeat(np.arange(len(TASKS)), 3)
    worlds = draw_worlds(task, np.random.default_rng(2))
    assert kinds(worlds.quizzes().astype(np.int64)) == [TASKS[t] for t in task]


def test_kinds_name_the_rules_of_halves_that_do_not_go_together() -> None:
    of = {name: TASKS.index(name) for name in ("frame", "grow", "translate")}
    worlds = draw_worlds(
        np.array([of["frame"], of["grow"], of["translate"], of["translate"]]), np.random.default_rng(0)
    )
    shown = worlds.changed(direction=np.array([0, 0, 0, 7])).grids().astype(np.int64)
    noise = np.random.default_rng(1).integers(0, 11, size=100)
    rows = [
        [*shown[0, :2], *shown[1, 2:]],
        [*shown[2, :2], *shown[3, 2:]],  # another step and other colours
        [*shown[0, :3], noise],
        [shown[0, 0], noise, *shown[0, 2:]],
        [shown[0, 0], noise, shown[0, 2], noise],
    ]
    found = kinds(grids.compose(np.array(rows)))
    assert found == ["A: frame, B: grow", "A: translate, B: translate otherwise", "A: frame", "B: frame", "no rule"]


def test_a_round_is_counted_by_kind(whole_round: Path, tmp_path: Path) -> None:
    frame = by_kind(whole_round)
    names = [TASKS[t] for t in sample_worlds(9, np.random.default_rng(3)).task]
    found = dict(zip(frame["kind"].tolist(), frame["kept"].tolist(), strict=True))
    assert found == {name: names.count(name) for name in set(names)} | {"no rule": 0}
    judged = dict(zip(frame["kind"].tolist(), frame["judged"].tolist(), strict=True))
    assert judged == found | {"no rule": 291}
    assert frame["judged_share"].tolist() == [count / 300 for count in frame["judged"]]
    assert frame["n"].tolist() == [9] * len(frame)
    assert list(frame["kept"]) == sorted(frame["kept"], reverse=True)
    lost = frame[[f"lost by gpt_{k:03d}" for k in range(4)]]
    assert lost.to_numpy().sum(0).tolist() == [3, 2, 2, 2]
    assert lost.to_numpy().sum(1).tolist() == frame["kept"].tolist()
    with pytest.raises(ValueError, match="holds no round"):
        by_kind(tmp_path)


def test_the_command_says_how_many_are_made_at_a_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(recipe, "culture_round", lambda *_, **options: seen.update(options))
    monkeypatch.setattr(recipe, "summary", lambda out: "")
    monkeypatch.setattr(recipe, "kept", lambda out: (np.zeros((0, 404)), {}))
    command = ["--maker", str(folder / "maker" / "gpt_004.pth"), "--out", str(tmp_path), "--most", "9"]
    assert main([*command, "--made", "3"]) == 0
    assert (seen["made"], seen["most"]) == (3, 9)
