"""The four demands that the wire must answer, each by its number."""

import tracemalloc
from collections.abc import Callable
from typing import Any

from tests.pages import PAGE, random_page, text_page

import tmem.client
import tmem.client.sync.stream
from tmem.cli.scrape import scrape, total
from tmem.client.testing import CaptiveDaemon
from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import decode_answer

BLOCK = b"".join(text_page(number) for number in range(512))
# Compresses about tenfold, as logs do: so what is allocated for it is far from the block's own size.
RECORDS = "".join(
    f"{number:08d} page put stored in pool swap0 after {number % 977:4d} us\n" for number in range(40_000)
)
DENSE = RECORDS.encode()[: 512 * PAGE]
Names = Callable[[], str]


def batches(daemon: CaptiveDaemon, op: str) -> float:
    return total(scrape(daemon.metrics_url), "tmem_exchange_batches_total", op=op)


def calls(daemon: CaptiveDaemon, method: str) -> float:
    return total(scrape(daemon.metrics_url), "tmem_rpc_requests_total", method=f"PagesService/{method}")


def test_2_mib_take_512_unary_exchanges_and_one_on_the_stream(
    daemon: CaptiveDaemon, client: tmem.client.Client, pool_name: Names
) -> None:
    pool = client.create_pool(pool_name())
    buffer = bytearray(len(BLOCK))
    before = [calls(daemon, "Put"), calls(daemon, "Get"), batches(daemon, "put"), batches(daemon, "get")]
    for index in range(512):
        pool.put_page_sync(1, index, BLOCK[index * PAGE : (index + 1) * PAGE])
        pool.get_page_sync(1, index, memoryview(buffer)[index * PAGE : (index + 1) * PAGE])
    assert buffer == BLOCK
    pool.put(2, 0, BLOCK)
    pool.get_into(2, 0, buffer)
    after = [calls(daemon, "Put"), calls(daemon, "Get"), batches(daemon, "put"), batches(daemon, "get")]

    assert [now - then for now, then in zip(after, before, strict=True)] == [512, 512, 1, 1]


def test_no_plain_page_is_copied_on_the_stream_path_on_either_side(
    daemon: CaptiveDaemon, client: tmem.client.Client, pool_name: Names
) -> None:
    pool = client.create_pool(pool_name())
    before = total(scrape(daemon.metrics_url), "tmem_full_size_copies_total")
    incompressible = b"".join(map(random_page, range(512)))
    same_filled = bytes(512 * PAGE)
    for number, plain in enumerate((BLOCK, incompressible, same_filled, BLOCK[: 37 * PAGE])):
        buffer = bytearray(len(plain))
        pool.put(number, 0, plain)
        assert pool.get_into(number, 0, buffer).hit
        assert buffer == plain

    assert (client.counters.copies.put_pages, client.counters.copies.get_pages) == (0, 0)
    assert total(scrape(daemon.metrics_url), "tmem_full_size_copies_total") == before


def test_reading_part_of_a_chunk_is_a_copy_and_is_counted(client: tmem.client.Client, pool_name: Names) -> None:
    pool = client.create_pool(pool_name())
    pool.put(1, 0, BLOCK)
    pool.get_into(1, 5, bytearray(3 * PAGE))

    assert client.counters.copies.get_pages == 3


def test_a_single_page_read_out_of_an_extent_by_an_old_client_is_a_counted_fallback(
    daemon: CaptiveDaemon, client: tmem.client.Client, pool_name: Names
) -> None:
    pool = client.create_pool(pool_name())
    pool.put(1, 0, BLOCK)
    before = scrape(daemon.metrics_url)
    buffer = bytearray(PAGE)
    for index in range(10):
        assert pool.get_page_sync(1, index, buffer).hit
        assert buffer == text_page(index)
    after = scrape(daemon.metrics_url)

    for name in ("tmem_expanded_pages_total", "tmem_full_size_copies_total"):
        assert total(after, name) - total(before, name) == 10


def test_a_put_and_a_get_of_2_mib_allocate_their_compressed_message_and_small_change(
    client: tmem.client.Client, pool_name: Names
) -> None:
    """Traced is every allocation that Python makes, in every thread; a plain block would be 2 MiB of it."""
    pool = client.create_pool(pool_name())
    plain = memoryview(bytearray(DENSE))
    buffer = bytearray(len(DENSE))
    pool.put(1, 0, plain)
    pool.get_into(1, 0, buffer)
    message = pool.stat().payload_bytes
    small_change = 256 << 10  # columns, results and 512 integers; LZ4's own place for the chunk at work
    assert message < len(DENSE) // 4
    tracemalloc.start()
    try:
        pool.put(1, 512, plain)
        _, put_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        begun, _ = tracemalloc.get_traced_memory()
        pool.get_into(1, 0, buffer)
        _, get_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # A put holds the pieces while it joins them into the message; a get holds the message alone.
    assert put_peak < 2 * message + small_change < len(DENSE)
    assert get_peak - begun < message + small_change
    assert buffer == DENSE


def test_a_thousand_batches_unanswered_from_one_thread_and_answered_out_of_order(
    start_daemon: Callable[..., CaptiveDaemon], pool_name: Names, monkeypatch: Any
) -> None:
    """The daemon holds every answer for a while, by chance; the client's window has room for 1024 batches."""
    daemon = start_daemon("--layer", "delayed:seconds=1.5,jitter_seconds=1.5,seed=7")
    order: list[int] = []

    def spy(data: bytes) -> Any:
        response, slow = decode_answer(data)
        if hasattr(response, "header"):
            order.append(response.header.batch_id)
        return response, slow

    monkeypatch.setattr("tmem.client.sync.stream.decode_answer", spy)
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), chunk_pages=1)
        pool.put(1, 0, text_page())
        pool.flush(1, 0)
        pages = [text_page(number) for number in range(250)]
        with pool.batch() as batch:
            # Puts leave a quarter of the window to gets; both together fill it.
            stores = []
            for number in range(750):
                stores.append(batch.put(7, number, pages[number % 250]))
                batch.submit()
            reads = []
            buffers = [bytearray(PAGE) for _ in range(250)]
            for number, buffer in enumerate(buffers):
                reads.append(batch.get_into(7, number, buffer))
                batch.submit()
            in_flight = batch.in_flight
        assert in_flight == 1000
        assert all(result.stored for result in stores)
        assert all(result.hit for result in reads)
        assert [bytes(buffer) for buffer in buffers] == pages
        answered = [number for number in order if number > 2]
        assert len(answered) == 1000
        assert answered != sorted(answered)
        limits = client.capabilities.limits
        peak_bytes, peak_batches = client.peak_in_flight
        assert peak_batches == 1000 <= limits.max_window_batches
        assert peak_bytes <= limits.max_window_bytes
        # The server cuts off whoever has more in flight than it was granted.
        assert total(scrape(daemon.metrics_url), "tmem_streams_cut_total") == 0
        assert client.counters.reconnects == 0


def test_credit_is_never_exceeded_when_there_is_less_of_it(
    start_daemon: Callable[..., CaptiveDaemon], pool_name: Names
) -> None:
    daemon = start_daemon("--layer", "delayed:seconds=0.01,jitter_seconds=0.05", "--max-window", "4MiB")
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name())
        buffers = [bytearray(len(BLOCK)) for _ in range(12)]
        with pool.batch() as batch:
            for block in range(12):
                batch.put(7, block * 512, BLOCK)
            reads = [batch.get_into(7, block * 512, buffer) for block, buffer in enumerate(buffers)]

        assert all(result.hit for result in reads)
        assert all(buffer == BLOCK for buffer in buffers)
        assert client.peak_in_flight[0] <= 8 << 20
        assert total(scrape(daemon.metrics_url), "tmem_streams_cut_total") == 0


def test_the_body_of_a_batch_is_its_last_field_on_the_wire(
    monkeypatch: Any, daemon: CaptiveDaemon, pool_name: Names
) -> None:
    sent: list[bytes] = []
    original = tmem.client.sync.stream.Stream._send

    def spy(self: Any, messages: Any) -> None:
        sent.extend(messages)
        original(self, messages)

    monkeypatch.setattr("tmem.client.sync.stream.Stream._send", spy)
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name())
        pool.put(7, 0, BLOCK)
    data = next(message for message in sent if len(message) > PAGE)

    message = pb.ExchangeRequest.FromString(data)
    assert data.endswith(message.body)
    assert message.SerializeToString() == data
    assert sum(message.put.chunks.encoded_bytes) == len(message.body)
    assert list(message.put.chunks.pages) == [16]
    assert not message.put.chunks.encoding
