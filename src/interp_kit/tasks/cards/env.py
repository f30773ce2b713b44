"""The card game as a gymnasium environment: one prompt, one answer in text, one reward.

`gymnasium.make("interp_kit.tasks.cards.env:interp_kit/Cards-v0", split="id_test")` makes it too. It is kept out of
`interp_kit.tasks.cards`, which needs no gymnasium.
"""

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Text

from interp_kit.core.config import check_names, check_number, expect
from interp_kit.core.example import Example
from interp_kit.tasks.cards.catalogue import RULES, Split, split_named
from interp_kit.tasks.cards.rules import Rule
from interp_kit.tasks.cards.task import MOST, CardsTask
from interp_kit.tasks.cards.text import answer_text
from interp_kit.tasks.cards.verifier import Reward, parse

ID, ENTRY_POINT = "interp_kit/Cards-v0", "interp_kit.tasks.cards.env:TextGameEnv"
LONGEST_PROMPT, LONGEST_ACTION = 600, 32  # characters
OPTIONS = ("split", "rules")


class TextGameEnv(gymnasium.Env[str, str]):
    """Episodes of one step: the observation is a prompt up to `Answer:`, the action is the completion.

    The reward is that of `verifier.Reward`. An action that is not ASCII, or is longer than the action space allows, is
    no answer and earns 0.

    Args:
        split: Which deals are drawn: a split's name, or a Split of your own.
        rules: Names of the rules that are dealt, of those in the split; None deals all of them.
        catalogue: All rules that a split may name.
        format_bonus: Added to the reward of an answer of the right kind.
        most: Cards of the longest deal.

    Raises:
        ValueError: An unknown split, or a rule that it does not deal.
    """

    def __init__(
        self,
        split: str | Split = "train",
        rules: Sequence[str] | None = None,
        *,
        catalogue: Sequence[Rule] = RULES,
        format_bonus: float = 0.0,
        most: int = MOST,
    ) -> None:
        check_number("format_bonus", format_bonus, least=0, below=1)
        self.observation_space = Text(LONGEST_PROMPT, min_length=1, charset=string.printable)
        self.action_space = Text(LONGEST_ACTION, min_length=0, charset=string.printable)
        self.reward = Reward(format_bonus)
        given = {"split": split, "rules": rules, "catalogue": catalogue, "format_bonus": format_bonus, "most": most}
        self.spec = EnvSpec(ID, entry_point=ENTRY_POINT, kwargs=given)  # without one, check_env warns
        self._catalogue, self._most = tuple(catalogue), most
        self._split, self._rules = split, rules
        self.task = self._task(split, rules)
        self._example: Example | None = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Deal anew.

        Args:
            seed: Starts the random stream again; None goes on with it.
            options: `split` and `rules`, which replace those of the constructor for this episode.

        Returns:
            The prompt, and `split`, `rule` and `count` (of cards) of the deal.

        Raises:
            ValueError: An unknown option, split or rule.
        """
        super().reset(seed=seed)
        given = options or {}
        check_names("options", given.keys(), OPTIONS, empty=True)
        task = self.task
        if given:
            task = self._task(given.get("split", self._split), given.get("rules", self._rules))
        deals = task.split.deals(self.np_random, 1, task.rules, task.most)
        self._example, self._over = task.examples(deals)[0], False
        labels = self._example.labels
        return self._prompt, {
            "split": task.split.name,
            "rule": task.rules[labels["rule"]].name,
            "count": labels["count"],
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer the prompt, which ends the episode.

        Args:
            action: The completion: text up to its end, or up to end-of-text.

        Returns:
            The same prompt, the reward, True (terminated), False (truncated), and `answer` (the right one), `given`
            (as the verifier reads it, None for no answer), `valid` and `right`.

        Raises:
            ResetNeeded: No episode is running.
            TypeError: The action is not text.
        """
        expect("action", action, str, "the completion as text")
        if self._example is None or self._over:
            raise ResetNeeded("no episode is running; call reset() before step()")
        self._over = True
        answer = self._example.labels["answer"]
        text = action if len(action) <= LONGEST_ACTION else ""
        given = parse(text)
        info = {"answer": answer, "given": given, "valid": given is not None, "right": given == answer}
        return self._prompt, self.reward(text, answer), True, False, info

    @property
    def _prompt(self) -> str:
        assert self._example is not None
        return self._example.text.removesuffix(answer_text(self._example.labels["answer"]))

    def _task(self, split: str | Split, rules: Sequence[str] | None) -> CardsTask:
        found = split_named(split) if isinstance(split, str) else split
        if rules is not None:
            found = _restricted(found, rules)
        return CardsTask(found, rules=self._catalogue, most=self._most)


def _restricted(split: Split, rules: Sequence[str]) -> Split:
    """The split with deals of these rules alone; each part keeps its weight per rule."""
    chosen = check_names("rules", rules, [name for name, _ in split.weights])
    parts = []
    for part in split.parts:
        if kept := tuple(name for name in part.rules if name in chosen):
            parts.append(replace(part, rules=kept, weight=part.weight * len(kept) / len(part.rules)))
    return replace(split, parts=tuple(parts))


gymnasium.register(ID, entry_point=ENTRY_POINT)
