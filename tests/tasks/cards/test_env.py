"""The card game as a gymnasium environment: spaces, rewards, reproducible deals."""

import string
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Text
from gymnasium.utils.env_checker import check_env

from interp_kit.tasks.cards.catalogue import SPLITS
from interp_kit.tasks.cards.deals import BIG, SMALL
from interp_kit.tasks.cards.env import TextGameEnv
from interp_kit.tasks.cards.text import answer_text


def test_check_env_passes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(TextGameEnv())


def test_gymnasium_makes_it_by_name() -> None:
    env = gymnasium.make("interp_kit.tasks.cards.env:interp_kit/Cards-v0", split="ood_classification")
    assert env.reset(seed=3)[0] == TextGameEnv("ood_classification").reset(seed=3)[0]


def test_the_spaces_are_the_documented_ones() -> None:
    env = TextGameEnv()
    assert env.observation_space == Text(600, min_length=1, charset=string.printable)
    assert env.action_space == Text(32, min_length=0, charset=string.printable)


@pytest.mark.parametrize("split", SPLITS)
def test_every_prompt_lies_in_the_space_and_the_right_answer_earns_1(split: str) -> None:
    env = TextGameEnv(split)
    names = {name for name, _ in SPLITS[split].weights}
    for seed in range(6):
        prompt, info = env.reset(seed=seed)
        assert env.observation_space.contains(prompt)
        assert prompt.endswith("\n\nAnswer:")
        assert info["rule"] in names
        _, _, terminated, truncated, told = env.step("no answer")
        assert (terminated, truncated, told["valid"], told["right"]) == (True, False, False, False)
        assert env.reset(seed=seed)[0] == prompt
        right = answer_text(told["answer"])
        assert env.action_space.contains(right)
        _, reward, _, _, told = env.step(right)
        assert (reward, told["right"]) == (1.0, True)


def test_the_answer_is_that_of_the_prompt() -> None:
    env = TextGameEnv("id_test", ["red_minus_blue"])
    prompt, _ = env.reset(seed=4)
    cards = [line.split() for line in prompt.split("\n")[2:-2]]
    by_hand = sum({"RED": 1, "BLUE": -1}.get(colour, 0) * int(value) for colour, value in cards)
    assert env.step("")[4]["answer"] == by_hand


@pytest.mark.parametrize("action", ["", "١٣", "é" * 40, " " * 40 + "0", "0" * 5000, "\x00", "-", "13 14", "BIGGER"])
def test_what_is_no_answer_earns_nothing(action: str) -> None:
    env = TextGameEnv("id_test", format_bonus=0.5)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["given"]) == (0.0, True, None)


def test_the_format_bonus_needs_the_right_kind_of_answer() -> None:
    for split, right_kind, other in (("id_test", "135", "BIG"), ("ood_classification", "BIG", "135")):
        env = TextGameEnv(split, format_bonus=0.25)
        env.reset(seed=1)
        answer = env.step(other)[4]["answer"]
        assert (answer in (BIG, SMALL)) == (split == "ood_classification")
        env.reset(seed=1)
        assert env.step(right_kind)[1] == 0.25 + (answer == BIG)
        env.reset(seed=1)
        assert env.step(other)[1] == 0.0


def test_deals_come_from_the_environments_own_stream_and_stay_in_the_split() -> None:
    env, other = TextGameEnv("id_test"), TextGameEnv("id_test")
    first = [env.reset(seed=7 if i == 0 else None)[0] for i in range(20)]
    assert [other.reset(seed=7 if i == 0 else None)[0] for i in range(20)] == first
    assert len(set(first)) > 15
    env.np_random = other.np_random
    assert env.reset()[0] not in first
    assert env.task.split == SPLITS["id_test"]
    assert TextGameEnv("id_test", ["red_minus_blue"]).task.split.shares == SPLITS["id_test"].shares


def test_rules_and_splits_are_options_of_an_episode() -> None:
    env = TextGameEnv("train")
    for seed in range(10):
        assert env.reset(seed=seed, options={"rules": ["odd_minus_even"]})[1]["rule"] == "odd_minus_even"
    _, info = env.reset(options={"split": "ood_new_colors"})
    assert (info["split"], info["rule"]) == ("ood_new_colors", "green_minus_yellow")
    with pytest.raises(ValueError, match="options holds 'spilt'"):
        env.reset(options={"spilt": "train"})
    with pytest.raises(ValueError, match="rules holds 'green_minus_yellow'"):
        TextGameEnv("id_test", ["green_minus_yellow"])
    with pytest.raises(ValueError, match="cards has no split 'test'"):
        TextGameEnv("test")
    with pytest.raises(ValueError, match="format_bonus is 1"):
        TextGameEnv(format_bonus=1.0)


def test_a_rules_share_is_its_share_among_the_chosen_ones() -> None:
    chosen = ["red_minus_blue", "odd_minus_even"]
    weights = dict(SPLITS["train"].weights)
    found = dict(TextGameEnv("train", chosen).task.split.weights)
    assert found.keys() == set(chosen)
    for name in chosen:
        assert found[name] == pytest.approx(weights[name] / sum(weights[other] for other in chosen))


def test_a_step_needs_a_running_episode() -> None:
    env = TextGameEnv()
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        env.step("1")
    env.reset(seed=0)
    env.step("1")
    with pytest.raises(ResetNeeded):
        env.step("1")
    env.reset()
    with pytest.raises(TypeError, match="action"):
        env.step(1)  # pyright: ignore[reportArgumentType]


def test_the_task_alone_needs_no_gymnasium() -> None:
    code = "import sys, interp_kit.tasks.cards; assert 'gymnasium' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
