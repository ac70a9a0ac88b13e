"""A server made of a plain HTTP/2 library, that does whatever a test wants: for clients that must stand it."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tmem.v1 import capabilities_pb2
from tmem.v1 import extents_pb2 as pb

__all__ = ["CAPABILITIES", "EXCHANGE", "Conversation", "GrpcPeer"]

CAPABILITIES = "/tmem.v1.CapabilitiesService/GetCapabilities"
EXCHANGE = "/tmem.v1.ExtentsService/Exchange"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]


class Conversation:
    """One connection.

    Attributes:
        h2: the library's end of it. number: the how-manieth it is, from 0.
    """

    def __init__(self, sock: socket.socket, number: int, answers: dict[str, Callable[..., None]]) -> None:
        self.socket = sock
        self.number = number
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._answers = answers
        self._paths: dict[int, str] = {}
        self._begun: set[int] = set()
        self._data: dict[int, bytes] = {}

    def run(self) -> None:
        """Serves the connection to its end."""
        self.h2.initiate_connection()
        self.flush()
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            while data := self.socket.recv(65536):
                for event in self.h2.receive_data(data):
                    self._take(event)
                self.flush()

    def flush(self) -> None:
        """Writes what the library wants to be written."""
        self.socket.sendall(self.h2.data_to_send())

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            path = self._paths[event.stream_id] = str(dict(event.headers)[":path"])  # type: ignore[index]
            self._data[event.stream_id] = b""
            if f"{path} begins" in self._answers:
                self._answers[f"{path} begins"](self, event.stream_id)
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            data = self._data[event.stream_id] + event.data
            while len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[1:5], "big"):
                end = 5 + int.from_bytes(data[1:5], "big")
                with contextlib.suppress(h2.exceptions.StreamClosedError):  # the client has left meanwhile
                    self._answers[self._paths[event.stream_id]](self, event.stream_id, data[5:end])
                data = data[end:]
            self._data[event.stream_id] = data
        elif isinstance(event, h2.events.StreamEnded) and self._paths.get(event.stream_id) == EXCHANGE:
            self.end(event.stream_id)

    # ---- What an answer may do ----

    def begin(self, stream_id: int) -> None:
        """Sends the head of a response, once."""
        if stream_id not in self._begun:
            self._begun.add(stream_id)
            self.h2.send_headers(stream_id, HEAD)

    def send(self, stream_id: int, message: bytes) -> None:
        """Sends a message."""
        self.begin(stream_id)
        self.h2.send_data(stream_id, b"\0" + len(message).to_bytes(4, "big") + message)

    def end(self, stream_id: int, status: str = "0", **fields: str) -> None:
        """Ends a call; further fields have hyphens for underscores."""
        self.begin(stream_id)
        trailers = [("grpc-status", status), *((name.replace("_", "-"), value) for name, value in fields.items())]
        self.h2.send_headers(stream_id, trailers, end_stream=True)

    def echo(self, stream_id: int, message: bytes) -> None:
        """Answers as the Exchange call of a server that can do nothing but echo."""
        request = pb.ExchangeRequest.FromString(message)
        response = pb.ExchangeResponse()
        if request.HasField("open"):
            response.opened.CopyFrom(
                pb.Opened(
                    protocol_version=1,
                    window=pb.Window(max_bytes=8 << 20, max_batches=64),
                    instance_id=b"i" * 16,
                    heartbeat_interval_ms=200,
                )
            )
        elif request.HasField("heartbeat"):
            response.heartbeat.heartbeat_id = request.heartbeat.heartbeat_id
        else:
            response.echo.header.batch_id = request.echo.header.batch_id
            response.body = request.body
        self.send(stream_id, response.SerializeToString())


def _capabilities(conversation: Conversation, stream_id: int, message: bytes) -> None:
    conversation.send(stream_id, capabilities_pb2.GetCapabilitiesResponse(instance_id=b"i" * 16).SerializeToString())
    conversation.end(stream_id)


class GrpcPeer:
    """A server on a port of its own, one connection after the other. Use it in a `with` statement.

    Args:
        answers: by path, what to do with each message: called with conversation, stream and message. "PATH begins": at the
            request's headers, with conversation and stream.
        raw: instead of all that, what to do with each connection: called with its socket and its number.
    """

    def __init__(
        self,
        answers: dict[str, Callable[..., None]] | None = None,
        raw: Callable[[socket.socket, int], None] | None = None,
    ) -> None:
        self._answers = {CAPABILITIES: _capabilities, EXCHANGE: Conversation.echo} | (answers or {})
        self._raw = raw
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, name="grpc-peer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    @property
    def connections(self) -> int:
        """How many came."""
        return len(self._sockets)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                number = len(self._sockets)
                self._sockets.append(sock)
                if self._raw is not None:
                    self._raw(sock, number)
                else:
                    Conversation(sock, number, self._answers).run()
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
