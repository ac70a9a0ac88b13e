"""The session core against a real conversation, over a network that the test is."""

import random

import pytest
from tests.pages import PAGE, extent, random_page, text_page
from tests.sim import PureClient, PureServer

from tmem.client._core.operations import EchoOperation
from tmem.server.store.pools import PoolRequest
from tmem.v1 import extents_pb2 as pb
from tmem.wire.errors import Closed, DeadlineExceeded, Fenced, NoSuchPool, Refused
from tmem.wire.handles import Version
from tmem.wire.limits import MAX_MESSAGE_BYTES
from tmem.wire.results import Code, PoolKind, Reason

A, B, C = text_page(1), text_page(2), random_page(3)


@pytest.fixture
def server() -> PureServer:
    return PureServer(random.Random(1))


@pytest.fixture
def client(server: PureServer) -> PureClient:
    return PureClient(server)


def stored(client: PureClient, pool, obj: int, index: int, plain: bytes) -> None:  # type: ignore[no-untyped-def]
    operation = client.put(pool, obj, index, plain)
    assert operation is not None
    client.settle()
    assert operation.results[0].stored


def read(client: PureClient, pool, obj: int, index: int, pages: int = 1):  # type: ignore[no-untyped-def]
    reading = client.get(pool, obj, index, pages)
    assert reading.started
    client.settle()
    return reading


class TestPages:
    def test_a_page_goes_there_and_back(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)

        assert read(client, pool, 7, 0).page() == A

    def test_what_was_never_stored_costs_no_message(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        before = client.counters.messages_sent

        reading = read(client, pool, 7, 0, 4)

        assert reading.codes == [Code.MISS] * 4
        assert reading.result.done
        assert client.counters.messages_sent == before

    def test_only_the_stored_pages_of_an_extent_are_asked_for(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 1, A)
        stored(client, pool, 7, 3, B)

        reading = read(client, pool, 7, 0, 5)

        assert reading.operation.pages == 2
        assert reading.codes == [Code.MISS, Code.HIT, Code.MISS, Code.HIT, Code.MISS]
        assert (reading.page(1), reading.page(3)) == (A, B)
        assert reading.page(0) == reading.page(2) == b"\xee" * PAGE  # untouched

    def test_extents_and_single_pages_are_the_same_pages(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        plain = bytes(extent(0, 64))
        stored(client, pool, 7, 0, plain)
        stored(client, pool, 7, 20, C)

        reading = read(client, pool, 7, 0, 64)

        assert bytes(reading.buffer) == plain[: 20 * PAGE] + C + plain[21 * PAGE :]
        assert client.counters.copies.get_pages == 15  # the chunk that was overwritten inside is no longer whole

    def test_a_refused_put_leaves_nothing(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        server.service.lifecycle.table.owned("local", pool.pool_id).frozen = True

        operation = client.put(pool, 7, 0, B)
        assert operation is not None
        client.settle()

        assert operation.results[0].reason == Reason.FROZEN
        reading = read(client, pool, 7, 0)
        assert reading.codes == [Code.MISS]
        assert reading.operation.pages == 0

    def test_a_take_is_a_get_and_a_conditional_flush(self, client: PureClient) -> None:
        pool = client.create_pool("a", PoolKind.EPHEMERAL)
        stored(client, pool, 7, 0, A)
        reading = read(client, pool, 7, 0)
        assert reading.result.take
        assert read(client, pool, 7, 0).page() == A

        assert client.ack(pool, reading.result) is not None
        client.settle()

        assert read(client, pool, 7, 0).codes == [Code.MISS]
        again = client.ack(pool, reading.result)
        client.settle()
        assert again is not None
        assert again.results[0].found == 0

    def test_a_put_between_take_and_ack_wins(self, client: PureClient) -> None:
        pool = client.create_pool("a", PoolKind.EPHEMERAL)
        stored(client, pool, 7, 0, A)
        reading = read(client, pool, 7, 0)
        stored(client, pool, 7, 0, B)

        client.ack(pool, reading.result)
        client.settle()

        assert read(client, pool, 7, 0).page() == B
        other = PureClient(client.server)
        second = other.open_pool("a", pool.token)
        assert read(other, second, 7, 0).page() == B

    def test_an_ack_that_removes_some_pages_of_an_extent_does_not_make_the_others_miss(
        self, client: PureClient
    ) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A + B)
        reading = read(client, pool, 7, 0, 2)
        stored(client, pool, 7, 1, C)

        client.ack(pool, reading.result)
        client.settle()

        again = read(client, pool, 7, 0, 2)
        assert again.codes == [Code.MISS, Code.HIT]
        assert again.page(1) == C

    def test_an_ack_of_what_is_gone_already_keeps_the_map_right(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        reading = read(client, pool, 7, 0)
        for _ in range(2):
            client.ack(pool, reading.result)
            client.settle()
        before = client.counters.messages_sent
        assert read(client, pool, 7, 0).codes == [Code.MISS]
        assert client.counters.messages_sent == before

    def test_an_ack_whose_answer_was_lost_has_taken_the_page_all_the_same(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        client.ack(pool, read(client, pool, 7, 0).result)
        assert client.stream is not None
        client.stream.deliver_to_server()
        client.disconnect()
        client.settle()  # it is sent again, and finds nothing

        assert read(client, pool, 7, 0).codes == [Code.MISS]

    def test_an_evicted_page_is_a_miss_and_its_marker_goes(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a", PoolKind.EPHEMERAL)
        stored(client, pool, 7, 0, A)
        server.store.flush_object(1, Version(9, 9), [7])  # as an eviction would

        assert read(client, pool, 7, 0).codes == [Code.MISS]
        before = client.counters.messages_sent
        assert read(client, pool, 7, 0).codes == [Code.MISS]
        assert client.counters.messages_sent == before

    def test_a_persistent_page_that_vanished_is_lost_never_a_miss(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        server.store.flush_object(1, Version(9, 9), [7])

        assert read(client, pool, 7, 0).codes == [Code.LOST]
        assert read(client, pool, 7, 0).codes == [Code.LOST]

    def test_an_old_page_with_a_valid_checksum_is_lost_and_leaves_the_buffer_alone(
        self, client: PureClient, server: PureServer
    ) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A + B)
        other = PureClient(server)
        stored(other, other.open_pool("a", pool.token), 7, 0, C)
        server.service.lifecycle.open("local", "a", pool.token, 0.0)
        member = next(iter(server.service.lifecycle.table.owned("local", pool.pool_id).members.values()))
        pool.generation = member.generation  # as if this client had opened it and knew nothing of the other's put
        client.disconnect()

        reading = read(client, pool, 7, 0, 2)

        assert reading.codes == [Code.LOST, Code.HIT]
        assert (reading.page(0), reading.page(1)) == (b"\xee" * PAGE, B)

    def test_corrupt_bytes_are_corrupt_and_zeroed(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, C + A)
        segment = server.store._pools[1].segments[0]  # type: ignore[attr-defined]
        segment.memory[segment.used - 100 : segment.used] = bytes(100)

        reading = read(client, pool, 7, 0, 2)

        assert reading.codes == [Code.CORRUPT] * 2
        assert bytes(reading.buffer) == bytes(2 * PAGE)
        assert client.ack(pool, reading.result) is None  # never flushed for that

    @pytest.mark.parametrize("code", [0, 1, 7, 8, 16, 1000])
    def test_a_code_of_a_newer_server_is_a_refusal(self, client: PureClient, code: int) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        reading = client.get(pool, 7, 0)
        assert client.stream is not None
        client.stream.deliver_to_server()
        answer = pb.ExchangeResponse()
        answer.ParseFromString(client.stream.to_client.pop())
        answer.get.ClearField("chunks")
        answer.get.ClearField("runs")
        answer.get.ClearField("page_crc32c")
        answer.ClearField("body")
        answer.get.codes.append(code)  # type: ignore[arg-type]
        client.stream.to_client.append(answer.SerializeToString())

        client.settle()

        assert reading.codes == [Code.REFUSED]
        assert isinstance(reading.result.error, Refused)
        assert not reading.result.error.retryable


class TestOrder:
    def test_a_handle_has_one_unsettled_write(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        assert client.put(pool, 7, 0, A) is not None

        assert client.put(pool, 7, 0, B) is None
        assert client.flush(pool, 7, 0) is None
        assert client.flush_object(pool, 7) is None
        assert client.put(pool, 7, 1, B) is not None

        client.settle()
        assert client.put(pool, 7, 0, B) is not None

    def test_a_get_behind_a_put_sees_it_whatever_comes_back_first(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        client.put(pool, 7, 0, A)
        reading = client.get(pool, 7, 0)
        assert client.stream is not None
        while client.stream.to_server:
            client.stream.deliver_to_server()

        client.stream.to_client.reverse()
        client.settle()

        assert reading.page() == A

    def test_a_get_before_a_flush_that_is_answered_after_it_is_believed(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        reading = client.get(pool, 7, 0)
        client.flush(pool, 7, 0)
        assert client.stream is not None
        while client.stream.to_server:
            client.stream.deliver_to_server()
        client.stream.to_client.reverse()
        client.settle()

        assert reading.codes == [Code.HIT]
        assert reading.page() == A


class TestGivingUp:
    def test_nothing_is_written_to_a_buffer_after_its_get_was_given_up(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        reading = client.get(pool, 7, 0)

        assert client.core.give_up(reading.operation)
        client.settle()

        assert reading.page() == b"\xee" * PAGE
        assert isinstance(reading.operation.error, DeadlineExceeded)
        assert client.core.window.used_batches == 0

    def test_a_put_that_was_given_up_holds_its_handle_until_the_floor_has_passed_it(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        operation = client.put(pool, 7, 0, A)
        assert operation is not None
        assert client.stream is not None
        late = client.stream.to_server.pop()  # somewhere on the way
        client.core.give_up(operation)
        assert client.core.wants_heartbeat
        assert client.put(pool, 7, 0, B) is None

        client.heartbeat()
        client.settle()
        stored(client, pool, 7, 0, B)
        client.stream.to_server.append(late)
        client.settle()

        assert read(client, pool, 7, 0).page() == B

    def test_a_put_that_never_left_is_settled_at_once(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        operation = client.put(pool, 7, 0, A)  # there is no stream yet
        assert operation is not None

        client.core.give_up(operation)

        assert client.put(pool, 7, 0, B) is not None

    def test_the_pages_of_a_put_that_was_given_up_are_uncertain(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        operation = client.put(pool, 7, 0, A)
        assert operation is not None
        client.core.give_up(operation)

        reading = read(client, pool, 7, 0)

        assert reading.operation.pages == 1  # the server was asked
        assert reading.page() == A

    def test_an_ack_that_finds_another_page_does_not_make_a_put_that_was_given_up_certain(
        self, client: PureClient
    ) -> None:
        """It finds another one because the put came through after all: the page is the put's, and not lost."""
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        reading = read(client, pool, 7, 0)
        operation = client.put(pool, 7, 0, B)
        assert operation is not None
        client.core.give_up(operation)
        client.heartbeat()
        client.settle()

        acknowledged = client.ack(pool, reading.result)
        client.settle()

        assert acknowledged is not None
        assert acknowledged.results[0].found == 0
        again = read(client, pool, 7, 0)
        assert again.codes == [Code.HIT]
        assert again.page() == B

    def test_credit_of_what_was_given_up_comes_back_with_its_answer(self, client: PureClient) -> None:
        client.create_pool("a")
        client.settle()
        operation = EchoOperation(bytes(1000), 0)
        client.start(operation)
        client.core.give_up(operation)
        assert client.core.window.used_batches == 1

        client.settle()

        assert client.core.window.used_batches == client.core.window.used_bytes == 0


class TestReconnect:
    def test_what_is_unanswered_is_sent_again(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        operation = client.put(pool, 7, 0, A)
        client.disconnect()

        client.settle()

        assert operation is not None
        assert operation.results[0].stored
        assert client.counters.replays == 1
        assert read(client, pool, 7, 0).page() == A

    def test_a_replay_after_a_lost_answer_leaves_the_same_state(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        client.settle()
        client.put(pool, 7, 0, bytes(extent(0, 64)))
        assert client.stream is not None
        client.stream.deliver_to_server()
        client.disconnect()  # the answer is lost

        client.settle()

        assert server.store.counts().pages == 64
        assert bytes(read(client, pool, 7, 0, 64).buffer) == extent(0, 64)

    def test_operations_started_without_a_stream_wait_for_one(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        operation = client.put(pool, 7, 0, A)
        assert operation is not None

        client.settle()

        assert operation.results[0].stored

    @pytest.mark.parametrize("answered", [False, True])
    def test_a_stream_that_breaks_while_lost_pools_are_made_again_does_not_end_them(
        self, client: PureClient, server: PureServer, answered: bool
    ) -> None:
        pool = client.create_pool("a")
        other = client.create_pool("b")
        stored(client, pool, 7, 0, A)
        client.disconnect()
        server.restart()
        server.service.lifecycle.create("local", PoolRequest("stranger", 2), 0.0)  # so that numbers differ
        client.connect()
        assert client.stream is not None
        client.stream.deliver_to_server()
        client.deliver_to_client()  # Opened: the pools are gone
        if answered:
            client.stream.deliver_to_server()  # they are made again, and nobody hears of it
        client.disconnect()

        client.settle()

        assert pool.error is None
        assert other.error is None
        assert read(client, pool, 7, 0).codes == [Code.LOST]
        stored(client, pool, 7, 0, B)
        assert read(client, pool, 7, 0).page() == B

    def test_a_get_that_was_asked_before_a_loss_is_lost_even_if_a_put_of_its_page_is_on_its_way(
        self, client: PureClient, server: PureServer
    ) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        reading = client.get(pool, 7, 0)
        put = client.put(pool, 7, 0, B)
        client.disconnect()
        server.restart()

        client.settle()

        assert reading.codes == [Code.LOST]
        assert put is not None
        assert put.results[0].stored
        assert read(client, pool, 7, 0).page() == B

    def test_a_lost_page_is_lost_even_if_a_put_of_it_was_begun_since_it_was_asked_for(
        self, client: PureClient, server: PureServer
    ) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        client.disconnect()
        server.restart()
        client.settle()
        reading = client.get(pool, 7, 0)
        client.put(pool, 7, 0, B)

        client.settle()

        assert reading.codes == [Code.LOST]
        assert read(client, pool, 7, 0).page() == B

    def test_an_opened_pool_made_again_unheard_is_not_taken_for_a_fenced_one(
        self, client: PureClient, server: PureServer
    ) -> None:
        token = client.create_pool("a").token
        successor = PureClient(server)
        client.disconnect()
        pool = successor.open_pool("a", token)
        stored(successor, pool, 7, 0, A)
        successor.disconnect()
        server.restart()
        successor.connect()
        assert successor.stream is not None
        successor.stream.deliver_to_server()
        successor.deliver_to_client()
        successor.stream.deliver_to_server()  # made again under number 1, with generation 1
        successor.disconnect()

        successor.settle()

        assert read(successor, pool, 7, 0).codes == [Code.LOST]

    def test_a_smaller_window_after_a_reconnect_is_kept_to(self, server: PureServer) -> None:
        client = PureClient(server)
        pool = client.create_pool("a")
        client.settle()
        operations = [client.put(pool, 7, 512 * n, bytes(random.Random(n).randbytes(512 * PAGE))) for n in range(2)]
        assert all(operations)
        client.disconnect()
        server.settings = server.settings.model_copy(update={"max_window": MAX_MESSAGE_BYTES})
        server.service.settings = server.settings

        client.settle()  # the server raises if more is in flight than it granted

        assert all(operation.results[0].stored for operation in operations if operation is not None)

    def test_the_window_is_never_exceeded(self, server: PureServer) -> None:
        client = PureClient(server)
        pool = client.create_pool("a")
        client.settle()
        started = 0
        while client.put(pool, 1, started, random_page(started)) is not None:
            started += 1
        readings = 0
        while client.get(pool, 1, readings).started:
            readings += 1

        assert 700 < started <= 1024
        assert readings > 20  # puts left room
        assert client.core.window.used_bytes <= client.core.window.max_bytes
        client.settle(rounds=10_000)
        assert client.core.window.used_bytes == 0

    def test_a_server_that_lost_everything_gets_its_pools_made_again(
        self, client: PureClient, server: PureServer
    ) -> None:
        kept, cache = client.create_pool("kept"), client.create_pool("cache", PoolKind.EPHEMERAL)
        stored(client, kept, 7, 0, A)
        stored(client, cache, 7, 0, B)
        under_way = client.put(kept, 8, 0, C)
        epoch = kept.epoch
        server.restart()
        client.disconnect()
        client.settle()

        assert under_way is not None
        assert under_way.results[0].stored
        assert kept.incomplete
        assert kept.epoch > epoch
        assert read(client, kept, 7, 0).codes == [Code.LOST]
        assert read(client, kept, 8, 0).page() == C
        assert read(client, kept, 9, 0).codes == [Code.MISS]
        assert read(client, cache, 7, 0).codes == [Code.MISS]
        stored(client, kept, 7, 0, B)
        assert read(client, kept, 7, 0).page() == B

    def test_pages_of_a_pool_made_again_are_lost_to_an_agent_without_its_map(
        self, client: PureClient, server: PureServer
    ) -> None:
        pool = client.create_pool("kept")
        stored(client, pool, 7, 0, A)
        epoch = pool.epoch
        server.restart()
        client.disconnect()
        client.settle()
        stored(client, pool, 8, 0, B)

        agent = PureClient(server)
        opened = agent.open_pool("kept", pool.token, epoch)

        assert read(agent, opened, 7, 0).codes == [Code.LOST]
        assert read(agent, opened, 8, 0).page() == B
        flushed = agent.flush(opened, 7, 0)
        assert flushed is not None
        agent.settle()
        assert read(agent, opened, 7, 0).codes == [Code.MISS]

    def test_a_pool_that_somebody_destroyed_is_not_made_again(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        server.service.lifecycle.destroy(server.service.lifecycle.table.owned("local", pool.pool_id))
        client.disconnect()
        operation = client.put(pool, 7, 1, B)
        client.settle()

        assert operation is not None
        assert isinstance(operation.error, NoSuchPool)
        assert len(server.service.lifecycle.table) == 0

    def test_a_fenced_client_learns_it_and_changes_nothing(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        late = client.put(pool, 7, 0, B)
        client.disconnect()
        successor = PureClient(server)
        opened = successor.open_pool("a", pool.token)
        stored(successor, opened, 7, 0, C)

        client.settle()

        assert late is not None
        assert isinstance(late.error, Fenced)
        assert isinstance(pool.error, Fenced)
        assert read(successor, opened, 7, 0).page() == C
        with pytest.raises(Fenced):
            client.put(pool, 7, 0, B)

    def test_a_fenced_batch_on_an_open_stream_is_refused(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        successor = PureClient(server)
        opened = successor.open_pool("a", pool.token)
        late = client.put(pool, 7, 0, B)
        client.settle()

        assert late is not None
        assert late.results[0].reason == Reason.FENCED
        assert read(successor, opened, 7, 0).page() == A

    def test_a_second_client_with_the_same_generation_is_kept_out(self, client: PureClient, server: PureServer) -> None:
        pool = client.create_pool("a")
        client.settle()
        twin = PureClient(server)
        twin._send(twin.core.add_pool(pool))
        twin.settle()

        assert isinstance(pool.error, Fenced)


class TestLoss:
    @pytest.mark.parametrize("confirmed", [False, True])
    def test_a_stored_page_whose_overwrite_was_given_up_is_lost_with_its_server_and_no_miss(
        self, client: PureClient, server: PureServer, confirmed: bool
    ) -> None:
        pool = client.create_pool("a")
        client.settle()
        stored(client, pool, 7, 0, A)
        overwrite, flush = client.put(pool, 7, 0, B), client.flush(pool, 7, 1)
        new = client.put(pool, 7, 2, C)
        for operation in (overwrite, flush, new):
            assert operation is not None
            assert client.core.give_up(operation)
        if confirmed:
            client.heartbeat()
            client.settle()
        client.disconnect()
        server.restart()
        client.settle()

        assert read(client, pool, 7, 0).codes == [Code.LOST]
        assert read(client, pool, 7, 2).codes == [Code.MISS]

    def test_what_is_sent_again_to_a_server_that_lost_everything_stays_uncertain_until_it_is_answered(
        self, client: PureClient, server: PureServer
    ) -> None:
        pool = client.create_pool("a")
        client.settle()
        stored(client, pool, 7, 0, A)
        stored(client, pool, 8, 0, A)
        put, flush = client.put(pool, 7, 0, B), client.flush_object(pool, 8)
        client.disconnect()
        server.restart()
        client.settle()

        assert put is not None
        assert put.results[0].stored
        assert flush is not None
        assert flush.done
        assert read(client, pool, 7, 0).page() == B
        assert read(client, pool, 8, 0).codes == [Code.MISS]


class TestEnding:
    def test_draining_sends_nothing_more_and_finishes_what_is_in_flight(
        self, client: PureClient, server: PureServer
    ) -> None:
        from tmem.v1 import extents_pb2 as pb
        from tmem.wire.answers import encode_control

        pool = client.create_pool("a")
        stored(client, pool, 7, 0, A)
        in_flight = client.put(pool, 7, 1, B)
        assert client.stream is not None
        client.stream._send(encode_control(pb.Drain(grace_ms=1000)), None)
        client.deliver_to_client()
        later = client.put(pool, 7, 2, C)
        client.settle()

        assert in_flight is not None
        assert later is not None
        assert in_flight.results[0].stored
        assert not later.done
        assert client.core.drained
        client.disconnect()
        client.settle()
        assert later.results[0].stored

    def test_a_removed_pool_fails_what_is_in_flight(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.settle()
        operation = client.put(pool, 7, 0, A)

        failed = client.core.remove_pool(pool, Closed("gone"))

        assert failed == [operation]
        with pytest.raises(Closed):
            client.put(pool, 7, 0, A)

    def test_a_closed_client_takes_nothing(self, client: PureClient) -> None:
        pool = client.create_pool("a")
        client.core.closed = True
        with pytest.raises(Closed):
            client.put(pool, 7, 0, A)


@pytest.mark.parametrize("seed", range(60))
def test_any_history_of_cuts_and_restarts_of_the_network_ends_in_the_state_of_its_writes(seed: int) -> None:
    """Random writes over a network that is cut at random: every answered write holds, in order, and nothing else."""
    chance = random.Random(seed)
    server = PureServer(chance)
    client = PureClient(server)
    pool = client.create_pool("a")
    client.settle()
    model: dict[tuple[int, int], bytes] = {}
    pending: list[tuple[object, dict[tuple[int, int], bytes | None]]] = []
    operation: object
    effect: dict[tuple[int, int], bytes | None]
    for step in range(120):
        dice = chance.random()
        obj, index = chance.randrange(3), chance.randrange(20)
        if dice < 0.4:
            pages = chance.choice((1, 1, 3, 8))
            plain = bytes(extent(step * 10, pages))
            operation = client.put(pool, obj, index, plain)
            effect = {(obj, index + n): plain[n * PAGE : (n + 1) * PAGE] for n in range(pages)}
        elif dice < 0.5:
            operation = client.flush(pool, obj, index, 3)
            effect = {(obj, index + n): None for n in range(3)}
        elif dice < 0.55:
            operation = client.flush_object(pool, obj)
            effect = {(obj, n): None for n in range(30)}
        elif dice < 0.62:
            client.disconnect()
            client.connect()
            continue
        else:
            stream = client.stream
            assert stream is not None
            if stream.to_server and chance.random() < 0.5:
                stream.deliver_to_server()
            elif stream.to_client:
                if chance.random() < 0.3 and client.core.open:
                    stream.to_client.rotate(chance.randrange(len(stream.to_client)))
                client.deliver_to_client()
            continue
        if operation is not None:
            pending.append((operation, effect))
            for handle, plain_page in effect.items():
                if plain_page is None:
                    model.pop(handle, None)
                else:
                    model[handle] = plain_page
    client.settle(rounds=5000)

    assert all(operation.done and operation.error is None for operation, _ in pending)  # type: ignore[attr-defined]
    for obj in range(3):
        reading = read(client, pool, obj, 0, 30)
        for index in range(30):
            if (obj, index) in model:
                assert reading.codes[index] == Code.HIT
                assert reading.page(index) == model[obj, index]
            else:
                assert reading.codes[index] == Code.MISS
    assert server.store.counts().pages == len(model)
