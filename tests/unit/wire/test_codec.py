import random
import tracemalloc

import lz4.block
import numpy
import pytest
from tests.pages import PAGE, extent, mixed_page, random_page, same_filled_page, text_page

from tmem.wire.checksum import page_checksum, page_checksums, same_filled_checksum
from tmem.wire.codec import Codec, EncodedChunks, plain_view
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import InvalidBuffer
from tmem.wire.results import Encoding


@pytest.fixture
def codec() -> Codec:
    return Codec(CopyCounter())


def encode(codec: Codec, plain: bytes | bytearray, first: int = 0, chunk_pages: int = 16) -> EncodedChunks:
    chunks = EncodedChunks()
    codec.encode(plain_view(plain, writable=False), first, chunk_pages, chunks)
    return chunks


def decode(codec: Codec, chunks: EncodedChunks) -> tuple[bytes, list[int]]:
    pages = sum(chunks.pages)
    out = bytearray(pages * PAGE)
    view = memoryview(out)
    bad = []
    at = 0
    for encoding, count, piece in zip(chunks.encodings, chunks.pages, chunks.pieces, strict=True):
        here = view[at * PAGE : (at + count) * PAGE]
        bad += [at + page for page in codec.decode(encoding, piece, count, 0, here, chunks.crcs[at : at + count])]
        at += count
    return bytes(out), bad


@pytest.mark.parametrize("chunk_pages", [1, 4, 16])
@pytest.mark.parametrize(("first", "pages"), [(0, 512), (0, 1), (5, 1), (3, 30), (511, 1), (17, 495)])
def test_what_goes_in_comes_out(codec: Codec, chunk_pages: int, first: int, pages: int) -> None:
    plain = extent(first, pages)

    chunks = encode(codec, plain, first, chunk_pages)

    assert decode(codec, chunks) == (bytes(plain), [])
    assert sum(chunks.pages) == pages == len(chunks.crcs)
    assert chunks.body_bytes == sum(map(len, chunks.pieces)) == sum(chunks.sizes)


def test_chunks_are_cut_where_an_overwrite_would_cut_them(codec: Codec) -> None:
    chunks = encode(codec, random.Random(1).randbytes(40 * PAGE), first=3)

    assert chunks.pages == [13, 16, 11]


def test_a_page_that_does_not_shrink_stays_raw_and_is_the_callers_own_memory(codec: Codec) -> None:
    plain = bytearray(random_page())

    chunks = encode(codec, plain)

    assert chunks.encodings == [Encoding.RAW]
    assert isinstance(chunks.pieces[0], memoryview)
    assert chunks.pieces[0].obj is plain


def test_lz4_carries_no_size_prefix(codec: Codec) -> None:
    chunks = encode(codec, text_page())

    assert chunks.encodings == [Encoding.LZ4]
    assert lz4.block.decompress(chunks.pieces[0], uncompressed_size=PAGE) == text_page()


def test_same_filled_neighbours_become_one_chunk_of_eight_bytes(codec: Codec) -> None:
    chunks = encode(codec, bytes(512 * PAGE))

    assert (chunks.encodings, chunks.pages, chunks.sizes) == ([Encoding.SAME_FILLED], [512], [8])


def test_same_filled_chunks_of_different_words_stay_apart(codec: Codec) -> None:
    plain = same_filled_page(b"AAAAAAAA") * 16 + same_filled_page(b"BBBBBBBB") * 16

    chunks = encode(codec, plain)

    assert [bytes(piece) for piece in chunks.pieces] == [b"AAAAAAAA", b"BBBBBBBB"]


def test_a_pattern_that_only_looks_same_filled_at_ends_and_middle_is_not(codec: Codec) -> None:
    plain = bytearray(PAGE)
    plain[100] = 1

    chunks = encode(codec, plain)

    assert chunks.encodings == [Encoding.LZ4]
    assert decode(codec, chunks)[0] == bytes(plain)


def test_two_extents_that_are_same_filled_do_not_merge(codec: Codec) -> None:
    chunks = EncodedChunks()
    zero = plain_view(bytes(PAGE), writable=False)
    codec.encode(zero, 0, 16, chunks)
    codec.encode(zero, 16, 16, chunks)

    assert chunks.pages == [1, 1]


def test_part_of_a_chunk_is_a_counted_copy() -> None:
    copies = CopyCounter()
    codec = Codec(copies)
    plain = b"".join(text_page(seed) for seed in range(16))
    chunks = encode(codec, plain)
    page = bytearray(PAGE)

    bad = codec.decode(Encoding.LZ4, chunks.pieces[0], 16, 5, memoryview(page), chunks.crcs[5:6])

    assert (bytes(page), bad) == (text_page(5), [])
    assert (copies.get_pages, copies.put_pages) == (1, 0)


def test_whole_chunks_are_no_copies() -> None:
    copies = CopyCounter()
    codec = Codec(copies)

    decode(codec, encode(codec, extent(0, 512)))

    assert (copies.get_pages, copies.put_pages) == (0, 0)


def test_a_block_allocates_its_compressed_pieces_and_small_change(codec: Codec) -> None:
    plain = memoryview(bytearray(b"".join(text_page(seed) for seed in range(512))))
    chunks = EncodedChunks()
    tracemalloc.start()
    codec.encode(plain, 0, 16, chunks)
    _, encode_peak = tracemalloc.get_traced_memory()
    out = memoryview(bytearray(len(plain)))
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    at = 0
    for count, piece in zip(chunks.pages, chunks.pieces, strict=True):
        codec.decode(Encoding.LZ4, piece, count, 0, out[at * PAGE : (at + count) * PAGE], chunks.crcs[at : at + count])
        at += count
    _, decode_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert out == plain
    assert encode_peak < chunks.body_bytes + (256 << 10)  # the chunk at work, lists and integers
    assert decode_peak - before < 16 << 10


@pytest.mark.parametrize("flip", [0, 7, 500, -1])
def test_a_flipped_bit_is_corrupt_and_its_page_is_zeroed(codec: Codec, flip: int) -> None:
    chunks = encode(codec, text_page())
    piece = bytearray(chunks.pieces[0])
    piece[flip] ^= 0x10
    chunks.pieces[0] = bytes(piece)

    assert decode(codec, chunks) == (bytes(PAGE), [0])


def test_only_the_damaged_page_of_a_raw_chunk_is_corrupt(codec: Codec) -> None:
    plain = bytearray(b"".join(random_page(seed) for seed in range(3)))
    chunks = encode(codec, plain)
    damaged = bytearray(plain)
    damaged[PAGE + 9] ^= 1
    chunks.pieces[0] = bytes(damaged)

    out, bad = decode(codec, chunks)

    assert bad == [1]
    assert out == bytes(plain[:PAGE]) + bytes(PAGE) + bytes(plain[2 * PAGE :])


def test_a_decompression_bomb_is_corrupt_and_writes_nothing_beyond_its_place(codec: Codec) -> None:
    bomb = lz4.block.compress(bytes(64 << 20), store_size=False)
    guarded = bytearray(b"\xee" * (3 * PAGE))

    bad = codec.decode(Encoding.LZ4, bomb, 1, 0, memoryview(guarded)[PAGE : 2 * PAGE], [0])

    assert bad == [0]
    assert guarded[:PAGE] == guarded[2 * PAGE :] == b"\xee" * PAGE
    assert guarded[PAGE : 2 * PAGE] == bytes(PAGE)


def test_a_chunk_that_decodes_to_less_than_it_claims_is_corrupt(codec: Codec) -> None:
    short = lz4.block.compress(text_page()[:4000], store_size=False)
    page = bytearray(b"\xee" * PAGE)

    assert codec.decode(Encoding.LZ4, short, 1, 0, memoryview(page), [0]) == [0]
    assert page == bytes(PAGE)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [(Encoding.RAW, b"short"), (Encoding.SAME_FILLED, b"seven b"), (Encoding.LZ4, b""), (9, b"x"), (0, b"")],
)
def test_data_that_are_not_what_their_encoding_says_are_corrupt(codec: Codec, encoding: int, data: bytes) -> None:
    page = bytearray(PAGE)

    assert codec.decode(encoding, data, 1, 0, memoryview(page), [page_checksum(bytes(PAGE))]) == [0]


def test_page_checksums_are_crc32c() -> None:
    assert page_checksum(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert page_checksums(memoryview(extent(0, 3))) == [page_checksum(bytes(extent(n, 1))) for n in range(3)]
    assert same_filled_checksum(b"abcdefgh") == page_checksum(b"abcdefgh" * 512)


class TestPlainView:
    @pytest.mark.parametrize(
        "buffer",
        [
            bytes(PAGE),
            bytearray(PAGE),
            memoryview(bytes(2 * PAGE))[PAGE:],
            numpy.zeros(512, dtype=numpy.int64),
            numpy.zeros((4, 1024), dtype=numpy.uint8),
        ],
        ids=["bytes", "bytearray", "slice", "int64 array", "matrix"],
    )
    def test_any_contiguous_buffer_of_whole_pages_serves_without_a_copy(self, buffer: object) -> None:
        view = plain_view(buffer, writable=False)  # type: ignore[arg-type]

        assert (view.format, view.ndim, len(view)) == ("B", 1, PAGE)

    def test_writes_reach_the_callers_memory(self) -> None:
        array = numpy.zeros(512, dtype=numpy.int64)

        plain_view(array, writable=True)[:8] = (99).to_bytes(8, "little")  # type: ignore[arg-type]

        assert array[0] == 99

    @pytest.mark.parametrize(
        ("buffer", "message"),
        [
            (bytes(PAGE - 1), "not one or more pages"),
            (b"", "not one or more pages"),
            (memoryview(bytes(2 * PAGE))[::2], "not contiguous"),
            (7, "no buffer"),
            (numpy.zeros((64, 128), dtype=numpy.uint8)[:, ::2], "not contiguous"),
        ],
    )
    def test_anything_else_is_refused_with_its_reason(self, buffer: object, message: str) -> None:
        with pytest.raises(InvalidBuffer, match=message):
            plain_view(buffer, writable=False)  # type: ignore[arg-type]

    def test_a_read_only_buffer_can_not_be_read_into(self) -> None:
        with pytest.raises(InvalidBuffer, match="read-only"):
            plain_view(bytes(PAGE), writable=True)


def test_mixed_pages_compress_to_their_random_half(codec: Codec) -> None:
    chunks = encode(codec, mixed_page(), chunk_pages=1)

    assert PAGE // 2 <= chunks.body_bytes < PAGE // 2 + 100
