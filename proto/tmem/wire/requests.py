"""Exchange requests: batches as Python objects, to bytes and back.

Owns: ExchangeRequest on the wire, and what makes a batch well formed. Decoding checks everything that can be checked
without knowing the pool: a decoded batch names valid extents, and its chunks cover exactly them and exactly the body.

Must not know: pools, sessions, gRPC.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from tmem.v1 import extents_pb2 as pb

from .codec import EncodedChunks
from .columns import ColumnError, collapse, expand
from .errors import InvalidHandle, MalformedBatch, ProtocolError
from .handles import Extent, Version, check_extent, join_object, split_object
from .limits import (
    BLOCK_PAGES,
    MAX_ANSWER_BYTES,
    MAX_BATCH_EXTENTS,
    MAX_BATCH_PAGES,
    MAX_CHUNK_PAGES,
    MAX_SEQUENCE,
    PAGE_BYTES,
    SAME_FILLED_BYTES,
)
from .results import Encoding
from .splice import join, parse

__all__ = [
    "Batch",
    "Echo",
    "Flush",
    "FlushObject",
    "Get",
    "Header",
    "Put",
    "Request",
    "check_put",
    "decode_request",
    "encode_control",
    "encode_echo",
    "encode_flush",
    "encode_flush_object",
    "encode_get",
    "encode_put",
    "readdress",
]

_LZ4 = int(Encoding.LZ4)
_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)
_ZERO, _ONE = (0,), (1,)


@dataclass(slots=True)
class Header:
    """What every batch carries; see BatchHeader in extents.proto."""

    batch_id: int
    pool_id: int = 0
    generation: int = 0
    sequence: int = 0
    floor: int = 0
    epoch: int = 0
    answer_bytes: int = 0


@dataclass(slots=True)
class Put:
    """Extents to store.

    Attributes:
        sizes, pages, encodings: the columns of the chunks of all extents, in order.
        crcs: CRC32C of each plain page, in order.
        body: the chunks, one behind the other.
    """

    header: Header
    extents: list[Extent]
    sizes: list[int]
    pages: list[int]
    encodings: list[int]
    crcs: "array[int]"
    body: memoryview


@dataclass(slots=True)
class Get:
    """Extents to read."""

    header: Header
    extents: list[Extent]


@dataclass(slots=True)
class Flush:
    """Extents to remove.

    Attributes:
        conditions: for each extent the version that a page must have to be removed, or None; None for no conditions.
    """

    header: Header
    extents: list[Extent]
    conditions: list[Version | None] | None


@dataclass(slots=True)
class FlushObject:
    """Objects to remove."""

    header: Header
    objects: list[int]


@dataclass(slots=True)
class Echo:
    """Nothing to do but answer: with the body, or with so many zero bytes."""

    header: Header
    body: memoryview
    zero_bytes: int = 0


Batch = Put | Get | Flush | FlushObject | Echo
Request = Batch | pb.Open | pb.Attach | pb.Heartbeat


# ---- Encoding ----


def _fill_header(target: pb.BatchHeader, header: Header) -> None:
    target.batch_id = header.batch_id
    target.pool_id = header.pool_id
    target.generation = header.generation
    target.sequence = header.sequence
    target.floor = header.floor
    target.epoch = header.epoch
    target.answer_bytes = header.answer_bytes


def _object_columns(objects: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The low, mid and high columns of some object ids, each as long as it must be."""
    words = [split_object(obj) for obj in objects]
    low, mid, high = ([word[part] for word in words] for part in range(3))
    return collapse(low, 0), collapse(mid, 0), collapse(high, 0)


def _fill_extents(target: pb.Extents, extents: Sequence[Extent]) -> None:
    if len(extents) == 1:
        obj, index, pages = extents[0]
        low, mid, high = split_object(obj)
        if low:
            target.object_low.append(low)
        if mid:
            target.object_mid.append(mid)
        if high:
            target.object_high.append(high)
        target.index.append(index)
        if pages != 1:
            target.pages.append(pages)
        return
    lows, mids, highs = _object_columns([extent.object for extent in extents])
    target.object_low.extend(lows)
    target.object_mid.extend(mids)
    target.object_high.extend(highs)
    target.index.extend([extent.index for extent in extents])
    target.pages.extend(collapse([extent.pages for extent in extents], 1))


def encode_put(header: Header, extents: Sequence[Extent], chunks: EncodedChunks) -> bytes:
    """The request that stores `extents`, whose chunks are `chunks`."""
    message = pb.ExchangeRequest()
    put = message.put
    _fill_header(put.header, header)
    _fill_extents(put.extents, extents)
    put.chunks.encoded_bytes.extend(chunks.sizes)
    put.chunks.pages.extend(collapse(chunks.pages, 1))
    put.chunks.encoding.extend(collapse(chunks.encodings, _LZ4))  # type: ignore[arg-type]
    put.page_crc32c.extend(chunks.crcs)
    return join(message.SerializeToString(), chunks.pieces, chunks.body_bytes)


def encode_get(header: Header, extents: Sequence[Extent]) -> bytes:
    """The request that reads `extents`."""
    message = pb.ExchangeRequest()
    _fill_header(message.get.header, header)
    _fill_extents(message.get.extents, extents)
    return message.SerializeToString()


def encode_flush(
    header: Header, extents: Sequence[Extent], conditions: Sequence[Version | None] | None = None
) -> bytes:
    """The request that removes `extents`, each only at its condition's version if it has one."""
    message = pb.ExchangeRequest()
    flush = message.flush
    _fill_header(flush.header, header)
    _fill_extents(flush.extents, extents)
    if conditions is not None:
        flush.if_generation.extend(collapse([c.generation if c else 0 for c in conditions], 0))
        flush.if_sequence.extend(collapse([c.sequence if c else 0 for c in conditions], 0))
    return message.SerializeToString()


def encode_flush_object(header: Header, objects: Sequence[int]) -> bytes:
    """The request that removes whole objects."""
    message = pb.ExchangeRequest()
    flush = message.flush_object
    _fill_header(flush.header, header)
    _, mid, high = _object_columns(objects)
    flush.object_low.extend([split_object(obj)[0] for obj in objects])
    flush.object_mid.extend(mid)
    flush.object_high.extend(high)
    return message.SerializeToString()


def encode_echo(header: Header, body: bytes, zero_bytes: int = 0) -> bytes:
    """The request that is answered and nothing else."""
    message = pb.ExchangeRequest()
    _fill_header(message.echo.header, header)
    message.echo.zero_bytes = zero_bytes
    return join(message.SerializeToString(), [body], len(body))


def encode_control(message: pb.Open | pb.Attach | pb.Heartbeat) -> bytes:
    """The request that carries an Open, Attach or Heartbeat."""
    request = pb.ExchangeRequest()
    if isinstance(message, pb.Open):
        request.open.CopyFrom(message)
    elif isinstance(message, pb.Attach):
        request.attach.CopyFrom(message)
    else:
        request.heartbeat.CopyFrom(message)
    return request.SerializeToString()


def readdress(message: bytes, header: Header) -> bytes:
    """The same batch under another header, for a pool that was made again; its body is copied once."""
    request, body, _ = parse(message, pb.ExchangeRequest(), "body")
    batch = getattr(request, request.WhichOneof("kind") or "")
    _fill_header(batch.header, header)
    return join(request.SerializeToString(), [body], len(body))


# ---- Decoding ----


def decode_request(data: bytes) -> tuple[Request, bool]:
    """One request, and whether the generated class had to parse it whole (the slow path).

    Raises:
        MalformedBatch: readable, but its columns contradict each other or a limit.
        ProtocolError: no request at all.
    """
    message, body, slow = parse(data, pb.ExchangeRequest(), "body")
    kind = message.WhichOneof("kind")
    if kind == "get":
        return _decode_get(message.get), slow
    if kind == "put":
        return _decode_put(message.put, body), slow
    if kind == "flush":
        return _decode_flush(message.flush), slow
    if kind == "flush_object":
        return _decode_flush_object(message.flush_object), slow
    if kind == "echo":
        return _decode_echo(message.echo, body), slow
    if kind == "heartbeat":
        return message.heartbeat, slow
    if kind == "attach":
        return message.attach, slow
    if kind == "open":
        return message.open, slow
    raise ProtocolError("a request of no known kind")


def _decode_header(source: pb.BatchHeader) -> Header:
    header = Header(
        source.batch_id,
        source.pool_id,
        source.generation,
        source.sequence,
        source.floor,
        source.epoch,
        source.answer_bytes,
    )
    if header.answer_bytes > MAX_ANSWER_BYTES:
        raise MalformedBatch(header.batch_id, f"answer_bytes {header.answer_bytes} is above {MAX_ANSWER_BYTES}")
    return header


def _decode_write_header(source: pb.BatchHeader) -> Header:
    header = _decode_header(source)
    if not 1 <= header.sequence <= MAX_SEQUENCE:
        raise MalformedBatch(header.batch_id, f"a write has a sequence of 1 .. 2**63-1, not {header.sequence}")
    return header


def _decode_extents(batch_id: int, source: pb.Extents, max_pages: int) -> list[Extent]:
    index = source.index[:]
    count = len(index)
    if count == 1:
        return [_decode_extent(batch_id, source, index[0])]
    if not 1 <= count <= MAX_BATCH_EXTENTS:
        raise MalformedBatch(batch_id, f"a batch has 1..{MAX_BATCH_EXTENTS} extents, not {count}")
    try:
        pages = expand(source.pages, count, 1, "pages")
        objects = _decode_objects(source.object_low, source.object_mid, source.object_high, count)
        for extent in zip(objects, index, pages, strict=True):
            check_extent(*extent)
    except (ColumnError, InvalidHandle) as error:
        raise MalformedBatch(batch_id, str(error)) from error
    if sum(pages) > max_pages:
        raise MalformedBatch(batch_id, f"the extents have {sum(pages)} pages; {max_pages} are allowed")
    return list(map(Extent, objects, index, pages))


def _decode_extent(batch_id: int, source: pb.Extents, index: int) -> Extent:
    """The one extent of a batch. No batch may have fewer pages than an extent."""
    columns = source.object_low[:] or _ZERO, source.object_mid[:] or _ZERO, source.object_high[:] or _ZERO
    pages = source.pages[:] or _ONE
    if not len(pages) == len(columns[0]) == len(columns[1]) == len(columns[2]) == 1:
        raise MalformedBatch(batch_id, "a column has several entries for one extent")
    (low,), (mid,), (high,) = columns
    extent = Extent(join_object(low, mid, high) if mid or high else low, index, pages[0])
    try:
        check_extent(*extent)
    except InvalidHandle as error:
        raise MalformedBatch(batch_id, str(error)) from error
    return extent


def _decode_objects(low: Sequence[int], mid: Sequence[int], high: Sequence[int], count: int) -> list[int]:
    if len(low) <= 1 and len(mid) <= 1 and len(high) <= 1:
        # Nearly every batch is about one object.
        return [join_object(low[0] if low else 0, mid[0] if mid else 0, high[0] if high else 0)] * count
    lows = expand(low, count, 0, "object_low")
    mids = expand(mid, count, 0, "object_mid")
    highs = expand(high, count, 0, "object_high")
    return list(map(join_object, lows, mids, highs))


def _decode_put(source: pb.PutBatch, body: memoryview) -> Put:
    header = _decode_write_header(source.header)
    extents = _decode_extents(header.batch_id, source.extents, MAX_BATCH_PAGES)
    sizes = list(source.chunks.encoded_bytes)
    try:
        pages = expand(source.chunks.pages, len(sizes), 1, "chunks.pages")
        encodings = expand(source.chunks.encoding, len(sizes), _LZ4, "chunks.encoding")
    except ColumnError as error:
        raise MalformedBatch(header.batch_id, str(error)) from error
    put = Put(header, extents, sizes, pages, encodings, array("I", source.page_crc32c[:]), body)
    check_put(put)
    return put


def check_put(put: Put) -> None:
    """Raises MalformedBatch unless the chunks cover exactly the extents, and together are exactly the body."""
    batch_id = put.header.batch_id
    extents = iter(put.extents)
    left = 0  # pages of the current extent that no chunk has covered yet
    total = 0
    for size, pages, encoding in zip(put.sizes, put.pages, put.encodings, strict=True):
        if not left:
            extent = next(extents, None)
            if extent is None:
                raise MalformedBatch(batch_id, "there are more chunks than the extents have pages")
            left = extent.pages
        _check_chunk(batch_id, size, pages, encoding)
        left -= pages
        if left < 0:
            raise MalformedBatch(batch_id, "a chunk crosses the end of its extent")
        total += pages
    if left or next(extents, None) is not None:
        raise MalformedBatch(batch_id, "the chunks do not cover the extents")
    if len(put.crcs) != total:
        raise MalformedBatch(batch_id, f"{len(put.crcs)} page checksums for {total} pages")
    if sum(put.sizes) != len(put.body):
        raise MalformedBatch(batch_id, f"the chunks claim {sum(put.sizes)} bytes of a body of {len(put.body)}")


def _check_chunk(batch_id: int, size: int, pages: int, encoding: int) -> None:
    if encoding == _LZ4:
        good = 1 <= pages <= MAX_CHUNK_PAGES and 1 <= size < pages * PAGE_BYTES
    elif encoding == _RAW:
        good = 1 <= pages <= MAX_CHUNK_PAGES and size == pages * PAGE_BYTES
    elif encoding == _SAME_FILLED:
        good = 1 <= pages <= BLOCK_PAGES and size == SAME_FILLED_BYTES
    else:
        raise MalformedBatch(batch_id, f"encoding {encoding} is unknown")
    if not good:
        name = Encoding(encoding).name
        raise MalformedBatch(batch_id, f"a chunk of {pages} pages can't be {size} bytes of {name}")


def _decode_get(source: pb.GetBatch) -> Get:
    header = _decode_header(source.header)
    extents = _decode_extents(header.batch_id, source.extents, MAX_BATCH_PAGES)
    pages = sum(extent.pages for extent in extents)
    if header.answer_bytes < pages * PAGE_BYTES:
        raise MalformedBatch(
            header.batch_id, f"answer_bytes {header.answer_bytes} leaves no room for {pages} pages as they are"
        )
    return Get(header, extents)


def _decode_flush(source: pb.FlushBatch) -> Flush:
    header = _decode_write_header(source.header)
    extents = _decode_extents(header.batch_id, source.extents, MAX_BATCH_EXTENTS * BLOCK_PAGES)
    if not source.if_sequence and not source.if_generation:
        return Flush(header, extents, None)
    try:
        generations = expand(source.if_generation, len(extents), 0, "if_generation")
        sequences = expand(source.if_sequence, len(extents), 0, "if_sequence")
    except ColumnError as error:
        raise MalformedBatch(header.batch_id, str(error)) from error
    conditions: list[Version | None] = []
    for generation, sequence in zip(generations, sequences, strict=True):
        if generation and not sequence:
            # Read as "no condition" it would remove what the caller wanted to spare.
            raise MalformedBatch(header.batch_id, "a condition has a generation and no sequence")
        conditions.append(Version(generation, sequence) if sequence else None)
    return Flush(header, extents, conditions)


def _decode_flush_object(source: pb.FlushObjectBatch) -> FlushObject:
    header = _decode_write_header(source.header)
    count = len(source.object_low)
    if not 1 <= count <= MAX_BATCH_EXTENTS:
        raise MalformedBatch(header.batch_id, f"a batch has 1..{MAX_BATCH_EXTENTS} objects, not {count}")
    try:
        lows = list(source.object_low)
        mids = expand(source.object_mid, count, 0, "object_mid")
        highs = expand(source.object_high, count, 0, "object_high")
    except ColumnError as error:
        raise MalformedBatch(header.batch_id, str(error)) from error
    return FlushObject(header, list(map(join_object, lows, mids, highs)))


def _decode_echo(source: pb.EchoBatch, body: memoryview) -> Echo:
    header = _decode_header(source.header)
    comes_back = source.zero_bytes or len(body)
    if header.answer_bytes < comes_back:
        raise MalformedBatch(
            header.batch_id, f"answer_bytes {header.answer_bytes} leaves no room for the {comes_back} that come back"
        )
    return Echo(header, body, source.zero_bytes)
