"""Results: frozen dataclasses that become a tidy table, a figure, and two files (safetensors and JSON, never
pickle)."""

import base64
import dataclasses
import html
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from interp_kit.core.files import read_json, replacing_directory
from interp_kit.core.stats import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Result = TypeVar("Result", bound="AbstractResult")
_CLASSES: dict[str, type["AbstractResult"]] = {}
# Class -> module that defines it, so that a fresh process can load what another one saved.
_DEFINED_IN = {
    "AblationResult": "interp_kit.analysis.ablation",
    "AttentionLags": "interp_kit.analysis.attention",
    "AuditResult": "interp_kit.recipes.audit",
    "Circuit": "interp_kit.analysis.circuit",
    "CultureTests": "interp_kit.recipes.culture_scores",
    "DASResult": "interp_kit.analysis.das",
    "EvaluationResult": "interp_kit.analysis.evaluation",
    "FaithfulnessResult": "interp_kit.analysis.faithfulness",
    "Generations": "interp_kit.analysis.generation",
    "HeldOutResult": "interp_kit.analysis.evaluation",
    "InterchangeResult": "interp_kit.analysis.abstraction",
    "JaccardResult": "interp_kit.analysis.similarity",
    "LensResult": "interp_kit.analysis.attribution",
    "LogitAttributionResult": "interp_kit.analysis.attribution",
    "MechanismResult": "interp_kit.analysis.mediation",
    "PatchingResult": "interp_kit.analysis.patching",
    "PathPatchingResult": "interp_kit.analysis.paths",
    "ProbeResult": "interp_kit.analysis.probing",
    "ReadabilityResult": "interp_kit.analysis.readability",
    "SAEResult": "interp_kit.analysis.sae",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractResult(ABC):
    """Base of every result. `config` is what made it: model, task, options, as JSON values.

    Fields of subclasses are numpy arrays, JSON values, Estimates, or tuples and string-keyed mappings of those.
    """

    config: Mapping[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _CLASSES[cls.__name__] = cls

    @abstractmethod
    def to_frame(self) -> "pd.DataFrame":
        """One row a measurement, with n and interval."""

    @abstractmethod
    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The result as a figure; draws on `ax` where it is given."""

    @abstractmethod
    def caption(self) -> str:
        """What the figure shows, in a sentence or two: n and its unit, the interval, the control or chance level."""

    def _repr_html_(self) -> str:
        """In a notebook a result shows itself: its figure and caption."""
        from interp_kit.core.plotting import png

        image = base64.b64encode(png(self.plot(), dpi=90)).decode()
        return f'<img src="data:image/png;base64,{image}"><p>{html.escape(self.caption())}</p>'

    def save(self, directory: str | Path) -> Path:
        """Write DIRECTORY/result.json and DIRECTORY/arrays.safetensors, whole or not at all."""
        from safetensors.numpy import save_file

        arrays: dict[str, np.ndarray] = {}
        values = {f.name: _pack(getattr(self, f.name), f.name, arrays) for f in dataclasses.fields(self)}
        with replacing_directory(directory) as aside:
            text = json.dumps({"class": type(self).__name__, "values": values}, indent=2, allow_nan=False)
            (aside / "result.json").write_text(text + "\n", encoding="utf-8")
            save_file({name: np.asarray(a, order="C") for name, a in arrays.items()}, aside / "arrays.safetensors")
        return Path(directory)

    @classmethod
    def load(cls: type[Result], directory: str | Path) -> Result:
        """Read what `save` wrote. Raises ValueError naming the folder where it holds no result of this class."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        directory = Path(directory)
        if not (directory / "result.json").exists():
            raise ValueError(f"{directory} holds no result: there is no result.json")
        data = read_json(directory / "result.json")
        name, values = (data.get("class"), data.get("values")) if isinstance(data, dict) else (None, None)
        found = _class_of(name) if isinstance(name, str) else None
        if found is None or not issubclass(found, cls):
            raise ValueError(f"{directory} holds a {name!r}, not a {cls.__name__}")
        try:
            arrays = load_file(directory / "arrays.safetensors")
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{directory}/arrays.safetensors is damaged or missing: {error}") from error
        names = {f.name for f in dataclasses.fields(found)}
        if not isinstance(values, dict) or set(values) != names:
            shown = sorted(values) if isinstance(values, dict) else values
            raise ValueError(f"{directory}: fields {shown} do not match {found.__name__}'s {sorted(names)}")
        fields = {}
        for name, value in values.items():
            try:
                fields[name] = _unpack(value, arrays)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{directory}: field {name!r} is damaged: {error!r}") from error
        return found(**fields)


def _class_of(name: str) -> type[AbstractResult] | None:
    """The result class of that name; the module that defines one of the package's own is imported if it is not yet."""
    if name not in _CLASSES and name in _DEFINED_IN:
        importlib.import_module(_DEFINED_IN[name])
    return _CLASSES.get(name)


def _pack(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    match value:
        case np.ndarray() if value.dtype.kind in "biuf":
            while path in arrays:  # {"a.b": …, "a": {"b": …}}
                path += "'"
            arrays[path] = value
            return {"@array": path}
        case np.ndarray():
            raise TypeError(f"{path}: a result cannot hold an array of {value.dtype}")
        case Estimate():
            return {"@estimate": [_pack(v, path, arrays) for v in dataclasses.astuple(value)]}
        case np.generic():
            return _pack(value.item(), path, arrays)
        case float() if not np.isfinite(value):
            return {"@float": repr(value)}
        case Mapping() if any(str(key).startswith("@") for key in value):
            raise ValueError(f"{path}: no key may begin with @: {', '.join(map(str, value))}")
        case Mapping():
            return {str(key): _pack(item, f"{path}.{key}", arrays) for key, item in value.items()}
        case tuple() | list():
            return [_pack(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{path}: a result cannot hold a {type(value).__name__}")


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    match value:
        case {"@array": name}:
            return arrays[name]
        case {"@estimate": parts}:
            return Estimate(*(_unpack(part, arrays) for part in parts))
        case {"@float": text}:
            return float(text)
        case dict():
            return {key: _unpack(item, arrays) for key, item in value.items()}
        case list():
            return tuple(_unpack(item, arrays) for item in value)
    return value
