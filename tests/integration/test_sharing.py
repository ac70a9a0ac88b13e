"""What each tenant may have, and pools that tenants share."""

import os

import pytest
from tests.integration.guarded import CAROL, Guarded
from tests.pages import PAGE, random_page

import tmem.client
from tmem.wire import errors

A, B = random_page(1), random_page(2)


class TestLimits:
    def test_a_tenants_quota_counts_over_all_its_pools_and_for_nobody_else(
        self, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        assert bob.capabilities.limits.tenant_quota_bytes == 100 << 10
        first, second = bob.create_pool("a"), bob.create_pool("b")
        first.put(7, 0, b"".join(map(random_page, range(16))))
        with pytest.raises(errors.QuotaExceeded):
            second.put(7, 0, b"".join(map(random_page, range(16))))
        assert second.put(7, 0, A).stored
        assert alice.create_pool("a").put(7, 0, b"".join(map(random_page, range(64)))).stored
        first.destroy()
        assert second.put(7, 16, b"".join(map(random_page, range(16)))).stored

    def test_a_tenants_own_number_of_pools(self, alice: tmem.client.Client, bob: tmem.client.Client) -> None:
        assert bob.capabilities.limits.max_pools_per_tenant == 2
        first = bob.create_pool("a")
        bob.create_pool("b")
        with pytest.raises(errors.PoolLimit, match="tenant bob has 2 pools"):
            bob.create_pool("c")
        for number in range(3):
            alice.create_pool(f"p{number}")
        first.destroy()
        bob.create_pool("c")

    def test_memberships_count_as_pools(self, alice: tmem.client.Client, bob: tmem.client.Client) -> None:
        shared = alice.create_pool("cache", kind="shared")
        shared.authorize("bob")
        bob.create_pool("a")
        entered = bob.join_pool(shared.uuid)
        with pytest.raises(errors.PoolLimit, match="tenant bob works on 2 pools"):
            bob.join_pool(shared.uuid)
        entered.leave()
        bob.join_pool(shared.uuid)


class TestReclaiming:
    def test_a_tenant_gets_its_own_memory_back_and_nobody_elses(
        self, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        ours = alice.create_pool("cache", kind="ephemeral")
        kept = alice.create_pool("kept")
        theirs = bob.create_pool("cache", kind="ephemeral")
        for pool in (ours, kept, theirs):
            pool.put(7, 0, b"".join(map(random_page, range(16))))
        stat = ours.stat()
        assert alice.freeable_bytes() == stat.payload_bytes + stat.index_bytes

        assert alice.reclaim(1 << 30) == stat.payload_bytes + stat.index_bytes

        assert (ours.stat().pages, kept.stat().pages, theirs.stat().pages) == (0, 16, 16)
        assert alice.freeable_bytes() == 0
        assert bob.freeable_bytes() > 0


class TestSharing:
    def test_whoever_was_authorized_joins_and_reaches_the_same_pages(
        self, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        ours = alice.create_pool("cache", kind="shared")
        ours.put(7, 0, A)
        with pytest.raises(errors.NoSuchPool):
            bob.join_pool(ours.uuid)
        ours.authorize("bob")

        theirs = bob.join_pool(ours.uuid)

        buffer = bytearray(PAGE)
        assert theirs.get_into(7, 0, buffer).hit
        assert buffer == A
        theirs.put(7, 1, B)
        assert ours.get_into(7, 1, buffer).hit
        assert buffer == B
        assert theirs.token != ours.token

    def test_another_tenant_is_not_let_in_and_learns_nothing(self, guarded: Guarded, alice: tmem.client.Client) -> None:
        ours = alice.create_pool("cache", kind="shared")
        ours.authorize("bob")
        with tmem.client.connect(guarded.target, token=CAROL) as carol:
            with pytest.raises(errors.NoSuchPool) as forbidden:
                carol.join_pool(ours.uuid)
            with pytest.raises(errors.NoSuchPool) as unknown:
                carol.join_pool(os.urandom(16))
            assert carol.pools() == []

        assert str(forbidden.value) == str(unknown.value)

    def test_a_guest_uses_pages_and_leaves_and_does_nothing_else_to_the_pool(
        self, guarded: Guarded, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        ours = alice.create_pool("cache", kind="shared")
        ours.put(7, 0, A)
        ours.authorize("bob")
        theirs = bob.join_pool(ours.uuid)
        for forbidden in (
            theirs.freeze,
            theirs.thaw,
            lambda: theirs.resize(quota_bytes=1),
            theirs.destroy,
            lambda: theirs.authorize("carol"),
            lambda: theirs.deauthorize("alice"),
        ):
            with pytest.raises(errors.Forbidden, match="only the owner"):
                forbidden()

        assert ours.get_into(7, 0, bytearray(PAGE)).hit
        assert not ours.info().frozen
        assert theirs.leave() == 0
        with pytest.raises(errors.Closed):
            theirs.get_into(7, 0, bytearray(PAGE))
        assert ours.put(7, 1, B).stored

    def test_who_was_deauthorized_stays_in_but_does_not_come_back(
        self, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        ours = alice.create_pool("cache", kind="shared")
        ours.authorize("bob")
        theirs = bob.join_pool(ours.uuid)
        ours.deauthorize("bob")
        assert theirs.put(7, 0, A).stored
        theirs.leave()
        with pytest.raises(errors.NoSuchPool):
            bob.join_pool(ours.uuid)

    def test_a_shared_pool_counts_for_whoever_answers_for_it_now(
        self, guarded: Guarded, alice: tmem.client.Client, bob: tmem.client.Client
    ) -> None:
        """Bob has a quota: what he shared and left is not his any more."""
        theirs = bob.create_pool("cache", kind="shared")
        theirs.authorize("alice")
        ours = alice.join_pool(theirs.uuid)
        ours.put(7, 0, b"".join(map(random_page, range(20))))
        private = bob.create_pool("private")
        with pytest.raises(errors.QuotaExceeded):
            private.put(7, 0, b"".join(map(random_page, range(16))))

        theirs.leave()

        assert private.put(7, 0, b"".join(map(random_page, range(16)))).stored
        assert ours.put(7, 64, b"".join(map(random_page, range(64)))).stored
        assert ours.info().owner == "alice"
        ours.freeze()  # hers now
