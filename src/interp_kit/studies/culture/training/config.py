"""Options of a run that trains a group of GPTs."""

from dataclasses import dataclass

from interp_kit.core.config import check_choice, check_count, check_flag, check_number
from interp_kit.tasks.culture.grids import NOISE


@dataclass(frozen=True)
class CultureConfig:
    """Options for training a group of GPTs."""

    ids: tuple[int, ...] = (0, 1, 2, 3)
    """numbers of the models, from which with `seed` their own seeds are derived"""
    preset: str = "wide"
    """wide (1.8 M parameters, batch 192: what the shipped models are, seven minutes on one GPU), fast (0.8 M, batch 16:
    for a CPU), or one of the original: 17K, 4M, 37M, 122M, 352M"""
    budget: int = 1_280_000
    """quizzes that each model sees, over which learning rates are scheduled"""
    seconds: float = 0.0
    """seconds of training per model, over which learning rates are scheduled instead of `budget`; such a run cannot be
    repeated exactly; 0: by budget"""
    turn: int = 32_000
    """quizzes between evaluations"""
    tested: int = 512
    """quizzes of an evaluation"""
    noise: float = NOISE
    """share of a prompt's cells drawn anew"""
    focus: float = 0.6
    """how strongly quizzes are drawn from the rules and structures still answered wrongly, 0 for uniformly"""
    hint: float = 1.0
    """weight of the second grid in the loss, written before the rule is known"""
    late_hint: float = 0.3
    """that weight in the second half of the budget"""
    finish: float = 0.06
    """share of the budget, at its end, in which mostly the probability of whole answers is raised; needs making 0"""
    making: float = 0.0
    """share of the budget, at its start and again at its end, in which the structure that makes quizzes joins and every
    position is learned, at some cost in accuracy: what a model that makes quizzes needs; 0.5: throughout"""
    share: float = 0.2
    """share of that structure in what is drawn then"""
    smudge: float = 0.0
    """noise on its first grid, as makers sample it at a high temperature and so smudge it (the original has none)"""
    rest: float = 0.1
    """loss weight on non-answer positions"""
    threshold: float = 0.95
    """accuracy at which models begin to make quizzes"""
    quizzes: int = 0
    """how many culture quizzes a round of making is to keep, 0 for no round"""
    makers: tuple[int, ...] = ()
    """numbers of the models that make them, by default all; those of `ids` judge them"""
    max_fail: int = 1
    """how many models may fail at a quiz that is kept"""
    seed: int = 0
    """of weights, quizzes and noise"""
    device: str = "cpu"
    """torch device"""
    precision: str = "float32"
    """of the passes on a CPU: bfloat16 is twice as fast where the CPU has it"""
    threads: int = 1
    """threads of a process"""
    workers: int | None = None
    """processes; default: two on a CPU, one for each model on a GPU"""
    compiled: bool = True
    """compile one block, which stands for all, on a GPU; costs half a minute at the start"""
    shards: int = 1
    """processes that share every step of a model"""

    def __post_init__(self) -> None:
        for option in ("ids", "makers"):
            numbers = getattr(self, option)
            for number in numbers:
                check_count(option, number, least=0)
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"{option} is {numbers}; name each model once")
        for option in ("budget", "turn", "tested", "threads", "shards"):
            check_count(option, getattr(self, option))
        if self.workers is not None:
            check_count("workers", self.workers)
        check_flag("compiled", self.compiled)
        for option in ("quizzes", "max_fail", "seed"):
            check_count(option, getattr(self, option), least=0)
        for option in ("noise", "focus", "finish", "making", "share", "smudge", "threshold"):
            check_number(option, getattr(self, option), least=0, most=1)
        for option in ("hint", "late_hint", "rest", "seconds"):
            check_number(option, getattr(self, option), least=0)
        check_choice("precision", self.precision, ("float32", "bfloat16"))

    @property
    def processes(self) -> int:
        """Processes at a time."""
        if self.workers is not None:
            return self.workers
        return 2 if self.device.startswith("cpu") else len(self.ids) * self.shards
