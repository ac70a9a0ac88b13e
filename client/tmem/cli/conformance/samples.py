"""Pages to put: every kind that compression treats differently, each told from all others by its seed."""

import random

from tmem.wire.limits import PAGE_BYTES

__all__ = ["PAGE_BYTES", "extent_of", "mixed", "noise", "page", "same_filled", "stamped", "text"]

_WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]


def text(seed: int) -> bytes:
    """Compresses about threefold."""
    chance = random.Random(seed)  # noqa: S311  the same page every time
    return f"{seed} {' '.join(chance.choices(_WORDS, k=900))}".encode().ljust(PAGE_BYTES, b".")[:PAGE_BYTES]


def noise(seed: int) -> bytes:
    """Does not compress."""
    return random.Random(seed).randbytes(PAGE_BYTES)  # noqa: S311  likewise


def same_filled(seed: int) -> bytes:
    """One word, over and over."""
    return seed.to_bytes(8, "little") * (PAGE_BYTES // 8)


def mixed(seed: int) -> bytes:
    """Half noise, half zeros."""
    return noise(seed)[: PAGE_BYTES // 2] + bytes(PAGE_BYTES // 2)


_KINDS = (text, noise, same_filled, mixed)


def page(seed: int) -> bytes:
    """A page of some kind."""
    return _KINDS[seed % len(_KINDS)](seed)


def extent_of(seed: int, count: int) -> bytes:
    """So many pages of all kinds: page(seed), page(seed + 1), ..."""
    return b"".join(page(seed + number) for number in range(count))


def stamped(seed: int) -> bytes:
    """Noise with a number at both ends, so that a torn page is seen: quicker to make than `noise`."""
    stamp = seed.to_bytes(8, "little")
    return stamp + _FILLING[: PAGE_BYTES - 16] + stamp


_FILLING = noise(20110601)
