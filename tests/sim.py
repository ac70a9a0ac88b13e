"""Both ends of the wire without the wire: a client's core and a server's conversation, over a network that the test is.

Nothing here waits, sleeps or opens a socket: messages lie in two queues until the test delivers, loses or cuts them.
"""

import random
from collections import deque
from typing import Any

from tests.pages import PAGE

from tmem.client._core.calls import recreation
from tmem.client._core.counters import ClientCounters
from tmem.client._core.face import acknowledgement, buffer_extent
from tmem.client._core.gets import GetOperation
from tmem.client._core.operations import FlushObjectOperation, FlushOperation, Operation, PutOperation
from tmem.client._core.options import Options
from tmem.client._core.pool import PoolCore
from tmem.client._core.results import GetResult
from tmem.client._core.session import SessionCore
from tmem.server.config import Settings
from tmem.server.observe.metrics import Metrics
from tmem.server.rpc.conversation import Conversation
from tmem.server.rpc.pools import _describe
from tmem.server.rpc.service import Service
from tmem.server.rpc.sessions import SessionTable
from tmem.server.store.engine import Engine
from tmem.server.store.history import History
from tmem.server.store.interface import Store
from tmem.server.store.lifecycle import Graces, Lifecycle
from tmem.server.store.log import LogStore
from tmem.server.store.pools import PoolRequest, PoolTable
from tmem.server.tenants import LOCAL, Tenants
from tmem.wire.answers import EchoAnswer, FlushAnswer, FlushObjectAnswer, GetAnswer, Malformed, PutAnswer, decode_answer
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent
from tmem.wire.results import PoolFlag, PoolKind

_ANSWERS = (PutAnswer, GetAnswer, FlushAnswer, FlushObjectAnswer, EchoAnswer, Malformed)


class PureServer:
    """A server without I/O; `restart` loses everything it held."""

    def __init__(self, chance: random.Random, **settings: Any) -> None:
        self.chance = chance
        self.now = 0.0
        self.epochs = 100
        self.settings = Settings.model_validate({"metrics_listen": "none"} | settings)
        self.restart()

    def restart(self) -> None:
        self.store: Store = LogStore(self.settings.memory_limit, CopyCounter())
        table = PoolTable(random_bytes=self.chance.randbytes, durabilities=self.store.durabilities, max_pools=1024)
        lifecycle = Lifecycle(table, self.store, graces=Graces(), epoch=self._epoch)
        self.service = Service(
            settings=self.settings,
            tenants=Tenants(),
            engine=Engine(self.store, History(lambda: 0.0)),
            lifecycle=lifecycle,
            sessions=SessionTable(lifecycle, timeout_seconds=self.settings.session_timeout_seconds),
            metrics=Metrics("sim"),
            copies=CopyCounter(),
            instance_id=self.chance.randbytes(16),
            version="sim",
            clock=lambda: self.now,
        )

    def _epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    @property
    def tenant(self) -> Any:
        return self.service.tenants.by_name[LOCAL]


class PureStream:
    """One stream of the simulated network: what the client has sent and the server has not seen, and the other way."""

    def __init__(self, server: PureServer) -> None:
        self.server = server
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.conversation = Conversation(server.service, self._send)
        self.cut = False

    def _send(self, message: bytes, cost: int | None) -> None:
        if cost is not None and self.conversation.session is not None:
            self.conversation.session.release(cost)
        self.to_client.append(message)

    async def stop(self, why: str) -> None:  # the session table's view of a stream
        raise AssertionError("the simulation stops streams by itself")

    def deliver_to_server(self) -> None:
        message = self.to_server.popleft()
        if self.cut:
            return
        if self.conversation.session is None:
            older = self.conversation.open(self.server.tenant, message)
            if older is not None:
                older.cut = True  # type: ignore[attr-defined]
                older.conversation.end(older, goodbye=False)  # type: ignore[attr-defined]
            self.conversation.grant(self)  # type: ignore[arg-type]
        else:
            self.conversation.handle(message)


class PureClient:
    """A client without I/O."""

    def __init__(self, server: PureServer, **options: Any) -> None:
        self.server = server
        self.counters = ClientCounters()
        self.codec = Codec(self.counters.copies)
        self.core = SessionCore(Options(**options), self.counters)
        self.core.instance_id = server.service.instance_id  # as a real one asks for the server's capabilities first
        self.stream: PureStream | None = None

    # ---- Pools ----

    def create_pool(self, name: str, kind: PoolKind = PoolKind.PERSISTENT, flags: PoolFlag = PoolFlag.NONE) -> PoolCore:
        request = PoolRequest(name, int(kind), flags=int(flags), token=self.server.chance.randbytes(32))
        pool, member = self.server.service.lifecycle.create(LOCAL, request, self.server.now)
        description = _describe(pool, member.pool_id)
        core = PoolCore(description, member.token, member.generation, recreation(description, member.token))
        self._send(self.core.add_pool(core))
        return core

    def open_pool(self, name: str, token: bytes, epoch: int | None = None) -> PoolCore:
        pool, member = self.server.service.lifecycle.open(LOCAL, name, token, self.server.now)
        description = _describe(pool, member.pool_id)
        core = PoolCore(description, member.token, member.generation, recreation(description, member.token))
        assert core.presence is not None
        core.presence.opened(
            token, epoch=pool.epoch, generation=member.generation, known_epoch=epoch, incomplete=pool.incomplete
        )
        for block in self.server.store.blocks(pool.key):
            core.presence.listed(block.object, block.block, int.from_bytes(block.bitmap, "little"), list(block.crcs))
        self._send(self.core.add_pool(core))
        return core

    # ---- Operations ----

    def start(self, operation: Operation) -> bool:
        """Sends it if it may be sent now."""
        if not self.core.admit(operation):
            return False
        operation.build()
        self._send(self.core.launch(operation))
        return True

    def put(self, pool: PoolCore, obj: int, index: int, plain: bytes) -> PutOperation | None:
        extent, view = buffer_extent(obj, index, plain, writable=False)
        operation = PutOperation(pool)
        operation.add(self.codec, extent, view)
        return operation if self.start(operation) else None

    def get(self, pool: PoolCore, obj: int, index: int, pages: int = 1) -> "Reading":
        return Reading(self, pool, obj, index, pages)

    def flush(self, pool: PoolCore, obj: int, index: int, pages: int = 1) -> FlushOperation | None:
        operation = FlushOperation(pool)
        operation.add(Extent(obj, index, pages))
        return operation if self.start(operation) else None

    def flush_object(self, pool: PoolCore, obj: int) -> FlushObjectOperation | None:
        operation = FlushObjectOperation(pool, obj)
        return operation if self.start(operation) else None

    def ack(self, pool: PoolCore, result: GetResult) -> FlushOperation | None:
        operation = acknowledgement(pool, [result])
        return operation if operation is not None and self.start(operation) else None

    # ---- The network ----

    def _send(self, messages: list[bytes]) -> None:
        if messages:
            assert self.stream is not None
            self.stream.to_server.extend(messages)

    def connect(self) -> None:
        assert self.stream is None
        self.stream = PureStream(self.server)
        self.stream.to_server.append(self.core.opening())

    def disconnect(self) -> None:
        """Breaks the stream: whatever is on its way is lost."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.cut = True
            stream.conversation.end(stream, goodbye=False)  # type: ignore[arg-type]
            self.core.broken()

    def deliver_to_client(self) -> None:
        assert self.stream is not None
        response, _ = decode_answer(self.stream.to_client.popleft())
        if isinstance(response, _ANSWERS):
            operation = self.core.match(response)
            if operation is not None:
                operation.decode(response, self.codec)
                self._send(self.core.finish(operation))
        else:
            messages, _ = self.core.control(response)
            self._send(messages)

    def heartbeat(self) -> None:
        self._send([self.core.heartbeat()])

    def settle(self, rounds: int = 1000) -> None:
        """Delivers everything, both ways, until nothing is on its way."""
        if self.stream is None:
            self.connect()
        stream = self.stream
        assert stream is not None
        for _ in range(rounds):
            if stream.to_server:
                stream.deliver_to_server()
            elif stream.to_client:
                self.deliver_to_client()
            else:
                return
        raise AssertionError("the network does not fall silent")


class Reading:
    """One get, started at once."""

    def __init__(self, client: PureClient, pool: PoolCore, obj: int, index: int, pages: int) -> None:
        self.buffer = bytearray(b"\xee" * pages * PAGE)
        extent, view = buffer_extent(obj, index, self.buffer, writable=True)
        self.operation = GetOperation(pool)
        self.result = self.operation.add(extent, view, take=pool.takes(None))
        self.started = True
        if self.operation.pages:
            self.started = client.start(self.operation)
        else:
            self.operation.finish_locally()

    @property
    def codes(self) -> list[Any]:
        return self.result.pages

    def page(self, number: int = 0) -> bytes:
        return bytes(self.buffer[number * PAGE : (number + 1) * PAGE])
