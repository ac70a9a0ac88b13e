"""Running an unmodified program under the pager: the way of `tmem run --via pager`.

Owns: the program, the socket at which its shim asks for regions, and what was started for each region. Each process of the
program that allocates much gets a region of its own, with the whole resident limit: the limit is of large allocations, of
each process.

Ordering: the socket is there before the program; a region's holder is started once its process has registered the memory, and the
process goes on once the agent serves. Each region has a thread, which waits for its end and keeps nothing of it but sums: a
program may start processes without number.

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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tmem.client.link
from tmem.agents.run.ways import Figures, Order
from tmem.wire.errors import InvalidOption, TmemError
from tmem.wire.limits import PAGE_BYTES

from . import control, kernel, launch, shim
from .latencies import BUCKETS, quantile
from .ledger import Figures as AgentFigures
from .region import Region
from .settings import Pages, Settings, Target, default_prefetch
from .table import State
from .uffd import check_machine, needed_features

__all__ = ["DEFAULT_ROOM", "DEFAULT_THRESHOLD", "PagedProgram", "Paging"]

DEFAULT_ROOM = 16 << 30  # of addresses: nothing is allocated for what is not used
DEFAULT_THRESHOLD = 1 << 20

# What is said to the shim, which has the same.
_OFFER = struct.Struct("<6Q")  # version, size, unit, least, features, where the freed marks are
_ACCEPTANCE = struct.Struct("<2Q")  # base, process id
_VERSION = 1
_START_SECONDS = 60.0
_END_SECONDS = 15.0
_PAUSE_SECONDS = 0.2
_RATIO_SECONDS = 2.0
_LOOK_SECONDS = 2.0


@dataclass(slots=True)
class _Served:
    """One region that was given.

    Attributes:
        region: its file. holder: its process. end: our end of the control socket.
    """

    region: Region
    holder: "subprocess.Popen[bytes]"
    end: socket.socket

    def await_end(self, stop: "_Flag") -> None:
        """Waits until holder and agents have ended, or nobody is to be served any more."""
        poll = select.poll()
        poll.register(self.end, 0)  # that the other end is nobody's any more is told all the same
        poll.register(stop.fileno(), select.POLLIN)
        poll.poll()

    def close(self) -> None:
        """Waits for the holder, which ends with the program's process; insists if it does not."""
        self.end.close()
        try:
            self.holder.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.holder.terminate()
            self.holder.wait()


class Paging:
    """The way: a ways.Way.

    Args:
        threshold: allocations from this size on are far.
        pages: of which pages regions are made.
        targets: where pages go after the order's own target, if that does not accept them.
        settings: of each region: fields of Settings, such as deadline.
    """

    def __init__(
        self,
        *,
        threshold: int = DEFAULT_THRESHOLD,
        pages: Pages = Pages.BASE,
        targets: Sequence[Target] = (),
        **settings: Any,
    ) -> None:
        self._threshold = threshold
        self._pages = pages
        self._targets = tuple(targets)
        self._settings = settings

    def start(self, order: Order) -> "PagedProgram":
        """Starts a program. `order.memory` is what each of its processes may have of large allocations in local memory.

        Raises:
            InvalidOption: there is no such program, or this machine can't do that.
        """
        if shutil.which(order.command[0]) is None:
            raise InvalidOption(f"there is no program {order.command[0]!r}")
        check_machine(hugetlb=self._pages is Pages.HUGETLB)
        unit = self._pages.unit_pages * PAGE_BYTES
        settings = Settings(
            size=-(-(DEFAULT_ROOM if order.room is None else order.room) // unit) * unit,
            resident=order.memory,
            targets=(Target(order.target, order.token), *self._targets),
            name=f"run-{os.uname().nodename[:64]}-{os.getpid()}",
            pages=self._pages,
            prefetch=default_prefetch(self._pages),
            **self._settings,
        )
        with ExitStack() as undo:
            program = PagedProgram(order.command, settings, self._threshold, shim.build(), undo)
            undo.pop_all()
        return program


class PagedProgram:
    """A program that was started: a ways.Running. Use it in a `with` statement: whatever happens, nothing is left of it.

    Attributes:
        failures: why regions could not be given.
    """

    def __init__(self, command: list[str], settings: Settings, threshold: int, preload: Path, undo: ExitStack) -> None:
        self._settings = settings
        self._threshold = threshold
        self._lock = threading.Lock()  # of what follows, and of the regions' mappings
        self._served: list[_Served] = []
        self._helpers: set[threading.Thread] = set()
        self._given = 0
        self._done = dict.fromkeys(AgentFigures.names(), 0)  # by regions that have ended
        self._waits = [0] * BUCKETS
        self._accepting = True  # the last of them
        self._ratio: float | None = None
        self._ratio_at = 0.0
        self.failures: list[str] = []
        self._down = ExitStack()
        undo.enter_context(self._down)
        directory = self._down.enter_context(tempfile.TemporaryDirectory(prefix="tmem-run-"))
        self._socket = self._down.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self._path = f"{directory}/pager.sock"
        self._socket.bind(self._path)
        self._socket.listen(16)
        self._stop = self._down.enter_context(_Flag())
        before = os.environ.get("LD_PRELOAD")
        self._process = subprocess.Popen(  # noqa: S603  the user's own command
            command,
            env=os.environ
            | {
                "LD_PRELOAD": str(preload) if not before else f"{preload}:{before}",
                "TMEM_PAGER_SOCKET": self._path,
                "TMEM_PAGER_THRESHOLD": str(threshold),
            },
        )
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
        self._hear_last()
        return 128 - status if status < 0 else status

    def _hear_last(self) -> None:
        """Agents whose process has ended write their figures once more before they end."""
        with self._lock:
            over = [served for served in self._served if not Path(f"/proc/{served.region.pid}").exists()]
        for served in over:
            with suppress(subprocess.TimeoutExpired):
                served.holder.wait(_END_SECONDS)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._down.close()

    # ---- How it does ----

    def figures(self) -> Figures:
        """How it does, or did: all its regions together. What agents count of a process that lives is of up to a second ago."""
        settings = self._settings
        with self._lock:
            regions = [served.region for served in self._served]
            counts = [region.table.counts() for region in regions]
            done, waits = dict(self._done), list(self._waits)
            for region in regions:
                _add_up(region, done, waits)
            given, trouble = self._given, self._trouble(regions)
            names = [
                {key.name for region in regions if (key := region.key(number)) is not None}
                for number in range(len(settings.targets))
            ]
        unit_pages = settings.pages.unit_pages
        pages_in = (done["restored"] + done["prefetched"] + done["returned"]) * unit_pages
        pages_out = done["evicted"] * unit_pages
        return Figures(
            resident=settings.unit * sum(_in_memory(count) for count in counts),
            peak=settings.unit * done["peak"],
            remote=settings.unit * sum(count[State.REMOTE] + count[State.RESTORING] for count in counts),
            remote_peak=settings.unit * done["remote_peak"],
            faults=done["restored"],
            fault_p50=quantile(waits, 0.5),
            fault_p99=quantile(waits, 0.99),
            pages_in=pages_in,
            pages_out=pages_out,
            messages_in_per_mib=_per_mib(done["gets"], pages_in),
            messages_out_per_mib=_per_mib(done["puts"], pages_out),
            ratio=self._look_at_ratio(names),
            trouble=trouble,
            more={"regions": given, **{f"pager_{name}": value for name, value in done.items()}},
        )

    def _trouble(self, regions: list[Region]) -> str:
        if self.failures:
            return self.failures[-1]
        if not (all(region.accepting for region in regions) if regions else self._accepting):
            return "no server takes pages: the limit is soft until one does"
        return ""

    def _look_at_ratio(self, names: list[set[str]]) -> float | None:
        """What the servers' pools of this program hold, plain, to what that takes there; looked at now and then.

        Args:
            names: of the pools, for each target.
        """
        now = time.monotonic()
        if now < self._ratio_at or self._process.returncode is not None:
            return self._ratio  # when the program has ended, so have its pools
        self._ratio_at = now + _RATIO_SECONDS
        plain = stored = 0
        for target, wanted in zip(self._settings.targets, names, strict=True):
            if not wanted:
                continue
            with (
                suppress(TmemError),
                tmem.client.link.connect(
                    target.address, token=target.token, connect_timeout=_LOOK_SECONDS, call_timeout=_LOOK_SECONDS
                ) as link,
            ):
                for pool in link.pools():
                    if pool.name in wanted:
                        stat = link.stat_pool(pool.pool_id)
                        plain += stat.pages * PAGE_BYTES
                        stored += stat.payload_bytes + stat.index_bytes
        if stored:
            self._ratio = plain / stored
        return self._ratio

    def agents(self) -> list[int]:
        """The process ids of the agents that serve now."""
        with self._lock:
            return [served.region.agent for served in self._served]

    # ---- Giving regions ----

    def _give(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._stop.fileno() in ready:
                return
            try:
                asking, _ = self._socket.accept()
            except OSError as error:  # for want of descriptors or memory: they come back when a process ends
                self._failed(f"a process waits for its far memory: {error}")
                if self._stop.wait(_PAUSE_SECONDS):
                    return
                continue
            helper = threading.Thread(target=self._give_one, args=(asking,), name="tmem-region")
            with self._lock:
                self._helpers.add(helper)
            try:
                helper.start()
            except RuntimeError as error:
                self._failed(f"a process gets no far memory: {error}")
                asking.close()
                with self._lock:
                    self._helpers.discard(helper)

    def _failed(self, why: str) -> None:
        if self.failures[-1:] != [why]:
            self.failures.append(why)

    def _give_one(self, asking: socket.socket) -> None:
        """One process asks for a region; it waits until it has one, or the socket is closed. Then its end is waited for."""
        try:
            served = self._answer(asking)
            if served is not None:
                served.await_end(self._stop)
                served.close()
                self._keep_sums(served)
        finally:
            with self._lock:
                self._helpers.discard(threading.current_thread())

    def _answer(self, asking: socket.socket) -> _Served | None:
        with asking:
            asking.settimeout(_START_SECONDS)
            try:
                served = self._serve(asking)
            except (TmemError, OSError) as error:
                self._failed(str(error))
                return None
            with self._lock:
                self._served.append(served)
                self._given += 1
            with suppress(OSError):
                asking.send(b"R")
            return served

    def _keep_sums(self, served: _Served) -> None:
        """A region has ended: what it did still counts."""
        with self._lock:
            self._served.remove(served)
            _add_up(served.region, self._done, self._waits)
            self._accepting = bool(served.region.accepting)
            served.region.close()

    def _serve(self, asking: socket.socket) -> _Served:
        settings = self._settings
        flags = os.MFD_CLOEXEC
        if settings.pages is Pages.HUGETLB:
            flags |= os.MFD_HUGETLB | kernel.MFD_HUGE_2MB
        with ExitStack() as opened:
            memory = os.memfd_create("tmem-far", flags)
            opened.callback(os.close, memory)
            os.ftruncate(memory, settings.size)
            region = Region.create(settings, 0, 0, outlives_giver=True)
            opened.callback(os.close, region.descriptor)
            failed = opened.enter_context(ExitStack())
            failed.callback(region.close)
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
            failed.callback(ours.close)
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
                control.send(ours, {"do": "close"})  # an agent that comes yet finds it
                served.close()
                raise
            failed.pop_all()
            return served

    # ---- The end ----

    def _end(self) -> None:
        """Ends what is left of the program, its children too, and nobody gets a region any more."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        while left := list(_processes_with(f"TMEM_PAGER_SOCKET={self._path}")):
            for pidfd in left:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(_END_SECONDS * 1000)
                os.close(pidfd)
        self._stop.set()
        self._giver.join()
        with self._lock:
            helpers = list(self._helpers)
        for helper in helpers:
            helper.join()


def _add_up(region: Region, done: dict[str, int], waits: list[int]) -> None:
    for name, value in region.read_figures().items():
        done[name] += value
    for bucket, count in enumerate(region.latencies):
        waits[bucket] += count


def _in_memory(count: dict[State, int]) -> int:
    return count[State.RESIDENT] + count[State.EVICTING] + count[State.RESTORING]


def _per_mib(messages: int, pages: int) -> float | None:
    return messages / (pages / 256) if pages else None


def _processes_with(setting: str) -> Iterator[int]:
    """Pidfds of the living processes that were started with a setting in their environment."""
    wanted = setting.encode()
    for each in Path("/proc").iterdir():
        if not each.name.isdecimal():
            continue
        try:
            pidfd = os.pidfd_open(int(each.name))
        except OSError:
            continue
        try:
            found = wanted in (each / "environ").read_bytes().split(b"\0")  # of a zombie it is empty
        except OSError:
            found = False
        if found:
            yield pidfd
        else:
            os.close(pidfd)


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

    def wait(self, seconds: float) -> bool:
        """Waits so long for it; answers whether it is set."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._reader)
        os.close(self._writer)
