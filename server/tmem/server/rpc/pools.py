"""PoolsService: the life of pools, over the wire.

Owns: its messages. What they mean is the lifecycle's business.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import structlog

from tmem.server.store.interface import BlockListing
from tmem.server.store.journal.blocks import PART_BYTES, block_parts, part_entries
from tmem.server.store.journal.entries import Kind, encode_entry
from tmem.server.store.journal.recovery import describe_pool
from tmem.server.store.pools import Member, Pool
from tmem.server.tenants import Tenant
from tmem.v1 import pools_pb2 as pb
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.codec import Codec
from tmem.wire.columns import collapse
from tmem.wire.errors import Forbidden, InvalidRequest, NoSuchPool, StoreFailed
from tmem.wire.handles import check_extent, join_object, split_object
from tmem.wire.limits import PAGE_BYTES
from tmem.wire.results import PoolKind, enum_field
from tmem.wire.splice import join

from .pages import parse
from .poolcalls import pool_request
from .service import Service, UnaryFunction, settled, streaming, unary

__all__ = ["PoolsHandlers"]

log = structlog.get_logger(__name__)

# 64 bytes of bitmap and up to 2 KiB of checksums each: messages of at most about 1 MiB, and short pauses between them.
_BLOCKS_PER_MESSAGE = 512
# Evicting so much takes a few milliseconds, in which nobody else is served.
_RECLAIM_BYTES = 256 << 10


class PoolsHandlers:
    """The service's handlers.

    Args:
        service: the parts of the daemon.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lifecycle = service.lifecycle

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, ready to be added to a server."""
        functions: dict[str, UnaryFunction] = {
            "CreatePool": self.create,
            "OpenPool": self.open,
            "JoinPool": self.join,
            "AuthorizeTenant": self.authorize,
            "DeauthorizeTenant": self.deauthorize,
            "LeavePool": self.leave,
            "ListPools": self.list,
            "FreezePool": self.freeze,
            "ThawPool": self.thaw,
            "ResizePool": self.resize,
            "DestroyPool": self.destroy,
            "ExplainPage": self.explain,
            "ReclaimMemory": self.reclaim,
            "StatPool": self.stat,
        }
        methods: dict[str, Any] = {
            name: unary(self._service, f"PoolsService/{name}", function, of_pools=True)
            for name, function in functions.items()
        }
        methods["ExportPool"] = streaming(self._service, "PoolsService/ExportPool", self.export)
        methods["ListPages"] = streaming(self._service, "PoolsService/ListPages", self.list_pages)
        return grpc.method_handlers_generic_handler("tmem.v1.PoolsService", methods)

    # ---- Making and entering ----

    def create(self, tenant: Tenant, data: bytes) -> bytes:
        """CreatePoolRequest to CreatePoolResponse."""
        request = pool_request(parse(data, pb.CreatePoolRequest()))
        pool, member = self._lifecycle.create(
            tenant.name,
            request,
            self._service.clock(),
            tenant_weight=tenant.weight,
            max_pools=tenant.max_pools,
        )
        log.info("pool.created", pool=pool.name, kind=pool.kind.name, tenant=tenant.name)
        return pb.CreatePoolResponse(
            pool=_describe(pool, member.pool_id), token=member.token, generation=member.generation
        ).SerializeToString()

    def open(self, tenant: Tenant, data: bytes) -> bytes:
        """OpenPoolRequest to OpenPoolResponse."""
        request = parse(data, pb.OpenPoolRequest())
        pool, member = self._lifecycle.open(tenant.name, request.name, request.token, self._service.clock())
        log.info("pool.opened", pool=pool.name, generation=member.generation, tenant=tenant.name)
        return pb.OpenPoolResponse(
            pool=_describe(pool, member.pool_id), generation=member.generation
        ).SerializeToString()

    def join(self, tenant: Tenant, data: bytes) -> bytes:
        """JoinPoolRequest to JoinPoolResponse."""
        request = parse(data, pb.JoinPoolRequest())
        pool, member = self._lifecycle.join(
            tenant.name, request.uuid, self._service.clock(), max_pools=tenant.max_pools
        )
        log.info("pool.joined", pool=pool.name, generation=member.generation, tenant=tenant.name)
        return pb.JoinPoolResponse(
            pool=_describe(pool, member.pool_id), token=member.token, generation=member.generation
        ).SerializeToString()

    def authorize(self, tenant: Tenant, data: bytes) -> bytes:
        """AuthorizeTenantRequest to AuthorizeTenantResponse."""
        request = parse(data, pb.AuthorizeTenantRequest())
        pool, member = self._resolve(tenant, request.pool)
        self._lifecycle.table.authorize(pool, member, request.tenant, allowed=True)
        return pb.AuthorizeTenantResponse().SerializeToString()

    def deauthorize(self, tenant: Tenant, data: bytes) -> bytes:
        """DeauthorizeTenantRequest to DeauthorizeTenantResponse."""
        request = parse(data, pb.DeauthorizeTenantRequest())
        pool, member = self._resolve(tenant, request.pool)
        self._lifecycle.table.authorize(pool, member, request.tenant, allowed=False)
        return pb.DeauthorizeTenantResponse().SerializeToString()

    # ---- Looking ----

    def list(self, tenant: Tenant, data: bytes) -> bytes:
        """ListPoolsRequest to ListPoolsResponse."""
        parse(data, pb.ListPoolsRequest())
        pools = [_describe(pool, pool_id) for pool, pool_id in self._lifecycle.table.of_tenant(tenant.name)]
        return pb.ListPoolsResponse(pools=pools).SerializeToString()

    async def list_pages(self, tenant: Tenant, data: bytes) -> AsyncIterator[bytes]:
        """ListPagesRequest to ListPagesResponses."""
        request = parse(data, pb.ListPagesRequest())
        pool, _ = self._resolve(tenant, request.pool)
        batch: list[BlockListing] = []
        for block in self._service.engine.store.blocks(pool.key):
            batch.append(block)
            if len(batch) == _BLOCKS_PER_MESSAGE:
                yield _listing(pool, batch, with_crcs=request.with_crc32c)
                batch.clear()
                await asyncio.sleep(0)
                if pool.gone:
                    return
        # At least one message, so that the caller learns the epoch.
        yield _listing(pool, batch, with_crcs=request.with_crc32c)

    async def export(self, tenant: Tenant, data: bytes) -> AsyncIterator[bytes]:
        """ExportPoolRequest to ExportPoolResponses."""
        request = parse(data, pb.ExportPoolRequest())
        pool = self._look(tenant, request.pool)
        if pool.kind != PoolKind.PERSISTENT:
            raise InvalidRequest(
                f"pool {pool.name!r} is {pool.kind.name.lower()}: only persistent pages are worth a file"
            )
        store = self._service.engine.store
        codec = Codec(self._service.copies)
        sent = 0
        described = b"".join(bytes(piece) for piece in encode_entry(Kind.POOL, describe_pool(pool, with_token=False)))
        yield pb.ExportPoolResponse(pages_total=store.counts(pool.key).pages, entries=described).SerializeToString()
        for listing in store.blocks(pool.key):
            pieces = []
            for part in block_parts(listing.object, listing.block):
                pages = await settled(store.get(pool.key, [part], PART_BYTES, 0))
                try:
                    entries = part_entries(pages, pool.key, part, codec)
                except OSError as error:
                    raise StoreFailed(str(error)) from error
                pieces += [piece for entry in entries for piece in entry]
                if pool.gone:
                    raise NoSuchPool(f"pool {pool.name!r} was destroyed meanwhile")
            sent += len(listing.crcs)
            answer = pb.ExportPoolResponse(pages_sent=sent, pages_total=store.counts(pool.key).pages)
            yield join(answer.SerializeToString(), pieces, sum(map(len, pieces)))
            if pool.gone:
                raise NoSuchPool(f"pool {pool.name!r} was destroyed meanwhile")
        end = b"".join(bytes(piece) for piece in encode_entry(Kind.END, b""))
        yield pb.ExportPoolResponse(pages_sent=sent, pages_total=sent, entries=end).SerializeToString()

    async def reclaim(self, tenant: Tenant, data: bytes) -> bytes:
        """ReclaimMemoryRequest to ReclaimMemoryResponse."""
        wanted = parse(data, pb.ReclaimMemoryRequest()).bytes
        store = self._service.engine.store
        freed = 0
        while freed < wanted:
            # Pools may come and go between steps.
            step = store.reclaim([pool.key for pool in self._evictable(tenant)], min(wanted - freed, _RECLAIM_BYTES))
            if not step:
                break
            freed += step
            await asyncio.sleep(0)
        if freed:
            log.info("memory.reclaimed", tenant=tenant.name, wanted=wanted, freed=freed)
        counts = [store.counts(pool.key) for pool in self._evictable(tenant)]
        freeable = sum(count.payload_bytes + count.index_bytes for count in counts)
        return pb.ReclaimMemoryResponse(freed_bytes=freed, freeable_bytes=freeable).SerializeToString()

    def _evictable(self, tenant: Tenant) -> Iterator[Pool]:
        return (pool for pool in self._lifecycle.table if pool.owner == tenant.name and pool.policy.ephemeral)

    def _look(self, tenant: Tenant, ref: PoolRef) -> Pool:
        """A pool that the caller may look at: by its token, or as one of its tenant's own."""
        table = self._lifecycle.table
        if ref.token:
            return table.find(tenant.name, ref.pool_id, ref.token)[0]
        return table.owned(tenant.name, ref.pool_id)

    def explain(self, tenant: Tenant, data: bytes) -> bytes:
        """ExplainPageRequest to ExplainPageResponse."""
        request = parse(data, pb.ExplainPageRequest())
        pool = self._look(tenant, request.pool)
        obj = join_object(request.object.low, request.object.mid, request.object.high)
        check_extent(obj, request.index, 1)
        engine = self._service.engine
        response = pb.ExplainPageResponse(history_events=engine.history.capacity)
        place = engine.store.find(pool.key, obj, request.index)
        if place is not None:
            response.held = True
            response.tier = place.tier
            response.encoding = enum_field(place.encoding)
            response.chunk_pages = place.chunk_pages
            response.encoded_bytes = place.encoded_bytes
            response.generation, response.sequence = place.version
        for event, seconds in engine.history.of_page(pool.key, obj, request.index):
            response.events.add(
                fate=enum_field(event.fate), reason=enum_field(event.reason), age_ms=max(0, int(seconds * 1000))
            )
        return response.SerializeToString()

    def stat(self, tenant: Tenant, data: bytes) -> bytes:
        """StatPoolRequest to StatPoolResponse."""
        request = parse(data, pb.StatPoolRequest())
        ref = request.pool
        pool = self._look(tenant, ref)
        counts = self._service.engine.store.counts(pool.key)
        counters = pool.counters
        return pb.StatPoolResponse(
            pool=_describe(pool, ref.pool_id),
            stat=pb.PoolStat(
                pages=counts.pages,
                objects=counts.objects,
                blocks=counts.blocks,
                payload_bytes=counts.payload_bytes,
                index_bytes=counts.index_bytes,
                dead_bytes=counts.dead_bytes,
                same_filled_pages=counts.same_filled_pages,
                raw_pages=counts.raw_pages,
                puts_stored=counters.puts_stored,
                puts_refused=sum(counters.puts_refused.values()),
                puts_replaced=counters.puts_replaced,
                puts_dropped=counters.puts_dropped,
                gets_hit=counters.gets_hit,
                gets_missed=counters.gets_missed,
                gets_failed=counters.gets_lost + counters.gets_corrupt + sum(counters.gets_refused.values()),
                flushes_asked=counters.flushes_asked,
                flushes_found=counters.flushes_found,
                object_flushes_asked=counters.object_flushes_asked,
                object_flushes_found=counters.object_flushes_found,
                evicted=counts.evicted,
            ),
        ).SerializeToString()

    # ---- Changing and leaving ----

    def freeze(self, tenant: Tenant, data: bytes) -> bytes:
        """FreezePoolRequest to FreezePoolResponse."""
        pool, member = self._resolve_owned(tenant, parse(data, pb.FreezePoolRequest()).pool)
        self._lifecycle.freeze(pool, frozen=True)
        return pb.FreezePoolResponse(pool=_describe(pool, member.pool_id)).SerializeToString()

    def thaw(self, tenant: Tenant, data: bytes) -> bytes:
        """ThawPoolRequest to ThawPoolResponse."""
        pool, member = self._resolve_owned(tenant, parse(data, pb.ThawPoolRequest()).pool)
        self._lifecycle.freeze(pool, frozen=False)
        return pb.ThawPoolResponse(pool=_describe(pool, member.pool_id)).SerializeToString()

    def resize(self, tenant: Tenant, data: bytes) -> bytes:
        """ResizePoolRequest to ResizePoolResponse."""
        request = parse(data, pb.ResizePoolRequest())
        pool, member = self._resolve_owned(tenant, request.pool)
        self._lifecycle.resize(
            pool,
            request.quota_bytes if request.HasField("quota_bytes") else None,
            request.weight if request.HasField("weight") else None,
            request.reserved_bytes if request.HasField("reserved_bytes") else None,
        )
        return pb.ResizePoolResponse(pool=_describe(pool, member.pool_id)).SerializeToString()

    async def leave(self, tenant: Tenant, data: bytes) -> bytes:
        """LeavePoolRequest to LeavePoolResponse."""
        pool, member = self._resolve(tenant, parse(data, pb.LeavePoolRequest()).pool)
        departure = self._lifecycle.leave(pool, member)
        while not departure.done:
            self._lifecycle.step()
            await asyncio.sleep(0)  # should the caller go, upkeep goes on with it
        return pb.LeavePoolResponse(dropped_pages=departure.dropped, destroyed=departure.ended).SerializeToString()

    def destroy(self, tenant: Tenant, data: bytes) -> bytes:
        """DestroyPoolRequest to DestroyPoolResponse."""
        ref = parse(data, pb.DestroyPoolRequest()).pool
        if ref.token:
            pool, _ = self._resolve_owned(tenant, ref)
        else:
            pool = self._lifecycle.table.owned(tenant.name, ref.pool_id)
            if not pool.parked:
                raise Forbidden(f"a client works on pool {pool.name!r}: only it, or whoever has the token, may end it")
        pages = self._lifecycle.destroy(pool)
        log.info("pool.destroyed", pool=pool.name, pages=pages, tenant=tenant.name)
        return pb.DestroyPoolResponse(dropped_pages=pages).SerializeToString()

    def _resolve(self, tenant: Tenant, ref: PoolRef) -> tuple[Pool, Member]:
        return self._lifecycle.table.resolve(tenant.name, ref.pool_id, ref.token, ref.generation)

    def _resolve_owned(self, tenant: Tenant, ref: PoolRef) -> tuple[Pool, Member]:
        """As _resolve, for what only the tenant that answers for a pool may do; a guest uses pages, and leaves."""
        pool, member = self._resolve(tenant, ref)
        if member.tenant != pool.owner:
            raise Forbidden(f"only the owner of pool {pool.name!r} may do that")
        return pool, member


def _describe(pool: Pool, pool_id: int) -> pb.Pool:
    policy = pool.policy
    return pb.Pool(
        pool_id=pool_id,
        name=pool.name,
        kind=enum_field(pool.kind),
        page_size=PAGE_BYTES,
        flags=int(pool.flags),
        quota_bytes=policy.quota_bytes,
        weight=policy.weight,
        durability=enum_field(policy.durability),
        chunk_pages=policy.chunk_pages,
        owner=pool.owner,
        uuid=pool.uuid,
        epoch=pool.epoch,
        generation=pool.generation,
        incomplete=pool.incomplete,
        frozen=pool.frozen,
        parked=pool.parked,
        reserved_bytes=policy.reserved_bytes,
    )


def _listing(pool: Pool, blocks: list[BlockListing], *, with_crcs: bool) -> bytes:
    words = [split_object(block.object) for block in blocks]
    crcs = array("I")
    if with_crcs:
        for block in blocks:
            crcs.extend(block.crcs)
    return pb.ListPagesResponse(
        epoch=pool.epoch,
        object_low=collapse([word[0] for word in words], 0),
        object_mid=collapse([word[1] for word in words], 0),
        object_high=collapse([word[2] for word in words], 0),
        block=[block.block for block in blocks],
        bitmaps=b"".join(block.bitmap for block in blocks),
        page_crc32c=crcs,
    ).SerializeToString()
