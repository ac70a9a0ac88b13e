"""Calls about pools and the server: what to send, and what the answer means.

Owns: the unary messages of PoolsService and CapabilitiesService, the options of a pool as callers write them, and the
translation of gRPC statuses into the tree of tmem.wire.errors. Pure: the faces carry the bytes.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from tmem.v1 import capabilities_pb2, pools_pb2
from tmem.v1.common_pb2 import ObjectId, PoolRef
from tmem.wire.columns import ColumnError, expand
from tmem.wire.errors import (
    DeadlineExceeded,
    InvalidOption,
    InvalidRequest,
    ProtocolError,
    RemoteError,
    TmemError,
    Unauthenticated,
    Unavailable,
    refusal,
)
from tmem.wire.handles import check_extent, join_object, split_object
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES, PROTOCOL_VERSION
from tmem.wire.metadata import AUTHORIZATION, BEARER, REASON
from tmem.wire.results import Durability, Encoding, PoolFlag, PoolKind, Reason, enum_field

from .options import Options
from .pool import PoolCore
from .presence import Presence

__all__ = [
    "Call",
    "PageEvent",
    "PageExplanation",
    "PoolInfo",
    "PoolStat",
    "call_metadata",
    "create_pool",
    "explain_page",
    "export_pool",
    "get_capabilities",
    "list_pages",
    "shard_targets",
    "status_error",
    "take_listing",
    "translate",
]

R = TypeVar("R", bound=Message)

_TOKEN_BYTES = 32
_BITMAP_BYTES = BLOCK_PAGES // 8


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One unary call, or one that answers a stream of messages.

    Attributes:
        method: "Service/Method" within tmem.v1.
    """

    method: str
    request: Message
    response: type[R]

    @property
    def path(self) -> str:
        """The gRPC path."""
        return f"/tmem.v1.{self.method}"

    def parse(self, data: bytes) -> R:
        """The response; raises ProtocolError."""
        message = self.response()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise ProtocolError(f"{self.method} was answered with {len(data)} bytes that are no response") from error
        return message


class _Status(Protocol):
    """A failed call, as both faces of grpc show it."""

    def code(self) -> object: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def translate(error: _Status, what: str, target: str) -> TmemError:
    """The exception for a call that ended with a status other than OK.

    Args:
        error: the grpc.RpcError.
        what: the call, for the message.
        target: the server, for the message.
    """
    reason = next((value for key, value in error.trailing_metadata() or () if key == REASON), None)
    code = getattr(error.code(), "name", "UNKNOWN")
    return status_error(code, error.details() or "", reason if isinstance(reason, str) else None, what, target)


def status_error(code: str, details: str, reason: str | None, what: str, target: str) -> TmemError:
    """The exception for a status other than OK.

    Args:
        code: the status's name, such as "UNAVAILABLE".
        details: its message.
        reason: what the trailing metadata say under tmem-reason.
        what: the call, for the message.
        target: the server, for the message.
    """
    if reason is not None and reason in Reason.__members__:
        return refusal(Reason[reason], details)
    if code == "UNAVAILABLE":
        return Unavailable(f"{target} can't be reached: {details}")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"{target} did not answer {what} in time")
    if code == "UNAUTHENTICATED":
        return Unauthenticated(f"{target}: {details}")
    if code == "INVALID_ARGUMENT":
        return InvalidRequest(f"{what}: {details}")
    if code == "UNIMPLEMENTED":
        return ProtocolError(f"{target} does not know {what}: it is no tmem server, or an older one")
    return RemoteError(f"{target}: {what} ended with {code}: {details}")


def call_metadata(options: Options) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return ((AUTHORIZATION, BEARER + options.token),) if options.token else ()


# ---- Pools as callers see them ----


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """One pool of the caller's tenant; fields as in the contract's Pool."""

    pool_id: int
    name: str
    kind: str
    page_size: int
    flags: PoolFlag
    quota_bytes: int
    weight: int
    durability: str
    chunk_pages: int
    owner: str
    uuid: bytes
    epoch: int
    generation: int
    incomplete: bool
    frozen: bool
    parked: bool
    reserved_bytes: int

    @classmethod
    def of(cls, pool: pools_pb2.Pool) -> "PoolInfo":
        """From the contract's message."""
        return cls(
            pool_id=pool.pool_id,
            name=pool.name,
            kind=PoolKind(pool.kind).name.lower(),
            page_size=pool.page_size,
            flags=PoolFlag(pool.flags),
            quota_bytes=pool.quota_bytes,
            weight=pool.weight,
            durability=Durability(pool.durability).name.lower(),
            chunk_pages=pool.chunk_pages,
            owner=pool.owner,
            uuid=pool.uuid,
            epoch=pool.epoch,
            generation=pool.generation,
            incomplete=pool.incomplete,
            frozen=pool.frozen,
            parked=pool.parked,
            reserved_bytes=pool.reserved_bytes,
        )


@dataclass(frozen=True, slots=True)
class PoolStat:
    """Counts of one pool; fields as in the contract's PoolStat. Bytes are encoded bytes, counts are pages."""

    pages: int
    objects: int
    blocks: int
    payload_bytes: int
    index_bytes: int
    dead_bytes: int
    same_filled_pages: int
    raw_pages: int
    puts_stored: int
    puts_refused: int
    puts_replaced: int
    puts_dropped: int
    gets_hit: int
    gets_missed: int
    gets_failed: int
    flushes_asked: int
    flushes_found: int
    object_flushes_asked: int
    object_flushes_found: int
    evicted: int

    @classmethod
    def of(cls, stat: pools_pb2.PoolStat) -> "PoolStat":
        """From the contract's message."""
        return cls(**{name: getattr(stat, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class PageEvent:
    """Something that became of a page.

    Attributes:
        fate: "refused" or "evicted". reason: of a refusal, else "".
        age_seconds: how long ago.
    """

    fate: str
    reason: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class PageExplanation:
    """Where a page is, and what became of it lately.

    Attributes:
        held: the server has it.
        tier: "memory" or "disk"; "" if it is not held, as the fields that follow are 0.
        encoding: "lz4", "raw" or "same_filled".
        chunk_pages, encoded_bytes: of the chunk that it was stored in.
        generation, sequence: its version.
        events: the newest first; the server remembers a bounded number for all pages together.
    """

    held: bool
    tier: str
    encoding: str
    chunk_pages: int
    encoded_bytes: int
    generation: int
    sequence: int
    events: tuple[PageEvent, ...]

    @classmethod
    def of(cls, answer: pools_pb2.ExplainPageResponse) -> "PageExplanation":
        """From the contract's message."""
        fates = pools_pb2.PageFate
        events = tuple(
            PageEvent(
                fates.Name(event.fate).removeprefix("PAGE_FATE_").lower(),
                Reason(event.reason).name if event.reason else "",
                event.age_ms / 1000,
            )
            for event in answer.events
        )
        encoding = Encoding(answer.encoding).name.lower() if answer.held else ""
        return cls(
            answer.held,
            answer.tier,
            encoding,
            answer.chunk_pages,
            answer.encoded_bytes,
            answer.generation,
            answer.sequence,
            events,
        )


def explain_page(pool: PoolRef, obj: int, index: int) -> Call[pools_pb2.ExplainPageResponse]:
    """The call that asks where a page is.

    Raises:
        InvalidHandle: object or index out of range.
    """
    check_extent(obj, index, 1)
    low, mid, high = split_object(obj)
    request = pools_pb2.ExplainPageRequest(pool=pool, object=ObjectId(low=low, mid=mid, high=high), index=index)
    return Call("PoolsService/ExplainPage", request, pools_pb2.ExplainPageResponse)


def create_pool(
    name: str,
    kind: str,
    *,
    quota_bytes: int,
    reserved_bytes: int,
    weight: int,
    durability: str,
    chunk_pages: int,
    take: bool | None,
    encrypted: bool,
    uuid: bytes,
    token: bytes = b"",
) -> Call[pools_pb2.CreatePoolResponse]:
    """The call that makes a pool.

    Raises:
        InvalidOption: a kind or durability that does not exist.
    """
    flags = PoolFlag.NONE
    if take is not None:
        flags |= PoolFlag.TAKE if take else PoolFlag.KEEP
    if encrypted:
        flags |= PoolFlag.ENCRYPTED
    return Call(
        "PoolsService/CreatePool",
        pools_pb2.CreatePoolRequest(
            name=name,
            kind=enum_field(_member(PoolKind, kind, "kind")),
            page_size=PAGE_BYTES,
            flags=int(flags),
            quota_bytes=quota_bytes,
            reserved_bytes=reserved_bytes,
            weight=weight,
            durability=enum_field(_member(Durability, durability, "durability")),
            chunk_pages=chunk_pages,
            abi_version=PROTOCOL_VERSION,
            # Chosen here, so that a repeated request is recognised for what it is.
            token=token or os.urandom(_TOKEN_BYTES),
            uuid=uuid,
        ),
        pools_pb2.CreatePoolResponse,
    )


def _member(enum: type[PoolKind | Durability], text: str, what: str) -> int:
    known = {member.name.lower(): member for member in enum if member}
    if text not in known:
        raise InvalidOption(f"{what} {text!r} does not exist; there are: {', '.join(known)}")
    return known[text]


def recreation(pool: pools_pb2.Pool, token: bytes) -> pools_pb2.CreatePoolRequest:
    """How to make a pool again on a server that lost it."""
    return pools_pb2.CreatePoolRequest(
        name=pool.name,
        kind=pool.kind,
        page_size=pool.page_size,
        flags=pool.flags,
        quota_bytes=pool.quota_bytes,
        reserved_bytes=pool.reserved_bytes,
        weight=pool.weight,
        durability=pool.durability,
        chunk_pages=pool.chunk_pages,
        abi_version=PROTOCOL_VERSION,
        token=token,
        uuid=pool.uuid,
    )


def ref(pool: PoolCore) -> PoolRef:
    """How a call names a pool that this client works on."""
    return PoolRef(
        pool_id=pool.pool_id,
        generation=pool.generation,
        token=pool.token,
        epoch=pool.epoch,
        floor=pool.writer.floor,
    )


def get_capabilities() -> Call[capabilities_pb2.GetCapabilitiesResponse]:
    """The call that asks what the server can do."""
    return Call(
        "CapabilitiesService/GetCapabilities",
        capabilities_pb2.GetCapabilitiesRequest(),
        capabilities_pb2.GetCapabilitiesResponse,
    )


def shard_targets(capabilities: capabilities_pb2.GetCapabilitiesResponse, target: str) -> list[str]:
    """Where the shards of a server are, that of the answer at `target`.

    Raises:
        ProtocolError: the answer contradicts itself.
    """
    shards = list(capabilities.shards)
    if not shards:
        return [target]
    if [shard.shard_id for shard in shards] != list(range(len(shards))) or sum(not s.target for s in shards) != 1:
        raise ProtocolError(f"{target} does not say where its {len(shards)} shards are")
    host = target.rpartition(":")[0]
    return [f"{host}{s.target}" if s.target.startswith(":") else s.target or target for s in shards]


# ---- Which pages a pool holds ----


def list_pages(pool: PoolCore) -> Call[pools_pb2.ListPagesResponse]:
    """The call that fills the presence map of a pool that was opened."""
    return Call(
        "PoolsService/ListPages",
        pools_pb2.ListPagesRequest(pool=ref(pool), with_crc32c=True),
        pools_pb2.ListPagesResponse,
    )


def export_pool(pool_id: int) -> Call[pools_pb2.ExportPoolResponse]:
    """The call that answers all that a pool of this tenant holds."""
    request = pools_pb2.ExportPoolRequest(pool=PoolRef(pool_id=pool_id))
    return Call("PoolsService/ExportPool", request, pools_pb2.ExportPoolResponse)


def take_listing(presence: Presence, listing: pools_pb2.ListPagesResponse) -> None:
    """Notes what one message of a listing says; raises ProtocolError if it contradicts itself."""
    count = len(listing.block)
    try:
        lows = expand(listing.object_low, count, 0, "object_low")
        mids = expand(listing.object_mid, count, 0, "object_mid")
        highs = expand(listing.object_high, count, 0, "object_high")
    except ColumnError as error:
        raise ProtocolError(f"a listing that contradicts itself: {error}") from error
    bitmaps = listing.bitmaps
    crcs = listing.page_crc32c
    if len(bitmaps) != count * _BITMAP_BYTES:
        raise ProtocolError(f"a listing of {count} blocks with {len(bitmaps)} bytes of bitmaps")
    at = 0
    for number, block in enumerate(listing.block):
        bitmap = int.from_bytes(bitmaps[number * _BITMAP_BYTES : (number + 1) * _BITMAP_BYTES], "little")
        pages = bitmap.bit_count()
        known = list(crcs[at : at + pages]) if crcs else None
        if known is not None and len(known) != pages:
            raise ProtocolError(f"a listing with {len(crcs)} checksums for more pages")
        presence.listed(join_object(lows[number], mids[number], highs[number]), block, bitmap, known)
        at += pages
