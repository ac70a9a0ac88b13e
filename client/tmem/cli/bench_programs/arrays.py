"""numpy: sorting, matrix work and checks on large arrays; numpy_work.py is what it does."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from .programs import Done, Program, Start, Wanted, run_to_end

__all__ = ["Numpy"]

_SHARE_OF_ARRAYS = 0.85  # the rest is Python's and numpy's own


class Numpy(Program):
    """A Python program with large arrays, and one thread for its matrices."""

    name = "numpy"
    title = "numpy sort and matrices"

    def __init__(self) -> None:
        self._size = 0

    def obstacle(self) -> str:
        """Why it can't run here; "" if it can."""
        return "" if find_spec("numpy") else "numpy is not installed (pip install 'tmem[bench]')"

    @contextmanager
    def prepared(self, wanted: Wanted) -> Iterator[None]:
        """It makes its arrays itself."""
        self._size = int(wanted.work * _SHARE_OF_ARRAYS)
        yield

    def run(self, start: Start, seconds: float) -> Done:
        """One run."""
        threads = [f"{name}_NUM_THREADS=1" for name in ("OPENBLAS", "MKL", "OMP")]
        module = f"{__package__}.numpy_work"
        return run_to_end(start, ["env", *threads, sys.executable, "-m", module, str(self._size)], seconds)
