"""The public surface, on a real daemon, with both faces and on both event loops."""

import threading
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from tests.faces import Face
from tests.pages import PAGE, extent, mixed_page, random_page, same_filled_page, text_page

import tmem.client
from tmem.client import Code
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

A, B, C = text_page(1), text_page(2), random_page(3)
Names = Callable[[], str]


@pytest.fixture
def pool(any_client: Any, pool_name: Names) -> Any:
    return any_client.create_pool(pool_name())


class TestPages:
    @pytest.mark.parametrize("plain", [A, random_page(), same_filled_page(), mixed_page(), bytes(extent(0, 512))])
    def test_bytes_come_back_as_they_were(self, pool: Any, plain: bytes) -> None:
        assert pool.put(7, 0, plain).stored
        buffer = bytearray(len(plain))

        result = pool.get_into(7, 0, buffer)

        assert result.hit
        assert not (result.miss or result.lost or result.corrupt)
        assert buffer == plain

    def test_numpy_arrays_go_out_and_come_back_in_place(self, pool: Any) -> None:
        array = numpy.arange(512 * 20, dtype=numpy.int64).reshape(20, 512)
        pool.put(7, 40, array)
        back = numpy.zeros_like(array)

        assert pool.get_into(7, 40, back).hit
        assert (back == array).all()

    def test_after_put_returns_the_buffer_is_the_callers(self, pool: Any) -> None:
        buffer = bytearray(C)
        pool.put(7, 0, buffer)
        buffer[:] = bytes(PAGE)
        back = bytearray(PAGE)
        pool.get_into(7, 0, back)

        assert back == C

    def test_parts_that_are_not_hit_stay_untouched(self, pool: Any) -> None:
        pool.put(7, 1, A)
        buffer = bytearray(b"\xee" * 3 * PAGE)

        result = pool.get_into(7, 0, buffer)

        assert result.pages == [Code.MISS, Code.HIT, Code.MISS]
        assert result.miss
        assert not result.hit
        assert buffer == b"\xee" * PAGE + A + b"\xee" * PAGE

    def test_flush_tells_what_it_found_and_leaves_the_rest(self, pool: Any) -> None:
        pool.put(7, 0, bytes(extent(0, 40)))

        assert pool.flush(7, 10, 5) == 5
        assert pool.flush(7, 10, 5) == 0
        assert pool.flush(7, 0, count=600) == 35
        assert pool.stat().pages == 0

    def test_a_flush_may_span_more_blocks_than_one_message_names(self, pool: Any) -> None:
        with pool.batch() as batch:
            for block in range(600):
                batch.put(7, block * 512 + 3, A)

        assert pool.flush(7, 0, 600 * 512) == 600
        assert pool.stat().pages == 0

    def test_flush_object_takes_every_block_and_no_other_object(self, pool: Any) -> None:
        for index in (0, 600, 2**32 - 1):
            pool.put(7, index, A)
        pool.put(8, 0, B)

        assert pool.flush_object(7) == 3
        assert pool.flush_object(7) == 0
        assert pool.get_into(8, 0, bytearray(PAGE)).hit

    def test_objects_of_192_bits_and_both_ends_of_the_index(self, pool: Any) -> None:
        obj = 2**192 - 1
        pool.put(obj, 2**32 - 1, A)
        pool.put(obj ^ 1 << 100, 2**32 - 1, B)
        buffer = bytearray(PAGE)
        pool.get_into(obj, 2**32 - 1, buffer)

        assert buffer == A

    def test_overwrites_win(self, pool: Any) -> None:
        pool.put(7, 0, bytes(extent(0, 64)))
        pool.put(7, 30, C)
        pool.put(7, 31, A)
        buffer = bytearray(64 * PAGE)
        pool.get_into(7, 0, buffer)

        assert buffer[30 * PAGE : 32 * PAGE] == C + A
        assert buffer[: 30 * PAGE] == extent(0, 30)

    def test_the_unary_calls_and_the_stream_are_the_same_pages(self, pool: Any) -> None:
        pool.put_page_sync(7, 0, A)
        pool.put(7, 16, b"".join(map(text_page, range(16))))
        buffer = bytearray(PAGE)

        assert pool.get_into(7, 0, buffer).hit
        assert buffer == A
        assert pool.get_page_sync(7, 20, buffer).hit
        assert buffer == text_page(4)
        pool.put_page_sync(7, 20, B)
        assert pool.get_into(7, 20, buffer).hit
        assert buffer == B
        assert pool.get_page_sync(7, 99, buffer).miss


class TestTakes:
    @pytest.mark.parametrize(
        ("kind", "options", "take", "taken"),
        [
            ("ephemeral", {}, None, True),
            ("ephemeral", {}, False, False),
            ("ephemeral", {"take": False}, None, False),
            ("persistent", {}, None, False),
            ("persistent", {}, True, True),
            ("persistent", {"take": True}, None, True),
            ("shared", {}, None, False),
        ],
    )
    @pytest.mark.parametrize("get", ["get_into", "get_page_sync"])
    def test_a_get_takes_when_it_should(
        self,
        any_client: Any,
        pool_name: Names,
        kind: str,
        options: dict[str, Any],
        take: bool | None,
        taken: bool,
        get: str,
    ) -> None:
        pool = any_client.create_pool(pool_name(), kind=kind, **options)
        pool.put(7, 0, A)
        buffer = bytearray(PAGE)

        result = getattr(pool, get)(7, 0, buffer, take)

        assert result.hit
        assert buffer == A
        assert result.taken is taken
        assert pool.get_into(7, 0, buffer, take=False).miss is taken
        assert pool.stat().pages == (0 if taken else 1)

    def test_taking_one_page_of_an_extent_takes_that_page(self, any_client: Any, pool_name: Names) -> None:
        pool = any_client.create_pool(pool_name(), kind="ephemeral")
        pool.put(7, 0, bytes(extent(0, 32)))
        pool.get_into(7, 5, bytearray(PAGE))

        result = pool.get_into(7, 0, bytearray(32 * PAGE), take=False)

        assert [number for number, code in enumerate(result.pages) if code == Code.MISS] == [5]

    def test_takes_of_a_batch_are_acknowledged_by_their_results(
        self, face: Face, any_client: Any, pool_name: Names
    ) -> None:
        pool = any_client.create_pool(pool_name(), kind="ephemeral")
        pool.put(7, 0, bytes(extent(0, 8)))
        with pool.batch() as batch:
            result = batch.get_into(7, 0, bytearray(8 * PAGE))
        assert result.hit
        assert not result.taken
        assert pool.stat().pages == 8

        face.finish(result.ack())
        face.finish(result.ack())

        assert result.taken
        assert pool.stat().pages == 0


class TestBatches:
    def test_results_are_per_item(self, any_client: Any, pool_name: Names) -> None:
        pool = any_client.create_pool(pool_name(), quota_bytes=30_000)
        with pool.batch() as batch:
            small = batch.put(7, 0, A)
            big = batch.put(7, 16, bytes(b"".join(map(random_page, range(16)))))
            other = batch.put(7, 40, B)
            absent = batch.get_into(9, 0, bytearray(PAGE))
            buffer = bytearray(PAGE)
            present = batch.get_into(7, 0, buffer)

        assert (small.stored, big.stored, other.stored) == (True, False, True)
        assert big.reason == tmem.client.Reason.QUOTA
        assert isinstance(big.error, errors.QuotaExceeded)
        assert absent.miss
        assert present.hit
        assert buffer == A

    def test_of_equal_handles_the_later_item_wins(self, pool: Any) -> None:
        with pool.batch() as batch:
            batch.put(7, 0, A)
            batch.put(7, 0, B)
        buffer = bytearray(PAGE)
        pool.get_into(7, 0, buffer)

        assert buffer == B

    def test_what_is_put_can_be_got_and_flushed_in_the_same_batch(self, pool: Any) -> None:
        first, second = bytearray(PAGE), bytearray(PAGE)
        with pool.batch() as batch:
            batch.put(7, 0, A)
            got = batch.get_into(7, 0, first)
            flushed = batch.flush(7, 0)
            gone = batch.get_into(7, 0, second)
            batch.put(7, 0, B)

        assert got.hit
        assert first == A
        assert sum(result.found for result in flushed) == 1
        assert gone.miss
        assert second == bytes(PAGE)
        assert pool.get_into(7, 0, second).hit
        assert second == B

    def test_many_extents_are_as_many_messages(self, any_client: Any, pool: Any) -> None:
        plain = bytes(extent(0, 512))
        pool.put(1, 0, A)  # the stream is open
        before = any_client.counters.messages_sent
        with pool.batch() as batch:
            results = [batch.put(7, block * 512, plain) for block in range(8)]
        buffers = [bytearray(len(plain)) for _ in range(8)]
        with pool.batch() as batch:
            reads = [batch.get_into(7, block * 512, buffer) for block, buffer in enumerate(buffers)]

        assert all(result.stored for result in results)
        assert all(result.hit for result in reads)
        assert all(buffer == plain for buffer in buffers)
        assert any_client.counters.messages_sent - before <= 8 + 8 + 1  # and perhaps a heartbeat

    def test_512_single_pages_are_one_message(self, any_client: Any, pool: Any) -> None:
        pool.put(1, 0, A)
        before = any_client.counters.messages_sent
        with pool.batch() as batch:
            for index in range(512):
                batch.put(7, index, text_page(index))

        assert any_client.counters.messages_sent - before <= 2
        assert pool.stat().pages == 513

    def test_a_batch_that_is_over_takes_nothing(self, pool: Any) -> None:
        with pool.batch() as batch:
            batch.put(7, 0, A)
        with pytest.raises(errors.Closed):
            batch.put(7, 1, A)

    def test_submit_and_wait_before_the_end(self, pool: Any) -> None:
        with pool.batch() as batch:
            result = batch.put(7, 0, A)
            assert not result.done
            batch.wait()
            assert result.stored

    def test_an_exception_in_the_block_goes_through(self, pool: Any) -> None:
        def fail() -> None:
            with pool.batch() as batch:
                batch.put(7, 0, A)
                batch.submit()
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            fail()


class TestPools:
    def test_an_existing_name_is_an_error(self, any_client: Any, pool_name: Names) -> None:
        name = pool_name()
        any_client.create_pool(name)
        with pytest.raises(errors.PoolExists, match="open it"):
            any_client.create_pool(name)

    def test_pools_are_listed_as_they_are(self, any_client: Any, pool_name: Names) -> None:
        name = pool_name()
        any_client.create_pool(name, kind="ephemeral", quota_bytes=1 << 20, weight=3, chunk_pages=4, take=False)

        info = next(pool for pool in any_client.pools() if pool.name == name)

        assert (info.kind, info.quota_bytes, info.weight, info.chunk_pages) == ("ephemeral", 1 << 20, 3, 4)
        assert (info.owner, info.durability, info.frozen, info.incomplete) == ("local", "memory", False, False)

    def test_a_destroyed_pool_is_gone_with_its_pages(self, any_client: Any, pool_name: Names) -> None:
        name = pool_name()
        pool = any_client.create_pool(name)
        pool.put(7, 0, bytes(extent(0, 5)))

        assert pool.destroy() == 5

        assert name not in [info.name for info in any_client.pools()]
        with pytest.raises(errors.Closed, match="destroyed"):
            pool.put(7, 0, A)
        again = any_client.create_pool(name)
        assert again.get_into(7, 0, bytearray(PAGE)).miss

    def test_reopening_finds_the_pages_and_fences_the_old_writer(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        name = pool_name()
        with face.connect(daemon.target) as first, face.connect(daemon.target) as second:
            old = first.create_pool(name)
            old.put(7, 0, bytes(extent(0, 600 - 88)))
            old.put(2**150, 2**31, C)

            new = second.open_pool(name, token=old.token)

            assert (new.generation, new.pages_stored) == (2, 513)
            with pytest.raises(errors.Fenced):
                old.put(7, 0, A)
            buffer = bytearray(PAGE)
            assert new.get_into(2**150, 2**31, buffer).hit
            assert buffer == C
            assert new.get_into(7, 0, buffer).hit
            assert buffer == extent(0, 1)
            before = second.counters.messages_sent
            assert new.get_into(9, 0, buffer).miss
            assert second.counters.messages_sent == before

    def test_a_client_that_left_can_come_back_by_its_token(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        name = pool_name()
        with face.connect(daemon.target) as client:
            token = client.create_pool(name).token
        with face.connect(daemon.target) as client:
            assert next(pool for pool in client.pools() if pool.name == name).parked
            pool = client.open_pool(name, token)
            pool.put(7, 0, A)
            assert not next(pool for pool in client.pools() if pool.name == name).parked

    @pytest.mark.parametrize("token", [b"", b"x" * 32])
    def test_without_the_token_there_is_no_such_pool(self, any_client: Any, pool_name: Names, token: bytes) -> None:
        name = pool_name()
        any_client.create_pool(name)
        with pytest.raises(errors.NoSuchPool):
            any_client.open_pool(name, token)

    def test_parked_pools_can_be_destroyed_by_a_person_and_others_not(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        name = pool_name()
        with face.connect(daemon.target) as client:
            pool = client.create_pool(name)
            pool.put(7, 0, A)
            with pytest.raises(errors.Forbidden):
                client.destroy_parked(pool.pool_id)
        with face.connect(daemon.target) as client:
            assert client.stat_pool(pool.pool_id).pages == 1
            assert client.destroy_parked(pool.pool_id) == 1
            with pytest.raises(errors.NoSuchPool):
                client.stat_pool(pool.pool_id)

    def test_frozen_pools_refuse_puts_and_drop_what_was_overwritten(self, pool: Any) -> None:
        pool.put(7, 0, A)
        pool.put(8, 0, B)
        pool.freeze()

        with pytest.raises(errors.PoolFrozen):
            pool.put(7, 0, B)
        assert pool.get_into(7, 0, bytearray(PAGE)).miss
        assert pool.get_into(8, 0, bytearray(PAGE)).hit
        assert pool.flush(8, 0) == 1
        pool.thaw()
        assert pool.put(7, 0, A).stored

    def test_resizing_below_the_use_refuses_puts_and_drops_nothing(self, pool: Any) -> None:
        pool.put(7, 0, bytes(extent(0, 64)))
        pool.resize(quota_bytes=1000)

        with pytest.raises(errors.QuotaExceeded):
            pool.put(8, 0, A)
        assert pool.get_into(7, 0, bytearray(64 * PAGE)).hit
        pool.resize(quota_bytes=0)
        assert pool.put(8, 0, A).stored
        assert pool.info().quota_bytes == 0

    def test_stat_counts(self, pool: Any) -> None:
        pool.put(7, 0, bytes(extent(0, 10)))
        pool.put(7, 0, A)
        pool.get_into(7, 0, bytearray(PAGE))
        pool.flush(7, 0)

        stat = pool.stat()

        assert (stat.pages, stat.objects, stat.blocks) == (9, 1, 1)
        assert (stat.puts_stored, stat.puts_replaced, stat.gets_hit, stat.flushes_found) == (11, 1, 1, 1)
        assert stat.payload_bytes > 0

    def test_encrypted_pools_have_chunks_of_one_page(self, any_client: Any, pool_name: Names) -> None:
        pool = any_client.create_pool(pool_name(), encrypted=True)
        pool.put(7, 0, b"".join(map(text_page, range(16))))

        assert pool.info().chunk_pages == 1
        assert pool.get_into(7, 5, bytearray(PAGE)).hit
        assert any_client.counters.copies.get_pages == 0


class TestSharing:
    def test_two_clients_of_one_uuid_reach_the_same_pages(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        with face.connect(daemon.target) as first, face.connect(daemon.target) as second:
            ours = first.create_pool(pool_name(), kind="shared")
            theirs = second.join_pool(ours.uuid)
            buffer = bytearray(PAGE)
            ours.put(7, 0, A)

            assert theirs.get_into(7, 0, buffer).hit
            assert buffer == A
            theirs.put(7, 0, B)
            assert ours.get_into(7, 0, buffer).hit
            assert buffer == B
            theirs.flush(7, 0)
            assert ours.get_into(7, 0, buffer).miss

    def test_leaving_takes_what_was_used_last_and_the_last_ends_the_pool(
        self, face: Face, daemon: CaptiveDaemon, pool_name: Names
    ) -> None:
        with face.connect(daemon.target) as first, face.connect(daemon.target) as second:
            ours = first.create_pool(pool_name(), kind="shared")
            theirs = second.join_pool(ours.uuid)
            ours.put(1, 0, A)
            ours.put(2, 0, B)
            theirs.get_into(2, 0, bytearray(PAGE))

            assert ours.leave() == 1
            assert theirs.get_into(1, 0, bytearray(PAGE)).miss
            assert theirs.get_into(2, 0, bytearray(PAGE)).hit
            assert theirs.leave() == 1
            with pytest.raises(errors.NoSuchPool):
                second.join_pool(theirs.uuid)

    @pytest.mark.parametrize("uuid", [b"x" * 16, b"\xff" * 16])
    def test_an_unknown_uuid_is_an_explicit_error(self, any_client: Any, uuid: bytes) -> None:
        with pytest.raises(errors.NoSuchPool):
            any_client.join_pool(uuid)


class TestLocalErrors:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((2**192, 0, A), errors.InvalidHandle),
            ((-1, 0, A), errors.InvalidHandle),
            ((7, 2**32, A), errors.InvalidHandle),
            ((7, 511, A + B), errors.InvalidHandle),
            ((7, 0, A[:-1]), errors.InvalidBuffer),
            ((7, 0, b""), errors.InvalidBuffer),
            ((7, 0, bytes(513 * PAGE)), errors.InvalidBuffer),
            ((7, 0, "text"), errors.InvalidBuffer),
        ],
    )
    def test_what_can_not_be_put_is_refused_before_anything_is_sent(
        self, any_client: Any, pool: Any, arguments: tuple[Any, ...], error: type[Exception]
    ) -> None:
        pool.put(1, 0, A)
        before = any_client.counters.messages_sent
        with pytest.raises(error):
            pool.put(*arguments)
        with pytest.raises(error), pool.batch() as batch:
            batch.put(*arguments)

        assert any_client.counters.messages_sent == before

    def test_a_read_only_buffer_can_not_be_read_into(self, pool: Any) -> None:
        with pytest.raises(errors.InvalidBuffer, match="read-only"):
            pool.get_into(7, 0, A)

    def test_unary_calls_carry_one_page(self, pool: Any) -> None:
        with pytest.raises(errors.InvalidBuffer, match="one page"):
            pool.put_page_sync(7, 0, A + B)

    @pytest.mark.parametrize("options", [{"kind": "permanent"}, {"durability": "tape"}])
    def test_options_that_do_not_exist(self, any_client: Any, options: dict[str, str]) -> None:
        with pytest.raises(errors.InvalidOption):
            any_client.create_pool("x", **options)

    @pytest.mark.parametrize(
        "options", [{"chunk_pages": 17}, {"durability": "disk"}, {"uuid": b"u" * 16}, {"name": "x" * 200}]
    )
    def test_pools_that_can_not_be(self, any_client: Any, pool_name: Names, options: dict[str, Any]) -> None:
        with pytest.raises(errors.InvalidRequest, match="can't be made"):
            any_client.create_pool(**({"name": pool_name()} | options))

    def test_nobody_there_is_said_at_once(self, face: Face) -> None:
        with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1 can't be reached"):
            face.connect("127.0.0.1:1")

    def test_a_closed_client_says_so(self, face: Face, daemon: CaptiveDaemon, pool_name: Names) -> None:
        client = face.connect(daemon.target)
        pool = client.create_pool(pool_name())
        pool.put(7, 0, A)
        client.close()
        client.close()
        for call in (
            lambda: pool.put(7, 0, A),
            lambda: pool.get_page_sync(7, 0, bytearray(PAGE)),
            pool.stat,
            pool.destroy,
            client.pools,
        ):
            with pytest.raises(errors.Closed):
                call()


def test_a_client_serves_many_threads_at_once(client: tmem.client.Client, pool_name: Names) -> None:
    pool = client.create_pool(pool_name(), chunk_pages=1)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            buffer = bytearray(4 * PAGE)
            for step in range(60):
                plain = bytes(extent(number * 1000 + step, 4))
                pool.put(number, step * 4, plain)
                assert pool.get_into(number, step * 4, buffer).hit
                assert buffer == plain
                if step % 3 == 0:
                    assert pool.flush(number, step * 4, 4) == 4
        except BaseException as error:  # noqa: BLE001  the assertion in the main thread shows it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    assert pool.stat().pages == 8 * 40 * 4


def test_threads_that_write_one_page_leave_one_of_their_pages(client: tmem.client.Client, pool_name: Names) -> None:
    pool = client.create_pool(pool_name())
    pages = [text_page(number) for number in range(6)]

    def work(page: bytes) -> None:
        for _ in range(20):
            pool.put(7, 0, page)

    threads = [threading.Thread(target=work, args=(page,)) for page in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = bytearray(PAGE), bytearray(PAGE)
    pool.get_into(7, 0, first)
    pool.get_into(7, 0, second)

    assert bytes(first) in pages
    assert first == second


def test_the_names_of_both_faces_are_the_same() -> None:
    for name in ("Client", "Pool", "Batch"):
        ours, theirs = getattr(tmem.client, name), getattr(tmem.client.aio, name)
        public = {member for member in dir(ours) if not member.startswith("_")}
        assert public == {member for member in dir(theirs) if not member.startswith("_")}
