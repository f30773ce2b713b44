"""Commands that kills.py kills: what each needs, does, and leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from formats import _mygpt, _quizzes


@dataclass(frozen=True)
class Killed:
    """A command.

    prepare: makes what it needs in a folder; run: does it; between: figures of what stands there after a kill, raising
    where anything is corrupt (they must be among the figures before and after a whole run, or be a part on the way,
    for which this gives None); after: figures after a whole run.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    between: Callable[[Path], Any]
    after: Callable[[Path], Any]


def nothing(folder: Path) -> None:
    """Nothing is needed."""


def cli(*arguments: str) -> Callable[[Path], None]:
    """A run of `interp-kit`."""

    def run(folder: Path) -> None:
        from interp_kit.cli import main

        status = main([argument.format(folder) for argument in arguments])
        assert status == 0, f"exit status {status}"

    return run


# train: the former model, or the new one


def _model(folder: Path) -> Any:
    from interp_kit.models.gpt2 import read_gpt2

    return read_gpt2(folder / "model").state_dict() if (folder / "model").exists() else None


TRAIN = cli(
    "train", "--out", "{}/model", "--examples", "48", "--epochs", "1", "--batch-size", "8", "--device", "cpu",
    "--no-progress",
)  # fmt: skip


def former_model(folder: Path) -> None:
    """A model trained by another seed stands there."""
    from interp_kit.tasks.boolean import BooleanTask
    from interp_kit.training.sft import SFTConfig, train_sft

    task = BooleanTask()
    options: dict[str, Any] = {"device": "cpu", "progress": False}
    train_sft(task, task.sample(8, 3), folder / "model", SFTConfig(epochs=0.1, seed=3), **options)


# train-culture


def _turns(folder: Path) -> Any:
    from interp_kit.models.mygpt import load_mygpt
    from interp_kit.studies.culture.training.learner import Learner
    from interp_kit.studies.culture.training.turns import read_curve

    run, found = folder / "run", []
    for path in sorted(run.glob("gpt_*.pth")):
        found.append(load_mygpt(path)[0].state_dict())
    for path in sorted(run.glob("gpt_*.state")):
        found.append(Learner.load(path).seen)
    points = [(point.id, point.seen, point.accuracy) for point in read_curve(run)] if run.exists() else []
    return found, sorted(points)


CULTURE = cli(
    "train-culture", "--out", "{}/run", "--preset", "17K", "--ids", "0", "1", "--budget", "96", "--turn", "32",
    "--tested", "32", "--workers", "2",
)  # fmt: skip


# harvest


def harvest(folder: Path) -> None:
    import interp_kit as ik

    task = ik.task("boolean")
    sites = [f"{site}.{layer}" for site in ("resid_pre", "resid_mid", "mlp_out") for layer in (0, 1)]
    batch = task.batch(task.enumerate())
    ik.harvest_to(folder / "harvest", ik.load("boolean-latent"), batch, sites, rows=1, progress=False)


def _harvested(folder: Path) -> Any:
    from interp_kit.engine.harvest_store import open_harvest

    try:
        files = open_harvest(folder / "harvest")
    except ValueError as error:
        if "not finished" not in str(error) and "no harvest" not in str(error):
            raise
        return None
    return {site: files.load(site) for site in files.sites}


# save


def _results() -> list[Any]:
    import interp_kit as ik

    task = ik.task("boolean")
    batch = task.batch(task.enumerate())
    return [ik.ablate(ik.load(name), batch, kind="mean") for name in ("boolean-latent", "boolean-direct")]


def save(folder: Path) -> None:
    """Two results in turn replace each other."""
    results = _results()
    for number in range(41):
        results[number % 2].save(folder / "result")


def _saved(folder: Path) -> Any:
    from interp_kit.analysis.causal.ablation import AblationResult

    if not (folder / "result").exists():
        return None
    found = AblationResult.load(folder / "result").to_frame().to_csv()
    assert found in [result.to_frame().to_csv() for result in _results()]
    return found


# report: a page, with figures and tables beside it; study: the workers that compute one


def report(folder: Path) -> None:
    import interp_kit as ik

    for result in _results() * 2:
        ik.report([result], folder / "page.html")


def _page(folder: Path) -> Any:
    path = folder / "page.html"
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def study(folder: Path) -> None:
    from interp_kit.studies.boolean.page import write_report
    from interp_kit.studies.boolean.study import study as run

    names = [f"boolean-direct@{seed}" for seed in range(3)]
    options: dict[str, Any] = {"labels": ("newA", "newB"), "permutations": 0, "jobs": 2, "progress": False}
    write_report(run(names, yardsticks=(), sae=False, **options), folder / "page.html")


# round


def round_inputs(folder: Path) -> None:
    from interp_kit.models.mygpt import save_mygpt

    (folder / "models").mkdir()
    for seed in range(2):
        save_mygpt(_mygpt(seed), 0.5, folder / "models" / f"gpt_{seed:03d}.pth")


def round_(folder: Path) -> None:
    """Quizzes are kept that the tiny models here would never agree on."""
    from interp_kit.studies.culture import round as culture_round
    from interp_kit.studies.culture.training.quiz_making import Agreement, Batch

    quizzes = _quizzes(0, 40)

    def batches(*_: Any, start: int, made: int, **__: Any) -> Any:
        for first in range(start, 40 * made, made):
            yield Batch(
                quizzes[first // made : first // made + 1], np.array([[1.0], [0.25]]), quizzes[:made], first + made
            )

    culture_round.batches = batches
    rule = Agreement(temperature=1.0)
    culture_round.culture_round(
        folder / "models" / "gpt_000.pth", folder / "out", checkpoint_dir=folder / "models", rule=rule, made=2, most=80
    )


def _round(folder: Path) -> Any:
    from interp_kit.studies.culture.round import kept

    if not (folder / "out" / "c_quizzes.json").exists():
        return None
    quizzes, found = kept(folder / "out")
    assert len(quizzes) == len(found["p"])
    return quizzes, found


# rl, rl-trl: from a weak start, through the loop that shares a prompt's forward pass, and through trl


def start_model(folder: Path) -> None:
    """A tiny model of the card game."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp_kit.tasks.cards import CardsTask

    torch.manual_seed(0)
    task = CardsTask("train")
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 40, "vocab_size": len(task.vocabulary)}
    model = GPT2LMHeadModel(GPT2Config(**size, initializer_range=0.7, bos_token_id=task.pad, eos_token_id=task.pad))
    model.save_pretrained(folder / "start")
    task.tokenizer().save_pretrained(folder / "start")


def rl(folder: Path) -> None:
    from interp_kit.studies.cards.rl import facts, prompts_of
    from interp_kit.tasks.cards import CardsTask
    from interp_kit.training.rl.config import RLConfig
    from interp_kit.training.rl.shared_prompt import train_shared_prompt

    task = CardsTask("train")
    config = RLConfig(batch_size=8, log_every=2, save_every=2, warm_up=0)
    train_shared_prompt(
        folder / "start", prompts_of(task, task.deals(160, 0)), folder / "model", config, tokenizer=task.tokenizer(),
        facts=facts(task), progress=False,
    )  # fmt: skip


def rl_trl(folder: Path) -> None:
    from interp_kit.studies.cards.rl_trl import Options, run
    from interp_kit.training.rl.trl_config import TRLConfig

    training = TRLConfig(batch_size=8, samples=4, log_every=1, save_every=1, warm_up=0)
    run(
        Options(
            start=str(folder / "start"), out=folder / "model", prompts=48, device="cpu", progress=False,
            training=training,
        )
    )  # fmt: skip


COMMANDS = {
    killed.name: killed
    for killed in (
        Killed("train", nothing, TRAIN, _model, _model),
        Killed("retrain", former_model, TRAIN, _model, _model),
        Killed("train-culture", nothing, CULTURE, _turns, _turns),
        Killed("harvest", nothing, harvest, _harvested, _harvested),
        Killed("save", nothing, save, _saved, _saved),
        Killed("report", nothing, report, _page, _page),
        Killed("study", nothing, study, _page, _page),
        Killed("rl", start_model, rl, _model, _model),
        Killed("rl-trl", start_model, rl_trl, _model, _model),
        Killed("round", round_inputs, round_, _round, _round),
    )
}
WITH_WORKERS = ("train-culture", "study")  # which write, and are seen by time alone
# after a kill there is what was there before, or the whole new thing
ALL_OR_NOTHING = ("train", "retrain", "rl", "rl-trl")
