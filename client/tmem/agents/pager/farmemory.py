"""Far memory: a buffer larger than local memory, for Python programs.

Owns: the program's side of a region: the mapping, the userfaultfd, the control socket, and the holder that was started for it.

Ordering: the mapping is kept out of forks before anything is registered; the userfaultfd stays open for as long as the region is
mapped, as without it missing pages would be zeros; the region is unmapped before its agent is told to end.
"""

import mmap
import os
import socket
import subprocess
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tmem.wire.errors import Closed, InvalidOption, TmemError

from . import control, kernel, launch
from .direct_io import refuse_direct_io
from .latencies import quantile
from .region import Region
from .settings import Pages, Settings, Target, default_prefetch
from .table import Flag, State
from .uffd import Userfaultfd, check_machine, needed_features
from .workingset import read_runs, write_runs

__all__ = ["FarMemory"]

_START_SECONDS = 60.0
_CALL_SECONDS = 30.0
_END_SECONDS = 15.0
_MADV_DOFORK = 11

_regions: "weakref.WeakSet[FarMemory]" = weakref.WeakSet()


class FarMemory(mmap.mmap):
    """A buffer of which only a part is in local memory; the rest is at tmem servers, and comes when it is touched.

        import numpy
        from tmem.agents.pager import FarMemory

        with FarMemory(8 << 30, resident=1 << 30, target="10.0.0.2:8636") as far:
            numbers = numpy.frombuffer(far.view(), dtype=numpy.float64)
            ...
            del numbers                     # a region is closed when nobody uses it

    It is an `mmap.mmap`: whatever takes a buffer takes it. A separate process, the agent, moves the pages; it may die and is
    replaced, and the program waits meanwhile.

    What to know
        SIGBUS    a page that can't be had back within `deadline` (its server is gone, or has lost it) ends the program by SIGBUS when it
                  is touched. It never reads as zeros, or as something else.
        fork      the memory stays with the process that made it: a forked child that touches it gets SIGSEGV. `subprocess` and
                  whatever else starts a program by fork or vfork and exec is not affected; `multiprocessing` wants its start method "spawn".
        O_DIRECT  direct I/O, io_uring, vmsplice, RDMA and VFIO let devices write past the pager, and what they wrote would be lost.
                  The process is kept from the first three (the open is EINVAL, see `direct_io`), for good, and so are programs that it
                  starts later; `allow_direct_io=True` is the promise that it does none into far memory.
        threads   a Python thread that waits for a page holds the interpreter's lock, so all Python threads of the program wait with it.
                  Nothing that the page's coming depends on (a server for tests, a proxy) may run in this process.
        agents    what the agent brings home is charged to the agent's control group, which is the program's unless it is moved.

    Args:
        size: bytes; a multiple of 4096, or of 2 MiB for huge pages.
        resident: how much of it may be in local memory. Soft when no server takes pages.
        target: a server ("HOST:PORT" or "unix:PATH"), or several in order of preference: a page goes to the first that accepts it.
        token: the tenant's at these servers.
        pages: "4KiB", "thp" (moved as 2 MiB; huge in local memory where the machine's shmem_enabled allows) or "hugetlb" (of the
            machine's pool of 2 MiB pages).
        deadline: seconds until a touch of a page that does not come is SIGBUS. write_deadline: until a server that does not
            answer a put is given up for that page.
        prefetch: bytes that are read ahead of a stream of faults at most; None = 256 KiB, or two huge pages.
        sampling: whether to learn which pages are used by unmapping some for a moment; the alternative is the order of arrival.
        inertia: seconds for which the remote part must not have grown before pages come home by themselves, if there is room.
        watchdog: seconds without a sign of life after which an agent is replaced; 0 = never.
        name: of the pools at the servers; None = after host and process.
        allow_direct_io: see above.

    Raises:
        InvalidOption: an argument that can't be, or this machine can't do that: the message says what to do.
        Unavailable, Unauthenticated, ...: no target can be used; the first one's error.
    """

    _memory: int
    _settings: Settings

    def __new__(  # noqa: D102
        cls,
        size: int,
        /,
        *,
        resident: int,
        target: str | Target | Sequence[str | Target],
        token: str | None = None,
        pages: str | Pages = Pages.BASE,
        prefetch: int | None = None,
        name: str | None = None,
        allow_direct_io: bool = False,  # noqa: ARG004  __init__'s
        **settings: Any,
    ) -> Self:
        made = _settings(size, resident, target, token, pages, prefetch, name, settings)
        flags = os.MFD_CLOEXEC
        if made.pages is Pages.HUGETLB:
            flags |= os.MFD_HUGETLB | kernel.MFD_HUGE_2MB
        try:
            memory = os.memfd_create("tmem-far", flags)
        except OSError as error:
            raise InvalidOption(f"memory of {made.pages.value} pages can't be had: {error.strerror}") from error
        try:
            os.ftruncate(memory, size)
            region = super().__new__(cls, memory, size, flags=mmap.MAP_SHARED | kernel.MAP_NORESERVE)
        except OSError as error:
            os.close(memory)
            raise InvalidOption(f"{size} bytes of far memory can't be mapped: {error.strerror}") from error
        region._memory = memory
        region._settings = made
        return region

    def __init__(self, _size: int, /, *, allow_direct_io: bool = False, **_: Any) -> None:
        self._owner = os.getpid()
        self._forked = False
        self._descriptors = [self._memory]
        self._control: socket.socket | None = None
        self._holder: subprocess.Popen[bytes] | None = None
        self._region: Region | None = None
        try:
            self.madvise(kernel.MADV_DONTFORK)
            self._base = kernel.address_of(self)
            self._start()
            if not allow_direct_io:
                refuse_direct_io()
        except BaseException:
            self._abandon()
            raise
        # When nobody refers to it any more; not when the interpreter ends: another thread may still use it then.
        self._finalizer = weakref.finalize(self, _let_go, self._control, self._holder, list(self._descriptors))
        self._finalizer.atexit = False
        _regions.add(self)

    def _start(self) -> None:
        settings = self._settings
        hugetlb = settings.pages is Pages.HUGETLB
        check_machine(hugetlb=hugetlb)
        uffd = Userfaultfd.create(needed_features(hugetlb=hugetlb), settings.kernel_page)
        self._descriptors.append(uffd.descriptor)
        uffd.register(self._base, settings.size)
        self._region = Region.create(settings, self._base, self._owner)
        self._descriptors.append(self._region.descriptor)
        ours, agents = control.pair()
        pidfd = os.pidfd_open(self._owner)
        try:
            self._control = ours
            self._caller = control.Caller(ours)
            descriptors = launch.Descriptors(
                region=self._region.descriptor,
                uffd=uffd.descriptor,
                memory=self._memory,
                control=agents.fileno(),
                program=pidfd,
            )
            self._holder = launch.start("holder", descriptors)
        finally:
            os.close(pidfd)
            agents.close()
        self._caller.await_ready(_START_SECONDS)

    # ---- The buffer ----

    def view(self) -> memoryview:
        """The whole region as a flat view of bytes."""
        return memoryview(self)

    def discard(self, offset: int = 0, length: int | None = None) -> None:
        """Gives a range up: it reads as zeros from now on, and takes no memory anywhere.

        Args:
            offset: bytes; whole pages, of 2 MiB for "thp" and "hugetlb".
            length: likewise; None = to the end.

        Raises:
            InvalidOption: not whole pages of the region.
        """
        self._check()
        length = len(self) - offset if length is None else length
        unit = self._settings.unit
        if offset % unit or length % unit or offset < 0 or not 0 < length <= len(self) - offset:
            raise InvalidOption(f"{length} bytes at {offset} are not whole pages of {unit} bytes in the region")
        assert self._region is not None
        first, count = offset // unit, length // unit
        # If the agent dies with the kernel's message in its hands, the next one finds this.
        self._region.table.freed[first : first + count] = b"\1" * count
        super().madvise(mmap.MADV_REMOVE, offset, length)

    def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
        """As of mmap. MADV_REMOVE is `discard`; MADV_DOFORK is refused: a child would read zeros instead of what is away."""
        if option == mmap.MADV_REMOVE:
            self.discard(start, length)
            return
        if option == _MADV_DOFORK:
            raise InvalidOption("far memory can't be forked: a child would read zeros in the place of what is away")
        super().madvise(option, start, len(self) if length is None else length)

    def resize(self, newsize: int) -> None:
        """Not possible.

        Raises:
            InvalidOption: always.
        """
        raise InvalidOption(f"far memory can't be resized to {newsize} bytes: make another region")

    # ---- Looking and steering ----

    @property
    def resident(self) -> int:
        """How many bytes may be in local memory. Can be set."""
        return self._settings.resident

    @resident.setter
    def resident(self, size: int) -> None:
        self._check()
        self._settings = replace(self._settings, resident=size)  # raises InvalidOption
        self._caller.call(_CALL_SECONDS, do="limit", units=size // self._settings.unit)

    def stats(self) -> dict[str, int | float]:
        """How it stands; asks nobody, and works while every agent is dead.

        Returns:
            resident_bytes, remote_bytes, lost_bytes: of the region, now. limit_bytes: of local memory. agent: its process id; agents: how
            many there were. Counts of what was done, in pages of the region's kind, of up to a second ago; see
            `ledger.Figures`. fault_p50, fault_p99: seconds that touches of remote pages have waited in the agent; not there
            before the first.
        """
        self._check()
        region = self._region
        assert region is not None
        unit = self._settings.unit
        count = region.table.counts()
        return {
            "resident_bytes": (count[State.RESIDENT] + count[State.EVICTING] + count[State.RESTORING]) * unit,
            "remote_bytes": (count[State.REMOTE] + count[State.RESTORING]) * unit,
            "lost_bytes": count[State.LOST] * unit,
            "limit_bytes": self._settings.resident,
            "agent": region.agent,
            "agents": region.starts,
            **region.read_figures(),
            **{
                name: wait
                for name, part in (("fault_p50", 0.5), ("fault_p99", 0.99))
                if (wait := quantile(region.latencies, part)) is not None
            },
        }

    def record_working_set(self) -> None:
        """Begins to record which pages are used. Until the set is saved every page costs one fault when it is first used."""
        self._check()
        self._caller.call(_CALL_SECONDS, do="record")

    def save_working_set(self, path: str | os.PathLike[str]) -> int:
        """Writes down which pages were used since `record_working_set`, or since the start; answers how many bytes they are.

        Pages that no kernel can tell about (huge pages of the pool that stayed in local memory all the time) are not in it.
        """
        self._check()
        self._caller.call(_CALL_SECONDS, do="recorded")
        unit = self._settings.unit
        runs = list(self._used_runs())
        write_runs(Path(path), ((first * unit, count * unit) for first, count in runs))
        return sum(count for _, count in runs) * unit

    def _used_runs(self) -> Iterator[tuple[int, int]]:
        assert self._region is not None
        table = self._region.table
        flags, states = table.flags, table.states
        first = None
        for unit in range(table.units):
            used = flags[unit] & Flag.USED and states[unit] != State.NEVER
            if used and first is None:
                first = unit
            elif not used and first is not None:
                yield first, unit - first
                first = None
        if first is not None:
            yield first, table.units - first

    def prefetch(self, path: str | os.PathLike[str], timeout: float = 60.0) -> None:
        """Has a working set fetched that was saved earlier, by this or another run; waits until it is here.

        What does not fit into the limit stays where it is.

        Raises:
            InvalidOption: it is no working set, or of another region. DeadlineExceeded: it took longer; the rest still comes.
        """
        self._check()
        unit = self._settings.unit
        runs: list[tuple[int, int]] = []
        for offset, length in read_runs(Path(path)):
            if offset + length > len(self):
                raise InvalidOption(f"{path} is the working set of a larger region: {length} bytes at {offset}")
            first = offset // unit
            runs.append((first, -(-(offset + length) // unit) - first))
        for at in range(0, len(runs), control.MAX_RUNS):
            self._caller.call(timeout, do="bring", runs=runs[at : at + control.MAX_RUNS])

    # ---- The end ----

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the region and all that is in it, at home and away. Takes a bounded time, whatever the servers do.

        Raises:
            BufferError: somebody still has a view of it (a numpy array, a memoryview): nothing was done.
        """
        if self._forked or self._region is None:
            return
        super().close()
        with suppress(TmemError):
            self._caller.call(_END_SECONDS, do="close")
        self._abandon()

    def _abandon(self) -> None:
        """Lets go of everything but the mapping."""
        finalizer = getattr(self, "_finalizer", None)
        if finalizer is not None:
            finalizer.detach()
        with suppress(BufferError):
            super().close()
        if self._region is not None:
            self._region.close()
            self._region = None
        _let_go(self._control, self._holder, self._descriptors)

    def _check(self) -> None:
        if self._forked:
            raise Closed("far memory belongs to the process that made it, and not to a fork of it")
        if self._region is None:
            raise Closed("the region was closed")

    def _after_fork(self) -> None:
        """In a child: the addresses stay taken, so that a stray pointer is SIGSEGV and not somebody else's memory."""
        self._forked = True
        self._finalizer.detach()
        for descriptor in self._descriptors:
            os.close(descriptor)
        if self._control is not None:
            self._control.close()
        kernel.reserve_addresses(self._base, self._settings.size)


def _let_go(end: socket.socket | None, holder: "subprocess.Popen[bytes] | None", descriptors: list[int]) -> None:
    """Ends agent and holder, and closes what was open; the region is not used any more."""
    if end is not None:
        end.close()  # the agent ends, if it has not yet
    if holder is not None:
        try:
            holder.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors.clear()


def _settings(
    size: int,
    resident: int,
    target: str | Target | Sequence[str | Target],
    token: str | None,
    pages: str | Pages,
    prefetch: int | None,
    name: str | None,
    others: dict[str, Any],
) -> Settings:
    try:
        kind = Pages(pages)
    except ValueError:
        raise InvalidOption(f"pages is {pages!r}; {', '.join(each.value for each in Pages)} can be") from None
    targets = [target] if isinstance(target, (str, Target)) else target
    try:
        return Settings(
            size=size,
            resident=resident,
            targets=tuple(each if isinstance(each, Target) else Target(each, token) for each in targets),
            name=name or f"far-{os.uname().nodename[:64]}-{os.getpid()}",
            pages=kind,
            prefetch=default_prefetch(kind) if prefetch is None else prefetch,
            **others,
        )
    except TypeError as error:
        raise InvalidOption(f"{error}".replace("Settings.__init__() got", "far memory takes no such thing:")) from None


def _forked() -> None:
    for region in list(_regions):
        region._after_fork()  # noqa: SLF001


os.register_at_fork(after_in_child=_forked)
