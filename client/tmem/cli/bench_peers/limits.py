"""What the machine itself can do, behind the same interface, so that it is timed by the same loop.

Owns: LZ4 alone, a copy of memory, a gRPC stream of raw bytes, and the lone exchanges: a bare gRPC call and a bare socket. Their other ends are in
`floors`. Must not use anything of tmem's client.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import cramjam
import lz4.block

from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .floors import ECHO_METHOD, FRAME, STREAM_METHOD
from .stores import Batches, Store

__all__ = ["Copy", "GrpcEcho", "Lz4Alone", "RawStream", "SocketEcho", "compressed_sizes"]

_REQUEST_BYTES = 80  # about what asking for one page has
_MAX_MESSAGE_BYTES = 4 << 20
# As many batches as tmem's window has room for, at least.
_IN_FLIGHT = 4

_compress = lz4.block.compress
_decompress_into = cramjam.lz4.decompress_block_into


class Lz4Alone(Store):
    """Compresses units and throws away what came out; expands into the caller's memory what was compressed before.

    Args:
        plain: all pages.
    """

    def __init__(self, plain: memoryview) -> None:
        super().__init__()
        self.load(plain)

    def load(self, plain: memoryview) -> None:
        self._plain = plain
        self._packed: dict[int, list[bytes]] = {}

    def prepare(self, unit: int) -> None:
        """Compresses everything in units of so many pages, to be expanded."""
        size = unit * PAGE_BYTES
        self._packed[unit] = [
            _compress(self._plain[at : at + size], store_size=False) for at in range(0, len(self._plain), size)
        ]

    def put(self, batches: Batches, unit: int) -> None:
        size = unit * PAGE_BYTES
        for _, view in batches:
            # Kept as long as a batch: who sends it needs them together.
            _ = [_compress(view[at : at + size], store_size=False) for at in range(0, len(view), size)]

    def get(self, batches: Batches, unit: int) -> None:
        if unit not in self._packed:
            self.prepare(unit)
        packed = self._packed[unit]
        size = unit * PAGE_BYTES
        for first, view in batches:
            number = first // unit
            for at in range(0, len(view), size):
                _decompress_into(packed[number], view[at : at + size], output_len=size)
                number += 1


class Copy(Store):
    """memcpy, a batch at a time."""

    def __init__(self, plain: memoryview) -> None:
        super().__init__()
        self.load(plain)
        self._back = memoryview(bytearray(BLOCK_PAGES * PAGE_BYTES))

    def load(self, plain: memoryview) -> None:
        self._plain = plain

    def put(self, batches: Batches, unit: int) -> None:  # noqa: ARG002  one copy for all
        back = self._back
        for _, view in batches:
            back[: len(view)] = view

    def get(self, batches: Batches, unit: int) -> None:  # noqa: ARG002
        plain = self._plain
        for first, view in batches:
            at = first * PAGE_BYTES
            view[:] = plain[at : at + len(view)]


def compressed_sizes(plain: memoryview, unit: int) -> list[int]:
    """Bytes of each unit as it is stored."""
    size = unit * PAGE_BYTES
    return [min(len(_compress(plain[at : at + size], store_size=False)), size) for at in range(0, len(plain), size)]


class RawStream(Store):
    """A bidirectional gRPC stream of raw bytes, as many as a batch has when it is compressed: nothing is done with them at either end.

    Args:
        target: of `floors`.
        plain: all pages.
    """

    def __init__(self, target: str, plain: memoryview) -> None:
        super().__init__()
        self._target = target
        self.load(plain)
        self._runner = asyncio.Runner()
        self._runner.run(self._open())

    def load(self, plain: memoryview) -> None:
        self._plain = plain
        self._sizes: dict[int, Sequence[int]] = {}
        self._bytes = b""

    async def _open(self) -> None:
        import grpc.aio  # in its own process only

        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ]
        self._channel = grpc.aio.insecure_channel(self._target, options=options)
        method: Any = self._channel.stream_stream(STREAM_METHOD, request_serializer=None, response_deserializer=None)
        self._call = method()

    def _batch_bytes(self, first: int, pages: int, unit: int) -> int:
        if unit not in self._sizes:
            self._sizes[unit] = compressed_sizes(self._plain, unit)
        return sum(self._sizes[unit][first // unit : -(-(first + pages) // unit)])

    def put(self, batches: Batches, unit: int) -> None:
        self._runner.run(self._exchange(batches, unit, sends=True))

    def get(self, batches: Batches, unit: int) -> None:
        self._runner.run(self._exchange(batches, unit, sends=False))

    async def _exchange(self, batches: Batches, unit: int, *, sends: bool) -> None:
        call = self._call
        waiting: deque[int] = deque()
        for first, view in batches:
            size = self._batch_bytes(first, len(view) // PAGE_BYTES, unit)
            if sends and len(self._bytes) < size:
                self._bytes = bytes(self._plain[: 2 * size])
            if len(waiting) >= _IN_FLIGHT:
                self._take(await call.read(), waiting.popleft())
            waiting.append(0 if sends else size)
            await call.write(FRAME.pack(waiting[-1]) + (self._bytes[:size] if sends else bytes(_REQUEST_BYTES)))
        while waiting:
            self._take(await call.read(), waiting.popleft())

    @staticmethod
    def _take(message: bytes, size: int) -> None:
        if len(message) != size:
            raise ChildProcessError(f"the raw stream answered {len(message)} bytes, not {size}")

    def close(self) -> None:
        self._runner.run(self._channel.close())
        self._runner.close()


class GrpcEcho(Store):
    """A bare unary gRPC call that is answered with as many bytes as the page has when it is compressed.

    Args:
        target: of `floors`. sizes: of every page.
    """

    def __init__(self, target: str, sizes: Sequence[int]) -> None:
        import grpc

        super().__init__()
        self._channel = grpc.insecure_channel(target)
        self._method: Any = self._channel.unary_unary(ECHO_METHOD, request_serializer=None, response_deserializer=None)
        self._sizes = sizes
        self._rest = bytes(_REQUEST_BYTES - FRAME.size)

    def get_page(self, page: int, into: memoryview) -> None:  # noqa: ARG002  nothing is done with it
        size = self._sizes[page]
        if len(self._method(FRAME.pack(size) + self._rest, timeout=60)) != size:
            self.bad += 1

    def close(self) -> None:
        self._channel.close()


class SocketEcho(Store):
    """The same over a bare socket.

    Args:
        port: of `floors`. sizes: of every page.
    """

    def __init__(self, port: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sizes = sizes
        self._rest = bytes(_REQUEST_BYTES - FRAME.size)
        self._into = memoryview(bytearray(PAGE_BYTES))

    def get_page(self, page: int, into: memoryview) -> None:  # noqa: ARG002
        size = self._sizes[page]
        self._socket.sendall(FRAME.pack(size) + self._rest)
        have = 0
        while have < size:
            received = self._socket.recv_into(self._into[have:size])
            if not received:
                raise ChildProcessError("the bare socket was closed")
            have += received

    def close(self) -> None:
        self._socket.close()
