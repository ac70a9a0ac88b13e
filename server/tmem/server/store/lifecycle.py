"""The life of pools: made, entered, parked, left, destroyed, in the table and in the store at once.

Owns: every change that touches both, and the clearing away of members whose clients died. Pure: time is passed in.

A member that no live session works for is parked. A parked persistent pool waits for its client or for a person, unless a
grace is configured; a parked ephemeral pool, and a shared pool's parked member, go when theirs has run out.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from tmem.wire.errors import InvalidRequest, Refused, StoreFailed
from tmem.wire.results import Durability, PoolKind

from .interface import Store
from .pools import Member, Pool, PoolRequest, PoolTable

__all__ = ["Departure", "Graces", "Lifecycle", "Records"]


class Records(Protocol):
    """Where durable pools are written down; both wait until it is done, and raise OSError."""

    def keep(self, pool: Pool) -> None:
        """The pool is so from now on."""
        ...

    def drop(self, key: int) -> None:
        """The pool is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Graces:
    """How long a dead client's pools wait, in seconds; None = for ever."""

    persistent_seconds: float | None = None
    ephemeral_seconds: float | None = 3600.0


@dataclass(slots=True, eq=False)
class Departure:
    """The pages that leave a shared pool with a member.

    Attributes:
        dropped: how many so far. done: all have. ended: the member was the last, and the pool went with it.
    """

    dropped: int = 0
    done: bool = False
    ended: bool = False


class Lifecycle:
    """Changes pools.

    Args:
        table: who may use what.
        store: what holds the pages.
        graces: how long parked pools wait.
        epoch: the least epoch of a pool made now.
        on_gone: told of every pool before it ends.
        records: where changes of durable pools are written down before they are answered; None = nowhere.
    """

    def __init__(
        self,
        table: PoolTable,
        store: Store,
        *,
        graces: Graces,
        epoch: Callable[[], int],
        on_gone: Callable[[Pool], None] = lambda _: None,
        records: Records | None = None,
    ) -> None:
        self.table = table
        self._store = store
        self._graces = graces
        self._epoch = epoch
        self._on_gone = on_gone
        self._records = records
        self._departures: deque[tuple[Departure, Iterator[None]]] = deque()

    def create(
        self, tenant: str, request: PoolRequest, now: float, *, tenant_weight: int = 0, max_pools: int = 0
    ) -> tuple[Pool, Member]:
        """Makes a pool, or finds the one that the same request made.

        Raises:
            As PoolTable.create does.
            OutOfCapacity, QuotaExceeded: what it reserves can't be promised.
            StoreFailed: it can't be written down.
        """
        pool, member, new = self.table.create(
            tenant, request, epoch=self._epoch(), tenant_weight=tenant_weight, max_pools=max_pools
        )
        if new:
            member.parked_since = now
            try:
                self._store.add_pool(pool.policy)
            except Refused:
                self.table.destroy(pool)
                raise
            try:
                self._record(pool)
            except StoreFailed:
                self.table.destroy(pool)
                self._store.drop_pool(pool.key)
                raise
        return pool, member

    def open(self, tenant: str, name: str, token: bytes, now: float) -> tuple[Pool, Member]:
        """Takes over a private pool.

        Raises:
            As PoolTable.open does.
            StoreFailed: that can't be written down, and whoever wrote before goes on.
        """
        pool, member = self.table.open(tenant, name, token, self._record)
        member.parked_since = now
        return pool, member

    def join(self, tenant: str, uuid: bytes, now: float, *, max_pools: int = 0) -> tuple[Pool, Member]:
        """Enters a shared pool; raises as PoolTable.join does."""
        pool, member = self.table.join(tenant, uuid, max_pools=max_pools)
        member.parked_since = now
        return pool, member

    def leave(self, pool: Pool, member: Member) -> Departure:
        """Ends a membership of a shared pool at once; what goes with it, goes by `step`."""
        if self.table.leave(pool, member):
            return Departure(self.destroy(pool), done=True, ended=True)
        departure = Departure()
        pieces = self._store.leave(pool.key, member.generation)
        self._departures.append((departure, self._depart(pool, pieces, departure)))
        return departure

    @staticmethod
    def _depart(pool: Pool, pieces: Iterator[int], departure: Departure) -> Iterator[None]:
        for dropped in pieces:
            departure.dropped += dropped
            pool.counters.left += dropped
            yield

    def step(self) -> bool:
        """Drops a bounded number of the pages of members that have left; answers whether there are more."""
        if not self._departures:
            return False
        departure, pieces = self._departures[0]
        for _ in pieces:
            return True
        departure.done = True
        self._departures.popleft()
        return bool(self._departures)

    def destroy(self, pool: Pool) -> int:
        """Ends a pool; answers how many pages it held.

        Raises:
            StoreFailed: that can't be written down, and nothing was done.
        """
        if self._records is not None and pool.policy.durability == Durability.DISK:
            with _failing_as_refusal():
                self._records.drop(pool.key)
        self._on_gone(pool)
        self.table.destroy(pool)
        return self._store.drop_pool(pool.key)

    def resize(
        self, pool: Pool, quota_bytes: int | None, weight: int | None, reserved_bytes: int | None = None
    ) -> None:
        """Changes quota, weight or reservation; the store sees it at once and drops nothing for it.

        Raises:
            InvalidRequest: it would reserve more than its quota, or is not persistent.
            OutOfCapacity, QuotaExceeded: the reservation can't be promised.
            StoreFailed: that can't be written down. In any case nothing has changed.
        """
        policy = pool.policy
        before = policy.quota_bytes, policy.weight, policy.reserved_bytes
        quota = policy.quota_bytes if quota_bytes is None else quota_bytes
        reserved = policy.reserved_bytes if reserved_bytes is None else reserved_bytes
        if reserved and policy.ephemeral:
            raise InvalidRequest(f"pool {pool.name!r} can't reserve memory: only persistent pools do")
        if quota and reserved > quota:
            raise InvalidRequest(f"pool {pool.name!r} would reserve {reserved} bytes, more than its quota of {quota}")
        if reserved != policy.reserved_bytes:
            self._store.reserve(pool.key, reserved)
        policy.quota_bytes = quota
        if weight is not None:
            policy.weight = weight
        try:
            self._record(pool)
        except StoreFailed:
            # Less than that was promised before, so it still can be, or the difference is free again.
            policy.quota_bytes, policy.weight, policy.reserved_bytes = before
            raise

    def freeze(self, pool: Pool, *, frozen: bool) -> None:
        """Refuses puts from now on, or accepts them again; raises StoreFailed, and then nothing has changed."""
        before, pool.frozen = pool.frozen, frozen
        try:
            self._record(pool)
        except StoreFailed:
            pool.frozen = before
            raise

    def _record(self, pool: Pool) -> None:
        """Writes a durable pool down as it is now; raises StoreFailed."""
        if self._records is not None and pool.policy.durability == Durability.DISK:
            with _failing_as_refusal():
                self._records.keep(pool)

    def attach(self, member: Member, session: bytes) -> None:
        """Notes that a session works for the member."""
        member.session = session
        member.parked_since = None

    def park(self, member: Member, session: bytes, now: float) -> None:
        """Notes that the session no longer does."""
        if member.session == session:
            member.session = None
            member.parked_since = now

    def expire(self, now: float) -> list[Pool]:
        """Ends what has been parked longer than its grace; answers the pools that went."""
        gone = []
        for pool in self.table:
            grace = (
                self._graces.persistent_seconds if pool.kind == PoolKind.PERSISTENT else self._graces.ephemeral_seconds
            )
            if grace is None:
                continue
            for member in list(pool.members.values()):
                if member.parked_since is None or now - member.parked_since < grace:
                    continue
                if pool.kind == PoolKind.SHARED:
                    if self.leave(pool, member).ended:
                        gone.append(pool)
                    continue
                with suppress(StoreFailed):  # it stays, and its turn comes again
                    self.destroy(pool)
                    gone.append(pool)
        return gone


@contextmanager
def _failing_as_refusal() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFailed(f"the journal can't be written: {error.strerror or error}") from error
