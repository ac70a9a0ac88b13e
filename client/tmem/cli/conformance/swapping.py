"""A swap device at work without a kernel: the swap agent's own core and its own way to a server, under requests of ours.

Owns: `Swapped`, one device: slots are stored, loaded and discarded, and the answers are what the kernel would get. So the statements about swap
need neither FUSE nor rights, and the server is real.

Units: slots of one page; seconds.
"""

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from tmem.agents.swap.config import Config
from tmem.agents.swap.core import Core
from tmem.agents.swap.ports import Buffer
from tmem.agents.swap.protocol import HEADER_BYTES, Allocate, Read, Write
from tmem.agents.swap.reads import MAX_READ_PAGES
from tmem.agents.swap.remote import NewPool, Pool, presence_bytes
from tmem.agents.swap.shared import CONTROL_BYTES, Control, Identity, Word, make_file
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES

from .expect import Violation

__all__ = ["Swapped"]

_TURN_SECONDS = 0.001
_PATIENCE_SECONDS = 20.0
_DEADLINE_SECONDS = 5.0
_BUFFERS = 8
_CHUNK_PAGES = 16
# So much more than is reserved may be written: nothing here is about reservations.
_OVERCOMMIT = 1000.0
_PUNCH_AND_KEEP_SIZE = 3
_HEADER = struct.Struct("<IiQ")


class _Room:
    """Where a read's pages go; what lies in it from before is no zeros."""

    def __init__(self) -> None:
        self.data = memoryview(bytearray(b"\xee" * (MAX_READ_PAGES + 1) * PAGE_BYTES))


class Swapped:
    """One device, and the kernel's end of it. Use it in a `with` statement: at its end its pool is gone.

    Args:
        target: the server.
        pool: what its pool is called.
        slots: of the device.
    """

    def __init__(self, target: str, pool: str, slots: int) -> None:
        with NewPool(target, None, pool) as made:
            made.create(slots, _OVERCOMMIT, "memory", _CHUNK_PAGES)
        config = Config(
            name="conformance",
            directory="",
            size=slots * PAGE_BYTES,
            target=target,
            endpoints=made.endpoints,
            token=None,
            pool=pool,
            pool_token=made.token.hex(),
            epoch=made.epoch,
            presence_bytes=presence_bytes(slots),
            durability="memory",
            chunk_pages=_CHUNK_PAGES,
            reserved_bytes=made.reserved_bytes,
            io_deadline=_DEADLINE_SECONDS,
            write_deadline=_DEADLINE_SECONDS,
        )
        self.pool_id = made.pool_id
        self._file = make_file("tmem-conformance", CONTROL_BYTES)
        control = Control.make(self._file, slots, Identity(made.token, made.epoch))
        self._words = control.words
        presence = memoryview(bytearray(config.presence_bytes))
        self._pool = Pool(config, control, presence, self._lose)
        why = self._pool.open()
        if not self._pool.ready:
            self.close()
            raise Violation(f"the swap agent can't open its pool: {why}")
        self._core = Core(
            memoryview(bytearray(slots)),
            self._words,
            self._pool,
            self,
            read_limit=int(_DEADLINE_SECONDS * 1e9),
            write_limit=int(_DEADLINE_SECONDS * 1e9),
            clock=time.monotonic_ns,
        )
        self._free = [_Room() for _ in range(_BUFFERS)]
        self._answers: dict[int, int | bytes] = {}
        self._number = 0

    def _lose(self, block: int, mask: int) -> None:
        self._core.lose(block, mask)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the device and its pool."""
        with suppress(TmemError):
            self._pool.destroy()
        os.close(self._file)

    @property
    def exchanges(self) -> tuple[int, int, int]:
        """Gets, puts and flushes that were sent to the server."""
        words = self._words
        return words[Word.GET_MESSAGES], words[Word.PUT_MESSAGES], words[Word.FLUSH_MESSAGES]

    @property
    def right(self) -> tuple[int, bytes]:
        """The pool's generation and token, as they are now: for who looks at the server past this."""
        pool = self._pool._pool  # noqa: SLF001  the agent shows it to nobody
        return pool.generation, pool.token

    # ---- Requests ----

    def store(self, slot: int, plain: bytes) -> int:
        """Writes a slot; answers 0, or the error that the kernel gets."""
        answer = self._ask(Write(self._next(), slot * PAGE_BYTES, memoryview(bytearray(plain))))
        return answer if isinstance(answer, int) else 0

    def load(self, slot: int) -> int | bytes:
        """Reads a slot; answers its bytes, or the error that the kernel gets."""
        return self._ask(Read(self._next(), slot * PAGE_BYTES, PAGE_BYTES))

    def discard(self, slot: int) -> int:
        """Gives a slot up, and waits until the server was told what it has to be told."""
        answer = self._ask(Allocate(self._next(), slot * PAGE_BYTES, PAGE_BYTES, _PUNCH_AND_KEEP_SIZE))
        self._until(lambda: not self._core.busy)
        return answer if isinstance(answer, int) else 0

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _ask(self, request: Read | Write | Allocate) -> int | bytes:
        self._core.handle(request, time.monotonic_ns(), lambda: None)
        self._until(lambda: request.unique in self._answers)
        return self._answers.pop(request.unique)

    def _until(self, ready: Callable[[], object]) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not ready():
            if time.monotonic() > end:
                raise Violation("a request of the swap agent is not answered")
            self._pool.pump()
            self._core.tick()
            if self._core.busy:
                self._core.step()
            else:
                time.sleep(_TURN_SECONDS)

    # ---- The core's Answers port ----

    def send(self, unique: int, message: bytes) -> None:
        """Takes a whole reply."""
        _, error, _ = _HEADER.unpack_from(message)
        self._answers[unique] = -error if error else bytes(message[HEADER_BYTES:])

    def send_data(self, unique: int, buffer: Buffer, start: int, size: int) -> None:
        """Takes a read's answer."""
        self._answers[unique] = bytes(buffer.data[start : start + size])
        self.give_buffer(buffer)

    def tell(self, what: str, error: TmemError) -> None:
        """What an operator would be told."""

    def take_buffer(self) -> Buffer | None:
        """Room for a read."""
        return self._free.pop() if self._free else None

    def give_buffer(self, buffer: Buffer) -> None:
        """It is free again."""
        assert isinstance(buffer, _Room)
        self._free.append(buffer)
