from typing import Any

import pytest

from tmem.server.store.pools import Pool, PoolRequest, PoolTable
from tmem.wire.errors import Fenced, Forbidden, InvalidRequest, NoSuchPool, PoolExists, PoolLimit
from tmem.wire.results import Durability, PoolFlag, PoolKind, Reason

P, E, S = (int(kind) for kind in (PoolKind.PERSISTENT, PoolKind.EPHEMERAL, PoolKind.SHARED))


@pytest.fixture
def table() -> PoolTable:
    numbers = iter(range(1000))
    return PoolTable(
        random_bytes=lambda size: next(numbers).to_bytes(size, "big"), durabilities=[Durability.MEMORY], max_pools=16
    )


def create(table: PoolTable, name: str = "a", kind: int = P, tenant: str = "t", **fields: Any) -> tuple[Pool, Any]:
    pool, member, _ = table.create(tenant, PoolRequest(name, kind, **fields), epoch=100)
    return pool, member


class TestCreate:
    def test_a_pool_has_what_was_asked_for(self, table: PoolTable) -> None:
        pool, member = create(table, "swap0", P, quota_bytes=9, weight=3, chunk_pages=4, flags=int(PoolFlag.TAKE))

        assert (pool.name, pool.kind, pool.flags, pool.epoch) == ("swap0", PoolKind.PERSISTENT, PoolFlag.TAKE, 100)
        assert (pool.policy.quota_bytes, pool.policy.weight, pool.policy.chunk_pages) == (9, 3, 4)
        assert (member.generation, pool.owner, pool.uuid, pool.incomplete) == (1, "t", b"", False)

    def test_numbers_are_unique_within_a_tenant_and_two_tenants_may_have_the_same(self, table: PoolTable) -> None:
        ids = [create(table, name)[1].pool_id for name in "abc"]
        other = create(table, "a", tenant="u")[1]

        assert len(set(ids)) == 3
        assert other.pool_id in ids

    def test_a_name_is_taken_once_per_tenant(self, table: PoolTable) -> None:
        create(table, "a")
        create(table, "a", tenant="u")

        with pytest.raises(PoolExists, match="open it"):
            create(table, "a")

    def test_the_same_request_again_finds_the_same_pool(self, table: PoolTable) -> None:
        request = PoolRequest("a", P, token=b"s" * 32)
        first, member, new = table.create("t", request, epoch=1)
        again, same, newer = table.create("t", PoolRequest("a", P, token=b"s" * 32), epoch=2)

        assert (first is again, member is same, new, newer) == (True, True, True, False)

    def test_the_same_token_with_other_wishes_is_no_repetition(self, table: PoolTable) -> None:
        create(table, "a", token=b"s" * 32)
        with pytest.raises(PoolExists):
            create(table, "a", token=b"s" * 32, weight=9)

    def test_more_pools_than_the_limit_are_refused_and_the_others_unharmed(self, table: PoolTable) -> None:
        pools = [create(table, f"p{number}")[0] for number in range(16)]

        with pytest.raises(PoolLimit, match="16"):
            create(table, "one more")

        assert not any(pool.gone for pool in pools)
        create(table, "p0", tenant="u")

    def test_a_tenants_own_limit_counts(self, table: PoolTable) -> None:
        table.create("t", PoolRequest("a", P), epoch=1, max_pools=1)
        with pytest.raises(PoolLimit):
            table.create("t", PoolRequest("b", P), epoch=1, max_pools=1)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"kind": 0}, "kind 0"),
            ({"kind": 9}, "kind 9"),
            ({"page_size": 8192}, "page size 8192"),
            ({"abi_version": 2}, "abi_version 2"),
            ({"abi_version": 0}, "abi_version 0"),
            ({"flags": 8}, "reserved"),
            ({"flags": 1 << 31}, "reserved"),
            ({"flags": 3}, "contradict"),
            ({"name": ""}, "characters"),
            ({"name": "x" * 129}, "characters"),
            ({"name": "a\nb"}, "characters"),
            ({"uuid": b"u" * 16}, "can't be shared"),
            ({"kind": E, "uuid": b"u" * 16}, "can't be shared"),
            ({"kind": S, "uuid": b"u"}, "UUID"),
            ({"kind": S, "uuid": b"\xff" * 16}, "all ones"),
            ({"token": b"short"}, "token"),
            ({"chunk_pages": 17}, "chunk_pages"),
            ({"flags": 4, "chunk_pages": 16}, "encrypted"),
            ({"weight": 1_000_001}, "weight"),
            ({"durability": 2}, "it has: memory"),
            ({"durability": 7}, "it has: memory"),
        ],
    )
    def test_what_can_not_be_is_refused_with_its_reason(
        self, table: PoolTable, fields: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=message):
            create(table, **fields)

        assert len(table) == 0

    def test_ephemeral_pools_are_not_durable(self) -> None:
        table = PoolTable(random_bytes=bytes, durabilities=[Durability.MEMORY, Durability.DISK], max_pools=9)
        create(table, "a", P, durability=2)
        with pytest.raises(InvalidRequest, match="persistent"):
            create(table, "b", E, durability=2)

    def test_encrypted_pools_have_chunks_of_one_page(self, table: PoolTable) -> None:
        assert create(table, flags=4)[0].policy.chunk_pages == 1

    def test_a_pool_made_again_is_incomplete_and_has_a_higher_epoch(self, table: PoolTable) -> None:
        pool, _ = create(table, lost_epoch=10**9, token=b"s" * 32)

        assert pool.incomplete
        assert pool.epoch == 10**9 + 1


class TestOpen:
    def test_opening_fences_the_writer_before(self, table: PoolTable) -> None:
        pool, old = create(table)

        again, new = table.open("t", "a", old.token)

        assert again is pool
        assert (new.generation, new.pool_id, new.token) == (2, old.pool_id, old.token)
        assert pool.gate(old, 1, 0, 5) == Reason.FENCED
        assert pool.gate(new, 2, 0, 5) == Reason.UNSPECIFIED
        with pytest.raises(Fenced):
            table.resolve("t", old.pool_id, old.token, 1)

    @pytest.mark.parametrize(("tenant", "name", "token"), [("t", "a", b"x" * 32), ("t", "b", None), ("u", "a", None)])
    def test_unknown_and_forbidden_are_the_same_answer(
        self, table: PoolTable, tenant: str, name: str, token: bytes | None
    ) -> None:
        _, member = create(table)
        with pytest.raises(NoSuchPool, match="that this token opens"):
            table.open(tenant, name, token or member.token)

    def test_a_shared_pool_is_joined(self, table: PoolTable) -> None:
        _, member = create(table, kind=S)
        with pytest.raises(InvalidRequest, match="join"):
            table.open("t", "a", member.token)


class TestGate:
    def test_floors_rise_and_writes_below_are_stale(self, table: PoolTable) -> None:
        pool, member = create(table)

        assert pool.gate(member, 1, 10, 10) == Reason.UNSPECIFIED
        assert pool.gate(member, 1, 3, 9) == Reason.STALE
        assert pool.gate(member, 1, 0, 10) == Reason.UNSPECIFIED
        assert pool.gate(member, 1, 0, None) == Reason.UNSPECIFIED
        assert member.floor == 10

    @pytest.mark.parametrize("generation", [0, 2, 99])
    def test_another_generation_is_fenced(self, table: PoolTable, generation: int) -> None:
        pool, member = create(table)
        assert pool.gate(member, generation, 0, 1) == Reason.FENCED

    def test_a_fenced_writers_floor_does_not_count(self, table: PoolTable) -> None:
        pool, old = create(table)
        _, new = table.open("t", "a", old.token)

        pool.gate(old, 1, 10**6, 10**6)

        assert pool.gate(new, 2, 1, 1) == Reason.UNSPECIFIED

    def test_a_destroyed_pool_is_no_pool(self, table: PoolTable) -> None:
        pool, member = create(table)
        table.destroy(pool)

        assert pool.gate(member, 1, 0, 1) == Reason.NO_SUCH_POOL
        assert table.of_tenant("t") == []
        with pytest.raises(NoSuchPool):
            table.find("t", member.pool_id, member.token)
        create(table, "a")


class TestSharing:
    def test_members_have_their_own_rights(self, table: PoolTable) -> None:
        pool, owner = create(table, kind=S)
        table.authorize(pool, owner, "u", allowed=True)

        joined, member = table.join("u", pool.uuid)

        assert joined is pool
        assert member.token != owner.token
        assert member.generation != owner.generation
        assert table.resolve("u", member.pool_id, member.token, member.generation) == (pool, member)
        assert table.resolve("t", owner.pool_id, owner.token, owner.generation) == (pool, owner)

    def test_two_clients_of_one_tenant_are_two_members(self, table: PoolTable) -> None:
        pool, owner = create(table, kind=S)
        _, second = table.join("t", pool.uuid)

        assert second.pool_id == owner.pool_id
        assert len(pool.members) == 2

    def test_joining_takes_the_right_to(self, table: PoolTable) -> None:
        pool, owner = create(table, kind=S)
        with pytest.raises(NoSuchPool):
            table.join("u", pool.uuid)
        table.authorize(pool, owner, "u", allowed=True)
        _, member = table.join("u", pool.uuid)
        table.authorize(pool, owner, "u", allowed=False)
        with pytest.raises(NoSuchPool):
            table.join("u", pool.uuid)

        assert pool.gate(member, member.generation, 0, 1) == Reason.UNSPECIFIED  # who is in stays in

    @pytest.mark.parametrize("uuid", [b"", b"u" * 16, b"\xff" * 16])
    def test_unknown_uuids_are_no_pool(self, table: PoolTable, uuid: bytes) -> None:
        with pytest.raises(NoSuchPool):
            table.join("t", uuid)

    def test_a_chosen_uuid_is_kept_and_taken_once(self, table: PoolTable) -> None:
        pool, _ = create(table, "a", S, uuid=b"u" * 16)
        assert pool.uuid == b"u" * 16
        with pytest.raises(PoolExists):
            create(table, "b", S, uuid=b"u" * 16)

    def test_only_the_owner_says_who_may_join(self, table: PoolTable) -> None:
        pool, owner = create(table, kind=S)
        table.authorize(pool, owner, "u", allowed=True)
        _, member = table.join("u", pool.uuid)
        with pytest.raises(Forbidden):
            table.authorize(pool, member, "v", allowed=True)

    def test_nobody_joins_a_private_pool(self, table: PoolTable) -> None:
        pool, member = create(table)
        with pytest.raises(InvalidRequest, match="private"):
            table.authorize(pool, member, "u", allowed=True)

    def test_the_pool_outlives_its_owner_while_it_is_shared(self, table: PoolTable) -> None:
        pool, owner = create(table, kind=S)
        table.authorize(pool, owner, "u", allowed=True)
        _, member = table.join("u", pool.uuid)

        assert not table.leave(pool, owner)

        assert pool.owner == pool.policy.tenant == "u"
        assert table.of_tenant("t") == []
        create(table, "a")  # the name is free again
        assert table.leave(pool, member)

    def test_owned_finds_without_a_token_for_the_maker_alone(self, table: PoolTable) -> None:
        pool, owner = create(table, kind=S)
        table.authorize(pool, owner, "u", allowed=True)
        _, member = table.join("u", pool.uuid)

        assert table.owned("t", owner.pool_id) is pool
        with pytest.raises(NoSuchPool):
            table.owned("u", member.pool_id)
