"""Rotation: quizzes and weights as they should be, resuming after kill -9, the weakest first, and rounds of quizzes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_kit.models.mygpt import load_mygpt
from interp_kit.studies.culture.training import turns as rotation
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.quiz_making import Agreement, save_quizzes
from interp_kit.studies.culture.training.turns import Point, read_curve, train, turn
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS

SMALL = {"preset": "17K", "budget": 96, "turn": 32, "tested": 32, "workers": 1}
PROGRAM = """
import json, sys
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.studies.culture.training.turns import train
if __name__ == "__main__":
    train(CultureConfig(**json.loads(sys.argv[2])), sys.argv[1])
"""


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_mygpt(path)[0].state_dict()


@pytest.mark.slow
def test_training_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = [json.dumps({**SMALL, "ids": [0]})]
    subprocess.run([sys.executable, "-c", PROGRAM, str(whole), *arguments], check=True, capture_output=True)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(cut), *arguments], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not read_curve(cut) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(read_curve(cut)) < 3
    subprocess.run([sys.executable, "-c", PROGRAM, str(cut), *arguments], check=True, capture_output=True)
    for name, value in weights(whole / "gpt_000.pth").items():
        assert torch.equal(value, weights(cut / "gpt_000.pth")[name]), name
    points = read_curve(cut)
    assert [p.seen for p in points][-1] == 96
    assert not list(cut.glob(".*"))  # nothing half written is left
    assert load_mygpt(cut / "gpt_000.pth")[1] == pytest.approx(points[-1].accuracy, abs=1e-6)


@pytest.mark.slow
def test_processes_that_share_the_steps(tmp_path: Path) -> None:
    """Two processes with half of a batch each take the steps of one process with all of it, dead units included."""
    program = """
import dataclasses, sys
import numpy as np, torch
from torch import distributed
from interp_kit.tasks.culture.world import sample_worlds
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import GPTPreset
rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if ranks > 1:
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=ranks)
quizzes = torch.as_tensor(sample_worlds(8, np.random.default_rng(0)).quizzes()).long()
quizzes = quizzes[8 // ranks * rank : 8 // ranks * (rank + 1)]
learner = Learner(GPTPreset(d_model=16, d_key=4, d_mlp=16, n_heads=2, n_layers=2), seed=1, budget=100)
with torch.no_grad():
    learner.model.blocks[0].fc1.bias[:3] = -100.0  # never on
    learner.model.blocks[0].fc1.bias[3] = -0.5  # on for few
for _ in range(2):
    learner.step(quizzes, quizzes, torch.ones(quizzes.shape))
revived = learner.revive(quizzes)
learner.step(quizzes, quizzes, torch.ones(quizzes.shape))
torch.save((learner.seen, revived, learner.model.state_dict()), f"{folder}/{ranks}-{rank}.pt")
"""
    alone = [subprocess.Popen([sys.executable, "-c", program, "0", "1", str(tmp_path)])]
    shared = [subprocess.Popen([sys.executable, "-c", program, str(r), "2", str(tmp_path)]) for r in range(2)]
    assert [p.wait(120) for p in alone + shared] == [0, 0, 0]
    seen, revived, expected = torch.load(tmp_path / "1-0.pt", weights_only=True)
    assert revived > 0
    for rank in range(2):
        found = torch.load(tmp_path / f"2-{rank}.pt", weights_only=True)
        assert found[:2] == (seen, revived)
        for name, value in found[2].items():
            assert value == pytest.approx(expected[name], abs=1e-4), name


@pytest.mark.slow
def test_a_model_with_two_shards_trains_and_goes_on(tmp_path: Path) -> None:
    config = {**SMALL, "ids": (0,), "workers": 2, "shards": 2, "precision": "bfloat16"}
    points = train(CultureConfig(**{**config, "budget": 32}), tmp_path, report=lambda _: None)
    assert [p.seen for p in points] == [32]
    points = train(CultureConfig(**{**config, "budget": 64}), tmp_path, report=lambda _: None)
    assert [p.seen for p in points] == [32, 64]
    assert load_mygpt(tmp_path / "gpt_000.pth")[1] == pytest.approx(points[-1].accuracy, abs=1e-6)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    config = json.dumps({**SMALL, "ids": [0, 1], "workers": 2, "turn": 32, "budget": 10_000_000})
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), config], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not read_curve(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()  # the parent alone
    process.wait()
    time.sleep(3)
    turns = len(read_curve(tmp_path))
    assert turns >= 1
    time.sleep(3)
    assert len(read_curve(tmp_path)) == turns


def point(id: int, seen: int, accuracy: float) -> Point:
    return Point(id, seen, 0.0, accuracy, 0.0, {}, {}, [[0.0] * 5] * 8, 0.0)


def turns_at_once(monkeypatch: pytest.MonkeyPatch, order: list[int], accuracy: dict[int, float]) -> None:
    """Make every turn end at once, with the accuracy that is told; `order` says whose turns there were."""

    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, _f: object, config: CultureConfig, id: int, *_: object):
            order.append(id)
            future: Future[Point] = Future()
            future.set_result(point(id, 32 * order.count(id), accuracy[id]))
            return future

    monkeypatch.setattr(rotation, "Pool", Pool)


def test_the_weakest_learns_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []

    turns_at_once(monkeypatch, order, {0: 0.9, 1: 0.2, 2: 0.5})
    train(CultureConfig(**{**SMALL, "ids": (0, 1, 2)}), tmp_path, report=lambda _: None)
    assert order == [0, 1, 2, 1, 1, 2, 2, 0, 0]


def test_rounds_that_keep_nothing_are_tried_again_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    turns_at_once(monkeypatch, order, {0: 0.9, 1: 0.9})
    found = [0, 0, 1]  # quizzes of each round
    rounds: list[list[int]] = []

    def agreed(models: list[object], *_: object, **__: object):
        rounds.append([order.count(0), order.count(1)])
        n = found[len(rounds) - 1]
        quizzes = grids.compose(np.full((n, 4, 100), 7, np.int64))
        return quizzes, np.zeros((len(models), n)), 200

    monkeypatch.setattr(rotation, "agreed_quizzes", agreed)
    monkeypatch.setattr(rotation, "load_mygpt", lambda path: (path, 0.9))
    options = {**SMALL, "ids": (0, 1), "quizzes": 10, "threshold": 0.8}
    train(CultureConfig(**{**options, "budget": 64}), tmp_path, report=lambda _: None)
    assert rounds == [[1, 1], [2, 2]]
    assert not (tmp_path / "c_quizzes.pth").exists()
    train(CultureConfig(**options), tmp_path, report=lambda _: None)
    assert len(rounds) == 3
    assert [len(part) for part in rotation.load_quizzes(tmp_path / "c_quizzes.pth")] == [1, 0]


def test_a_round_waits_for_turns_that_are_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[int, Future[Point]]] = []
    ends = iter([0, 1, 0, 1])  # whose turn is over next
    at_rounds: list[list[bool]] = []

    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, _f: object, config: CultureConfig, id: int, *_: object) -> Future[Point]:
            turns.append((id, Future()))
            return turns[-1][1]

    def wait(running: dict[Future[Point], tuple[int, int]], **_: object) -> tuple[set[Future[Point]], None]:
        id = next(ends)
        future = next(future for future, (i, _) in running.items() if i == id)
        own = [f for i, f in turns if i == id]
        future.set_result(point(id, 32 * (1 + own.index(future)), 0.9))
        return {future}, None

    def agreed(models: list[object], *_: object, **__: object) -> tuple[np.ndarray, np.ndarray, int]:
        at_rounds.append([future.done() for _, future in turns])
        return grids.compose(np.full((1, 4, 100), 7, np.int64)), np.zeros((len(models), 1)), 200

    monkeypatch.setattr(rotation, "Pool", Pool)
    monkeypatch.setattr(rotation, "wait", wait)
    monkeypatch.setattr(rotation, "agreed_quizzes", agreed)
    monkeypatch.setattr(rotation, "load_mygpt", lambda path: (path, 0.9))
    config = {**SMALL, "ids": (0, 1), "workers": 2, "budget": 64, "quizzes": 10, "threshold": 0.8}
    train(CultureConfig(**config), tmp_path, report=lambda _: None)
    assert at_rounds == [[True, True, True]]
    assert [id for id, _ in turns] == [0, 1, 0, 1]


@pytest.mark.parametrize(("makers", "made_by"), [((), (3, 5)), ((7,), (7,))])
def test_a_round_asks_who_is_to_make_and_who_is_to_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makers: tuple[int, ...], made_by: tuple[int, ...]
) -> None:
    asked: list[tuple[list[str], list[str], int, int]] = []

    def agreed(
        models: list[str], wanted: int, seed: int, rule: Agreement, *, makers: list[str]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        asked.append((models, makers, wanted, rule.max_fail))
        return grids.compose(np.arange(9)[:, None, None].repeat(4, 1).repeat(100, 2)), np.zeros((len(models), 9)), 200

    monkeypatch.setattr(rotation, "agreed_quizzes", agreed)
    monkeypatch.setattr(rotation, "load_mygpt", lambda path: (path.name, 0.9))
    config = CultureConfig(**SMALL, ids=(3, 5), makers=makers, quizzes=10, max_fail=2)
    assert rotation.make_round(config, tmp_path) == 9
    names = [[f"gpt_{id:03d}.pth" for id in ids] for ids in ((3, 5), made_by)]
    assert asked == [(*names, 10, 2)]
    learnt, tests = (part[:, 1].tolist() for part in rotation.load_quizzes(tmp_path / "c_quizzes.pth"))
    assert (learnt, tests) == ([0, 1, 2, 3, 4, 5, 6, 7], [8])


@pytest.mark.slow
def test_culture_quizzes_are_at_most_half_of_what_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = grids.compose(np.full((50, 4, 100), 7, np.int64))
    save_quizzes(tmp_path / "c_quizzes.pth", [mark], [mark[:0]])
    seen: list[float] = []
    step = Learner.step

    def watched(
        self: Learner, tokens: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, *, whole: float
    ) -> tuple[float, torch.Tensor]:
        seen.extend((targets.reshape(-1, 4, 101)[:, :, 1:] == 7).all(-1).all(-1).tolist())
        assert not tokens[~torch.as_tensor(weight > 0)].lt(0).any()
        return step(self, tokens, targets, weight, whole=whole)

    monkeypatch.setattr(Learner, "step", watched)
    turn(CultureConfig(**{**SMALL, "budget": 400, "turn": 400}), 0, tmp_path)
    assert np.mean(seen) == pytest.approx(50 / 400, abs=0.06)
    assert rotation.load_quizzes(tmp_path / "c_quizzes.pth")[0].shape == (50, 404)


def test_curves_survive_a_line_that_was_cut(tmp_path: Path) -> None:
    turn(CultureConfig(**{**SMALL, "budget": 32}), 3, tmp_path)
    whole = read_curve(tmp_path)
    with open(tmp_path / "curve.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": 3, "se')
    assert read_curve(tmp_path) == whole
    assert set(whole[0].by_task) == set(TASKS)
    rotation._append(tmp_path / "curve.jsonl", dataclasses.replace(whole[0], seen=64))
    assert read_curve(tmp_path) == [*whole, dataclasses.replace(whole[0], seen=64)]
    lines = (tmp_path / "curve.jsonl").read_text().splitlines()
    for damaged in (
        "{",
        "[]",
        lines[0].replace('"seen": 32', '"seen": "32"'),
        lines[0].replace('"greedy"', '"gready"'),
    ):
        (tmp_path / "curve.jsonl").write_text(f"{lines[0]}\n{damaged}\n{lines[1]}\n")
        with pytest.raises(ValueError, match=r"curve\.jsonl, line 2"):
            read_curve(tmp_path)


def test_a_turn_whose_line_was_lost_is_evaluated_again_and_written_as_json(tmp_path: Path) -> None:
    config = CultureConfig(**{**SMALL, "budget": 32})
    point = turn(config, 3, tmp_path)
    line = (tmp_path / "curve.jsonl").read_bytes()
    (tmp_path / "curve.jsonl").write_bytes(line[:-20])
    again = turn(config, 3, tmp_path)
    assert again == dataclasses.replace(point, loss=None, seconds=again.seconds, revived=0.0)
    assert read_curve(tmp_path) == [again]
    assert b"NaN" not in (tmp_path / "curve.jsonl").read_bytes()
    (tmp_path / "curve.jsonl").write_text(json.dumps({**dataclasses.asdict(point), "loss": float("nan")}) + "\n")
    assert read_curve(tmp_path) == [dataclasses.replace(point, loss=None)]  # as version 0.1.0 wrote it


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", '{"model_type": "gpt2"}'), ("config.json", "[]"), ("gpt_000.pth", "weights")]
)
def test_files_that_no_training_wrote_are_kept(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OSError, match=rf"cannot write \S*{name}: it (is of no|was not)"):
        train(CultureConfig(**{**SMALL, "ids": (0,)}), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: text}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "18K"}, "no preset '18K'; there are wide, fast, 17K"),
        ({"ids": ()}, "needs a model"),
        ({"turn": 0}, "turn is 0"),
        ({"shards": 2, "workers": 1}, "a worker for each shard"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"finish": 0.1, "making": 0.1}, "finish is 0.1 and making 0.1; set one of them to 0"),
    ],
)
def test_bad_configs(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(CultureConfig(**{**SMALL, **options}), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_end_of_a_budget_is_for_the_whole_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[tuple[int, float]] = []
    step = Learner.step

    def watched(self: Learner, *args: torch.Tensor, whole: float = 0.0) -> tuple[float, torch.Tensor]:
        shares.append((self.seen, whole))
        return step(self, *args, whole=whole)

    monkeypatch.setattr(Learner, "step", watched)
    for _ in range(2):
        turn(CultureConfig(**{**SMALL, "turn": 64, "making": 0.0, "finish": 0.4}), 0, tmp_path)
    assert dict(shares) == {0: 0.0, 32: 0.0, 64: rotation.WHOLE}


Step = tuple[int, torch.Tensor, torch.Tensor, float]


def steps_at_once(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Make every step and evaluation end at once; what steps are given is kept: quizzes seen before, targets, weights,
    share of the whole answer. Answers are right where the structure is number 1, and to all that models have made."""
    given: list[Step] = []

    def step(
        self: Learner, tokens: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, *, whole: float
    ) -> tuple[float, torch.Tensor]:
        given.append((self.seen, targets, weight, whole))
        self.seen += len(tokens)
        from_models = (targets.unflatten(1, (4, 101))[:, :, 1:] == 7).flatten(1).all(1)
        return 0.0, from_models | torch.as_tensor(grids.structure_of(targets.numpy()) == 1)

    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(rotation, "_evaluate", lambda config, id, learner, *_: point(id, learner.seen, 0.0))
    return given


@pytest.mark.parametrize(("finish", "shares"), [(0.0, [0, 0]), (0.5, [0, 1]), (1.0, [1, 1])])
def test_the_end_begins_when_its_share_of_the_budget_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: float, shares: list[int]
) -> None:
    given = steps_at_once(monkeypatch)
    for _ in range(2):
        turn(CultureConfig(**{**SMALL, "budget": 64, "making": 0.0, "finish": finish}), 0, tmp_path)
    assert [(seen, whole) for seen, _, _, whole in given] == [
        (seen, share * rotation.WHOLE) for seen, share in zip((0, 32), shares, strict=True)
    ]


def test_the_second_grid_has_the_weight_of_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = steps_at_once(monkeypatch)
    turn(CultureConfig(**{**SMALL, "making": 0.0, "hint": 0.25}), 0, tmp_path)
    [(_, _, weight, _)] = given
    assert weight[:, 102:202].eq(0.25).all()
    assert weight[:, 304:].eq(1).all()
    assert weight.count_nonzero() == 32 * 200


def test_the_hint_is_smaller_in_the_second_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = steps_at_once(monkeypatch)
    for _ in range(3):
        turn(CultureConfig(**{**SMALL, "budget": 96, "hint": 1.0, "late_hint": 0.25}), 0, tmp_path)
    assert [(seen, float(weight[0, 102])) for seen, _, weight, _ in given] == [(0, 1.0), (32, 1.0), (64, 0.25)]


def test_a_schedule_by_time_ends_when_that_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a second, but for the first of a turn, in which a process may compile."""
    given, now = steps_at_once(monkeypatch), [0.0]

    def clock() -> float:
        now[0] += 0.5  # looked at twice a step
        return now[0]

    monkeypatch.setattr(rotation, "_evaluate", lambda config, id, learner, *_: dataclasses.replace(
        point(id, learner.seen, 0.0), spent=learner.spent
    ))  # fmt: skip
    monkeypatch.setattr(rotation.time, "monotonic", clock)
    config = CultureConfig(**{**SMALL, "turn": 100, "seconds": 2.0, "finish": 0.5})
    points = [turn(config, 0, tmp_path) for _ in range(2)]
    assert [p.spent for p in points] == [1.5, 2.0]
    assert [p.seen for p in points] == [100, 150]  # budget, of 96, does not count
    assert [whole > 0 for *_, whole in given] == [False, False, False, True, True, True]
    assert not rotation._finished(config, points[0])
    assert rotation._finished(config, points[1])
    assert (Learner.load(tmp_path / "gpt_000.state").spent, rotation._finished(config, None)) == (2.0, False)


def test_what_is_answered_wrongly_is_noted_by_task_and_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of 25; quizzes of models are of no task."""
    made = grids.compose(np.full((50, 4, 100), 7, np.int64))
    save_quizzes(tmp_path / "c_quizzes.pth", [made], [made[:0]])
    given = steps_at_once(monkeypatch)
    turn(CultureConfig(**{**SMALL, "budget": 100, "turn": 100}), 0, tmp_path)
    assert [len(targets) for _, targets, _, _ in given] == [25] * 4
    right = Learner.load(tmp_path / "gpt_000.state").right
    assert right[:, 1].any()
    right[:, 1] = 0
    assert not right.any()


def test_a_state_of_another_preset_is_refused(tmp_path: Path) -> None:
    turn(CultureConfig(**{**SMALL, "budget": 32}), 0, tmp_path)
    with pytest.raises(ValueError, match=r"gpt_000\.state is of .*not of preset 'fast'"):
        turn(CultureConfig(**{**SMALL, "budget": 64, "preset": "fast"}), 0, tmp_path)
