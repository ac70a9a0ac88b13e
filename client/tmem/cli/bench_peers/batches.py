"""Batches of pages beside the peers that do the same job.

Owns: pages a second, put and got, of batches of 512 pages, by each face of tmem's client and by each peer, in turn; and how the rates depend on the size of the
batch. On the peers' side a page is a value of 4 KiB as a swap agent would store it; beside it, 64 KiB units on both sides, and 4 KiB units on both sides.

Twice, as extents are: client and server each on a CPU of its own, and both sides free on both CPUs, where a client that can use more than one thread may.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tmem.cli.bench_common.figures import at_least, ratios
from tmem.cli.bench_common.rig import cpu_seconds
from tmem.wire.limits import BLOCK_PAGES

from .peers import PEERS
from .rig import Rig, Worker

__all__ = ["measure"]

_PUT_GOAL = at_least(2)
_GET_GOAL = at_least(2.5)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to move batches.

    Attributes:
        worker: who does it. unit: in units of how many pages.
        swept: whether it is taken at every size of a batch. both: whether it is taken on both CPUs too.
    """

    worker: str
    unit: int
    title: str
    swept: bool = True
    both: bool = False


_WORKERS: dict[str, dict[str, Any]] = {
    "link": {"store": "link"},
    "link_two": {"store": "link", "codec_threads": 2},
    "aio": {"store": "aio"},
    "blocking": {"store": "blocking"},
    "one": {"store": "link", "depth": 1},
    "scattered": {"store": "link", "scattered": True},
}
_OURS: dict[str, _Way] = {
    "link": _Way("link", 16, "tmem, extents, the agents' link", both=True),
    "link_two": _Way("link_two", 16, "tmem, extents, the agents' link, two threads", swept=False, both=True),
    "aio": _Way("aio", 16, "tmem, extents, asyncio face", both=True),
    "blocking": _Way("blocking", 16, "tmem, extents, blocking face", swept=False, both=True),
    "one": _Way("one", 16, "tmem, extents, one batch at a time"),
    "link_4k": _Way("link", 1, "tmem, 4 KiB units", swept=False),
    "scattered": _Way("scattered", 1, "tmem, pages that lie apart", swept=False),
}
_FACES = ("link", "link_two", "aio", "blocking")

# By way and by what is done, round by round: pages a second; and the microseconds a page that the client's and the server's CPU took.
Rates = dict[tuple[str, str], list[float]]
Costs = dict[tuple[str, str], list[tuple[float, float]]]


def measure(rig: Rig) -> None:
    """Takes the figures."""
    peers = rig.peers()
    ways = dict(_OURS)
    for peer in peers:
        title = PEERS[peer][0]
        ways[peer] = _Way(peer, 1, f"{title}, 4 KiB units", both=True)
        ways[f"{peer}_64k"] = _Way(peer, 16, f"{title}, 64 KiB units", swept=False, both=True)
    stores = _WORKERS | {peer: {"store": peer} for peer in peers}
    with rig.servers(peers) as servers, rig.workers(servers, rig.file("mix"), stores) as workers:
        for number, way in enumerate(ways.values()):
            rig.say(f"batches: filling {number + 1} of {len(ways)}")
            workers[way.worker].work("fill", unit=way.unit)
        pids = {name: servers.pid(way.worker) for name, way in ways.items()}
        rates, costs = _rounds(rig, workers, ways, pids)
        _sweep(rig, workers, ways, rates)
        rig.place_all(servers, workers, both=True)
        both, _ = _rounds(rig, workers, {name: way for name, way in ways.items() if way.both}, pids, "on both CPUs, ")
        rig.note_chosen(workers)
    if peers:
        _report_goals(rig, ways, peers, both, "", "both sides on two CPUs")
        _report_goals(rig, ways, peers, rates, "pinned_", "each side on a CPU of its own", goals=False)
    _report_rates(rig, ways, rates, costs, both)
    _note_cost(rig, ways, peers, rates)


def _rounds(
    rig: Rig, workers: dict[str, Worker], ways: dict[str, _Way], pids: dict[str, int], where: str = ""
) -> tuple[Rates, Costs]:
    rates: Rates = {(name, what): [] for name in ways for what in ("put", "get")}
    costs: Costs = {key: [] for key in rates}
    for number in range(-1, rig.sizes.rounds):  # the first one is to warm up
        rig.say(f"batches: {where}round {number + 1} of {rig.sizes.rounds}")
        # Whoever is first may meet other caches: turn about.
        names = list(ways) if number % 2 else list(reversed(ways))
        for what in ("put", "get"):
            for name in names:
                before = cpu_seconds(pids[name])
                rate = _rate(rig, workers, ways[name], what, BLOCK_PAGES)
                spent = cpu_seconds(pids[name]) - before
                if number >= 0:
                    worker = workers[ways[name].worker]
                    rates[name, what].append(rate)
                    costs[name, what].append((worker.cpu_us_page, spent * 1e6 / worker.pages))
    return rates, costs


def _rate(rig: Rig, workers: dict[str, Worker], way: _Way, what: str, batch: int) -> float:
    return workers[way.worker].rate(what, batch=batch, unit=way.unit, seconds=rig.sizes.slice_seconds)


def _sweep(rig: Rig, workers: dict[str, Worker], ways: dict[str, _Way], rates: Rates) -> None:
    """The same at other sizes of a batch."""
    swept = {name: way for name, way in ways.items() if way.swept}
    found: dict[tuple[str, str, int], list[float]] = {}
    for number in range(rig.sizes.sweep_rounds):
        for batch in rig.sizes.sweep:
            if batch == BLOCK_PAGES:
                continue
            rig.say(f"batches of {batch} pages, round {number + 1} of {rig.sizes.sweep_rounds}")
            for what in ("put", "get"):
                for name, way in swept.items():
                    found.setdefault((name, what, batch), []).append(_rate(rig, workers, way, what, batch))
    for name, way in swept.items():
        for what in ("put", "get"):
            points = {
                batch: statistics.median(rates[name, what] if batch == BLOCK_PAGES else found[name, what, batch])
                for batch in rig.sizes.sweep
            }
            rig.series.sweep.setdefault(what, {})[way.title] = points
            rig.report.about[f"batches_{name}_{what}_pages_s_by_batch"] = {
                str(batch): round(rate) for batch, rate in points.items()
            }


def _best(rates: Rates, what: str, names: Iterable[str]) -> str:
    return max(names, key=lambda name: statistics.median(rates[name, what]))


def _report_goals(
    rig: Rig, ways: dict[str, _Way], peers: list[str], rates: Rates, key: str, where: str, *, goals: bool = True
) -> None:
    """Ours over the peers'."""
    add = rig.report.add_rounds
    for what, goal in (("put", _PUT_GOAL), ("get", _GET_GOAL)):
        ours = _best(rates, what, _FACES)
        best = _best(rates, what, peers)
        best_64k = _best(rates, what, [f"{peer}_64k" for peer in peers])
        among = "the best peer" if len(peers) > 1 else "the only peer"
        title = f"batched {what}, {where}: {ways[ours].title}, over {among}, {ways[best].title}"
        add(f"batches_{key}{what}_ratio", title, ratios(rates[ours, what], rates[best, what]), goal if goals else None)
        title = f"  64 KiB units on both sides: over {ways[best_64k].title}"
        add(f"batches_{key}{what}_64k_ratio", title, ratios(rates[ours, what], rates[best_64k, what]))
        for name, title in (
            ("link_4k", "  4 KiB units on both sides"),
            ("scattered", "  4 KiB units, 512 pages that lie apart"),
            ("one", "  extents, but one batch at a time, as theirs"),
        ):
            if (name, what) in rates:
                add(f"batches_{key}{what}_{name}_ratio", title, ratios(rates[name, what], rates[best, what]))
        rig.report.about |= {f"batches_{key}{what}_best_peer": best, f"batches_{key}{what}_best_face": ours}


def _report_rates(rig: Rig, ways: dict[str, _Way], rates: Rates, costs: Costs, both: Rates) -> None:
    add = rig.report.add_rounds
    for name, way in ways.items():
        for what in ("put", "get"):
            add(f"batches_{name}_{what}_pages_s", f"{way.title}: {what}, pages/s", rates[name, what])
            if way.both:
                add(f"batches_{name}_{what}_both_pages_s", "  on both CPUs", both[name, what])
            for end, title in enumerate(("client", "server")):
                spent = [cost[end] for cost in costs[name, what]]
                add(f"batches_{name}_{what}_{title}_cpu_us", f"  the {title}'s CPU, us/page", spent, detail=True)


def _note_cost(rig: Rig, ways: dict[str, _Way], peers: list[str], rates: Rates) -> None:
    """For the plot: what a page costs."""
    for what in ("put", "get"):
        for peer in peers:
            rig.series.cost.setdefault(what, {})[ways[peer].title] = 1e6 / statistics.median(rates[peer, what])
