"""The agent process of one region: the core between the program's userfaultfd and the targets.

Owns: the loop, its descriptors and its clock. One thread waits on the userfaultfd, the links, the program's control socket and the
program itself. Faults come first; then answers; then a step of other work, and round again.

Ordering: memory is locked before the first fault is served, and the targets are opened before the table is taken over, so
that the agent before this one is fenced before anything of its work is undone.

It is started by the holder, as `python -m tmem.agents.pager.agent`, with its descriptors as arguments. Exit status: 0 the
region is closed, or its program has ended; 3 no target could be reached at the first start; others: start the next.
"""

import gc
import logging
import os
import select
import socket
import sys
import time
from contextlib import suppress

from tmem.agents.host.memory import take_standing
from tmem.wire.errors import TmemError, Unavailable

from . import control, kernel, latencies, launch
from .core import Pager
from .launch import DONE, UNREACHABLE
from .memory import AgentMemory
from .ports import GoneError
from .region import Region
from .remote import Targets
from .uffd import Event, Userfaultfd

__all__ = ["Agent", "main"]

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_MOST_MESSAGES = 16


class _Poller:
    """An epoll whose registrations follow what is asked for."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._watched: dict[int, tuple[int, int]] = {}
        self._wanted: dict[int, tuple[int, int]] = {}

    def watch(self, descriptor: int, *, write: bool = False, generation: int = 0) -> None:
        """Wakes the loop when there is something to read, or room to write.

        Args:
            descriptor: which.
            write: whether room to write is waited for too.
            generation: another one each time the number stands for another file.
        """
        self._wanted[descriptor] = (select.EPOLLIN | (select.EPOLLOUT if write else 0), generation)

    def settle(self) -> None:
        """Brings the registrations to what was asked for since the last call."""
        if self._wanted != self._watched:
            for descriptor in self._watched.keys() - self._wanted.keys():
                self._forget(descriptor)
            for descriptor, wanted in self._wanted.items():
                if self._watched.get(descriptor) != wanted:
                    self._register(descriptor, wanted[0])
            self._watched = self._wanted
        self._wanted = {}

    def _register(self, descriptor: int, events: int) -> None:
        # A descriptor that was closed is out of the epoll by itself, and its number may stand for another file by now.
        try:
            self.epoll.modify(descriptor, events)
        except FileNotFoundError:
            self.epoll.register(descriptor, events)

    def _forget(self, descriptor: int) -> None:
        with suppress(OSError):  # closed, and so out of the epoll already
            self.epoll.unregister(descriptor)


class Agent:
    """One agent of one region.

    Args:
        region: the region's file.
        uffd, file: the program's userfaultfd, and what its memory is a mapping of.
        end: the agents' end of the control socket.
        pidfd: the program.
    """

    def __init__(self, region: Region, uffd: int, file: int, end: socket.socket, pidfd: int) -> None:
        self._region = region
        settings = self._settings = region.settings
        self._base = region.base
        self._unit = settings.unit
        self._page_bytes = settings.unit // settings.pages.unit_pages
        self._end = end
        self._pidfd = pidfd
        self._uffd = Userfaultfd(uffd, settings.kernel_page)
        self._memory = AgentMemory(settings, self._uffd, file, region.base, region.pid, pidfd)
        self._targets = Targets(region, time.monotonic())
        self._pager: Pager
        self._latencies = region.latencies
        self._closing = False
        self._giver_ended = False
        self._tick_at = 0.0

    def open(self) -> None:
        """Reaches the targets, and takes the region over.

        Raises:
            TmemError: at the first start, when no target can be reached.
        """
        first = not self._region.starts
        if not self._targets.open() and first:
            raise self._targets.errors[0] if self._targets.errors else Unavailable("no target can be reached")
        self._lock()
        now = time.monotonic()
        self._targets.now = now
        self._pager = Pager(self._settings, self._region.table, self._memory, self._targets, now)
        for name, value in self._region.read_figures().items():
            setattr(self._pager.figures, name, value)
        self._region.note_agent(os.getpid())
        if not first:
            self._pager.take_over(now)
        self._region.note_beat()
        if first:
            control.send(self._end, {"event": "ready"})

    def _lock(self) -> None:
        # The agent's memory must never wait for what only the agent can bring. Garbage collection would walk all of it.
        gc.collect()
        gc.freeze()
        try:
            kernel.lock_all_but(self._memory.span)
        except OSError as error:
            log.warning("%s: under memory pressure faults may be slow. Raise RLIMIT_MEMLOCK", error)

    # ---- The loop ----

    def run(self) -> int:
        """Serves until the region is closed, or its program has ended; answers the exit status."""
        try:
            status = self._serve()
        except GoneError:
            status = DONE
        finally:
            self._region.write_figures(self._pager.figures)
        # Not by an agent that failed: the next one needs what is in the pools.
        if status == DONE:
            self._targets.close()
        return status

    def _serve(self) -> int:
        poller = _Poller()
        poll = poller.epoll.poll
        targets, pager = self._targets, self._pager
        clock = time.monotonic
        timeout = 0.0
        while not self._closing:
            poller.watch(self._uffd.descriptor)
            if not self._giver_ended:
                poller.watch(self._end.fileno())
            poller.watch(self._pidfd)
            targets.register(poller)
            poller.settle()
            ready = {descriptor for descriptor, _ in poll(timeout)}
            now = targets.now = clock()
            pager.note_time(now)
            self._read_program(now)
            targets.pump()
            for waited in pager.waits(clock()):
                latencies.note(self._latencies, waited)
            if targets.fenced:
                log.error("another agent has opened this region's pool: this one ends")
                return 1
            if self._end.fileno() in ready:
                self._read_control(now)
            if self._pidfd in ready:
                return DONE
            pause = pager.step(now)
            if now >= self._tick_at:
                self._tick(now)
            timeout = min(pause, self._tick_at - now, max(targets.next_timer() - now, 0.0))
        return DONE

    def _read_program(self, now: float) -> None:
        """All messages that there are, as far as one read tells."""
        removals: list[tuple[int, int]] = []
        touches: list[tuple[int, int]] = []
        base, unit, page = self._base, self._unit, self._page_bytes
        for event, flags, start, end in self._uffd.read(_MOST_MESSAGES):
            if event == Event.PAGEFAULT:
                touches.append(((start - base) // unit, flags))
            elif event == Event.REMOVE:
                removals.append(((start - base) // page, (end - start) // page))
        if removals or touches:
            self._pager.deliver(removals, touches, now)

    def _tick(self, now: float) -> None:
        """Once a second: signs of life, figures, and a look at the machine."""
        self._tick_at = now + _TICK_SECONDS
        self._region.note_beat()
        self._region.write_figures(self._pager.figures)
        self._region.note_accepting(sum(map(self._targets.accepting, range(self._targets.targets))))
        spare = self._memory.look_around()
        self._pager.machine(spare, can_hide=self._memory.can_hide)

    # ---- What the program asks for ----

    def _read_control(self, now: float) -> None:
        try:
            request = control.read(self._end)
        except EOFError:
            if self._region.outlives_giver:
                self._giver_ended = True  # the program still has its pages here
            else:
                self._closing = True
            return
        if request is None:
            return
        answer = {"id": request.get("id")}
        match request["do"]:
            case "limit":
                self._pager.resize(int(request["units"]), now)
                control.send(self._end, answer)
            case "record":
                self._pager.record(lambda: control.send(self._end, answer), now)
            case "recorded":
                self._pager.recorded(now)
                control.send(self._end, answer)
            case "bring":
                runs = [(int(first), int(count)) for first, count in request["runs"]]
                self._pager.bring(runs, lambda: control.send(self._end, answer), now)
            case "close":
                self._closing = True
                self._targets.close()
                control.send(self._end, answer)
            case unknown:
                control.send(
                    self._end,
                    answer | {"error": "InvalidRequest", "message": f"{unknown!r} is nothing that can be done"},
                )


def main(arguments: list[str] | None = None) -> int:
    """The process."""
    options = launch.read_arguments("agent", arguments)
    launch.log_to_standard_error("agent")
    take_standing()
    end = socket.socket(fileno=options.control)
    region = Region(options.region)
    agent = Agent(region, options.uffd, options.memory, end, options.program)
    try:
        agent.open()
    except TmemError as error:
        if region.starts:
            log.error("%s", error)
            return 1
        control.send(end, {"event": "failed", "error": type(error).__name__, "message": str(error)})
        return UNREACHABLE
    return agent.run()


if __name__ == "__main__":
    sys.exit(main())
