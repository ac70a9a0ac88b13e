"""Values of options that have a unit.

Owns: sizes (4GiB) and durations (30s) on the command line.
"""

import re
from typing import Any

import click

from tmem.wire.sizes import parse_size

__all__ = ["DURATION", "SIZE"]

_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


class _Size(click.ParamType):  # type: ignore[type-arg]  # it has arguments since click 8.5
    """Bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = _PATTERN.fullmatch(value.strip())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a duration; write a number and a unit, such as 30s or 500ms", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


SIZE, DURATION = _Size(), _Duration()
