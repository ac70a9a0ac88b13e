"""What a journal file says is what was written, or the file is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.server.store.journal import entries
from tmem.server.store.journal.entries import FileHeader, JournalError, Kind, Torn

HEADER = FileHeader(7, bytes(range(16)), synced=True)


def file_of(*written: tuple[Kind, bytes]) -> bytes:
    return entries.encode_header(HEADER) + b"".join(
        b"".join(entries.encode_entry(kind, payload)) for kind, payload in written
    )


def read(data: bytes, *, last: bool = True, rebooted: bool = False) -> list[object]:
    return [
        entry if isinstance(entry, Torn) else (entry[0], bytes(entry[1]))
        for entry in entries.read_entries(memoryview(data), "FILE", last=last, rebooted=rebooted)
    ]


WRITTEN = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=200)), max_size=6)


@given(WRITTEN)
def test_what_is_read_is_what_was_written(written):
    data = file_of(*written)
    assert entries.read_header(data, "FILE") == HEADER
    assert read(data) == written


@given(WRITTEN.filter(bool), st.data())
def test_a_file_cut_anywhere_is_its_whole_entries_and_a_torn_tail(written, data):
    whole = file_of(*written)
    at = data.draw(st.integers(entries.HEADER_BYTES, len(whole) - 1))
    found = read(whole[:at])
    kept = written[: len([entry for entry in found if not isinstance(entry, Torn)])]
    cut = len(file_of(*kept))
    assert found == kept + ([Torn(cut, at - cut)] if at > cut else [])
    if at > cut:
        with pytest.raises(JournalError, match=r"FILE.*cut short, and it is not the journal's last"):
            read(whole[:at], last=False)


@given(WRITTEN.filter(bool), st.data())
def test_a_bit_that_flipped_is_never_taken_for_an_entry(written, data):
    whole = bytearray(file_of(*written))
    at = data.draw(st.integers(entries.HEADER_BYTES, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    # Not for a torn tail either: what would be cut off then was acknowledged.
    with pytest.raises(JournalError, match="FILE"):
        read(bytes(whole))


def test_a_file_that_grew_before_its_bytes_came_is_torn_there():
    data = file_of((Kind.MARK, b"x"))
    assert read(data + bytes(5000)) == [(Kind.MARK, b"x"), Torn(len(data), 5000)]


@pytest.mark.parametrize("cut", range(512, 2048, 512))
def test_after_a_power_loss_an_entry_whose_last_sectors_are_empty_is_torn(cut):
    first, second = (Kind.MARK, b"x"), (Kind.BATCH, bytes(range(1, 256)) * 8)
    data = file_of(first, second)
    torn = data[:cut] + bytes(len(data) + 3000 - cut)
    at = len(file_of(first))
    assert read(torn, rebooted=True) == [first, Torn(at, len(torn) - at)]
    with pytest.raises(JournalError, match="FILE"):
        read(torn)
    with pytest.raises(JournalError, match="FILE"):
        read(torn, last=False, rebooted=True)
    with pytest.raises(JournalError, match="FILE"):
        read(torn + b"x", rebooted=True)


def test_zeros_with_something_behind_them_are_refused():
    data = file_of((Kind.MARK, b"x")) + bytes(5000) + b"something"
    with pytest.raises(JournalError, match="FILE"):
        read(data)


@pytest.mark.parametrize(
    ("at", "message"), [(0, "not a journal file"), (8, "journal format"), (12, "fails its checksum"), (40, "checksum")]
)
def test_a_header_that_is_not_right_is_refused_by_name(at, message):
    data = bytearray(file_of())
    data[at] ^= 1
    with pytest.raises(JournalError, match=f"FILE: .*{message}"):
        entries.read_header(bytes(data), "FILE")


def test_another_version_is_refused_and_says_which():
    data = bytearray(file_of())
    data[8:12] = (2).to_bytes(4, "little")
    with pytest.raises(JournalError, match="FILE: journal format 2; this tmemd reads 1"):
        entries.read_header(bytes(data), "FILE")


def test_an_unknown_kind_is_refused():
    data = file_of((9, b"later"))  # type: ignore[arg-type]
    with pytest.raises(JournalError, match="unknown kind 9"):
        read(data)
