"""Statements about pools: how they are made, named and ended, and what a wrong request for one does."""

from collections.abc import Callable
from typing import Any

from tmem.client import Client
from tmem.v1 import pools_pb2
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.errors import InvalidRequest, PoolLimit
from tmem.wire.limits import PROTOCOL_VERSION, UUID_BYTES
from tmem.wire.results import Code, PoolKind, Reason, enum_field

from .expect import expect, refused, same
from .kit import statement
from .plain import Plain, flush_message, get_message, put_message, ref_of, refusals_of
from .samples import PAGE_BYTES, page
from .stage import Stage, fetch

_NOWHERE = 10**15
_ODD_IDS = (0, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, _NOWHERE)


@statement(
    1,
    "Numbers of pools are unique within a tenant; two tenants may have the same number for different pools.",
    added=True,
)
def numbers_are_unique_within_a_tenant(stage: Stage) -> None:
    ours = [stage.pool() for _ in range(4)]
    theirs = [stage.pool(client=stage.second) for _ in range(4)]
    for pools in (ours, theirs):
        same(len({pool.pool_id for pool in pools}), 4, "different numbers of four pools")
    # Whoever is behind catches up, so that both have a pool of one number.
    ahead, behind = max(pool.pool_id for pool in ours), max(pool.pool_id for pool in theirs)
    client, pools, other = (stage.second, theirs, ours) if ahead > behind else (stage.first, ours, theirs)
    for _ in range(min(abs(ahead - behind), 64)):
        pools.append(stage.pool(client=client))
    twins = [(a, b) for a in pools for b in other if a.pool_id == b.pool_id]
    for number, (one, two) in enumerate(twins[:1]):
        one.put(7, 0, page(number))
        two.put(7, 0, page(number + 1))
        same(fetch(one, 7, 0), [page(number)], "the page of one of two pools of the same number")
        same(fetch(two, 7, 0), [page(number + 1)], "the page of the other")


@statement(2, "One pool more than a tenant may have is refused, and the pools that are there are unharmed.")
def one_pool_too_many_is_refused(stage: Stage) -> None:
    own = stage.own("--max-pools-per-tenant", "4")
    client = own.client()
    pools = [own.pool(client=client) for _ in range(4)]
    for number, pool in enumerate(pools):
        pool.put(7, 0, page(number))
    refused(lambda: own.pool(client=client), PoolLimit, what="a fifth pool of four")
    same(len(client.pools()), 4, "pools after the refusal")
    for number, pool in enumerate(pools):
        same(fetch(pool, 7, 0), [page(number)], "a page stored before the refusal")
    pools[0].destroy()
    own.pool(client=client)


def _unchanged(client: Client, call: Callable[[], object], what: str) -> None:
    """A request that must be refused as invalid, and make no pool."""
    before = {pool.name for pool in client.pools()}
    refused(call, InvalidRequest, what=what)
    same({pool.name for pool in client.pools()}, before, f"pools after {what}")


@statement(3, "A pool that is persistent and shared at once is refused.")
def persistent_and_shared_is_refused(stage: Stage) -> None:
    client = stage.first
    _unchanged(client, lambda: stage.pool("persistent", uuid=b"u" * UUID_BYTES), "a persistent pool with a UUID")
    _unchanged(client, lambda: stage.pool("shared", durability="disk"), "a shared pool of durability disk")


def _create(stage: Stage, plain: Plain, what: str, **fields: Any) -> None:
    """A pool that can't be: refused, and none made."""
    name = stage.name()
    request = pools_pb2.CreatePoolRequest(
        name=name, **({"kind": enum_field(PoolKind.PERSISTENT), "abi_version": PROTOCOL_VERSION} | fields)
    )
    found = plain.failing(plain.pools.CreatePool, request, what)
    same(found, ("INVALID_ARGUMENT", "INVALID"), what)
    expect(name not in plain.names(), f"{what} was refused, and the pool is there")


@statement(4, "A pool of a page size that is not supported is refused, and none is made.")
def other_page_sizes_are_refused(stage: Stage) -> None:
    plain = stage.plain()
    for size in (1, 512, 4095, 8192, 65536, 1 << 21, (1 << 32) - 1):
        _create(stage, plain, f"a pool of pages of {size} bytes", page_size=size)
    stage.plain_pool(plain, page_size=PAGE_BYTES)


@statement(
    5, "A pool of an unknown version of these semantics, or with any reserved bit set, is refused, and none is made."
)
def unknown_versions_and_reserved_bits_are_refused(stage: Stage) -> None:
    plain = stage.plain()
    for version in (0, PROTOCOL_VERSION + 1, (1 << 32) - 1):
        _create(stage, plain, f"a pool of version {version}", abi_version=version)
    for bit in range(3, 32):
        _create(stage, plain, f"a pool with flag bit {bit}", flags=1 << bit)
    for kind in (0, 4, 99):
        _create(stage, plain, f"a pool of kind {kind}", kind=kind)


def _is_nowhere(plain: Plain, ref: PoolRef, what: str) -> None:
    """Every operation on a pool says that there is none, by calls and on a stream."""
    none = int(Reason.NO_SUCH_POOL)
    answers = {
        "put": plain.put(ref, 7, 0, page(1), 1),
        "get": plain.get(ref, 7, 0),
        "flush": plain.flush(ref, 7, 0, 2),
        "flush of the object": plain.flush_object(ref, 7, 3),
    }
    for name, answer in answers.items():
        same((Code(answer.code), answer.reason), (Code.REFUSED, none), f"a {name} {what}")
    stream = plain.exchange()
    put = stream.ask(put_message(ref, [(7, 0, page(1))], 4)).put
    get = stream.ask(get_message(ref, 7, 0)).get
    flush = stream.ask(flush_message(ref, 7, 0, 5)).flush
    stream.close()
    for name, batch in (("put", put), ("get", get), ("flush", flush)):
        same([Code(code) for code in batch.codes], [Code.REFUSED], f"a streamed {name} {what}")
        same(refusals_of(batch, 1), [Reason.NO_SUCH_POOL], f"the reason of a streamed {name} {what}")


@statement(6, "Put, get and flush in a pool that was never made say that there is no such pool, which is no miss.")
def there_is_no_such_pool(stage: Stage) -> None:
    plain = stage.plain()
    _is_nowhere(plain, PoolRef(pool_id=_NOWHERE, generation=1, token=b"t" * 32), "in a pool that was never made")


@statement(7, "Destroying an unknown pool says that it is not found and changes nothing, whatever the number.")
def destroying_an_unknown_pool_changes_nothing(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 0, page(1))
    plain = stage.plain()
    before = plain.names()
    for pool_id in _ODD_IDS:
        for token in (b"", pool.token, b"t" * 32):
            request = pools_pb2.DestroyPoolRequest(pool=PoolRef(pool_id=pool_id, generation=1, token=token))
            found = plain.failing(plain.pools.DestroyPool, request, f"destroying pool {pool_id}")
            same(found, ("NOT_FOUND", "NO_SUCH_POOL"), f"destroying pool {pool_id}")
    wrong = ref_of(pool)
    wrong.token = b"t" * 32
    found = plain.failing(plain.pools.DestroyPool, pools_pb2.DestroyPoolRequest(pool=wrong), "another's pool")
    same(found, ("NOT_FOUND", "NO_SUCH_POOL"), "destroying a pool with a wrong token")
    same(plain.names(), before, "pools after all that")
    same(fetch(pool, 7, 0), [page(1)], "the page of the pool that is there")


@statement(8, "After a pool was destroyed every handle in it fails, and so do puts, until it is made again.")
def a_destroyed_pool_is_no_more(stage: Stage) -> None:
    name = stage.name()
    pool = stage.pool(name=name)
    pool.put(7, 0, page(1))
    ref = ref_of(pool)
    same(pool.destroy(), 1, "pages that went with the pool")
    plain = stage.plain()
    _is_nowhere(plain, ref, "in a pool that was destroyed")
    again = stage.pool(name=name)
    again.put(7, 0, page(2))
    same(fetch(again, 7, 0), [page(2)], "a page of the pool that was made again")
    if again.pool_id != ref.pool_id:
        _is_nowhere(plain, ref, "under the number of the pool that was destroyed")


@statement(9, "Of a pool that was destroyed and made again no old page can be seen.")
def a_pool_made_again_is_empty(stage: Stage) -> None:
    name = stage.name()
    for kind in ("persistent", "ephemeral", "shared"):
        old = stage.pool(kind, name=name)
        old.put(7, 0, b"".join(map(page, range(16))))
        old_epoch = old.epoch
        old.destroy()
        new = stage.pool(kind, name=name)
        expect(new.epoch != old_epoch, "the pool that was made again has the epoch of the old one")
        same(new.stat().pages, 0, f"pages of a new {kind} pool")
        for index in (0, 5, 15):
            same(stage.held(new, 7, index), Code.MISS, f"page {index} of a {kind} pool made again")
        new.destroy()
