"""Pools of durability `disk` on real daemons: killed, stopped, rebooted, on a full disk, on a bad one."""

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from tests.conftest import skip_or_fail
from tests.pages import PAGE, random_page, same_filled_page, text_page
from tests.processes import Tmemd, run_tmemd
from tests.waiting import wait_until

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client import Code
from tmem.client.testing import CaptiveDaemon
from tmem.server.store.journal.entries import HEADER_BYTES, FileHeader, Kind, encode_header, read_entries, read_header
from tmem.wire import errors

A, B, C = text_page(1), text_page(2), random_page(3)
Start = Callable[..., CaptiveDaemon]
Names = Callable[[], str]
ANYWHERE = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def start(start_daemon: Start, journal: Path) -> Start:
    """Starts a daemon with a journal, in the place of an old one if there is one."""

    def start(*arguments: str, old: CaptiveDaemon | None = None, directory: Path | None = None) -> CaptiveDaemon:
        flags = ("--journal", str(directory or journal), *arguments)
        return start_daemon(*flags) if old is None else start_daemon(*flags, listen=old.target)

    return start


def log_lines(daemon: CaptiveDaemon, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def page_of(pool: Any, obj: int, index: int) -> bytes | Code:
    """A page, or why it is not there."""
    buffer = bytearray(PAGE)
    result = pool.get_into(obj, index, buffer)
    return bytes(buffer) if result.hit else result.pages[0]


def files_of(journal: Path) -> list[Path]:
    return sorted(journal.glob("journal-*"))


def size_of(journal: Path) -> int:
    total_bytes = 0
    for path in files_of(journal):
        try:
            total_bytes += path.stat().st_size
        except FileNotFoundError:  # it went just now
            continue
    return total_bytes


class Load:
    """A client that puts, overwrites and flushes without end, and knows what was acknowledged.

    Attributes:
        held: what the pool must hold when the client pauses.
        done: operations answered so far.
    """

    OBJECTS, PAGES = 3, 700

    def __init__(self, pool: tmem.client.Pool, seed: int) -> None:
        self.pool = pool
        self.held: dict[tuple[int, int], bytes] = {}
        self.done = 0
        self.error: BaseException | None = None
        self._chance = random.Random(seed)
        self._go = threading.Event()
        self._paused = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._go.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._go.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def pause(self) -> None:
        """Waits until the operation that runs is answered, and begins no other."""
        self._paused.clear()
        self._go.clear()
        wait_until(lambda: self._paused.is_set() or self.error, 60)
        if self.error is not None:
            raise self.error

    def go_on(self) -> None:
        self._go.set()

    def _run(self) -> None:
        try:
            while not self._ended:
                if not self._go.is_set():
                    self._paused.set()
                    self._go.wait()
                    continue
                self._operate()
                self.done += 1
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self.error = error
            self._paused.set()

    def _place(self) -> tuple[int, int, int]:
        chance = self._chance
        obj, index = chance.randrange(self.OBJECTS), chance.randrange(self.PAGES)
        count = chance.choice((1, 1, 2, 8, 64, 200))
        return obj, index, min(count, 512 - index % 512)

    def _plain(self, count: int) -> bytes:
        if self._chance.random() < 0.3:
            return self._chance.choice((A, B, same_filled_page())) * count
        return self._chance.randbytes(count * PAGE)

    def _operate(self) -> None:
        what = self._chance.random()
        if what < 0.6:
            self._put(*self._place())
        elif what < 0.75:
            self._put_many()
        elif what < 0.99:
            obj, index, count = self._place()
            held = [page for page in range(index, index + count) if (obj, page) in self.held]
            found = self.pool.flush(obj, index, count)
            assert found in {len(held), 0}  # 0 if it was done before the daemon was killed, and repeated
            for page in held:
                del self.held[obj, page]
        else:
            obj = self._chance.randrange(self.OBJECTS)
            self.pool.flush_object(obj)
            for handle in [handle for handle in self.held if handle[0] == obj]:
                del self.held[handle]

    def _put(self, obj: int, index: int, count: int) -> None:
        plain = self._plain(count)
        assert self.pool.put(obj, index, plain).stored
        self._note(obj, index, plain)

    def _put_many(self) -> None:
        places = {(obj, index // 8 * 8) for obj, index, _ in (self._place() for _ in range(20))}
        plains = {place: self._plain(8) for place in places}
        with self.pool.batch() as batch:
            results = {place: batch.put(*place, plain) for place, plain in plains.items()}
        assert all(result.stored for result in results.values())
        for (obj, index), plain in plains.items():
            self._note(obj, index, plain)

    def _note(self, obj: int, index: int, plain: bytes) -> None:
        for number in range(len(plain) // PAGE):
            self.held[obj, index + number] = plain[number * PAGE : (number + 1) * PAGE]

    def verify(self) -> None:
        """Asks for every page; must be paused."""
        assert self.pool.stat().pages == len(self.held)
        for obj in range(self.OBJECTS):
            for block in range(0, self.PAGES, 512):
                buffer = bytearray(512 * PAGE)
                result = self.pool.get_into(obj, block, buffer)
                for page in range(512):
                    expected = self.held.get((obj, block + page))
                    assert result.pages[page] == (Code.HIT if expected else Code.MISS), (obj, block + page)
                    if expected:
                        assert buffer[page * PAGE : (page + 1) * PAGE] == expected, (obj, block + page)


# ---- Killed ----


def test_every_acknowledged_page_is_back_after_kill_9(start: Start, pool_name: Names) -> None:
    chance = random.Random(20)
    daemon = start()
    with tmem.client.connect(daemon.target, read_timeout=60.0, write_timeout=60.0) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        epoch = pool.epoch
        with Load(pool, 21) as load:
            for _ in range(20):
                target = load.done + chance.randrange(20, 150)
                wait_until(lambda target=target: load.done >= target or load.error, 60)  # type: ignore[misc]
                daemon.kill()
                daemon = start(old=daemon)
                load.pause()
                load.verify()
                load.go_on()
        assert client.counters.reconnects >= 20
        assert pool.epoch == epoch
        assert not pool.incomplete
        assert log_lines(daemon, "journal.recovered")[0]["files"] >= 1
        assert not log_lines(daemon, "journal.incomplete")


def test_three_times_what_memory_holds_is_back_after_kill_9(start: Start, pool_name: Names, tmp_path: Path) -> None:
    """The rest is on a scratch disk, which is emptied by the kill and is slower than the journal is read."""
    flags = ("--memory-limit", "8MiB", "--spill", str(tmp_path / "spill"), "--spill-limit", "64MiB")
    blocks = 3 * 8 * 4
    plains = [random.Random(number).randbytes(64 * PAGE) for number in range(blocks)]
    daemon = start(*flags)
    with tmem.client.connect(daemon.target, read_timeout=60.0, write_timeout=60.0) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        for number, plain in enumerate(plains):
            while True:
                try:
                    pool.put(7, number * 64, plain)
                    break
                except errors.OutOfCapacity:  # the disk is being written to
                    continue
        daemon.kill()

        daemon = start(*flags, old=daemon)

        buffer = bytearray(64 * PAGE)
        for number, plain in enumerate(plains):
            assert pool.get_into(7, number * 64, buffer).hit
            assert buffer == plain
        assert pool.stat().pages == blocks * 64
        assert total(scrape(daemon.metrics_url), "tmem_spilled_bytes") > 0


def test_a_torn_tail_is_cut_and_logged(start: Start, pool_name: Names, journal: Path) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        pool.put(7, 0, A)
        daemon.kill()
        last = files_of(journal)[-1]
        whole = last.read_bytes()
        last.write_bytes(whole + b"".join(_put_entry(whole))[:-9])
        daemon = start(old=daemon)
        assert page_of(pool, 7, 0) == A
    (line,) = log_lines(daemon, "journal.torn")
    assert line["file"] == str(last)
    assert line["cut_at"] == last.stat().st_size == len(whole)


def _put_entry(file: bytes) -> list[bytes]:
    """The last batch of a file as it stands there."""
    entries = list(read_entries(memoryview(file), "x", last=True))
    size = 0
    for entry in reversed(entries):
        size += 13 + len(entry[1])  # type: ignore[index, arg-type]
        if entry[0] == Kind.BATCH:  # type: ignore[index]
            break
    return [file[-size:]]


# ---- Stopped, and what comes back ----


def test_after_sigterm_pools_are_what_they_were(start: Start, journal: Path) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        kept = client.create_pool("kept", durability="disk", quota_bytes=1 << 20, weight=7, chunk_pages=4)
        gone = client.create_pool("gone", durability="disk")
        memory = client.create_pool("memory")
        for pool in (kept, gone, memory):
            pool.put(7, 0, A)
        kept.resize(quota_bytes=2 << 20)
        kept.freeze()
        gone.destroy()
        before = kept.info()
        token, epoch = kept.token, kept.epoch

        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        data = memoryview(files_of(journal)[-1].read_bytes())
        assert [entry[0] for entry in read_entries(data, "x", last=True)][-1] == Kind.END  # type: ignore[index]
        daemon = start(old=daemon)

        assert page_of(kept, 7, 0) == A
        after = kept.info()
        for name in ("name", "pool_id", "quota_bytes", "weight", "frozen", "epoch", "incomplete", "chunk_pages"):
            if hasattr(before, name):
                assert getattr(after, name) == getattr(before, name), name
        with pytest.raises(errors.PoolFrozen):
            kept.put(8, 0, A)
        assert page_of(memory, 7, 0) == Code.LOST
        with tmem.client.connect(daemon.target) as other:
            assert {info.name for info in other.pools()} == {"kept", "memory"}  # the latter made again by its client
            opened = other.open_pool("kept", token, epoch)
            opened.thaw()
            assert page_of(opened, 7, 0) == A
            assert opened.put(8, 0, B).stored
            assert opened.generation == 2
            assert client.create_pool("gone", durability="disk").stat().pages == 0


def test_an_old_writer_stays_fenced_and_a_wrong_token_wrong(start: Start, pool_name: Names) -> None:
    daemon = start()
    name = pool_name()
    with tmem.client.connect(daemon.target) as first, tmem.client.connect(daemon.target) as second:
        old = first.create_pool(name, durability="disk")
        old.put(7, 0, A)
        new = second.open_pool(name, old.token)
        assert new.put(7, 0, B).stored
        daemon.kill()
        daemon = start(old=daemon)
        with pytest.raises(errors.Fenced):
            old.put(7, 0, C)
        assert page_of(new, 7, 0) == B
        with tmem.client.connect(daemon.target) as third, pytest.raises(errors.NoSuchPool):
            third.open_pool(name, bytes(32))


def test_pools_of_memory_are_lost_and_leave_nothing_behind(start: Start, pool_name: Names, journal: Path) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name())
        pool.put(7, 0, C)
        daemon.kill()
        assert all(C[:64] not in path.read_bytes() for path in journal.iterdir())
        daemon = start(old=daemon)
        assert page_of(pool, 7, 0) == Code.LOST


def test_without_a_journal_durability_disk_is_refused_and_says_what_is_there(
    start_daemon: Start, pool_name: Names
) -> None:
    with (
        tmem.client.connect(start_daemon().target) as client,
        pytest.raises(errors.InvalidRequest, match="durability 2 is not offered by this server; it has: memory"),
    ):
        client.create_pool(pool_name(), durability="disk")


# ---- The machine went down ----


def reboot(journal: Path) -> None:
    """Makes the files those of another run of the machine."""
    for path in files_of(journal):
        data = path.read_bytes()
        header = read_header(data, str(path))
        path.write_bytes(
            encode_header(FileHeader(header.number, b"another run.....", header.synced)) + data[HEADER_BYTES:]
        )


def test_after_a_reboot_without_forced_writes_what_is_absent_is_lost(
    start: Start, pool_name: Names, journal: Path
) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        epoch = pool.epoch
        pool.put(7, 0, A)
        size = files_of(journal)[-1].stat().st_size
        pool.put(7, 1, B)
        daemon.kill()
        os.truncate(files_of(journal)[-1], size + 40)  # what the disk did not get
        reboot(journal)
        daemon = start(old=daemon)
        assert page_of(pool, 7, 0) == A
        assert page_of(pool, 7, 1) == Code.LOST
        assert pool.incomplete
        assert pool.epoch > epoch
        assert log_lines(daemon, "journal.incomplete")
        epoch = pool.epoch
        # Killed again, in the same run of the machine: nothing more was lost.
        assert pool.put(7, 1, C).stored
        daemon.kill()
        daemon = start(old=daemon)
        assert page_of(pool, 7, 1) == C
        assert pool.epoch == epoch
        assert not log_lines(daemon, "journal.incomplete")


@pytest.mark.parametrize("how", ["forced", "ended"])
def test_after_a_reboot_with_everything_on_the_disk_nothing_is_lost(
    start: Start, pool_name: Names, journal: Path, how: str
) -> None:
    arguments = ("--journal-sync", "always") if how == "forced" else ()
    daemon = start(*arguments)
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        epoch = pool.epoch
        pool.put(7, 0, A)
        if how == "forced":
            daemon.kill()
        else:
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        reboot(journal)
        daemon = start(*arguments, old=daemon)
        assert page_of(pool, 7, 0) == A
        assert page_of(pool, 7, 1) == Code.MISS
        assert (pool.epoch, pool.incomplete) == (epoch, False)


# ---- What can't be used ----


@pytest.fixture
def written(start: Start, pool_name: Names, journal: Path) -> Path:
    """A journal of two files with some pages, whose daemon was killed."""
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        client.create_pool(pool_name(), durability="disk").put(7, 0, A + B + C)
        daemon.kill()
    start(old=daemon).kill()
    assert len(files_of(journal)) == 2
    return journal


def refusal(*arguments: str) -> str:
    done = run_tmemd(*ANYWHERE, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(flip(8), "journal format 5; this tmemd reads 1", id="version"),
        pytest.param(flip(0), "not a journal file of tmemd", id="no journal"),
        pytest.param(flip(30), "header fails its checksum", id="header"),
        pytest.param(flip(HEADER_BYTES), "the entry at byte 44 fails its checksum", id="length"),
        pytest.param(flip(HEADER_BYTES + 100), "the entry at byte 57 fails its checksum", id="payload"),
        pytest.param(lambda path: path.unlink(), "the file is missing", id="missing"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size - 3), "cut short, and it is not", id="cut"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(written: Path, change: Callable[[Path], None], message: str) -> None:
    path = files_of(written)[0]
    change(path)
    line = refusal("--journal", str(written))
    assert str(path) in line
    assert message in line


def test_a_journal_that_is_in_use_is_refused(start: Start, journal: Path) -> None:
    start()
    assert refusal("--journal", str(journal)) == f"tmemd: {journal}: another tmemd keeps its journal here"


def test_a_directory_that_can_not_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal("--journal", str(tmp_path / "file")).startswith(f"tmemd: {tmp_path}/file: ")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        line = refusal("--journal", str(tmp_path / "closed"))
        assert line == f"tmemd: {tmp_path}/closed: Permission denied"
    else:
        assert refusal("--journal", "/proc/self/journal").startswith("tmemd: /proc/self/journal: ")


def test_a_memory_limit_below_what_the_journal_holds_is_refused(start: Start, pool_name: Names, journal: Path) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        for number in range(4):
            assert pool.put(number, 0, random.Random(number).randbytes(512 * PAGE)).stored
        daemon.kill()
    line = refusal("--journal", str(journal), "--memory-limit", "4MiB")
    assert "journal-00000001" in line
    assert "raise it" in line


# ---- A disk that is full ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid():
        skip_or_fail("only root mounts")
    directory = tmp_path / "disk"
    directory.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmem-test", str(directory)], capture_output=True, check=False
    )
    if done.returncode:
        skip_or_fail(f"a tmpfs can't be mounted here: {done.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_on_a_full_disk_nothing_acknowledged_is_lost_and_removals_go_on(
    small_disk: Path, start: Start, pool_name: Names
) -> None:
    directory = small_disk / "journal"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(4 << 20))
    daemon = start(directory=directory)
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        held: dict[tuple[int, int], bytes] = {}
        refused = 0
        for number in range(60):
            plain = random.Random(number).randbytes(128 * PAGE)
            if stores(pool, number % 40, plain):
                held[number % 40, 0] = plain
            else:
                held.pop((number % 40, 0), None)
                refused += 1
        assert refused > 20
        assert len(held) > 5
        # Removals have room of their own, and it is theirs.
        first = min(held)
        assert pool.flush(*first, 128) == 128
        del held[first]
        assert not stores(pool, 99, random.Random(99).randbytes(128 * PAGE))
        second = min(held)
        assert pool.flush_object(second[0]) == 128
        del held[second]
        check(pool, held)
        failed = scrape(daemon.metrics_url)['tmem_journal_writes_total{result="failed"}']
        assert failed >= refused

        daemon.kill()
        daemon = start(old=daemon, directory=directory)  # also on a disk that is full
        check(pool, held)
        assert not stores(pool, 99, random.Random(99).randbytes(128 * PAGE))
        third = min(held)
        assert pool.flush(*third, 128) == 128
        del held[third]

        filler.unlink()
        plain = random.Random(100).randbytes(128 * PAGE)
        assert pool.put(100, 0, plain).stored
        held[100, 0] = plain
        daemon.kill()
        daemon = start(old=daemon, directory=directory)
        check(pool, held)
    daemon.close()


def stores(pool: tmem.client.Pool, obj: int, plain: bytes) -> bool:
    """Puts; False if the server could not write."""
    try:
        return pool.put(obj, 0, plain).stored
    except errors.StoreFailed:
        return False


def check(pool: tmem.client.Pool, held: dict[tuple[int, int], bytes]) -> None:
    for (obj, index), plain in held.items():
        buffer = bytearray(len(plain))
        assert pool.get_into(obj, index, buffer).hit
        assert buffer == plain
    assert pool.stat().pages == sum(len(plain) // PAGE for plain in held.values())


# ---- Its length ----


def test_endless_overwrites_do_not_let_the_journal_grow(start: Start, pool_name: Names, journal: Path) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        kept = random.Random(5).randbytes(64 * PAGE)
        pool.put(1, 0, kept)
        plain = b""
        most = 0

        def overwrite() -> bool:
            nonlocal plain, most
            for _ in range(20):
                plain = os.urandom(512 * PAGE)
                assert pool.put(7, 0, plain).stored
            most = max(most, size_of(journal))
            return files_of(journal)[0].name > "journal-00000002"  # two passes have ended

        wait_until(overwrite, 60)
        # 2 x what is needed, 64 MiB, what puts write until somebody looks and until the pass has ended.
        assert most < 160 << 20
        assert total(scrape(daemon.metrics_url), "tmem_journal_bytes") < 160 << 20
        daemon.kill()
        daemon = start(old=daemon)
        check(pool, {(1, 0): kept, (7, 0): plain})


def test_a_long_journal_is_read_before_the_daemon_is_ready(start: Start, pool_name: Names, journal: Path) -> None:
    """Nobody is told MISS of a page that has not been read yet: until then the address does not answer."""
    daemon = start()
    with tmem.client.connect(daemon.target, read_timeout=60.0) as client:
        pool = client.create_pool(pool_name(), durability="disk")
        for number in range(30):
            assert pool.put(number, 0, os.urandom(512 * PAGE)).stored
        daemon.kill()
        with Tmemd("--listen", daemon.target, "--metrics-listen", "127.0.0.1:0", "--journal", str(journal)) as again:
            results = [pool.get_into(number, 0, bytearray(512 * PAGE)) for number in range(30)]
            assert all(result.hit for result in results)
            again.process.send_signal(signal.SIGTERM)
            assert again.process.wait(30) == 0


# ---- While the journal is read ----


def test_a_daemon_that_reads_its_journal_says_so_and_answers_no_miss(start: Start) -> None:
    """Each file takes the slow disk a while: so there is time to ask, before, of pages that are there."""
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("slow", durability="disk")
        pool.put(1, 0, A)
        reading = threading.Event()
        hits: list[bytes] = []

        def ask() -> None:
            """The classical call does not wait for a stream: it hears what the server says now."""
            while not hits:
                page = bytearray(PAGE)
                try:
                    got = pool.get_page_sync(1, 0, page)
                except errors.Recovering:
                    reading.set()
                except errors.RemoteError:
                    pass  # nobody listens yet
                else:
                    hits.append(bytes(page) if got.hit else repr(got).encode())

        daemon.kill()
        asker = threading.Thread(target=ask)
        asker.start()
        starter = threading.Thread(target=lambda: start("--disk-faults", "seconds=1.5", old=daemon))
        starter.start()
        assert reading.wait(20)
        with pytest.raises(errors.Recovering, match="reading its journal"):
            client.pools()
        with tmem.client.connect(daemon.target) as other:
            assert other.capabilities.recovering
            with pytest.raises(errors.Recovering):
                other.create_pool("other")
        # Over a stream an operation waits until the server is there, and is answered as if nothing had been.
        assert page_of(pool, 1, 0) == A
        starter.join(30)
        asker.join(30)
        assert hits == [A], "neither a miss nor anything else before it was there"
        with tmem.client.connect(daemon.target) as other:
            assert not other.capabilities.recovering


def test_a_daemon_that_reads_its_journal_ends_when_asked_to(start: Start, journal: Path) -> None:
    daemon = start()
    with tmem.client.connect(daemon.target) as client:
        client.create_pool("slow", durability="disk").put(1, 0, A)
    daemon.close()
    slow = ("--disk-faults", "seconds=2", "--log-level", "debug", "--log-format", "json")
    with Tmemd("--journal", str(journal), *slow, *ANYWHERE) as reader:
        assert reader.process.stderr is not None
        assert any("daemon.recovering" in line for line in reader.process.stderr)
        reader.process.terminate()
        status, said, _ = reader.end()
        assert (status, said) == (0, "")
    with tmem.client.connect(start().target) as client:
        assert [pool.name for pool in client.pools()] == ["slow"]
