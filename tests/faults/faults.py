"""What befalls a service, one function each, every one under load whose every answer is checked.

Owns: `FAULTS`, by name. A fault starts its daemon and load, demands the load's floor, does its harm, heals it, waits until every client has gone
on, lets the load run a little longer, reads everything back, and answers what was done. It raises Void where the load was too low to show
anything, AssertionError where something is wrong.
"""

import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.load import Figures, Load
from tests.faults.networks import Network, why_not
from tests.gauges import assert_empties
from tests.pages import PAGE, random_page
from tests.processes import Program
from tests.proxy import Proxy

import tmem.client
from tmem.cli.torture.load import page_of
from tmem.client import Client, Pool
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import Refused

# A client must have gone on so soon after its endpoint is back. The campaign holds it to that; tests only guard against hangs.
RESUME_SECONDS = 2.0
LIVELY = ("--heartbeat-interval-seconds", "0.3", "--session-timeout-seconds", "60")


class CanNotRun(Exception):  # noqa: N818  a verdict
    """Not on this machine; the message says why."""


@dataclass
class Run:
    """One fault at one seed.

    Attributes:
        short: seconds where the campaign takes tens of them.
        resumed: how long clients took after the endpoint was back, each time.
        pages: operations checked. notes: what else was seen.
    """

    seed: int
    short: bool
    resumed: list[float] = field(default_factory=list)
    pages: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    def settle(self) -> float:
        """How long the load runs on after a fault."""
        return 0.3 if self.short else 3.0

    def demand_floor(self, load: Load) -> tuple[float, float]:
        """Lone pages and batch bytes a second before a fault; raises Void if they are below the floor again and again."""
        return load.demand_floor(0.4, 5.0) if self.short else load.demand_floor(1.0, 20.0)

    def done(self, load: Load) -> Figures:
        figures = load.finish()
        self.pages += figures.pages
        return figures

    def await_resumed(self, load: Load, since: float) -> None:
        """Waits until every client has gone on, and notes how long that took."""
        self.resumed.append(load.await_progress(since))
        time.sleep(self.settle())
        load.check()


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tmem-faults-") as made:
        yield Path(made)


@contextmanager
def succeeding(*flags: str) -> Iterator[Callable[..., CaptiveDaemon]]:
    """Starts daemons, each in the place of the one before."""
    started: list[CaptiveDaemon] = []

    def start(*more: str) -> CaptiveDaemon:
        listen = started[-1].target if started else "127.0.0.1:0"
        daemon = CaptiveDaemon(*flags, *more, listen=listen, timeout=60)
        started.append(daemon)
        return daemon

    try:
        yield start
        assert_empties(started[-1])
    finally:
        for daemon in started:
            if daemon.process.poll() is None:
                daemon.signal(signal.SIGCONT)
            daemon.close()


# ---- The daemon ----


def killed_and_back_with_its_journal(run: Run) -> None:
    """kill -9 at a random moment, and started again: every acknowledged write is there."""
    chance = random.Random(run.seed)
    with directory() as place, succeeding("--journal", str(place / "journal")) as start:
        daemon = start()
        with Load(daemon.target, run.seed, durability="disk") as load:
            for _ in range(1 if run.short else 4):
                run.demand_floor(load)
                time.sleep(chance.random() * 0.3)
                daemon.kill()
                daemon = start()
                run.await_resumed(load, time.monotonic())
            run.done(load)


def killed_and_back_with_nothing(run: Run) -> None:
    """The same without a journal: every page that was stored is LOST, none misses, none is old."""
    with succeeding() as start:
        daemon = start()
        with Load(daemon.target, run.seed) as load:
            for _ in range(1 if run.short else 3):
                run.demand_floor(load)
                with load.losing():
                    daemon.kill()
                    daemon = start()
                run.await_resumed(load, time.monotonic())
            figures = run.done(load)
        assert figures.outcomes.get("get lost"), figures.outcomes


def stopped_and_continued(run: Run) -> None:
    """The daemon hangs for a while: nothing is lost, nothing times out wrongly, and everything goes on."""
    with succeeding() as start:
        daemon = start()
        with Load(daemon.target, run.seed, read_timeout=90.0, write_timeout=90.0) as load:
            run.demand_floor(load)
            daemon.signal(signal.SIGSTOP)
            time.sleep(1.0 if run.short else 30.0)
            daemon.signal(signal.SIGCONT)
            run.await_resumed(load, time.monotonic())
            run.done(load)


def drained_and_restarted(run: Run) -> None:
    """SIGTERM: clients finish and leave, and go on with the next daemon."""
    with directory() as place, succeeding("--journal", str(place / "journal")) as start:
        daemon = start()
        with Load(daemon.target, run.seed, durability="disk") as load:
            run.demand_floor(load)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
            start()
            run.await_resumed(load, time.monotonic())
            run.done(load)


def memory_limit_reached(run: Run) -> None:
    """The memory is full: puts are refused and leave nothing old, gets go on, and room that was made is used."""
    with succeeding("--memory-limit", "48MiB") as start:
        daemon = start()
        with Load(daemon.target, run.seed) as load, tmem.client.connect(daemon.target) as client:
            run.demand_floor(load)
            hog = client.create_pool("hog")
            deadline = time.monotonic() + (0.8 if run.short else 8.0)
            _fill(hog, lambda: time.monotonic() > deadline)
            load.check()
            hog.destroy()
            run.await_resumed(load, time.monotonic())
            figures = run.done(load)
        refused = sum(count for name, count in figures.outcomes.items() if "OutOfCapacity" in name)
        assert refused, figures.outcomes
        run.notes["refused"] = refused


def _fill(pool: Pool, enough: Callable[[], bool]) -> None:
    """Puts noise into every room that there is, again and again."""
    block = b"".join(map(random_page, range(64)))
    number = refused = 0
    while not enough() or not refused:
        number += 1
        try:
            pool.put(1, number * 512, number.to_bytes(8, "little") + block[8:])
        except Refused:
            refused += 1
            with suppress(Refused):
                pool.put(2, number * 512, block[:PAGE])  # a page may fit where a block does not
        assert number < 1 << 14, "the memory is never full"


def clock_jumps(run: Run) -> None:
    """The daemon's clocks jump forth and back: sessions may end, pages do not; a loss after a jump back is known for one."""
    with directory() as place:
        file = place / "offsets"
        program = (sys.executable, "-m", "tests.faults.jumping", str(file))
        flags = ("--journal", str(place / "journal"), "--persistent-grace-seconds", "never", *LIVELY)

        def jump(wall: float, monotonic: float) -> None:
            with file.open("r+b") as opened:
                opened.write(struct.pack("<dd", wall, monotonic))

        file.write_bytes(struct.pack("<dd", 0, 0))
        daemon = CaptiveDaemon(*flags, program=program)
        try:
            with Load(daemon.target, run.seed) as load, Load(daemon.target, run.seed + 1, durability="disk") as durable:
                run.demand_floor(load)
                for wall, monotonic in ((86400 * 365, 0), (86400 * 365, 86400), (-86400 * 365, 86400), (0, 90000)):
                    jump(wall, monotonic)
                    moment = time.monotonic()
                    run.await_resumed(load, moment)
                    run.await_resumed(durable, moment)
                jump(-86400 * 3650, 90000)
                with load.losing():
                    daemon.kill()
                    daemon.close()
                    daemon = CaptiveDaemon(*flags, listen=daemon.target, program=program)
                moment = time.monotonic()
                run.await_resumed(load, moment)
                run.await_resumed(durable, moment)
                figures = run.done(load)
                run.done(durable)
                assert figures.outcomes.get("get lost"), figures.outcomes
        finally:
            daemon.close()


def disk_full_under_the_journal(run: Run) -> None:
    """The journal's disk is full: puts are refused and leave nothing old, also after a restart; with room again they are taken."""
    if os.geteuid():
        raise CanNotRun("a small disk to fill can be mounted by root only")
    with directory() as place:
        disk = place / "disk"
        disk.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=96m", "tmem-faults", str(disk)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CanNotRun(f"no small disk can be mounted: {done.stderr.strip()}")
        try:
            with succeeding("--journal", str(disk / "journal")) as start:
                daemon = start()
                with Load(daemon.target, run.seed, durability="disk") as load:
                    run.demand_floor(load)
                    hog = disk / "hog"
                    with hog.open("wb") as opened, suppress(OSError):
                        while True:
                            opened.write(bytes(1 << 20))
                    time.sleep(0.7 if run.short else 5.0)
                    load.check()
                    hog.unlink()
                    moment = time.monotonic()
                    run.await_resumed(load, moment)
                    daemon.kill()
                    start()
                    run.await_resumed(load, time.monotonic())
                    figures = run.done(load)
                refused = sum(count for name, count in figures.outcomes.items() if "StoreFailed" in name)
                assert refused, figures.outcomes
                run.notes["refused"] = refused
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


# ---- The network ----


def half_open_connections(run: Run) -> None:
    """Connections stand and carry nothing any more: clients give them up for others."""
    with succeeding(*LIVELY) as start:
        daemon = start()
        with Proxy(daemon.target) as proxy, Load(proxy.target, run.seed) as load:
            for _ in range(1 if run.short else 4):
                run.demand_floor(load)
                proxy.swallow()
                time.sleep(0.1)  # until what the proxy holds is gone too
                run.await_resumed(load, time.monotonic())
            run.done(load)


def _one_way(run: Run, load: Load, lose: Callable[[bool], object], heal: Callable[[], object]) -> None:
    """Loses first what clients say, then what the daemon says."""
    for to_daemon in (True, False):
        run.demand_floor(load)
        lose(to_daemon)
        time.sleep(1.0 if run.short else 8.0)
        heal()
        run.await_resumed(load, time.monotonic())


def one_way_through_a_proxy(run: Run) -> None:
    """One direction of every connection stands still for a while."""
    with succeeding(*LIVELY) as start:
        daemon = start()
        with Proxy(daemon.target) as proxy, Load(proxy.target, run.seed) as load:
            _one_way(run, load, lambda to_daemon: proxy.block(up=to_daemon, down=not to_daemon), proxy.block)
            run.done(load)


def one_way_partition(run: Run) -> None:
    """Packets of one direction are lost, between two networks."""
    reason = why_not()
    if reason is not None:
        raise CanNotRun(reason)
    with Network() as network:
        daemon = CaptiveDaemon(*LIVELY, listen=f"{network.address}:0", program=network.program)
        try:
            with Load(daemon.target, run.seed) as load:

                def lose(to_daemon: bool) -> None:
                    network.lose(to_daemon=to_daemon, to_client=not to_daemon)

                _one_way(run, load, lose, network.heal)
                run.done(load)
        finally:
            daemon.close()


def slow_reader(run: Run) -> None:
    """A client that takes no answers: it is cut off, costs little, and nobody else waits for it."""
    script = """
import os, signal, sys
import tmem.client
from tests.pages import random_page
client = tmem.client.connect(sys.argv[1])
pool = client.create_pool("slow reader")
block = b"".join(map(random_page, range(512)))
for number in range(3):
    pool.put(1, number * 512, block)
print("stored", flush=True)
batch = pool.batch()
for number in range(3):
    batch.get_into(1, number * 512, bytearray(len(block)))
    if number == 0:
        batch.submit()
        os.kill(os.getpid(), signal.SIGSTOP)
batch.submit()
batch.wait()
print("continued", flush=True)
sys.stdin.read()
"""
    with succeeding("--stalled-reader-timeout-seconds", "2") as start:
        daemon = start()
        with Load(daemon.target, run.seed) as load, Program(script, daemon.target) as reader:
            assert reader.line() == "stored"
            run.demand_floor(load)
            reader.await_stopped()
            before = _resident(daemon)
            lone, batches = run.demand_floor(load)
            run.notes["beside it"] = f"{lone:.0f} pages/s, {batches / 1e6:.0f} MB/s"
            grown = _resident(daemon) - before
            assert grown < 64 << 20, f"a client that reads nothing costs {grown >> 20} MiB"
            time.sleep(run.settle())
            reader.signal(signal.SIGCONT)
            run.await_resumed(load, time.monotonic())
            run.done(load)


def _resident(daemon: CaptiveDaemon) -> int:
    return int(Path(f"/proc/{daemon.pid}/statm").read_text("ascii").split()[1]) * PAGE


# ---- Ten points of a batch's life ----

CUT_POINTS = (
    "before the first byte",
    "in the first frame's head",
    "in the message's head",
    "a tenth of the way",
    "in the middle",
    "nine tenths of the way",
    "after the last byte",
    "before the first byte of the answers",
    "in the middle of the answers",
    "before the last bytes of the answers",
)
_BLOCKS, _BLOCK_PAGES = 3, 96
_PACKING = 512
_OLD, _NEW = 1 << 40, 2 << 40


def _work(pool: Pool) -> list[bytes]:
    """Puts and gets in flight together; answers what the gets read."""
    old = [b"".join(page_of(_OLD + number * 1000 + page) for page in range(_BLOCK_PAGES)) for number in range(_BLOCKS)]
    buffers = [bytearray(_BLOCK_PAGES * PAGE) for _ in range(_BLOCKS)]
    with pool.batch() as batch:
        puts = []
        for number in range(_BLOCKS):
            new = b"".join(page_of(_NEW + number * 1000 + page) for page in range(_BLOCK_PAGES))
            puts.append(batch.put(9, number * 512, new))
            batch.submit()
            gets = batch.get_into(8, number * 512, buffers[number], False)
            batch.submit()
            assert gets is not None
        flushed = batch.flush(7, 0, 40)
    assert all(put.stored for put in puts), puts
    assert all(result.error is None for result in flushed)
    assert [bytes(buffer) for buffer in buffers] == old
    return [bytes(buffer) for buffer in buffers]


def _prepare(client: Client, name: str) -> Pool:
    pool = client.create_pool(name)
    for number in range(_BLOCKS):
        plain = b"".join(page_of(_OLD + number * 1000 + page) for page in range(_BLOCK_PAGES))
        pool.put(8, number * 512, plain)
        pool.put(9, number * 512, plain)  # overwritten by the batch
    pool.put(7, 0, b"".join(page_of(_OLD + 5000 + page) for page in range(80)))
    return pool


def final_state(pool: Pool) -> list[tuple[int, int, bytes]]:
    """Every page that the server holds."""
    held = []
    for obj in (7, 8, 9):
        for number in range(_BLOCKS):
            buffer = bytearray(512 * PAGE)
            result = pool.get_into(obj, number * 512, buffer, False)
            for page, code in enumerate(result.pages):
                if code.name == "HIT":
                    held.append((obj, number * 512 + page, bytes(buffer[page * PAGE : (page + 1) * PAGE])))
                else:
                    assert code.name == "MISS", code
    return held


def cut_at_each_point(run: Run) -> None:
    """A batch's connection is reset at each of ten points of its life: it is replayed, and leaves what an undisturbed one leaves."""
    with succeeding() as start, Proxy((daemon := start()).target) as proxy:
        # Undisturbed: what it leaves, and how many bytes go each way.
        with tmem.client.connect(proxy.target) as client:
            pool = _prepare(client, "undisturbed")
            up, down = proxy.passed_up, proxy.passed_down
            _work(pool)
            up, down = proxy.passed_up - up, proxy.passed_down - down
            wanted = final_state(pool)
            assert pool.stat().pages == len(wanted)
            pool.destroy()
        cuts = [(0, False), (4, False), (11, False)]
        cuts += [(int(up * part), False) for part in (0.1, 0.5, 0.9, 1.0)]
        # How the answers are packed differs by a few bytes from one run to the next.
        cuts += [(0, True), (down // 2, True), (down - _PACKING, True)]
        with Load(daemon.target, run.seed) as load:
            for (count, downstream), point in zip(cuts, CUT_POINTS, strict=True):
                run.demand_floor(load)
                with tmem.client.connect(proxy.target) as client:
                    _cut_once(run, client, proxy, point, (count, downstream), wanted)
            run.done(load)


def _cut_once(
    run: Run, client: Client, proxy: Proxy, point: str, cut: tuple[int, bool], wanted: list[tuple[int, int, bytes]]
) -> None:
    pool = _prepare(client, f"cut {point}")
    proxy.cut_after(cut[0], downstream=cut[1])
    begun = time.monotonic()
    _work(pool)
    took = time.monotonic() - begun
    proxy.restore()
    assert client.counters.reconnects >= 1 or point == "after the last byte", f"nothing was cut {point}"
    run.notes[point] = f"{client.counters.replays} batches replayed in {took:.2f} s"
    # The endpoint was there all the time: what the work took is what it took to go on, and the work.
    run.resumed.append(took)
    assert final_state(pool) == wanted, f"cut {point}, the pages differ"
    assert pool.stat().pages == len(wanted), f"cut {point}, the count of pages differs"
    run.pages += 2 * len(wanted)
    pool.destroy()


FAULTS: dict[str, Callable[[Run], None]] = {
    function.__name__: function
    for function in (
        killed_and_back_with_its_journal,
        killed_and_back_with_nothing,
        stopped_and_continued,
        drained_and_restarted,
        cut_at_each_point,
        half_open_connections,
        one_way_through_a_proxy,
        one_way_partition,
        disk_full_under_the_journal,
        memory_limit_reached,
        clock_jumps,
        slow_reader,
    )
}
