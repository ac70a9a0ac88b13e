"""Writing the journal anew, when it is much longer than what it says.

Owns: when that begins, and its pace. Between other operations the store's pages are written into the journal again, block by block;
then every file from before that pass can go, with all the removals in them. A pass goes on whenever there is nothing else to do, and
at twice the rate of puts in any case: so the journal stays below about 3.5 x what the pools hold and what the limits here say besides.
A pass that can't be written to its end changes nothing: the old files stay.

Must not know: files, threads, what waits for an entry. Units: bytes.
"""

from collections.abc import Callable, Collection, Iterator

from tmem.server.store.interface import Store
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.splice import BytesLike

from .blocks import block_entries
from .entries import Kind, encode_entry
from .sink import Sink

__all__ = ["Rewriter"]

# The journal is written anew when it is so much longer than it needs to be.
_REWRITE_FACTOR = 2.0
_REWRITE_BYTES = 64 << 20
# Without puts a block is written anew only when so much is not waiting to be written already.
_REWRITE_QUEUE_BYTES = 8 << 20
# How often puts look whether a pass must begin, and how much is copied for each byte that they write while one runs.
_CHECK_BYTES = 8 << 20
_PACE = 2
# What a page takes in the journal beside its payload, until a pass has measured it; and a pool.
_PAGE_OVERHEAD = 8.0
_POOL_BYTES = 1024
# A pass that failed is not tried again at the next occasion, nor at the one after that...
_MOST_PAUSES = 256


class Rewriter:
    """Writes the journal anew.

    Args:
        store: what holds the pages.
        sink: where entries go.
        describe: every durable pool there is, as the payload of a POOL entry.
        keys: the pools whose pages are in the journal; its owner changes it.

    Attributes:
        copies: entries that it has appended so far.
        begun, succeeded: the number of the pass that began last, and of the last one whose old files went.
    """

    def __init__(
        self, store: Store, sink: Sink, describe: Callable[[], Iterator[bytes]], keys: Collection[int]
    ) -> None:
        self._store = store
        self._sink = sink
        self._describe = describe
        self._keys = keys
        self._codec = Codec(CopyCounter())
        self._pass: Iterator[None] | None = None
        self._first: int | None = None
        self._failed = False
        self._ending = False
        self._failures = self._pauses = 0
        self._page_overhead = _PAGE_OVERHEAD
        self._copied = 0
        self._unchecked = self._debt = 0
        self.copies = 0
        self.begun = self.succeeded = 0

    # ---- When, and how fast ----

    def step(self) -> bool:
        """Writes one more block anew, if the journal is long; answers whether there is more to do now."""
        if self._pass is None and not self._begin():
            return False
        return self._sink.queued <= _REWRITE_QUEUE_BYTES and self._advance()

    def pace(self, written: int) -> None:
        """Goes on according to what puts have written."""
        if self._pass is None:
            self._unchecked += written
            if self._unchecked < _CHECK_BYTES or not self._begin():
                return
        self._debt += _PACE * written
        while self._debt > 0:
            before = self._copied
            if not self._advance():
                return
            self._debt -= self._copied - before

    def _begin(self) -> bool:
        """Begins a pass if it is time."""
        self._unchecked = 0
        if self._ending:
            return False
        payload, pages = self._held()
        needed = payload + self._page_overhead * pages + _POOL_BYTES * len(self._keys)
        if self._sink.size <= _REWRITE_FACTOR * needed + _REWRITE_BYTES or self._sink.room < needed:
            return False
        if self._pauses:
            self._pauses -= 1
            return False
        self.begun += 1
        self._failed = False
        self._debt = self._copied = 0
        self._pass = self._rewrite()
        return True

    def _held(self) -> tuple[int, int]:
        """Payload and pages of all pools in the journal."""
        counts = [self._store.counts(key) for key in self._keys]
        return sum(count.payload_bytes for count in counts), sum(count.pages for count in counts)

    def _advance(self) -> bool:
        assert self._pass is not None
        for _ in self._pass:
            return True
        self._pass = None
        return False

    # ---- A pass ----

    def _rewrite(self) -> Iterator[None]:
        """Everything that the pools hold goes into a new file, and then the old ones go."""
        self._first = None
        self._sink.begin_file(self._began)
        for description in self._describe():
            self._append(encode_entry(Kind.POOL, description))
        for key in list(self._keys):
            if key not in self._keys:
                continue
            listings = iter(self._store.blocks(key))
            # A pool that goes meanwhile must not be asked for its next block.
            while key in self._keys and not self._failed and (listing := next(listings, None)) is not None:
                try:
                    entries = block_entries(self._store, key, listing.object, listing.block, self._codec)
                except OSError:
                    self._failed = True  # what can't be read now is still in the old files
                    break
                for entry in entries:
                    self._copied += sum(map(len, entry))
                    self._append(entry)
                yield
        self._ending = True
        # The last of these says whether all of them were written.
        self._sink.append(encode_entry(Kind.MARK, b""), self._end)

    def _began(self, number: int | None) -> None:
        self._first = number
        self._failed = self._failed or number is None

    def _append(self, entry: list[BytesLike]) -> None:
        self.copies += 1
        self._sink.append(entry, self._wrote)

    def _wrote(self, error: OSError | None) -> None:
        self._failed = self._failed or error is not None

    def _end(self, error: OSError | None) -> None:
        if error is not None or self._failed or self._first is None:
            self._fail()
            return
        payload, pages = self._held()
        if pages:
            self._page_overhead = max(self._copied - payload, 0) / pages
        number = self.begun

        def dropped(error: OSError | None) -> None:
            if error is not None:
                self._fail()
                return
            self._ending = False
            self._failures = 0
            self.succeeded = number

        # Until they are gone a crash would bring back what they say, and no other pass is worth beginning.
        self._sink.drop_before(self._first, dropped)

    def _fail(self) -> None:
        self._ending = False
        self._failures += 1
        self._pauses = min(2**self._failures, _MOST_PAUSES)
