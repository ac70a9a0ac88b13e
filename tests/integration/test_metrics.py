"""What the daemon tells scrapers: a real Prometheus reads it, promtool has nothing to say about it, and it is true."""

import http.client
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from tests.integration.wire import PlainClient, get, put_raw
from tests.pages import PAGE, extent, random_page, same_filled_page, text_page
from tests.processes import Tmemd
from tests.prometheus import Prometheus
from tests.waiting import wait_until

import tmem.client
from tmem.cli.scrape import moved, scrape, total
from tmem.client.testing import CaptiveDaemon
from tmem.v1 import extents_pb2 as pb
from tmem.wire import errors

Start = Callable[..., CaptiveDaemon]
Names = Callable[[], str]
RequireTool = Callable[[str], str]
A = text_page(1)
# A name that the text format must escape.
ODD_NAME = 'a "quoted" \\ näme, {x="y"}'


@pytest.fixture
def own(start_daemon: Start) -> CaptiveDaemon:
    """A daemon whose counters nobody else moves."""
    return start_daemon()


@pytest.fixture
def owner(own: CaptiveDaemon) -> Iterator[tmem.client.Client]:
    with tmem.client.connect(own.target) as client:
        yield client


def request(url: str, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
    """Status, content type and body of an answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode("latin-1")
    finally:
        connection.close()


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 0), timeout=20)


def misbehave(daemon: CaptiveDaemon) -> None:
    """Refusals, misses, strangers' garbage and a cut stream."""
    with tmem.client.connect(daemon.target) as client, PlainClient(daemon.target) as plain:
        small = client.create_pool(ODD_NAME, quota_bytes=PAGE)
        with pytest.raises(errors.QuotaExceeded):
            small.put(7, 0, bytes(extent(0, 64)))
        small.get_into(9, 0, bytearray(PAGE))
        client.create_pool("cache", kind="ephemeral").put(7, 0, A)
        with pytest.raises(errors.PoolExists):
            client.create_pool("cache")
        with pytest.raises(errors.NoSuchPool):
            client.join_pool(b"u" * 16)
        ref = plain.create_pool("plain")
        stream = plain.exchange(ref)
        stream.ask(get(ref, 7, 0))
        wrong = put_raw(ref, 7, 0, random_page(), 1)
        wrong.body = b"short"
        stream.ask(wrong)
        ref.token = b"x" * 32
        plain.exchange(ref).half_close()
        assert plain.exchange(first=pb.ExchangeRequest(), wait=False).error().code() is (
            grpc.StatusCode.INVALID_ARGUMENT
        )


class TestPrometheus:
    def test_prometheus_scrapes_the_daemon_and_finds_what_was_just_done(
        self, own: CaptiveDaemon, owner: tmem.client.Client, require_tool: RequireTool
    ) -> None:
        jobs = [{"job_name": "tmem", "static_configs": [{"targets": [urlsplit(own.metrics_url).netloc]}]}]
        with tempfile.TemporaryDirectory(prefix="tmem-") as directory:
            prometheus = Prometheus(require_tool("prometheus"), {"scrape_configs": jobs}, Path(directory))

            def value(query: str) -> float | None:
                samples = prometheus.query(query)
                return float(samples[0]["value"][1]) if samples else None

            try:
                wait_until(lambda: value('up{job="tmem"}') == 1)
                stored = 'sum(tmem_put_pages_total{result="stored"})'
                wait_until(lambda: value(stored) == 0)

                pool = owner.create_pool(ODD_NAME)
                pool.put(7, 0, bytes(extent(0, 137)))
                pool.put_page_sync(8, 0, A)
                wait_until(lambda: value(stored) == 138)
                pool.put(9, 0, bytes(extent(5, 500)))
                wait_until(lambda: value(stored) == 638)

                assert value("sum(tmem_pages)") == 638
                assert value('tmem_exchange_batches_total{op="put"}') == 2
                (sample,) = prometheus.query('tmem_put_pages_total{result="stored"} > 0')
                assert sample["metric"]["pool"] == f"local/{ODD_NAME}"
                own.kill()
                wait_until(lambda: value('up{job="tmem"}') == 0)
            finally:
                prometheus.close()

    def test_promtool_has_nothing_to_say(self, own: CaptiveDaemon, require_tool: RequireTool) -> None:
        promtool = require_tool("promtool")

        def check() -> tuple[int, str]:
            done = subprocess.run(
                [promtool, "check", "metrics"],
                input=request(own.metrics_url)[2].encode("latin-1"),
                capture_output=True,
                timeout=60,
                check=False,
            )
            return done.returncode, (done.stdout + done.stderr).decode()

        assert check() == (0, "")
        misbehave(own)
        assert check() == (0, "")
        assert total(scrape(own.metrics_url), "tmem_malformed_messages_total") == 2

    def test_openmetrics_is_answered_to_who_asks_for_it(self, own: CaptiveDaemon) -> None:
        accept = "application/openmetrics-text; version=1.0.0"
        status, content_type, body = request(own.metrics_url, Accept=accept)

        assert status == 200
        assert content_type.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")


class TestCounters:
    def test_pages_are_counted_by_pool_result_and_reason(self, own: CaptiveDaemon, owner: tmem.client.Client) -> None:
        pool = owner.create_pool("p", quota_bytes=200_000)
        cache = owner.create_pool("cache", kind="ephemeral")
        before = scrape(own.metrics_url)
        buffer = bytearray(64 * PAGE)
        pool.put(7, 0, bytes(extent(0, 64)))
        pool.put(7, 0, same_filled_page())  # in the place of an older one
        pool.put(7, 512, random_page())
        with pytest.raises(errors.QuotaExceeded):
            pool.put(8, 0, b"".join(map(random_page, range(64))))
        pool.freeze()
        with pytest.raises(errors.PoolFrozen):
            pool.put(7, 1, random_page())  # what was there goes
        pool.get_into(7, 0, buffer)  # page 1 is known to be absent
        pool.flush(7, 10, 4)
        pool.flush_object(7)
        cache.put(1, 0, A)
        cache.get_into(1, 0, bytearray(PAGE))  # takes
        cache.get_page_sync(1, 0, bytearray(PAGE))
        after = scrape(own.metrics_url)

        def grown(name: str, **labels: str) -> float:
            return total(after, name, **labels) - total(before, name, **labels)

        mine = {"pool": "local/p"}
        assert grown("tmem_put_pages_total", **mine, result="stored") == 66
        assert grown("tmem_put_pages_total", **mine, result="refused", reason="quota") == 64
        assert grown("tmem_put_pages_total", **mine, result="refused", reason="frozen") == 1
        assert grown("tmem_put_replaced_pages_total", **mine) == 1
        assert grown("tmem_put_dropped_pages_total", **mine) == 1
        assert grown("tmem_put_raw_pages_total", **mine) >= 1
        assert grown("tmem_put_same_filled_pages_total", **mine) >= 1
        assert grown("tmem_get_pages_total", **mine, result="hit") == 63
        assert grown("tmem_get_pages_total", **mine) == 63
        assert grown("tmem_flush_pages_total", **mine, result="found") == 4
        assert grown("tmem_flush_objects_total", **mine, result="found") == 1
        assert grown("tmem_flush_object_pages_total", **mine) == 65 - 1 - 4
        assert total(after, "tmem_pages", **mine) == 0
        assert grown("tmem_extents_total", **mine, shape="partial") == 1
        assert grown("tmem_extents_total", **mine, shape="single") == 2
        assert grown("tmem_put_pages_total", pool="local/cache", result="stored") == 1
        assert grown("tmem_flush_pages_total", pool="local/cache", result="found") == 1
        assert grown("tmem_full_size_copies_total") == 0
        assert grown("tmem_put_pages_total", pool="none") == 0

    def test_calls_are_counted_by_method_and_code_and_batches_by_operation(
        self, own: CaptiveDaemon, owner: tmem.client.Client
    ) -> None:
        pool = owner.create_pool("p")
        before = scrape(own.metrics_url)
        pool.put(7, 0, A)
        pool.put(7, 0, A)
        pool.get_into(7, 0, bytearray(PAGE))
        pool.put_page_sync(8, 0, A)
        pool.get_page_sync(8, 0, bytearray(PAGE))
        pool.flush(7, 0)
        pool.stat()
        with pytest.raises(errors.PoolExists):
            owner.create_pool("p")
        with pytest.raises(errors.NoSuchPool):
            owner.join_pool(b"u" * 16)
        changes = moved(before, scrape(own.metrics_url))

        def grown(prefix: str) -> dict[str, float]:
            return {
                " ".join(re.findall(r'"([^"]*)"', name)): after - begun
                for name, (begun, after) in changes.items()
                if name.startswith(prefix)
            }

        assert grown("tmem_rpc_requests_total") == {
            "OK PagesService/Put": 1,
            "OK PagesService/Get": 1,
            "OK PoolsService/StatPool": 1,
            "ALREADY_EXISTS PoolsService/CreatePool": 1,
            "NOT_FOUND PoolsService/JoinPool": 1,
        }
        assert grown("tmem_rpc_duration_seconds_count") == {
            "PagesService/Put": 1,
            "PagesService/Get": 1,
            "PoolsService/StatPool": 1,
            "PoolsService/CreatePool": 1,
            "PoolsService/JoinPool": 1,
        }
        assert grown("tmem_exchange_batches_total") == {"put": 2, "get": 1, "flush": 1}
        assert grown("tmem_exchange_batch_duration_seconds_count") == {"put": 2, "get": 1, "flush": 1}
        assert grown("tmem_store_operation_duration_seconds_count") == {"put": 3, "get": 2, "flush": 1}

    def test_a_copy_is_counted_where_it_is_made(self, own: CaptiveDaemon, owner: tmem.client.Client) -> None:
        pool = owner.create_pool("p")
        pool.put(7, 0, bytes(extent(0, 512)))
        into = bytearray(512 * PAGE)
        pool.get_into(7, 0, into)
        assert total(scrape(own.metrics_url), "tmem_full_size_copies_total") == 0

        pool.get_page_sync(7, 1, bytearray(PAGE))  # the server expands the chunk for it

        after = scrape(own.metrics_url)
        assert total(after, "tmem_full_size_copies_total", op="get") == 1
        assert total(after, "tmem_expanded_pages_total") == 1

    def test_every_stream_message_is_counted(self, own: CaptiveDaemon) -> None:
        with PlainClient(own.target) as plain:
            ref = plain.create_pool("p")
            stream = plain.exchange(ref)
            for number in range(10):
                stream.ask(put_raw(ref, 7, number, random_page(number), number + 1))
            samples = scrape(own.metrics_url)

        assert total(samples, "tmem_exchange_messages_total", direction="in") == 11
        assert total(samples, "tmem_exchange_messages_total", direction="out") == 11

    def test_when_every_pool_is_gone_nothing_is_held_and_no_counter_has_fallen(self, own: CaptiveDaemon) -> None:
        with tmem.client.connect(own.target) as client, PlainClient(own.target) as plain:
            kept = client.create_pool("kept")
            cache = client.create_pool("cache", kind="ephemeral")
            shared = client.create_pool("shared", kind="shared")
            for pool in (kept, cache, shared):
                for block in range(3):
                    pool.put(7, block * 512, bytes(extent(block, 300)))
            ref = plain.create_pool("plain")
            stream = plain.exchange(ref)
            stream.ask(put_raw(ref, 7, 0, random_page(), 1))
            busy = scrape(own.metrics_url)
            held = {name for name in busy if _holds(name) and busy[name]}
            assert {name.partition("{")[0] for name in held} >= {"tmem_pages", "tmem_sessions", "tmem_streams"}
            assert total(busy, "tmem_sessions") == total(busy, "tmem_streams") == 2
            for pool in (kept, cache):
                pool.destroy()
            shared.leave()
            stream.half_close()
            assert list(stream.call) == []
        with tmem.client.connect(own.target) as person:
            (parked,) = person.pools()
            assert person.destroy_parked(parked.pool_id) == 1
        wait_until(lambda: total(scrape(own.metrics_url), "tmem_streams") == 0)
        after = scrape(own.metrics_url)

        assert {name: value for name, value in after.items() if _holds(name) and value} == {}
        assert set(busy) <= set(after)
        assert {name for name in busy if "_total" in name and after[name] < busy[name]} == set()
        assert total(after, "tmem_put_pages_total", result="stored") == 3 * 900 + 1


def _holds(sample: str) -> bool:
    """Whether a sample speaks of what is held, or of who is there."""
    name = sample.partition("{")[0]
    if not name.startswith("tmem_") or name.endswith(("_total", "_count", "_sum", "_bucket", "_info")):
        return False
    return name not in {"tmem_memory_limit_bytes", "tmem_load_ratio"}


class TestServing:
    @pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/favicon.ico", "/../metrics", "/metrics%00"])
    def test_another_path_is_not_found(self, daemon: CaptiveDaemon, path: str) -> None:
        status, _, body = request(daemon.metrics_url, path=path)

        assert status == 404
        assert "tmem_" not in body

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "PATCH"])
    def test_another_method_is_not_allowed(self, daemon: CaptiveDaemon, method: str) -> None:
        status, _, body = request(daemon.metrics_url, method)

        assert status == 405
        assert "tmem_pages" not in body

    def test_many_scrapers_at_once_are_all_answered_while_pages_come_and_pools_go(
        self, own: CaptiveDaemon, owner: tmem.client.Client
    ) -> None:
        answers: list[str] = []
        scrapers = [
            threading.Thread(target=lambda: answers.extend(request(own.metrics_url)[2] for _ in range(5)))
            for _ in range(16)
        ]
        for scraper in scrapers:
            scraper.start()
        rounds = 0
        while rounds < 5 or any(scraper.is_alive() for scraper in scrapers):
            pool = owner.create_pool(f"p{rounds}")
            pool.put(7, 0, bytes(extent(0, 16)))
            pool.destroy()
            rounds += 1
        for scraper in scrapers:
            scraper.join()

        assert len(answers) == 80
        for answer in answers:
            assert re.search(r"^tmem_sessions ", answer, re.MULTILINE)
        assert total(scrape(own.metrics_url), "tmem_put_pages_total", result="stored") == rounds * 16
        assert "Traceback" not in own.log()

    def test_connections_that_ask_nothing_block_nobody_and_not_the_end(self, own: CaptiveDaemon) -> None:
        silent = [connect(own.metrics_url) for _ in range(20)]
        try:
            for number, sock in enumerate(silent):
                sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"[:number])

            assert request(own.metrics_url)[0] == 200
            own.signal(signal.SIGTERM)
            assert own.wait() == 0
        finally:
            for sock in silent:
                sock.close()

    @pytest.mark.parametrize(
        "sent",
        [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 200 + b"\r\n\r\n", b"GET " * 50_000],
        ids=["nothing", "half", "whole", "garbage", "long"],
    )
    def test_a_scraper_that_breaks_off_or_talks_nonsense_is_no_fault_of_the_daemon(
        self, own: CaptiveDaemon, sent: bytes
    ) -> None:
        for _ in range(5):
            with connect(own.metrics_url) as sock:
                sock.sendall(sent)
                # Closing with a reset instead of a goodbye.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        assert request(own.metrics_url)[0] == 200
        own.signal(signal.SIGTERM)
        assert own.wait() == 0
        assert "Traceback" not in own.log()
        assert "Exception" not in own.log()

    def test_without_metrics_no_second_port_is_listened_on(self) -> None:
        with Tmemd("--listen", "127.0.0.1:0", "--metrics-listen", "none") as daemon:
            assert daemon.line().endswith(" metrics=none")
            own = {
                link.readlink().name[8:-1]
                for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir()
                if link.readlink().name.startswith("socket:")
            }
            net = Path(f"/proc/{daemon.process.pid}/net")
            table = [line.split() for name in ("tcp", "tcp6") for line in (net / name).read_text().splitlines()[1:]]
            listening = {fields[9] for fields in table if fields[3] == "0A"}
            assert len(own & listening) == 1
