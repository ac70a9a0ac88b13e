"""What was acknowledged is there again after the daemon was killed at any moment, or the journal is refused by its file's name."""

import itertools
import json
import os
import random
import shutil
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.journals import TENANT, Host, SteppedFiles, Writer, contents, watch_calls
from tests.pages import PAGE, extent, random_page, text_page

from tmem.server.host import journal_directory as directory_module
from tmem.server.host.scratch import ScratchFile
from tmem.server.store.journal import rewriter
from tmem.server.store.journal.entries import (
    HEADER_BYTES,
    FileHeader,
    JournalError,
    Kind,
    Torn,
    encode_entry,
    encode_header,
    read_entries,
)
from tmem.server.store.log import leaves, segment_size
from tmem.server.store.pending import Pending
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Header, encode_flush, encode_get
from tmem.wire.results import Code, Reason

A, B, C = text_page(1), text_page(2), random_page(3)
State = dict[tuple[int, int], tuple[bytes, Version]]
Start = Callable[..., Host]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts hosts on one directory, or on another."""
    started: list[Host] = []

    def start(directory: Path | None = None, **options: object) -> Host:
        started.append(Host(directory or tmp_path / "journal", **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for host in started:
        host.files.close()
        if host.scratch is not None:
            host.scratch.close()


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is written anew as soon as it is a little longer than it must be."""
    monkeypatch.setattr(rewriter, "_REWRITE_BYTES", 2_000)
    monkeypatch.setattr(rewriter, "_REWRITE_FACTOR", 1.2)
    monkeypatch.setattr(directory_module, "_RESERVE_BYTES", 8192)


def last_file(directory: Path) -> Path:
    return max(directory.glob("journal-*"))


class Snapshots:
    """Copies of a journal's directory before each call that changes it, each with the states that it may stand for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, into: Path) -> None:
        self._directory, self._into = directory, into
        self.on = False
        self.taken: list[tuple[Path, str, list[State]]] = []
        self.allowed: list[State] = []
        self.write = watch_calls(monkeypatch, self._before)

    def _before(self, call: str) -> None:
        if self.on and call not in {"fsync", "fdatasync", "close"}:
            copy = self._into / str(len(self.taken))
            shutil.copytree(self._directory, copy)
            self.taken.append((copy, call, list(self.allowed)))


# ---- Written anew ----


@pytest.mark.usefixtures("small_passes")
def test_a_crash_at_any_moment_of_a_pass_loses_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any call of a pass, while pages change; files of several runs before it; started again from each copy."""
    first = start()
    for number in range(6):
        first.make(f"pool-{number}" if number else "pool").put(number, 0, A)
    first.files.close()
    with monkeypatch.context() as patch:
        monkeypatch.setattr(directory_module, "_FILE_BYTES", 6_000)  # and files begin by themselves as well
        snapshots = Snapshots(patch, tmp_path / "journal", tmp_path / "copies")
        (tmp_path / "copies").mkdir()
        host = start(stepped=True, write=snapshots.write)
        writer = host.find()
        state = contents(host.store, writer.key)

        def do(action: Callable[[], object]) -> None:
            nonlocal state
            before = state
            snapshots.allowed = [before]
            snapshots.on = False
            pending = action()
            state = contents(host.store, writer.key)
            snapshots.on, snapshots.allowed = True, [before, state]
            host.run(pending)
            snapshots.allowed = [state]

        for number in range(8):
            do(lambda number=number: writer.ask_put((number, 500, bytes(extent(number, 12)))))  # type: ignore[misc]
            for _ in range(4):
                do(lambda number=number: writer.ask_put((number, 504, C)))  # type: ignore[misc]
        do(lambda: writer.ask_flush(3, 505, 2))
        steps = 0
        snapshots.on = True
        while host.layer.step():
            steps += 1
            host.settle()
            if steps == 3:
                do(lambda: writer.ask_put((1, 501, B)))  # of a block that was written anew already
                do(lambda: writer.ask_put((7, 501, B)))  # of one that was not
                do(lambda: writer.ask_put((99, 0, B)))
                do(lambda: writer.ask_flush(0, 500, 12))
                do(lambda: writer.ask_flush(6, 500, 12))
        host.settle()
        snapshots.on = False
    assert host.layer._rewriter.succeeded == 1
    assert {"write", "writev", "rename", "pwrite", "unlink"} <= {call for _, call, _ in snapshots.taken}
    assert len(snapshots.taken) > 40
    for copy, call, allowed in [*snapshots.taken, (tmp_path / "journal", "end", [state])]:
        if call == "end":
            host.files.close()
        other = start(copy)
        assert len(other.table) == 6
        assert contents(other.store, writer.key) in allowed, f"killed before {call} in {copy}"
        other.files.close()


@pytest.mark.usefixtures("small_passes")
def test_after_a_pass_old_files_and_their_removals_are_gone(start: Start) -> None:
    host = start()
    writer = host.make()
    for number in range(20):
        writer.put(7, number, C)
        writer.flush(7, number)
    writer.put(8, 0, A)
    before = host.files.size
    host.rewrite()
    assert host.files.size < before / 4
    (path,) = host.directory.glob("journal-*")
    kinds = [entry[0] for entry in read_entries(memoryview(path.read_bytes()), "x", last=True) if entry]  # type: ignore[index]
    assert [kind for kind in kinds if kind != Kind.MARK] == [Kind.POOL, Kind.BATCH]
    host.files.close()
    assert contents(start().store, writer.key) == contents(host.store, writer.key)


@pytest.mark.usefixtures("small_passes")
def test_a_chunk_that_went_bad_in_memory_stays_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, in part, or as one of so many that an answer has no room for them: after a pass and a restart it is not a miss."""
    host = start()
    monkeypatch.setattr(host.plain._cleaner, "keep_up", lambda _: None)  # it would find out, and repack the rest
    writer = host.make()
    block = b"".join(map(text_page, range(16)))
    writer.put(7, 0, block)
    writer.put(8, 0, block)
    writer.put(8, 3, A)
    noise = [b"".join(random_page(number + page) for page in range(16)) for number in range(240)]
    for number, plain in enumerate(noise):
        writer.put(9, number, plain)
    for obj, count in ((7, 16), (8, 16), (9, 240)):
        answer = host.store.get(writer.key, [Extent(obj, 0, count)], 64 << 20, 1)
        for chunk in answer.chunks:  # type: ignore[union-attr]
            if len(chunk.data) > 100 and chunk.pages > 1:
                chunk.data[0] ^= 0xFF  # type: ignore[index]
                chunk.data[50] ^= 0xFF  # type: ignore[index]
    bad = {obj: corrupt(host, writer.key, obj) for obj in (7, 8, 9)}
    assert (len(bad[7]), len(bad[9])) == (16, 225)
    assert 3 not in bad[8]
    assert len(bad[8]) > 10
    while host.files.size < 3 * host.store.counts().payload_bytes:
        writer.put(10, 0, block)
    host.rewrite()
    assert len(list(host.directory.glob("journal-*"))) == 1
    host.files.close()
    other = start()
    assert {obj: corrupt(other, writer.key, obj) for obj in (7, 8, 9)} == bad
    assert other.store.counts(writer.key).pages == host.store.counts(writer.key).pages


def corrupt(host: Host, key: int, obj: int) -> set[int]:
    """The pages of an object that are there and bad."""
    answer = host.store.get(key, [Extent(obj, 0, 512)], 64 << 20, 1)
    codec = Codec(CopyCounter())
    bad = set()
    at = 0
    for run in answer.runs:  # type: ignore[union-attr]
        chunk = answer.chunks[run.chunk]  # type: ignore[union-attr]
        crcs = list(answer.crcs[at : at + run.pages])  # type: ignore[union-attr]
        at += run.pages
        plain = memoryview(bytearray(run.pages * PAGE))
        found = codec.decode(chunk.encoding, chunk.data, chunk.pages, run.offset, plain, crcs)
        bad |= {run.position + page for page in found}
    return bad


@pytest.mark.usefixtures("small_passes")
def test_a_pool_destroyed_during_a_pass_is_gone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "_SHRINK_LEAVES", 1)  # what is left of a large pool: leaves whose records are gone
    host = start(stepped=True)
    kept, gone = host.make("kept"), host.make("gone")
    for writer in (gone, kept):
        for number in range(20):
            for _ in range(3):
                writer.put(number, 0, C)
    for _ in range(23):  # into the second one's blocks, whichever that is
        assert host.layer.step()
    host.lifecycle.destroy(gone.pool)
    new = host.make("new")
    new.put(1, 0, B)
    host.rewrite()
    assert host.layer._rewriter.succeeded >= 1
    other = start(host.crash(host.directory.with_name("copy")))
    assert {pool.name for pool in other.table} == {"kept", "new"}
    assert contents(other.store, kept.key) == contents(host.store, kept.key)
    assert contents(other.store, new.key) == contents(host.store, new.key)


@pytest.mark.usefixtures("small_passes")
def test_a_pass_that_can_not_be_written_changes_nothing_and_is_not_tried_at_once(start: Start) -> None:
    fail = False

    def write(file: int, pieces: list[memoryview]) -> int:
        if fail and b"TMEM" not in pieces[0]:
            raise OSError(5, "no")
        return os.writev(file, pieces)

    host = start(stepped=True, write=write)
    writer = host.make()
    for _ in range(20):
        writer.put(7, 0, C)
    held = contents(host.store, writer.key)
    fail = True
    for _ in range(40):
        while host.layer.step():
            host.settle()
        host.settle()
    assert host.layer._rewriter.succeeded == 0
    assert 1 <= host.layer._rewriter.begun <= 6
    fail = False
    assert contents(start(host.crash(host.directory.with_name("copy"))).store, writer.key) == held
    for _ in range(100):
        host.rewrite()
    assert host.layer._rewriter.succeeded == host.layer._rewriter.begun
    assert len(list(host.directory.glob("journal-*"))) == 1
    host.files.close()
    assert contents(start().store, writer.key) == held


@pytest.mark.usefixtures("small_passes")
def test_what_was_owed_is_settled_by_a_pass(start: Start) -> None:
    """A removal that could not be written needs none any more once the journal has been written anew."""
    fail = False

    def write(file: int, pieces: list[memoryview]) -> int:
        if fail:
            raise OSError(5, "no")
        return os.writev(file, pieces)

    host = start(stepped=True, write=write)
    writer = host.make()
    for _ in range(20):
        writer.put(7, 0, C)
    fail = True
    assert writer.flush(7, 0).reasons is not None
    fail = False
    size = host.files.size
    writer.flush(8, 0)
    assert host.files.size > size
    writer.put(8, 0, A)
    host.rewrite()
    assert host.layer._rewriter.succeeded == 1
    size = host.files.size
    writer.flush(9, 0)
    assert host.files.size == size
    host.files.close()
    assert contents(start().store, writer.key).keys() == {(8, 0)}


def owing(start: Start, fails: list[str]) -> tuple[Host, Writer]:
    """A host that owes the removal of page (1, 0), after a pass that is written but whose old files are still there."""

    def write(file: int, pieces: list[memoryview]) -> int:
        if "write" in fails:
            raise OSError(5, "no")
        return os.writev(file, pieces)

    host = start(stepped=True, write=write)
    writer = host.make()
    writer.put(1, 0, A)
    fails.append("write")
    assert writer.flush(1, 0).reasons is not None
    fails.clear()
    for number in range(20):
        writer.put(2, 0, text_page(number))
    while host.layer.step():
        pass
    assert isinstance(host.files, SteppedFiles)
    host.files.turn()
    while host.tell():
        pass
    assert len(host.files._jobs) == 1, "what is left to do is to delete files"
    return host, writer


@pytest.mark.usefixtures("small_passes")
def test_what_is_owed_is_owed_until_the_old_files_are_gone(start: Start) -> None:
    """Killed in between, they are read again: an answer that the page is gone would be undone."""
    host, writer = owing(start, [])
    assert len(list(host.directory.glob("journal-*"))) == 2

    answer = writer.ask_flush(1, 0)

    assert host.files.queued, "the removal is written down once more"
    assert not host.layer.step(), "and no other pass begins meanwhile"
    assert host.run(answer).reasons is None
    assert host.layer._rewriter.succeeded == host.layer._rewriter.begun == 1
    assert not isinstance(writer.ask_flush(1, 0), Pending)
    assert contents(start(host.crash(host.directory.with_name("copy"))).store, writer.key).keys() == {(2, 0)}


@pytest.mark.usefixtures("small_passes")
def test_what_is_owed_is_owed_when_the_old_files_can_not_be_deleted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, writer = owing(start, [])

    def refuse(_: int) -> None:
        raise OSError(5, "no")

    with monkeypatch.context() as patch:
        patch.setattr(host.files.directory, "drop_before", refuse)
        host.settle()
    assert host.layer._rewriter.succeeded == 0
    assert host.run(writer.ask_flush(1, 0)).reasons is None
    assert contents(start(host.crash(host.directory.with_name("copy"))).store, writer.key).keys() == {(2, 0)}
    for _ in range(10):
        host.rewrite()
    assert host.layer._rewriter.succeeded == 2
    assert len(list(host.directory.glob("journal-*"))) == 1
    assert not isinstance(writer.ask_flush(1, 0), Pending)


@pytest.mark.usefixtures("small_passes")
def test_a_put_that_failed_is_removed_though_a_pass_has_written_it_down(start: Start) -> None:
    """It was in the store when its block's turn came, and a moment later its own entry could not be written."""
    failing = 0

    def write(file: int, pieces: list[memoryview]) -> int:
        nonlocal failing
        if failing:
            failing -= 1
            raise OSError(5, "no")
        return os.writev(file, pieces)

    host = start(stepped=True, write=write)
    writer = host.make()
    for _ in range(20):
        writer.put(7, 0, C)
    result = writer.ask_put((9, 0, B))
    while host.layer.step():
        pass
    failing = 2  # together with others, and alone
    assert host.run(result).reasons is not None
    assert host.layer._rewriter.succeeded == 1
    assert contents(start(host.crash(host.directory.with_name("copy"))).store, writer.key).keys() == {(7, 0)}


def test_endless_overwrites_do_not_outrun_the_pass(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts move the pass on by themselves, however seldom there is time for it."""
    monkeypatch.setattr(rewriter, "_REWRITE_BYTES", 200_000)
    monkeypatch.setattr(rewriter, "_CHECK_BYTES", 50_000)
    host = start(stepped=True)
    writer = host.make()
    for number in range(100):
        writer.put(number, 0, C)
    live = host.store.counts(writer.key).payload_bytes
    most = 0
    for number in range(3000):
        writer.put(number % 100, 0, random_page(number))
        most = max(most, host.files.size)
    assert host.layer._rewriter.succeeded > 5
    assert most < 4 * live + 400_000


def test_pages_without_payload_do_not_keep_it_writing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What entries take beside the payload is measured: else a journal of same-filled pages would be written anew for ever."""
    monkeypatch.setattr(rewriter, "_REWRITE_BYTES", 2_000)
    host = start(stepped=True)
    writer = host.make()
    for number in range(300):
        writer.put(number, 0, bytes(PAGE))
    passes = 0
    for _ in range(10):
        begun = host.layer._rewriter.begun
        host.rewrite()
        passes += host.layer._rewriter.begun - begun
    assert passes <= 1


# ---- The machine went down ----


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes this another run of the machine."""
    boots = itertools.count(1)

    def reboot() -> None:
        boot = next(boots)
        monkeypatch.setattr(directory_module, "boot_id", lambda: bytes([boot] * 16))

    return reboot


def test_a_machine_that_went_down_gives_pools_a_new_epoch_once(
    start: Start, tmp_path: Path, reboot: Callable[[], None]
) -> None:
    reboot()
    host = start()
    writer = host.make()
    writer.put(7, 0, A)
    host = start(host.crash(tmp_path / "killed"), epoch=2)
    assert (host.pool().epoch, host.pool().incomplete) == (1, False)
    reboot()
    host = start(host.crash(tmp_path / "rebooted"), epoch=5)
    assert (host.pool().epoch, host.pool().incomplete) == (5, True)
    assert host.find().get(7, 0).page == A
    # Killed in the run that read it: nothing more was lost.
    host = start(host.crash(tmp_path / "killed again"), epoch=9)
    assert (host.pool().epoch, host.pool().incomplete) == (5, True)
    reboot()
    host = start(host.crash(tmp_path / "rebooted again"), epoch=3)
    assert host.pool().epoch == 6


def test_a_machine_that_went_down_after_an_orderly_end_lost_nothing(
    start: Start, tmp_path: Path, reboot: Callable[[], None]
) -> None:
    reboot()
    host = start()
    host.make().put(7, 0, A)
    host.close()
    reboot()
    host = start(epoch=5)
    assert (host.pool().epoch, host.pool().incomplete) == (1, False)
    host = start(host.crash(tmp_path / "killed"), epoch=7)
    assert (host.pool().epoch, host.pool().incomplete) == (1, False)


def test_a_crash_at_any_moment_of_a_start_after_a_reboot_still_tells_of_it(
    start: Start, tmp_path: Path, reboot: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_RESERVE_BYTES", 8192)
    reboot()
    host = start()
    writer = host.make()
    writer.put(7, 0, A)
    held = contents(host.store, writer.key)
    host.crash(tmp_path / "down")
    reboot()
    (tmp_path / "copies").mkdir()
    with monkeypatch.context() as patch:
        snapshots = Snapshots(patch, tmp_path / "down", tmp_path / "copies")
        snapshots.on = True
        start(tmp_path / "down", epoch=5, stepped=True, write=snapshots.write)
        snapshots.on = False
    assert {"rename", "pwrite", "writev"} <= {call for _, call, _ in snapshots.taken}
    for copy, call, _ in snapshots.taken:
        other = start(copy, epoch=7)
        assert other.pool().incomplete, f"killed before {call}"
        assert other.pool().epoch in {5, 7}
        assert contents(other.store, writer.key) == held
        other.files.close()


# ---- What can't be ----


@pytest.fixture
def directory(start: Start, tmp_path: Path) -> Path:
    """A journal of one pool with two pages, and a torn tail."""
    host = start()
    writer = host.make()
    writer.put(7, 0, A)
    writer.put(7, 1, B)
    host.crash(tmp_path / "some")
    return tmp_path / "some"


def test_a_torn_tail_is_cut_wherever_it_is_torn(start: Start, directory: Path, tmp_path: Path) -> None:
    path = last_file(directory)
    data = path.read_bytes()
    ends = [HEADER_BYTES]
    for entry in read_entries(memoryview(data), "x", last=True):
        assert not isinstance(entry, Torn)
        ends.append(ends[-1] + len(encode_entry(*entry)[0]) + len(entry[1]))
    for cut in range(ends[-2], ends[-1], 7):
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(directory, copy)
        (copy / path.name).write_bytes(data[:cut])
        host = start(copy)
        assert contents(host.store, host.pool().key).keys() == {(7, 0)}
        assert (copy / path.name).stat().st_size == ends[-2]
        host.files.close()


def test_a_bit_that_flipped_anywhere_is_refused_by_name(start: Start, directory: Path) -> None:
    path = last_file(directory)
    data = path.read_bytes()
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(JournalError, match=path.name):
            start(directory)
    path.write_bytes(data)
    start(directory)


def pool_state(directory: Path) -> dict[str, object]:
    data = memoryview(last_file(directory).read_bytes())
    for entry in read_entries(data, "x", last=True):
        if entry[0] == Kind.POOL:  # type: ignore[index]
            found: dict[str, object] = json.loads(bytes(entry[1]))  # type: ignore[index, arg-type]
            return found
    raise AssertionError


HEADER = Header(0, 1, 1, 9)


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        (Kind.BATCH, encode_flush(Header(0, 77, 1, 1), [Extent(7, 0, 1)]), "names pool 77, which the journal has not"),
        (Kind.BATCH, b"\xff\xff\xff", "kind BATCH can't be done again"),
        (Kind.BATCH, encode_get(HEADER, [Extent(7, 0, 1)]), "kind BATCH can't be done again"),
        (Kind.BATCH, b"", "kind BATCH can't be done again"),
        (Kind.POOL, b"\xff garbage", "kind POOL can't be done again"),
        (Kind.POOL, b"[]", "kind POOL can't be done again"),
        (Kind.POOL, b"{}", "kind POOL can't be done again"),
        (Kind.POOL, {"token": 5}, "kind POOL can't be done again"),
        (Kind.POOL, {"key": 2, "request": {"name": "x"}}, "kind POOL can't be done again"),
        (Kind.POOL, {"key": 2, "request": []}, "kind POOL can't be done again"),
        (Kind.POOL, {"key": []}, "kind POOL can't be done again"),
        (Kind.DROP, (77).to_bytes(8, "little"), "kind DROP can't be done again"),
    ],
)
def test_an_entry_that_can_not_be_done_again_is_refused_by_name(
    start: Start, directory: Path, kind: Kind, payload: bytes | dict[str, object], message: str
) -> None:
    if isinstance(payload, dict):
        payload = json.dumps(pool_state(directory) | payload).encode()
    path = last_file(directory)
    with path.open("ab") as file:
        file.write(b"".join(encode_entry(kind, payload)))
    with pytest.raises(JournalError, match=f"{path.name}: .*{message}"):
        start(directory)


def test_a_memory_limit_that_is_too_small_is_said(start: Start, tmp_path: Path) -> None:
    host = start()
    writer = host.make()
    for number in range(600):
        writer.put(number, 0, C * 4)
    with pytest.raises(JournalError, match=r"journal-00000001: .*holds more than memory_limit allows: raise it"):
        start(host.crash(tmp_path / "copy"), limit=1 << 20)


SPILLING = {"limit": 4 << 20, "spill_bytes": 64 << 20}


def spill(writer: Writer, blocks: int, obj: int = 7) -> None:
    """Puts blocks of 64 pages that don't compress; more than memory holds, as fast as the disk takes it."""
    block = b"".join(map(random_page, range(64)))
    for number in range(blocks):
        while writer.put(obj, number * 64, block).reasons:
            writer.host.tasks.get(timeout=20)()


def test_a_journal_of_more_than_memory_holds_is_read_as_fast_as_the_disk_takes_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start(**SPILLING)
    writer = host.make()
    spill(writer, 60)
    assert host.plain.counts().spilled_bytes > 8 << 20
    held = writer.pages
    copies = [host.crash(tmp_path / name) for name in ("good", "bad")]

    again = start(copies[0], **SPILLING)

    assert again.find().pages == held
    assert again.plain.counts().spilled_bytes > 8 << 20
    assert again.plain.memory_bytes <= 4 << 20
    monkeypatch.setattr(ScratchFile, "_write", lambda *_: False)
    with pytest.raises(JournalError, match="holds more than memory_limit allows"):
        start(copies[1], **SPILLING)


def test_a_reservation_beside_more_pages_than_memory_holds_is_kept_by_a_restart(start: Start, tmp_path: Path) -> None:
    host = start(**SPILLING)
    promised = host.make("promised", reserved_bytes=1 << 20)
    spill(host.make("greedy"), 40)
    assert host.plain.counts().spilled_bytes > 4 << 20

    again = start(host.crash(tmp_path / "copy"), **SPILLING)

    assert again.pool("promised").policy.reserved_bytes == 1 << 20
    spill(again.find("promised"), 3)
    spill(again.find("greedy"), 20, obj=8)
    assert again.find("promised").pages == 3 * 64
    assert promised.pages == 0


def test_what_lies_less_well_than_before_is_read_though_memory_is_at_its_limit(start: Start, tmp_path: Path) -> None:
    """A pass writes what is left of a chunk as chunks of their own, which may take a little more than before."""
    host = start(limit=8 << 20)
    writer = host.make()
    stored = 0
    while not writer.put(7, stored, random_page(stored)).reasons:
        stored += 1
    host.crash(tmp_path / "full")

    again = start(tmp_path / "full", limit=int((8 << 20) * 0.97))

    assert len(contents(again.store, again.pool().key)) == stored
    assert again.find().put(8, 0, random_page(0)).reasons == [Reason.CAPACITY], "the limit holds for what is new"


WORDS = [random.Random(number).randbytes(5).hex() for number in range(3000)]


def prose(number: int) -> bytes:
    """Sixteen pages, of which recompression saves a good part."""
    return " ".join(random.Random(number).choices(WORDS, k=6200)).encode()[: 16 * PAGE]


def recompress(host: Host) -> None:
    while (work := host.plain.recompressor.begin()) is not None:
        work.run()
        host.plain.recompressor.finish(work)


def test_what_recompression_had_made_room_for_is_read_though_it_does_not_fit_as_it_was_sent(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal holds what clients sent; puts wait until memory is below its limit again."""
    limit = 4 << 20
    host = start(limit=limit)
    writer = host.make()
    numbers = itertools.count()
    for _ in range(2):
        while not writer.put(7, 16 * (number := next(numbers)), prose(number)).reasons:
            pass
        recompress(host)
    held = contents(host.store, writer.key)

    again = start(host.crash(tmp_path / "copy"), limit=limit)

    assert contents(again.store, writer.key) == held
    excess = again.plain.excess_bytes
    assert excess > limit / 16
    assert f"bytes={excess}" in capsys.readouterr().out
    most = again.plain.memory_bytes + segment_size(limit)
    assert again.find().put(8, 0, prose(0)).reasons == [Reason.CAPACITY]
    while (work := again.plain.recompressor.begin()) is not None:
        work.run()
        again.plain.recompressor.finish(work)
        assert again.plain.memory_bytes <= most
    while again.plain.step():
        pass
    assert again.plain.excess_bytes == 0
    assert contents(again.store, writer.key) == held
    assert again.find().put(8, 0, prose(0)).reasons is None


def test_a_pool_that_is_over_its_quota_is_read(start: Start, tmp_path: Path) -> None:
    """What was accepted once stays accepted: a quota may have been lowered since."""
    host = start()
    writer = host.make(quota_bytes=1 << 20)
    for number in range(20):
        writer.put(number, 0, C)
    host.lifecycle.resize(writer.pool, 10_000, None)
    other = start(host.crash(tmp_path / "copy"))
    assert contents(other.store, writer.key) == contents(host.store, writer.key)
    assert other.pool().policy.quota_bytes == 10_000
    assert other.find().put(99, 0, C).reasons is not None


def test_a_file_of_another_place_or_version_is_refused_by_name(start: Start, directory: Path) -> None:
    path = last_file(directory)
    data = path.read_bytes()
    for header, message in (
        (encode_header(FileHeader(9, bytes(16), synced=False)), "says that it is number 9"),
        (data[:8] + b"\x07" + data[9:HEADER_BYTES], "journal format 7; this tmemd reads 1"),
        (b"something else".ljust(HEADER_BYTES), "not a journal file"),
    ):
        path.write_bytes(header + data[HEADER_BYTES:])
        with pytest.raises(JournalError, match=f"{path.name}: .*{message}"):
            start(directory)


def test_an_old_writer_s_page_over_a_newer_one_does_not_keep_it_from_starting(start: Start, directory: Path) -> None:
    """A flush could not be written, and then a client put with a lower sequence than before it: the newer page stays."""
    from tests.stores import make_put

    from tmem.wire.codec import EncodedChunks
    from tmem.wire.requests import encode_put

    put = make_put([(Extent(7, 1, 1), C)], sequence=1)
    chunks = EncodedChunks(put.sizes, put.pages, put.encodings, list(array("I", put.crcs)), [put.body], len(put.body))
    with last_file(directory).open("ab") as file:
        file.write(b"".join(encode_entry(Kind.BATCH, encode_put(Header(0, 1, 1, 1), put.extents, chunks))))
    found = start(directory).find()
    assert found.get(7, 1).page == B
    assert found.get(7, 2).codes == [Code.MISS]


def test_a_restart_fences_whoever_was_fenced_and_leaves_frozen_what_was_frozen(start: Start) -> None:
    host = start()
    writer = host.make()
    writer.put(7, 0, A)
    token = next(iter(writer.pool.members.values())).token
    host.lifecycle.open(TENANT, "pool", token, 0.0)
    host.lifecycle.freeze(writer.pool, frozen=True)
    host.close()

    pool = start().pool()

    assert (pool.generation, pool.frozen) == (2, True)
    (member,) = pool.members.values()
    assert pool.gate(member, 1, 0, 1) == Reason.FENCED
    assert pool.gate(member, 2, 0, 1) == Reason.UNSPECIFIED
