"""The journal's writer: a thread, and what waits for it.

Owns: the queue of entries and the thread that writes them to a JournalDirectory, in the order of `append` and many at a time; whoever
appended is told on the store's thread.

Units: bytes.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tmem.server.store.journal.entries import Kind, encode_entry
from tmem.wire.splice import BytesLike

from .disk import Disk
from .journal_directory import JournalDirectory

__all__ = ["JournalFiles"]

_WAIT_SECONDS: Final = 30.0

Done = Callable[[OSError | None], None]


@dataclass(slots=True, eq=False)
class _Job:
    """An entry, or with pieces None something to do between entries.

    Attributes:
        at_once: `done` is called by the journal's thread itself, for somebody who waits for it.
    """

    pieces: Sequence[BytesLike] | None
    size: int
    done: Done
    urgent: bool = False
    work: Callable[[], None] | None = None
    at_once: bool = False


class JournalFiles:
    """A directory of journal files with a writer; see tmem.server.store.journal.sink.Sink.

    Args:
        directory: made if need be.
        synced: every write is forced to the disk before it is acknowledged.
        post: calls a function on the store's thread.
        disk: what reads and writes; None = the system's own calls.

    Attributes:
        directory: the files; the writer's alone between `start` and `close`.
        written, failed: entries, so far.

    Raises:
        JournalError: another daemon uses it, or it can't be used.
    """

    def __init__(
        self, directory: Path, *, synced: bool, post: Callable[[Callable[[], None]], object], disk: Disk | None = None
    ) -> None:
        self.directory = JournalDirectory(directory, synced=synced, disk=disk or Disk())
        self._post = post
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tmem-journal", daemon=True)
        self.written = 0
        self.failed = 0

    # ---- Writing ----

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.directory.size

    @property
    def queued(self) -> int:
        """Bytes that wait to be written."""
        return self._queued

    @property
    def room(self) -> int:
        """Bytes that the disk still has."""
        return self.directory.room

    def start(self) -> None:
        """Begins a new file; from now on entries can be appended. Raises JournalError."""
        self.directory.start()
        self._thread.start()

    def append(self, entry: Sequence[BytesLike], done: Done, *, urgent: bool = False) -> None:
        """Writes an entry; see Sink."""
        self._add(_Job(entry, sum(len(piece) for piece in entry), done, urgent))

    def append_now(self, entry: Sequence[BytesLike]) -> None:
        """Writes an entry, and waits for it."""
        self._wait(_Job(entry, sum(len(piece) for piece in entry), lambda _: None, urgent=True))

    def begin_file(self, done: Callable[[int | None], None]) -> None:
        """Begins a new file for what is appended from now on; tells its number, or None if it can't."""
        numbers: list[int] = []

        self._add(
            _Job(
                None,
                0,
                lambda error: done(None if error else numbers[0]),
                work=lambda: numbers.append(self.directory.begin_file()),
            )
        )

    def drop_before(self, number: int, done: Done) -> None:
        """Deletes the files before this one; tells whether they are gone."""
        self._add(_Job(None, 0, done, work=lambda: self.directory.drop_before(number)))

    def close(self) -> None:
        """Writes what is queued, forces it to the disk, notes that the daemon ended in order, and stops."""
        if self._thread.is_alive():
            self._add(_Job(None, 0, lambda _: None, work=self.directory.force))
            self._add(_Job(encode_entry(Kind.END, b""), 0, lambda _: None, urgent=True))
            self._add(_Job(None, 0, lambda _: None, work=self.directory.force))
            with self._wake:
                self._closing = True
                self._wake.notify()
            self._thread.join()
        self.directory.close()

    def _add(self, job: _Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._queued += job.size
            self._wake.notify()

    def _wait(self, job: _Job) -> None:
        """Adds a job and waits for its end; raises what it ended with."""
        finished = threading.Event()
        ends: list[OSError | None] = []

        def done(error: OSError | None) -> None:
            ends.append(error)
            finished.set()

        job.done = done
        job.at_once = True
        self._add(job)
        if not finished.wait(_WAIT_SECONDS):
            with self._wake:
                withdrawn = job in self._jobs
                if withdrawn:
                    self._jobs.remove(job)
                    self._queued -= job.size
            if withdrawn:
                raise TimeoutError(errno.ETIMEDOUT, f"the disk took no write for {_WAIT_SECONDS:g} s")
            # It is being written: to say that it was not, and find it there after a restart, would be worse than to wait.
            finished.wait()
        if ends[0] is not None:
            raise ends[0]

    # ---- The thread ----

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs:
                    if self._closing:
                        return
                    self._wake.wait()
            self._turn()

    def _turn(self) -> None:
        """Does what is queued."""
        with self._wake:
            jobs, self._jobs = list(self._jobs), deque()
        ends: list[tuple[_Job, OSError | None]] = []
        group: list[_Job] = []
        for job in jobs:
            if job.pieces is not None:
                group.append(job)
                continue
            ends += self._write_group(group)
            group = []
            ends.append((job, self._do(job)))
        ends += self._write_group(group)
        with self._wake:
            self._queued -= sum(job.size for job in jobs)
        for job, error in ends:
            if job.at_once:
                job.done(error)
        self._post(partial(_tell, [(job, error) for job, error in ends if not job.at_once]))

    @staticmethod
    def _do(job: _Job) -> OSError | None:
        assert job.work is not None
        try:
            job.work()
        except OSError as error:
            return error
        return None

    def _write_group(self, group: list[_Job]) -> list[tuple[_Job, OSError | None]]:
        """Writes entries; together if they go, else one by one, so that each knows what became of it."""
        if not group:
            return []
        try:
            self._write_entries(group)
        except OSError:
            ends = [(job, self._write_one(job)) for job in group]
        else:
            ends = [(job, None) for job in group]
        failed = sum(error is not None for _, error in ends)
        self.failed += failed
        self.written += len(ends) - failed
        return ends

    def _write_one(self, job: _Job) -> OSError | None:
        try:
            self._write_entries([job])
        except OSError as error:
            return error
        return None

    def _write_entries(self, group: list[_Job]) -> None:
        pieces = [piece for job in group for piece in job.pieces or ()]
        self.directory.write(pieces, urgent=all(job.urgent for job in group))


def _tell(ends: list[tuple[_Job, OSError | None]]) -> None:
    """Tells whoever appended what became of it."""
    for job, error in ends:
        job.done(error)
