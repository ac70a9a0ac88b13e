"""Running an unmodified program under the pager: the way of `tmem run --via pager`.

Owns: the program, the socket at which its shim asks for regions, and what was started for each region. Each process of the
program that allocates much gets a region of its own, with the whole resident limit: the limit is of large allocations, of
each process.

Ordering: the socket is there before the program; a region's holder is started once its process has registered the memory, and the
process goes on once the agent serves.

Units: bytes and seconds.
"""

import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tmem.wire.errors import InvalidOption, TmemError

from . import control, kernel, launch, shim
from .ledger import Figures
from .region import Region
from .settings import Pages, Settings, Target
from .table import State
from .uffd import needed_features, probe_features

__all__ = ["DEFAULT_ROOM", "DEFAULT_THRESHOLD", "PagedProgram", "Paging"]

DEFAULT_ROOM = 16 << 30  # of addresses: nothing is allocated for what is not used
DEFAULT_THRESHOLD = 1 << 20

# What is said to the shim, which has the same.
_OFFER = struct.Struct("<6Q")  # version, size, unit, least, features, where the freed marks are
_ACCEPTANCE = struct.Struct("<2Q")  # base, process id
_VERSION = 1
_START_SECONDS = 30.0
_END_SECONDS = 15.0
_POLL_SECONDS = 0.2


@dataclass(slots=True)
class _Served:
    """One region that was given.

    Attributes:
        region: its file. holder: its process. end: our end of the control socket.
    """

    region: Region
    holder: "subprocess.Popen[bytes]"
    end: socket.socket

    def close(self) -> None:
        """Waits for the holder, which ends with the program's process; insists if it does not."""
        self.end.close()
        try:
            self.holder.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.holder.terminate()
            self.holder.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """The way.

    Attributes:
        threshold: allocations from this size on are far.
        settings: of each region: fields of Settings, such as deadline.
    """

    threshold: int = DEFAULT_THRESHOLD
    pages: Pages = Pages.BASE
    settings: dict[str, Any] = field(default_factory=dict)

    def start(
        self, command: Sequence[str], *, memory: int, targets: Sequence[Target], room: int | None = None
    ) -> "PagedProgram":
        """Starts a program.

        Args:
            command: it and its arguments.
            memory: how much of each process's large allocations may be in local memory.
            targets: where the rest goes, in order of preference.
            room: how much one process may allocate so.

        Raises:
            InvalidOption: there is no such program, or this machine can't do that.
        """
        if shutil.which(command[0]) is None:
            raise InvalidOption(f"there is no program {command[0]!r}")
        hugetlb = self.pages is Pages.HUGETLB
        try:
            missing = needed_features(hugetlb=hugetlb) & ~probe_features()
        except OSError as error:
            raise InvalidOption(
                f"userfaultfd can't be used: {error.strerror}. Run as root, or be given /dev/userfaultfd (see tmem doctor)"
            ) from error
        if missing:
            raise InvalidOption(f"the kernel's userfaultfd lacks {missing!r}: Linux 6.6 or later is needed")
        unit = self.pages.unit_pages * 4096
        settings = Settings(
            size=-(-(DEFAULT_ROOM if room is None else room) // unit) * unit,
            resident=memory,
            targets=tuple(targets),
            name=f"run-{os.uname().nodename[:64]}-{os.getpid()}",
            pages=self.pages,
            prefetch=64 * 4096 if self.pages is Pages.BASE else 2 * unit,
            **self.settings,
        )
        with ExitStack() as undo:
            program = PagedProgram(list(command), settings, self.threshold, shim.build(), undo)
            undo.pop_all()
        return program


class PagedProgram:
    """A program that was started. Use it in a `with` statement: whatever happens, nothing is left of it.

    Attributes:
        failures: why regions could not be given.
    """

    def __init__(self, command: list[str], settings: Settings, threshold: int, preload: Path, undo: ExitStack) -> None:
        self._settings = settings
        self._threshold = threshold
        self._served: list[_Served] = []
        self._helpers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.failures: list[str] = []
        self._down = ExitStack()
        undo.enter_context(self._down)
        directory = self._down.enter_context(tempfile.TemporaryDirectory(prefix="tmem-run-"))
        self._socket = self._down.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        path = f"{directory}/pager.sock"
        self._socket.bind(path)
        self._socket.listen(16)
        self._stop = self._down.enter_context(_Flag())
        before = os.environ.get("LD_PRELOAD")
        self._process = subprocess.Popen(  # noqa: S603  the user's own command
            command,
            env=os.environ
            | {
                "LD_PRELOAD": str(preload) if not before else f"{preload}:{before}",
                "TMEM_PAGER_SOCKET": path,
                "TMEM_PAGER_THRESHOLD": str(threshold),
            },
        )
        self._down.callback(self._close_regions)
        self._down.callback(self._end)
        self._giver = threading.Thread(target=self._give, name="tmem-regions")
        self._giver.start()

    # ---- As ways.Running ----

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Waits so long for its end; answers its exit status (128 + n for signal n), or None if it still runs."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return 128 - status if status < 0 else status

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._down.close()

    # ---- How it does ----

    def regions(self) -> list[Region]:
        """The state of each region that was given so far, to be looked at."""
        with self._lock:
            return [served.region for served in self._served]

    def totals(self) -> dict[str, int]:
        """The figures of all regions together, in bytes and counts; those of the agents are of up to a second ago."""
        unit = self._settings.unit
        totals = dict.fromkeys(("regions", "resident_bytes", "remote_bytes", "lost_bytes", *Figures.names()), 0)
        for region in self.regions():
            count = region.table.counts()
            totals["regions"] += 1
            totals["resident_bytes"] += unit * (count[State.RESIDENT] + count[State.EVICTING] + count[State.RESTORING])
            totals["remote_bytes"] += unit * (count[State.REMOTE] + count[State.RESTORING])
            totals["lost_bytes"] += unit * count[State.LOST]
            for name, value in region.read_figures().items():
                totals[name] += value
        return totals

    def waits(self) -> list[int]:
        """How long touches of remote pages waited in the agents, as `latencies` counts."""
        return [sum(counts) for counts in zip(*(region.latencies for region in self.regions()), strict=True)]

    def agents(self) -> list[int]:
        """The process ids of the agents that serve now."""
        return [region.agent for region in self.regions()]

    # ---- Giving regions ----

    def _give(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._stop.fileno() in ready:
                return
            asking, _ = self._socket.accept()
            helper = threading.Thread(target=self._give_one, args=(asking,), name="tmem-region")
            self._helpers.append(helper)
            helper.start()

    def _give_one(self, asking: socket.socket) -> None:
        """One process asks for a region; it waits until it has one, or the socket is closed."""
        with asking:
            asking.settimeout(_START_SECONDS)
            try:
                served = self._serve(asking)
            except (TmemError, OSError) as error:
                self.failures.append(str(error))
                return
            with self._lock:
                self._served.append(served)
            with suppress(OSError):
                asking.send(b"R")

    def _serve(self, asking: socket.socket) -> _Served:
        settings = self._settings
        flags = os.MFD_CLOEXEC
        if settings.pages is Pages.HUGETLB:
            flags |= os.MFD_HUGETLB | kernel.MFD_HUGE_2MB
        with ExitStack() as opened:
            memory = os.memfd_create("tmem-far", flags)
            opened.callback(os.close, memory)
            os.ftruncate(memory, settings.size)
            region = Region.create(settings, 0, 0)
            opened.callback(os.close, region.descriptor)
            features = int(needed_features(hugetlb=settings.pages is Pages.HUGETLB))
            offer = _OFFER.pack(_VERSION, settings.size, settings.unit, self._threshold, features, region.freed_at)
            socket.send_fds(asking, [offer], [memory, region.descriptor])
            answer, descriptors, _, _ = socket.recv_fds(asking, _ACCEPTANCE.size, 2)
            for descriptor in descriptors:
                opened.callback(os.close, descriptor)
            if len(answer) != _ACCEPTANCE.size or len(descriptors) != 2:
                raise InvalidOption("a process of the program could not set up its region: its standard error says why")
            region.place(*_ACCEPTANCE.unpack(answer))
            ours, agents = control.pair()
            opened.callback(agents.close)
            holder = launch.start(
                "holder",
                launch.Descriptors(
                    region=region.descriptor,
                    uffd=descriptors[0],
                    memory=memory,
                    control=agents.fileno(),
                    program=descriptors[1],
                ),
            )
            served = _Served(region, holder, ours)
            try:
                control.Caller(ours).await_ready(_START_SECONDS)
            except BaseException:
                served.close()
                raise
            return served

    # ---- The end ----

    def _end(self) -> None:
        """Ends what is left of the program, and nobody gets a region any more."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._stop.set()
        self._giver.join()
        for helper in self._helpers:
            helper.join()

    def _close_regions(self) -> None:
        for served in self._served:
            served.close()


class _Flag:
    """An event that can be polled."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._reader

    def set(self) -> None:
        """From now on, it is."""
        os.write(self._writer, b"1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._reader)
        os.close(self._writer)
