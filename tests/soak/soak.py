"""`make soak MINUTES=n`: mixed load with cancels for as long as one likes, and whether anything grows.

Run as `python -m tests.soak.soak [--minutes N] [--seed N] [--csv FILE]`. Checked batches and lone pages, clients that come and go, takes, calls that are
cancelled or hurried, pools that are made and ended; each second the daemon's memory, descriptors, threads and tasks are noted. At the end it prints a
picture and a slope of each with its 95 % interval, after a warm-up of a third. Exit status 1: something was wrong or lost, something was left, or memory
surely grows by more than 1 MB an hour.
"""

import argparse
import asyncio
import csv
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.load import Load
from tests.gauges import assert_empties
from tests.pages import PAGE
from tests.soak.figures import Slope, picture, slope

import tmem.client
import tmem.client.aio
from tmem.cli.torture.load import page_of
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import TmemError

MOST_GROWTH_BYTES_PER_HOUR = 1e6
_TASKS_EVERY = 10
_SETTLED_SECONDS = 1500
_TASKS = re.compile(r"^(\d+) tasks:", re.MULTILINE)


@dataclass
class Samples:
    """One list for each thing that is watched, all as long as `times`."""

    times: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def take(self, moment: float, **now: float) -> None:
        self.times.append(moment)
        for name, value in now.items():
            self.values.setdefault(name, []).append(value)


def look(daemon: CaptiveDaemon, tasks: float) -> dict[str, float]:
    """What the daemon takes now."""
    process = Path(f"/proc/{daemon.pid}")
    status = process.joinpath("status").read_text("ascii")
    return {
        "rss_bytes": float(process.joinpath("statm").read_text("ascii").split()[1]) * 4096,
        "descriptors": len(list(process.joinpath("fd").iterdir())),
        "threads": float(status.partition("Threads:")[2].split()[0]),
        "tasks": tasks,
    }


def count_tasks(daemon: CaptiveDaemon) -> float:
    """How many tasks the daemon's loop has; it prints them when asked."""
    before = len(_TASKS.findall(daemon.log()))
    daemon.signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while True:
        found = _TASKS.findall(daemon.log())
        if len(found) > before:
            return float(found[-1])
        if time.monotonic() > deadline:
            return float("nan")
        time.sleep(0.01)


class Guests(threading.Thread):
    """Clients that come, do a little, cancel some of it, and go."""

    def __init__(self, target: str, seed: int) -> None:
        super().__init__(name="guests")
        self._target = target
        self._chance = random.Random(seed)
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.visits = self.cancelled = 0

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._hurried()
                asyncio.run(self._cancelling())
                self.visits += 2
        except BaseException as error:  # noqa: BLE001  the soak tells it
            self.error = error

    def _hurried(self) -> None:
        chance = self._chance
        with tmem.client.connect(self._target, name="guest") as client:
            pool = client.create_pool(f"guest-{self.visits}", kind=chance.choice(("ephemeral", "persistent")))
            try:
                for number in range(20):
                    plain = b"".join(page_of(number * 100 + page + 1) for page in range(chance.choice((1, 16, 128))))
                    with suppress(TmemError):
                        pool.put(7, number * 512, plain, timeout=chance.choice((None, 0.001, 0.01)))
                    with suppress(TmemError):
                        pool.get_into(7, number * 512, bytearray(len(plain)), timeout=chance.choice((None, 0.001)))
                if chance.random() < 0.5:
                    raise InterruptedError  # noqa: TRY301  the batch below is left by an error
            except InterruptedError:
                with suppress(InterruptedError), pool.batch() as batch:
                    batch.put(8, 0, bytes(64 * PAGE))
                    batch.submit()
                    raise InterruptedError from None
            finally:
                pool.destroy()

    async def _cancelling(self) -> None:
        chance = self._chance
        async with await tmem.client.aio.connect(self._target, name="guest") as client:
            pool = await client.create_pool(f"guest-{self.visits}-aio")
            plain = b"".join(page_of(page + 1) for page in range(64))
            tasks = [asyncio.create_task(pool.put(7, number * 512, plain)) for number in range(12)]
            await asyncio.sleep(chance.random() * 0.004)
            for task in tasks:
                if chance.random() < 0.5:
                    self.cancelled += task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pool.destroy()


def soak(
    minutes: float, seed: int, say: Callable[[str], None], *, every: float = 1.0, flags: tuple[str, ...] = ()
) -> tuple[Samples, int]:
    """Runs the load; answers the samples and how many page operations were checked. Raises AssertionError."""
    samples = Samples()
    with CaptiveDaemon("--memory-limit", "256MiB", "--log-level", "error", *flags) as daemon:
        begun = time.monotonic()
        guests = Guests(daemon.target, seed)
        with Load(daemon.target, seed) as load, Load(daemon.target, seed + 1, kind="ephemeral") as cache:
            guests.start()
            try:
                tasks = count_tasks(daemon)
                while time.monotonic() - begun < minutes * 60:
                    time.sleep(every)
                    load.check()
                    cache.check()
                    assert guests.error is None, guests.error
                    if len(samples.times) % _TASKS_EVERY == 0:
                        tasks = count_tasks(daemon)
                    samples.take(time.monotonic() - begun, **look(daemon, tasks))
                    if len(samples.times) % 60 == 0:
                        last = {name: f"{values[-1]:,.0f}" for name, values in samples.values.items()}
                        say(
                            f"{samples.times[-1] / 60:.0f} min: {last}, {guests.visits} guests, {guests.cancelled} cancels"
                        )
            finally:
                guests.stop.set()
                guests.join(60)
            pages = load.finish().pages + cache.finish().pages
        assert_empties(daemon)
    return samples, pages


def main() -> int:
    """Soaks and reports; answers the exit status."""
    parser = argparse.ArgumentParser(prog="make soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="also write the samples there")
    arguments = parser.parse_args()
    samples, pages = soak(arguments.minutes, arguments.seed, lambda text: print(text, flush=True))
    if arguments.csv:
        with arguments.csv.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["seconds", *samples.values])
            writer.writerows(zip(samples.times, *samples.values.values(), strict=True))
    print(f"{pages:,} page operations were checked in {samples.times[-1] / 60:.1f} minutes")
    slopes = report(samples)
    if slopes["rss_bytes"].low * 3600 > MOST_GROWTH_BYTES_PER_HOUR:
        settled = samples.times[-1] > _SETTLED_SECONDS
        print(
            "memory grows"
            if settled
            else "memory grows, or its warm-up is longer than a third of this: soak for half an hour"
        )
        return 1
    return 0


def report(samples: Samples) -> dict[str, Slope]:
    """Prints a picture of everything, and its slope after the warm-up."""
    warm = len(samples.times) // 3
    slopes = {}
    for name, values in samples.values.items():
        slopes[name] = found = slope(samples.times[warm:], values[warm:])
        hourly = [f"{part * 3600:+,.4g}" for part in found]
        print(
            f"{name}: {min(values):,.0f} .. {max(values):,.0f}, after the warm-up {hourly[0]} an hour (95 %: {hourly[1]} .. {hourly[2]})"
        )
        print(f"    {picture(values)}")
    return slopes


if __name__ == "__main__":
    sys.exit(main())
