"""Several threads do what one would have done."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pages import PAGE, mixed_page, random_page, same_filled_page, text_page

from tmem.client._core.options import Options
from tmem.client._core.parallel import ParallelCodec, _Job, codec_for
from tmem.wire.codec import NO_CHECKSUM, Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import InvalidOption
from tmem.wire.results import Encoding

KINDS = [text_page(1), text_page(2), random_page(3), mixed_page(4), same_filled_page(), same_filled_page(b"8 bytes!")]
# Runs of one kind, so that whole chunks are same-filled or raw.
extents = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 40)), min_size=1, max_size=16).map(
    lambda runs: b"".join(page * count for page, count in runs)[: 512 * PAGE]
)


def encode(codec: Codec, plain: bytes, first: int, chunk_pages: int) -> EncodedChunks:
    chunks = EncodedChunks()
    codec.encode(memoryview(plain), first, chunk_pages, chunks)
    return chunks


@settings(deadline=None, max_examples=60)
@given(extents, st.integers(0, 20), st.sampled_from([1, 4, 8, 16]), st.integers(1, 3))
def test_the_same_chunks_come_of_it_and_the_same_pages(
    plain: bytes, first: int, chunk_pages: int, helpers: int
) -> None:
    plain = plain[: (512 - first) * PAGE]
    alone, together = Codec(CopyCounter()), ParallelCodec(CopyCounter(), helpers)
    expected = encode(alone, plain, first, chunk_pages)
    chunks = encode(together, plain, first, chunk_pages)
    assert [bytes(piece) for piece in chunks.pieces] == [bytes(piece) for piece in expected.pieces]
    assert (chunks.sizes, chunks.pages, chunks.encodings) == (expected.sizes, expected.pages, expected.encodings)
    assert (chunks.crcs, chunks.body_bytes) == (expected.crcs, expected.body_bytes)

    back = memoryview(bytearray(len(plain)))
    wanted = []
    at = 0
    for encoding, pages, piece in zip(chunks.encodings, chunks.pages, chunks.pieces, strict=True):
        wanted.append((encoding, bytes(piece), pages, 0, back[at : at + pages * PAGE]))
        at += pages * PAGE
    found = together.decode_all(wanted)
    assert back == plain
    assert [crc for crcs in found for crc in crcs] == expected.crcs


def test_parts_of_chunks_are_copied_and_counted_wherever_that_happens() -> None:
    plain = b"".join(text_page(seed) for seed in range(256))
    copies = CopyCounter()
    codec = ParallelCodec(copies, 2)
    chunks = encode(codec, plain, 0, 16)
    back = memoryview(bytearray(16 * 8 * PAGE))
    wanted = [
        (encoding, bytes(piece), pages, 8, back[number * 8 * PAGE : (number + 1) * 8 * PAGE])
        for number, (encoding, pages, piece) in enumerate(
            zip(chunks.encodings, chunks.pages, chunks.pieces, strict=True)
        )
    ]
    codec.decode_all(wanted)
    assert copies.get_pages == 16 * 8
    assert all(
        back[number * 8 * PAGE : (number + 1) * 8 * PAGE] == plain[(number * 16 + 8) * PAGE : (number + 1) * 16 * PAGE]
        for number in range(16)
    )


def test_a_chunk_that_is_none_is_said_and_the_others_are_there() -> None:
    plain = b"".join(text_page(seed) for seed in range(256))
    codec = ParallelCodec(CopyCounter(), 1)
    chunks = encode(codec, plain, 0, 16)
    back = memoryview(bytearray(len(plain)))
    wanted = [
        (
            int(Encoding.LZ4),
            b"\xff" * 100 if number == 7 else bytes(piece),
            16,
            0,
            back[number << 16 : number + 1 << 16],
        )
        for number, piece in enumerate(chunks.pieces)
    ]
    found = codec.decode_all(wanted)
    assert found[7] == [NO_CHECKSUM] * 16
    assert [crc for number, crcs in enumerate(found) if number != 7 for crc in crcs] == [
        crc for number, crc in enumerate(chunks.crcs) if number // 16 != 7
    ]


def test_what_a_helper_raises_is_raised_and_nothing_hangs() -> None:
    helping = threading.Event()
    failed = threading.Event()

    def work(number: int, helper: int) -> None:
        if helper >= 0:
            failed.set()
            raise ValueError(f"piece {number}")
        helping.wait(20)
        failed.wait(20)

    job = _Job(2, work)

    def help_once() -> None:
        helping.set()
        job.help(0)

    helper = threading.Thread(target=help_once)
    helper.start()
    with pytest.raises(ValueError, match="piece 1"):
        job.run()
    helper.join(20)


def test_a_helper_that_comes_too_late_does_nothing() -> None:
    done: list[int] = []
    job = _Job(3, lambda number, _: done.append(number))
    job.run()
    job.help(0)
    assert done == [0, 1, 2]


def test_options_say_how_many() -> None:
    assert type(codec_for(Options(codec_threads=1), CopyCounter())) is Codec
    assert type(codec_for(Options(codec_threads=3), CopyCounter())) is ParallelCodec
    with pytest.raises(InvalidOption, match="codec_threads is 9"):
        Options(codec_threads=9)
