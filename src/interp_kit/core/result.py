"""Results: frozen dataclasses that become a tidy table, a figure, and two files (safetensors and JSON, never
pickle)."""

import dataclasses
import hashlib
import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from interp_kit.core.config import check_fields
from interp_kit.core.files import JSON_LIMIT, check_regular, parse_json, read_json
from interp_kit.core.folders import replacing_directory
from interp_kit.core.showing import caution, counted, line, preview
from interp_kit.core.stats.intervals import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Result = TypeVar("Result", bound="AbstractResult")
KIND = "saved result"
_CLASSES: dict[str, type["AbstractResult"]] = {}
# Class -> module that defines it, so that a fresh process can load what another one saved.
_DEFINED_IN = {
    "AblationResult": "interp_kit.analysis.causal.ablation",
    "AlignmentResult": "interp_kit.analysis.dictionaries.alignment.result",
    "AttentionLags": "interp_kit.analysis.behaviour.attention_lags",
    "AuditResult": "interp_kit.studies.audit.result",
    "Circuit": "interp_kit.analysis.circuits.circuit",
    "CultureTests": "interp_kit.studies.culture.scores",
    "DASResult": "interp_kit.analysis.causal.das_result",
    "EvaluationResult": "interp_kit.analysis.behaviour.evaluation",
    "FaithfulnessResult": "interp_kit.analysis.circuits.faithfulness",
    "Generations": "interp_kit.analysis.behaviour.generation",
    "HeldOutResult": "interp_kit.analysis.behaviour.held_out",
    "InterchangeResult": "interp_kit.analysis.causal.interchange",
    "JaccardResult": "interp_kit.analysis.comparison.component_overlap",
    "LesionResult": "interp_kit.analysis.causal.lesion_result",
    "LensResult": "interp_kit.analysis.circuits.direct_attribution",
    "LogitAttributionResult": "interp_kit.analysis.circuits.direct_attribution",
    "MechanismResult": "interp_kit.analysis.causal.mechanism",
    "ModelDiffResult": "interp_kit.analysis.comparison.model_diffing",
    "NodeScores": "interp_kit.analysis.circuits.node_scores",
    "PatchingResult": "interp_kit.analysis.causal.patching_result",
    "PathPatchingResult": "interp_kit.analysis.circuits.path_patching",
    "ProbeResult": "interp_kit.analysis.probing.probe_result",
    "ProgramsResult": "interp_kit.studies.audit.programs.result",
    "ReadabilityResult": "interp_kit.analysis.probing.readability",
    "RuleExchange": "interp_kit.studies.culture.rules.exchange",
    "SAEResult": "interp_kit.analysis.dictionaries.sae_result",
    "UniversalityResult": "interp_kit.analysis.comparison.universality_result",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractResult(ABC):
    """Base of every result. `config` is what made it: analysis (the function's name, which a report's heading shows),
    model, task, options, as JSON values.

    Fields of subclasses are numpy arrays, JSON values, Estimates, or tuples and string-keyed mappings of those.
    Arrays should be C-contiguous, as `save` makes them so: sums in another order differ in the last digit.
    """

    leading: ClassVar[str] = ""  # column of the table by whose size rows are ranked
    rows_shown: ClassVar[int] = 8  # rows that a summary has
    later: ClassVar[tuple[str, ...]] = ()  # fields that earlier versions did not save; they have a default
    config: Mapping[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = cls.__repr__  # in its own __dict__: the dataclass decorator, which comes later, keeps it
        _CLASSES[cls.__name__] = cls

    @abstractmethod
    def to_frame(self) -> "pd.DataFrame":
        """One row per measurement, with n and interval."""

    @abstractmethod
    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The result as a figure; draws on `ax` where it is given."""

    @abstractmethod
    def caption(self) -> str:
        """Describe the figure in a sentence or two: n and its unit, the interval, the control or chance level."""

    def figures(self) -> tuple[tuple[dict[str, Any], str], ...]:
        """Options of `plot` and caption of each picture that a report draws: by default one, as it is without
        options."""
        return (({}, self.caption()),)

    def findings(self) -> tuple[str, ...]:
        """Sentences that a report opens with, each with n and interval; empty if the result draws no conclusion."""
        return ()

    def highlights(self) -> "pd.DataFrame":
        """The few rows of the table that the findings rest on, as commands print them: the largest by the column
        `leading` if there is one, else the first; columns that are empty or say the same in every row are left out."""
        frame = self.to_frame()
        if self.leading:
            size = frame[self.leading].abs().to_numpy()
            order = np.argsort(-size, kind="stable")  # nan at the end
            rows = frame.iloc[order[: int(np.isfinite(size).sum())][: self.rows_shown]]
        else:
            rows = frame.head(self.rows_shown)
        empty = {str(c) for c in rows if all(value is None or value in ("", -1) or value != value for value in rows[c])}
        figures = {"n", self.leading, "value", "score"}  # stay, as the rest of a row says little without them
        same = {str(c) for c in frame if len(frame) > 1 and len(set(frame[c].map(str))) == 1} - figures
        return rows.drop(columns=[c for c in rows if str(c) in empty | same])

    def made_by(self) -> str:
        """Name what made it: the function, or the words of its class if the config does not say ("held out")."""
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*", type(self).__name__.removesuffix("Result"))
        plain = " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in words)
        return str(self.config.get("analysis") or plain or type(self).__name__)

    def heading(self) -> str:
        """Name the analysis, what it asked and of which model, as a heading of a report."""
        c = self.config
        asked = [c.get(name) or getattr(self, name, "") for name in ("variable", "target")]
        asked[0] = asked[0] or getattr(self, "mediator", "")
        question = " → ".join(part for part in asked if isinstance(part, str) and part)
        name, model = self.made_by(), c.get("model")
        return name + (f": {question}" if question else "") + (f" ({model})" if isinstance(model, str) else "")

    def to_try(self) -> Mapping[str, list[dict[str, Any]]]:
        """Edits that show what was found, by what they do ("without L0H6"), as a playground page has them in its
        address. By default none."""
        return {}

    def __repr__(self) -> str:
        """Class, model and task, what was asked, the verdict if there is one, how many rows, n: one line."""
        c, frame = self.config, self.to_frame()
        many = c.get("models")
        model = c.get("model") or (counted(len(many), "model") if isinstance(many, tuple | list) else "")
        of = " on ".join(str(part) for part in (model, c.get("task")) if part)
        asked = [c.get(name) or getattr(self, name, "") for name in ("variable", "target")]
        asked[0] = asked[0] or getattr(self, "mediator", "")
        question = " -> ".join(part for part in asked if isinstance(part, str) and part)
        n = sorted(set(frame["n"])) if "n" in frame else []
        span = f"n = {n[0]}" + (f" to {n[-1]}" if len(n) > 1 else "") if n else ""
        verdict = getattr(self, "verdict", "")
        told = f"verdict: {verdict}" if isinstance(verdict, str) and verdict else ""
        return line(type(self).__name__, of, question, told, counted(len(frame), "row"), span)

    def _repr_html_(self) -> str:
        """The caption and the first rows, as notebooks show a result; its figure is `plot()`."""
        return preview(self.caption(), self.to_frame())

    def save(self, directory: str | Path) -> Path:
        """Write DIRECTORY/result.json and DIRECTORY/arrays.safetensors, whole or not at all.

        Raises:
            OSError: DIRECTORY holds anything but a result saved there before, or cannot be written.
            ValueError: Values that JSON cannot hold, or more of them than `load` reads.
        """
        from safetensors.numpy import save_file

        arrays: dict[str, np.ndarray] = {}
        values = {f.name: pack(getattr(self, f.name), f.name, arrays) for f in dataclasses.fields(self)}
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        with replacing_directory(directory, KIND) as aside:
            file = aside / "arrays.safetensors"
            save_file(arrays, file)
            data = {"class": type(self).__name__, "values": values, "arrays": _facts(file, arrays)}
            text = json.dumps({**data, "sha256": _digest(data)}, indent=2, allow_nan=False) + "\n"
            if len(text) > JSON_LIMIT or _digest(data) != parse_json(text, directory)["sha256"]:
                raise ValueError(f"{directory}: the values of this result are more than {JSON_LIMIT:,} bytes of JSON")
            (aside / "result.json").write_text(text, encoding="utf-8")
        return Path(directory)

    @classmethod
    def load(cls: type[Result], directory: str | Path) -> Result:
        """Read what `save` wrote. Warns (UserWarning) if it has no checksums, as version 0.1.0 saved it.

        Raises:
            ValueError: The folder holds no result of this class, or one that is damaged or was changed. It names the
                folder.
        """
        directory = Path(directory)
        file = directory / "result.json"
        if not file.exists():
            raise ValueError(f"{directory} holds no result: there is no result.json")
        data = read_json(file)
        name = data.get("class") if isinstance(data, dict) else None
        found = _class_of(name) if isinstance(name, str) else None
        if found is None or not issubclass(found, cls):
            raise ValueError(f"{directory} holds a {name!r}, not a {cls.__name__}")
        if set(data) == {"class", "values"}:
            caution(f"{directory} has no checksums (saved by version 0.1.0): save it anew")
        elif set(data) != {"class", "values", "arrays", "sha256"} or data.pop("sha256") != _digest(data):
            raise ValueError(f"{file} is damaged, or was changed after it was saved: its checksum is another")
        arrays = _read_arrays(directory / "arrays.safetensors", data.get("arrays"))
        values = data["values"]
        if not isinstance(values, dict):
            raise ValueError(f"{directory} is damaged: its values are a {type(values).__name__}")
        fields = {f.name: f.default for f in dataclasses.fields(found) if f.name in found.later}
        for name, value in values.items():
            try:
                fields[name] = unpack(value, arrays)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{directory}: field {name!r} is damaged: {error!r}") from error
        return found(**check_fields(found, fields, directory))


def _facts(file: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Facts by which the arrays and their file are recognised."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    shapes = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in arrays.items()}
    return {"bytes": file.stat().st_size, "sha256": digest, "arrays": shapes}


def _read_arrays(file: Path, facts: Any) -> dict[str, np.ndarray]:
    """The arrays of a result, which are those of `facts` unless that is None. Raises ValueError otherwise."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        size = check_regular(file).stat().st_size
        if facts is not None and facts["bytes"] != size:
            raise ValueError(f"it has {size:,} bytes, not {facts['bytes']}")
        arrays = load_file(file)
        if facts is not None and facts != _facts(file, arrays):
            raise ValueError("it is of another result, or was changed: its checksum is another")
        return arrays
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged or missing: {error}") from error


def _digest(data: Mapping[str, Any]) -> str:
    """sha256 of JSON values, in whatever order and spacing they are written."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _class_of(name: str) -> type[AbstractResult] | None:
    """The result class of that name; the module that defines one of the package's own is imported if it is not yet."""
    if name not in _CLASSES and name in _DEFINED_IN:
        importlib.import_module(_DEFINED_IN[name])
    return _CLASSES.get(name)


def pack(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The value as JSON; arrays in it go into `arrays` under their path, and a reference stands in their place."""
    match value:
        case np.ndarray() if value.dtype.kind in "biuf":
            while path in arrays:  # {"a.b": …, "a": {"b": …}}
                path += "'"
            arrays[path] = value
            return {"@array": path}
        case np.ndarray():
            raise TypeError(f"{path}: a result cannot hold an array of {value.dtype}")
        case Estimate():
            return {"@estimate": [pack(v, path, arrays) for v in dataclasses.astuple(value)]}
        case np.generic():
            return pack(value.item(), path, arrays)
        case float() if not np.isfinite(value):
            return {"@float": repr(value)}
        case Mapping() if any(str(key).startswith("@") for key in value):
            raise ValueError(f"{path}: no key may begin with @: {', '.join(map(str, value))}")
        case Mapping():
            return {str(key): pack(item, f"{path}.{key}", arrays) for key, item in value.items()}
        case tuple() | list():
            return [pack(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{path}: a result cannot hold a {type(value).__name__}")


def unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value that `pack` made JSON of."""
    match value:
        case {"@array": name}:
            return arrays[name]
        case {"@estimate": parts}:
            return Estimate(*(unpack(part, arrays) for part in parts))
        case {"@float": text}:
            return float(text)
        case dict():
            return {key: unpack(item, arrays) for key, item in value.items()}
        case list():
            return tuple(unpack(item, arrays) for item in value)
    return value
