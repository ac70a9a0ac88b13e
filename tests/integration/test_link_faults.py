"""A link beside servers that hang, vanish and come back, and connections that break."""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faces import drive
from tests.links import Told, drive_until
from tests.pages import PAGE, extent, mixed_page, random_page, text_page
from tests.proxy import Proxy
from tests.waiting import wait_until

import tmem.client.link
from tmem.client.link.connection import Connection
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

A, B, C = text_page(1), text_page(2), random_page(3)
Names = Callable[[], str]
Start = Callable[..., CaptiveDaemon]
Link = tmem.client.link.Client
Pool = tmem.client.link.Pool


@pytest.fixture
def link(daemon: CaptiveDaemon) -> Iterator[Link]:
    with tmem.client.link.connect(daemon.target) as connected:
        yield connected


@pytest.fixture
def pool(link: Link, pool_name: Names) -> Pool:
    return link.create_pool(pool_name())


class TestDeadlines:
    def test_a_server_that_hangs_costs_each_its_deadline_and_late_answers_touch_nothing(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon()
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            told = Told()
            buffer = bytearray(b"\xee" * PAGE)
            daemon.signal(signal.SIGSTOP)
            try:
                get = pool.submit_get_into(7, 0, buffer, told, timeout=0.3)
                put = pool.submit_put(7, 1, B, told, timeout=0.3)
                again = pool.submit_put(7, 1, C, told, timeout=0.5)  # its page is taken
                timer = link.next_timer()
                assert timer is not None
                assert timer - time.monotonic() <= 0.3
                drive_until(link, lambda: len(told) == 3)
                assert all(isinstance(result.error, errors.DeadlineExceeded) for result in (get, put, again))
                assert told.results == [get, put, again]
            finally:
                daemon.signal(signal.SIGCONT)
            # The late answers come, the floor settles what was given up, and the page is free again.
            put = pool.submit_put(7, 1, A, told, timeout=20)
            drive_until(link, lambda: put.done)
            assert put.stored
            assert buffer == b"\xee" * PAGE
            assert len(told) == 4
            assert link.counters.reconnects == 0

    def test_answers_that_come_while_it_says_goodbye_make_it_say_nothing_more(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        """Late ones of writes whose end is not known ask for a heartbeat; the stream is half closed by then."""
        daemon = start_daemon()
        link = tmem.client.link.connect(daemon.target)
        pool = link.create_pool(pool_name())
        pool.put(7, 0, A)
        told = Told()
        daemon.signal(signal.SIGSTOP)
        try:
            for index in range(4):
                pool.submit_put(7, index, B, told, timeout=0.2)
            drive_until(link, lambda: len(told) == 4)
        finally:
            daemon.signal(signal.SIGCONT)
        link.close()
        assert link.counters.messages_received > 0

    def test_while_the_server_is_away_it_is_unavailable(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon()
        with tmem.client.link.connect(daemon.target, read_timeout=0.6, write_timeout=0.4) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            daemon.kill()
            told = Told()
            results = [pool.submit_get_into(7, 0, bytearray(PAGE), told), pool.submit_put(7, 1, B, told)]
            drive_until(link, lambda: len(told) == 2)
            for result in results:
                assert isinstance(result.error, errors.Unavailable)
                assert "can't be reached" in str(result.error)
            start_daemon(listen=daemon.target)
            last = pool.submit_put(7, 1, B, told, timeout=30)
            drive_until(link, lambda: last.done)
            assert last.stored

    def test_time_outs_of_any_length_leave_nothing_behind(self, link: Link, pool: Pool) -> None:
        told = Told()
        for number in range(200):
            pool.submit_put(7, number, A, told, timeout=10 + number / 7)
            drive_until(link, lambda number=number: len(told) == number + 1)  # type: ignore[misc]
        assert len(link._link._deadlines._groups) <= 2
        assert link._link._deadlines.first() is None


class TestBrokenConnections:
    @pytest.mark.parametrize("daemon", ["uvloop"], indirect=True)
    @pytest.mark.parametrize("cut_after", [1, 9, 60, 200, 5_000, 50_000, 150_000, 400_000, 700_000, 1_000_000])
    @pytest.mark.parametrize("downstream", [False, True], ids=["up", "down"])
    def test_submitted_work_is_done_once_wherever_the_connection_breaks(
        self, daemon: CaptiveDaemon, pool_name: Names, cut_after: int, downstream: bool
    ) -> None:
        """Ten points of a batch's life, each way: all is told once, and the state is as if nothing had happened."""
        blocks = [b"".join(random_page(100 * block + number) for number in range(64)) for block in range(5)]
        with Proxy(daemon.target) as proxy, tmem.client.link.connect(proxy.target) as link:
            pool = link.create_pool(pool_name())
            for number, block in enumerate(blocks):
                pool.put(7, number * 512, block)
            told = Told()
            buffers = [bytearray(len(block)) for block in blocks]
            proxy.cut_after(cut_after, downstream=downstream)
            for number, block in enumerate(blocks):
                pool.submit_put(8, number * 512, block, told)
                pool.submit_get_into(7, number * 512, buffers[number], told)
            pool.submit_flush(7, 4 * 512, 64, told)
            drive_until(link, lambda: len(told) == 11)
            proxy.restore()

            assert all(result.stored for result in told.results if isinstance(result, tmem.client.PutResult))
            assert pool.stat().pages == 4 * 64 + 5 * 64
            for number, block in enumerate(blocks):
                buffer = bytearray(len(block))
                assert pool.get_into(8, number * 512, buffer).hit
                assert buffer == block
                assert buffers[number] == block or (number == 4 and buffers[number] == bytes(len(block)))

    def test_a_half_open_connection_is_given_up_for_another(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon("--heartbeat-interval-seconds", "0.2", "--session-timeout-seconds", "30")
        with Proxy(daemon.target) as proxy, tmem.client.link.connect(proxy.target) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            generation = link.generation
            proxy.swallow()
            told = Told()
            buffer = bytearray(PAGE)
            pool.submit_get_into(7, 0, buffer, told, timeout=20)
            drive_until(link, lambda: told.results)
            assert buffer == A
            assert link.generation == generation + 1

    def test_however_long_its_server_is_away_it_looks_for_it_every_two_seconds(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon()
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            daemon.kill()
            told = Told()
            pool.submit_put(7, 1, B, told, timeout=60)
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                drive(link, 0.2)
                timer = link.next_timer()
                assert timer is not None
                assert timer - time.monotonic() <= 2.0
            start_daemon(listen=daemon.target)
            drive_until(link, lambda: told.results)
            assert told.results[0].stored

    def test_an_idle_link_stays_alive_by_its_heartbeats(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon("--heartbeat-interval-seconds", "0.1", "--session-timeout-seconds", "0.5")
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            until = time.monotonic() + 1.5
            drive_until(link, lambda: time.monotonic() > until)
            assert link.counters.reconnects == 0
            assert not next(info for info in link.pools() if info.name == pool.name).parked

    def test_one_that_nobody_drives_loses_its_session_and_goes_on_all_the_same(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon("--heartbeat-interval-seconds", "0.1", "--session-timeout-seconds", "0.5")
        with tmem.client.link.connect(daemon.target) as link, tmem.client.connect(daemon.target) as other:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            wait_until(lambda: next(info for info in other.pools() if info.name == pool.name).parked)
            buffer = bytearray(PAGE)
            assert pool.get_into(7, 0, buffer).hit
            assert buffer == A
            assert pool.put(7, 1, B).stored
            assert link.counters.reconnects == 1

    def test_a_long_listing_does_not_hold_up_the_heartbeat(self, start_daemon: Start, pool_name: Names) -> None:
        """A call that answers many messages and the session are on one connection."""
        daemon = start_daemon("--heartbeat-interval-seconds", "0.1", "--session-timeout-seconds", "0.6")
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            with pool.batch() as batch:
                for block in range(64):
                    batch.put(7, block * 512, bytes(extent(block, 64)))
            begun = time.monotonic()
            parts = 0
            for _, sent, total in link.export_pool(pool.pool_id):
                parts += 1
                # Whoever takes his time with a part: what comes meanwhile waits for credit, and the link is driven on.
                until = time.monotonic() + 0.2
                drive_until(link, lambda until=until: time.monotonic() > until)  # type: ignore[misc]
                last = (sent, total)
                if time.monotonic() - begun > 2:
                    break
            assert parts > 1
            assert last[0] <= last[1] == 64 * 64
            assert link.counters.reconnects == 0
            assert pool.put(7, 0, A).stored


class Agent:
    """Random work on 200 pages, 64 operations in flight; every answer must be what the page then was."""

    def __init__(self, link: tmem.client.link.Client, pool: tmem.client.link.Pool) -> None:
        self._link = link
        self._pool = pool
        self._pages = [(text_page, random_page, mixed_page)[number % 3](number) for number in range(40)]
        self._numbers = itertools.count()
        self._busy: set[int] = set()
        self.held: dict[int, bytes | None] = dict.fromkeys(range(200))
        self.wrong: list[Any] = []
        self.finished = 0

    def work(self, count: int, disturb: Callable[[int], None]) -> None:
        """So many operations; `disturb` is called by every turn of the loop."""
        for turn in itertools.count():
            while len(self._busy) < 64 and self.finished < count:
                self._begin()
            disturb(turn)
            drive(self._link, 0.2)
            if self.finished >= count and not self._busy:
                return

    def _begin(self) -> None:
        number = next(self._numbers)
        index = number * 37 % 200
        if index in self._busy:
            return
        self._busy.add(index)
        kind = number % 7
        if kind < 3:
            page = self._pages[number % 40]
            self._pool.submit_put(7, index, page, lambda result: self._end(index, result.stored, result, page))
        elif kind == 3:
            self._pool.submit_flush(
                7, index, 1, lambda results: self._end(index, not any(r.error for r in results), results, None)
            )
        else:
            buffer = bytearray(PAGE)
            expected = self.held[index]

            def check(result: Any) -> None:
                good = result.miss if expected is None else result.hit and buffer == expected
                self._end(index, good, result, expected)

            self._pool.submit_get_into(7, index, buffer, check)

    def _end(self, index: int, good: bool, result: Any, page: bytes | None) -> None:
        self.finished += 1
        self._busy.discard(index)
        self.held[index] = page
        if not good:
            self.wrong.append((index, result))


def test_an_agents_loop_with_everything_at_once(daemon: CaptiveDaemon, pool_name: Names) -> None:
    with Proxy(daemon.target) as proxy, tmem.client.link.connect(proxy.target, window_batches=32) as link:
        pool = link.create_pool(pool_name())
        agent = Agent(link, pool)

        def cut(turn: int) -> None:
            if turn % 400 == 399:
                proxy.cut_after(20_000 + turn, downstream=turn % 800 == 399)

        agent.work(6000, cut)
        proxy.restore()

        assert not agent.wrong
        assert pool.stat().pages == sum(page is not None for page in agent.held.values())
        assert link.counters.reconnects > 0


@pytest.mark.parametrize("method", ["receive", "flush"])
def test_an_interrupt_between_the_socket_and_the_note_of_it_costs_the_connection_and_nothing_else(
    daemon: CaptiveDaemon, pool_name: Names, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Or bytes would be missing from the stream, or be in it twice."""
    with tmem.client.link.connect(daemon.target) as link:
        pool = link.create_pool(pool_name())
        pool.put(7, 0, A)
        told = Told()
        pool.submit_put(7, 1, B, told)
        original = getattr(Connection, method)

        def interrupted(self: Connection, **options: Any) -> Any:
            original(self, **options)
            raise KeyboardInterrupt

        buffer = bytearray(PAGE)
        with monkeypatch.context() as patch:
            patch.setattr(Connection, method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.get_into(7, 0, buffer)
        drive_until(link, lambda: told.results)
        assert told.results[0].stored
        assert link.counters.reconnects == 1
        assert pool.get_into(7, 0, buffer).hit
        assert buffer == A


@pytest.mark.long
def test_a_long_life_with_many_cuts_and_hangs_takes_no_more_and_more(start_daemon: Start, pool_name: Names) -> None:
    """Memory and descriptors, after 400 reconnects and 300 000 operations."""
    daemon = start_daemon()
    with Proxy(daemon.target) as proxy, tmem.client.link.connect(proxy.target, window_batches=32) as link:
        pool = link.create_pool(pool_name())
        agent = Agent(link, pool)

        def disturb(turn: int) -> None:
            if turn % 200 == 199:
                proxy.cut_after(20_000 + turn % 100_000, downstream=turn % 400 == 199)

        agent.work(60_000, disturb)
        begun = resident(), descriptors()
        agent.work(300_000, disturb)
        ended = resident(), descriptors()

        assert not agent.wrong
        assert link.counters.reconnects > 100
        assert ended[0] - begun[0] < 8 << 20
        assert ended[1] <= begun[1] + 2
        assert link.waiting == 0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_do_not_leak_over_reconnects(start_daemon: Start, pool_name: Names) -> None:
    daemon = start_daemon()
    with Proxy(daemon.target) as proxy, tmem.client.link.connect(proxy.target) as link:
        pool = link.create_pool(pool_name())
        pool.put(7, 0, A)
        before = descriptors()
        for _ in range(10):
            proxy.cut_after(1)
            assert pool.put(7, 0, B).stored
        drive(link, 0.0)
        assert link.generation >= 10
        # The proxy's own two of the last connection are among those before.
        assert descriptors() <= before + 1
