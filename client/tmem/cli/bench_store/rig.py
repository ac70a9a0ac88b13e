"""How much is measured, and the real pages that it is measured with.

Owns: the sizes of a run, in MiB unless a name says otherwise; and that real memory is captured once.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from tmem.cli.bench_common import rig
from tmem.cli.bench_common.rig import MIB
from tmem.cli.capture import capture

__all__ = ["Rig", "Sizes"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each measurement takes.

    Attributes:
        index_pages: pages of dense blocks; lone_pages: blocks, or objects, of one page.
        residency: plain pages that are overwritten, `residency_turns` times.
        few_pages, many_pages: the two sizes between which rates are compared.
        cleaning, refusal: plain pages held meanwhile. samples: gets timed in each phase.
        weights: the daemon's memory.
        crashes: rounds; crash_pages: written in each.
        recovery: payload.
        rivals: plain pages.
        rounds: of everything that is taken in pairs.
    """

    index_pages: int = 2 << 20
    lone_pages: int = 1 << 20
    residency: int = 2048
    residency_turns: int = 5
    few_pages: int = 1_000_000
    many_pages: int = 10_000_000
    cleaning: int = 512
    refusal: int = 128
    samples: int = 4000
    weights: int = 256
    crashes: int = 20
    crash_pages: int = 8000
    recovery: int = 1024
    rivals: int = 2048
    rounds: int = 9

    @classmethod
    def quick(cls) -> "Sizes":
        """For `make bench`: minutes, not tens of them."""
        return cls(
            index_pages=1 << 18,
            lone_pages=1 << 17,
            residency=128,
            few_pages=100_000,
            many_pages=1_000_000,
            cleaning=96,
            refusal=32,
            samples=1500,
            weights=64,
            crash_pages=2000,
            recovery=64,
            rivals=128,
            rounds=5,
        )

    def shrunk(self, divisor: int) -> "Sizes":
        """These, divided; for trying the command out. Nothing becomes less than what can be measured at all."""
        if divisor == 1:
            return self
        least = {
            "index_pages": 4096,
            "lone_pages": 1024,
            "residency": 8,
            "residency_turns": 1,
            "few_pages": 2048,
            "many_pages": 8192,
            "cleaning": 8,
            "refusal": 4,
            "samples": 100,
            "weights": 16,
            "crashes": 2,
            "crash_pages": 400,
            "recovery": 2,
            "rivals": 4,
            "rounds": 1,
        }
        return Sizes(**{f.name: max(getattr(self, f.name) // divisor, least[f.name]) for f in fields(self)})


class Rig(rig.Rig):
    """What one run shares.

    Args:
        sizes: of everything.
        plain_bytes: real pages that will be wanted at most.
        say: told what happens now.
    """

    def __init__(self, sizes: Sizes, plain_bytes: int, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self.sizes = sizes
        self._plain_bytes = plain_bytes
        self._memory: memoryview | None = None

    def memory(self, size: int) -> memoryview:
        """So many bytes of the memory of a real process; captured once."""
        if self._memory is None:
            self.say(f"capturing {self._plain_bytes // MIB} MiB")
            self._memory = capture(self._plain_bytes)
        assert size <= len(self._memory)
        return self._memory[:size]
