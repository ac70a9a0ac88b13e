"""Credit: how much may be in flight.

Owns: the window of one session. A batch costs its own bytes and the most that its answer may have, from sending to its
answer's arrival. Puts leave a quarter free, so that a get never waits behind a window full of puts.
"""

__all__ = ["Window"]


class Window:
    """Bytes and batches in flight.

    Args:
        max_bytes, max_batches: until the server grants something else.
    """

    def __init__(self, max_bytes: int, max_batches: int) -> None:
        self.max_bytes = max_bytes
        self.max_batches = max_batches
        self.used_bytes = 0
        self.used_batches = 0
        self.peak_bytes = 0
        self.peak_batches = 0

    def grant(self, max_bytes: int, max_batches: int) -> None:
        """Replaces the window granted before; what is in flight stays."""
        self.max_bytes = max_bytes
        self.max_batches = max_batches

    def has_room(self, cost: int, *, write: bool) -> bool:
        """Whether a batch of this cost may be sent now."""
        max_bytes, max_batches = self.max_bytes, self.max_batches
        if write:
            max_bytes -= max_bytes // 4
            max_batches -= max_batches // 4 if max_batches > 3 else 0
        if not self.used_batches:
            return cost <= self.max_bytes  # alone, a write may use the reserve too
        return self.used_bytes + cost <= max_bytes and self.used_batches < max_batches

    def take(self, cost: int) -> None:
        """A batch is about to be sent."""
        self.used_bytes += cost
        self.used_batches += 1
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self.peak_batches = max(self.peak_batches, self.used_batches)

    def give(self, cost: int) -> None:
        """Its answer arrived."""
        self.used_bytes -= cost
        self.used_batches -= 1

    def recost(self, estimate: int, cost: int) -> None:
        """A batch that was taken at an estimate costs this."""
        self.used_bytes += cost - estimate
