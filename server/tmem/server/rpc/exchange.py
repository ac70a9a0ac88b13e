"""ExtentsService: one stream per session, many batches in flight.

Owns: the I/O of a stream; what is said on it is conversation.py's. One task reads and executes, another writes: both go on
while the other waits, so two full windows can't lock each other out. Answers leave in the order in which they are ready.

What one client can cost is bounded by its window: a client that sends more than it was granted, takes no answers, or says
nothing at all is cut off, and the others are served on.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

import grpc
import grpc.aio
import structlog

from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import encode_control
from tmem.wire.errors import ProtocolError, Refused, Unauthenticated

from .conversation import Conversation, WindowExceeded
from .service import Context, Service
from .status import status_of

__all__ = ["ExchangeHandlers", "Stream"]

log = structlog.get_logger(__name__)

_METHOD = "ExtentsService/Exchange"
# Answers to batches are bounded by the window; these answer heartbeats or garbage without end.
_MAX_OUTGOING = 1 << 16
_ABORT_SECONDS = 1.0


class Cut(Exception):  # noqa: N818  an ending, not an error
    """The stream ends because of what its client did, or because it has a successor.

    Attributes:
        code: the status that the client sees.
        cause: what the metrics call it.
    """

    def __init__(self, code: grpc.StatusCode, cause: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.cause = cause


class ExchangeHandlers:
    """The service's handler, and all its streams.

    Args:
        service: the parts of the daemon.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.streams: set[Stream] = set()
        self._empty = asyncio.Event()
        self._observe = service.metrics.rpc(_METHOD)

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, ready to be added to a server."""
        exchange: Any = grpc.stream_stream_rpc_method_handler(self.exchange, None, None)
        return grpc.method_handlers_generic_handler("tmem.v1.ExtentsService", {"Exchange": exchange})

    async def exchange(self, _requests: Any, context: Context) -> None:
        """One stream, from its opening to its end."""
        begun = time.perf_counter()
        code, details = grpc.StatusCode.CANCELLED, ""
        stream = Stream(self.service, context)
        self.streams.add(stream)
        self._empty.clear()
        try:
            await stream.serve()
            code = grpc.StatusCode.OK
        except Cut as cut:
            code, details = cut.code, str(cut)
            self.service.metrics.stream_cut(cut.cause)
            log.warning("stream.cut", cause=cut.cause, client=stream.client_name, message=details)
        except Exception as error:  # noqa: BLE001  whatever it is, it becomes a status
            code, details = self._note(stream, context, error)
        finally:
            self.streams.discard(stream)
            if not self.streams:
                self._empty.set()
            self._observe(code.name, time.perf_counter() - begun)
        if code is not grpc.StatusCode.OK:
            await _abort(context, code, details)

    def _note(self, stream: "Stream", context: Context, error: Exception) -> tuple[grpc.StatusCode, str]:
        """Counts and logs a failed stream; answers how it shall end."""
        code, details, trailing = status_of(error)
        context.set_trailing_metadata(trailing)
        if isinstance(error, ProtocolError):
            self.service.metrics.malformed("exchange")
            log.warning("stream.malformed", client=stream.client_name, error=str(error))
        elif isinstance(error, Refused | Unauthenticated):
            log.info("stream.refused", client=stream.client_name, error=str(error))
        else:
            log.error("stream.failed", client=stream.client_name, exc_info=error)
        return code, details

    def watch(self) -> None:
        """Cuts off streams whose client takes no answers or says nothing; called every second or so."""
        settings = self.service.settings
        now = self.service.clock()
        for stream in list(self.streams):
            since = stream.writing_since
            if since is not None and now - since > settings.stalled_reader_timeout_seconds:
                why = f"no answer was taken for {settings.stalled_reader_timeout_seconds:g} s"
                stream.cut(Cut(grpc.StatusCode.RESOURCE_EXHAUSTED, "stalled", why))
            elif not stream.opened and now - stream.begun > settings.session_timeout_seconds:
                stream.cut(Cut(grpc.StatusCode.DEADLINE_EXCEEDED, "silent", "the stream was never opened"))
        for session in self.service.sessions.silent(now):
            if isinstance(session.stream, Stream):
                why = f"not even a heartbeat for {settings.session_timeout_seconds:g} s"
                session.stream.cut(Cut(grpc.StatusCode.DEADLINE_EXCEEDED, "silent", why))
            log.info("session.expired", client=session.client_name, pools=len(session.bindings))
            self.service.sessions.end(session, now)

    def remove_strangers(self) -> None:
        """Ends the streams of tenants that there are no longer. A stream outlives a mere change of its tenant's tokens."""
        for stream in list(self.streams):
            if stream.tenant is not None and stream.tenant not in self.service.tenants.by_name:
                why = f"tenant {stream.tenant} is no longer served"
                stream.cut(Cut(grpc.StatusCode.UNAUTHENTICATED, "removed", why))

    async def emptied(self, timeout_seconds: float) -> None:
        """Waits until no stream is left, at most so long."""
        if not self.streams:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout_seconds)

    def drain(self, grace_seconds: float) -> None:
        """Tells every client that the server is going away."""
        notice = encode_control(pb.Drain(grace_ms=int(grace_seconds * 1000), message="the server is shutting down"))
        for stream in self.streams:
            stream.send(notice, None)


async def _abort(context: Context, code: grpc.StatusCode, details: str) -> None:
    """Ends a call with a status, or without one if the client takes nothing any more.

    The status stands in line behind what was sent before. A client that has stopped reading leaves it there: then the call
    ends for us all the same, and what gRPC still holds of it (one message and its socket's buffer) goes with the
    connection, which keepalive ends if the client is dead.
    """
    try:
        async with asyncio.timeout(_ABORT_SECONDS):
            await context.abort(code, details)
    except TimeoutError:
        raise asyncio.CancelledError from None


class Stream:
    """One Exchange call.

    Attributes:
        writing_since: when the write that is under way began; None when none is.
    """

    def __init__(self, service: Service, context: Context) -> None:
        self._service = service
        self._context = context
        self._conversation = Conversation(service, self.send)
        self._outgoing: deque[tuple[bytes, int | None]] = deque()
        self._wake = asyncio.Event()
        self._half_closed = False
        self._ending: Cut | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._ended = asyncio.Event()
        self.begun = service.clock()
        self.writing_since: float | None = None

    @property
    def client_name(self) -> str:
        """What the client calls itself."""
        return self._conversation.client_name

    @property
    def tenant(self) -> str | None:
        """Whose it is; None before it is opened."""
        return self._conversation.tenant_name

    @property
    def opened(self) -> bool:
        """Whether there is a session."""
        return self._conversation.session is not None

    # ---- Its life ----

    async def serve(self) -> None:
        """Runs the stream to its end; raises what ended it, unless the client did."""
        try:
            # By itself, because gRPC can't end a call with a status while its first write, which would carry these, waits.
            await self._context.send_initial_metadata(())
            self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._write()))
            if self._ending is not None:
                raise self._ending
            try:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)
            if self._ending is not None:
                raise self._ending
            for task in self._tasks:
                if not task.cancelled():
                    task.result()
        finally:
            self._conversation.end(self, goodbye=self._half_closed)
            self._ended.set()

    def cut(self, ending: Cut) -> None:
        """Ends the stream from outside."""
        if self._ending is None:
            self._ending = ending
            for task in self._tasks:
                task.cancel()

    async def stop(self, why: str) -> None:
        """Ends the stream in favour of its successor, and waits until it has ended."""
        self.cut(Cut(grpc.StatusCode.ABORTED, "replaced", why))
        await self._ended.wait()

    # ---- Writing ----

    def send(self, message: bytes, cost: int | None) -> None:
        """Queues a message; `cost` is the credit that it gives back."""
        if len(self._outgoing) >= _MAX_OUTGOING:
            self.cut(Cut(grpc.StatusCode.RESOURCE_EXHAUSTED, "flood", f"{_MAX_OUTGOING} answers wait to be taken"))
            return
        self._outgoing.append((message, cost))
        self._wake.set()

    async def _write(self) -> None:
        context = self._context
        conversation = self._conversation
        clock = self._service.clock
        count = self._service.metrics.exchange_sent
        while True:
            while self._outgoing:
                message, cost = self._outgoing.popleft()
                if cost is not None and conversation.session is not None:
                    # Before the write: the client may use the credit as soon as it has the answer.
                    conversation.session.release(cost)
                count()  # likewise: whoever has the answer finds it counted
                self.writing_since = clock()
                await context.write(message)
                self.writing_since = None
            if self._half_closed and not conversation.unanswered:
                return
            self._wake.clear()
            await self._wake.wait()

    # ---- Reading ----

    async def _read(self) -> None:
        context = self._context
        conversation = self._conversation
        count = self._service.metrics.exchange_received
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:
                break
            count()
            try:
                if conversation.session is None:
                    await self._open(message)
                else:
                    conversation.handle(message)
            except WindowExceeded as error:
                raise Cut(grpc.StatusCode.RESOURCE_EXHAUSTED, "window", str(error)) from None
        self._half_closed = True
        self._wake.set()

    async def _open(self, message: bytes) -> None:
        tenant = self._service.authenticate(self._context)
        if self._service.closing:
            raise Cut(grpc.StatusCode.UNAVAILABLE, "closing", "the server is shutting down")
        self._service.demand_pools()
        predecessor = self._conversation.open(tenant, message)
        while predecessor is not None:
            # Two clients with one session id would take it from each other; the last one here has it.
            await predecessor.stop("the session goes on over another stream")
            predecessor = self._conversation.open(tenant, message)
        self._conversation.grant(self)
