"""The other end of the bare exchanges: a gRPC server and a socket that answer with so many bytes and know nothing of tmem.

Owns: the program behind `limits`, run as `python -m tmem.cli.bench_peers.floors`. The gRPC server is of the kind that tmemd is (grpc.aio, uvloop if it is
installed). Says {"target": ..., "port": ...} when it is ready; ends with its input.

A request begins with the number of bytes that are to come back; the rest of it is not looked at.
"""

import asyncio
import json
import os
import socket
import struct
import sys
import threading
from typing import Any

__all__ = ["ECHO_METHOD", "FRAME", "STREAM_METHOD", "main"]

FRAME = struct.Struct("<I")
ECHO_METHOD = "/floors/Echo"
STREAM_METHOD = "/floors/Stream"

_HOST = "127.0.0.1"
_REQUEST_BYTES = 80
_MAX_BYTES = 4 << 20
# Bytes as compressed ones are; a part of them is copied for each answer, as a server copies what it holds into its answer.
_BYTES = os.urandom(_MAX_BYTES)


def _answer(request: bytes) -> bytes:
    return _BYTES[: FRAME.unpack_from(request)[0]]


async def _echo(request: bytes, _context: Any) -> bytes:
    return _answer(request)


async def _stream(_requests: Any, context: Any) -> None:
    import grpc.aio

    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(_answer(request))


async def _serve_grpc() -> str:
    import grpc
    import grpc.aio

    options = [("grpc.max_receive_message_length", _MAX_BYTES), ("grpc.max_send_message_length", _MAX_BYTES)]
    server = grpc.aio.server(options=options)
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo, None, None),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream, None, None),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floors", handlers),))
    port = server.add_insecure_port(f"{_HOST}:0")
    await server.start()
    _keep.append(server)
    return f"{_HOST}:{port}"


_keep: list[Any] = []


def _serve_socket() -> int:
    listener = socket.create_server((_HOST, 0))
    port: int = listener.getsockname()[1]

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer_requests, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return port


def _answer_requests(connection: socket.socket) -> None:
    with connection:
        while request := connection.recv(_REQUEST_BYTES, socket.MSG_WAITALL):
            connection.sendall(_answer(request))


async def _run() -> None:
    target = await _serve_grpc()
    print(json.dumps({"target": target, "port": _serve_socket()}), flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    """Serves until its input ends."""
    sys.stdin.readline()  # its settings; it has none
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")  # as tmemd does, before gRPC is loaded
    try:
        import uvloop

        uvloop.run(_run())
    except ModuleNotFoundError:
        asyncio.run(_run())


if __name__ == "__main__":
    main()
