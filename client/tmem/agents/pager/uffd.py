"""userfaultfd, by ioctl.

Owns: the numbers and structures of linux/userfaultfd.h, and what each errno of each request means. A request over a range is carried on
where the kernel stopped; what can't be done for a page is told, never passed over.

Must not know: states, remote pages, policy. It works on addresses of the process that created the descriptor, wherever
that process is: the descriptor is bound to its memory.

Units: bytes and addresses; everything is a multiple of the region's unit.

What errno says, as measured on Linux 6.18
    EEXIST   the page is mapped already; nobody was woken, so the page is woken here, and the next one is looked at
    EAGAIN   with progress: go on behind it. Without: the program changes its memory and waits until its event is read
    ENOENT   the range is not inside one registered mapping (madvise or mprotect split it): page by page; if it is one page,
             it is mapped no more
    EFAULT   CONTINUE: the page is not in the file
    ESRCH    the program is gone
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import NamedTuple

from tmem.wire.errors import InvalidOption

from .ports import AgainError, Fault, GoneError

__all__ = [
    "DEVICE",
    "Event",
    "Fault",
    "Feature",
    "Message",
    "Userfaultfd",
    "check_machine",
    "needed_features",
    "probe_features",
]

DEVICE = Path("/dev/userfaultfd")

_API = 0xAA


def _ioc(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | _API << 8 | number


_NEW = _ioc(0, 0x00, 0)
_SYSCALL = 323  # userfaultfd on x86-64; other machines have the device
_REGISTER = _ioc(3, 0x00, 32)
_UNREGISTER = _ioc(2, 0x01, 16)
_WAKE = _ioc(2, 0x02, 16)
_ZEROPAGE = _ioc(3, 0x04, 32)
_WRITEPROTECT = _ioc(3, 0x06, 24)
_CONTINUE = _ioc(3, 0x07, 32)
_POISON = _ioc(3, 0x08, 32)
_HANDSHAKE = _ioc(3, 0x3F, 24)

_MODE_MISSING, _MODE_WP, _MODE_MINOR = 1, 2, 4
_WP_ON, _WP_OFF, _DONTWAKE = 1, 0, 2

_two = struct.Struct("<QQ")
_three = struct.Struct("<QQQ")
_four = struct.Struct("<QQQq")
_message = struct.Struct("<BxHIQQQ")
_MESSAGE_BYTES = _message.size


class Feature(IntFlag):
    """What a kernel's userfaultfd can do, as UFFDIO_API says it."""

    PAGEFAULT_FLAG_WP = 1 << 0
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5
    EVENT_UNMAP = 1 << 6
    SIGBUS = 1 << 7
    THREAD_ID = 1 << 8
    MINOR_HUGETLBFS = 1 << 9
    MINOR_SHMEM = 1 << 10
    EXACT_ADDRESS = 1 << 11
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    POISON = 1 << 14
    WP_ASYNC = 1 << 15
    MOVE = 1 << 16


class Event(IntEnum):
    """What a message tells."""

    PAGEFAULT = 0x12
    FORK = 0x13
    REMAP = 0x14
    REMOVE = 0x15
    UNMAP = 0x16


class Message(NamedTuple):
    """One message.

    Attributes:
        event: an Event.
        flags: of a page fault, Fault bits.
        start: the address that was touched, or the first address of a removed range.
        end: of a removed range.
    """

    event: int
    flags: int
    start: int
    end: int


def needed_features(*, hugetlb: bool) -> Feature:
    """What the pager can't do without."""
    needed = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.EVENT_REMOVE | Feature.POISON
    if hugetlb:
        return needed | Feature.MISSING_HUGETLBFS | Feature.MINOR_HUGETLBFS
    return needed | Feature.MISSING_SHMEM | Feature.MINOR_SHMEM


def _open() -> int:
    """A new descriptor, bound to this process's memory.

    Raises:
        OSError: neither the device nor the system call lets us.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # No device: older kernels, and containers. The call needs CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd.
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = int(libc.syscall(_SYSCALL, flags)) if os.uname().machine == "x86_64" else -1
        if descriptor < 0:
            raise
        return descriptor
    try:
        return int(fcntl.ioctl(device, _NEW, flags))
    finally:
        os.close(device)


def probe_features() -> Feature:
    """What this kernel can do.

    Raises:
        OSError: there is no userfaultfd, or no right to use it.
    """
    descriptor = _open()
    try:
        return Feature(_handshake(descriptor, 0))
    finally:
        os.close(descriptor)


def check_machine(*, hugetlb: bool) -> None:
    """Makes sure that this machine lets this process use userfaultfd as the pager does.

    Raises:
        InvalidOption: it does not; the message says what to do.
    """
    try:
        missing = needed_features(hugetlb=hugetlb) & ~probe_features()
    except OSError as error:
        raise InvalidOption(
            f"userfaultfd can't be used: {error.strerror}. Run as root, or be given {DEVICE} (tmem doctor says more)"
        ) from error
    if missing:
        raise InvalidOption(f"the kernel's userfaultfd lacks {missing!r}: Linux 6.6 or later is needed")


def _handshake(descriptor: int, features: int) -> int:
    request = bytearray(_three.pack(_API, features, 0))
    fcntl.ioctl(descriptor, _HANDSHAKE, request)
    return int(_three.unpack(request)[1])


class Userfaultfd:
    """One descriptor.

    Args:
        descriptor: an open userfaultfd; it is the caller's to close.
        unit: bytes of a page of the region: 4096, or 2 MiB for hugetlb. A lone page of a split range has this size.
    """

    __slots__ = ("_range", "_request", "_three", "descriptor", "unit")

    def __init__(self, descriptor: int, unit: int) -> None:
        self.descriptor = descriptor
        self.unit = unit
        # Reused: nothing is allocated on the way of a fault but what the interpreter itself needs.
        self._range = bytearray(_two.size)
        self._three = bytearray(_three.size)
        self._request = bytearray(_four.size)

    @classmethod
    def create(cls, features: Feature, unit: int) -> "Userfaultfd":
        """A descriptor for this process's memory.

        Raises:
            OSError: there is no userfaultfd, no right to use it, or a feature is missing.
        """
        descriptor = _open()
        try:
            _handshake(descriptor, features)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, unit)

    def register(self, start: int, length: int) -> None:
        """Takes charge of a range of this process: missing pages, pages not mapped, and writes to protected ones."""
        request = bytearray(_four.pack(start, length, _MODE_MISSING | _MODE_MINOR | _MODE_WP, 0))
        fcntl.ioctl(self.descriptor, _REGISTER, request)

    def unregister(self, start: int, length: int) -> None:
        """Lets go of a range: missing pages are zeros again. Only when nobody touches it any more."""
        fcntl.ioctl(self.descriptor, _UNREGISTER, bytearray(_two.pack(start, length)))

    def read(self, most: int = 16) -> Iterator[Message]:
        """What has arrived; nothing if nothing has. One read of 16 costs a third of 16 reads of one."""
        try:
            data = os.read(self.descriptor, most * _MESSAGE_BYTES)
        except BlockingIOError:
            return iter(())
        return map(_decode, _message.iter_unpack(data))

    # ---- Requests ----

    def wake(self, start: int, length: int) -> None:
        """Makes every thread that waits in the range fault again."""
        _two.pack_into(self._range, 0, start, length)
        try:
            fcntl.ioctl(self.descriptor, _WAKE, self._range)
        except OSError as error:
            raise _translated(error) from None

    def protect(self, start: int, length: int) -> None:
        """Write-protects a range, mapped or not. When this returns no write is under way any more.

        Raises:
            AgainError: the program is changing its memory: read its events first.
        """
        self._protection(start, length, _WP_ON)

    def unprotect(self, start: int, length: int) -> None:
        """Lets writes through again, and wakes the writers. Raises as `protect` does."""
        self._protection(start, length, _WP_OFF)

    def _protection(self, start: int, length: int, mode: int) -> None:
        _three.pack_into(self._three, 0, start, length, mode)
        try:
            fcntl.ioctl(self.descriptor, _WRITEPROTECT, self._three)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise _translated(error) from None
            if length > self.unit:
                for at in range(start, start + length, self.unit):
                    self._protection(at, self.unit, mode)

    def resume(self, start: int, length: int) -> list[int]:
        """Maps pages that are in the file, writable, and wakes who waits for them.

        Returns:
            Addresses of pages that are not in the file.

        Raises:
            AgainError, GoneError.
        """
        return self._populate(_CONTINUE, start, length)

    def zero(self, start: int, length: int) -> None:
        """Maps new pages of zeros where there are none, and wakes. Not for hugetlb. Raises as `resume` does."""
        self._populate(_ZEROPAGE, start, length)

    def poison(self, start: int, length: int) -> None:
        """Touching these pages raises SIGBUS from now on; pages that are mapped must have been punched before.

        A later `resume` lifts it. Raises as `resume` does.
        """
        # A page that was protected when it was punched has a mark in its place, over which the kernel puts no poison.
        self._protection(start, length, _WP_OFF | _DONTWAKE)
        self._populate(_POISON, start, length)

    def _populate(self, code: int, start: int, length: int) -> list[int]:
        absent: list[int] = []
        end = start + length
        request = self._request
        while start < end:
            _four.pack_into(request, 0, start, end - start, 0, 0)
            try:
                fcntl.ioctl(self.descriptor, code, request)
                return absent
            except OSError as error:
                done = _four.unpack_from(request)[3]
                if done > 0:
                    start += done
                elif error.errno == errno.EEXIST:
                    self.wake(start, self.unit)
                    start += self.unit
                elif error.errno == errno.EFAULT:
                    absent.append(start)
                    start += self.unit
                elif error.errno == errno.ENOENT:
                    if end - start > self.unit:
                        for at in range(start, end, self.unit):
                            absent += self._populate(code, at, self.unit)
                    return absent
                else:
                    raise _translated(error) from None
        return absent


def _decode(fields: tuple[int, int, int, int, int, int]) -> Message:
    # A page fault: flags, address. A removal: start, end in the same two words.
    event, _, _, first, second, _ = fields
    if event == Event.PAGEFAULT:
        return Message(event, first, second, 0)
    return Message(event, 0, first, second)


def _translated(error: OSError) -> Exception:
    if error.errno == errno.EAGAIN:
        return AgainError()
    if error.errno == errno.ESRCH:
        return GoneError()
    return error
