"""Files for training large models on graph questions with verl, which has an environment of its own."""

from interp_kit.training.verl.folder import write_verl
from interp_kit.training.verl.launch import PRESETS, Preset

__all__ = ["PRESETS", "Preset", "write_verl"]
