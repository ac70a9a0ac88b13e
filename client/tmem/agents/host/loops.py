"""Loop devices: block devices whose blocks are a file.

Owns: /dev/loop-control and the ioctls of a device. Units: bytes.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path

__all__ = ["Loop", "backing_of", "clear"]

_LOOP_CLR_FD = 0x4C01
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
# struct loop_config: descriptor, block size, then struct loop_info64 (232 bytes), then 64 reserved.
_CONFIG = struct.Struct("<II 5Q 4I 64s 64s 32s 2Q 8Q")
_ATTEMPTS = 16


class Loop:
    """One device, held open.

    Attributes:
        path: such as /dev/loop3. number: the 3.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.number = int(path.removeprefix("/dev/loop"))
        self._descriptor = descriptor

    @classmethod
    def over(cls, file: int, *, name: str, block_bytes: int) -> "Loop":
        """Makes a device of an open file, which it reads and writes without the page cache.

        The device disappears by itself when its last user closes it (this object, or the kernel's swapping), so that
        nothing is left of it however its makers end.

        Args:
            file: a descriptor, open for reading and writing.
            name: what listings show.
            block_bytes: of one block.

        Raises:
            OSError: no right to, or no device is free.
        """
        config = bytearray(
            _CONFIG.pack(
                *(file, block_bytes),
                *(0,) * 5,
                *(0, 0, 0, _AUTOCLEAR | _DIRECT_IO),
                *(name.encode()[:63], b"", b""),
                *(0,) * 10,
            )
        )
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_ATTEMPTS):
                path = f"/dev/loop{_free_number(control)}"
                device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(device, _LOOP_CONFIGURE, config)
                except OSError as error:
                    os.close(device)
                    if error.errno != errno.EBUSY:  # somebody else took it meanwhile
                        raise OSError(error.errno, f"{path} can't be set up: {error.strerror}") from error
                else:
                    return cls(path, device)
        finally:
            os.close(control)
        raise OSError(errno.EBUSY, "no loop device is free")

    def close(self) -> None:
        """Lets go of the device; if nobody else uses it, it is gone."""
        os.close(self._descriptor)


def _free_number(control: int) -> int:
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as error:
        raise OSError(error.errno, f"no loop device can be had: {error.strerror}") from error


def clear(path: str) -> None:
    """Takes the file from a device, now or when its last user closes it; one that has none is fine."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENXIO}:
            return
        raise
    try:
        fcntl.ioctl(descriptor, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise OSError(error.errno, f"{path} can't be given back: {error.strerror}") from error
    finally:
        os.close(descriptor)


def backing_of(path: str, sys: Path = Path("/sys")) -> str | None:
    """The file that a device is made of; None if it has none."""
    try:
        return (sys / "block" / path.rpartition("/")[2] / "loop" / "backing_file").read_text("utf-8").strip()
    except OSError:
        return None
