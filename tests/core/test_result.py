"""A result comes back from disk as it was, or an error says which file is at fault."""

import dataclasses
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from safetensors.numpy import load_file, save_file

from interp_kit.core import result
from interp_kit.core.config import _fits
from interp_kit.core.folders import MARK
from interp_kit.core.result import _CLASSES, AbstractResult
from interp_kit.core.stats.intervals import Estimate
from interp_kit.reports.plotting import new_axes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(AbstractResult):
    """Every kind of value that a result may hold."""

    value: Any
    other: Any = None
    estimate: Estimate | None = None
    names: tuple[str, ...] = ()
    array: np.ndarray | None = None

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": [self.value]})

    def plot(self, ax: Axes | None = None) -> Axes:
        return ax or new_axes()

    def caption(self) -> str:
        return "Nothing."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unrelated(Measured):
    """Another class of result."""


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, nan equal to nan, an array's shape and dtype included."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )  # fmt: skip
    if isinstance(a, Estimate):
        return isinstance(b, Estimate) and same(dataclasses.astuple(a), dataclasses.astuple(b))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


VALUES = {
    "plain": (1, -2.5, True, None, "é\n", 2**60, 0.1 + 0.2),
    "not finite": (float("nan"), float("inf"), float("-inf")),
    "floats": np.array([[1.0, np.nan], [-np.inf, 1e-300]]),
    "integers": np.array([[-1, 2**40]]),
    "booleans": np.array([True, False]),
    "half": np.array([0.5, 2.0], dtype=np.float16),
    "single": np.float32([1 / 3]),
    "no axis": np.array(1.5),
    "empty": np.zeros((0, 3)),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "big-endian": np.arange(3, dtype=">i4").astype("<i4"),
    "estimate": Estimate(0.5, 0.25, float("inf"), 8, "inputs"),
    "estimate without interval": Estimate(0.5, float("nan"), float("nan"), 1, "seeds"),
    "nested": {"a": {"b": (np.arange(3), {"c": Estimate(0.0, 0.0, 1.0, 2, "seeds")})}, "": (), "d": {}},
    "names that run together": {"a.b": np.zeros(1), "a": {"b": np.ones(2)}, "c": (np.zeros(3),), "c.0": np.ones(4)},
}


@pytest.mark.parametrize("name", VALUES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    result = Measured(config={"model": "m", "k": 5, "options": {"eps": 0.1}}, value=VALUES[name], other=np.arange(2))
    assert result.save(tmp_path / "r") == tmp_path / "r"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [MARK, "arrays.safetensors", "result.json"]
    for loaded in (Measured.load(tmp_path / "r"), AbstractResult.load(tmp_path / "r")):
        assert type(loaded) is Measured
        assert same(loaded.config, result.config)
        assert same(loaded.value, result.value)
        assert same(loaded.other, result.other)


def test_numpy_scalars_come_back_as_python_numbers(tmp_path: Path) -> None:
    Measured(config={}, value=(np.float64(0.5), np.int64(3), np.bool_(True), np.float32("nan"))).save(tmp_path / "r")
    assert same(Measured.load(tmp_path / "r").value, (0.5, 3, True, float("nan")))


def test_result_json_is_strict_json(tmp_path: Path) -> None:
    Measured(config={"threshold": float("nan")}, value=float("inf")).save(tmp_path / "r")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads((tmp_path / "r" / "result.json").read_text(), parse_constant=refuse)["class"] == "Measured"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (object(), "value: "),
        ({"deep": ({1, 2},)}, r"value\.deep\.0: .*set"),
        ({"deep": np.array(["text"])}, r"value\.deep: "),
        (np.array([None]), "value: "),
        ({"@array": "value"}, "@array"),
    ],
)
def test_what_cannot_be_held_is_named_and_the_old_result_kept(tmp_path: Path, value: Any, where: str) -> None:
    Measured(config={}, value=1).save(tmp_path / "r")
    with pytest.raises((TypeError, ValueError), match=where):
        Measured(config={}, value=value).save(tmp_path / "r")
    assert Measured.load(tmp_path / "r").value == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_failed_write_keeps_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Measured(config={}, value=1).save(tmp_path / "r")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match=f"{tmp_path / 'r'}: No space left"):
        Measured(config={}, value=2).save(tmp_path / "r")
    assert Measured.load(tmp_path / "r").value == 1
    assert os.listdir(tmp_path) == ["r"]


def without_checksums(folder: Path) -> None:
    """The result as version 0.1.0 saved it."""
    data = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({key: data[key] for key in ("class", "values")}))


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "result.json").read_text())
        changed = change(data)
        (folder / "result.json").write_text(json.dumps(data if changed is None else changed))

    return apply


def truncate(folder: Path) -> None:
    path = folder / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def lengthen(folder: Path) -> None:
    path = folder / "arrays.safetensors"
    path.write_bytes(path.read_bytes() + b"more")


def drop_an_array(folder: Path) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    arrays.pop("value")
    save_file(arrays, folder / "arrays.safetensors")


def put_a_pickle(folder: Path) -> None:
    (folder / "arrays.safetensors").write_bytes(pickle.dumps({"value": 1}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: folder.rename(folder.parent / "elsewhere"), "holds no result"),
    "no json": (lambda folder: (folder / "result.json").unlink(), "holds no result"),
    "broken json": (lambda folder: (folder / "result.json").write_text('{"class"'), "result.json is not valid JSON"),
    "json of another kind": (lambda folder: (folder / "result.json").write_text("[1]"), "holds"),
    "unknown class": (edit(lambda data: data.update({"class": "Nobody"})), "holds a 'Nobody', not a Measured"),
    "class that is not a name": (edit(lambda data: data.update({"class": ["Measured"]})), "not a Measured"),
    "no class": (edit(lambda data: data.pop("class") and None), "holds a None, not a Measured"),
    "no values": (edit(lambda data: data.pop("values") and None), "checksum"),
    "values of another kind": (edit(lambda data: data.update(values=3)), "its values are a int"),
    "field too many": (edit(lambda data: data["values"].update(more=1)), "'more'"),
    "field too few": (edit(lambda data: data["values"].pop("other") and None), "do not match"),
    "broken estimate": (edit(lambda data: data["values"].update(other={"@estimate": [1]})), "other"),
    "broken float": (edit(lambda data: data["values"].update(other={"@float": "many"})), "other"),
    "config that is null": (edit(lambda data: data["values"].update(config=None)), "'config' is damaged"),
    "config of a list": (edit(lambda data: data["values"].update(config=[])), "'config' is damaged"),
    "estimate of texts": (edit(lambda data: data["values"].update(estimate={"@estimate": ["a"] * 5})), "'estimate'"),
    "an array for an estimate": (edit(lambda data: data["values"].update(estimate={"@array": "value"})), "'estimate'"),
    "a number for names": (edit(lambda data: data["values"].update(names=["a", 1])), "'names' is damaged"),
    "a list for an array": (edit(lambda data: data["values"].update(array=[1, 2])), "'array' is damaged"),
    "no arrays": (lambda folder: (folder / "arrays.safetensors").unlink(), "arrays.safetensors is damaged or missing"),
    "truncated arrays": (truncate, "arrays.safetensors is damaged or missing"),
    "longer arrays": (lengthen, "arrays.safetensors is damaged or missing"),
    "pickle for arrays": (put_a_pickle, "arrays.safetensors is damaged or missing"),
    "an array too few": (drop_an_array, "'value'"),
}


@pytest.mark.filterwarnings("ignore:.*has no checksums")
@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_value_error_that_names_the_folder(tmp_path: Path, damage: str, checksums: bool) -> None:
    apply, message = DAMAGE[damage]
    folder = Measured(config={}, value=np.arange(5), other=0.5).save(tmp_path / "r")
    if not checksums:
        without_checksums(folder)
    apply(folder)
    with pytest.raises(ValueError, match=f"(?s){message}" + "|checksum|arrays.safetensors is damaged" * checksums) as e:
        Measured.load(folder)
    assert str(folder) in str(e.value)


def test_a_result_saved_without_checksums_loads_with_a_warning(tmp_path: Path) -> None:
    folder = Measured(config={"k": 1}, value=np.arange(5)).save(tmp_path / "r")
    without_checksums(folder)
    with pytest.warns(UserWarning, match=r"r has no checksums \(saved by version 0\.1\.0\)"):
        assert same(Measured.load(folder).value, np.arange(5))


def reverse(folder: Path) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    save_file({name: array[::-1].copy() for name, array in arrays.items()}, folder / "arrays.safetensors")


def of_another_run(folder: Path) -> None:
    other = Measured(config={}, value=np.arange(5.0) + 1, other=0.5).save(folder.parent / "other")
    (other / "arrays.safetensors").replace(folder / "arrays.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        reverse,
        of_another_run,
        edit(lambda data: data["values"].update(other=0.25)),
        edit(lambda data: data["values"]["config"].update(k=2)),
        edit(lambda data: data.update({"class": "Unrelated"})),
        edit(lambda data: data.update(sah256=data.pop("sha256")) or None),
        edit(lambda data: data["arrays"].update(bytes=10**15)),
        lambda folder: os.truncate(folder / "arrays.safetensors", 2**40),
        lambda folder: (folder / "arrays.safetensors").unlink() or os.mkfifo(folder / "arrays.safetensors"),
    ],
)
def test_other_values_are_never_loaded(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    folder = Measured(config={"k": 1}, value=np.arange(5.0), other=0.5).save(tmp_path / "r")
    change(folder)
    with pytest.raises(ValueError, match=r"(?s)/r.*(checksum|bytes|regular)"):
        AbstractResult.load(folder)


def test_every_flipped_byte_of_a_result_is_found(tmp_path: Path) -> None:
    folder = Measured(config={"k": 1}, value=np.arange(3.0), other=Estimate(0.5, 0.1, 0.9, 8, "pairs")).save(
        tmp_path / "r"
    )
    loaded = Measured.load(folder)
    rng, messages = np.random.default_rng(0), []
    for name in ("result.json", "arrays.safetensors"):
        whole = (folder / name).read_bytes()
        for at in rng.choice(len(whole), 100):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << rng.integers(8)
            (folder / name).write_bytes(damaged)
            try:
                found = Measured.load(folder)
            except ValueError as error:
                messages.append(str(error))
            else:  # white space
                assert same(dataclasses.astuple(found), dataclasses.astuple(loaded))
        (folder / name).write_bytes(whole)
    assert len(messages) > 150
    assert all(str(folder) in message for message in messages)


def test_the_annotations_of_every_result_are_understood() -> None:
    import interp_kit

    for name in interp_kit.__all__:
        getattr(interp_kit, name)
    for found in [found for found in _CLASSES.values() if found.__module__.startswith("interp_kit.")]:
        hints = get_type_hints(found)
        for field in dataclasses.fields(found):
            _fits(np.zeros(2), hints[field.name])


def test_another_class_is_refused(tmp_path: Path) -> None:
    Measured(config={}, value=1).save(tmp_path / "base")
    Unrelated(config={}, value=1).save(tmp_path / "derived")
    with pytest.raises(ValueError, match="holds a 'Measured', not a Unrelated"):
        Unrelated.load(tmp_path / "base")
    assert type(Measured.load(tmp_path / "derived")) is Unrelated


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Measured(config={}, value=1).value = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_a_fresh_process_loads_what_another_one_saved(tmp_path: Path) -> None:
    """After `import interp_kit` alone: the class is found by its name."""
    import interp_kit as ik

    model, pairs = ik.planted("boolean-direct"), ik.BooleanTask().pairs("newB", "newD")
    ik.patch(model, pairs, by="all").save(tmp_path / "saved")
    code = f"import interp_kit as ik; r = ik.AbstractResult.load({str(tmp_path / 'saved')!r}); print(type(r).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("PatchingResult\n", "")


def test_every_result_of_the_package_is_found_by_its_name() -> None:
    import interp_kit

    root = Path(interp_kit.__file__).parent
    defined = {
        found[1]: ".".join(["interp_kit", *path.relative_to(root).with_suffix("").parts])
        for path in root.rglob("*.py")
        for found in re.finditer(r"^class (\w+)\(AbstractResult\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert defined == result._DEFINED_IN, "each result class needs its line in _DEFINED_IN of core/result.py"
