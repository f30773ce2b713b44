"""Data sets of the card game: every split in memory, or as Hugging Face `datasets`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp_kit.core.config import check_choice, check_seed
from interp_kit.tasks.cards.catalogue import SPLITS
from interp_kit.tasks.cards.task import CardsTask
from interp_kit.tasks.cards.text import CARDS_AS, answer_text

if TYPE_CHECKING:
    from datasets import Dataset

    from interp_kit.core.example import Example


@dataclass(frozen=True)
class CardsConfig:
    """Sizes and seed of the data sets.

    Attributes:
        train: Training examples; the arms that memorise have 100, 300 or 1,000.
        val: Validation examples, by which the best checkpoint is chosen.
        test: Examples of each test split.
        seed: Every split derives its own stream from it by name, so no size changes another split.
        cards: "whole" (one token per card) or "split" (two).

    Raises:
        ValueError: A size below 1, a seed below 0, or another way of writing cards.
    """

    train: int = 150_000
    val: int = 400
    test: int = 400
    seed: int = 0
    cards: str = "whole"

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be a whole number of at least 1")
        check_seed(self.seed)
        check_choice("cards", self.cards, CARDS_AS)

    def size(self, split: str) -> int:
        """Number of examples per split."""
        return {"train": self.train, "val": self.val}.get(split, self.test)


def build_examples(
    config: CardsConfig | None = None, splits: tuple[str, ...] = tuple(SPLITS)
) -> "dict[str, list[Example]]":
    """Every split as examples, in memory. Raises ValueError for an unknown split."""
    config = config or CardsConfig()
    return {name: CardsTask(name, cards=config.cards).sample(config.size(name), config.seed) for name in splits}


def build_datasets(config: CardsConfig | None = None, splits: tuple[str, ...] = tuple(SPLITS)) -> "dict[str, Dataset]":
    """Every split as a `datasets.Dataset`.

    Columns: `prompt` (up to `Answer:`), `completion` (` 13` and end-of-text), `answer` (an integer; BIG is 1000, SMALL
    -1000), `rule`, and every other variable of the task.

    Raises:
        ValueError: An unknown split.
    """
    from datasets import Dataset

    found = {}
    for name, examples in build_examples(config, splits).items():
        found[name] = Dataset.from_list([row(CardsTask(name), example) for example in examples])
    return found


def row(task: CardsTask, example: "Example") -> dict[str, Any]:
    """One row of a data set: texts, the rule's name, and every variable."""
    completion = answer_text(example.labels["answer"])
    prompt = example.text.removesuffix(completion)
    end = task.vocabulary[task.pad]
    return {
        **example.labels,
        "prompt": prompt,
        "completion": completion + end,
        "rule": task.rules[example.labels["rule"]].name,
    }
