"""Client cores and a whole pure server in one thread, over a network and a clock that a seed drives.

Owns: `Simulation`, one scenario: several clients, their streams and unary calls, and what befalls them: messages delayed, answers in any order, unary
calls dropped, sent twice or delivered long after their time, streams cut on one side or both, operations given up, pools frozen, resized,
taken over, evicted from, cleaned, and the server started anew with nothing. Every operation is recorded and the history is held against the model.

Nothing waits: a scenario is a list of steps, the same each time for a seed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.pages import PAGE
from tests.sim import PureClient, PureServer, PureStream, Reading

from tmem.cli.torture.history import Action, Finding, History, Operation, Outcome, Seen, check
from tmem.cli.torture.load import Recorder, outcome_of, page_of, stamp_of
from tmem.client._core.operations import FlushObjectOperation, FlushOperation, PutOperation
from tmem.client._core.operations import Operation as CoreOperation
from tmem.client._core.pool import PoolCore
from tmem.client._core.results import GetResult
from tmem.client._core.unary import UnaryGet, UnaryPut
from tmem.server.rpc.pages import PagesHandlers
from tmem.wire.errors import NoSuchPool, Stale, TmemError
from tmem.wire.handles import Extent
from tmem.wire.results import Code, PoolKind

OBJECTS, FIRST, PAGES = 2, 504, 16
NO_INFORMATION = {Code.MISS: Seen.MISS, Code.LOST: Seen.LOST, Code.CORRUPT: Seen.CORRUPT, Code.REFUSED: Seen.REFUSED}


@dataclass(eq=False)
class Pending:
    """A batch that is not answered yet."""

    client: "Party"
    core: CoreOperation
    record: Operation
    reading: Reading | None = None
    get: GetResult | None = None


@dataclass(eq=False)
class Datagram:
    """A unary call on its way; there may be several copies of it.

    Attributes:
        done: its caller has an answer, or has given it up.
    """

    client: "Party"
    call: Any
    record: Operation
    data: bytes
    buffer: bytearray
    done: bool = False


class Party:
    """One client with its pools."""

    def __init__(self, simulation: "Simulation", number: int) -> None:
        self.name = f"client{number}"
        self.client = PureClient(simulation.server, window_batches=simulation.chance.choice((4, 64)))
        self.kept = self.client.create_pool(f"kept{number}", PoolKind.PERSISTENT)
        self.cache = self.client.create_pool(f"cache{number}", PoolKind.EPHEMERAL)
        self.zombies: list[PureStream] = []
        self.taken: list[tuple[PoolCore, Operation, GetResult]] = []
        self.client.connect()


class Simulation:
    """One scenario.

    Args:
        seed: of everything in it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.server = PureServer(self.chance, memory_limit=1 << 20)
        self.recorder = Recorder()
        self.stamps = 0
        self.pending: list[Pending] = []
        self.datagrams: list[Datagram] = []
        self.parties = [Party(self, number) for number in range(2)]

    # ---- Steps ----

    def run(self, steps: int) -> list[Finding]:
        """Carries the scenario out; answers what can't be."""
        for _ in range(steps):
            self.step()
        self.calm()
        return check(self.history())

    def history(self) -> History:
        ephemeral = frozenset(f"cache{number}" for number in range(len(self.parties)))
        return History(self.recorder.operations, ephemeral)

    def step(self) -> None:
        chance = self.chance
        party = chance.choice(self.parties)
        actions: tuple[tuple[int, Callable[[Party], None]], ...] = (
            (14, self.put),
            (12, self.get),
            (3, self.take),
            (3, self.acknowledge),
            (4, self.flush),
            (1, self.flush_object),
            (3, self.unary_put),
            (3, self.unary_get),
            (34, self.deliver),
            (8, self.deliver_datagram),
            (2, self.drop_datagram),
            (3, self.give_up),
            (3, self.cut),
            (4, self.connect),
            (2, self.heartbeat),
            (2, self.operate),
            (2, self.evict),
            (2, self.clean),
        )
        if chance.random() < 0.004:
            self.lose_memory()
            return
        chance.choices([action for _, action in actions], [weight for weight, _ in actions])[0](party)
        self.collect()

    def _place(self, party: Party) -> tuple[PoolCore, int, int, int]:
        chance = self.chance
        pool = party.kept if chance.random() < 0.6 else party.cache
        first = FIRST + chance.randrange(PAGES)
        pages = min(chance.choice((1, 1, 2, 4, 9)), 512 - first % 512, FIRST + PAGES - first)
        return pool, chance.randrange(OBJECTS), first, pages

    def _stamps(self, pages: int) -> list[int]:
        self.stamps += pages
        return [(self.seed + 1) * 10_000_000 + self.stamps - number for number in range(pages)]

    def _begin(
        self, party: Party, pool: PoolCore, action: Action, place: tuple[int, int, int], values: Any
    ) -> Operation:
        return self.recorder.begin(party.name, pool.name, action, *place, values)

    def _submit(self, pending: Pending) -> None:
        """Sends an operation if it may be; else it was never asked."""
        try:
            started = pending.client.client.start(pending.core) if pending.reading is None else pending.reading.started
        except TmemError as error:
            self.recorder.end(pending.record, outcome_of(error))
            pending.record.values = pending.record.values or [Seen.REFUSED] * pending.record.pages
            return
        if started:
            self.pending.append(pending)
        else:
            self.recorder.operations.remove(pending.record)

    def put(self, party: Party) -> None:
        pool, obj, first, pages = self._place(party)
        stamps = self._stamps(pages)
        plain = b"".join(map(page_of, stamps))
        operation = PutOperation(pool)
        operation.add(party.client.codec, Extent(obj, first, pages), memoryview(plain))
        record = self._begin(party, pool, Action.PUT, (obj, first, pages), stamps)
        self._submit(Pending(party, operation, record))

    def get(self, party: Party) -> None:
        pool, obj, first, pages = self._place(party)
        record = self._begin(party, pool, Action.GET, (obj, first, pages), [])
        try:
            reading = party.client.get(pool, obj, first, pages)
        except TmemError:
            self.recorder.operations.remove(record)
            return
        if reading.result.done:  # the presence map knew
            self._read(record, reading)
            return
        self._submit(Pending(party, reading.operation, record, reading))

    def take(self, party: Party) -> None:
        pool, obj, first, pages = self._place(party)
        record = self._begin(party, pool, Action.GET, (obj, first, pages), [])
        try:
            reading = party.client.get(pool, obj, first, pages)
        except TmemError:
            self.recorder.operations.remove(record)
            return
        if reading.result.done:
            self._read(record, reading)
            return
        self._submit(Pending(party, reading.operation, record, reading, reading.result))

    def acknowledge(self, party: Party) -> None:
        from tmem.client._core.face import acknowledgement

        if not party.taken:
            return
        pool, read, result = party.taken.pop(self.chance.randrange(len(party.taken)))
        operation = acknowledgement(pool, [result])
        if operation is not None:
            place = (read.obj, read.first, read.pages)
            self._submit(Pending(party, operation, self._begin(party, pool, Action.ACK, place, read.values)))

    def flush(self, party: Party) -> None:
        pool, obj, first, pages = self._place(party)
        extent = Extent(obj, first, pages)
        record = self._begin(party, pool, Action.FLUSH, (obj, first, pages), ())
        if pool.known_absent(extent):
            self.recorder.end(record, Outcome.DONE)
            return
        operation = FlushOperation(pool)
        operation.add(extent)
        self._submit(Pending(party, operation, record))

    def flush_object(self, party: Party) -> None:
        pool, obj, _, _ = self._place(party)
        record = self._begin(party, pool, Action.FLUSH, (obj, FIRST, PAGES), ())
        if pool.knows_nothing_of(obj):
            self.recorder.end(record, Outcome.DONE)
            return
        self._submit(Pending(party, FlushObjectOperation(pool, obj), record))

    # ---- Unary calls: datagrams ----

    def unary_put(self, party: Party) -> None:
        pool, obj, first, _ = self._place(party)
        (stamp,) = self._stamps(1)
        call = UnaryPut(pool, Extent(obj, first, 1), memoryview(page_of(stamp)), party.client.codec)
        if pool.error is not None or not call.start():
            return
        record = self._begin(party, pool, Action.PUT, (obj, first, 1), [stamp])
        self.datagrams.append(Datagram(party, call, record, call.request(), bytearray()))

    def unary_get(self, party: Party) -> None:
        pool, obj, first, _ = self._place(party)
        buffer = bytearray(PAGE)
        call = UnaryGet(pool, Extent(obj, first, 1), memoryview(buffer), take=False)
        if pool.error is not None:
            return
        record = self._begin(party, pool, Action.GET, (obj, first, 1), [])
        if not call.start():
            self._end_get(record, call.result, buffer)
            return
        self.datagrams.append(Datagram(party, call, record, call.request(), buffer))

    def deliver_datagram(self, party: Party) -> None:
        """One arrives, perhaps twice, perhaps long after it was given up; perhaps its answer is lost.

        No copy arrives after its caller had the answer: calls are not sent again by anybody.
        """
        if not self.datagrams:
            return
        datagram = self.chance.choice(self.datagrams)
        if not datagram.done and self.chance.random() < 0.2:
            self._answer_of(datagram)
        answer = self._answer_of(datagram)
        if datagram.done:
            self.datagrams.remove(datagram)
            return
        if self.chance.random() < 0.2:
            self._give_up_datagram(datagram)
            return
        self.datagrams.remove(datagram)
        datagram.done = True
        if isinstance(datagram.call, UnaryPut):
            datagram.call.take(answer)
            datagram.call.settle()
            assert not isinstance(datagram.call.result.error, Stale), datagram.record
            self.recorder.end(datagram.record, outcome_of(datagram.call.result.error))
        else:
            datagram.call.take(answer, datagram.client.client.codec)
            datagram.call.settle()
            self._end_get(datagram.record, datagram.call.result, datagram.buffer)

    def _answer_of(self, datagram: Datagram) -> bytes:
        handlers = PagesHandlers(self.server.service)
        function = handlers.put if isinstance(datagram.call, UnaryPut) else handlers.get
        answering = function(self.server.tenant, datagram.data)
        try:
            answering.send(None)
        except StopIteration as answered:
            answer: bytes = answered.value
            return answer
        raise AssertionError("a pure store answers at once")

    def drop_datagram(self, party: Party) -> None:
        if self.datagrams:
            datagram = self.chance.choice(self.datagrams)
            self._give_up_datagram(datagram)
            if self.chance.random() < 0.5:
                self.datagrams.remove(datagram)  # else it arrives long after its time

    def _give_up_datagram(self, datagram: Datagram) -> None:
        if datagram.done:
            return
        datagram.done = True
        datagram.record.values = datagram.record.values or [Seen.REFUSED]
        self.recorder.end(datagram.record, Outcome.UNKNOWN)
        datagram.call.settle()

    # ---- The network ----

    def deliver(self, party: Party) -> None:
        """Some messages of one side arrive: in order to the server, in any order to the client."""
        stream = party.client.stream
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            zombies = [zombie for zombie in party.zombies if zombie.to_server]
            if zombies and self.chance.random() < 0.3:
                self.chance.choice(zombies).deliver_to_server()
            elif stream is not None and stream.to_server and self.chance.random() < 0.5:
                stream.deliver_to_server()
            elif stream is not None and stream.to_client:
                if party.client.core.open:
                    stream.to_client.rotate(self.chance.randrange(len(stream.to_client)))
                party.client.deliver_to_client()

    def cut(self, party: Party) -> None:
        """The stream breaks: at both ends, or the server does not know it yet and goes on reading what was sent."""
        stream = party.client.stream
        if stream is None:
            return
        if self.chance.random() < 0.5:
            party.client.disconnect()
            return
        party.client.stream = None
        party.client.core.broken()
        if stream.conversation.session is not None:
            party.zombies.append(stream)

    def connect(self, party: Party) -> None:
        if party.client.stream is None:
            party.client.connect()

    def heartbeat(self, party: Party) -> None:
        if party.client.core.open:
            party.client.heartbeat()
            self.send_owed(party)

    def send_owed(self, party: Party) -> None:
        while (owed := party.client.core.next_owed()) is not None:
            if not party.client.start(owed):
                party.client.core.owe_again(owed)
                return

    def give_up(self, party: Party) -> None:
        mine = [pending for pending in self.pending if pending.client is party]
        if mine:
            party.client.core.give_up(self.chance.choice(mine).core)

    # ---- The server ----

    def operate(self, party: Party) -> None:
        try:
            pool = self.server.service.lifecycle.table.owned("local", party.kept.pool_id)
        except NoSuchPool:
            return  # lost, and not made again yet
        pool.frozen = not pool.frozen if self.chance.random() < 0.5 else False
        pool.policy.quota_bytes = self.chance.choice((0, 0, 0, 1, 30_000))

    def evict(self, party: Party) -> None:
        keys = [pool.key for pool in self.server.service.lifecycle.table if pool.policy.ephemeral]
        self.server.store.reclaim(keys, self.chance.choice((1, 10_000, 1 << 20)))

    def clean(self, party: Party) -> None:
        for _ in range(self.chance.randrange(20)):
            self.server.store.step()

    def lose_memory(self) -> None:
        """The server starts anew, with nothing."""
        over = self.recorder.loss()
        for party in self.parties:
            party.client.disconnect()
            for zombie in party.zombies:
                zombie.cut = True
            party.zombies.clear()
        # A call fails with its connection, and no copy of it reaches another server.
        for datagram in self.datagrams:
            self._give_up_datagram(datagram)
        self.datagrams.clear()
        self.server.restart()
        over()

    # ---- What became of it ----

    def collect(self) -> None:
        """Notes what has been answered, or failed."""
        for pending in [pending for pending in self.pending if pending.core.done]:
            self.pending.remove(pending)
            record = pending.record
            if pending.reading is not None:
                self._read(record, pending.reading)
                if pending.get is not None and any(value > 0 for value in record.values):
                    assert pending.core.pool is not None
                    pending.client.taken.append((pending.core.pool, record, pending.get))
                continue
            error = pending.core.results[0].error
            # Whoever waits for an answer has not settled the write, and nobody else writes here: it is never too late.
            assert not isinstance(error, Stale), record
            outcome = outcome_of(error)
            if record.action != Action.PUT and outcome == Outcome.REFUSED:
                outcome = Outcome.UNKNOWN
            self.recorder.end(record, outcome)

    def _read(self, record: Operation, reading: Reading) -> None:
        self._end_get(record, reading.result, reading.buffer)

    def _end_get(self, record: Operation, result: GetResult, buffer: bytearray) -> None:
        blank = b"\xee" * PAGE if buffer[:1] == b"\xee" or len(buffer) > PAGE else b""
        values = []
        for number, code in enumerate(result.pages):
            page = bytes(buffer[number * PAGE : (number + 1) * PAGE])
            if result.error is not None and code == Code.UNSPECIFIED:
                values.append(Seen.REFUSED)
            elif code == Code.HIT:
                values.append(stamp_of(page))
            else:
                clean = page in {blank, bytes(PAGE), b"\xee" * PAGE}
                values.append(NO_INFORMATION.get(code, Seen.OTHER) if clean else Seen.OTHER)
        record.values = values
        self.recorder.end(record, Outcome.DONE if result.error is None else outcome_of(result.error))

    def calm(self) -> None:
        """Everything arrives that is on its way, and every page is read once more."""
        for datagram in self.datagrams:
            self._give_up_datagram(datagram)
        for party in self.parties:
            for zombie in party.zombies:
                zombie.cut = True
            for _ in range(4):
                party.client.settle()
                if party.client.core.open:
                    party.client.heartbeat()
                    self.send_owed(party)
        self.collect()
        assert not self.pending, self.pending
        for party in self.parties:
            for pool in (party.kept, party.cache):
                for obj in range(OBJECTS):
                    for first, pages in ((FIRST, 512 - FIRST), (512, PAGES - 512 + FIRST)):
                        record = self._begin(party, pool, Action.GET, (obj, first, pages), [])
                        reading = party.client.get(pool, obj, first, pages)
                        assert reading.started
                        party.client.settle()
                        self._read(record, reading)
        self.check_accounts()

    def check_accounts(self) -> None:
        """What the server counts adds up."""
        for pool in self.server.service.lifecycle.table:
            counters, counts = pool.counters, self.server.store.counts(pool.key)
            held = counters.puts_stored - counters.puts_replaced - counters.puts_dropped - counters.flushes_found
            held -= counters.object_flush_pages + counts.evicted + counters.left
            assert counts.pages == held, pool.name
            assert counters.puts == counters.puts_stored + sum(counters.puts_refused.values()), pool.name
            failed = counters.gets_lost + counters.gets_corrupt + sum(counters.gets_refused.values())
            assert counters.gets == counters.gets_hit + counters.gets_missed + failed, pool.name
