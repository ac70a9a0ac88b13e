"""Tenants by a token file: who is let in, and that nobody ever sees another's pages."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.faces import Face
from tests.integration.guarded import ALICE, BOB, CAROL, FILE, Guarded
from tests.integration.wire import PlainClient, flush, get, put_raw
from tests.pages import PAGE, random_page

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client import Code
from tmem.client.testing import CaptiveDaemon
from tmem.v1 import pools_pb2
from tmem.v1.common_pb2 import PoolRef
from tmem.wire import errors
from tmem.wire.results import Reason

A, B = random_page(1), random_page(2)
# Long enough that a client that went on trying would run into the time limit of the test.
PATIENT = {"connect_timeout": 600.0, "call_timeout": 600.0, "read_timeout": 600.0, "write_timeout": 600.0}


class TestWhoIsLetIn:
    @pytest.mark.parametrize("token", [None, "", "a-token-of-nobody-001", ALICE[:-1], ALICE + " ", f"Bearer {ALICE}"])
    def test_without_a_known_token_nobody_is_at_once(self, face: Face, guarded: Guarded, token: str | None) -> None:
        with pytest.raises(errors.Unauthenticated) as raised:
            face.connect(guarded.target, token=token, **PATIENT)

        assert ALICE not in str(raised.value)
        assert ALICE not in guarded.daemon.log()

    @pytest.mark.parametrize("value", [ALICE, f"bearer {ALICE}", f"Basic {ALICE}", "", f"sha256:{'0' * 64}"])
    def test_every_service_wants_the_token_in_its_form(self, guarded: Guarded, value: str) -> None:
        """On the wire, as a client of one's own would send it."""
        with PlainClient(guarded.target) as plain:
            plain.metadata = (("authorization", value),)
            calls: list[Callable[[], Any]] = [
                lambda: plain.create_pool("p"),
                lambda: plain.pages.Get(pools_pb2.StatPoolRequest(), metadata=plain.metadata, timeout=20),
                lambda: plain.capabilities.Echo(PoolRef(), metadata=plain.metadata, timeout=20),
                lambda: list(plain.pools.ListPages(pools_pb2.ListPagesRequest(), metadata=plain.metadata, timeout=20)),
                plain.exchange,
            ]
            for call in calls:
                with pytest.raises(grpc.RpcError) as raised:
                    call()
                assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with tmem.client.connect(guarded.target, token=ALICE) as alice:
            assert alice.pools() == []

    def test_any_of_a_tenants_tokens_is_good_in_plain_or_hashed(self, guarded: Guarded) -> None:
        for token in (ALICE, "alices-second-token"):
            with tmem.client.connect(guarded.target, token=token) as client:
                assert client.capabilities.tenant == "alice"

    def test_a_digest_is_no_token(self, guarded: Guarded) -> None:
        digest = hashlib.sha256(b"alices-second-token").hexdigest()
        for token in (digest, f"sha256:{digest}"):
            with pytest.raises(errors.Unauthenticated):
                tmem.client.connect(guarded.target, token=token)

    def test_a_daemon_without_a_token_file_asks_for_none(self, daemon: CaptiveDaemon) -> None:
        with tmem.client.connect(daemon.target, token=ALICE) as client:
            assert client.capabilities.tenant == "local"

    def test_health_is_told_to_everybody(self, guarded: Guarded) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        with PlainClient(guarded.target) as plain:
            stub: Any = health_pb2_grpc.HealthStub(plain.channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1

    def test_refused_strangers_are_counted(self, guarded: Guarded) -> None:
        with pytest.raises(errors.Unauthenticated):
            tmem.client.connect(guarded.target)

        samples = scrape(guarded.daemon.metrics_url)
        assert total(samples, "tmem_rpc_requests_total", code="UNAUTHENTICATED") == 1


class TestWalls:
    def test_a_name_may_be_used_by_both_and_each_has_its_own_pages(
        self, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        ours, theirs = alice.create_pool("swap0"), bob.create_pool("swap0")
        ours.put(7, 0, A)
        theirs.put(7, 0, B)
        buffer = bytearray(PAGE)

        for pool, plain in ((ours, A), (theirs, B)):
            assert pool.get_into(7, 0, buffer).hit
            assert buffer == plain
            assert pool.get_page_sync(7, 0, buffer).hit
            assert buffer == plain
        ours.flush_object(7)
        assert theirs.get_into(7, 0, buffer).hit
        ours.destroy()
        assert [info.name for info in bob.pools()] == ["swap0"]
        assert theirs.get_into(7, 0, buffer).hit

    def test_nobody_lists_opens_looks_at_or_ends_anothers_pool(
        self, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        ours = alice.create_pool("secret")
        ours.put(7, 0, A)
        number = alice.pools()[0].pool_id

        assert bob.pools() == []
        with pytest.raises(errors.NoSuchPool) as wrong:
            bob.open_pool("secret", ours.token)
        with pytest.raises(errors.NoSuchPool) as unknown:
            bob.open_pool("nothing", ours.token)
        with pytest.raises(errors.NoSuchPool):
            bob.stat_pool(number)
        with pytest.raises(errors.NoSuchPool):
            bob.destroy_parked(number)
        # Unknown and forbidden are one answer.
        assert str(wrong.value).replace("secret", "nothing") == str(unknown.value)
        assert ours.get_into(7, 0, bytearray(PAGE)).hit

    def test_a_stolen_number_and_token_open_nothing_to_another_tenant(self, guarded: Guarded) -> None:
        """On the wire, with everything that the owner has but its own token for the server."""
        with PlainClient(guarded.target, ALICE) as ours, PlainClient(guarded.target, BOB) as theirs:
            ref = ours.create_pool("secret")
            owner = ours.exchange(ref)
            owner.ask(put_raw(ref, 7, 0, A, 1))

            for request, call in (
                (pools_pb2.StatPoolRequest(pool=ref), theirs.pools.StatPool),
                (pools_pb2.FreezePoolRequest(pool=ref), theirs.pools.FreezePool),
                (pools_pb2.ResizePoolRequest(pool=ref, quota_bytes=1), theirs.pools.ResizePool),
                (pools_pb2.DestroyPoolRequest(pool=ref), theirs.pools.DestroyPool),
                (pools_pb2.LeavePoolRequest(pool=ref), theirs.pools.LeavePool),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    call(request, metadata=theirs.metadata, timeout=20)
                assert raised.value.code() is grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.RpcError) as listing:
                list(theirs.pools.ListPages(pools_pb2.ListPagesRequest(pool=ref), metadata=theirs.metadata, timeout=20))
            assert listing.value.code() is grpc.StatusCode.NOT_FOUND
            stream = theirs.exchange(ref)
            assert int(stream.opened.pools[0].reason) == Reason.NO_SUCH_POOL
            answer = stream.ask(get(ref, 7, 0))
            assert [int(code) for code in answer.get.codes] == [Code.REFUSED]
            assert answer.body == b""
            assert int(stream.ask(flush(ref, 7, 0, 2)).flush.details[0].reason) == Reason.NO_SUCH_POOL
            assert owner.ask(get(ref, 7, 0)).body == A

    def test_pools_of_one_number_in_two_tenants_are_two_pools(self, guarded: Guarded) -> None:
        with PlainClient(guarded.target, ALICE) as ours, PlainClient(guarded.target, BOB) as theirs:
            mine, other = ours.create_pool("a"), theirs.create_pool("b")
            assert mine.pool_id == other.pool_id
            first, second = ours.exchange(mine), theirs.exchange(other)
            first.ask(put_raw(mine, 7, 0, A, 1))
            second.ask(put_raw(other, 7, 0, B, 1))

            assert first.ask(get(mine, 7, 0)).body == A
            assert second.ask(get(other, 7, 0)).body == B

    def test_one_session_id_in_two_tenants_is_two_sessions(self, guarded: Guarded) -> None:
        with PlainClient(guarded.target, ALICE) as ours, PlainClient(guarded.target, BOB) as theirs:
            mine = ours.create_pool("a")
            stream = ours.exchange(mine, session_id=b"s" * 16)

            assert theirs.exchange(session_id=b"s" * 16).opened.protocol_version == 1

            assert not stream.ask(put_raw(mine, 7, 0, A, 1)).put.codes

    def test_under_load_no_byte_goes_to_the_wrong_tenant(self, guarded: Guarded) -> None:
        failures: list[object] = []

        def work(token: str, seed: int) -> None:
            try:
                with tmem.client.connect(guarded.target, token=token) as client:
                    pool = client.create_pool(f"swap{seed}", kind="ephemeral", take=False)
                    for step in range(60):
                        plain = random_page(seed * 1000 + step)
                        pool.put(7, step % 4, plain)
                        buffer = bytearray(PAGE)
                        result = pool.get_into(7, step % 4, buffer)
                        assert result.hit and buffer == plain, (token, step)
                        if step % 10 == 9:
                            pool.flush_object(7)
            except BaseException as error:  # noqa: BLE001  the assertion in the main thread shows it
                failures.append(error)

        jobs = [(ALICE, 1), (CAROL, 1), (ALICE, 2), (CAROL, 2)]
        threads = [threading.Thread(target=work, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []

    def test_metrics_tell_tenants_apart(self, guarded: Guarded, alice: tmem.client.Client, bob: Any) -> None:
        alice.create_pool("p").put(7, 0, A + A)
        bob.create_pool("p").put(7, 0, B)

        samples = scrape(guarded.daemon.metrics_url)
        assert total(samples, "tmem_pages", pool="alice/p") == 2
        assert total(samples, "tmem_pages", pool="bob/p") == 1
        assert total(samples, "tmem_tenant_pages_max") == 2


class TestReload:
    def test_tokens_come_and_go_and_the_pages_stay(self, guarded: Guarded, alice: tmem.client.Client) -> None:
        pool = alice.create_pool("p")
        pool.put(7, 0, A)
        guarded.reload(
            FILE.replace(ALICE, "a-newer-token-of-alice") + "\n[tenants.dave]\ntokens = ['a-token-of-dave-0001']"
        )

        with pytest.raises(errors.Unauthenticated):
            tmem.client.connect(guarded.target, token=ALICE, **PATIENT)
        with pytest.raises(errors.Unauthenticated):
            alice.pools()
        with tmem.client.connect(guarded.target, token="a-newer-token-of-alice") as newer:
            assert [info.name for info in newer.pools()] == ["p"]
        with tmem.client.connect(guarded.target, token="a-token-of-dave-0001") as dave:
            assert dave.pools() == []
            dave.create_pool("p").put(7, 0, B)
        # A stream that was let in lives on: a rotation of tokens costs nobody a page.
        buffer = bytearray(PAGE)
        assert pool.get_into(7, 0, buffer).hit
        assert buffer == A

    def test_a_tenant_that_was_removed_is_cut_off_and_told_why(
        self, face: Face, guarded: Guarded, bob: tmem.client.Client
    ) -> None:
        others = bob.create_pool("p")
        with face.connect(guarded.target, token=CAROL, **PATIENT) as carol:
            pool = carol.create_pool("p")
            pool.put(7, 0, A)
            guarded.reload(FILE[: FILE.index("[tenants.carol]")])
            for call in (
                lambda: pool.put(7, 1, B),
                lambda: pool.get_into(7, 0, bytearray(PAGE)),
                lambda: pool.put_page_sync(7, 2, B),
                carol.pools,
            ):
                with pytest.raises(errors.Unauthenticated):
                    call()
        samples = scrape(guarded.daemon.metrics_url)
        assert total(samples, "tmem_streams_cut_total", cause="removed") == 1
        assert total(samples, "tmem_pages", pool="carol/p") == 1
        assert others.put(7, 0, B).stored

        guarded.reload(FILE)
        with tmem.client.connect(guarded.target, token=CAROL) as back:
            reopened = back.open_pool("p", pool.token)
            assert reopened.get_into(7, 0, bytearray(PAGE)).hit

    def test_quotas_take_effect_on_pools_that_are_there(self, guarded: Guarded, bob: tmem.client.Client) -> None:
        pool = bob.create_pool("p")
        with pytest.raises(errors.QuotaExceeded):
            pool.put(7, 0, b"".join(map(random_page, range(64))))
        guarded.reload(FILE.replace("100KiB", "1MiB"))
        assert pool.put(7, 0, b"".join(map(random_page, range(64)))).stored
        guarded.reload(FILE)
        with pytest.raises(errors.QuotaExceeded):
            pool.put(7, 64, A)
        assert pool.get_into(7, 0, bytearray(64 * PAGE)).hit

    @pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False)])
    def test_a_file_that_everybody_can_read_is_warned_of(self, guarded: Guarded, mode: int, warned: bool) -> None:
        before = guarded.daemon.log().count("daemon.tokens_readable")
        guarded.file.with_suffix(".new").touch(mode)
        guarded.file.with_suffix(".new").chmod(mode)
        guarded.reload(FILE)
        assert (guarded.daemon.log().count("daemon.tokens_readable") > before) == warned

    @pytest.mark.parametrize("text", ["", "not toml", "[tenants.alice]\ntokens = ['short']"])
    def test_a_bad_file_is_reported_and_changes_nothing(
        self, guarded: Guarded, alice: tmem.client.Client, text: str
    ) -> None:
        guarded.reload(text, event="daemon.reload_failed")

        alice.create_pool("p").put(7, 0, A)
        with tmem.client.connect(guarded.target, token=BOB), pytest.raises(errors.Unauthenticated):
            tmem.client.connect(guarded.target)
