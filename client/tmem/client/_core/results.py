"""What callers get back.

Owns: the result of each put, get and flush. A result is empty until its operation is done; `done` says when. The faces give
results their `ack`.
"""

from collections.abc import Callable
from typing import Any

from tmem.wire.errors import Closed, PageCorrupt, PageLost, PageMissing, TmemError, explain, refusal
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Code, Reason

__all__ = ["FlushResult", "GetResult", "PutResult", "Result"]

_HIT = Code.HIT
_REFUSED = Code.REFUSED


class Result:
    """What every result has.

    Attributes:
        done: whether the operation has ended, one way or the other.
        error: why it failed; None while it has not. A refusal is an error here, a miss is not.
    """

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: TmemError | None = None

    def fail(self, error: TmemError) -> None:
        """Ends the result with an error."""
        self.error = error
        self.done = True


class PutResult(Result):
    """What became of one put.

    Attributes:
        stored: every page is held, and comes back byte for byte.
        reason: why it was refused, if it was.
    """

    __slots__ = ("extent", "reason", "stored")

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self.extent = extent
        self.stored = False
        self.reason: Reason | None = None

    def settle(self, reason: int) -> None:
        """Ends the result: 0 = stored."""
        if reason:
            self.error = refusal(reason, f"put of {describe(self.extent)} was refused, {explain(reason)}")
            self.reason = Reason(reason) if reason in Reason._value2member_map_ else Reason.UNSPECIFIED
        else:
            self.stored = True
        self.done = True

    def __repr__(self) -> str:
        return f"<PutResult {'stored' if self.stored else self.error or 'pending'}>"


class FlushResult(Result):
    """What became of one flush.

    Attributes:
        found: how many pages were held and are removed.
    """

    __slots__ = ("found", "what")

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.found = 0

    def settle(self, found: int, reason: int) -> None:
        """Ends the result."""
        self.found = found
        if reason:
            self.error = refusal(reason, f"flush of {self.what} was refused, {explain(reason)}")
        self.done = True

    def __repr__(self) -> str:
        return f"<FlushResult {self.error or (f'found={self.found}' if self.done else 'pending')}>"


class GetResult(Result):
    """What became of one get.

    Attributes:
        extent: what was asked for.
        pages: for each page its Code: HIT, MISS, LOST, CORRUPT or REFUSED. Parts of the buffer that were not hit are
            untouched; a CORRUPT page's part is zeroed.
        versions: for each hit page the version that a conditional flush names; None for the others.
        take: whether the get is to be acknowledged, which removes the hit pages from the pool.
        taken: whether that has happened.
    """

    __slots__ = ("acker", "extent", "pages", "take", "taken", "versions")

    def __init__(self, extent: Extent, *, take: bool) -> None:
        super().__init__()
        self.extent = extent
        self.take = take
        self.taken = False
        self.pages: list[Code] = [Code.UNSPECIFIED] * extent.pages
        self.versions: list[Version | None] = [None] * extent.pages
        self.acker: Callable[[GetResult], Any] | None = None

    @property
    def hit(self) -> bool:
        """Whether every page was hit."""
        return self.pages.count(_HIT) == len(self.pages)

    @property
    def miss(self) -> bool:
        """Whether any page is a miss."""
        return Code.MISS in self.pages

    @property
    def lost(self) -> bool:
        """Whether any page was stored once and is gone."""
        return Code.LOST in self.pages

    @property
    def corrupt(self) -> bool:
        """Whether any page's bytes failed their checksum."""
        return Code.CORRUPT in self.pages

    def refuse(self, positions: range, reason: int) -> None:
        """Notes that pages were refused."""
        for position in positions:
            self.pages[position] = _REFUSED
        if self.error is None:
            self.error = refusal(reason, f"get of {describe(self.extent)} was refused, {explain(reason)}")

    def ack(self) -> Any:
        """Removes the hit pages from the pool, each only if it is still what this get returned.

        Harmless twice, and however late. With the asyncio face, await what this returns.
        """
        if self.acker is None:
            raise Closed("this get was not made by a client")
        return self.acker(self)

    def raise_for_pages(self) -> None:
        """Raises unless every page was hit.

        Raises:
            Refused: the get was refused.
            PageCorrupt, PageLost, PageMissing: the worst of what befell the pages.
        """
        if self.error is not None:
            raise self.error
        for code, error in ((Code.CORRUPT, PageCorrupt), (Code.LOST, PageLost), (Code.MISS, PageMissing)):
            if code in self.pages:
                index = self.extent.index + self.pages.index(code)
                raise error(f"object {self.extent.object}, page {index}: {code.name.lower()}")

    def __repr__(self) -> str:
        if self.error is not None or not self.done:
            return f"<GetResult {self.error or 'pending'}>"
        counts = {code.name.lower(): self.pages.count(code) for code in Code if code in self.pages}
        return f"<GetResult {' '.join(f'{name}={count}' for name, count in counts.items())}>"


def describe(extent: Extent) -> str:
    """An extent, for a message."""
    if extent.pages == 1:
        return f"object {extent.object}, page {extent.index}"
    return f"object {extent.object}, pages {extent.index}..{extent.index + extent.pages - 1}"
