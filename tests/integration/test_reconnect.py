"""Servers that stop, hang, vanish and come back; clients that are told the truth about it."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.faces import Face
from tests.integration.wire import PlainClient, put_raw
from tests.pages import PAGE, extent, random_page, text_page
from tests.proxy import Proxy
from tests.waiting import wait_until

import tmem.client
from tmem.client import Code
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

A, B = text_page(1), text_page(2)
Names = Callable[[], str]
Start = Callable[..., CaptiveDaemon]


def restart(old: CaptiveDaemon, start_daemon: Start, *arguments: str) -> CaptiveDaemon:
    """Another daemon in the place of one that was killed; it holds nothing."""
    old.kill()
    return start_daemon(*arguments, listen=old.target)


class TestSlowEndpoints:
    def test_a_server_that_is_slow_to_greet_is_connected_to(
        self, face: Face, start_daemon: Start, pool_name: Names
    ) -> None:
        # 100 ms of round trip, or a busy machine, are no reason to call a server unreachable.
        with Proxy(start_daemon().target) as proxy:
            proxy.block(down=True)
            later = threading.Timer(0.7, proxy.block)
            later.start()
            with face.connect(proxy.target) as client:
                pool = client.create_pool(pool_name())
                pool.put(1, 0, A)
                assert pool.get_into(1, 0, bytearray(PAGE)).hit
            later.join()


class TestServerLoss:
    def test_a_server_back_without_its_data_answers_lost_and_miss_and_takes_puts(
        self, face: Face, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon()
        with face.connect(daemon.target) as client:
            kept = client.create_pool(pool_name())
            cache = client.create_pool(pool_name(), kind="ephemeral")
            kept.put(7, 0, bytes(extent(0, 40)))
            cache.put(7, 0, A)
            epoch = kept.epoch
            restart(daemon, start_daemon)
            buffer = bytearray(b"\xee" * 40 * PAGE)

            result = kept.get_into(7, 0, buffer)

            assert result.pages == [Code.LOST] * 40
            assert buffer == b"\xee" * 40 * PAGE
            assert cache.get_into(7, 0, bytearray(PAGE)).miss
            assert kept.get_into(9, 0, bytearray(PAGE)).miss
            assert kept.incomplete
            assert kept.epoch > epoch
            assert kept.put(7, 0, B).stored
            assert kept.get_into(7, 0, bytearray(PAGE)).hit
            assert kept.get_into(7, 1, bytearray(PAGE)).lost
            assert client.counters.reconnects == 1

    def test_an_agent_that_comes_back_after_the_server_did_is_told_by_the_epoch(
        self, face: Face, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon()
        name = pool_name()
        with face.connect(daemon.target) as client:
            pool = client.create_pool(name)
            pool.put(7, 0, A)
            token, epoch = pool.token, pool.epoch
            restart(daemon, start_daemon)
            assert pool.get_into(7, 0, bytearray(PAGE)).lost  # the pool is there again, made by its client
            pool.put(8, 0, B)
        with face.connect(daemon.target) as client:
            pool = client.open_pool(name, token, epoch)
            assert pool.get_into(7, 0, bytearray(PAGE)).lost
            assert pool.get_into(8, 0, bytearray(PAGE)).hit

    def test_while_the_server_is_away_a_get_is_unavailable_within_its_deadline(
        self, face: Face, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon()
        with face.connect(daemon.target, read_timeout=1.0, write_timeout=1.0) as client:
            pool = client.create_pool(pool_name())
            pool.put(7, 0, A)
            daemon.kill()
            begun = time.monotonic()
            for call in (
                lambda: pool.get_into(7, 0, bytearray(PAGE)),
                lambda: pool.put(7, 1, B),
                lambda: pool.get_page_sync(7, 0, bytearray(PAGE)),
            ):
                with pytest.raises(errors.Unavailable, match="can't be reached"):
                    call()
            assert time.monotonic() - begun < 10
            start_daemon(listen=daemon.target)
            assert pool.get_into(7, 0, bytearray(PAGE), timeout=30).lost
            assert pool.put(7, 1, B, timeout=30).stored

    def test_closing_while_the_server_is_away_takes_a_bounded_time(
        self, face: Face, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon()
        client = face.connect(daemon.target)
        pool = client.create_pool(pool_name())
        pool.put(7, 0, A)
        daemon.kill()
        begun = time.monotonic()
        client.close()

        assert time.monotonic() - begun < 6


class TestHungServer:
    def test_a_server_that_hangs_costs_the_deadline_and_no_more(self, start_daemon: Start, pool_name: Names) -> None:
        daemon = start_daemon()
        with tmem.client.connect(daemon.target, read_timeout=1.0, write_timeout=1.0) as client:
            pool = client.create_pool(pool_name())
            pool.put(7, 0, A)
            daemon.signal(signal.SIGSTOP)
            try:
                buffer = bytearray(b"\xee" * PAGE)
                with pytest.raises(errors.DeadlineExceeded):
                    pool.get_into(7, 0, buffer)
                with pytest.raises(errors.DeadlineExceeded):
                    pool.put(7, 1, B)
                with pytest.raises(errors.DeadlineExceeded):
                    pool.put(7, 1, B)  # the first is unsettled still
            finally:
                daemon.signal(signal.SIGCONT)
            # Once the server answers, the floor settles what was given up, and the handle is free again.
            with tmem.client.connect(daemon.target):
                pass
            assert pool.put(7, 1, A, timeout=20).stored
            assert buffer == b"\xee" * PAGE
            assert pool.get_into(7, 1, buffer).hit
            assert buffer == A

    def test_a_connection_that_stands_while_nobody_answers_is_given_up_for_another(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon("--heartbeat-interval-seconds", "0.2", "--session-timeout-seconds", "30")
        with Proxy(daemon.target) as proxy, tmem.client.connect(proxy.target, read_timeout=20.0) as client:
            pool = client.create_pool(pool_name())
            pool.put(7, 0, A)
            proxy.swallow()  # what the client sends on this connection reaches nobody any more
            buffer = bytearray(PAGE)

            assert pool.get_into(7, 0, buffer).hit

            assert buffer == A
            assert client.counters.reconnects >= 1


class TestBrokenConnections:
    @pytest.mark.parametrize("cut_after", [1, 100, 20_000, 100_000, 400_000, 700_000])
    def test_a_batch_whose_connection_breaks_anywhere_is_replayed(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names, cut_after: int
    ) -> None:
        block = b"".join(map(random_page, range(128)))
        with Proxy(daemon.target) as proxy, face.connect(proxy.target) as client:
            pool = client.create_pool(pool_name())
            pool.put(7, 0, A)
            proxy.cut_after(cut_after)
            with pool.batch() as batch:
                stores = [batch.put(8, number * 512, block) for number in range(3)]
            assert all(result.stored for result in stores)
            assert client.counters.reconnects >= 1
            for number in range(3):
                buffer = bytearray(len(block))
                assert pool.get_into(8, number * 512, buffer).hit
                assert buffer == block
            assert pool.get_into(7, 0, bytearray(PAGE)).hit
            assert pool.stat().pages == 3 * 128 + 1

    @pytest.mark.parametrize("cut_after", [1, 5_000, 300_000])
    def test_an_answer_that_is_lost_is_asked_for_again(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names, cut_after: int
    ) -> None:
        block = b"".join(map(random_page, range(128)))
        with Proxy(daemon.target) as proxy, face.connect(proxy.target) as client:
            pool = client.create_pool(pool_name())
            pool.put(7, 0, block)
            proxy.cut_after(cut_after, downstream=True)
            buffer = bytearray(len(block))

            assert pool.get_into(7, 0, buffer).hit

            assert buffer == block
            assert client.counters.reconnects >= 1

    def test_a_client_resumes_with_many_batches_in_flight_in_several_threads(
        self, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        with Proxy(daemon.target) as proxy, tmem.client.connect(proxy.target) as client:
            pool = client.create_pool(pool_name())
            failures: list[BaseException] = []

            def work(number: int) -> None:
                try:
                    for step in range(30):
                        plain = bytes(extent(number * 100 + step, 16))
                        pool.put(number, step * 16, plain)
                        buffer = bytearray(len(plain))
                        assert pool.get_into(number, step * 16, buffer).hit
                        assert buffer == plain
                except BaseException as error:  # noqa: BLE001  the assertion in the main thread shows it
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(5):
                proxy.cut_after(60_000)
                proxy.await_cut()
            proxy.restore()
            for thread in threads:
                thread.join()

            assert not failures
            assert client.counters.reconnects >= 1
            assert pool.stat().pages == 4 * 30 * 16


class TestDrain:
    def test_sigterm_finishes_what_is_in_flight_tells_everybody_and_ends_well(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        daemon = start_daemon("--layer", "delayed:seconds=0.5", "--drain-timeout-seconds", "20")
        with PlainClient(daemon.target) as plain:
            health: Any = health_pb2_grpc.HealthStub(plain.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            ref = plain.create_pool(pool_name())
            stream = plain.exchange(ref)
            stream.send(put_raw(ref, 7, 0, random_page(), 1))
            stream.send(put_raw(ref, 7, 1, random_page(), 2, batch_id=2))
            probe = stream.ask  # noqa: F841  the puts are sent before the signal: wait until the daemon has taken them
            wait_until(lambda: stored_pages(daemon) == 2)
            daemon.signal(signal.SIGTERM)

            kinds = [stream.receive() for _ in range(3)]

            assert sorted(str(kind.WhichOneof("kind")) for kind in kinds) == ["drain", "put", "put"]
            assert all(not kind.put.codes for kind in kinds if kind.HasField("put"))
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            refused = stream.ask(put_raw(ref, 7, 2, random_page(), 3))
            from tmem.wire.results import Reason

            assert refused.put.details[0].reason == Reason.DRAINING
            with pytest.raises(grpc.RpcError) as raised:
                plain.exchange(ref)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            stream.half_close()
            assert list(stream.call) == []
            watch.cancel()
        assert daemon.wait() == 0

    def test_a_client_leaves_a_draining_server_and_goes_on_with_the_next(
        self, start_daemon: Start, pool_name: Names
    ) -> None:
        daemon = start_daemon("--drain-timeout-seconds", "20")
        with tmem.client.connect(daemon.target) as client:
            pool = client.create_pool(pool_name())
            pool.put(7, 0, A)
            begun = time.monotonic()
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
            assert time.monotonic() - begun < 15  # the client left by itself, long before the time-out
            start_daemon(listen=daemon.target)

            assert pool.put(7, 1, B).stored
            assert pool.get_into(7, 0, bytearray(PAGE)).lost

    def test_a_client_that_does_not_leave_is_cut_after_the_timeout(self, start_daemon: Start) -> None:
        daemon = start_daemon("--drain-timeout-seconds", "0.5")
        with PlainClient(daemon.target) as plain:
            stream = plain.exchange()
            daemon.signal(signal.SIGTERM)
            assert stream.receive().drain.grace_ms == 500
            assert stream.error().code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert daemon.wait() == 0

    def test_a_second_signal_ends_it_at_once(self, start_daemon: Start) -> None:
        daemon = start_daemon("--drain-timeout-seconds", "600")
        with PlainClient(daemon.target) as plain:
            stream = plain.exchange()
            daemon.signal(signal.SIGTERM)
            assert stream.receive().HasField("drain")
            daemon.signal(signal.SIGINT)
            assert daemon.wait() == 0


def stored_pages(daemon: CaptiveDaemon) -> float:
    from tmem.cli.scrape import scrape, total

    return total(scrape(daemon.metrics_url), "tmem_pages")
