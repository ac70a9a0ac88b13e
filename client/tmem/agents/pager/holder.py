"""The holder of one region: keeps its descriptors, and starts the next agent when one dies.

Owns: the agent's process: its start, its end, and the judgement that it hangs. The holder is a process of its own because
every thread of the program may be waiting in a fault; it does nothing else, and so has little to die of. If it dies all the
same the agent goes on, and the program still has its userfaultfd: touches wait, nothing is lost.

When no agent can be kept alive the region is given up, and closed so that it fails: what is away is SIGBUS from then on, what is
at home is the program's, and nobody waits for ever.

Must not know: targets, links, the core. It imports neither.

It is started as `python -m tmem.agents.pager.holder`, with its descriptors as arguments. Exit status: as the last agent's.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

from tmem.agents.host.memory import take_standing

from . import launch
from .kernel import punch
from .launch import DONE, UNREACHABLE
from .ports import AgainError, GoneError
from .region import Region
from .table import State
from .uffd import Userfaultfd

__all__ = ["Holder", "main"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LAST_WORDS_SECONDS = 10.0  # for the agent of a program that has ended: it destroys the pools
_SERVED_SECONDS = 2.0  # an agent that has served for so long did not die of its start, or of the first thing it met
_PAUSE_SECONDS = 0.5  # between agents that did
_LEAST_TRYING_SECONDS = 10.0
_NOT_STARTED = 1
_START_SECONDS = 60.0  # for an agent to reach its targets


class Holder:
    """One region's.

    Args:
        descriptors: the region's; open for as long as the holder lives.
    """

    def __init__(self, descriptors: launch.Descriptors) -> None:
        self._descriptors = descriptors
        self._region = Region(descriptors.region)
        self._failing_since: float | None = None

    def run(self) -> int:
        """Keeps an agent going until the region is closed or the program has ended; answers the exit status."""
        try:
            status = self._keep_agents()
        except BaseException:
            self.give_up()  # whatever it is: nobody must wait for an agent that never comes
            raise
        if status == DONE and self._region.outlives_giver and not self._program_ended(0):
            self.give_up()  # an agent that is done while the program lives: nobody must wait for it
        return status

    def _keep_agents(self) -> int:
        while True:
            began = time.monotonic()
            pid, status = self._run_agent()
            if status in {DONE, UNREACHABLE} or self._program_ended(0):
                return status
            if self._region.agent == pid and time.monotonic() - began > _SERVED_SECONDS:
                self._failing_since = None
            elif self._failing_since is None:
                self._failing_since = began
            elif time.monotonic() - self._failing_since > max(self._region.settings.deadline, _LEAST_TRYING_SECONDS):
                self.give_up()
                return status
            elif self._program_ended(_PAUSE_SECONDS):
                return DONE

    def _run_agent(self) -> tuple[int, int]:
        """Runs one agent to its end; answers its process id and exit status: 0 and _NOT_STARTED if there was none."""
        try:
            agent = launch.start("agent", self._descriptors)
        except OSError as error:  # for want of memory, of processes, of descriptors: it may be better in a moment
            if self._failing_since is None:
                log.error("no agent can be started: %s; it is tried again", error)
            return 0, _NOT_STARTED
        try:
            status = self._watch(agent)
        except OSError as error:
            log.error("agent %d can't be watched: %s", agent.pid, error)
            status = -signal.SIGKILL
        finally:
            if agent.poll() is None:
                agent.kill()
                agent.wait()
        if status not in {DONE, UNREACHABLE}:
            log.error("agent %d ended with %d; the next one takes over", agent.pid, status)
        return agent.pid, status

    def _watch(self, agent: "subprocess.Popen[bytes]") -> int:
        """Waits for the end of an agent, and makes one when the program has ended or the agent hangs."""
        watchdog = self._region.settings.watchdog
        poll = select.poll()
        pidfd = os.pidfd_open(agent.pid)
        poll.register(pidfd, select.POLLIN)
        poll.register(self._descriptors.program, select.POLLIN)
        beat, seen = self._region.beat, time.monotonic()
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(_LOOK_SECONDS * 1000)}
                if pidfd in ready:
                    return agent.wait()
                if self._descriptors.program in ready:
                    with suppress(subprocess.TimeoutExpired):
                        return agent.wait(_LAST_WORDS_SECONDS)
                    return DONE
                now = time.monotonic()
                if self._region.beat != beat:
                    beat, seen = self._region.beat, now
                    continue
                patience = watchdog if self._region.agent == agent.pid else max(watchdog, _START_SECONDS)
                if watchdog and now - seen > patience:
                    log.error("agent %d gives no sign of life for %g s: it is killed", agent.pid, patience)
                    return -9
        finally:
            os.close(pidfd)

    def _program_ended(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptors.program, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def give_up(self) -> None:
        """No agent stays alive: what is away fails from now on, and the rest is ordinary memory."""
        settings = self._region.settings
        uffd = Userfaultfd(self._descriptors.uffd, settings.kernel_page)
        try:
            uffd.unprotect(self._region.base, settings.kernel_page)
        except GoneError:
            return  # the memory is no more: the program has ended, or has become another one by exec
        except (AgainError, OSError):
            pass
        log.critical("no agent stays alive: pages that are away are SIGBUS from now on")
        away = [
            (self._region.base + first * settings.unit, count * settings.unit)
            for state in (State.REMOTE, State.RESTORING, State.LOST)
            for first, count in self._region.table.runs(state)
        ]
        trying_until = time.monotonic() + _LEAST_TRYING_SECONDS
        while away := [run for run in away if not self._poisoned(uffd, *run)]:
            if time.monotonic() > trying_until:
                # Let go of as they are, they would be zeros.
                log.critical("pages that are away can't be made to fail: the program is killed")
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._descriptors.program, signal.SIGKILL)
                return
            if self._program_ended(_PAUSE_SECONDS):
                return
        with suppress(OSError):
            uffd.unregister(self._region.base, settings.size)

    def _poisoned(self, uffd: Userfaultfd, start: int, length: int) -> bool:
        """Makes a run fail from now on; answers whether it does."""
        while True:
            try:
                punch(self._descriptors.memory, start - self._region.base, length)
                uffd.poison(start, length)
            except AgainError:
                for _ in uffd.read():  # a removal by the program waits to be read
                    pass
            except GoneError:
                return True
            except OSError as error:
                log.error("%d bytes at %#x can't be made to fail yet: %s", length, start, error)
                return False
            else:
                return True


def main(arguments: list[str] | None = None) -> int:
    """The process."""
    launch.log_to_standard_error("holder")
    take_standing()
    return Holder(launch.read_arguments("holder", arguments)).run()


if __name__ == "__main__":
    sys.exit(main())
