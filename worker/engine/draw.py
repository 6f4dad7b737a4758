"""The one source of randomness."""

from __future__ import annotations

import hashlib
import struct


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same on every machine for the same seed and position."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)
