"""Recording which units a program uses.

Owns: the recording: from its beginning until its end every unit shows itself by a fault when it is first used. What is at home is
hidden, a step at a time; what comes home is not mapped before it is touched.

Units: units.
"""

from collections.abc import Callable

from tmem.wire.limits import BLOCK_PAGES

from .ledger import Ledger
from .table import Flag, State

__all__ = ["Recorder"]

_UNUSED = bytes(value & ~Flag.USED for value in range(256))


class Recorder:
    """That of one region.

    Args:
        ledger: the region's.

    Attributes:
        recording: whether one is under way.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._hidden_to: int | None = None
        self._begun: Callable[[], None] | None = None
        self.recording = False

    def begin(self, begun: Callable[[], None]) -> None:
        """Forgets what was used so far; `begun` is called once everything that is at home is hidden."""
        flags, top = self._ledger.table.flags, self._ledger.top
        flags[:top] = flags[:top].translate(_UNUSED)
        self._hidden_to = 0
        self._begun = begun
        self.recording = True

    def end(self) -> None:
        """Ends the recording; what is noted stays in the table."""
        self.recording = False

    def step(self) -> bool:
        """Hides the next block of units; answers whether there are more."""
        if self._hidden_to is None:
            return False
        ledger = self._ledger
        for first, count in ledger.table.runs(State.RESIDENT, self._hidden_to, ledger.top, BLOCK_PAGES):
            ledger.memory.hide(first, count)
            self._hidden_to = first + count
            return True
        self._hidden_to = None
        if self._begun is not None:
            self._begun()
        return False
