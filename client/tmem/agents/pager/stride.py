"""What comes next: faults that follow each other in steps, told from those that do not.

Owns: the streams of faults, and how far ahead of each to read. A stream is begun by two faults, and each fault on its way
lets the window grow. The window's middle is a marker: when the program gets there the next window is asked for, so that
it need not wait for it.

Pure. Units: units; a step may be negative.
"""

from collections import OrderedDict
from typing import NamedTuple

__all__ = ["Strides", "Window"]

_STREAMS = 16
_FAR = 64  # the longest step
_FIRST = 4  # units of the first window


class Window(NamedTuple):
    """What to read next: units first, first + step, ..., `length` of them; the program touching `marker` asks for more."""

    first: int
    step: int
    length: int
    marker: int

    @property
    def units(self) -> range:
        """The units, in the order in which they are expected."""
        return range(self.first, self.first + self.step * self.length, self.step)


class _Stream:
    """One stream.

    Attributes:
        last: where it was seen last. step: 0 while it is one fault only.
        ahead: the last unit that was asked for.
        window: units of the next window.
        sure: how often it was seen to go on.
    """

    __slots__ = ("ahead", "last", "step", "sure", "window")

    def __init__(self, unit: int) -> None:
        self.last = self.ahead = unit
        self.step = 0
        self.sure = 0
        self.window = _FIRST


class Strides:
    """The streams of one region.

    Args:
        units: of the region; nothing beyond is asked for.
        most: units of the largest window; 0 = nothing is ever asked for.
    """

    def __init__(self, units: int, most: int) -> None:
        self._units = units
        self._most = most
        self._streams: OrderedDict[int, _Stream] = OrderedDict()  # by a number; the least recently seen first
        self._next = 0

    def note(self, unit: int, *, missed: bool) -> Window | None:
        """A unit was touched: answers what to read ahead, if it belongs to a stream.

        Args:
            unit: which.
            missed: its bytes were not there: what was asked for ahead of it did not come, or has gone again.
        """
        if not self._most:
            return None
        for number, stream in reversed(self._streams.items()):
            if unit == stream.last:
                return None
            if not stream.step:
                distance = unit - stream.last
                if not 0 < abs(distance) <= _FAR:
                    continue
                stream.step = distance
                stream.last = stream.ahead = unit
                self._streams.move_to_end(number)
                # Neighbours are a stream at once: a wrong guess costs little. A longer step must be seen twice.
                return self._further(stream) if abs(distance) == 1 else None
            steps, rest = divmod(unit - stream.last, stream.step)
            if rest or not 0 < steps <= (stream.ahead - stream.last) // stream.step + 1:
                continue
            stream.last = unit
            if missed:
                stream.ahead = unit
            self._streams.move_to_end(number)
            return self._further(stream)
        self._streams[self._next] = _Stream(unit)
        self._next += 1
        if len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)
        return None

    def _further(self, stream: _Stream) -> Window | None:
        """The next window of a stream, unless enough of the last one is still ahead."""
        step = stream.step
        ahead = (stream.ahead - stream.last) // step
        if ahead > stream.window // 2:
            return None
        if stream.sure:
            stream.window = min(2 * stream.window, self._most)
        stream.sure += 1
        count = min(stream.window, self._most)
        first = stream.ahead + step
        room = (self._units - 1 - first) // step + 1 if step > 0 else first // -step + 1
        count = min(count, room)
        if count <= 0 or not 0 <= first < self._units:
            return None
        stream.ahead = first + step * (count - 1)
        return Window(first, step, count, first + step * (count // 2))
