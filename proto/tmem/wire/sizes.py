"""Sizes as people write them: 64MiB, 4GiB, 1.5G.

Owns: the one parser of byte sizes. K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024, as in every tool that deals in
memory; kB, MB, GB, TB are powers of 1000.
"""

import re
from fractions import Fraction

__all__ = ["format_size", "parse_size"]

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", 1):
    _UNITS[_letter] = _UNITS[f"{_letter}iB"] = 1024**_power
    _UNITS[f"{'k' if _letter == 'K' else _letter}B"] = 1000**_power
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_size(text: object) -> int:
    """Bytes of a size such as "4GiB", "64M" or 4096.

    Raises:
        ValueError: it is no such size; the message says what one looks like.
    """
    if isinstance(text, int):
        return text
    match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 512MiB or 4GiB")
    return int(Fraction(match[1]) * _UNITS[match[2]])


def format_size(size: int) -> str:
    """A size in the largest binary unit that keeps it exact."""
    for unit, letter in ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{letter}"
    return f"{size}B"
