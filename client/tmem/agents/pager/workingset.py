"""A working set on paper: which parts of a region a program used, so that another run can have them fetched beforehand.

Owns: the form of the file: text, a line that says what it is, then runs of bytes as `offset length`, in order.

Units: bytes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tmem.wire.errors import InvalidOption

__all__ = ["read_runs", "write_runs"]

_HEAD = "tmem working set 1"


def write_runs(path: Path, runs: Iterable[tuple[int, int]]) -> None:
    """Writes runs; a reader never sees half of them.

    Raises:
        OSError: it can't be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("w", encoding="ascii") as file:
            file.write(_HEAD + "\n")
            for offset, length in runs:
                file.write(f"{offset} {length}\n")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_runs(path: Path) -> Iterator[tuple[int, int]]:
    """The runs of a file.

    Raises:
        InvalidOption: it is no working set. OSError: it can't be read.
    """
    with path.open(encoding="ascii", errors="replace") as file:
        if file.readline().rstrip("\n") != _HEAD:
            raise InvalidOption(f"{path} is no working set of tmem")
        for number, line in enumerate(file, 2):
            fields = line.split()
            if len(fields) != 2 or not all(field.isdecimal() for field in fields):
                raise InvalidOption(f"{path}, line {number}: not an offset and a length")
            yield int(fields[0]), int(fields[1])
