"""The culture models: load them, let them solve quizzes, test them.

    from interp_kit.culture import load_hooked, load_quizzes, generate, run_tests, repr_grid

    python -m interp_kit.culture 0 1 2 3 --num_test_samples 2000

The command prints the check of the positional encoding, sizes and stored accuracies, the largest difference between the
logits of MyGPT and of its conversion, whether decoding with a key/value cache is exact, one quiz, then for each model
perplexity and accuracy by structure and by task with 95 % intervals, with noise on the prompt and without. Exit status
1 where a check fails or a checkpoint cannot be read. Nothing heavy is imported before it is needed.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp_kit.studies.culture.check_command import main

# public name -> module that defines it
_EXPORTS = {
    "load_culture": "interp_kit.studies.culture.models",
    "load_hooked": "interp_kit.studies.culture.models",
    "load_quizzes": "interp_kit.studies.culture.models",
    "culture_ids": "interp_kit.studies.culture.models",
    "generate": "interp_kit.studies.culture.models",
    "create_tokenizer": "interp_kit.studies.culture.models",
    "run_tests": "interp_kit.studies.culture.quiz_tests",
    "quiz_diff_mask": "interp_kit.tasks.culture.grids",
    "by_label": "interp_kit.tasks.culture.data",
    "repr_grid": "interp_kit.tasks.culture.figures",
    "plot_quizzes": "interp_kit.tasks.culture.figures",
}
__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from interp_kit.studies.culture.models import create_tokenizer as create_tokenizer
    from interp_kit.studies.culture.models import culture_ids as culture_ids
    from interp_kit.studies.culture.models import generate as generate
    from interp_kit.studies.culture.models import load_culture as load_culture
    from interp_kit.studies.culture.models import load_hooked as load_hooked
    from interp_kit.studies.culture.models import load_quizzes as load_quizzes
    from interp_kit.studies.culture.quiz_tests import run_tests as run_tests
    from interp_kit.tasks.culture.data import by_label as by_label
    from interp_kit.tasks.culture.figures import plot_quizzes as plot_quizzes
    from interp_kit.tasks.culture.figures import repr_grid as repr_grid
    from interp_kit.tasks.culture.grids import quiz_diff_mask as quiz_diff_mask


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'interp_kit.culture' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if __name__ == "__main__":
    sys.exit(main())
