"""A store with a journal as a daemon has it, driven by hand: crashed at any call of the operating system, and started again."""

import os
import queue
import shutil
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.pages import PAGE
from tests.stores import Got, make_put

from tmem.server.host.disk import Disk
from tmem.server.host.journal import JournalFiles, _Job
from tmem.server.host.scratch import ScratchFile
from tmem.server.journal import Journal
from tmem.server.store.interface import Flushed, Store, Stored
from tmem.server.store.journal.entries import Kind, encode_entry
from tmem.server.store.lifecycle import Graces, Lifecycle
from tmem.server.store.log import LogStore, segment_size
from tmem.server.store.pending import Pending
from tmem.server.store.pools import Pool, PoolRequest, PoolTable
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Durability, PoolKind
from tmem.wire.splice import BytesLike

T = TypeVar("T")
TENANT = "t"


class WrittenBy(Disk):
    """The system's disk, but for what stands in the place of os.writev."""

    def __init__(self, write: Callable[..., int]) -> None:
        self._write = write

    def writev(self, file: int, pieces: Sequence[BytesLike]) -> int:
        return self._write(file, pieces)


class SteppedFiles(JournalFiles):
    """Journal files without a thread: the test says when what is queued is written, and is the thread itself."""

    def start(self) -> None:
        self._thread = _NoThread()  # type: ignore[assignment]
        super().start()

    def _wait(self, job: _Job) -> None:
        ends: list[OSError | None] = []
        job.done, job.at_once = ends.append, True
        self._add(job)
        self._turn()
        if ends[0] is not None:
            raise ends[0]

    def turn(self) -> None:
        """Writes what is queued."""
        self._turn()


class _NoThread:
    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False


class Host:
    """The part of a daemon between the protocol and the disk.

    Args:
        directory: of its journal; read first.
        write: what stands in the place of os.writev.
        stepped: nothing is written before `settle` or `run` says so.
        wrap: layers around the journal's.
        spill_bytes: room on a disk beside the journal for what memory can't hold; it says later that it took something.

    Raises:
        JournalError: as the daemon would.
    """

    def __init__(
        self,
        directory: Path,
        *,
        limit: int = 64 << 20,
        write: Callable[..., int] = os.writev,
        stepped: bool = False,
        epoch: int = 1,
        wrap: Callable[[Store], Store] = lambda store: store,
        segment_bytes: int | None = None,
        spill_bytes: int = 0,
    ) -> None:
        self.tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.directory = directory
        kind = SteppedFiles if stepped else JournalFiles
        self.files = kind(directory, synced=False, post=self.tasks.put, disk=WrittenBy(write))
        self.scratch: ScratchFile | None = None
        if spill_bytes:
            slot_bytes = segment_bytes or segment_size(limit)
            self.scratch = ScratchFile(directory.with_name("spill"), slot_bytes, spill_bytes, post=self.tasks.put)
        self.plain = LogStore(limit, CopyCounter(), segment_bytes=segment_bytes, scratch=self.scratch)
        self.journal = Journal(self.files)
        self.layer = self.journal.layer(self.plain)
        self.store = wrap(self.layer)
        self.table = PoolTable(random_bytes=os.urandom, durabilities=self.store.durabilities, max_pools=100)
        self.lifecycle = Lifecycle(self.table, self.store, graces=Graces(), epoch=lambda: epoch, records=self.journal)
        try:
            for work in self.journal.recover(self.plain, self.store, self.table, epoch=epoch, now=0.0):
                if work is not None:
                    work()
                while self.tell():
                    pass
        except BaseException:
            self.close()
            raise

    def make(self, name: str = "pool", *, durable: bool = True, **request: object) -> "Writer":
        """A new pool, and who writes to it."""
        durability = Durability.DISK if durable else Durability.MEMORY
        asked = PoolRequest(name, PoolKind.PERSISTENT, durability=durability, **request)  # type: ignore[arg-type]
        pool, _ = self.lifecycle.create(TENANT, asked, 0.0)
        return Writer(self, pool)

    def find(self, name: str = "pool") -> "Writer":
        """Who writes to a pool that is there."""
        return Writer(self, self.pool(name))

    def pool(self, name: str = "pool") -> Pool:
        (pool,) = [pool for pool in self.table if pool.name == name]
        return pool

    # ---- What is told later ----

    def tell(self) -> bool:
        """Tells one thing that the journal has to tell, if there is any."""
        try:
            self.tasks.get_nowait()()
        except queue.Empty:
            return False
        return True

    def settle(self) -> None:
        """Everything that is queued is written, and everybody is told, as often as that leads to more."""
        if isinstance(self.files, SteppedFiles):
            while self.files._jobs:
                self.files.turn()
                while self.tell():
                    pass
        while self.tell():
            pass

    def run(self, result: T | Pending[T]) -> T:
        """What a result is in the end."""
        if not isinstance(result, Pending):
            return result
        values: list[T] = []
        result.when_settled(values.append)
        self.settle()
        while not values:
            self.tasks.get(timeout=20)()
        return values[0]

    def rewrite(self) -> None:
        """Writes the journal anew, to the end of the pass."""
        while self.layer.step():
            pass
        for _ in range(2):  # the pass's last entry, and then the files that go
            if not isinstance(self.files, SteppedFiles):
                self.files.append_now(encode_entry(Kind.MARK, b""))
            self.settle()
        if not isinstance(self.files, SteppedFiles):
            self.files.append_now(encode_entry(Kind.MARK, b""))

    # ---- Ends ----

    def crash(self, into: Path) -> Path:
        """A copy of the directory as it is now, as if the daemon had been killed."""
        shutil.copytree(self.directory, into)
        return into

    def close(self) -> None:
        """Ends as SIGTERM would end it."""
        self.journal.close()
        self.store.close()
        if self.scratch is not None:
            self.scratch.close()


class Writer:
    """Writes to one pool of a host."""

    def __init__(self, host: Host, pool: Pool) -> None:
        self.host = host
        self.pool = pool
        self.sequence = 0
        self.codec = Codec(CopyCounter())

    @property
    def key(self) -> int:
        return self.pool.key

    def version(self) -> Version:
        self.sequence += 1
        return Version(self.pool.generation, self.sequence)

    def ask_put(
        self, *items: tuple[int, int, bytes], version: Version | None = None, chunk_pages: int = 16
    ) -> Stored | Pending[Stored]:
        """Puts pages at (object, index), without waiting."""
        version = version or self.version()
        extents = [(Extent(obj, index, len(plain) // PAGE), plain) for obj, index, plain in items]
        put = make_put(extents, version.sequence, version.generation, chunk_pages)
        return self.host.store.put(self.key, version, put, version.generation)

    def put(self, obj: int, index: int, plain: bytes, *, chunk_pages: int = 16) -> Stored:
        return self.host.run(self.ask_put((obj, index, plain), chunk_pages=chunk_pages))

    def ask_flush(
        self, obj: int, index: int, pages: int = 1, condition: Version | None = None
    ) -> Flushed | Pending[Flushed]:
        conditions = None if condition is None else [condition]
        return self.host.store.flush(self.key, self.version(), [Extent(obj, index, pages)], conditions)

    def flush(self, obj: int, index: int, pages: int = 1, condition: Version | None = None) -> Flushed:
        return self.host.run(self.ask_flush(obj, index, pages, condition))

    def flush_object(self, obj: int) -> Flushed:
        return self.host.run(self.host.store.flush_object(self.key, self.version(), [obj]))

    def get(self, obj: int, index: int, pages: int = 1) -> Got:
        answer = self.host.store.get(self.key, [Extent(obj, index, pages)], 4 << 20, 1)
        assert not isinstance(answer, Pending)
        return Got(answer, pages, self.codec)

    @property
    def pages(self) -> int:
        return self.host.store.counts(self.key).pages


def contents(store: Store, key: int) -> dict[tuple[int, int], tuple[bytes, Version]]:
    """Every page of a pool, with its version."""
    held = {}
    codec = Codec(CopyCounter())
    for listing in store.blocks(key):
        answer = store.get(key, [Extent(listing.object, listing.block * 512, 512)], 64 << 20, 1)
        assert not isinstance(answer, Pending)
        got = Got(answer, 512, codec)
        for page, data in got.data.items():
            held[listing.object, listing.block * 512 + page] = data, got.versions[page]
    return held


def watch_calls(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> Callable[..., int]:
    """Calls `before` with the name of every call that is about to change the directory; answers what is to write."""
    module = "tmem.server.host.journal_directory"

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            before(name)
            return call(*arguments, **options)

        return instead

    names = ("open", "write", "pwrite", "ftruncate", "truncate", "fsync", "fdatasync", "posix_fallocate", "close")
    fake = types.SimpleNamespace(**{name: getattr(os, name) for name in dir(os)})
    for name in names:
        setattr(fake, name, wrapped(name, getattr(os, name)))
    monkeypatch.setattr(f"{module}.os", fake)
    for name in ("rename", "unlink"):
        monkeypatch.setattr(Path, name, wrapped(name, getattr(Path, name)))
    return wrapped("writev", os.writev)
