"""Requirements on a training state before a learner is made of it: sizes and numbers that belong together."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from interp_kit.models.mygpt import MyGPT
from interp_kit.studies.culture.training.presets import GPTPreset
from interp_kit.tasks.culture.grids import STRUCTURES
from interp_kit.tasks.culture.world import TASKS

NEEDED = ("params", "lr", "momentum", "betas", "eps", "weight_decay")  # others are new in some version of torch
KEPT = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum"}}
ENTRIES = ("preset", "seed", "budget", "seen", "right", "model", "optimisers")


def checked_state(state: Any) -> dict[str, Any]:
    """The state as it is. Raises ValueError naming an entry that is missing, of another kind, or cannot be."""
    if not isinstance(state, dict):
        raise ValueError(f"it is a {type(state).__name__}")
    if missing := [name for name in ENTRIES if name not in state]:
        raise ValueError(f"it has no {missing[0]}")
    for name, least in (("seed", 0), ("budget", 1), ("seen", 0)):
        if type(state[name]) is not int or not least <= state[name] < 2**63:
            raise ValueError(f"{name} is {_shown(state[name])}, expected a whole number of at least {least}")
    state = {"spent": 0.0} | state  # earlier versions did not count it
    if type(state["spent"]) is not float or not 0 <= state["spent"] < math.inf:
        raise ValueError(f"spent is {_shown(state['spent'])}, expected a number of seconds")
    right, shape = state["right"], (len(TASKS), len(STRUCTURES))
    if not isinstance(right, Tensor) or right.dtype != torch.float64 or right.shape != shape:
        raise ValueError(f"right is {_shown(right)}, expected {shape} shares in float64")
    if not ((right >= 0) & (right <= 1)).all():
        raise ValueError("right has shares outside 0..1")
    _check_model(_preset(state["preset"]), state["model"])
    if not isinstance(state["optimisers"], list):
        raise ValueError(f"optimisers is {_shown(state['optimisers'])}, expected a list")
    return state


def _preset(values: Any) -> GPTPreset:
    if not isinstance(values, dict) or values.keys() != {entry.name for entry in fields(GPTPreset)}:
        raise ValueError(f"preset is {_shown(values)}, expected the fields of a GPTPreset")
    for entry in fields(GPTPreset):
        value, kind = values[entry.name], type(entry.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"preset: {entry.name} is {_shown(value)}, expected {kind.__name__}")
        if not isinstance(value, str) and not 0 <= value < math.inf:
            raise ValueError(f"preset: {entry.name} is {value}, expected a finite number of at least 0")
    return GPTPreset(**values)


def _check_model(preset: GPTPreset, weights: Any) -> None:
    """Before the network is built: a file may ask for one that it does not hold."""
    if not isinstance(weights, dict) or preset.n_layers > len(weights):
        raise ValueError(f"model is {_shown(weights)}, not the weights of {preset.n_layers} layers")
    with torch.device("meta"):
        expected = MyGPT(preset.network()).state_dict()
    for name in (*expected, *weights):
        value = weights.get(name)
        if name not in expected or not isinstance(value, Tensor):
            raise ValueError(f"model: {_shown(name)} is {'unknown' if name in weights else 'missing'}")
        if value.shape != expected[name].shape or value.dtype != torch.float32:
            raise ValueError(f"model: {name} is {_shown(value)}, expected float32 {tuple(expected[name].shape)}")
        _check_finite(f"model: {name}", value)


def check_optimiser(optimiser: torch.optim.Optimizer, saved: Any) -> None:
    """Compare what an optimiser is to go on from with the fresh one. Raises ValueError naming what cannot be."""
    if not isinstance(saved, dict) or saved.keys() != {"state", "param_groups"}:
        raise ValueError(f"an optimiser is {_shown(saved)}, expected its state and groups")
    fresh = optimiser.state_dict()["param_groups"]
    groups, state = saved["param_groups"], saved["state"]
    if not isinstance(groups, list) or len(groups) != len(fresh) or not isinstance(state, dict):
        raise ValueError("an optimiser has other groups of parameters")
    for mine, group in zip(fresh, groups, strict=True):
        if not isinstance(group, dict):
            raise ValueError(f"an optimiser's group is {_shown(group)}")
        if missing := [key for key in NEEDED if key in mine and key not in group]:
            raise ValueError(f"an optimiser's group has no {missing[0]}")
        if not isinstance(group["lr"], int | float) or not 0 <= group["lr"] < math.inf:
            raise ValueError(f"an optimiser's lr is {_shown(group['lr'])}")
        if other := [key for key in mine if key != "lr" and key in group and group[key] != mine[key]]:
            raise ValueError(f"an optimiser's {other[0]} is {_shown(group[other[0]])}, expected {mine[other[0]]}")
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if state and len(state) != len(parameters):
        raise ValueError(f"an optimiser has a state of {len(state)} parameters, expected {len(parameters)}")
    for number, entries in state.items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(entries, Mapping):
            raise ValueError(f"an optimiser has a state of parameter {_shown(number)}")
        if entries.keys() != KEPT[type(optimiser).__name__]:
            raise ValueError(f"an optimiser keeps {', '.join(map(_shown, entries))} of parameter {number}")
        for key, value in entries.items():
            shapes = (parameters[number].shape, torch.Size([]))
            if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.shape not in shapes:
                raise ValueError(f"an optimiser's {_shown(key)} of parameter {number} is {_shown(value)}")
            _check_finite(f"an optimiser's {_shown(key)} of parameter {number}", value)


def _check_finite(name: str, value: Tensor) -> None:
    if count := int((~torch.isfinite(value)).sum()):
        raise ValueError(f"{name} has {count} nan or infinite values")


def _shown(value: Any) -> str:
    """A value for a message, however large it is."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
