"""What only a link has: work that is submitted and pumped, a descriptor, one thread."""

import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.links import Told, drive_until
from tests.pages import PAGE, extent, mixed_page, random_page, text_page

import tmem.client.link
from tmem.client import Code
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


class TestSubmittedWork:
    def test_it_is_done_by_pump_and_told_once(self, link: Link, pool: Pool) -> None:
        told = Told()
        buffer = bytearray(PAGE)
        put = pool.submit_put(7, 0, A, told)
        assert not put.done
        assert not told.results
        drive_until(link, lambda: put.done)
        got = pool.submit_get_into(7, 0, buffer, told)
        drive_until(link, lambda: got.done)
        flushed = pool.submit_flush(7, 0, 1, told)
        drive_until(link, lambda: len(told) == 3)
        for _ in range(3):
            link.pump()

        assert told.results == [put, got, flushed]
        assert put.stored
        assert got.hit
        assert buffer == A
        assert [result.found for result in flushed] == [1]

    def test_what_nobody_has_to_be_asked_is_told_at_once(self, link: Link, pool: Pool) -> None:
        pool.put(9, 0, A)
        sent = link.counters.messages_sent
        told = Told()
        pool.submit_get_into(7, 0, bytearray(PAGE), told)
        pool.submit_gets([(7, 0, bytearray(PAGE)), (7, 9, bytearray(2 * PAGE))], told)
        pool.submit_flush(7, 0, 5000, told)
        pool.submit_flush_object(7, told)
        pool.submit_puts([], told)

        assert len(told) == 5
        assert told.results[0].miss
        assert [result.miss for result in told.results[1]] == [True, True]
        assert told.results[2:] == [[], [], []]
        assert link.counters.messages_sent == sent

    def test_many_extents_are_one_message_and_one_answer(self, link: Link, pool: Pool) -> None:
        pool.put(9, 0, A)
        told = Told()
        sent, received = link.counters.messages_sent, link.counters.messages_received
        puts = pool.submit_puts([(7, 3, A), (7, 600, B + C), (8, 0, C)], told)
        drive_until(link, lambda: len(told) == 1)
        buffers = [bytearray(PAGE), bytearray(2 * PAGE), bytearray(PAGE), bytearray(PAGE)]
        places = [(7, 3), (7, 600), (8, 0), (8, 1)]
        gets = pool.submit_gets([(*place, buffer) for place, buffer in zip(places, buffers, strict=True)], told)
        drive_until(link, lambda: len(told) == 2)

        assert told.results == [puts, gets]
        assert all(result.stored for result in puts)
        assert [result.pages for result in gets] == [[Code.HIT], [Code.HIT] * 2, [Code.HIT], [Code.MISS]]
        assert buffers == [A, B + C, C, bytes(PAGE)]
        assert (link.counters.messages_sent - sent, link.counters.messages_received - received) == (2, 2)

    def test_more_than_one_message_carries_is_refused(self, pool: Pool) -> None:
        big = bytes(extent(0, 512))
        pool.put(7, 0, big)
        pool.put(8, 0, A)
        for submit in (pool.submit_puts, pool.submit_gets):
            with pytest.raises(errors.InvalidBuffer, match="512"):
                submit([(7, 0, bytearray(big)), (8, 0, bytearray(PAGE))], print)

    def test_what_can_not_be_submitted_raises_and_nobody_is_told(self, link: Link, pool: Pool) -> None:
        told = Told()
        for call in (
            lambda: pool.submit_put(7, 2**32, A, told),
            lambda: pool.submit_put(7, 0, b"short", told),
            lambda: pool.submit_get_into(7, 0, A, told),
            lambda: pool.submit_flush(7, 0, 0, told),
        ):
            with pytest.raises(errors.LocalError):
                call()
        link.pump()
        assert not told.results

    def test_refusals_are_results(self, link: Link, pool_name: Names) -> None:
        pool = link.create_pool(pool_name(), quota_bytes=10_000)
        told = Told()
        good, bad = pool.submit_put(7, 0, A, told), pool.submit_put(7, 16, C + random_page(4) + random_page(5), told)
        drive_until(link, lambda: len(told) == 2)

        assert good.stored
        assert isinstance(bad.error, errors.QuotaExceeded)
        assert bad.reason == tmem.client.Reason.QUOTA

    @pytest.mark.parametrize("pages", [1, 20])
    def test_a_take_is_told_once_its_page_is_removed(self, link: Link, pool_name: Names, pages: int) -> None:
        pool = link.create_pool(pool_name(), kind="ephemeral")
        plain = bytes(extent(0, pages))
        pool.put(7, 0, plain)
        pool.put(8, 0, A)
        buffers = bytearray(len(plain)), bytearray(PAGE), bytearray(PAGE)
        told = Told()
        results = pool.submit_gets([(7, 0, buffers[0]), (8, 0, buffers[1]), (9, 0, buffers[2])], told)
        drive_until(link, lambda: told.results)

        assert [result.taken for result in results] == [True, True, True]
        assert buffers == (plain, A, bytes(PAGE))
        assert pool.stat().pages == 0

    def test_a_flush_over_many_blocks_is_told_once(self, link: Link, pool: Pool) -> None:
        with pool.batch() as batch:
            for block in range(600):
                batch.put(7, block * 512, A)
        told = Told()
        results = pool.submit_flush(7, 0, 600 * 512, told)
        drive_until(link, lambda: told.results)

        assert told.results == [results]
        assert sum(result.found for result in results) == 600
        assert len(results) == 600

    def test_flushes_of_many_ranges_are_one_message(self, link: Link, pool: Pool) -> None:
        pool.put(7, 0, bytes(extent(0, 64)))
        pool.put(8, 5, A)
        told = Told()
        sent = link.counters.messages_sent
        flushes = [*((7, page, 1) for page in range(0, 64, 2)), (8, 0, 16), (9, 0, 100)]
        results = pool.submit_flushes(flushes, told)
        drive_until(link, lambda: told.results)
        assert link.counters.messages_sent - sent == 1
        assert len(results) == 33  # of what was never stored nobody is asked
        assert sum(result.found for result in results) == 33
        buffer = bytearray(64 * PAGE)
        assert pool.get_into(7, 0, buffer).pages == [Code.MISS, Code.HIT] * 32
        pool.submit_flushes([(9, 0, 1)], told)
        assert told.results[1] == []
        pool.put(7, 0, bytes(extent(0, 512)))
        pool.put(8, 0, A)
        with pytest.raises(errors.InvalidHandle, match="512"):
            pool.submit_flushes([*((7, page, 1) for page in range(512)), (8, 0, 1)], told)

    def test_puts_are_gathered_one_by_one_and_go_by_one_message(self, link: Link, pool: Pool) -> None:
        told = Told()
        pool.put(1, 0, A)
        sent = link.counters.messages_sent
        noise = bytearray(random_page(9))
        puts = pool.gather_puts()
        first, second = puts.add(7, 0, A), puts.add(7, 1, noise)
        assert puts.has_room(510)
        assert not puts.has_room(511)
        puts.detach()
        noise[:] = bytes(PAGE)  # the caller's again
        third = puts.add(9, 600, B + C)
        assert link.counters.messages_sent == sent
        puts.submit(told)
        drive_until(link, lambda: told.results)
        assert told.results == [[first, second, third]]
        assert all(result.stored for result in told.results[0])
        assert link.counters.messages_sent - sent == 1
        buffer = bytearray(2 * PAGE)
        assert pool.get_into(7, 0, buffer).hit
        assert buffer == A + random_page(9)
        forgotten = pool.gather_puts()
        forgotten.add(7, 0, B)
        del forgotten  # one that is not submitted changes nothing
        pool.gather_puts().submit(told)
        assert told.results[1] == []
        assert pool.get_into(7, 0, buffer).hit
        assert buffer[:PAGE] == A


class TestOrder:
    @pytest.fixture
    def narrow(self, daemon: CaptiveDaemon) -> Iterator[Link]:
        """Four batches of credit, of which three are for writes."""
        with tmem.client.link.connect(daemon.target, window_batches=4) as connected:
            yield connected

    def test_the_buffer_of_a_put_that_waits_is_the_callers_again(self, narrow: Link, pool_name: Names) -> None:
        pool = narrow.create_pool(pool_name())
        pages = [(random_page, text_page, mixed_page)[number % 3](number) for number in range(60)]
        buffer = bytearray(PAGE)
        told = Told()
        for number, page in enumerate(pages):
            buffer[:] = page
            pool.submit_put(7, number, buffer, told)
        buffer[:] = bytes(PAGE)
        drive_until(narrow, lambda: len(told) == len(pages))

        assert all(result.stored for result in told.results)
        for number, page in enumerate(pages):
            assert pool.get_into(7, number, buffer).hit
            assert buffer == page, number
        # Those that did not compress and had to wait were copied, and that was counted.
        assert 0 < narrow.counters.copies.put_pages <= 20

    def test_a_get_does_not_wait_behind_writes_that_wait(self, narrow: Link, pool_name: Names) -> None:
        pool = narrow.create_pool(pool_name())
        pool.put(8, 0, A)
        order: list[str] = []
        for number in range(40):
            pool.submit_put(7, number, B, lambda _: order.append("put"))
        pool.submit_get_into(8, 0, bytearray(PAGE), lambda _: order.append("get"))
        drive_until(narrow, lambda: len(order) == 41)

        assert order.index("get") < 8

    def test_gets_that_wait_go_before_writes_that_wait(self, narrow: Link, pool_name: Names) -> None:
        pool = narrow.create_pool(pool_name())
        pool.put(8, 0, bytes(extent(0, 20)))
        order: list[str] = []
        for number in range(20):
            pool.submit_put(7, number, B, lambda _: order.append("put"))
        for number in range(20):
            pool.submit_get_into(8, number, bytearray(PAGE), lambda _: order.append("get"))
        drive_until(narrow, lambda: len(order) == 40)

        assert order[-8:] == ["put"] * 8

    def test_writes_of_one_page_take_effect_in_their_order(self, link: Link, pool: Pool) -> None:
        told = Told()
        order = [
            pool.submit_put(7, 0, A, told),
            pool.submit_put(7, 0, B, told),
            pool.submit_flush(7, 0, 1, told),
            pool.submit_put(7, 0, C, told),
        ]
        drive_until(link, lambda: len(told) == 3 + (told.results.count([]) or 1))
        buffer = bytearray(PAGE)

        assert pool.get_into(7, 0, buffer).hit
        assert buffer == C
        assert [result for result in told.results if result != []] == [result for result in order if result != []]

    def test_writes_of_other_pages_go_past_one_whose_page_is_taken(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon("--layer", "delayed:seconds=0.3")
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            order: list[str] = []
            pool.submit_put(7, 0, A, lambda _: order.append("first"))
            pool.submit_put(7, 0, B, lambda _: order.append("second"))
            pool.submit_put(7, 0, C, lambda _: order.append("third"))
            pool.submit_put(7, 1, A, lambda _: order.append("other"))
            pool.submit_flush_object(8, lambda _: order.append("nothing"))
            drive_until(link, lambda: len(order) == 5)
            buffer = bytearray(PAGE)

            assert order[0] == "nothing"
            assert order.index("other") < order.index("second") < order.index("third")
            assert pool.get_into(7, 0, buffer).hit
            assert buffer == C

    def test_a_flood_of_puts_leaves_room_for_a_get_on_its_way(self, link: Link, pool: Pool) -> None:
        """What is written but not sent is bounded, or a get would stand behind a window of puts in the socket."""
        block = b"".join(random_page(number) for number in range(256))
        pool.put(8, 0, A)
        told = Told()
        for number in range(16):
            pool.submit_put(7, number * 512, block, told)
        assert link._link.transport.unsent < 2 << 20
        drive_until(link, lambda: len(told) == 16)
        assert all(result.stored for result in told.results)


class TestDone:
    def test_one_that_raises_comes_out_of_pump_and_the_others_are_told(self, link: Link, pool: Pool) -> None:
        told = Told()

        def fail(result: Any) -> None:
            raise RuntimeError("mine")

        pool.submit_put(7, 0, A, fail)
        pool.submit_put(7, 1, B, told)
        with pytest.raises(RuntimeError, match="mine"):
            drive_until(link, lambda: False)
        drive_until(link, lambda: len(told) == 1)
        assert told.results[0].stored

    def test_one_that_tries_again_what_fails_at_once_is_called_once_by_each_pump(self, link: Link, pool: Pool) -> None:
        calls: list[Any] = []

        def again(result: Any) -> None:
            calls.append(result.error)
            pool.submit_put(7, 0, A, again)

        pool.destroy()
        pool.submit_put(7, 0, A, again)
        for number in range(1, 5):
            assert link.next_timer() == 0.0
            link.pump()
            assert len(calls) == number
        assert all(isinstance(error, errors.Closed) for error in calls)
        link.close()
        assert len(calls) == 5

    def test_one_may_submit_and_one_may_wait(self, link: Link, pool: Pool) -> None:
        buffer = bytearray(PAGE)
        told = Told()

        def then(result: Any) -> None:
            pool.put(7, 1, B)
            pool.get_into(7, 1, buffer)
            pool.submit_put(7, 2, C, told)

        for number in range(10):
            pool.submit_put(8, number, A, told)
        pool.submit_put(7, 0, A, then)
        drive_until(link, lambda: len(told) == 11)

        assert buffer == B
        assert all(result.stored for result in told.results)

    def test_a_blocking_form_tells_those_whose_answer_came_before(self, link: Link, pool: Pool) -> None:
        told = Told()
        pool.submit_put(7, 0, A, told)
        pool.flush(9, 0)
        pool.put(7, 1, B)
        assert len(told) == 1

    def test_closing_tells_everybody(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon()
        link = tmem.client.link.connect(daemon.target, window_batches=4)
        pool = link.create_pool(pool_name())
        pool.put(7, 0, A)
        daemon.signal(signal.SIGSTOP)
        told = Told()
        for number in range(10):
            pool.submit_put(7, number, B, told)
            pool.submit_get_into(7, 0, bytearray(PAGE), told)
        begun = time.monotonic()
        try:
            link.close()
        finally:
            daemon.signal(signal.SIGCONT)
        assert time.monotonic() - begun < 6
        assert len(told) == 20
        assert all(isinstance(result.error, errors.Closed) for result in told.results)
        late = pool.submit_put(7, 0, A, told)
        link.pump()
        assert isinstance(late.error, errors.Closed)
        assert len(told) == 21
        assert link.fileno() == -1
        assert link.next_timer() is None

    def test_an_interrupted_get_does_not_write_to_its_buffer_later(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon()
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            daemon.signal(signal.SIGSTOP)
            buffer = bytearray(PAGE)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                before = signal.signal(signal.SIGALRM, signal.default_int_handler)
                with pytest.raises(KeyboardInterrupt):
                    pool.get_into(7, 0, buffer)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
                daemon.signal(signal.SIGCONT)
            pool.put(7, 1, B)
            assert buffer == bytes(PAGE)


class TestDriving:
    def test_the_descriptor_changes_with_the_connection(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon()
        with tmem.client.link.connect(daemon.target) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, A)
            generation = link.generation
            assert link.fileno() >= 0
            daemon.kill()
            drive_until(link, lambda: link.fileno() < 0)
            timer = link.next_timer()
            assert timer is not None
            assert timer - time.monotonic() < 1
            start_daemon(listen=daemon.target)
            told = Told()
            result = pool.submit_get_into(7, 0, bytearray(PAGE), told)
            drive_until(link, lambda: told.results)
            assert result.lost
            assert link.generation > generation

    def test_pump_never_waits(self, start_daemon: Start, pool_name: Names, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the server does: here it takes nothing, then it is dead, then nobody is there."""
        daemon = start_daemon()
        link = tmem.client.link.connect(daemon.target)
        pool = link.create_pool(pool_name())
        pool.put(7, 0, A)
        daemon.signal(signal.SIGSTOP)
        wait = Connection.wait

        def no_wait(self: Connection, seconds: float) -> bool:
            assert seconds == 0.0
            return wait(self, seconds)

        def no_sleep(seconds: float) -> None:
            raise AssertionError

        block = b"".join(random_page(number) for number in range(512))
        told = Told()
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "wait", no_wait)
            patch.setattr(time, "sleep", no_sleep)
            for number in range(16):
                pool.submit_put(7, number * 512, block, told, timeout=0.5)
            assert link._link._waiting  # more than the server takes
            for _ in range(1000):
                link.pump()
        daemon.kill()
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "wait", no_wait)
            patch.setattr(time, "sleep", no_sleep)
            deadline = time.monotonic() + 20
            while len(told) < 16:
                assert time.monotonic() < deadline
                link.pump()
        link.close()

    def test_it_has_no_thread_and_no_grpc(self, daemon: CaptiveDaemon, pool_name: Names) -> None:
        script = """
import os, sys, threading
import tmem.client.link
before = len(os.listdir("/proc/self/task"))
with tmem.client.link.connect(sys.argv[1]) as link:
    pool = link.create_pool(sys.argv[2])
    pool.put(7, 0, bytes(4096))
    pool.submit_put(7, 1, bytes(4096), print)
    link.pump()
    assert threading.active_count() == 1
    assert len(os.listdir("/proc/self/task")) == before
loaded = sorted(name for name in sys.modules if name.partition(".")[0] in {"grpc", "asyncio", "h2"})
print(loaded)
"""
        command = [sys.executable, "-c", script, daemon.target, pool_name()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"

    def test_threads_are_not_made_by_work_in_this_process_either(self, link: Link, pool: Pool) -> None:
        before = threading.active_count()
        for number in range(50):
            pool.put(7, number, A)
        assert threading.active_count() == before

    def test_a_lone_get_allocates_little(self, link: Link, pool: Pool) -> None:
        """It may be what memory is wanted for."""
        pool.put(7, 0, A)
        buffer = bytearray(PAGE)
        for _ in range(10):
            pool.get_into(7, 0, buffer)
        tracemalloc.start()
        try:
            begun, _ = tracemalloc.get_traced_memory()
            for _ in range(100):
                pool.get_into(7, 0, buffer)
            ended, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - begun < 16_000
        assert ended - begun < 4_000
        assert buffer == A

    def test_no_page_is_copied_at_full_size(self, link: Link, pool: Pool) -> None:
        for number, plain in enumerate(
            (bytes(extent(0, 512)), b"".join(map(random_page, range(512))), bytes(PAGE * 512))
        ):
            buffer = bytearray(len(plain))
            pool.put(number, 0, plain)
            assert pool.get_into(number, 0, buffer).hit
            assert buffer == plain
        assert (link.counters.copies.put_pages, link.counters.copies.get_pages) == (0, 0)
        assert link.counters.slow_decodes == 0

    def test_several_threads_compress_what_is_put_if_that_is_asked_for(
        self, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        with tmem.client.link.connect(daemon.target, codec_threads=2) as link:
            pool = link.create_pool(pool_name())
            plain, buffer = bytes(extent(0, 512)), bytearray(512 * PAGE)
            assert pool.put(0, 0, plain).stored
            assert pool.get_into(0, 0, buffer).hit
            assert buffer == plain
            assert (link.counters.copies.put_pages, link.counters.copies.get_pages) == (0, 0)
        assert "tmem-codec" in {thread.name for thread in threading.enumerate()}


class TestWays:
    def test_over_a_unix_socket(self, start_daemon: Start, pool_name: Names, tmp_path: Path) -> None:
        daemon = start_daemon(listen=f"unix:{tmp_path}/tmemd.sock")
        for target in (daemon.target, f"unix://{tmp_path}/tmemd.sock"):
            with tmem.client.link.connect(target) as link:
                pool = link.create_pool(pool_name())
                plain = b"".join(map(random_page, range(512)))
                buffer = bytearray(len(plain))
                pool.put(7, 0, plain)
                assert pool.get_into(7, 0, buffer).hit
                assert buffer == plain

    @pytest.mark.parametrize("host", ["localhost", "[::1]"])
    def test_by_name_and_over_ipv6(self, start_daemon: Start, pool_name: Names, host: str) -> None:
        """A name may have addresses at which nobody listens; they are passed over at once."""
        daemon = start_daemon(listen="[::1]:0" if host == "[::1]" else "127.0.0.1:0")
        port = daemon.target.rpartition(":")[2]
        with tmem.client.link.connect(f"{host}:{port}") as link:
            assert link.create_pool(pool_name()).put(7, 0, A).stored

    @pytest.mark.parametrize("target", ["nowhere", "127.0.0.1", "host:port", "::1:80", "127.0.0.1:99999"])
    def test_what_is_no_address_is_an_invalid_option(self, target: str) -> None:
        with pytest.raises(errors.InvalidOption, match="HOST:PORT"):
            tmem.client.link.connect(target)

    def test_a_name_that_does_not_exist_is_unavailable(self) -> None:
        with pytest.raises(errors.Unavailable, match="can't be reached"):
            tmem.client.link.connect("no-such-host.invalid:1")

    def test_a_socket_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(errors.Unavailable, match="No such file"):
            tmem.client.link.connect(f"unix:{tmp_path}/nobody.sock")

    def test_a_machine_that_answers_nothing_is_unavailable_in_time(self) -> None:
        """A listener whose queue is full: packets to it are dropped, as by a machine that is gone."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            try:
                for filler in fillers:
                    filler.setblocking(False)
                    filler.connect_ex(listener.getsockname())
                begun = time.monotonic()
                with pytest.raises(errors.Unavailable, match="can't be reached"):
                    tmem.client.link.connect(f"127.0.0.1:{listener.getsockname()[1]}", connect_timeout=1.0)
                assert time.monotonic() - begun < 5
            finally:
                for filler in fillers:
                    filler.close()
