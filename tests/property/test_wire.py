"""Whatever a batch holds and however it is written, both sides read the same."""

from array import array
from typing import Any

from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pages import PAGE, page

from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import decode_answer
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import MalformedBatch, ProtocolError
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import MAX_ANSWER_BYTES
from tmem.wire.requests import Flush, Get, Header, Put, decode_request, encode_flush, encode_get, encode_put
from tmem.wire.results import enum_field
from tmem.wire.splice import BODY_TAG, join, parse, varint

U32, U63, U64 = 2**32 - 1, 2**63 - 1, 2**64 - 1

headers = st.builds(
    Header,
    batch_id=st.integers(0, U64),
    pool_id=st.integers(0, U64),
    generation=st.integers(0, U64),
    sequence=st.integers(1, U63),
    floor=st.integers(0, U64),
    epoch=st.integers(0, U64),
    answer_bytes=st.just(MAX_ANSWER_BYTES),
)


@st.composite
def extents(draw: st.DrawFn, *, max_pages: int) -> Extent:
    pages = draw(st.integers(1, max_pages))
    block = draw(st.integers(0, (U32 + 1) // 512 - 1))
    first = draw(st.integers(0, 512 - pages))
    obj = draw(st.one_of(st.integers(0, 3), st.integers(0, 2**192 - 1)))
    return Extent(obj, block * 512 + first, pages)


@st.composite
def puts(draw: st.DrawFn) -> tuple[Header, list[Extent], EncodedChunks]:
    items = draw(st.lists(extents(max_pages=8), min_size=1, max_size=12))
    chunk_pages = draw(st.integers(1, 16))
    chunks = EncodedChunks()
    codec = Codec(CopyCounter())
    for item in items:
        seeds = draw(st.lists(st.integers(0, 50), min_size=item.pages, max_size=item.pages))
        codec.encode(memoryview(b"".join(map(page, seeds))), item.first, chunk_pages, chunks)
    return draw(headers), items, chunks


def generated_put(header: Header, items: list[Extent], chunks: EncodedChunks) -> pb.ExchangeRequest:
    """The same batch, by the generated class alone and without shortening any column."""
    message = pb.ExchangeRequest(body=b"".join(chunks.pieces))
    put = message.put
    for name in Header.__slots__:
        setattr(put.header, name, getattr(header, name))
    for item in items:
        put.extents.object_low.append(item.object & U64)
        put.extents.object_mid.append(item.object >> 64 & U64)
        put.extents.object_high.append(item.object >> 128)
        put.extents.index.append(item.index)
        put.extents.pages.append(item.pages)
    put.chunks.encoded_bytes.extend(chunks.sizes)
    put.chunks.pages.extend(chunks.pages)
    put.chunks.encoding.extend(map(enum_field, chunks.encodings))
    put.page_crc32c.extend(chunks.crcs)
    return message


def assert_is(put: object, header: Header, items: list[Extent], chunks: EncodedChunks) -> None:
    assert isinstance(put, Put)
    assert (put.header, put.extents) == (header, items)
    assert (put.sizes, put.pages, put.encodings) == (chunks.sizes, chunks.pages, chunks.encodings)
    assert put.crcs == array("I", chunks.crcs)
    assert bytes(put.body) == b"".join(chunks.pieces)


@settings(max_examples=150, deadline=None)
@given(puts())
def test_a_put_is_byte_equal_to_what_the_generated_class_makes_of_it(
    batch: tuple[Header, list[Extent], EncodedChunks],
) -> None:
    header, items, chunks = batch

    data = encode_put(header, items, chunks)

    assert pb.ExchangeRequest.FromString(data).SerializeToString() == data
    assert_is(decode_request(data)[0], header, items, chunks)


@settings(max_examples=150, deadline=None)
@given(puts())
def test_full_columns_mean_the_same_as_short_ones(batch: tuple[Header, list[Extent], EncodedChunks]) -> None:
    header, items, chunks = batch

    put, slow = decode_request(generated_put(header, items, chunks).SerializeToString())

    assert not slow
    assert_is(put, header, items, chunks)


def fields(data: bytes) -> list[bytes]:
    """The fields of a message, each with its tag."""
    found = []
    at = 0
    while at < len(data):
        start = at
        tag, at = _DecodeVarint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = _DecodeVarint(data, at)
        elif wire_type == 2:
            size, at = _DecodeVarint(data, at)
            at += size
        else:
            at += 8 if wire_type == 1 else 4
        found.append(data[start:at])
    return found


def reorder(data: bytes, draw: Any, depth: int) -> bytes:
    """The same message with its fields in another order, down to some depth, and packed scalars unpacked at the bottom."""
    parts = []
    for part in fields(data):
        tag, at = _DecodeVarint(part, 0)
        if tag & 7 == 2 and depth and tag >> 3 < 1000:
            size, body_at = _DecodeVarint(part, at)
            body = reorder(part[body_at : body_at + size], draw, depth - 1) if depth > 1 else part[body_at:]
            parts.append(part[:at] + varint(len(body)) + body)
        else:
            parts.append(part)
    return b"".join(draw(st.permutations(parts)))


def unpacked(message: pb.ExchangeRequest) -> bytes:
    """The put with its `index` and `pages` columns as unpacked scalars."""
    put = message.put
    columns = b"".join(b"\x20" + varint(index) for index in put.extents.index)  # field 4, varint
    columns += b"".join(b"\x28" + varint(pages) for pages in put.extents.pages)  # field 5, varint
    columns += b"".join(b"\x09" + word.to_bytes(8, "little") for word in put.extents.object_low)
    columns += b"".join(b"\x11" + word.to_bytes(8, "little") for word in put.extents.object_mid)
    columns += b"".join(b"\x19" + word.to_bytes(8, "little") for word in put.extents.object_high)
    rest = pb.PutBatch()
    rest.CopyFrom(put)
    rest.ClearField("extents")
    batch = rest.SerializeToString() + b"\x12" + varint(len(columns)) + columns
    return b"\x22" + varint(len(batch)) + batch + BODY_TAG + varint(len(message.body)) + message.body


@settings(max_examples=150, deadline=None)
@given(puts(), st.data())
def test_any_order_of_fields_means_the_same(
    batch: tuple[Header, list[Extent], EncodedChunks], data: st.DataObject
) -> None:
    header, items, chunks = batch
    message = encode_put(header, items, chunks)

    put, _ = decode_request(reorder(message, data.draw, 2))

    assert_is(put, header, items, chunks)


@settings(max_examples=100, deadline=None)
@given(puts())
def test_unpacked_scalars_mean_the_same(batch: tuple[Header, list[Extent], EncodedChunks]) -> None:
    header, items, chunks = batch

    put, _ = decode_request(unpacked(generated_put(header, items, chunks)))

    assert_is(put, header, items, chunks)


@settings(max_examples=100, deadline=None)
@given(puts(), st.binary(max_size=40))
def test_of_a_repeated_body_the_last_wins(batch: tuple[Header, list[Extent], EncodedChunks], other: bytes) -> None:
    header, items, chunks = batch
    message = encode_put(header, items, chunks)
    first_body = BODY_TAG + varint(len(other)) + other

    put, slow = decode_request(first_body + message)

    assert slow
    assert_is(put, header, items, chunks)


@settings(max_examples=200, deadline=None)
@given(headers, st.lists(extents(max_pages=16), min_size=1, max_size=30))
def test_gets_survive(header: Header, items: list[Extent]) -> None:
    data = encode_get(header, items)

    assert pb.ExchangeRequest.FromString(data).SerializeToString() == data
    assert decode_request(data) == (Get(header, items), False)


@settings(max_examples=200, deadline=None)
@given(
    headers,
    st.lists(
        st.tuples(
            extents(max_pages=512),
            st.one_of(st.none(), st.builds(Version, st.integers(0, U64), st.integers(1, U64))),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_flushes_survive(header: Header, items: list[tuple[Extent, Version | None]]) -> None:
    named = [extent for extent, _ in items]
    conditions = [condition for _, condition in items]

    flush, _ = decode_request(encode_flush(header, named, conditions))

    assert flush == Flush(header, named, conditions if any(conditions) else None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_an_error_of_ours_on_both_sides(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(data)
        except (ProtocolError, MalformedBatch):
            continue


@settings(max_examples=200, deadline=None)
@given(puts(), st.data())
def test_a_damaged_message_is_an_error_of_ours_or_a_well_formed_batch(
    batch: tuple[Header, list[Extent], EncodedChunks], data: st.DataObject
) -> None:
    message = bytearray(encode_put(*batch))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(message) - 1, 400)))
        message[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del message[data.draw(st.integers(0, len(message) - 1)) :]
    try:
        request, _ = decode_request(bytes(message))
    except (ProtocolError, MalformedBatch):
        return
    if isinstance(request, Put):
        assert sum(request.sizes) == len(request.body)
        assert sum(request.pages) == len(request.crcs) == sum(extent.pages for extent in request.extents)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=50), st.lists(st.binary(max_size=30), max_size=5))
def test_join_and_parse_are_inverse(payload: bytes, pieces: list[bytes]) -> None:
    message = pb.ExchangeRequest()
    message.echo.header.batch_id = len(payload)
    body = b"".join(pieces)

    parsed, view, slow = parse(join(message.SerializeToString(), pieces, len(body)), pb.ExchangeRequest(), "body")

    assert (parsed, bytes(view), slow) == (message, body, False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.integers(0, 511),
    st.integers(1, 16),
    st.integers(0, 7),
)
def test_any_pages_at_any_place_in_any_chunks_come_back(
    seeds: list[int], first: int, chunk_pages: int, misalignment: int
) -> None:
    seeds = seeds[: 512 - first]
    plain = b"".join(map(page, seeds))
    shifted = bytearray(misalignment) + plain
    codec = Codec(CopyCounter())
    chunks = EncodedChunks()
    codec.encode(memoryview(shifted)[misalignment:], first, chunk_pages, chunks)
    back = bytearray(len(plain))
    at = 0
    for encoding, count, piece in zip(chunks.encodings, chunks.pages, chunks.pieces, strict=True):
        here = memoryview(back)[at * PAGE : (at + count) * PAGE]
        assert not codec.decode(encoding, bytes(piece), count, 0, here, chunks.crcs[at : at + count])
        at += count

    assert back == plain
