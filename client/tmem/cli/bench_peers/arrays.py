"""A program with numpy arrays in its memory, as measuring and learning programs have them.

Owns: which arrays: a megabyte of each kind in turn, until there is as much as was asked for. Run as `python -m
tmem.cli.bench_peers.arrays BYTES`; says when it has built them, and waits until standard input ends.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "build"]

_STEP_BYTES = 1 << 20
_IMAGE_SIDE = 591  # 591 * 591 pixels of 3 bytes are just under a megabyte

Array = NDArray[np.generic]


def _sorted_floats(chance: np.random.Generator) -> Array:
    """Times of events."""
    return np.sort(chance.uniform(0, 1e6, _STEP_BYTES // 8))


def _random_floats(chance: np.random.Generator) -> Array:
    """Measured values, each with all its digits: nothing makes them smaller."""
    return chance.normal(size=_STEP_BYTES // 8)


def _rounded_floats(chance: np.random.Generator) -> Array:
    """Prices, to the cent."""
    return np.round(chance.lognormal(3, 1, _STEP_BYTES // 8), 2)


def _counters(chance: np.random.Generator) -> Array:
    """Counters that grow."""
    return np.cumsum(chance.integers(0, 100, _STEP_BYTES // 8, dtype=np.int64))


def _labels(chance: np.random.Generator) -> Array:
    """Small whole numbers in the default type."""
    return chance.integers(0, 50, _STEP_BYTES // 8, dtype=np.int64)


def _image(chance: np.random.Generator) -> Array:
    """Smooth colours with some noise, three bytes a pixel."""
    across = np.linspace(0, 4 * np.pi, _IMAGE_SIDE)
    waves = np.sin(across)[:, None, None] * np.cos(across)[None, :, None] * np.array([1.0, 0.7, 0.4])
    noise = chance.normal(0, 1.5, (_IMAGE_SIDE, _IMAGE_SIDE, 3))
    pixels: Array = np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)
    return pixels


KINDS: tuple[Callable[[np.random.Generator], Array], ...] = (
    _sorted_floats,
    _random_floats,
    _rounded_floats,
    _counters,
    _labels,
    _image,
)


def build(size: int) -> list[Array]:
    """Arrays of about so many bytes together, of each kind as many."""
    chance = np.random.default_rng(20110601)
    arrays: list[Array] = []
    while sum(array.nbytes for array in arrays) < size:
        arrays += [kind(chance) for kind in KINDS]
    return arrays


def main() -> None:
    """Builds, reports, and waits until standard input ends."""
    arrays = build(int(sys.argv[1]))
    print(len(arrays), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
