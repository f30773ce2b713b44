"""The card game: does supervised fine-tuning memorise where reinforcement learning generalises?"""

from interp_kit.tasks.cards.rules import Clause as Clause
from interp_kit.tasks.cards.rules import Rule as Rule
from interp_kit.tasks.cards.task import CardsTask as CardsTask
