"""Extents beside the machine's own limits on the same data.

Owns: the rates of putting and getting blocks of 512 pages by each face of the client, in turn with LZ4 alone, one thread, in the same units; a gRPC stream of as
many raw bytes; and memcpy. Twice: client and server each on a CPU of its own, and both free on both CPUs, where a client that can use more than one
thread may. Then on each real set by itself.
"""

import statistics
from collections.abc import Iterable
from typing import Any

from tmem.cli.bench_common.figures import Goal, at_least, ratios
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .rig import Rig, Worker

__all__ = ["measure"]

_FACES = {
    "link": "the agents' link",
    "link_two": "the agents' link, two threads that compress",
    "aio": "the asyncio face",
    "blocking": "the blocking face",
}
_LIMITS: dict[str, str] = {
    "lz4": "LZ4 alone, one thread",
    "raw": "gRPC stream of raw bytes",
    "copy": "memcpy",
}
_UNIT = 16
_PUT_GOAL = at_least(1.0)
_GET_LZ4_GOAL = at_least(0.75)
_GET_RAW_GOAL = at_least(0.9)
_MEGABYTE = 1e6

# By store and by what is done: plain MB/s, round by round.
Rates = dict[tuple[str, str], list[float]]


def measure(rig: Rig) -> None:
    """Takes the figures."""
    stores: dict[str, dict[str, Any]] = {name: {"store": name} for name in (*_LIMITS, *_FACES)}
    stores["link_two"] = {"store": "link", "codec_threads": 2}
    with rig.servers([]) as servers, rig.workers(servers, rig.file("mix"), stores) as workers:
        _fill(workers)
        pinned = _rounds(rig, workers, "each on its CPU")
        rig.place_all(servers, workers, both=True)
        shared = _rounds(rig, workers, "on both CPUs")
        rig.place_all(servers, workers, both=False)
        sets = {}
        for data in rig.real:
            for worker in workers.values():
                worker.work("load", pages=rig.file(data.name))
            _fill(workers)
            sets[data.name] = _rounds(rig, workers, data.title, rounds=max(1, rig.sizes.rounds // 3))
    _report_goals(rig, shared, "", "client and server on two CPUs")
    _report_goals(rig, pinned, "pinned_", "each on a CPU of its own", goals=False)
    _report_rates(rig, shared, pinned)
    for data in rig.real:
        _report_set(rig, data.name, data.title, sets[data.name])
    _note_cost(rig, pinned)


def _fill(workers: dict[str, Worker]) -> None:
    for name in _FACES:
        workers[name].work("fill", unit=_UNIT)


def _rounds(rig: Rig, workers: dict[str, Worker], where: str, rounds: int = 0) -> Rates:
    rates: Rates = {(name, what): [] for name in workers for what in ("put", "get")}
    rounds = rounds or rig.sizes.rounds
    for number in range(-1, rounds):  # the first one is to warm up
        rig.say(f"extents: {where}, round {number + 1} of {rounds}")
        # Whoever is first may meet other caches: turn about.
        names = list(workers) if number % 2 else list(reversed(workers))
        for what in ("put", "get"):
            for name in names:
                rate = workers[name].rate(what, batch=BLOCK_PAGES, unit=_UNIT, seconds=rig.sizes.slice_seconds)
                if number >= 0:
                    rates[name, what].append(rate * PAGE_BYTES / _MEGABYTE)
    return rates


def _best(rates: Rates, what: str, names: Iterable[str]) -> str:
    return max(names, key=lambda name: statistics.median(rates[name, what]))


def _report_goals(rig: Rig, rates: Rates, key: str, where: str, *, goals: bool = True) -> None:
    add = rig.report.add_rounds
    put, get = _best(rates, "put", _FACES), _best(rates, "get", _FACES)

    def goal(wanted: Goal) -> Goal | None:
        return wanted if goals else None

    title = f"put of extents over LZ4's own compress rate, {where}, by {_FACES[put]}"
    add(f"extents_{key}put_lz4_ratio", title, ratios(rates[put, "put"], rates["lz4", "put"]), goal(_PUT_GOAL))
    # Whichever is the lower is the limit, and its goal counts; the other is reported beside it.
    raw_limits = statistics.median(rates["raw", "get"]) < statistics.median(rates["lz4", "get"])
    title = f"get of extents over LZ4's own decompress-into-place rate, {where}, by {_FACES[get]}"
    values = ratios(rates[get, "get"], rates["lz4", "get"])
    add(f"extents_{key}get_lz4_ratio", title, values, None if raw_limits else goal(_GET_LZ4_GOAL))
    title = "  over the gRPC stream of raw bytes" + (", the limit" if raw_limits else "")
    values = ratios(rates[get, "get"], rates["raw", "get"])
    add(f"extents_{key}get_raw_ratio", title, values, goal(_GET_RAW_GOAL) if raw_limits else None)
    add(f"extents_{key}put_raw_ratio", "  and put over it", ratios(rates[put, "put"], rates["raw", "put"]))


def _report_rates(rig: Rig, shared: Rates, pinned: Rates) -> None:
    for name, title in (_FACES | _LIMITS).items():
        for what in ("put", "get"):
            rates = rig.report.add_rounds
            rates(
                f"extents_{name}_{what}_mb_s", f"{title}: {what}, MB/s of plain pages, on two CPUs", shared[name, what]
            )
            rates(f"extents_pinned_{name}_{what}_mb_s", "  each on a CPU of its own", pinned[name, what])


def _report_set(rig: Rig, name: str, title: str, rates: Rates) -> None:
    add = rig.report.add_rounds
    put, get = _best(rates, "put", _FACES), _best(rates, "get", _FACES)
    values = ratios(rates[put, "put"], rates["lz4", "put"])
    add(f"extents_{name}_put_lz4_ratio", f"{title}: put over LZ4's own rate, each on its CPU", values)
    add(f"extents_{name}_get_lz4_ratio", "  get likewise", ratios(rates[get, "get"], rates["lz4", "get"]))
    add(f"extents_{name}_put_mb_s", "  put, MB/s", rates[put, "put"])
    add(f"extents_{name}_get_mb_s", "  get, MB/s", rates[get, "get"])


def _note_cost(rig: Rig, rates: Rates) -> None:
    """For the plot: what a page costs."""
    for what in ("put", "get"):
        for name, title in (_LIMITS | _FACES).items():
            label = title if name in _LIMITS else f"tmem, {title}"
            rate = statistics.median(rates[name, what])
            rig.series.cost.setdefault(what, {})[label] = PAGE_BYTES / rate  # MB/s are bytes a microsecond
