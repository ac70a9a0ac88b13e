"""Encoding and decoding by several threads: for programs that move blocks, on machines with processors to spare.

Owns: `ParallelCodec`, and the threads that help, which all clients of a process share. LZ4 works without the interpreter's lock, so a
block is done sooner by two; the caller takes chunks from the front, the helpers from the back, and whoever is through first has done more.
A lone page or a small extent is left to the caller alone: waking a thread takes longer than that.

Measured on 2 MiB of a Python process's memory, 64 KiB chunks, two processors: encoding at 1.4 times LZ4's own rate on one, where one thread
comes to 0.88; decoding at 1.1 - 1.2 where one comes to 0.74.

Must not know: sockets, event loops.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from tmem.wire.codec import Codec, EncodedChunks, Expansion, Piece
from tmem.wire.copies import CopyCounter

from .options import MAX_CODEC_THREADS, Options

__all__ = ["ParallelCodec", "codec_for"]

# So many chunks, and as many pages in each on the average, are worth a helper.
_MIN_CHUNKS = 6
_MIN_CHUNK_PAGES = 4


class _Job:
    """Some numbered pieces of work, of which each is done once, by whoever comes first.

    Args:
        count: how many there are.
        work: does one, by its number and the helper's (-1: the caller).
    """

    def __init__(self, count: int, work: Callable[[int, int], None]) -> None:
        self._left = deque(range(count))
        self._work = work
        self._lock = threading.Lock()
        self._active = 0
        self._closed = False
        self._idle = threading.Lock()
        self._idle.acquire()
        self._error: BaseException | None = None

    def help(self, helper: int) -> None:
        """Does some, from the back; called by a helper."""
        with self._lock:
            if self._closed:
                return
            self._active += 1
        try:
            while self._left:
                try:
                    number = self._left.pop()
                except IndexError:
                    break
                self._work(number, helper)
        except BaseException as error:  # noqa: BLE001  the caller raises it
            self._error = error
        with self._lock:
            self._active -= 1
            if self._closed and not self._active:
                self._idle.release()

    def run(self) -> None:
        """Does some, from the front, and waits for the rest; raises what any piece raised."""
        try:
            while self._left:
                try:
                    number = self._left.popleft()
                except IndexError:
                    break
                self._work(number, -1)
        finally:
            self._left.clear()
            with self._lock:
                self._closed = True
                waits = self._active > 0
            if waits:
                self._idle.acquire()
        if self._error is not None:
            raise self._error


class _Crew:
    """The helping threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0

    def share(self, helpers: int, count: int, work: Callable[[int, int], None]) -> None:
        """Does `count` pieces of work in this thread and so many others."""
        if self._threads < helpers:
            self._grow(helpers)
        job = _Job(count, work)
        for _ in range(helpers):
            self._queue.put(job)
        job.run()

    def _grow(self, helpers: int) -> None:
        with self._lock:
            while self._threads < helpers:
                number = self._threads
                threading.Thread(target=self._serve, args=(number,), name="tmem-codec", daemon=True).start()
                self._threads += 1

    def _serve(self, number: int) -> None:
        while True:
            self._queue.get().help(number)


_crew = _Crew()


class ParallelCodec(Codec):
    """A codec with helpers; see Codec.

    Args:
        copies: where copies of plain pages are counted.
        helpers: how many threads help.
    """

    __slots__ = ("_helpers", "_others")

    def __init__(self, copies: CopyCounter, helpers: int) -> None:
        super().__init__(copies)
        self._helpers = helpers
        # Scratch room and counters of their own.
        self._others = [Codec(CopyCounter()) for _ in range(MAX_CODEC_THREADS)]

    def encode(self, pages: memoryview, first: int, chunk_pages: int, into: EncodedChunks) -> None:
        """As Codec.encode."""
        cuts = self.cut(len(pages), first, chunk_pages)
        if len(cuts) - 1 < _MIN_CHUNKS or chunk_pages < _MIN_CHUNK_PAGES:
            super().encode(pages, first, chunk_pages, into)
            return
        encoded: list[Piece | None] = [None] * (len(cuts) - 1)

        def work(number: int, _helper: int) -> None:
            encoded[number] = self.encode_chunk(pages[cuts[number] : cuts[number + 1]])

        _crew.share(self._helpers, len(encoded), work)
        into.add_extent([piece for piece in encoded if piece is not None])

    def decode_all(self, chunks: Sequence[Expansion]) -> list[list[int]]:
        """As Codec.decode_all."""
        count = len(chunks)
        if count < _MIN_CHUNKS or sum(chunk[2] for chunk in chunks) < count * _MIN_CHUNK_PAGES:
            return super().decode_all(chunks)
        found: list[list[int]] = [[]] * count

        def work(number: int, helper: int) -> None:
            codec = self if helper < 0 else self._others[helper]
            found[number] = Codec.checksums(codec, *chunks[number])

        _crew.share(self._helpers, count, work)
        for other in self._others:  # whichever threads of the crew came
            self.take_copies(other)
        return found


def codec_for(options: Options, copies: CopyCounter) -> Codec:
    """The codec that a client's options ask for."""
    threads = options.codec_threads or min(len(os.sched_getaffinity(0)), 2)
    return Codec(copies) if threads == 1 else ParallelCodec(copies, min(threads, MAX_CODEC_THREADS) - 1)
