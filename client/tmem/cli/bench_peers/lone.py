"""A lone page, fetched because somebody waits for it.

Owns: how long one get takes, by each way of tmem's client and by each peer, in turn, beside a bare gRPC call and a bare socket that bring as many bytes. Every
way but the bare ones expands the page into the caller's memory and verifies it.
"""

import statistics
from typing import Any

from tmem.cli.bench_common.figures import Goal, at_most, percentile, ratios

from .peers import PEERS
from .rig import Rig, Worker

__all__ = ["measure"]

_OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "unary": ("tmem, unary call", {"store": "blocking", "unary": True}),
    "stream": ("tmem, open stream, blocking face", {"store": "blocking"}),
    "link": ("tmem, open stream, the agents' link", {"store": "link"}),
    "grpc_echo": ("bare gRPC call", {"store": "grpc_echo"}),
    "socket_echo": ("bare socket", {"store": "socket_echo"}),
}
_BARE = ("grpc_echo", "socket_echo")
_PERCENTILES = (50, 90, 99)


def measure(rig: Rig) -> None:
    """Takes the figures."""
    peers = rig.peers()
    titles = {name: title for name, (title, _) in _OURS.items()} | {peer: f"{PEERS[peer][0]}" for peer in peers}
    stores = {name: settings for name, (_, settings) in _OURS.items()} | {peer: {"store": peer} for peer in peers}
    with rig.servers(peers) as servers, rig.workers(servers, rig.file("mix"), stores) as workers:
        rig.say("lone pages: filling")
        for name, worker in workers.items():
            if name not in _BARE:
                worker.work("fill", unit=1)
        rounds = _rounds(rig, workers)
    p50 = {name: [percentile(taken, 50) for taken in each] for name, each in rounds.items()}
    _report_ratios(rig, p50, titles, peers)
    for name, each in rounds.items():
        everything = [value for taken in each for value in taken]
        rig.series.latencies[titles[name]] = everything
        rig.report.add_rounds(f"lone_{name}_p50_us", f"{titles[name]}: p50, us", p50[name])
        for percent in _PERCENTILES[1:]:
            rig.report.add(f"lone_{name}_p{percent}_us", f"  p{percent}, us", percentile(everything, percent))
    rig.report.about["lone_calls"] = rig.sizes.lone_rounds * rig.sizes.lone_calls


def _rounds(rig: Rig, workers: dict[str, Worker]) -> dict[str, list[list[float]]]:
    """The microseconds of every call, by way and by round."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in workers}
    for number in range(-1, rig.sizes.lone_rounds):  # the first one is to warm up
        rig.say(f"lone pages: round {number + 1} of {rig.sizes.lone_rounds}")
        for name in list(workers) if number % 2 else list(reversed(workers)):
            taken = workers[name].work("lone", calls=rig.sizes.lone_calls)["us"]
            if number >= 0:
                rounds[name].append(taken)
    return rounds


def _report_ratios(rig: Rig, p50: dict[str, list[float]], titles: dict[str, str], peers: list[str]) -> None:
    def add(this: str, that: str, goal: Goal | None) -> None:
        title = f"lone get p50: {titles[this]} over {titles[that]}"
        rig.report.add_rounds(f"lone_{this}_to_{that}_ratio", title, ratios(p50[this], p50[that]), goal)

    add("unary", "grpc_echo", at_most(1.15))
    add("stream", "unary", at_most(0.5))
    if "redis" in peers:
        add("link", "redis", at_most(1.0))
    for peer in peers:
        if peer != "redis":
            add("link", peer, None)
    add("link", "stream", None)
    add("link", "socket_echo", None)
    if peers:
        best = min(peers, key=lambda peer: statistics.median(p50[peer]))
        rig.report.about["lone_best_peer"] = best
