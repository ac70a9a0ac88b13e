"""What numpy does when it is measured: counters are sorted and checked, a matrix is gone through along both axes and multiplied.

Prints one digest of all that came out. Imports nothing of tmem, so that its memory is that of a plain program.

`python -m tmem.cli.bench_programs.numpy_work BYTES`
"""

import hashlib
import sys

import numpy as np

_SEED = 2
_COLUMN_STEP = 256


def main() -> None:
    """Half of the bytes are counters, half a matrix."""
    size = int(sys.argv[1])
    chance = np.random.default_rng(_SEED)
    digest = hashlib.sha256()

    # Many counters of few different values, as in a table of events.
    counters = chance.integers(0, 1 << 22, size // 2 // 8, dtype=np.int64)
    total = int(counters.sum())
    counters.sort()
    if int(counters.sum()) != total or not bool(np.all(counters[:-1] <= counters[1:])):
        sys.exit("numpy: the counters are not what they were, in order")
    digest.update(counters.data)

    side = int((size // 2 // 4) ** 0.5) // _COLUMN_STEP * _COLUMN_STEP
    matrix = chance.integers(-8, 8, (side, side), dtype=np.int8).astype(np.float32)
    vector = np.ones(side, np.float32)
    for _ in range(2):
        vector = matrix @ vector
        vector /= max(1.0, float(np.abs(vector).max()))
    digest.update(vector.data)
    for column in range(0, side, _COLUMN_STEP):
        part = matrix[:, column : column + _COLUMN_STEP]
        digest.update(part.sum(axis=0).data)
    found = np.searchsorted(counters, chance.integers(0, 1 << 22, 4096))
    digest.update(found.data)
    sys.stdout.write(digest.hexdigest() + "\n")


if __name__ == "__main__":
    main()
