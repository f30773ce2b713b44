"""Random streams derived by name, so that the size of one never changes another."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on `seed` and on every name: same arguments, same stream, on every machine."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
