"""ExtentsService: one stream per session, many batches in flight.

Owns: the life of a stream. One task reads and executes, another writes: both go on while the other waits, so two full
windows can't lock each other out. Batches take effect in the order in which they arrive, before the next one is read;
answers leave in the order in which they are ready.

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

from tmem.server.store.pending import Pending
from tmem.server.store.pools import Member, Pool
from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import (
    Answer,
    AnswerHeader,
    Malformed,
    encode_answer,
    encode_control,
)
from tmem.wire.errors import InvalidRequest, MalformedBatch, ProtocolError, Refused
from tmem.wire.limits import MAX_SESSION_POOLS, PROTOCOL_VERSION, SESSION_ID_BYTES
from tmem.wire.requests import Batch, Echo, Flush, Get, Put, decode_request
from tmem.wire.results import enum_field

from .pools import pool_request
from .service import Context, Service
from .sessions import Session
from .status import status_of

__all__ = ["ExchangeHandlers", "Stream"]

log = structlog.get_logger(__name__)

_METHOD = "ExtentsService/Exchange"
_MAX_OUTGOING = 1 << 16


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

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, ready to be added to a server."""
        exchange: Any = grpc.stream_stream_rpc_method_handler(self.exchange, None, None)
        return grpc.method_handlers_generic_handler("tmem.v1.ExtentsService", {"Exchange": exchange})

    async def exchange(self, _requests: Any, context: Context) -> None:
        """One stream, from its opening to its end."""
        begun = time.perf_counter()
        code = grpc.StatusCode.OK
        stream = Stream(self.service, context)
        self.streams.add(stream)
        self._empty.clear()
        try:
            await stream.serve()
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Cut as cut:
            code = cut.code
            self.service.metrics.stream_cut(cut.cause)
            log.warning("stream.cut", cause=cut.cause, client=stream.client_name, message=str(cut))
            await context.abort(code, str(cut))
        except Exception as error:
            code, details, trailing = status_of(error)
            if isinstance(error, ProtocolError):
                self.service.metrics.malformed("exchange")
                log.warning("stream.malformed", client=stream.client_name, error=str(error))
            elif isinstance(error, Refused):
                log.info("stream.refused", client=stream.client_name, error=str(error))
            else:
                log.exception("stream.failed", client=stream.client_name)
            context.set_trailing_metadata(trailing)
            await context.abort(code, details)
        finally:
            self.streams.discard(stream)
            if not self.streams:
                self._empty.set()
            self.service.metrics.rpc(_METHOD)(code.name, time.perf_counter() - begun)

    def watch(self) -> None:
        """Cuts off streams whose client takes no answers or says nothing; called every second or so."""
        settings = self.service.settings
        now = self.service.clock()
        for stream in list(self.streams):
            since = stream.writing_since
            if since is not None and now - since > settings.stalled_reader_timeout_seconds:
                stream.cut(
                    Cut(
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        "stalled",
                        f"no answer was taken for {settings.stalled_reader_timeout_seconds:g} s",
                    )
                )
            elif stream.session is None and now - stream.begun > settings.session_timeout_seconds:
                stream.cut(Cut(grpc.StatusCode.DEADLINE_EXCEEDED, "silent", "the stream was never opened"))
        for session in self.service.sessions.silent(now):
            if isinstance(session.stream, Stream):
                session.stream.cut(
                    Cut(
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                        "silent",
                        f"not even a heartbeat for {settings.session_timeout_seconds:g} s",
                    )
                )
            log.info("session.expired", client=session.client_name, pools=len(session.bindings))
            self.service.sessions.end(session, now)

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
            stream.send(notice)


class Stream:
    """One Exchange call.

    Attributes:
        session: set once the stream is opened.
        writing_since: when the write that is under way began; None when none is.
    """

    def __init__(self, service: Service, context: Context) -> None:
        self._service = service
        self._context = context
        self._tenant = ""
        self._outgoing: deque[tuple[bytes, int]] = deque()
        self._wake = asyncio.Event()
        self._unanswered = 0
        self._half_closed = False
        self._ending: Cut | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._ended = asyncio.Event()
        self.session: Session | None = None
        self.client_name = ""
        self.begun = service.clock()
        self.writing_since: float | None = None

    # ---- Its life ----

    async def serve(self) -> None:
        """Runs the stream to its end; raises what ended it, unless the client did."""
        try:
            reader = asyncio.create_task(self._read())
            writer = asyncio.create_task(self._write())
            self._tasks = (reader, writer)
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
            self._leave_session()
            self._ended.set()

    def cut(self, ending: Cut) -> None:
        """Ends the stream from outside."""
        if self._ending is None:
            self._ending = ending
            for task in self._tasks:
                task.cancel()

    async def stop(self, why: str) -> None:
        """Ends the stream in favour of its successor, and waits until it is ended."""
        self.cut(Cut(grpc.StatusCode.ABORTED, "replaced", why))
        await self._ended.wait()

    def _leave_session(self) -> None:
        session = self.session
        if session is None or session.stream is not self:
            return
        session.stream = None
        now = self._service.clock()
        session.last_seen = now
        if self._half_closed:
            self._service.sessions.end(session, now)

    # ---- Writing ----

    def send(self, message: bytes, cost: int | None = None) -> None:
        """Queues a message; `cost` is the credit that its batch gives back."""
        if len(self._outgoing) >= _MAX_OUTGOING:
            # Answers to batches are bounded by the window; these answer heartbeats or garbage without end.
            self.cut(Cut(grpc.StatusCode.RESOURCE_EXHAUSTED, "flood", f"{_MAX_OUTGOING} answers wait to be taken"))
            return
        self._outgoing.append((message, -1 if cost is None else cost))
        self._wake.set()

    async def _write(self) -> None:
        context = self._context
        clock = self._service.clock
        count = self._service.metrics.exchange_sent
        while True:
            while self._outgoing:
                message, cost = self._outgoing.popleft()
                if cost >= 0 and self.session is not None:
                    # Before the write: the client may use the credit as soon as it has the answer.
                    self.session.release(cost)
                self.writing_since = clock()
                await context.write(message)
                self.writing_since = None
                count()
            if self._half_closed and not self._unanswered:
                return
            self._wake.clear()
            await self._wake.wait()

    # ---- Reading ----

    async def _read(self) -> None:
        context = self._context
        service = self._service
        count = service.metrics.exchange_received
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:
                break
            count()
            if self.session is None:
                await self._open(message)
                continue
            self.session.last_seen = service.clock()
            self._handle(self.session, message)
        self._half_closed = True
        self._wake.set()

    def _handle(self, session: Session, message: bytes) -> None:
        begun = time.perf_counter()
        try:
            request, slow = decode_request(message)
        except MalformedBatch as error:
            # Its header can't be trusted with credit, so it neither takes nor gives any.
            self._service.metrics.malformed("batch")
            log.warning("batch.malformed", client=self.client_name, batch=error.batch_id, error=str(error))
            self.send(encode_answer(Malformed(AnswerHeader(error.batch_id), str(error))))
            return
        if slow:
            self._service.metrics.slow_decode()
        if isinstance(request, pb.Heartbeat):
            self._heartbeat(session, request)
        elif isinstance(request, pb.Attach):
            states = [self._attach(session, attachment) for attachment in request.pools]
            self.send(encode_control(pb.Attached(attach_id=request.attach_id, pools=states)))
        elif isinstance(request, pb.Open):
            raise ProtocolError("a second Open on one stream")
        else:
            self._execute(session, request, len(message), begun)

    def _execute(self, session: Session, batch: Batch, message_bytes: int, begun: float) -> None:
        service = self._service
        cost = message_bytes + batch.header.answer_bytes
        if not session.charge(cost):
            raise Cut(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "window",
                f"{session.used_batches} batches of {session.used_bytes} bytes are in flight; "
                f"{session.window_batches} of {session.window_bytes} were granted",
            )
        self._unanswered += 1
        result = service.engine.execute(batch, session.bindings.get(batch.header.pool_id))

        def answer(answered: Answer) -> None:
            self._unanswered -= 1
            if self._ended.is_set():
                return
            header = answered.header
            seconds = time.perf_counter() - begun
            header.server_us = int(seconds * 1e6)
            header.load_permille = service.load_permille
            self.send(encode_answer(answered), cost)
            service.metrics.batch(_operation(batch), seconds)

        if isinstance(result, Pending):
            result.when_settled(answer)
        else:
            answer(result)

    def _heartbeat(self, session: Session, heartbeat: pb.Heartbeat) -> None:
        for ref in heartbeat.floors:
            binding = session.bindings.get(ref.pool_id)
            if binding is not None:
                binding.pool.gate(binding.member, ref.generation, ref.floor, None)
        self.send(
            encode_control(
                pb.HeartbeatAnswer(
                    heartbeat_id=heartbeat.heartbeat_id,
                    window=pb.Window(max_bytes=session.window_bytes, max_batches=session.window_batches),
                    load_permille=self._service.load_permille,
                )
            )
        )

    # ---- Opening ----

    async def _open(self, message: bytes) -> None:
        service = self._service
        tenant = service.authenticate(self._context)
        request, _ = decode_request(message)
        if not isinstance(request, pb.Open):
            raise ProtocolError("a stream begins with Open")
        if len(request.session_id) != SESSION_ID_BYTES:
            raise ProtocolError(f"a session id has {SESSION_ID_BYTES} bytes, not {len(request.session_id)}")
        if request.protocol_version != PROTOCOL_VERSION:
            raise InvalidRequest(
                f"protocol version {request.protocol_version} is unknown; this server speaks {PROTOCOL_VERSION}"
            )
        if service.closing:
            raise Cut(grpc.StatusCode.UNAVAILABLE, "closing", "the server is shutting down")
        self._tenant = tenant.name
        self.client_name = request.client_name[:128]
        session = service.sessions.find(tenant.name, request.session_id)
        if session is not None and session.stream is not None:
            await session.stream.stop("the session goes on over another stream")
        settings = service.settings
        if session is None:
            session = Session(tenant.name, request.session_id, self.client_name, 0, 0, service.clock())
            service.sessions.add(session)
        session.stream = self
        session.last_seen = service.clock()
        session.used_bytes = session.used_batches = 0
        session.window_bytes = min(request.window.max_bytes or settings.max_window, settings.max_window)
        session.window_batches = min(
            request.window.max_batches or settings.max_window_batches, settings.max_window_batches
        )
        self.session = session
        # What the client no longer names it no longer works on.
        before = session.bindings
        session.bindings = {}
        states = [self._attach(session, attachment) for attachment in request.pools]
        for pool_id, binding in before.items():
            if pool_id not in session.bindings:
                service.lifecycle.park(binding.member, session.session_id, service.clock())
        self.send(
            encode_control(
                pb.Opened(
                    protocol_version=PROTOCOL_VERSION,
                    window=pb.Window(max_bytes=session.window_bytes, max_batches=session.window_batches),
                    pools=states,
                    instance_id=service.instance_id,
                    heartbeat_interval_ms=int(settings.heartbeat_interval_seconds * 1000),
                    session_timeout_ms=int(settings.session_timeout_seconds * 1000),
                    load_permille=service.load_permille,
                )
            )
        )
        log.debug("stream.opened", client=self.client_name, tenant=tenant.name, pools=len(session.bindings))

    def _attach(self, session: Session, attachment: pb.PoolAttachment) -> pb.PoolState:
        """Binds one pool to the session, or says why not."""
        ref = attachment.pool
        state = pb.PoolState(pool_id=ref.pool_id, generation=ref.generation)
        try:
            if len(session.bindings) >= MAX_SESSION_POOLS:
                raise InvalidRequest(f"a session works on {MAX_SESSION_POOLS} pools at most")
            pool, member = self._find_or_recreate(attachment)
            self._service.sessions.bind(session, pool, member)
        except Refused as refused:
            state.reason = enum_field(refused.reason)
            log.info("attach.refused", client=self.client_name, pool=ref.pool_id, error=str(refused))
            return state
        pool.gate(member, member.generation, ref.floor, None)
        state.pool_id = member.pool_id
        state.generation = member.generation
        state.epoch = pool.epoch
        state.incomplete = pool.incomplete
        state.frozen = pool.frozen
        state.chunk_pages = pool.policy.chunk_pages
        return state

    def _find_or_recreate(self, attachment: pb.PoolAttachment) -> tuple[Pool, Member]:
        ref = attachment.pool
        lifecycle = self._service.lifecycle
        if not attachment.HasField("recreate"):
            return lifecycle.table.resolve(self._tenant, ref.pool_id, ref.token, ref.generation)
        tenant = self._service.tenants.by_name[self._tenant]
        request = pool_request(attachment.recreate)
        if not request.lost_epoch or request.token != ref.token:
            raise InvalidRequest("a pool is made again with its old token and epoch")
        pool, member = lifecycle.create(
            self._tenant,
            request,
            self._service.clock(),
            tenant_weight=tenant.weight,
            max_pools=tenant.max_pools,
        )
        log.info("pool.recreated", pool=pool.name, epoch=pool.epoch, lost_epoch=request.lost_epoch)
        return pool, member


def _operation(batch: Batch) -> str:
    if isinstance(batch, Put):
        return "put"
    if isinstance(batch, Get):
        return "get"
    if isinstance(batch, Flush):
        return "flush"
    return "echo" if isinstance(batch, Echo) else "flush_object"
