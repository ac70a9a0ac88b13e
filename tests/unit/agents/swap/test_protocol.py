"""The FUSE protocol: requests as the kernel packs them, whatever bytes come, and replies as it wants them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.agents.swap import protocol
from tmem.agents.swap.protocol import (
    FILE_NODE,
    MAX_REQUEST_BYTES,
    ROOT_NODE,
    Allocate,
    Features,
    Forget,
    Interrupt,
    Lookup,
    Opcode,
    Other,
    Read,
    ReadDirectory,
    Write,
    init_reply,
    parse,
    parse_init,
)
from tmem.wire.errors import ProtocolError


def message(opcode: int, argument: bytes, unique: int = 7, node: int = FILE_NODE) -> memoryview:
    return memoryview(struct.pack("<IIQQIIIHH", 40 + len(argument), opcode, unique, node, 0, 0, 0, 0, 0) + argument)


def io(offset: int, size: int, data: bytes = b"") -> bytes:
    return struct.pack("<QQIIQII", FILE_NODE, offset, size, 0, 0, 0, 0) + data


def test_requests_as_the_kernel_packs_them():
    assert parse(message(Opcode.READ, io(8192, 4096))) == Read(7, 8192, 4096)
    written = parse(message(Opcode.WRITE, io(4096, 5, b"bytes")))
    assert isinstance(written, Write)
    assert written[:2] == (7, 4096)
    assert bytes(written.data) == b"bytes"
    assert parse(message(Opcode.FALLOCATE, struct.pack("<QQQII", 2, 4096, 8192, 3, 0))) == Allocate(7, 4096, 8192, 3)
    assert parse(message(Opcode.LOOKUP, b"swap\0", node=ROOT_NODE)) == Lookup(7, ROOT_NODE, b"swap")
    assert parse(message(Opcode.READDIR, io(2, 512), node=ROOT_NODE)) == ReadDirectory(7, ROOT_NODE, 2, 512)
    assert parse(message(Opcode.INTERRUPT, bytes(8))) == Interrupt(7)
    assert parse(message(Opcode.FORGET, bytes(8))) == parse(message(Opcode.BATCH_FORGET, bytes(8))) == Forget(7)
    assert parse(message(Opcode.GETATTR, bytes(16))) == Other(7, Opcode.GETATTR, FILE_NODE)


def test_the_data_of_a_write_are_not_copied():
    buffer = bytearray(message(Opcode.WRITE, io(0, 4096, bytes(4096))))
    request = parse(memoryview(buffer))
    assert isinstance(request, Write)
    buffer[-1] = 9
    assert request.data[-1] == 9


def test_the_largest_write_fits_into_the_largest_message():
    assert protocol.WRITE_DATA + protocol.MAX_WRITE_BYTES == MAX_REQUEST_BYTES


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(39), id="a part of a header"),
        pytest.param(bytes(message(Opcode.READ, io(0, 1)))[:-1], id="cut short"),
        pytest.param(bytes(message(Opcode.READ, io(0, 1)[:-1])), id="a short argument"),
        pytest.param(bytes(message(Opcode.WRITE, io(0, 5, b"four"))), id="less data than it says"),
        pytest.param(bytes(message(Opcode.WRITE, io(0, 3, b"four"))), id="more data than it says"),
        pytest.param(bytes(message(Opcode.FALLOCATE, bytes(31))), id="a short fallocate"),
    ],
)
def test_what_is_no_request_is_told(bad):
    with pytest.raises(ProtocolError):
        parse(memoryview(bad))


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_a_request_or_an_error(data):
    for candidate in (data, struct.pack("<I", len(data)) + data[4:] if len(data) >= 4 else data):
        try:
            request = parse(memoryview(candidate))
        except ProtocolError:
            continue
        assert request.unique == int.from_bytes(candidate[8:16], "little")


@given(st.binary(max_size=120))
def test_whatever_opens_it_is_an_opening_or_an_error(data):
    try:
        found = parse_init(memoryview(data))
    except ProtocolError:
        return
    assert found.major == 7


# ---- The opening ----


def opening(flags: int, minor: int = 45, major: int = 7) -> memoryview:
    argument = struct.pack("<IIIII", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32) + bytes(44)
    return message(Opcode.INIT, argument, node=0)


ALL = sum(1 << bit for bit in (0, 5, 15, 18, 21, 22, 30, 39, 42))


def test_the_opening_says_what_the_kernel_can_do():
    found = parse_init(opening(ALL))
    assert found == Features(7, 7, 45, 131072, ALL)
    assert found.missing == []
    assert found.has("HAS_RESEND")


@pytest.mark.parametrize(("bit", "name"), [(15, "ASYNC_DIO"), (22, "MAX_PAGES"), (39, "HAS_RESEND")])
def test_what_is_needed_and_missing_is_named(bit, name):
    assert parse_init(opening(ALL & ~(1 << bit))).missing == [name]


def test_an_old_kernel_has_no_second_word_of_flags():
    found = parse_init(opening(ALL & ~(1 << 30), minor=31))
    assert found.missing == ["HAS_RESEND"]


@pytest.mark.parametrize("bad", [opening(ALL, major=8), message(Opcode.READ, io(0, 1)), memoryview(bytes(10))])
def test_another_protocol_is_told(bad):
    with pytest.raises(ProtocolError):
        parse_init(bad)


def unpack_init(answer: bytes) -> tuple[int, ...]:
    assert len(answer) == 16 + 64
    return struct.unpack_from("<IIIIHHIIHHIIH", answer, 16)


def test_only_what_the_kernel_offers_is_taken():
    answer = unpack_init(init_reply(parse_init(opening(ALL & ~(1 << 21))), 90))
    flags = answer[3] | answer[10] << 32
    assert flags == ALL & ~(1 << 21)
    assert answer[12] == 90
    without = unpack_init(init_reply(parse_init(opening(ALL & ~(1 << 42))), 90))
    assert without[12] == 0


def test_a_full_queue_of_writes_leaves_room_for_reads():
    """A loop device has 128 requests in flight at most, each in two pieces at most."""
    background, congestion = unpack_init(init_reply(parse_init(opening(ALL)), 0))[4:6]
    assert background > 2 * 128
    assert congestion > 2 * 128


# ---- Replies ----


def head(answer: bytes) -> tuple[int, int, int]:
    length, error, unique = struct.unpack_from("<IiQ", answer)
    assert length == len(answer)
    return length, error, unique


def test_every_reply_says_its_length_and_whose_it_is():
    unique = 5 | protocol.RESENT
    for answer in (
        protocol.reply(unique, b"x" * 9),
        protocol.error_reply(unique, 5),
        protocol.write_reply(unique, 4096),
        protocol.attributes_reply(unique, FILE_NODE, 8192),
        protocol.entry_reply(unique, 8192),
        protocol.open_reply(unique, FILE_NODE),
        protocol.statfs_reply(unique, 8192),
        protocol.directory_reply(ReadDirectory(unique, ROOT_NODE, 0, 4096)),
    ):
        assert head(answer)[2] == unique
    assert head(protocol.error_reply(unique, 5))[1] == -5


def test_sizes_of_replies_are_the_kernel_s():
    assert [
        len(answer) - 16
        for answer in (
            protocol.write_reply(1, 1),
            protocol.attributes_reply(1, FILE_NODE, 1),
            protocol.entry_reply(1, 1),
            protocol.open_reply(1, FILE_NODE),
            protocol.statfs_reply(1, 1),
        )
    ] == [8, 104, 128, 16, 80]


def test_the_file_is_opened_past_the_page_cache():
    direct_io = 1
    assert struct.unpack_from("<QI", protocol.open_reply(1, FILE_NODE), 16)[1] & direct_io
    assert not struct.unpack_from("<QI", protocol.open_reply(1, ROOT_NODE), 16)[1] & direct_io


@pytest.mark.parametrize("size", range(0, 120, 8))
def test_a_directory_is_read_in_pieces_of_any_size(size):
    names = []
    offset = 0
    while True:
        payload = protocol.directory_reply(ReadDirectory(1, ROOT_NODE, offset, size))[16:]
        if not payload:
            break
        while payload:
            _, offset, length, _ = struct.unpack_from("<QQII", payload)
            names.append(payload[24 : 24 + length])
            payload = payload[24 + length + -length % 8 :]
    assert names in ([], [b".", b"..", b"swap"])


def test_the_head_of_a_read_is_written_in_front_of_its_data():
    buffer = bytearray(b"\xff" * 24)
    protocol.pack_header(memoryview(buffer), 0, 8, 9)
    assert struct.unpack_from("<IiQ", buffer) == (24, 0, 9)
    assert buffer[16:] == b"\xff" * 8
