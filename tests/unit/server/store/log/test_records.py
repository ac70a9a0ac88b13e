"""A record says what was written, whatever its shape, and takes as little as it can."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.server.store.log import records
from tmem.wire.checksum import same_filled_checksum
from tmem.wire.handles import Version
from tmem.wire.limits import MAX_SEQUENCE
from tmem.wire.results import Encoding


def memory(size: int = 200_000) -> memoryview:
    return memoryview(bytearray(size))


@st.composite
def written(draw):
    encoding = draw(st.sampled_from([Encoding.LZ4, Encoding.RAW, Encoding.SAME_FILLED]))
    if encoding == Encoding.SAME_FILLED:
        pages = draw(st.integers(1, 512))
        data = draw(st.binary(min_size=8, max_size=8))
    else:
        pages = draw(st.integers(1, 16))
        longest = pages * 4096 - (encoding == Encoding.LZ4)
        data = bytes(pages * 4096 if encoding == Encoding.RAW else draw(st.sampled_from([1, 2, 4095, longest])))
    honest = encoding == Encoding.SAME_FILLED and draw(st.booleans())
    crc = same_filled_checksum(data) if honest else draw(st.integers(0, 2**32 - 1))
    return (
        draw(st.integers(0, 512 - pages)),
        int(encoding),
        data,
        array("I", [crc] * pages),
        Version(draw(st.sampled_from([1, 65535, 65536, 2**63])), draw(st.integers(1, MAX_SEQUENCE))),
    )


@given(written(), st.integers(0, 100), st.integers(1, records.MAX_LEAF), st.booleans())
def test_what_is_read_is_what_was_written(parts, at, leaf, dense):
    first, encoding, data, crcs, version = parts
    held = memory()
    size = records.measure(encoding, data, crcs, version.generation)
    overhead = records.write(held, at, leaf, first, encoding, data, crcs, version)

    if dense:
        records.mark_dense(held, at)
    record = records.read(held, at)

    assert record.dense == dense
    assert records.span(held, at) == (leaf, first, len(crcs), size)
    assert overhead + len(data) == size == record.size
    assert record.end == at + size
    assert record[:6] == (leaf, first, len(crcs), encoding, len(data), version)
    assert bytes(held[record.data_at : record.end]) == bytes(data)
    assert record.crcs(held) == crcs
    some = array("I")
    record.add_crcs(held, len(crcs) // 2, len(crcs) - len(crcs) // 2, some)
    assert some == crcs[len(crcs) // 2 :]
    assert not any(held[record.end :])
    assert size <= records.MAX_RECORD_BYTES


@pytest.mark.parametrize(
    ("encoding", "data", "crcs", "overhead"),
    [
        (Encoding.LZ4, bytes(1000), [1], 22),
        (Encoding.LZ4, bytes(1000), [1] * 16, 82),
        (Encoding.SAME_FILLED, bytes(8), [same_filled_checksum(bytes(8))] * 512, 18),
        (Encoding.SAME_FILLED, bytes(8), [1] * 2, 26),
    ],
)
def test_a_record_is_small(encoding, data, crcs, overhead):
    assert records.measure(int(encoding), data, array("I", crcs), 1) == overhead + len(data)
