"""Many clients at once.

Owns: the rate of all together and the latency of each, for 1, 4, 16, 64 active clients of a thousand that are connected; each active one is a process on the clients'
CPU that keeps a few batches in flight. Beside them as many of Redis and memcached. And what an idle client costs.
"""

import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tmem.cli.bench_common.figures import at_least, at_most, ratios
from tmem.cli.bench_common.rig import MIB, Program, cpu_seconds, resident_bytes
from tmem.cli.bench_common.servers import Rival

from .data import mixed
from .peers import PEERS
from .rig import Rig, Servers, Worker, place
from .together import Load, p99s, work_together

__all__ = ["measure"]

# Of the peers those that one round trip is enough for, one for each server.
_PEERS = ("redis", "pymemcache")
_BATCH = 32
_DEPTH = 4
_PLAIN_MIB = 4
_PER_PROCESS = 250
# What the first ones cost is what the daemon's first connections cost, not what one more does.
_FIRST_IDLE = 8
_QUIET_SECONDS = 2.0
_DESCRIPTORS = 256  # beside those of clients

# By store, by what is done, by number of clients: each round's.
Loads = dict[tuple[str, str, int], list[Load]]


def measure(rig: Rig) -> None:
    """Takes the figures."""
    active = max(rig.sizes.clients)
    idle = rig.sizes.connected - active
    if not _allow_descriptors(rig.sizes.connected + _DESCRIPTORS):
        rig.report.skip(f"this user may not have {rig.sizes.connected} connections (ulimit -n): none was idle", "idle")
        idle = 0
    pages = rig.write("clients", mixed(rig.real, _PLAIN_MIB * MIB))
    peers = [peer for peer in _PEERS if rig.missing(peer) is None]
    for peer in set(_PEERS) - set(peers):
        rig.report.skip(f"{PEERS[peer][0]}: {rig.missing(peer)}", peer)
    with rig.servers(peers) as servers, ExitStack() as stack:
        costs: dict[str, float] = {}
        if idle:
            costs = stack.enter_context(_idle(rig, servers, idle))
        crowd = stack.enter_context(_crowd(rig, servers, pages, peers, active))
        loads = _rounds(rig, crowd, peers)
    _report(rig, loads, peers, active, active + idle)
    for name, title in (
        ("idle_kib", "an idle client costs the daemon, KiB"),
        ("idle_cpu_us_s", "  microseconds of its CPU a second"),
        *((f"{name}_idle_kib", f"  an idle connection costs {name}, KiB") for name in servers.rivals),
    ):
        if name in costs:
            rig.report.add(f"clients_{name}", title, costs[name])
    rig.report.about |= {"clients_connected": active + idle, "clients_active": active}
    rig.report.about |= {"clients_batch_pages": _BATCH, "clients_batches_in_flight": _DEPTH}


def _allow_descriptors(wanted: int) -> bool:
    """Makes sure that this process's children may have so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return True
    with suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted, hard if hard == resource.RLIM_INFINITY else max(hard, wanted))
        )
        return True
    return False


# ---- Idle ones ----


@contextmanager
def _idle(rig: Rig, servers: Servers, count: int) -> Iterator[dict[str, float]]:
    """So many connected clients that do nothing, for the length of the block; answers what each costs its server."""
    costs: dict[str, float] = {}
    pid = servers.daemon.pid
    with ExitStack() as stack:
        first = min(_FIRST_IDLE, count - 1)
        rig.say("clients: connecting the first idle ones")
        stack.enter_context(_idlers(servers.daemon.target, first))
        busy, empty = _cpu_share(pid), resident_bytes(pid)
        rig.say(f"clients: connecting {count} idle ones")
        stack.enter_context(_idlers(servers.daemon.target, count - first))
        busy = _cpu_share(pid) - busy
        costs["idle_kib"] = (resident_bytes(pid) - empty) / (count - first) / 1024
        costs["idle_cpu_us_s"] = max(0.0, busy) * 1e6 / (count - first)
        for name, rival in servers.rivals.items():
            empty = resident_bytes(rival.pid)
            for _ in range(count):
                stack.enter_context(_connection(rival))
            costs[f"{name}_idle_kib"] = (resident_bytes(rival.pid) - empty) / count / 1024
        yield costs


@contextmanager
def _idlers(target: str, count: int) -> Iterator[None]:
    """Programs with so many connected clients together."""
    with ExitStack() as stack:
        programs = []
        for first in range(0, count, _PER_PROCESS):
            share = min(_PER_PROCESS, count - first)
            program = Program("tmem.cli.bench_peers.idlers", target=target, count=share)
            programs.append(stack.enter_context(program))
        for program in programs:
            program.hear()
        yield


def _connection(rival: Rival) -> socket.socket:
    """A connection that was used once."""
    connection = socket.create_connection(("127.0.0.1", rival.port), timeout=10)
    connection.sendall(b"get x\r\n" if rival.name == "memcached" else b"PING\r\n")
    if not connection.recv(64):
        raise ChildProcessError(f"{rival.name} takes no more connections")
    return connection


def _cpu_share(pid: int) -> float:
    """The share of a CPU that a process takes, over a few seconds."""
    before, begun = cpu_seconds(pid), time.monotonic()
    time.sleep(_QUIET_SECONDS)
    return (cpu_seconds(pid) - before) / (time.monotonic() - begun)


# ---- Active ones ----


@contextmanager
def _crowd(rig: Rig, servers: Servers, pages: str, peers: list[str], count: int) -> Iterator[list[Worker]]:
    """Active clients, each in a process of its own that has a client of every store."""
    with ExitStack() as stack:
        crowd = []
        for number in range(count):
            rig.say(f"clients: starting {number + 1} of {count}")
            also = [{"store": peer, **servers.address(peer)} for peer in peers]
            worker = Worker(pages=pages, store="link", depth=_DEPTH, also=also, **servers.address("link"))
            crowd.append(stack.enter_context(worker))
        for worker in crowd:
            worker.hear()
            if rig.client_cpu is not None:
                place(worker.pid, {rig.client_cpu})
        for store in ("link", *peers):
            rig.say(f"clients: filling {store}")
            for worker in crowd:
                worker.tell(do="fill", store=store, unit=_unit(store))
            for worker in crowd:
                worker.take(worker.hear())
        yield crowd
        rig.note_bad(crowd)


def _unit(store: str) -> int:
    return 16 if store == "link" else 1


def _rounds(rig: Rig, crowd: list[Worker], peers: list[str]) -> Loads:
    loads: Loads = {}
    rounds = rig.sizes.client_rounds
    for number in range(rounds):
        for store in ("link", *peers):
            if store != "link" and number >= max(1, rounds // 2):
                continue  # nothing is promised of them
            for count in rig.sizes.clients if number % 2 else reversed(rig.sizes.clients):
                rig.say(f"clients: {count} on {store}, round {number + 1} of {rounds}")
                # Not always the same ones.
                first = number * count % len(crowd)
                chosen = (crowd + crowd)[first : first + count]
                for what in ("put", "get"):
                    load = work_together(
                        chosen, what, store=store, batch=_BATCH, unit=_unit(store), seconds=rig.sizes.client_seconds
                    )
                    loads.setdefault((store, what, count), []).append(load)
    return loads


def _report(rig: Rig, loads: Loads, peers: list[str], active: int, connected: int) -> None:
    add = rig.report.add_rounds
    one = min(rig.sizes.clients)
    for what in ("put", "get"):
        together = loads["link", what, active]
        alone = [load.rate for load in loads["link", what, one]]
        title = f"{connected} connected, {active} active: {what} together, over one active"
        add(f"clients_{what}_ratio", title, ratios([load.rate for load in together], alone), at_least(0.9))
        each = p99s(together)
        title = "  p99 of the slowest client over the median client's"
        rig.report.add(f"clients_{what}_p99_ratio", title, max(each) / statistics.median(each), at_most(3))
        title = "  pages of the client with the fewest over the median client's"
        add(f"clients_{what}_least_share_ratio", title, [load.least_share for load in together])
    for store in ("link", *peers):
        title = "tmem, extents, the agents' link" if store == "link" else f"{PEERS[store][0]}, 4 KiB units"
        name = "tmem" if store == "link" else store
        for what in ("put", "get"):
            points = {}
            for count in rig.sizes.clients:
                rates = [load.rate for load in loads[store, what, count]]
                points[count] = statistics.median(rates)
                clients = f"{count} clients" if count > 1 else "1 client"
                add(f"clients_{name}_{count}_{what}_pages_s", f"{title}: {clients}, {what}, pages/s", rates)
                p99 = statistics.median(p99s(loads[store, what, count]))
                rig.report.add(
                    f"clients_{name}_{count}_{what}_p99_us", "  the median client's p99, us", p99, detail=True
                )
            rig.series.clients.setdefault(what, {})[title] = points
