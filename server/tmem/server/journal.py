"""The journal of this daemon: files, layer and recovery put together.

Owns: `Journal`: what happens between the settings and the first answer when there is a journal, and at the end.
"""

import mmap
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import structlog

from .host.journal import JournalFiles
from .host.journal_directory import StoredFile
from .observe.metrics import JournalFigures
from .store.interface import Store
from .store.journal.entries import JournalError, Kind, Torn, encode_entry, read_entries
from .store.journal.layer import JournalLayer
from .store.journal.recovery import MemoryShortError, Recovery, describe_durable, describe_pool, drop_payload
from .store.log import LogStore
from .store.pools import Pool, PoolTable

__all__ = ["Journal", "Work"]

log = structlog.get_logger(__name__)

Work = Callable[[], None] | None
"""A piece of recovery: done already, or a function that waits for the disk."""

_PROGRESS_SECONDS = 1.0
# What a client waits at most to hear that the daemon is recovering.
_SLICE_SECONDS = 0.01


class Journal:
    """Keeps what pools of durability `disk` hold.

    Args:
        files: where it is; not started.

    Attributes:
        files: as given.
        read_share: how much of what the last run left has been read, 0 .. 1.
    """

    def __init__(self, files: JournalFiles) -> None:
        self.files = files
        self.read_share = 0.0
        self._table: PoolTable | None = None

    def layer(self, below: Store) -> JournalLayer:
        """The layer that writes down what is done to `below`."""
        return JournalLayer(
            below, self.files, lambda: iter(()) if self._table is None else describe_durable(self._table)
        )

    def recover(self, below: LogStore, layers: Store, table: PoolTable, *, epoch: int, now: float) -> Iterator[Work]:
        """Does again what the last run's files say, and begins a new one; piece by piece, as it is iterated.

        Args:
            below: what holds the pages.
            layers: the same within its layers.
            table: who may use them.
            epoch: the least that a new epoch may be.
            now: in the table's seconds.

        Yields:
            None after a short piece; a function that waits for the disk, to be called before going on, on any thread.

        Raises:
            JournalError: a file can't be read, or says what can't be.
        """
        self._table = table
        files = self.files.directory.found()
        recovery = Recovery(below, layers, table)
        begun = time.monotonic()
        with below.loading():
            settled = yield from self._replay(files, recovery, below)
            # Files from before the last start were read by it: whatever became of them then, the pools say.
            survived = not files or self.files.directory.survived(files[settled:], ended=recovery.ended)
            recovery.finish(survived=survived, epoch=epoch, now=now)
        if below.excess_bytes:
            log.warning(
                "journal.above_limit",
                bytes=below.excess_bytes,
                hint="pages lie as they were sent, and take more than memory_limit: until recompression, the scratch disk or flushes "
                "have made room, puts are refused; or raise memory_limit",
            )
        yield lambda: self._begin(table, survived=survived)
        self.read_share = 1.0
        if files:
            log.info(
                "journal.recovered",
                directory=str(self.files.directory.path),
                files=len(files),
                entries=recovery.done.entries,
                payload_bytes=recovery.done.payload_bytes,
                pools=len(table),
                pages=layers.counts().pages,
                seconds=round(time.monotonic() - begun, 3),
            )

    def _begin(self, table: PoolTable, *, survived: bool) -> None:
        """Begins the files of this run."""
        self.files.start()
        try:
            if not survived:
                log.warning(
                    "journal.incomplete",
                    hint="this machine went down while the journal was not forced to the disk: what is missing is LOST",
                )
                for pool in table:
                    self.keep(pool)
            self.files.append_now(encode_entry(Kind.START, b""))
        except OSError as error:
            raise JournalError(f"{self.files.directory.path}: {error.strerror}") from error

    def _replay(self, files: Sequence[StoredFile], recovery: Recovery, below: LogStore) -> Generator[Work, None, int]:
        """Does again what files say; answers which of them is the first one of the last run."""
        said = paused = time.monotonic()
        total = max(self.files.size, 1)
        settled = 0
        for number, file in enumerate(files):
            views: list[mmap.mmap] = []
            yield lambda file=file, views=views: views.append(self._view(file))  # type: ignore[misc]
            # Not closed by name: an entry of it may be part of the error that it causes.
            with memoryview(views.pop()) as data:
                rebooted = not file.header.synced and not self.files.directory.of_this_boot(file)
                for entry in read_entries(data, str(file.path), last=file is files[-1], rebooted=rebooted):
                    if isinstance(entry, Torn):
                        self._cut(file, entry)
                        break
                    kind, payload = entry
                    if kind == Kind.START:
                        settled = number
                    try:
                        recovery.replay(kind, payload, str(file.path))
                    except MemoryShortError as error:
                        yield from self._replay_slowly(kind, payload, str(file.path), recovery, below, error)
                    payload.release()
                    now = time.monotonic()
                    if now - said > _PROGRESS_SECONDS:
                        said = now
                        percent = round(100 * recovery.done.payload_bytes / total)
                        log.info("journal.reading", percent=percent, pages=recovery.done.pages)
                    if now - paused > _SLICE_SECONDS:
                        self.read_share = recovery.done.payload_bytes / total
                        yield None
                        paused = time.monotonic()
        return settled

    @staticmethod
    def _replay_slowly(
        kind: Kind, payload: memoryview, name: str, recovery: Recovery, below: LogStore, error: MemoryShortError
    ) -> Iterator[Work]:
        """Does an entry once there is room: reading is quicker than a disk that takes what memory can't hold."""
        while (spilling := below.spilling) is not None:
            before = below.memory_bytes
            yield spilling
            if below.memory_bytes >= before:
                break  # the disk took nothing
            try:
                recovery.replay(kind, payload, name)
            except MemoryShortError as again:
                error = again
            else:
                return
        raise error

    def _view(self, file: StoredFile) -> mmap.mmap:
        try:
            return self.files.directory.view(file)
        except OSError as error:
            raise JournalError(f"{file.path}: {error.strerror}") from error

    def _cut(self, file: StoredFile, torn: Torn) -> None:
        log.warning("journal.torn", file=str(file.path), cut_at=torn.offset, bytes=torn.lost)
        try:
            self.files.directory.cut(file, torn.offset)
        except OSError as error:
            raise JournalError(f"{file.path}: its torn end can't be cut off: {error.strerror}") from error

    # ---- Pools (see tmem.server.store.lifecycle.Records) ----

    def keep(self, pool: Pool) -> None:
        """Writes down what a pool is."""
        self.files.append_now(encode_entry(Kind.POOL, describe_pool(pool)))

    def drop(self, key: int) -> None:
        """Writes down that a pool is gone."""
        self.files.append_now(encode_entry(Kind.DROP, drop_payload(key)))

    def figures(self) -> JournalFigures:
        """For its metrics."""
        return JournalFigures(self.files.size, self.files.written, self.files.failed)

    def close(self) -> None:
        """Writes what is queued, and ends in order."""
        self.files.close()
