"""The stream as a stranger sees it: sessions, order, replay, fencing, credit."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from tests.integration.wire import PlainClient, flush, get, header, put_raw
from tests.pages import PAGE, random_page

from tmem.client.testing import CaptiveDaemon
from tmem.v1 import extents_pb2 as pb
from tmem.v1.capabilities_pb2 import GetCapabilitiesRequest
from tmem.wire.metadata import REASON
from tmem.wire.results import Code, Reason

A, B, C = random_page(1), random_page(2), random_page(3)
Names = Callable[[], str]


@pytest.fixture
def plain(daemon: CaptiveDaemon) -> Iterator[PlainClient]:
    with PlainClient(daemon.target) as client:
        yield client


def test_opening_grants_a_window_and_tells_what_is_needed(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name(), chunk_pages=4)
    opened = plain.exchange(ref, window=(1 << 40, 1 << 20)).opened
    limits = plain.capabilities.GetCapabilities(GetCapabilitiesRequest())

    assert opened.protocol_version == 1
    assert (opened.window.max_bytes, opened.window.max_batches) == (
        limits.limits.max_window_bytes,
        limits.limits.max_window_batches,
    )
    assert opened.instance_id == limits.instance_id
    assert [(state.reason, state.epoch, state.chunk_pages) for state in opened.pools] == [(0, ref.epoch, 4)]
    assert 0 < opened.heartbeat_interval_ms < opened.session_timeout_ms


def test_a_smaller_window_is_granted_as_asked(plain: PlainClient) -> None:
    opened = plain.exchange(window=(100_000, 3)).opened

    assert (opened.window.max_bytes, opened.window.max_batches) == (100_000, 3)


def test_pools_can_be_attached_later(plain: PlainClient, pool_name: Names) -> None:
    stream = plain.exchange()
    ref = plain.create_pool(pool_name())
    assert stream.ask(put_raw(ref, 7, 0, A, 1)).put.details[0].reason == Reason.NO_SUCH_POOL

    attached = stream.ask(
        pb.ExchangeRequest(attach=pb.Attach(attach_id=9, pools=[pb.PoolAttachment(pool=ref)]))
    ).attached

    assert (attached.attach_id, attached.pools[0].reason) == (9, 0)
    assert not stream.ask(put_raw(ref, 7, 0, A, 1)).put.codes


def test_a_wrong_token_attaches_nothing(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    ref.token = b"x" * 32
    stream = plain.exchange(ref)

    assert stream.opened.pools[0].reason == Reason.NO_SUCH_POOL
    assert stream.ask(get(ref, 7, 0)).get.codes == [Code.REFUSED]


def test_every_answer_carries_its_batch_its_sequence_and_the_epoch(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)

    answer = stream.ask(put_raw(ref, 7, 0, A, sequence=41, batch_id=77)).put.header

    assert (answer.batch_id, answer.sequence, answer.epoch) == (77, 41, ref.epoch)
    assert stream.ask(get(ref, 7, 0, batch_id=78)).get.header.batch_id == 78


def test_operations_take_effect_in_the_order_in_which_they_were_sent(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    for number in range(1, 40, 2):
        stream.send(put_raw(ref, 7, 0, random_page(number), number, batch_id=number))
        stream.send(get(ref, 7, 0, batch_id=number + 1))
    answers = [stream.receive() for _ in range(40)]

    bodies = {answer.get.header.batch_id: answer.body for answer in answers if answer.HasField("get")}
    assert bodies == {number + 1: random_page(number) for number in range(1, 40, 2)}


def test_a_replayed_put_leaves_the_same_state_and_a_late_one_changes_nothing(
    plain: PlainClient, pool_name: Names
) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    first = put_raw(ref, 7, 0, A, sequence=1)
    stream.ask(first)
    assert not stream.ask(first).put.codes
    stream.ask(put_raw(ref, 7, 0, B, sequence=2, floor=2))

    late = stream.ask(first)

    assert late.put.details[0].reason == Reason.STALE
    assert stream.ask(get(ref, 7, 0)).body == B


def test_a_flushed_page_does_not_come_back_by_a_late_put(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    first = put_raw(ref, 7, 0, A, sequence=1)
    stream.ask(first)
    assert list(stream.ask(flush(ref, 7, 0, sequence=2, floor=2)).flush.found) == [1]

    assert stream.ask(first).put.details[0].reason == Reason.STALE
    assert stream.ask(get(ref, 7, 0)).get.codes == [Code.MISS]


def test_a_heartbeat_moves_the_floor(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    floor = pb.Heartbeat(heartbeat_id=5)
    floor.floors.add(pool_id=ref.pool_id, generation=ref.generation, floor=10)

    beat = stream.ask(pb.ExchangeRequest(heartbeat=floor)).heartbeat

    assert beat.heartbeat_id == 5
    assert beat.window.max_batches > 0
    assert stream.ask(put_raw(ref, 7, 0, A, sequence=9)).put.details[0].reason == Reason.STALE
    assert not stream.ask(put_raw(ref, 7, 0, A, sequence=10)).put.codes


def test_unary_calls_share_sequences_floors_and_fences(plain: PlainClient, pool_name: Names) -> None:
    from tmem.v1 import pages_pb2
    from tmem.v1.common_pb2 import ObjectId
    from tmem.wire.checksum import page_checksum

    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    stream.ask(put_raw(ref, 7, 0, B, sequence=5, floor=5))

    def put(sequence: int, generation: int = 1) -> pages_pb2.PutResponse:
        request = pages_pb2.PutRequest(
            pool=ref,
            object=ObjectId(low=7),
            sequence=sequence,
            encoding=2,  # type: ignore[arg-type]
            page=A,
            page_crc32c=page_checksum(A),
        )
        request.pool.generation = generation
        return plain.pages.Put(request)  # type: ignore[no-any-return]

    assert put(4).reason == Reason.STALE
    assert put(6, generation=2).reason == Reason.FENCED
    assert stream.ask(get(ref, 7, 0)).body == B
    assert put(6).code == Code.STORED
    assert stream.ask(get(ref, 7, 0)).body == A


def test_a_fenced_writers_late_batch_changes_nothing(plain: PlainClient, pool_name: Names) -> None:
    from tmem.v1 import pools_pb2

    name = pool_name()
    ref = plain.create_pool(name)
    old = plain.exchange(ref)
    old.ask(put_raw(ref, 7, 0, A, sequence=1))
    plain.pools.OpenPool(pools_pb2.OpenPoolRequest(name=name, token=ref.token))

    assert old.ask(put_raw(ref, 7, 0, B, sequence=2)).put.details[0].reason == Reason.FENCED
    assert old.ask(flush(ref, 7, 0, sequence=3)).flush.details[0].reason == Reason.FENCED
    assert old.ask(get(ref, 7, 0)).get.details[0].reason == Reason.FENCED
    ref.generation = 2
    assert plain.exchange(ref).ask(get(ref, 7, 0)).body == A


def test_granting_a_stream_stops_the_sessions_older_one(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    first = plain.exchange(ref)
    first.ask(put_raw(ref, 7, 0, A, sequence=1))

    second = plain.exchange(ref, session_id=first.session_id)

    error = first.error()
    assert error.code() is grpc.StatusCode.ABORTED
    assert second.opened.pools[0].reason == 0
    assert second.ask(get(ref, 7, 0)).body == A


def test_another_session_may_not_use_the_same_generation(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    first = plain.exchange(ref)
    second = plain.exchange(ref)

    assert second.opened.pools[0].reason == Reason.FENCED
    first.half_close()
    assert list(first.call) == []
    assert plain.exchange(ref).opened.pools[0].reason == 0


def test_a_session_without_its_stream_lives_on_for_its_client(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    first = plain.exchange(ref)
    first.cancel()

    # The server may not have noticed yet; then the new stream stops the old one.
    second = plain.exchange(ref, session_id=first.session_id)

    assert second.opened.pools[0].reason == 0


def test_half_closing_ends_the_call_well_once_everything_is_answered(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    for number in range(20):
        stream.send(put_raw(ref, 7, number, A, number + 1, batch_id=number))
    stream.half_close()

    answers = list(stream.call)

    assert sorted(answer.put.header.batch_id for answer in answers) == list(range(20))
    assert stream.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(("window", "batches"), [((1 << 20, 3), 4), ((3 * PAGE, 100), 4)], ids=["batches", "bytes"])
def test_a_client_with_more_in_flight_than_it_was_granted_is_cut_off(
    daemon: CaptiveDaemon,
    start_daemon: Callable[..., CaptiveDaemon],
    pool_name: Names,
    window: tuple[int, int],
    batches: int,
) -> None:
    slow = start_daemon("--layer", "delayed:seconds=30", "--drain-timeout-seconds", "0")
    with PlainClient(slow.target) as plain:
        ref = plain.create_pool(pool_name())
        stream = plain.exchange(ref, window=window)
        for number in range(batches):
            stream.send(put_raw(ref, 7, number, A, number + 1, batch_id=number))

        error = stream.error()

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "were granted" in str(error.details())


def test_credit_comes_back_with_answers(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref, window=(20_000, 2))
    for number in range(50):
        assert not stream.ask(put_raw(ref, 7, number, A, number + 1)).put.codes


def test_an_echo_touches_nothing(plain: PlainClient) -> None:
    stream = plain.exchange()
    room = pb.BatchHeader(batch_id=3, answer_bytes=1000)

    assert stream.ask(pb.ExchangeRequest(echo=pb.EchoBatch(header=room), body=b"hi")).body == b"hi"
    zeros = pb.ExchangeRequest(echo=pb.EchoBatch(header=room, zero_bytes=1000), body=b"hi")
    assert stream.ask(zeros).body == bytes(1000)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (pb.ExchangeRequest(heartbeat=pb.Heartbeat()), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ExchangeRequest(open=pb.Open(session_id=b"short", protocol_version=1)), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ExchangeRequest(open=pb.Open(session_id=b"s" * 16, protocol_version=2)), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ExchangeRequest(), grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["no open", "short session id", "another protocol", "nothing"],
)
def test_a_stream_that_does_not_begin_with_an_open_is_refused(
    plain: PlainClient, first: pb.ExchangeRequest, code: grpc.StatusCode
) -> None:
    error = plain.exchange(first=first, wait=False).error()

    assert error.code() is code
    assert (REASON, "INVALID") in tuple(error.trailing_metadata())


def test_a_second_open_is_out_of_turn(plain: PlainClient) -> None:
    stream = plain.exchange()
    stream.send(pb.ExchangeRequest(open=pb.Open(session_id=b"s" * 16, protocol_version=1)))

    assert stream.error().code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_get_of_many_single_pages_in_chunks_keeps_to_its_answer_bytes(plain: PlainClient, pool_name: Names) -> None:
    ref = plain.create_pool(pool_name())
    stream = plain.exchange(ref)
    body = b"".join(random_page(number) for number in range(16))
    chunked = put_raw(ref, 7, 0, body, 1)
    del chunked.put.chunks.encoded_bytes[:]
    chunked.put.chunks.encoded_bytes.append(16 * PAGE)
    chunked.put.chunks.pages.append(16)
    assert not stream.ask(chunked).put.codes

    answer = stream.ask(
        pb.ExchangeRequest(
            get=pb.GetBatch(
                header=header(ref, answer_bytes=2 * PAGE),
                extents=pb.Extents(object_low=[7], index=[3, 12]),
            )
        )
    )

    assert answer.body == random_page(3) + random_page(12)
    assert list(answer.get.chunks.encoded_bytes) == [PAGE, PAGE]
