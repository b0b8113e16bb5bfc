"""Draws that are tied to ids: a case that joins or leaves, or stands elsewhere, does not change those of the others."""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from lib.core.errors import InvalidInput
from lib.selection.arrays import FloatArray, Keys


def keys(ids: Sequence[str], seed: int) -> Keys:
    """A hash (n,) of each id and the seed; orders equal scores and is what draws are made from.

    Raises:
        InvalidInput: an id that occurs twice.
    """
    if len(set(ids)) != len(ids):
        twice = sorted(case for case, times in Counter(ids).items() if times > 1)
        raise InvalidInput(f"each case may be ranked once, got twice: {', '.join(twice[:4])}")
    hashes = b"".join(blake2b(f"{seed}\0{case}".encode(), digest_size=8).digest() for case in ids)
    return np.frombuffer(hashes, dtype=">u8").astype(np.uint64)


def uniform(hashes: Keys, salt: str = "") -> FloatArray:
    """Numbers in the open interval (0, 1), one a hash; another salt gives independent ones.

    The hashes are mixed with the salt by the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
    """
    mixed = hashes
    if salt:
        word = int.from_bytes(blake2b(salt.encode(), digest_size=8).digest(), "big")
        mixed = hashes ^ np.uint64(word)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def number(seed: int, *words: str | int) -> float:
    """One number in (0, 1), drawn from the seed and the words."""
    return float(uniform(keys(["\0".join(map(str, words))], seed))[0])


def gumbel(uniforms: FloatArray) -> FloatArray:
    """Standard Gumbel noise from uniform numbers; adding it to log weights and sorting draws without replacement."""
    return np.asarray(-np.log(-np.log(uniforms)), dtype=np.float64)
