"""Sizes among the daemon's settings.

Owns: the type of a setting in bytes. How people write sizes, both sides share: tmem.wire.sizes.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

from tmem.wire.sizes import format_size, parse_size

__all__ = ["SizeBytes", "format_size", "parse_size"]

# What every format on the way, the contract's and the system's, can express.
_MOST = (1 << 63) - 1

SizeBytes = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=_MOST)]
"""A setting in bytes that may be written with a unit."""
