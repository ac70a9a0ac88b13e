"""Whatever arrives, the daemon answers clearly where it can answer, counts it, and goes on serving others."""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from tests.integration.wire import LZ4, PlainClient, get, header, put_raw
from tests.pages import PAGE, random_page, text_page
from tests.processes import Program

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client.testing import CaptiveDaemon
from tmem.v1 import extents_pb2 as pb
from tmem.v1 import pages_pb2
from tmem.v1.common_pb2 import ObjectId, PoolRef
from tmem.wire import errors
from tmem.wire.checksum import page_checksum
from tmem.wire.metadata import REASON
from tmem.wire.results import Code, Reason

A = random_page(1)
Names = Callable[[], str]
RAW_METHODS = [
    *(f"PagesService/{name}" for name in ("Put", "Get", "Flush", "FlushObject")),
    *(f"PoolsService/{name}" for name in ("CreatePool", "OpenPool", "DestroyPool", "StatPool", "ResizePool")),
    "CapabilitiesService/GetCapabilities",
    "CapabilitiesService/Echo",
]


@pytest.fixture
def plain(daemon: CaptiveDaemon) -> Iterator[PlainClient]:
    with PlainClient(daemon.target) as client:
        yield client


@pytest.fixture
def still_serving(daemon: CaptiveDaemon, pool_name: Names) -> Iterator[None]:
    """Whatever the test does, another client goes on undisturbed, and the daemon logs no traceback."""
    with tmem.client.connect(daemon.target) as bystander:
        pool = bystander.create_pool(pool_name())
        pool.put(7, 0, A)
        yield
        buffer = bytearray(PAGE)
        assert pool.get_into(7, 0, buffer).hit
        assert buffer == A
        assert bystander.counters.reconnects == 0
        pool.destroy()
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.log()


def rss(daemon: CaptiveDaemon) -> int:
    return int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]) * PAGE


def unary_bytes(plain: PlainClient, method: str, data: bytes) -> grpc.RpcError:
    call = plain.channel.unary_unary(f"/tmem.v1.{method}", request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.RpcError) as raised:
        call(data, timeout=10)
    return raised.value


@pytest.mark.usefixtures("still_serving")
class TestGarbage:
    @pytest.mark.parametrize("method", RAW_METHODS)
    @pytest.mark.parametrize(
        "data", [b"\xff" * 50, b"\x0a\x05abc", secrets.token_bytes(200) + b"\xff"], ids=["ff", "short", "random"]
    )
    def test_unary_garbage_is_an_invalid_argument_and_counted(
        self, daemon: CaptiveDaemon, plain: PlainClient, method: str, data: bytes
    ) -> None:
        before = total(scrape(daemon.metrics_url), "tmem_malformed_messages_total", where="unary")

        error = unary_bytes(plain, method, data)

        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (REASON, "INVALID") in tuple(error.trailing_metadata())
        assert total(scrape(daemon.metrics_url), "tmem_malformed_messages_total", where="unary") == before + 1

    def test_a_truncated_message_is_an_invalid_argument(self, plain: PlainClient) -> None:
        whole = pages_pb2.PutRequest(pool=PoolRef(pool_id=1, token=b"t" * 32), page=A).SerializeToString()
        for cut in (1, 10, 40, len(whole) - 1):
            assert unary_bytes(plain, "PagesService/Put", whole[:cut]).code() is grpc.StatusCode.INVALID_ARGUMENT

    def test_garbage_on_a_stream_ends_that_stream_alone(self, daemon: CaptiveDaemon, plain: PlainClient) -> None:
        before = total(scrape(daemon.metrics_url), "tmem_malformed_messages_total", where="exchange")
        exchange = plain.channel.stream_stream(
            "/tmem.v1.ExtentsService/Exchange", request_serializer=None, response_deserializer=None
        )
        opening = pb.ExchangeRequest(open=pb.Open(session_id=b"s" * 16, protocol_version=1)).SerializeToString()
        call = exchange(iter([opening, b"\xff" * 100]))
        next(call)
        with pytest.raises(grpc.RpcError) as raised:
            next(call)

        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert total(scrape(daemon.metrics_url), "tmem_malformed_messages_total", where="exchange") == before + 1

    @pytest.mark.parametrize(
        "path", ["/tmem.v1.PagesService/Nonsense", "/tmem.v2.PagesService/Put", "/nothing", "/a/b/c"]
    )
    def test_unknown_methods_are_unimplemented(self, plain: PlainClient, path: str) -> None:
        call = plain.channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=10)

        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_bytes_that_are_no_http2_close_their_connection(self, daemon: CaptiveDaemon) -> None:
        host, _, port = daemon.target.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, secrets.token_bytes(5000)):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass


def lying_put(ref: PoolRef, change: Callable[[pb.ExchangeRequest], object], batch_id: int = 9) -> pb.ExchangeRequest:
    message = put_raw(ref, 7, 0, A + A, sequence=1, batch_id=batch_id)
    change(message)
    return message


@pytest.mark.usefixtures("still_serving")
class TestMalformedBatches:
    @pytest.mark.parametrize(
        "change",
        [
            lambda m: m.put.extents.index.__setitem__(0, 2**32),
            lambda m: m.put.extents.index.__setitem__(0, 2**64 - 1),
            lambda m: m.put.extents.index.__setitem__(0, 511),
            lambda m: m.put.extents.pages.__setitem__(0, 513),
            lambda m: m.put.extents.pages.__setitem__(0, 2**32 - 1),
            lambda m: m.put.chunks.encoded_bytes.__setitem__(0, 2**32 - 1),
            lambda m: m.put.chunks.encoded_bytes.__setitem__(0, PAGE + 1),
            lambda m: setattr(m, "body", m.body[:-1]),
            lambda m: setattr(m, "body", b""),
            lambda m: m.put.page_crc32c.pop(),
            lambda m: setattr(m.put.header, "sequence", 0),
        ],
        ids=[
            *("index past 2^32-1", "index of 64 bits", "crosses a block", "513 pages", "4 billion pages"),
            *(
                "a chunk of 4 GiB",
                "a chunk beyond the body",
                "short body",
                "no body",
                "a checksum short",
                "no sequence",
            ),
        ],
    )
    def test_a_put_that_lies_is_answered_in_band_and_changes_nothing(
        self,
        daemon: CaptiveDaemon,
        plain: PlainClient,
        pool_name: Names,
        change: Callable[[pb.ExchangeRequest], object],
    ) -> None:
        ref = plain.create_pool(pool_name())
        stream = plain.exchange(ref)
        before = total(scrape(daemon.metrics_url), "tmem_malformed_messages_total", where="batch")

        answer = stream.ask(lying_put(ref, change))

        assert answer.malformed.header.batch_id == 9
        assert answer.malformed.message
        assert total(scrape(daemon.metrics_url), "tmem_malformed_messages_total", where="batch") == before + 1
        assert stream.ask(get(ref, 7, 0, pages=2)).get.codes == [Code.MISS] * 2
        assert not stream.ask(put_raw(ref, 7, 0, A, sequence=1)).put.codes

    def test_gets_that_lie_too(self, plain: PlainClient, pool_name: Names) -> None:
        ref = plain.create_pool(pool_name())
        stream = plain.exchange(ref)

        assert stream.ask(get(ref, 7, 2**32)).malformed.message
        assert stream.ask(get(ref, 7, 510, pages=5)).malformed.message
        assert stream.ask(get(ref, 7, 0, answer_bytes=2**32 - 1)).malformed.message
        assert stream.ask(get(ref, 7, 0, pages=2, answer_bytes=PAGE)).malformed.message
        many = pb.ExchangeRequest(
            get=pb.GetBatch(header=header(ref, answer_bytes=3 << 20), extents=pb.Extents(index=range(513)))
        )
        assert stream.ask(many).malformed.message

    def test_an_unknown_pool_is_an_in_band_result(self, plain: PlainClient) -> None:
        stream = plain.exchange()
        stranger = PoolRef(pool_id=10**15, generation=1)

        assert stream.ask(put_raw(stranger, 7, 0, A, 1)).put.details[0].reason == Reason.NO_SUCH_POOL
        assert stream.ask(get(stranger, 7, 0)).get.details[0].reason == Reason.NO_SUCH_POOL

    def test_unary_indices_are_refused_and_never_truncated(self, plain: PlainClient, pool_name: Names) -> None:
        ref = plain.create_pool(pool_name())
        for message, method in (
            (pages_pb2.GetRequest(pool=ref, object=ObjectId(low=7), index=2**32), plain.pages.Get),
            (pages_pb2.FlushRequest(pool=ref, object=ObjectId(low=7), index=2**63, sequence=1), plain.pages.Flush),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                method(message, timeout=10)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.usefixtures("still_serving")
class TestLyingPages:
    def bomb(self, stream: Any, ref: PoolRef) -> None:
        """Stores a page that would decode to 64 MiB."""
        import lz4.block

        body = lz4.block.compress(bytes(900_000), store_size=False)
        message = pb.ExchangeRequest(
            put=pb.PutBatch(
                header=header(ref, sequence=1),
                extents=pb.Extents(object_low=[7], index=[0], pages=[1]),
                chunks=pb.Chunks(encoded_bytes=[len(body)], encoding=[LZ4]),  # type: ignore[list-item]
                page_crc32c=[page_checksum(bytes(PAGE))],
            ),
            body=body,
        )
        assert len(body) < PAGE
        assert not stream.ask(message).put.codes

    def test_a_decompression_bomb_is_corrupt_to_whoever_expands_it(
        self, daemon: CaptiveDaemon, plain: PlainClient, pool_name: Names
    ) -> None:
        name = pool_name()
        ref = plain.create_pool(name)
        stream = plain.exchange(ref)
        self.bomb(stream, ref)
        stream.half_close()
        assert not list(stream.call)
        with tmem.client.connect(daemon.target) as client:
            pool = client.open_pool(name, ref.token)
            buffer = bytearray(b"\xee" * PAGE)
            assert pool.get_into(7, 0, buffer).corrupt
            assert buffer == bytes(PAGE)
            assert pool.get_page_sync(7, 0, buffer).corrupt

    def test_a_bomb_inside_a_chunk_is_corrupt_to_a_reader_of_single_pages(
        self, plain: PlainClient, pool_name: Names
    ) -> None:
        import lz4.block

        ref = plain.create_pool(pool_name())
        body = lz4.block.compress(bytes(900_000), store_size=False)
        message = pb.ExchangeRequest(
            put=pb.PutBatch(
                header=header(ref, sequence=1),
                extents=pb.Extents(object_low=[7], index=[0], pages=[16]),
                chunks=pb.Chunks(encoded_bytes=[len(body)], pages=[16], encoding=[LZ4]),  # type: ignore[list-item]
                page_crc32c=[page_checksum(bytes(PAGE))] * 16,
            ),
            body=body,
        )
        assert not plain.exchange(ref).ask(message).put.codes

        answer = plain.pages.Get(pages_pb2.GetRequest(pool=ref, object=ObjectId(low=7), index=3))

        assert answer.code == Code.CORRUPT

    def test_a_wrong_checksum_is_corrupt(self, daemon: CaptiveDaemon, plain: PlainClient, pool_name: Names) -> None:
        name = pool_name()
        ref = plain.create_pool(name)
        stream = plain.exchange(ref)
        message = put_raw(ref, 7, 0, A, 1)
        message.put.page_crc32c[0] ^= 1
        stream.ask(message)
        stream.half_close()
        assert not list(stream.call)
        with tmem.client.connect(daemon.target) as client:
            pool = client.open_pool(name, ref.token)
            assert pool.get_into(7, 0, bytearray(PAGE)).corrupt


@pytest.mark.usefixtures("still_serving")
class TestHttp2:
    def request(self, daemon: CaptiveDaemon, path: str, body: list[bytes]) -> tuple[dict[str, str], int]:
        """One call by hand; answers headers and trailers, and how many bytes the server took."""
        host, _, port = daemon.target.rpartition(":")
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        connection = h2.connection.H2Connection(config)
        seen: dict[str, str] = {}
        sent = 0
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            connection.initiate_connection()
            connection.send_headers(
                1,
                [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", path),
                    (":authority", daemon.target),
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                ],
            )
            sock.sendall(connection.data_to_send())
            pieces = list(body)
            while True:
                while pieces and connection.local_flow_control_window(1) >= len(pieces[0]):
                    piece = pieces.pop(0)
                    connection.send_data(1, piece)
                    sent += len(piece)
                    sock.sendall(connection.data_to_send())
                data = sock.recv(65536)
                if not data:
                    return seen, sent
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        seen |= {str(name): str(text) for name, text in event.headers or []}
                    if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        return seen, sent
                sock.sendall(connection.data_to_send())

    @pytest.mark.parametrize("path", ["/tmem.v1.PagesService/Put", "/tmem.v1.ExtentsService/Exchange"])
    def test_a_length_prefix_of_3_gib_is_refused_and_costs_no_memory(self, daemon: CaptiveDaemon, path: str) -> None:
        before = rss(daemon)
        prefix = b"\x00" + (3 << 30).to_bytes(4, "big")

        seen, _ = self.request(daemon, path, [prefix, bytes(16000), bytes(16000)])

        assert seen.get("grpc-status") == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        assert rss(daemon) - before < 8 << 20

    def test_the_same_by_hand_with_an_honest_prefix_is_answered(self, daemon: CaptiveDaemon) -> None:
        seen, _ = self.request(daemon, "/tmem.v1.CapabilitiesService/GetCapabilities", [b"\x00" + bytes(4)])

        assert seen.get("grpc-status", "0") == "0"
        assert seen[":status"] == "200"

    def test_messages_above_the_limit_are_refused_by_grpc_itself(self, plain: PlainClient) -> None:
        assert unary_bytes(plain, "PagesService/Put", bytes(5 << 20)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestClientsThatMisbehave:
    def test_a_client_that_takes_no_answers_costs_little_and_is_cut_off(
        self, start_daemon: Callable[..., CaptiveDaemon], pool_name: Names
    ) -> None:
        daemon = start_daemon("--stalled-reader-timeout-seconds", "2", "--session-timeout-seconds", "600")
        with PlainClient(daemon.target) as plain, tmem.client.connect(daemon.target) as bystander:
            pool = bystander.create_pool(pool_name(), chunk_pages=16)
            plain_bytes = b"".join(map(random_page, range(512)))
            pool.put(7, 0, plain_bytes)
            ref = plain.create_pool(pool_name())
            stream = plain.exchange(ref)
            for block in range(4):
                stream.send(put_raw(ref, 7, block * 512, plain_bytes[: 480 * PAGE], block + 1, batch_id=block))
                stream.receive()
            before = rss(daemon)
            # As much as the window allows, again and again, and never a read: grpc's own buffers fill up, then ours.
            asked = 0
            while asked < 3:
                stream.send(get(ref, 7, asked * 512, pages=480, batch_id=100 + asked, answer_bytes=480 * PAGE))
                asked += 1
            deadline = time.monotonic() + 30
            while not total(scrape(daemon.metrics_url), "tmem_streams_cut_total", cause="stalled"):
                assert time.monotonic() < deadline, daemon.log()
                buffer = bytearray(PAGE)
                assert pool.get_into(7, 3, buffer).hit  # others are served meanwhile
                assert buffer == random_page(3)
            grown = rss(daemon) - before

            assert grown <= 8 << 20
            assert total(scrape(daemon.metrics_url), "tmem_streams") == 1

    def test_a_client_that_vanishes_in_the_middle_of_a_batch_leaves_whole_pages_or_none(
        self, start_daemon: Callable[..., CaptiveDaemon], pool_name: Names
    ) -> None:
        daemon = start_daemon()
        name = pool_name()
        with PlainClient(daemon.target) as setup:
            ref = setup.create_pool(name)
        with Program(VANISHING, daemon.target, name, ref.token.hex()) as program:
            assert program.line() == "sending"
        with tmem.client.connect(daemon.target) as client:
            pool = client.open_pool(name, ref.token)
            for block in range(200):
                buffer = bytearray(512 * PAGE)
                result = pool.get_into(7, block * 512, buffer)
                assert result.hit or result.pages == [Code.MISS] * 512
                if result.hit:
                    assert buffer == text_page(block) * 512

    def test_pools_beyond_the_tenants_limit_are_refused_and_the_others_unharmed(
        self, start_daemon: Callable[..., CaptiveDaemon]
    ) -> None:
        daemon = start_daemon()
        with tmem.client.connect(daemon.target) as client:
            assert client.capabilities.limits.max_pools_per_tenant == 1024
            first = client.create_pool("p0")
            first.put(7, 0, A)
            for number in range(1, 1024):
                client.create_pool(f"p{number}")
            with pytest.raises(errors.PoolLimit, match="1024"):
                client.create_pool("one more")

            assert first.get_into(7, 0, bytearray(PAGE)).hit
            assert len(client.pools()) == 1024

    def test_a_silent_session_is_parked_and_its_stream_ended(
        self, start_daemon: Callable[..., CaptiveDaemon], pool_name: Names
    ) -> None:
        daemon = start_daemon("--session-timeout-seconds", "1", "--heartbeat-interval-seconds", "0.2")
        with PlainClient(daemon.target) as plain, tmem.client.connect(daemon.target) as lively:
            pool = lively.create_pool(pool_name())
            pool.put(7, 0, A)
            ref = plain.create_pool(pool_name())
            stream = plain.exchange(ref)

            error = stream.error()

            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "heartbeat" in str(error.details())
            parked = {info.name: info.parked for info in lively.pools()}
            assert sorted(parked.values()) == [False, True]
            assert pool.get_into(7, 0, bytearray(PAGE)).hit  # its heartbeats kept it alive
            assert lively.counters.reconnects == 0

    def test_a_stream_that_is_never_opened_is_ended(self, start_daemon: Callable[..., CaptiveDaemon]) -> None:
        daemon = start_daemon("--session-timeout-seconds", "1")
        with PlainClient(daemon.target) as plain:
            import queue

            requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
            call = plain.extents.Exchange(iter(requests.get, None))
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
            requests.put(None)

            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


VANISHING = """
import sys
import tmem.client
from tests.pages import text_page
target, name, token = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
with tmem.client.connect(target) as client:
    pool = client.open_pool(name, token)
    with pool.batch() as batch:
        for block in range(200):
            batch.put(7, block * 512, text_page(block) * 512)
            if block == 20:
                print("sending", flush=True)
"""
