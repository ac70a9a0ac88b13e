"""The session: what is in flight, what is sent when, and what is sent again.

Owns: `SessionCore`, the state machine between a client's operations and the stream of the moment. It outlives streams: when
one breaks, what is unanswered stays in flight and is sent again, in order, on the next.

The face that drives it must call everything here under one lock or on one loop, but for `Operation.build` and
`Operation.decode`, which may take long and touch only the operation.

    admit(op) -> False: wait and ask again | True: now op.build(), then launch(op)
    launch(op), opening(), opened(...) ...  -> messages to send now, in order
    match(answer) -> the operation it answers: op.decode(answer, codec), then finish(op)
    broken() when the stream ends
"""

import os
from collections import deque
from collections.abc import Iterable

from tmem.v1 import extents_pb2 as pb
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.answers import Answer, Response
from tmem.wire.errors import Closed, DeadlineExceeded, ProtocolError, TmemError, explain, refusal
from tmem.wire.handles import Extent
from tmem.wire.limits import PROTOCOL_VERSION, SESSION_ID_BYTES
from tmem.wire.requests import encode_control
from tmem.wire.results import PoolKind, Reason

from .counters import ClientCounters
from .operations import FlushOperation, Operation, PutOperation
from .options import Options
from .pool import PoolCore
from .window import Window

__all__ = ["SessionCore"]


class SessionCore:
    """One client's session.

    Args:
        options: the client's.
        counters: where messages and replays are counted.

    Attributes:
        window: credit.
        open: whether a stream is open and answered.
        draining: the server asked to be left.
        heartbeat_interval: seconds; how often the server wants to hear something.
        wants_heartbeat: one should be sent now, to have a floor confirmed.
        instance_id: which run of the server the session's pools are known to; b"" before anything was heard of it.
    """

    def __init__(self, options: Options, counters: ClientCounters) -> None:
        self._options = options
        self._counters = counters
        self._session_id = os.urandom(SESSION_ID_BYTES)
        self.instance_id = b""
        self._pools: list[PoolCore] = []
        self._in_flight: dict[int, Operation] = {}
        self._next_batch_id = 1
        self._next_control_id = 1
        self._attaching: dict[int, list[tuple[PoolCore, int]]] = {}  # with the floor that was shown
        self._heartbeats: dict[int, list[tuple[PoolCore, int]]] = {}
        self._owed: deque[tuple[PoolCore, Extent]] = deque()
        self._opening: list[tuple[PoolCore, int]] = []
        self._orphans: dict[int, int] = {}  # cost of sent batches that nobody waits for
        self._silences = 0
        self._backlog = False  # something in flight is built and not sent
        self._sent_bytes = 0
        self._sent_batches = 0
        self._opened_before = False
        self.window = Window(options.window_bytes, options.window_batches)
        self.open = False
        self.closed = False
        self.draining = False
        self.heartbeat_interval = 1.0
        self.wants_heartbeat = False

    @property
    def in_flight(self) -> int:
        """How many batches are unanswered."""
        return len(self._in_flight)

    @property
    def needed(self) -> bool:
        """Whether a stream should be open."""
        return bool(self._pools or self._in_flight) and not self.closed

    @property
    def owed(self) -> bool:
        """Whether flushes are owed for puts whose refusal left the old page in doubt."""
        return bool(self._owed)

    @property
    def drained(self) -> bool:
        """Whether the server asked to be left and nothing sent to it is unanswered."""
        return self.draining and not self._sent_batches

    # ---- Operations on their way out ----

    def admit(self, operation: Operation) -> bool:
        """Gives an operation its credit, batch id and sequence; False while it has to wait.

        Raises:
            Closed: the client was closed. TmemError: the pool can't be used any more.
        """
        if self.closed:
            raise Closed("the client is closed")
        pool = operation.pool
        if pool is not None and pool.error is not None:
            raise pool.error
        cost = operation.estimate()
        if not self.window.has_room(cost, write=operation.writes):
            return False
        if operation.writes:
            assert pool is not None
            footprints = operation.footprints()
            if pool.writer.conflicts(footprints):
                return False
            operation.sequence = pool.writer.begin(footprints)
        operation.begin()
        if pool is not None:
            operation.floor = pool.writer.floor
        operation.batch_id = self._next_batch_id
        self._next_batch_id += 1
        operation.cost = cost
        self.window.take(cost)
        self._in_flight[operation.batch_id] = operation
        return True

    def launch(self, operation: Operation) -> list[bytes]:
        """The messages to send for an operation that was built; none while there is no stream for it."""
        assert operation.message is not None
        if self._in_flight.get(operation.batch_id) is not operation:
            return []  # failed meanwhile
        # What the server counts, in the place of the estimate.
        cost = len(operation.message) + operation.answer_bytes
        self.window.recost(operation.cost, cost)
        operation.cost = cost
        if self._backlog:
            return self._send_backlog()
        return self._send([operation])

    def _send(self, operations: Iterable[Operation]) -> list[bytes]:
        """The messages of those operations that can be sent now; the others become the backlog."""
        messages: list[bytes] = []
        for operation in operations:
            pool = operation.pool
            if operation.sent or operation.decoding or operation.message is None:
                continue
            if not self.open or self.draining or (pool is not None and not pool.attached):
                self._backlog = True
                continue
            if self._sent_batches and (
                self._sent_bytes + operation.cost > self.window.max_bytes
                or self._sent_batches >= self.window.max_batches
            ):
                # A new stream was granted less than the old one.
                self._backlog = True
                break
            operation.sent = operation.sent_once = True
            self._sent_bytes += operation.cost
            self._sent_batches += 1
            messages.append(operation.message)
        self._counters.messages_sent += len(messages)
        return messages

    def _send_backlog(self) -> list[bytes]:
        self._backlog = False
        return self._send(list(self._in_flight.values()))

    def _remove(self, operation: Operation) -> None:
        """Takes an operation out of flight."""
        if self._in_flight.pop(operation.batch_id, None) is None:
            return
        self.window.give(operation.cost)
        if operation.sent:
            self._sent_bytes -= operation.cost
            self._sent_batches -= 1

    def give_up(self, operation: Operation) -> bool:
        """Nobody waits for the operation any more; False if its answer is being taken this moment."""
        if operation.done:
            return True
        if operation.decoding:
            return False
        operation.given_up = True
        self._drop(operation, DeadlineExceeded("no answer came in time"))
        return True

    def abort(self, operation: Operation) -> None:
        """The operation was admitted and could not be built: it never was."""
        self._drop(operation, Closed("the operation could not be built"))

    def _drop(self, operation: Operation, error: TmemError) -> None:
        """Fails an operation that will not be answered."""
        if operation.sent:
            # The server still owes its answer, and counts its cost until then.
            self._orphans[operation.batch_id] = operation.cost
            self._in_flight.pop(operation.batch_id, None)
        else:
            self._remove(operation)
        operation.fail(error)
        operation.message = None
        operation.done = True
        if operation.sequence and operation.pool is not None:
            if operation.sent_once:
                # It may have reached the server: its handles are free only when a floor above it is confirmed.
                operation.pool.writer.give_up(operation.sequence)
                self.wants_heartbeat = True
            else:
                operation.pool.writer.settle(operation.sequence)

    # ---- Answers ----

    def match(self, answer: Answer) -> Operation | None:
        """The operation that an answer belongs to; None for one that nobody waits for any more."""
        header = answer.header
        if header.window is not None:
            self.window.grant(*header.window)
        operation = self._in_flight.get(header.batch_id)
        if operation is None:
            cost = self._orphans.pop(header.batch_id, None)
            if cost is None:
                raise ProtocolError(f"an answer to batch {header.batch_id}, which was not sent")
            self.window.give(cost)
            self._sent_bytes -= cost
            self._sent_batches -= 1
            return None
        if not operation.sent or operation.decoding:
            raise ProtocolError(f"an answer to batch {header.batch_id}, which is not waiting for one")
        operation.decoding = True
        return operation

    def finish(self, operation: Operation) -> list[bytes]:
        """The operation's answer was taken (or could not be); answers what can be sent now."""
        self._remove(operation)
        pool = operation.pool
        if pool is not None:
            operation.settle()
            if operation.sequence:
                pool.writer.settle(operation.sequence)
            pool.writer.confirmed(operation.floor)
            if isinstance(operation, PutOperation):
                self._owed.extend((pool, extent) for extent in operation.owed_flushes())
        operation.message = None
        operation.done = True
        return self._send_backlog() if self._backlog else []

    def next_owed(self) -> FlushOperation | None:
        """A flush that is owed, to be admitted like any other."""
        while self._owed:
            pool, extent = self._owed.popleft()
            if pool.error is None:
                operation = FlushOperation(pool)
                operation.add(extent)
                return operation
        return None

    def owe_again(self, operation: FlushOperation) -> None:
        """An owed flush could not be carried out: it stays owed."""
        assert operation.pool is not None
        self._owed.extend((operation.pool, extent) for extent in operation.extents)

    # ---- Pools ----

    def add_pool(self, pool: PoolCore) -> list[bytes]:
        """Takes up work on a pool; answers what to send."""
        self._pools.append(pool)
        if not self.open:
            return []
        return [self._attach([pb.PoolAttachment(pool=_ref(pool))], [pool])]

    def remove_pool(self, pool: PoolCore, error: TmemError) -> list[Operation]:
        """Ends work on a pool; answers the operations that fail with it."""
        if pool in self._pools:
            self._pools.remove(pool)
        return self._fail_pool(pool, error)

    def _fail_pool(self, pool: PoolCore, error: TmemError) -> list[Operation]:
        pool.error = error
        pool.attached = False
        failed = [op for op in self._in_flight.values() if op.pool is pool and not op.decoding]
        for operation in failed:
            self._drop(operation, error)
        return failed

    def fail_all(self, error: TmemError) -> list[Operation]:
        """Fails everything in flight; answers the operations."""
        failed = [operation for operation in self._in_flight.values() if not operation.decoding]
        for operation in failed:
            self._drop(operation, error)
        return failed

    def _attach(self, attachments: list[pb.PoolAttachment], pools: list[PoolCore]) -> bytes:
        attach_id = self._next_control_id
        self._next_control_id += 1
        self._attaching[attach_id] = [(pool, pool.writer.floor) for pool in pools]
        self._counters.messages_sent += 1
        return encode_control(pb.Attach(attach_id=attach_id, pools=attachments))

    # ---- Streams ----

    def opening(self) -> bytes:
        """The first message of a new stream."""
        self._silences = 0
        self._opening = [(pool, pool.writer.floor) for pool in self._pools]
        self.draining = False
        self._counters.messages_sent += 1
        return encode_control(
            pb.Open(
                session_id=self._session_id,
                protocol_version=PROTOCOL_VERSION,
                window=pb.Window(max_bytes=self._options.window_bytes, max_batches=self._options.window_batches),
                pools=[pb.PoolAttachment(pool=_ref(pool)) for pool, _ in self._opening],
                client_name=self._options.name,
            )
        )

    def control(self, message: Response) -> tuple[list[bytes], list[Operation]]:
        """Takes Opened, Attached, a heartbeat's answer or Drain.

        Returns:
            Messages to send, and operations that failed.

        Raises:
            ProtocolError: the server says something out of turn.
        """
        if isinstance(message, pb.Opened):
            return self._opened(message)
        if isinstance(message, pb.Attached):
            pools = self._attaching.pop(message.attach_id, None)
            if pools is None or len(pools) != len(message.pools):
                raise ProtocolError("an answer to an attachment that nobody asked for")
            return self._attached(pools, list(message.pools), lost=False)
        if isinstance(message, pb.HeartbeatAnswer):
            for pool, floor in self._heartbeats.pop(message.heartbeat_id, []):
                pool.writer.confirmed(floor)
            if message.HasField("window"):
                self.window.grant(message.window.max_bytes, message.window.max_batches)
            return [], []
        if isinstance(message, pb.Drain):
            self.draining = True
            return [], []
        raise ProtocolError(f"a {type(message).__name__} out of turn")

    def _opened(self, opened: pb.Opened) -> tuple[list[bytes], list[Operation]]:
        if self.open or len(opened.pools) != len(self._opening):
            raise ProtocolError("an Opened that answers no Open")
        # A server that was started anew has lost what it held in memory; its pools are made again. A pool that the
        # same server no longer knows was destroyed by somebody, and stays so.
        lost = bool(self.instance_id) and opened.instance_id != self.instance_id
        self.instance_id = opened.instance_id
        self.window.grant(opened.window.max_bytes, opened.window.max_batches)
        self.heartbeat_interval = max(opened.heartbeat_interval_ms / 1000, 0.01)
        self.open = True
        if self._opened_before:
            self._counters.reconnects += 1
        self._opened_before = True
        messages, failed = self._attached(self._opening, list(opened.pools), lost=lost)
        opening = {id(pool) for pool, _ in self._opening}
        late = [pool for pool in self._pools if id(pool) not in opening]
        if late:
            messages.append(self._attach([pb.PoolAttachment(pool=_ref(pool)) for pool in late], late))
        return messages, failed

    def _attached(
        self, pools: list[tuple[PoolCore, int]], states: list[pb.PoolState], *, lost: bool
    ) -> tuple[list[bytes], list[Operation]]:
        messages: list[bytes] = []
        failed: list[Operation] = []
        again: list[PoolCore] = []
        for (pool, floor), state in zip(pools, states, strict=True):
            if pool not in self._pools:
                continue  # removed meanwhile
            if self._is_lost(pool, state.reason, lost=lost):
                again.append(pool)
            elif state.reason:
                error = refusal(
                    state.reason,
                    f"the server lets this client no longer work on pool {pool.name!r}, {explain(state.reason)}",
                )
                failed += self._fail_pool(pool, error)
            else:
                self._take_state(pool, state, floor)
        if again:
            attachments = []
            for pool in again:
                assert pool.recreate is not None
                attachment = pb.PoolAttachment(pool=_ref(pool))
                attachment.recreate.CopyFrom(pool.recreate)
                attachment.recreate.lost_epoch = pool.epoch
                attachment.recreate.token = pool.token
                attachments.append(attachment)
                pool.recreating = True
            messages.append(self._attach(attachments, again))
        return messages + self._send_backlog(), failed

    @staticmethod
    def _is_lost(pool: PoolCore, reason: int, *, lost: bool) -> bool:
        """Whether the pool is to be made again.

        Asked for once, it is asked for until the answer arrives: the message, or its answer, may have gone with a stream. If it was
        the answer, the pool is there, and perhaps under the same number with another generation.
        """
        if pool.recreate is None:
            return False
        return (reason == Reason.NO_SUCH_POOL and (lost or pool.recreating)) or (
            reason == Reason.FENCED and pool.recreating
        )

    def _take_state(self, pool: PoolCore, state: pb.PoolState, floor: int) -> None:
        """Notes what the server says of a pool that it lets the session work on."""
        pool.attached = True
        pool.recreating = False
        pool.incomplete = state.incomplete
        pool.chunk_pages = state.chunk_pages or pool.chunk_pages
        pool.writer.confirmed(floor)
        if (pool.pool_id, pool.generation, pool.epoch) == (state.pool_id, state.generation, state.epoch):
            return
        reborn = pool.epoch != state.epoch
        pool.pool_id, pool.generation, pool.epoch = state.pool_id, state.generation, state.epoch
        if reborn and pool.presence is not None:
            if pool.kind == PoolKind.EPHEMERAL:
                pool.presence.forget()
            else:
                pool.presence.lost(pool.writer.under_way)
        for operation in self._in_flight.values():
            if operation.pool is pool and operation.message is not None:
                operation.readdress()

    def broken(self) -> None:
        """The stream ended; what is unanswered waits for the next."""
        self.open = False
        self._attaching.clear()
        self._heartbeats.clear()
        for pool in self._pools:
            pool.attached = False
        for cost in self._orphans.values():
            self.window.give(cost)
        self._orphans.clear()
        self._sent_bytes = self._sent_batches = 0
        for operation in self._in_flight.values():
            if operation.sent:
                operation.sent = False
                operation.replayed = True
                self._counters.replays += not operation.decoding
        self._backlog = bool(self._in_flight)

    def heartbeat(self) -> bytes:
        """A sign of life, with the floors of all pools that are waiting for one to be confirmed."""
        self.wants_heartbeat = False
        heartbeat_id = self._next_control_id
        self._next_control_id += 1
        floors = [(pool, pool.writer.floor) for pool in self._pools if pool.attached and pool.writer.has_given_up]
        self._heartbeats[heartbeat_id] = floors
        self._counters.messages_sent += 1
        refs = [PoolRef(pool_id=pool.pool_id, generation=pool.generation, floor=floor) for pool, floor in floors]
        return encode_control(pb.Heartbeat(heartbeat_id=heartbeat_id, floors=refs))

    @property
    def unanswered_heartbeats(self) -> int:
        """How many heartbeats the server has not answered; so many times it was silent about the opening, before that."""
        return len(self._heartbeats) if self.open else self._silences

    def note_silence(self) -> None:
        """A heartbeat interval has passed, and the opening of the stream is not answered."""
        self._silences += 1


def _ref(pool: PoolCore) -> PoolRef:
    return PoolRef(
        pool_id=pool.pool_id,
        generation=pool.generation,
        token=pool.token,
        epoch=pool.epoch,
        floor=pool.writer.floor,
    )
