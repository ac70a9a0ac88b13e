"""Columns: packed scalars with one entry for each extent, chunk or run.

Owns: the (0|1|n) rule of the contract. A column may be left out (each entry has the default), hold one entry (which
applies to all), or hold all n.
"""

from collections.abc import Sequence

__all__ = ["ColumnError", "collapse", "expand"]


class ColumnError(ValueError):
    """A column of the wrong length. Caught within this package; the caller knows which batch it belongs to."""


def expand(column: Sequence[int], count: int, default: int, name: str) -> list[int]:
    """All `count` entries of a column.

    Raises:
        ColumnError: it has neither 0, 1 nor `count` entries.
    """
    present = len(column)
    if present == count:
        return list(column)
    if present == 0:
        return [default] * count
    if present == 1:
        return [column[0]] * count
    raise ColumnError(f"column {name} has {present} entries; 0, 1 or {count} are allowed")


def collapse(values: Sequence[int], default: int) -> Sequence[int]:
    """The shortest column that expands to `values`."""
    if not values:
        return ()
    first = values[0]
    if values.count(first) != len(values):
        return values
    return () if first == default else (first,)
