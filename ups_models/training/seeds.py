"""Seeds of everything random, each a function of what it is for."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts alone, such as (seed, stage, purpose, step)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
