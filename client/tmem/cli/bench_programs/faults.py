"""What one fault takes, and what it is made of; and what readahead makes of faults in order.

Owns: the comparison of the swap agent with its floor (the same faults, with a loop device over memory) and with one bare exchange (a lone get over
the link that the agent uses, of such pages, from the agent's CPU), all in turn in every round; and the sum that explains the one by the others.

Keys: fault_WAY_p50_us, fault_WAY_p99_us, fault_WAY_random_mib_s, fault_WAY_sequential_mib_s; exchange_p50_us; fault_to_floor_and_exchange_ratio;
sequential_to_random_ratio; messages_per_mib_random, messages_per_mib_sequential, messages_per_mib_out.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import tmem.client.link
from tmem.agents.swap.device import Options
from tmem.agents.swap.shared import Word
from tmem.agents.swap.state import Site
from tmem.agents.swap.status import Reading, read_device
from tmem.cli.bench_common.figures import at_least, at_most, exactly, percentile, ratios
from tmem.cli.bench_common.rig import MIB
from tmem.cli.scratch import scratch_pool
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES

from .programs import Done, Failed, Program, Start, Wanted, hear_to_end, tried
from .rig import Rig
from .touch_work import page
from .ways import BARE_EXCHANGE, DEVICE, Memory, Swapped, Way, plain, swap_ways

__all__ = ["measure"]

_LOCAL_PERCENT = 50
_PAGES = 4096  # that lone gets are of
_RUN_PAGES = 64  # of one put: as the kernel's writes are
_WARM_GETS = 200
_OURS, _FLOOR = "swap", "floor"


class _Toucher(Program):
    """touch_work.py."""

    name = "touch"

    def __init__(self, size: int, order: str, touches: int) -> None:
        self._arguments = [str(size), order, str(touches)]
        self.said: dict[str, Any] = {}

    def prepared(self, wanted: Wanted) -> AbstractContextManager[None]:  # noqa: ARG002  it has been told
        """It makes its pages itself."""
        return nullcontext()

    def run(self, start: Start, seconds: float) -> Done:
        """One run; what it found is in `said`."""
        heard: list[bytes] = []
        command = [sys.executable, "-m", f"{__package__}.touch_work", *self._arguments]
        taken = hear_to_end(start, command, seconds, heard.append)
        self.said = json.loads(b"".join(heard))
        return Done(taken, "")


@dataclass(slots=True)
class _Found:
    """What one way's rounds were.

    Attributes:
        p50s, p99s: microseconds of faults at random. waits: all of them.
        random, sequential: MiB/s that came back.
    """

    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    random: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Agent:
    """What the swap agent's own counters said, round by round: messages for each MiB, and microseconds."""

    random: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)
    out: list[float] = field(default_factory=list)
    in_hand: list[float] = field(default_factory=list)
    exchange: list[float] = field(default_factory=list)


def measure(rig: Rig, chosen: Sequence[str] = ()) -> None:
    """Takes faults apart.

    Args:
        rig: what the run shares.
        chosen: by these ways, beside the agent and its floor; none: by all.
    """
    measurement = _Measurement(rig)
    ways = []
    for way in swap_ways(rig):
        reason = way.obstacle(_Toucher(0, "random", 0))
        if reason:
            rig.report.skip(reason, way.name)
        elif not chosen or way.name in {*chosen, _OURS, _FLOOR}:
            ways.append(way)
    try:
        measurement.take(ways)
    except (Failed, OSError, TmemError) as error:
        rig.report.skip(str(error))


class _Measurement:
    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._limit = 0
        self._bad = 0
        self._found: dict[str, _Found] = {}
        self._agent = _Agent()
        self._exchanges: list[float] = []
        self._exchange_p50s: list[float] = []

    def take(self, ways: list[Swapped]) -> None:
        """Every round, by every way."""
        rig, sizes = self._rig, self._rig.sizes
        rig.say("faults: how much memory that takes")
        _, memory = self._touch(plain(rig), "random", sizes.touches)
        self._limit = memory.peak * _LOCAL_PERCENT // 100
        for number in range(sizes.touch_rounds):
            for way in list(ways) if number % 2 == 0 else list(reversed(ways)):
                rig.say(f"faults, round {number + 1}: {way.title}")
                try:
                    with way.ready():
                        self._take_way(way)
                except (Failed, OSError, TmemError) as error:
                    # The others say something all the same.
                    rig.report.skip(f"faults, {way.title}: {error}", way.name)
                    ways.remove(way)
                    self._found.pop(way.name, None)
            if any(way.name == _OURS for way in ways):
                rig.say(f"faults, round {number + 1}: bare exchanges")
                self._exchange()
        for way in ways:
            rig.report.about[f"{way.name}_is"] = way.words or way.title
        self._tell(ways)

    def _touch(self, way: Swapped, order: str, touches: int) -> tuple[dict[str, Any], Memory]:
        toucher = _Toucher(self._rig.sizes.touched, order, touches)
        _, memory = tried(lambda: way.run(toucher, self._limit or None, self._rig.sizes.seconds))
        self._bad += toucher.said["bad"]
        return toucher.said, memory

    def _take_way(self, way: Swapped) -> None:
        found = self._found.setdefault(way.name, _Found())
        readings = [self._reading(way)]
        said, memory = self._touch(way, "random", self._rig.sizes.touches)
        readings.append(self._reading(way))
        waits = said["waits_us"]
        if not waits:
            raise Failed("nothing was waited for")
        found.waits += waits
        found.p50s.append(percentile(waits, 50))
        found.p99s.append(percentile(waits, 99))
        found.random.append(_mib_s(memory, said))
        said, memory = self._touch(way, "sequential", self._rig.sizes.touched // PAGE_BYTES)
        readings.append(self._reading(way))
        found.sequential.append(_mib_s(memory, said))
        first, middle, last = readings
        if first is not None and middle is not None and last is not None:
            self._note_agent(first, middle, last)

    def _reading(self, way: Way) -> Reading | None:
        return read_device(Site(self._rig.run_directory, DEVICE)) if way.name == _OURS else None

    def _note_agent(self, first: Reading, middle: Reading, last: Reading) -> None:
        agent = self._agent
        agent.random.append(_per_mib(first, middle, Word.GET_MESSAGES, Word.PAGES_GOT))
        agent.sequential.append(_per_mib(middle, last, Word.GET_MESSAGES, Word.PAGES_GOT))
        agent.out.append(_per_mib(first, last, Word.PUT_MESSAGES, Word.PAGES_PUT))
        agent.in_hand.append((middle.reads.since(first.reads).quantile(0.5) or 0.0) * 1e6)
        gets = middle[Word.REMOTE_GETS] - first[Word.REMOTE_GETS]
        spent = middle[Word.REMOTE_NANOSECONDS] - first[Word.REMOTE_NANOSECONDS]
        agent.exchange.append(spent / max(1, gets) / 1e3)

    def _exchange(self) -> None:
        """Lone gets, from where the agent is, of pages that are stored as it stores them."""
        chance = random.Random(1)  # noqa: S311  an order, no secret
        into = bytearray(PAGE_BYTES)
        taken: list[float] = []
        with (
            self._rig.agents(),
            tmem.client.link.connect(self._rig.target) as link,
            scratch_pool(link, "bench-exchange", chunk_pages=_chunk_pages()) as pool,
        ):
            with pool.batch() as batch:
                for first in range(0, _PAGES, _RUN_PAGES):
                    batch.put(0, first, b"".join(page(number) for number in range(first, first + _RUN_PAGES)))
            for call in range(-_WARM_GETS, self._rig.sizes.gets):
                number = chance.randrange(_PAGES)
                begun = time.perf_counter_ns()
                pool.get_into(0, number, into)
                ended = time.perf_counter_ns()
                self._bad += into != page(number)
                if call >= 0:
                    taken.append((ended - begun) / 1e3)
        self._exchange_p50s.append(percentile(taken, 50))
        self._exchanges += taken

    # ---- What was found ----

    def _tell(self, ways: Sequence[Way]) -> None:
        report, found = self._rig.report, self._found
        for way in ways:
            these = found[way.name]
            for key, what, rounds in (
                ("p50_us", "fault at random, p50, us", these.p50s),
                ("p99_us", "fault at random, p99, us", these.p99s),
                ("random_mib_s", "at random, MiB/s that came in", these.random),
                ("sequential_mib_s", "in order, MiB/s that came in", these.sequential),
            ):
                report.add_rounds(f"fault_{way.name}_{key}", f"{way.title}: {what}", rounds)
            self._rig.series.latencies[way.title] = these.waits
        if _OURS in found and _FLOOR in found:
            self._tell_sum(found[_OURS], found[_FLOOR])
        report.add("fault_wrong_pages", "pages that were not what they should be", self._bad, exactly(0))

    def _tell_sum(self, ours: _Found, floor: _Found) -> None:
        report, agent = self._rig.report, self._agent
        self._rig.series.latencies[BARE_EXCHANGE] = self._exchanges
        report.add_rounds(
            "exchange_p50_us", "a bare exchange: one lone get over the link, p50, us", self._exchange_p50s
        )
        sums = [loop + exchange for loop, exchange in zip(floor.p50s, self._exchange_p50s, strict=True)]
        rest = [fault - both for fault, both in zip(ours.p50s, sums, strict=True)]
        report.add_rounds("fault_rest_us", "a fault less floor and exchange, us", rest)
        report.add_rounds(
            "fault_to_floor_and_exchange_ratio",
            "swap agent's fault over floor and exchange together",
            ratios(ours.p50s, sums),
            at_most(1.25),
        )
        report.add_rounds(
            "agent_in_hand_us", "the worker had a read in hand, p50 to the next step of its scale, us", agent.in_hand
        )
        report.add_rounds("agent_exchange_us", "of that it waited for the server, on average, us", agent.exchange)
        report.add_rounds(
            "sequential_to_random_ratio",
            "reads in order over reads at random, MiB/s",
            ratios(ours.sequential, ours.random),
            at_least(3),
        )
        report.add_rounds("messages_per_mib_random", "gets for each MiB that came in at random", agent.random)
        report.add_rounds("messages_per_mib_sequential", "gets for each MiB that came in in order", agent.sequential)
        report.add_rounds("messages_per_mib_out", "puts for each MiB that went out", agent.out)


def _chunk_pages() -> int:
    """How the agent's pools are made."""
    return Options("", None, 0).chunk_pages


def _mib_s(memory: Memory, said: dict[str, Any]) -> float:
    return memory.pages_in * PAGE_BYTES / MIB / float(said["seconds"])


def _per_mib(before: Reading, after: Reading, messages: Word, pages: Word) -> float:
    moved = after[pages] - before[pages]
    return (after[messages] - before[messages]) / (moved * PAGE_BYTES / MIB) if moved else 0.0
