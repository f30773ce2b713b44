"""Configs refuse what they do not know."""

from dataclasses import dataclass, field

import pytest

from interp_kit.core.config import from_mapping, to_mapping


@dataclass(frozen=True)
class Config:
    """A config as the library's own are."""

    size: int
    rate: float = 0.5
    names: tuple[str, ...] = field(default_factory=tuple)


def test_round_trip() -> None:
    config = Config(3, names=("a", "b"))
    assert to_mapping(config) == {"size": 3, "rate": 0.5, "names": ("a", "b")}
    assert from_mapping(Config, to_mapping(config)) == config
    assert from_mapping(Config, {"size": 1}) == Config(1)


def test_every_unknown_key_is_named_and_every_known_one() -> None:
    with pytest.raises(ValueError, match="Config has no 'Rate', 'sizes'; it has size, rate, names"):
        from_mapping(Config, {"size": 1, "sizes": 2, "Rate": 0.1})


def test_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="Config needs 'size'"):
        from_mapping(Config, {"rate": 0.1})


def test_lists_of_a_json_file_become_tuples() -> None:
    assert from_mapping(Config, {"size": 1, "names": ["a", "b"]}) == Config(1, names=("a", "b"))


@pytest.mark.parametrize("cls", [dict, int])
def test_only_dataclasses(cls: type) -> None:
    with pytest.raises(TypeError, match="is not a dataclass"):
        from_mapping(cls, {})
