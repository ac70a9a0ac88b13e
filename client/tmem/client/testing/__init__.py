"""For tests of programs that use tmem: real servers, started and ended by the test."""

from .captive import CaptiveDaemon

__all__ = ["CaptiveDaemon"]
