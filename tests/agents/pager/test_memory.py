"""The agent's side of a region on the real kernel, for each kind of pages, and what is left when no agent can be had."""

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tmem.agents.pager import kernel
from tmem.agents.pager.holder import Holder
from tmem.agents.pager.launch import Descriptors
from tmem.agents.pager.memory import AgentMemory
from tmem.agents.pager.ports import NoRoomError
from tmem.agents.pager.region import Region
from tmem.agents.pager.settings import Pages, Settings, Target
from tmem.agents.pager.table import State
from tmem.agents.pager.uffd import Userfaultfd, needed_features

from .conftest import HUGE_PAGES, MIB

UNITS = 32


class Machine:
    """A region whose program is this process, and the agent's memory port."""

    def __init__(self, pages: Pages, units: int = UNITS) -> None:
        unit = pages.unit_pages * 4096
        self.unit = unit
        flags = os.MFD_HUGETLB | kernel.MFD_HUGE_2MB if pages is Pages.HUGETLB else 0
        self.file = os.memfd_create("test", flags)
        os.ftruncate(self.file, units * unit)
        self.program = mmap.mmap(self.file, units * unit, flags=mmap.MAP_SHARED | kernel.MAP_NORESERVE)
        self.base = kernel.address_of(self.program)
        self.uffd = Userfaultfd.create(
            needed_features(hugetlb=pages is Pages.HUGETLB), unit if pages is Pages.HUGETLB else 4096
        )
        self.uffd.register(self.base, units * unit)
        self.settings = Settings(
            size=units * unit, resident=units * unit, targets=(Target("nowhere:1"),), name="test", pages=pages
        )
        self.pidfd = os.pidfd_open(os.getpid())
        self.memory = AgentMemory(self.settings, self.uffd, self.file, self.base, os.getpid(), self.pidfd)
        self.self_memory = os.open("/proc/self/mem", os.O_RDWR)

    def look(self, unit: int) -> int | None:
        """As a touch by the program that may not wait: the first word of a unit; None: SIGBUS, or it would wait."""
        found: list[int | None] = []

        def read() -> None:
            try:
                found.append(int.from_bytes(os.pread(self.self_memory, 8, self.base + unit * self.unit), "little"))
            except OSError:
                found.append(None)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(0.2)
        if thread.is_alive():
            list(self.uffd.read(16))
            self.memory.poison(unit, 1)
            thread.join(20)
            return None
        return found[0]

    def mapped(self) -> int:
        """How many pages of the kernel's kind the program has mapped."""
        size = len(self.program) // 4096
        with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
            file.seek(self.base // 4096 * 8)
            entries = (ctypes.c_uint64 * size).from_buffer_copy(file.read(size * 8))
        return sum(entry >> 63 for entry in entries)

    def close(self) -> None:
        list(self.uffd.read(64))
        self.uffd.unregister(self.base, len(self.program))
        self.memory.close()
        self.program.close()
        for descriptor in (self.uffd.descriptor, self.file, self.pidfd, self.self_memory):
            os.close(descriptor)


@pytest.fixture
def machine(pages: str) -> Iterator[Machine]:
    made = Machine(Pages(pages), UNITS if pages == "4KiB" else 8)
    yield made
    made.close()


every_kind = pytest.mark.parametrize("pages", ["4KiB", "thp", "hugetlb"], indirect=True)


@every_kind
def test_a_unit_goes_round(machine: Machine) -> None:
    """Zeros, protected, punched, written by the agent, seen by the program, hidden, and gone for good."""
    memory, unit = machine.memory, machine.unit
    memory.zero(0, 3)
    assert [machine.look(each) for each in range(3)] == [0, 0, 0]
    machine.program[unit : unit + 8] = (7).to_bytes(8, "little")
    assert not list(memory.missing(0, 3))
    memory.protect(0, 3)
    assert machine.look(1) == 7
    assert bytes(memory.view(unit // 4096, 1)[:8]) == (7).to_bytes(8, "little")
    memory.unprotect(0, 3)
    machine.program[0:8] = (5).to_bytes(8, "little")
    memory.protect(0, 3)
    memory.punch(0, 3)
    assert machine.mapped() == 0
    assert list(memory.resume(0, 3)) == [0, 1, 2]
    memory.reserve(1)
    memory.view(unit // 4096, unit // 4096)[:] = b"\3" * unit
    assert list(memory.resume(1, 1)) == []
    machine.program[unit : unit + 8] = (9).to_bytes(8, "little")  # writable again
    assert machine.look(1) == 9
    assert machine.program[2 * unit - 1] == 3
    memory.poison(2, 1)
    assert machine.look(2) is None
    memory.zero(2, 1)  # lifts it
    assert machine.look(2) == 0
    memory.zero(3, 1)
    memory.punch(3, 1)
    assert list(memory.missing(0, 4)) == [0, 3]


@every_kind
def test_hidden_units_are_told_when_they_are_touched(machine: Machine, pages: str) -> None:
    memory = machine.memory
    memory.zero(0, 4)
    memory.look_around()
    if pages == "hugetlb" or len(Path("/proc/swaps").read_text("ascii").splitlines()) > 1:
        # No such pages can be hidden, or the kernel would swap them out.
        assert not memory.can_hide
        assert not memory.hide(0, 4)
        return
    assert memory.can_hide
    before = machine.mapped()
    memory.view(0, 1)[:4] = b"kept"
    assert memory.hide(0, 4)
    assert machine.mapped() < before // 4  # but for what the kernel was busy with
    memory.resume(0, 4)
    assert machine.mapped() == before
    assert machine.program[:4] == b"kept"


@every_kind
def test_the_machine_says_what_it_can_spare(machine: Machine, pages: str) -> None:
    spare = machine.memory.look_around()
    if pages == "hugetlb":
        assert spare <= int(HUGE_PAGES.read_text("ascii"))
    else:
        assert 0 <= spare * machine.unit < 1 << 60


@pytest.mark.parametrize("pages", ["thp"], indirect=True)
def test_a_huge_unit_that_is_mapped_in_part_is_mapped_whole(machine: Machine) -> None:
    memory = machine.memory
    memory.zero(0, 2)
    machine.uffd.unregister(machine.base, len(machine.program))  # who drops a part of its mapping itself
    machine.program.madvise(mmap.MADV_DONTNEED, 64 * 4096, 32 * 4096)
    machine.uffd.register(machine.base, len(machine.program))
    assert machine.mapped() == 2 * 512 - 32
    assert list(memory.resume(0, 1)) == []
    assert machine.mapped() == 2 * 512


@pytest.mark.parametrize("pages", ["hugetlb"], indirect=True)
def test_an_empty_pool_of_huge_pages_is_told_and_kills_nobody(machine: Machine) -> None:
    memory = machine.memory
    free = memory.look_around()
    hoard = os.memfd_create("hoard", os.MFD_HUGETLB | kernel.MFD_HUGE_2MB)
    try:
        os.ftruncate(hoard, free * 2 * MIB)
        kernel.allocate(hoard, 0, free * 2 * MIB)
        with pytest.raises(NoRoomError):
            memory.reserve(0)
        with pytest.raises(NoRoomError):
            memory.zero(0, 1)
        kernel.punch(hoard, 0, 2 * MIB)
        memory.zero(0, 1)
        assert machine.look(0) == 0
    finally:
        os.close(hoard)


@pytest.mark.parametrize("pages", ["4KiB"], indirect=True)
def test_without_agents_what_is_away_is_sigbus_and_the_rest_is_ordinary_memory(machine: Machine) -> None:
    region = Region.create(machine.settings, machine.base, os.getpid())
    try:
        memory = machine.memory
        memory.zero(0, 2)
        machine.program[4096:4104] = (7).to_bytes(8, "little")
        table = region.table
        for unit, state in (
            (0, State.RESIDENT),
            (1, State.EVICTING),
            (2, State.REMOTE),
            (3, State.RESTORING),
            (4, State.LOST),
        ):
            table.states[unit] = state
        memory.protect(1, 1)
        memory.view(3, 1)[:4] = b"half"
        none = os.open("/dev/null", os.O_RDONLY)
        try:
            descriptors = Descriptors(region.descriptor, machine.uffd.descriptor, machine.file, none, machine.pidfd)
            Holder(descriptors).give_up()
        finally:
            os.close(none)
        assert [machine.look(unit) for unit in range(6)] == [0, 7, None, None, None, 0]
        machine.program[4096:4104] = (8).to_bytes(8, "little")
        assert machine.look(1) == 8
        machine.uffd.register(machine.base, len(machine.program))  # for the fixture to undo
    finally:
        region.close()
        os.close(region.descriptor)
