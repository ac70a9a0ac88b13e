"""A server of several shards as one, for asyncio.

Owns: which shard a page is on, and what a call about a pool means that is spread over all of them: made or opened on every shard, counted on every
shard, ended on every shard. A block is on one shard, so an extent is, and all that the contract says of a page holds; a flush of an
object comes back when every shard has done it.

A quota or reservation is divided evenly. A shard that can't be reached fails what is on it, and nothing else.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from tmem.client._core.calls import PageExplanation, PoolInfo, PoolStat, shard_targets
from tmem.client._core.face import flush_extents
from tmem.client._core.presence import Presence
from tmem.client._core.results import FlushResult, GetResult, PutResult
from tmem.wire.codec import Plain
from tmem.wire.errors import InvalidOption, NoSuchPool, ProtocolError, TmemError
from tmem.wire.handles import check_extent, shard_of
from tmem.wire.limits import BLOCK_PAGES

from .batch import Batch
from .client import Client
from .pool import Pool

__all__ = ["ShardedClient", "spread"]


async def spread(first: Client, open_client: Callable[[str], Any]) -> Client:
    """The client of a whole server, given that of the shard that was asked first; itself if there is but one.

    Raises:
        Unavailable: a shard can't be reached. ProtocolError: the shards tell different things of themselves.
    """
    targets = shard_targets(first.capabilities, first.target)
    if len(targets) == 1:
        return first
    shards: list[Client] = []
    try:
        for target in targets:
            shards.append(first if target == first.target else await open_client(target))  # noqa: PERF401  closed if the next one fails
        _check_agreement(shards, targets)
    except BaseException:
        for shard in shards:
            if shard is not first:
                await shard.close()
        raise
    return ShardedClient(shards, first)


def _check_agreement(shards: Sequence[Client], targets: Sequence[str]) -> None:
    """Raises ProtocolError unless every shard tells of the same ones."""
    for number, shard in enumerate(shards):
        if shard_targets(shard.capabilities, shard.target) != targets:
            raise ProtocolError(f"shard {number} at {shard.target} names other shards than {shards[0].target} does")


class ShardedClient(Client):
    """Clients of all shards, as one; see Client.

    Attributes:
        shards: one for each, in the order of their numbers.
    """

    def __init__(self, shards: Sequence[Client], first: Client) -> None:
        super().__init__(first.target, first.options, first.counters, first._stream)  # noqa: SLF001  a client's own
        self.shards = tuple(shards)
        self.capabilities.CopyFrom(first.capabilities)
        limits = self.capabilities.limits
        limits.memory_limit_bytes = sum(shard.capabilities.limits.memory_limit_bytes for shard in shards)
        limits.tenant_quota_bytes = sum(shard.capabilities.limits.tenant_quota_bytes for shard in shards)

    def __repr__(self) -> str:
        return f"<tmem Client {self.target}, {len(self.shards)} shards>"

    async def close(self) -> None:
        """As Client.close, for all shards."""
        for shard in self.shards:
            await shard.close()

    @property
    def in_flight(self) -> int:
        """How many batches are unanswered, of all shards."""
        return sum(shard.in_flight for shard in self.shards)

    @property
    def peak_in_flight(self) -> tuple[int, int]:
        """The sums of what was ever in use at once on each shard."""
        peaks = [shard.peak_in_flight for shard in self.shards]
        return sum(peak[0] for peak in peaks), sum(peak[1] for peak in peaks)

    # ---- Pools ----

    async def create_pool(
        self,
        name: str,
        kind: str = "persistent",
        *,
        quota_bytes: int = 0,
        reserved_bytes: int = 0,
        weight: int = 0,
        durability: str = "memory",
        chunk_pages: int = 0,
        take: bool | None = None,
        encrypted: bool = False,
        uuid: bytes = b"",
        token: bytes = b"",
        presence: Presence | None = None,
    ) -> Pool:
        """As Client.create_pool, on every shard, or on none."""
        _refuse_presence(presence)
        count = len(self.shards)
        made: list[Pool] = []
        try:
            for shard in self.shards:
                pool = await shard.create_pool(
                    name,
                    kind,
                    quota_bytes=-(-quota_bytes // count),
                    reserved_bytes=-(-reserved_bytes // count),
                    weight=weight,
                    durability=durability,
                    chunk_pages=chunk_pages,
                    take=take,
                    encrypted=encrypted,
                    uuid=uuid,
                    token=token,
                )
                made.append(pool)
                # One secret, and one name of a shared pool, for all of them.
                token, uuid = pool.token, pool.uuid
        except TmemError:
            for pool in made:
                await pool.destroy()
            raise
        return ShardedPool(made, self)

    async def open_pool(
        self,
        name: str,
        token: bytes,
        epoch: int | Sequence[int] | None = None,
        presence: Presence | None = None,
        listing_timeout: float | None = None,
    ) -> Pool:
        """As Client.open_pool, on every shard: when it returns, no shard listens to the writer before.

        Args:
            name: its name.
            token: the secret that its maker got.
            epoch: the pool's `epochs`, one for each shard.
            presence: not for a sharded server.
            listing_timeout: seconds that each shard has to say what it holds.
        """
        _refuse_presence(presence)
        epochs = [epoch] if isinstance(epoch, int) else epoch
        if epochs is not None and len(epochs) != len(self.shards):
            raise InvalidOption(
                f"epoch has {len(epochs)} numbers for {len(self.shards)} shards: give the pool's `epochs`"
            )
        opened = []
        for number, shard in enumerate(self.shards):
            known = None if epochs is None else epochs[number]
            opened.append(await shard.open_pool(name, token, known, listing_timeout=listing_timeout))
        return ShardedPool(opened, self)

    async def join_pool(self, uuid: bytes) -> Pool:
        """As Client.join_pool, on every shard."""
        return ShardedPool([await shard.join_pool(uuid) for shard in self.shards], self)

    async def pools(self) -> list[PoolInfo]:
        """The pools of this tenant that every shard has, as the first one describes them, with the sums of quotas and reservations."""
        listed = [{info.name: info for info in await shard.pools()} for shard in self.shards]
        names = [name for name in listed[0] if all(name in others for others in listed)]
        return [_joined([others[name] for others in listed]) for name in names]

    async def export_pool(self, pool_id: int) -> AsyncIterator[tuple[bytes, int, int]]:
        """As Client.export_pool, shard by shard."""
        ids = await self._ids(pool_id)
        last = len(self.shards) - 1
        before = 0
        total = sum([(await shard.stat_pool(own)).pages for shard, own in zip(self.shards, ids, strict=True)])
        for number, (shard, own) in enumerate(zip(self.shards, ids, strict=True)):
            # A shard's first part says what the pool is, its last one that this is all: of all shards together each comes once.
            held: bytes | None = None
            sent = 0
            async for entries, sent, _ in shard.export_pool(own):
                if held is not None:
                    yield held, before + sent, max(total, before + sent)
                held = entries if held is not None or not number else b""
            if held is not None:
                yield held if number == last else b"", before + sent, max(total, before + sent)
            before += sent

    async def explain_page(self, pool_id: int, obj: int, index: int) -> PageExplanation:
        """As Client.explain_page."""
        check_extent(obj, index, 1)
        number = shard_of(obj, index // BLOCK_PAGES, len(self.shards))
        return await self.shards[number].explain_page((await self._ids(pool_id))[number], obj, index)

    async def stat_pool(self, pool_id: int) -> PoolStat:
        """As Client.stat_pool: the sums. An object on several shards counts on each."""
        ids = await self._ids(pool_id)
        return _sum([await shard.stat_pool(own) for shard, own in zip(self.shards, ids, strict=True)])

    async def destroy_parked(self, pool_id: int) -> int:
        """As Client.destroy_parked, on every shard."""
        ids = await self._ids(pool_id)
        return sum([await shard.destroy_parked(own) for shard, own in zip(self.shards, ids, strict=True)])

    async def _ids(self, pool_id: int) -> list[int]:
        """The numbers that a pool has on each shard, by the one that it has on the first."""
        listed = [{info.name: info.pool_id for info in await shard.pools()} for shard in self.shards]
        name = next((name for name, own in listed[0].items() if own == pool_id), None)
        if name is None or not all(name in ids for ids in listed):
            raise NoSuchPool(f"there is no pool {pool_id} on every shard of {self.target}")
        return [ids[name] for ids in listed]


class ShardedPool(Pool):
    """A pool that is spread over all shards; see Pool.

    Attributes:
        parts: it on each shard.
    """

    def __init__(self, parts: Sequence[Pool], client: ShardedClient) -> None:
        first = parts[0]
        super().__init__(first._core, first._stream, client.options, client.counters, client)  # noqa: SLF001  a pool's own
        self.parts = tuple(parts)

    def _part(self, obj: int, index: int) -> Pool:
        check_extent(obj, index, 1)
        return self.parts[shard_of(obj, index // BLOCK_PAGES, len(self.parts))]

    @property
    def epochs(self) -> tuple[int, ...]:
        """Its epoch on each shard: what `open_pool` wants to know."""
        return tuple(part.epoch for part in self.parts)

    @property
    def incomplete(self) -> bool:
        """Whether any shard lost it once."""
        return any(part.incomplete for part in self.parts)

    @property
    def pages_stored(self) -> int:
        """How many pages this client knows to be stored."""
        return sum(part.pages_stored for part in self.parts)

    # ---- Pages ----

    async def put(self, obj: int, index: int, buffer: Plain, *, timeout: float | None = None) -> PutResult:
        """As Pool.put."""
        return await self._part(obj, index).put(obj, index, buffer, timeout=timeout)

    async def get_into(
        self, obj: int, index: int, buffer: Plain, take: bool | None = None, *, timeout: float | None = None
    ) -> GetResult:
        """As Pool.get_into."""
        return await self._part(obj, index).get_into(obj, index, buffer, take, timeout=timeout)

    async def flush(self, obj: int, index: int, count: int = 1, *, timeout: float | None = None) -> int:
        """As Pool.flush."""
        found = 0
        for extent in flush_extents(obj, index, count):
            found += await self._part(obj, extent.index).flush(obj, extent.index, extent.pages, timeout=timeout)
        return found

    async def flush_object(self, obj: int, *, timeout: float | None = None) -> int:
        """As Pool.flush_object, on every shard; if one can't be reached, the object is gone from those before it, and asking again is right."""
        return sum([await part.flush_object(obj, timeout=timeout) for part in self.parts])

    def batch(self) -> Batch:
        """As Pool.batch."""
        return ShardedBatch(self)

    async def put_page_sync(self, obj: int, index: int, page: Plain, *, timeout: float | None = None) -> PutResult:
        """As Pool.put_page_sync."""
        return await self._part(obj, index).put_page_sync(obj, index, page, timeout=timeout)

    async def get_page_sync(
        self, obj: int, index: int, page: Plain, take: bool | None = None, *, timeout: float | None = None
    ) -> GetResult:
        """As Pool.get_page_sync."""
        return await self._part(obj, index).get_page_sync(obj, index, page, take, timeout=timeout)

    # ---- The pool itself ----

    async def stat(self) -> PoolStat:
        """As Pool.stat: the sums. An object on several shards counts on each."""
        return _sum([await part.stat() for part in self.parts])

    async def explain(self, obj: int, index: int) -> PageExplanation:
        """As Pool.explain."""
        return await self._part(obj, index).explain(obj, index)

    async def info(self) -> PoolInfo:
        """As Pool.info, with the sums of quotas and reservations."""
        return _joined([await part.info() for part in self.parts])

    async def freeze(self) -> None:
        """As Pool.freeze."""
        for part in self.parts:
            await part.freeze()

    async def thaw(self) -> None:
        """As Pool.thaw."""
        for part in self.parts:
            await part.thaw()

    async def resize(
        self, quota_bytes: int | None = None, weight: int | None = None, reserved_bytes: int | None = None
    ) -> None:
        """As Pool.resize, divided; if a shard refuses, those before it have the new sizes."""
        count = len(self.parts)
        quota, reserved = (None if size is None else -(-size // count) for size in (quota_bytes, reserved_bytes))
        for part in self.parts:
            await part.resize(quota, weight, reserved)

    async def authorize(self, tenant: str) -> None:
        """As Pool.authorize."""
        for part in self.parts:
            await part.authorize(tenant)

    async def deauthorize(self, tenant: str) -> None:
        """As Pool.deauthorize."""
        for part in self.parts:
            await part.deauthorize(tenant)

    async def leave(self) -> int:
        """As Pool.leave."""
        return sum([await part.leave() for part in self.parts])

    async def destroy(self) -> int:
        """As Pool.destroy."""
        return sum([await part.destroy() for part in self.parts])


class ShardedBatch(Batch):
    """A batch for each shard; see Batch."""

    def __init__(self, pool: ShardedPool) -> None:
        self._batches = tuple(part.batch() for part in pool.parts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worst: BaseException | None = None
        if error is None:
            # All are sent before any is waited for.
            for batch in self._batches:
                try:
                    await batch.submit()
                except TmemError as failed:
                    worst = worst or failed
        for batch in self._batches:
            try:
                await batch.__aexit__(kind, error, trace)
            except TmemError as failed:
                worst = worst or failed
        if worst is not None:
            raise worst

    def _batch(self, obj: int, index: int) -> Batch:
        check_extent(obj, index, 1)
        return self._batches[shard_of(obj, index // BLOCK_PAGES, len(self._batches))]

    async def put(self, obj: int, index: int, buffer: Plain) -> PutResult:
        """As Batch.put."""
        return await self._batch(obj, index).put(obj, index, buffer)

    async def get_into(self, obj: int, index: int, buffer: Plain, take: bool | None = None) -> GetResult:
        """As Batch.get_into."""
        return await self._batch(obj, index).get_into(obj, index, buffer, take)

    async def flush(self, obj: int, index: int, count: int = 1) -> list[FlushResult]:
        """As Batch.flush."""
        results: list[FlushResult] = []
        for extent in flush_extents(obj, index, count):
            results += await self._batch(obj, extent.index).flush(obj, extent.index, extent.pages)
        return results

    async def submit(self) -> None:
        """As Batch.submit."""
        for batch in self._batches:
            await batch.submit()

    async def wait(self) -> None:
        """As Batch.wait."""
        await self.submit()
        for batch in self._batches:
            await batch.wait()

    @property
    def in_flight(self) -> int:
        """As Batch.in_flight."""
        return sum(batch.in_flight for batch in self._batches)


def _refuse_presence(presence: Presence | None) -> None:
    if presence is not None:
        raise InvalidOption("a presence map of one's own is for a server of one shard")


def _sum(stats: Sequence[PoolStat]) -> PoolStat:
    return PoolStat(**{name: sum(getattr(stat, name) for stat in stats) for name in PoolStat.__slots__})


def _joined(infos: Sequence[PoolInfo]) -> PoolInfo:
    return replace(
        infos[0],
        quota_bytes=sum(info.quota_bytes for info in infos),
        reserved_bytes=sum(info.reserved_bytes for info in infos),
        incomplete=any(info.incomplete for info in infos),
        frozen=any(info.frozen for info in infos),
        parked=all(info.parked for info in infos),
    )
