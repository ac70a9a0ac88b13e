"""The holder when no agent can be had: what is away is SIGBUS, what is at home stays, and nobody waits for ever.

The region is of this process, which never touches it: it looks through /proc/self/mem, where a poisoned page is EIO.
"""

import errno
import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tmem.agents.pager import holder, kernel, launch
from tmem.agents.pager.holder import Holder
from tmem.agents.pager.region import Region
from tmem.agents.pager.settings import Settings, Target
from tmem.agents.pager.table import State
from tmem.agents.pager.uffd import Userfaultfd, needed_features

from .conftest import MIB

UNIT = 4096
AWAY = (3, 9)  # and everything else is at home


class Held:
    """A region with a holder, of which a few pages are away."""

    def __init__(self, undo: ExitStack) -> None:
        self.program = subprocess.Popen(["sleep", "1000"])
        undo.callback(self._end)
        settings = Settings(size=MIB, resident=MIB, targets=(Target("127.0.0.1:1"),), name="held", deadline=0.1)
        memory = os.memfd_create("held")
        undo.callback(os.close, memory)
        os.ftruncate(memory, MIB)
        os.pwrite(memory, b"home" * (MIB // 4), 0)
        mapped = mmap.mmap(memory, MIB)
        undo.callback(mapped.close)
        self.base = kernel.address_of(mapped)
        uffd = Userfaultfd.create(needed_features(hugetlb=False), UNIT)
        undo.callback(os.close, uffd.descriptor)
        uffd.register(self.base, MIB)
        uffd.resume(self.base, MIB)
        self.region = Region.create(settings, self.base, os.getpid(), outlives_giver=True)
        undo.callback(os.close, self.region.descriptor)
        undo.callback(self.region.close)
        self.region.table.set_states(0, MIB // UNIT, State.RESIDENT)
        for unit in AWAY:
            self.region.table.set_states(unit, 1, State.REMOTE)
            kernel.punch(memory, unit * UNIT, UNIT)
        pidfd = os.pidfd_open(self.program.pid)
        undo.callback(os.close, pidfd)
        self.mem = os.open("/proc/self/mem", os.O_RDONLY)
        undo.callback(os.close, self.mem)
        self.holder = Holder(launch.Descriptors(self.region.descriptor, uffd.descriptor, memory, -1, pidfd))

    def look(self, unit: int) -> bytes | int:
        """The beginning of a unit, or the errno of a touch."""
        try:
            return os.pread(self.mem, 4, self.base + unit * UNIT)
        except OSError as error:
            return error.errno or 0

    def _end(self) -> None:
        self.program.kill()
        self.program.wait()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    for name in ("_LEAST_TRYING_SECONDS", "_PAUSE_SECONDS"):
        monkeypatch.setattr(holder, name, 0.05)
    with ExitStack() as undo:
        yield Held(undo)


def start_nothing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    asked: list[str] = []

    def start(module: str, _: launch.Descriptors) -> Any:
        asked.append(module)
        raise error

    monkeypatch.setattr(launch, "start", start)
    return asked


def test_when_no_agent_can_be_started_it_is_tried_again_and_then_given_up(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = start_nothing(monkeypatch, OSError(errno.EAGAIN, "no process"))
    assert held.holder.run() == 1
    assert len(asked) > 2
    assert [held.look(unit) for unit in AWAY] == [errno.EIO, errno.EIO]
    assert held.look(4) == b"home"
    assert held.program.poll() is None


def test_whatever_ends_the_holder_ends_the_waiting_too(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    start_nothing(monkeypatch, MemoryError())
    with pytest.raises(MemoryError):
        held.holder.run()
    assert [held.look(unit) for unit in AWAY] == [errno.EIO, errno.EIO]


def test_a_run_that_can_t_be_poisoned_at_once_is_tried_again_and_the_others_are(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, failed = Userfaultfd.poison, []

    def fail_once(self: Userfaultfd, start: int, length: int) -> None:
        if not failed:
            failed.append(start)
            raise OSError(errno.ENOMEM, "no memory")
        poison(self, start, length)

    monkeypatch.setattr(Userfaultfd, "poison", fail_once)
    held.holder.give_up()
    assert failed == [held.base + AWAY[0] * UNIT]
    assert [held.look(unit) for unit in AWAY] == [errno.EIO, errno.EIO]


def test_a_program_that_would_read_zeros_is_killed_instead(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(Userfaultfd, "poison", fail)
    held.holder.give_up()
    assert held.program.wait(30) == -signal.SIGKILL


def test_an_agent_that_is_done_while_the_program_lives_leaves_nobody_waiting(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "start", lambda *_: subprocess.Popen(["true"]))
    assert held.holder.run() == launch.DONE
    assert [held.look(unit) for unit in AWAY] == [errno.EIO, errno.EIO]
    assert held.look(4) == b"home"
