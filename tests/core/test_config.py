"""Configs refuse what they do not know."""

from dataclasses import dataclass, field

import pytest

from interp_kit.core.config import check_choice, from_mapping, listed, to_mapping


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


def test_many_names_are_families_and_the_nearest() -> None:
    names = [f"f_{grid}[{i},{j}]" for grid in "AB" for i in range(10) for j in range(10)] + ["direction"]
    assert listed(names, "f_B[3;7]") == ("201, the nearest being f_B[3,7]: f_A[0..9,0..9], f_B[0..9,0..9], direction")
    assert listed(names) == "201: f_A[0..9,0..9], f_B[0..9,0..9], direction"
    assert listed(f"gpt_{i:03d}" for i in range(101)) == "101: gpt_000..100"
    assert listed(["A", "A,", "B"]) == "A, 'A,', B"
    apart = [f"{'abcdefghij'[i % 10]}{'klmnop'[i // 10]}_name" for i in range(60)]
    assert listed(apart).startswith("60: ak_name, bk_name")
    assert listed(apart).endswith(", …")
    with pytest.raises(ValueError, match=r"x is 'f_B\[3;7\]'; expected one of 201, the nearest being f_B\[3,7\]"):
        check_choice("x", "f_B[3;7]", names)
