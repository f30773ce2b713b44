"""Seeds derived by name are the same in every process and different for every name."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_kit.core.identity import derive_seed

# The first 16 hex digits of `printf '0\x1fprobe\x1f3' | sha256sum` and so on, without the lowest bit.
KNOWN = {
    (0,): 0x5FECEB66FFC86F38 >> 1,
    (42, "boolean omission", 4, 0): 0x18FFB82D1B1D0B31 >> 1,
    (0, "probe", 3): 0x4E842D09846ABFDC >> 1,
}


@pytest.mark.parametrize("arguments", KNOWN)
def test_known_values(arguments: tuple) -> None:
    assert derive_seed(*arguments) == KNOWN[arguments]


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_same_in_every_process(hash_seed: str) -> None:
    code = "from interp_kit.core.identity import derive_seed; print(derive_seed(0, 'probe', 3), derive_seed(7, ('a',)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [str(KNOWN[0, "probe", 3]), str(derive_seed(7, ("a",)))]


def test_distinct_names_and_seeds_are_distinct() -> None:
    streams = [derive_seed(seed, name, i) for seed in range(20) for name in ("a", "b", "ab", "") for i in range(20)]
    assert len(set(streams)) == len(streams)
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab") != derive_seed(0, "b", "a")


@given(st.integers(-(2**70), 2**70), st.lists(st.one_of(st.text(), st.integers())))
def test_fits_every_generator(seed: int, names: list) -> None:
    assert 0 <= derive_seed(seed, *names) < 2**63


def test_spreads_over_the_whole_range() -> None:
    top_bits = [derive_seed(i) >> 62 for i in range(4000)]
    assert abs(sum(top_bits) / 4000 - 0.5) < 0.04  # Five standard deviations.
