"""What is said on a stream, without the stream.

Owns: the server's half of the Exchange protocol: opening a session, attaching pools, executing batches in the order of
their arrival, and what is answered. Bytes go in by `open` and `handle`, bytes go out by the `send` that it is given. It
waits for nothing, so that tests can drive it, with a client's core on the other side, over a network of their own making.

Must not know: gRPC, event loops.
"""

import time
from collections.abc import Callable

import structlog

from tmem.server.store.pending import Pending
from tmem.server.store.pools import Member, Pool
from tmem.server.tenants import Tenant
from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import Answer, AnswerHeader, Malformed, encode_answer, encode_control
from tmem.wire.errors import InvalidRequest, MalformedBatch, ProtocolError, Refused
from tmem.wire.limits import MAX_SESSION_POOLS, PROTOCOL_VERSION, SESSION_ID_BYTES
from tmem.wire.requests import Batch, Flush, FlushObject, Get, Put, decode_request
from tmem.wire.results import enum_field

from .poolcalls import pool_request
from .service import Service
from .sessions import Session, StreamHandle

__all__ = ["Conversation", "WindowExceeded"]

log = structlog.get_logger(__name__)

Send = Callable[[bytes, int | None], None]
"""Takes a message on its way out, and the credit that it gives back when it leaves, if it answers a batch."""


class WindowExceeded(Exception):  # noqa: N818  an ending, not an error
    """The client has more in flight than it was granted."""


class Conversation:
    """The server's half of one stream.

    Args:
        service: the parts of the daemon.
        send: where messages go.

    Attributes:
        session: set by `grant`.
        unanswered: batches whose answers are not on their way yet.
        over: nothing is sent any more.
    """

    def __init__(self, service: Service, send: Send) -> None:
        self._service = service
        self._send = send
        self._opening: pb.Open | None = None
        self._tenant: Tenant | None = None
        self.session: Session | None = None
        self.client_name = ""
        self.unanswered = 0
        self.over = False

    @property
    def tenant_name(self) -> str | None:
        """Whose stream it is; None before it is opened."""
        return None if self._tenant is None else self._tenant.name

    # ---- Opening ----

    def open(self, tenant: Tenant, message: bytes) -> StreamHandle | None:
        """Takes the first message; answers the session's older stream, which must have ended before `grant`.

        Raises:
            ProtocolError, InvalidRequest: it opens nothing.
        """
        request, _ = decode_request(message)
        if not isinstance(request, pb.Open):
            raise ProtocolError("a stream begins with Open")
        if len(request.session_id) != SESSION_ID_BYTES:
            raise ProtocolError(f"a session id has {SESSION_ID_BYTES} bytes, not {len(request.session_id)}")
        if request.protocol_version != PROTOCOL_VERSION:
            raise InvalidRequest(
                f"protocol version {request.protocol_version} is unknown; this server speaks {PROTOCOL_VERSION}"
            )
        self._tenant = tenant
        self._opening = request
        self.client_name = request.client_name[:128]
        session = self._service.sessions.find(tenant.name, request.session_id)
        return None if session is None else session.stream

    def grant(self, stream: StreamHandle) -> None:
        """Answers Opened: from now on the session speaks over this stream."""
        service, request, tenant = self._service, self._opening, self._tenant
        assert request is not None
        assert tenant is not None
        settings = service.settings
        now = service.clock()
        session = service.sessions.find(tenant.name, request.session_id)
        if session is None:
            session = Session(tenant.name, request.session_id, self.client_name, 0, 0, now)
            service.sessions.add(session)
        session.stream = stream
        session.last_seen = now
        session.used_bytes = session.used_batches = 0
        session.window_bytes = min(request.window.max_bytes or settings.max_window, settings.max_window)
        session.window_batches = min(
            request.window.max_batches or settings.max_window_batches, settings.max_window_batches
        )
        self.session = session
        before = session.bindings
        session.bindings = {}
        states = [self._attach(session, attachment) for attachment in request.pools]
        # What the client no longer names it no longer works on.
        for pool_id, binding in before.items():
            if pool_id not in session.bindings:
                service.lifecycle.park(binding.member, session.session_id, now)
        opened = pb.Opened(
            protocol_version=PROTOCOL_VERSION,
            window=self._window(session),
            pools=states,
            instance_id=service.instance_id,
            heartbeat_interval_ms=int(settings.heartbeat_interval_seconds * 1000),
            session_timeout_ms=int(settings.session_timeout_seconds * 1000),
            load_permille=service.load_permille,
        )
        self._send(encode_control(opened), None)
        log.debug("stream.opened", client=self.client_name, tenant=tenant.name, pools=len(session.bindings))

    @staticmethod
    def _window(session: Session) -> pb.Window:
        return pb.Window(max_bytes=session.window_bytes, max_batches=session.window_batches)

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
        ref, tenant, lifecycle = attachment.pool, self._tenant, self._service.lifecycle
        assert tenant is not None
        if not attachment.HasField("recreate"):
            return lifecycle.table.resolve(tenant.name, ref.pool_id, ref.token, ref.generation)
        request = pool_request(attachment.recreate)
        if not request.lost_epoch or request.token != ref.token:
            raise InvalidRequest("a pool is made again with its old token and epoch")
        pool, member = lifecycle.create(
            tenant.name, request, self._service.clock(), tenant_weight=tenant.weight, max_pools=tenant.max_pools
        )
        log.info("pool.recreated", pool=pool.name, epoch=pool.epoch, lost_epoch=request.lost_epoch)
        return pool, member

    # ---- Everything after that ----

    def handle(self, message: bytes) -> None:
        """Takes any later message; what it asks for has happened when this returns.

        Raises:
            ProtocolError: it is no request, or out of turn.
            WindowExceeded: it is one too many.
        """
        session = self.session
        assert session is not None
        session.last_seen = self._service.clock()
        begun = time.perf_counter()
        try:
            request, slow = decode_request(message)
        except MalformedBatch as error:
            # Its header can't be trusted with credit, so it neither takes nor gives any.
            self._service.metrics.malformed("batch")
            log.warning("batch.malformed", client=self.client_name, batch=error.batch_id, error=str(error))
            self._send(encode_answer(Malformed(AnswerHeader(error.batch_id), str(error))), None)
            return
        if slow:
            self._service.metrics.slow_decode()
        if isinstance(request, pb.Heartbeat):
            self._heartbeat(session, request)
        elif isinstance(request, pb.Attach):
            states = [self._attach(session, attachment) for attachment in request.pools]
            self._send(encode_control(pb.Attached(attach_id=request.attach_id, pools=states)), None)
        elif isinstance(request, pb.Open):
            raise ProtocolError("a second Open on one stream")
        else:
            self._execute(session, request, len(message), begun)

    def _execute(self, session: Session, batch: Batch, message_bytes: int, begun: float) -> None:
        service = self._service
        cost = message_bytes + batch.header.answer_bytes
        if not session.charge(cost):
            raise WindowExceeded(
                f"{session.used_batches} batches of {session.used_bytes} bytes are in flight; "
                f"{session.window_batches} of {session.window_bytes} were granted"
            )
        self.unanswered += 1
        result = service.engine.execute(batch, session.bindings.get(batch.header.pool_id))

        def answer(answered: Answer) -> None:
            self.unanswered -= 1
            if self.over:
                return
            seconds = time.perf_counter() - begun
            answered.header.server_us = int(seconds * 1e6)
            answered.header.load_permille = service.load_permille
            self._send(encode_answer(answered), cost)
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
        answer = pb.HeartbeatAnswer(
            heartbeat_id=heartbeat.heartbeat_id,
            window=self._window(session),
            load_permille=self._service.load_permille,
        )
        self._send(encode_control(answer), None)

    # ---- The end ----

    def end(self, stream: StreamHandle, *, goodbye: bool) -> None:
        """The stream is over; with a goodbye the session is, too."""
        self.over = True
        session = self.session
        if session is None or session.stream is not stream:
            return
        session.stream = None
        session.last_seen = self._service.clock()
        if goodbye:
            self._service.sessions.end(session, session.last_seen)


def _operation(batch: Batch) -> str:
    if isinstance(batch, Put):
        return "put"
    if isinstance(batch, Get):
        return "get"
    if isinstance(batch, Flush):
        return "flush"
    return "flush_object" if isinstance(batch, FlushObject) else "echo"
