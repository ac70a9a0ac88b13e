"""The journal of this daemon: files, layer and recovery put together.

Owns: `Journal`: what happens between the settings and the first answer when there is a journal, and at the end.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from .host.journal import JournalFiles, StoredFile
from .store.interface import Store
from .store.journal.entries import JournalError, Kind, Torn, encode_entry, read_entries
from .store.journal.layer import JournalLayer
from .store.journal.recovery import Recovery, describe_durable, describe_pool, drop_payload
from .store.pools import Pool, PoolTable

__all__ = ["Journal"]

log = structlog.get_logger(__name__)

_PROGRESS_SECONDS = 1.0


class Journal:
    """Keeps what pools of durability `disk` hold.

    Args:
        directory, synced: as in the settings.
        post: calls a function on the store's thread.

    Raises:
        JournalError: the directory can't be used.
    """

    def __init__(self, directory: Path, *, synced: bool, post: Callable[[Callable[[], None]], object]) -> None:
        self._files = JournalFiles(directory, synced=synced, post=post)
        self._directory = directory
        self._table: PoolTable | None = None

    def layer(self, below: Store) -> JournalLayer:
        """The layer that writes down what is done to `below`."""
        return JournalLayer(
            below, self._files, lambda: iter(()) if self._table is None else describe_durable(self._table)
        )

    def recover(self, below: Store, layers: Store, table: PoolTable, *, epoch: int, now: float) -> None:
        """Does again what the last run's files say, and begins a new one.

        Args:
            below: what holds the pages.
            layers: the same within its layers.
            table: who may use them.
            epoch: the least that a new epoch may be.
            now: in the table's seconds.

        Raises:
            JournalError: a file can't be read, or says what can't be.
        """
        self._table = table
        files = self._files.found()
        recovery = Recovery(below, layers, table)
        begun = said = time.monotonic()
        total = self._files.size
        read = 0
        for file in files:
            with contextlib.closing(self._files.view(file)) as mapped, memoryview(mapped) as data:
                torn = None
                for entry in read_entries(data, str(file.path), last=file is files[-1]):
                    if isinstance(entry, Torn):
                        torn = entry
                        break
                    kind, payload = entry
                    recovery.replay(kind, payload, str(file.path))
                    payload.release()
                    if time.monotonic() - said > _PROGRESS_SECONDS:
                        said = time.monotonic()
                        log.info(
                            "journal.reading",
                            percent=round(100 * (read + recovery.done.payload_bytes) / total),
                            pages=recovery.done.pages,
                        )
            if torn is not None:
                self._cut(file, torn)
        survived = not files or self._files.survived(files, ended=recovery.ended)
        recovery.finish(survived=survived, epoch=epoch, now=now)
        self._files.start()
        if files:
            log.info(
                "journal.recovered",
                directory=str(self._directory),
                files=len(files),
                entries=recovery.done.entries,
                payload_bytes=recovery.done.payload_bytes,
                pools=len(table),
                pages=layers.counts().pages,
                seconds=round(time.monotonic() - begun, 3),
            )
        if not survived:
            log.warning(
                "journal.incomplete",
                hint="this machine went down while the journal was not forced to the disk: what is missing is LOST",
            )
            for pool in table:
                self.keep(pool)

    def _cut(self, file: StoredFile, torn: Torn) -> None:
        log.warning("journal.torn", file=str(file.path), cut_at=torn.offset, bytes=torn.lost)
        try:
            self._files.cut(file, torn.offset)
        except OSError as error:
            raise JournalError(f"{file.path}: its torn end can't be cut off: {error.strerror}") from error

    # ---- Pools (see tmem.server.store.lifecycle.Records) ----

    def keep(self, pool: Pool) -> None:
        """Writes down what a pool is."""
        self._files.append_now(encode_entry(Kind.POOL, describe_pool(pool)))

    def drop(self, key: int) -> None:
        """Writes down that a pool is gone."""
        self._files.append_now(encode_entry(Kind.DROP, drop_payload(key)))

    def close(self) -> None:
        """Writes what is queued, and ends in order."""
        self._files.close()
