"""userfaultfd as the kernel does it: each answer and refusal that the pager builds on.

Touches are made by threads outside the interpreter's lock; a region is unregistered at the end whatever happens, which wakes who
still waits.
"""

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.conftest import skip_or_fail
from tests.waiting import wait_until

from tmem.agents.pager import kernel
from tmem.agents.pager.ports import AgainError
from tmem.agents.pager.uffd import Event, Fault, Message, Userfaultfd, needed_features, probe_features

PAGE = 4096
PAGES = 64
MEMMOVE = ctypes.CDLL(None).memmove
MEMMOVE.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Region:
    """A region of this process, the agent's view of it, and threads that touch it."""

    def __init__(self) -> None:
        self.file = os.memfd_create("test")
        os.ftruncate(self.file, PAGES * PAGE)
        self.program = mmap.mmap(self.file, PAGES * PAGE)
        self.agent = mmap.mmap(self.file, PAGES * PAGE)
        self.base = kernel.address_of(self.program)
        self.uffd = Userfaultfd.create(needed_features(hugetlb=False), PAGE)
        self.uffd.register(self.base, PAGES * PAGE)
        self.threads: list[threading.Thread] = []

    def at(self, page: int) -> int:
        return self.base + page * PAGE

    def touch(self, page: int, *, write: bytes = b"") -> "Touch":
        touch = Touch(self.at(page), write)
        self.threads.append(touch)
        touch.start()
        return touch

    def remove(self, page: int, count: int) -> threading.Thread:
        libc = _LIBC
        arguments = (ctypes.c_void_p(self.at(page)), ctypes.c_size_t(count * PAGE), mmap.MADV_REMOVE)
        thread = threading.Thread(target=libc.madvise, args=arguments)
        self.threads.append(thread)
        thread.start()
        return thread

    def copy_out(self, page: int) -> int:
        """Has the kernel read a page: 0, or the error where the process itself would get SIGBUS. It waits as a touch does."""
        done: list[int] = []

        def copy() -> None:
            ours, theirs = os.pipe()
            sent = _LIBC.write(theirs, ctypes.c_void_p(self.at(page)), ctypes.c_size_t(8))
            done.append(ctypes.get_errno() if sent < 0 else 0)
            os.close(ours)
            os.close(theirs)

        thread = threading.Thread(target=copy)
        self.threads.append(thread)
        thread.start()
        thread.join(20)
        assert done, "a touch waits"
        return done[0]

    def message(self) -> Message:
        found: list[Message] = []

        def arrived() -> bool:
            found.extend(self.uffd.read(1))
            return bool(found)

        wait_until(arrived)
        return found[0]

    def close(self) -> None:
        list(self.uffd.read(64))
        self.uffd.unregister(self.base, PAGES * PAGE)
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        self.program.close()
        self.agent.close()
        os.close(self.uffd.descriptor)
        os.close(self.file)


class Touch(threading.Thread):
    """One touch of eight bytes."""

    def __init__(self, address: int, write: bytes) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._write = write
        self._read = ctypes.create_string_buffer(8)

    def run(self) -> None:
        if self._write:
            MEMMOVE(self._address, ctypes.c_char_p(self._write), len(self._write))
        else:
            MEMMOVE(ctypes.addressof(self._read), self._address, 8)

    def seen(self) -> bytes:
        self.join(20)
        assert not self.is_alive()
        return self._read.raw


@pytest.fixture
def region() -> Iterator[Region]:
    try:
        features = probe_features()
    except OSError as error:
        skip_or_fail(f"userfaultfd can't be used: {error}")
    if needed_features(hugetlb=False) & ~features:
        skip_or_fail(f"userfaultfd has only {features!r}")
    made = Region()
    yield made
    made.close()


def test_a_missing_page_is_told_and_zeros_are_given(region: Region) -> None:
    touch = region.touch(3)
    assert region.message() == Message(Event.PAGEFAULT, 0, region.at(3), 0)
    region.uffd.zero(region.at(3), PAGE)
    assert touch.seen() == bytes(8)


def test_what_the_agent_wrote_is_not_seen_before_it_is_resumed(region: Region) -> None:
    region.agent[PAGE : PAGE + 8] = b"evidence"
    touch = region.touch(1)
    assert region.message().flags == Fault.MINOR
    assert touch.is_alive()
    assert region.uffd.resume(region.at(1), PAGE) == []
    assert touch.seen() == b"evidence"


def test_a_write_to_a_protected_page_waits_and_a_read_does_not(region: Region) -> None:
    region.uffd.zero(region.base, 4 * PAGE)
    region.uffd.protect(region.base, 4 * PAGE)
    assert region.touch(2).seen() == bytes(8)
    write = region.touch(2, write=b"newer...")
    assert region.message().flags == Fault.WP | Fault.WRITE
    assert region.agent[2 * PAGE : 2 * PAGE + 8] == bytes(8)
    region.uffd.unprotect(region.at(2), PAGE)
    write.seen()
    assert region.agent[2 * PAGE : 2 * PAGE + 8] == b"newer..."


def test_protection_stays_on_a_page_that_is_not_mapped_until_it_is_resumed(region: Region) -> None:
    region.agent[0:8] = b"original"
    region.uffd.protect(region.base, PAGE)
    write = region.touch(0, write=b"changed.")
    assert region.message().flags & Fault.MINOR
    region.uffd.resume(region.base, PAGE)
    write.seen()
    assert region.agent[0:8] == b"changed."


def test_resuming_goes_round_what_is_mapped_and_tells_what_is_not_there(region: Region) -> None:
    region.agent[: 8 * PAGE] = b"x" * (8 * PAGE)
    region.uffd.resume(region.at(2), PAGE)
    region.uffd.resume(region.at(5), 2 * PAGE)
    kernel.punch(region.file, 3 * PAGE, PAGE)
    assert region.uffd.resume(region.base, 10 * PAGE) == [region.at(3), region.at(8), region.at(9)]
    for page in (0, 1, 2, 4, 5, 6, 7):
        assert region.touch(page).seen() == b"x" * 8


def test_a_waiter_on_a_page_that_is_there_by_now_is_woken(region: Region) -> None:
    touches = [region.touch(7), region.touch(7)]
    assert {region.message().start for _ in touches} == {region.at(7)}
    region.uffd.zero(region.at(7), PAGE)
    region.uffd.zero(region.at(7), PAGE)
    region.agent[7 * PAGE : 7 * PAGE + 8] = b"present."
    region.uffd.resume(region.at(7), PAGE)
    assert {touch.seen() for touch in touches} <= {bytes(8), b"present."}


def test_a_range_that_crosses_mappings_is_served_page_by_page(region: Region) -> None:
    region.agent[: 4 * PAGE] = b"y" * (4 * PAGE)
    assert _LIBC.mprotect(region.at(1), PAGE, mmap.PROT_READ) == 0
    region.uffd.resume(region.base, 4 * PAGE)
    region.uffd.protect(region.base, 4 * PAGE)
    region.uffd.unprotect(region.base, 4 * PAGE)
    assert [region.touch(page).seen() for page in range(4)] == [b"y" * 8] * 4


def test_nothing_is_changed_while_a_removal_waits_to_be_read(region: Region) -> None:
    region.uffd.zero(region.base, 8 * PAGE)
    removal = region.remove(2, 3)
    wait_until(lambda: not removal.is_alive() or _is_blocked(region))
    for change in (region.uffd.protect, region.uffd.unprotect, region.uffd.resume, region.uffd.zero):
        with pytest.raises(AgainError):
            change(region.at(6), PAGE)
    assert region.message() == Message(Event.REMOVE, 0, region.at(2), region.at(5))
    removal.join(20)
    assert region.uffd.resume(region.base, 8 * PAGE) == [region.at(2), region.at(3), region.at(4)]


def _is_blocked(region: Region) -> bool:
    try:
        region.uffd.protect(region.at(6), PAGE)
    except AgainError:
        return True
    region.uffd.unprotect(region.at(6), PAGE)
    return False


def test_a_message_that_was_read_and_not_answered_comes_again_after_a_wake(region: Region) -> None:
    touch = region.touch(9)
    first = region.message()
    assert not list(region.uffd.read(1))
    region.uffd.wake(region.base, PAGES * PAGE)
    assert region.message() == first
    region.uffd.zero(region.at(9), PAGE)
    assert touch.seen() == bytes(8)


def test_poison_is_sigbus_and_resuming_lifts_it(region: Region) -> None:
    region.uffd.zero(region.base, PAGE)
    region.uffd.poison(region.base, PAGE)  # it is mapped: nothing happens
    assert region.touch(0).seen() == bytes(8)
    kernel.punch(region.file, 0, PAGE)
    region.uffd.poison(region.base, PAGE)
    region.uffd.poison(region.base, PAGE)
    region.agent[0:8] = b"restored"
    region.uffd.resume(region.base, PAGE)
    assert region.touch(0).seen() == b"restored"


def test_poison_takes_the_place_of_the_mark_that_a_protected_page_leaves(region: Region) -> None:
    region.uffd.zero(region.base, PAGE)
    region.uffd.protect(region.base, PAGE)
    kernel.punch(region.file, 0, PAGE)
    region.uffd.poison(region.base, PAGE)
    assert region.copy_out(0) == errno.EFAULT


def test_poison_outlives_a_removal_and_zeros_lift_it(region: Region) -> None:
    region.uffd.poison(region.base, PAGE)
    removal = region.remove(0, 1)
    assert region.message().event == Event.REMOVE
    removal.join(20)
    assert region.copy_out(0) == errno.EFAULT
    region.uffd.zero(region.base, PAGE)
    assert region.touch(0).seen() == bytes(8)


POISONED = """
import mmap, os
from tmem.agents.pager import kernel
from tmem.agents.pager.uffd import *
file = os.memfd_create("test")
os.ftruncate(file, 4096)
program = mmap.mmap(file, 4096)
uffd = Userfaultfd.create(needed_features(hugetlb=False), 4096)
uffd.register(kernel.address_of(program), 4096)
uffd.poison(kernel.address_of(program), 4096)
print(program[0])
"""


def test_a_touch_of_poison_ends_the_process_by_sigbus(region: Region) -> None:
    done = subprocess.run([sys.executable, "-c", POISONED], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, b"")


@pytest.mark.parametrize("call", [kernel.punch, kernel.allocate])
def test_a_refused_call_names_what_it_was_for(call: Callable[[int, int, int], None]) -> None:
    with pytest.raises(OSError, match="memory"):
        call(-1, 0, PAGE)
