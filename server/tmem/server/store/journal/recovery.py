"""Doing again what the journal says, at the start: pools, their rights, and their pages.

Owns: the form of a POOL entry, and what each entry does to the table and the store. Entries are done in order, as they were done the
first time, by the same code; quotas do not count meanwhile, because what was accepted once stays accepted.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tmem.server.store.interface import Flushed, PoolPolicy, Store, Stored
from tmem.server.store.pools import Member, Pool, PoolRequest, PoolTable
from tmem.wire.errors import OutOfCapacity, TmemError
from tmem.wire.handles import Version
from tmem.wire.requests import Flush, FlushObject, Put, decode_request
from tmem.wire.results import Durability, PoolFlag, PoolKind, Reason
from tmem.wire.splice import BytesLike

from .entries import JournalError, Kind

__all__ = ["MemoryShortError", "Recovery", "describe_durable", "describe_pool", "drop_payload"]


class MemoryShortError(JournalError):
    """A put finds no room in memory; once pages have left for a disk it may."""


def describe_pool(pool: Pool, *, with_token: bool = True) -> bytes:
    """The payload of a POOL entry; without the token for a file that goes elsewhere."""
    (member,) = pool.members.values()
    request = asdict(pool.request)
    if not with_token:
        request["token"] = b""
    policy = pool.policy
    state = {
        "key": pool.key,
        "pool_id": member.pool_id,
        "tenant": pool.owner,
        "token": member.token.hex() if with_token else "",
        "generation": pool.generation,
        "epoch": pool.epoch,
        "incomplete": pool.incomplete,
        "frozen": pool.frozen,
        "quota_bytes": policy.quota_bytes,
        "reserved_bytes": policy.reserved_bytes,
        "weight": policy.weight,
        "chunk_pages": policy.chunk_pages,
        "request": {name: value.hex() if isinstance(value, bytes) else value for name, value in request.items()},
    }
    return json.dumps(state, separators=(",", ":")).encode()


def describe_durable(table: PoolTable) -> Iterator[bytes]:
    """The payload of a POOL entry for every pool of durability `disk`."""
    return (describe_pool(pool) for pool in table if pool.policy.durability == Durability.DISK)


def drop_payload(key: int) -> bytes:
    """The payload of a DROP entry."""
    return key.to_bytes(8, "little")


@dataclass(slots=True)
class Done:
    """How much was done again.

    Attributes:
        pages: put, not counting what was taken away later.
    """

    entries: int = 0
    payload_bytes: int = 0
    pages: int = 0


class Recovery:
    """Does entries again.

    Args:
        store: what holds the pages; not the layer that would write them down anew.
        layers: the same store within the layers that must know of its pools.
        table: who may use it.

    Attributes:
        done: how much.
        ended: the last entry says that the daemon ended in order.
    """

    def __init__(self, store: Store, layers: Store, table: PoolTable) -> None:
        self._store = store
        self._layers = layers
        self._table = table
        self._pools: dict[int, Pool] = {}
        self._quotas: dict[int, int] = {}
        self._reserved: dict[int, int] = {}
        self.done = Done()
        self.ended = False

    def replay(self, kind: Kind, payload: memoryview, name: str) -> None:
        """Does one entry.

        Raises:
            MemoryShortError: there is no room for it; it may be tried again.
            JournalError: it says what can't be; `name` names the file.
        """
        self.ended = kind == Kind.END
        try:
            if kind == Kind.POOL:
                self._restore(bytes(payload))
            elif kind == Kind.DROP:
                self._drop(int.from_bytes(payload, "little"))
            elif kind == Kind.BATCH:
                self._batch(payload)
        except OutOfCapacity as error:
            raise MemoryShortError(f"{name}: {error}") from error
        except (TmemError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(f"{name}: an entry of kind {kind.name} can't be done again: {error}") from error
        self.done.entries += 1
        self.done.payload_bytes += len(payload)

    def finish(self, *, survived: bool, epoch: int, now: float) -> None:
        """Quotas count again; every pool waits for its client.

        Args:
            survived: everything acknowledged is here. If not, every pool has a new epoch and is incomplete.
            epoch: the least that a new epoch may be.
            now: since when they are parked.

        Raises:
            JournalError: what a pool has reserved can't be promised any more.
        """
        for key, pool in self._pools.items():
            pool.policy.quota_bytes = self._quotas[key]
            try:
                if self._reserved[key]:
                    self._store.reserve(key, self._reserved[key])
            except OutOfCapacity as error:
                raise JournalError(f"pool {pool.name!r} of tenant {pool.owner}: {error}") from error
            for member in pool.members.values():
                member.parked_since = now
            if not survived:
                pool.epoch = max(epoch, pool.epoch + 1)
                pool.incomplete = True

    # ---- Pools ----

    def _restore(self, payload: bytes) -> None:
        state = json.loads(payload)
        asked = state["request"]
        request = PoolRequest(**{**asked, "token": bytes.fromhex(asked["token"]), "uuid": bytes.fromhex(asked["uuid"])})
        key: int = state["key"]
        pool = self._pools.get(key)
        new = pool is None
        if pool is None:
            policy = PoolPolicy(
                key=key,
                kind=PoolKind(request.kind),
                tenant=state["tenant"],
                chunk_pages=state["chunk_pages"],
                durability=Durability.DISK,
            )
            pool = self._pools[key] = Pool(
                policy=policy,
                name=request.name,
                kind=policy.kind,
                flags=PoolFlag(request.flags),
                owner=state["tenant"],
                first_owner=state["tenant"],
                uuid=b"",
                epoch=state["epoch"],
                request=request,
            )
        pool.epoch = state["epoch"]
        pool.incomplete = state["incomplete"]
        pool.frozen = state["frozen"]
        pool.generation = state["generation"]
        pool.policy.weight = state["weight"]
        self._quotas[key] = state["quota_bytes"]
        self._reserved[key] = state.get("reserved_bytes", 0)  # a journal of an older daemon has none
        member = Member(state["tenant"], state["pool_id"], bytes.fromhex(state["token"]), pool.generation)
        pool.members = {pool.generation: member}
        if new:
            self._table.restore(pool, member)
            self._layers.add_pool(pool.policy)

    def _drop(self, key: int) -> None:
        pool = self._pools.pop(key)
        del self._quotas[key]
        del self._reserved[key]
        self._table.destroy(pool)
        self._layers.drop_pool(key)

    # ---- Pages ----

    def _batch(self, payload: BytesLike) -> None:
        batch, _ = decode_request(bytes(payload))
        if not isinstance(batch, Put | Flush | FlushObject):
            raise TypeError(f"a {type(batch).__name__} changes nothing")
        header = batch.header
        key = header.pool_id
        if key not in self._pools:
            raise ValueError(f"it names pool {key}, which the journal has not made")
        version = Version(header.generation, header.sequence)
        if isinstance(batch, Put):
            stored = self._store.put(key, version, batch, header.generation)
            assert isinstance(stored, Stored)
            # STALE: a newer page is there, whose removal could not be written. It was put later, and it stays.
            refused = next((reason for reason in stored.reasons or () if reason not in {0, Reason.STALE}), None)
            if refused == Reason.CAPACITY:
                raise OutOfCapacity("the journal holds more than memory_limit allows: raise it")
            if refused is not None:
                raise ValueError(f"a put is refused {Reason(refused).name}")
            self.done.pages += sum(extent.pages for extent in batch.extents)
        elif isinstance(batch, Flush):
            assert isinstance(self._store.flush(key, version, batch.extents, batch.conditions), Flushed)
        else:
            assert isinstance(self._store.flush_object(key, version, batch.objects), Flushed)
