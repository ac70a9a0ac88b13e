"""Several shards against one.

Owns: the rate of lone pages of several clients on a server of N shards over that on one of a single shard, in turn. Each shard may take 0.3 of a CPU, by the
kernel's cpu controller, so that the servers are the bound also where there are few CPUs; or, on a larger machine, all that it can get.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tmem.cli.bench_common.figures import at_least, ratios
from tmem.cli.bench_common.rig import MIB
from tmem.wire.limits import PAGE_BYTES

from .cgroups import Capped, CpuGroups, NoController
from .data import mixed
from .rig import Rig, Worker
from .together import work_together

__all__ = ["measure"]

_CAP = 0.3
# For two shards; nothing is promised of more.
_GOAL = at_least(1.7)
_CLIENTS_PER_SHARD = 2
# Enough to keep a server busy, and soon answered when the time is over.
_WINDOW_BATCHES = 16
_PLAIN_MIB = 4
_CLIENT_FREE = 0.2  # of the CPUs must be left by capped shards


@dataclass(slots=True)
class _Server:
    """A server of so many shards, and the clients that load it."""

    shards: int
    workers: list[Worker]
    caps: list[Capped]

    def throttled(self) -> tuple[int, int]:
        """Periods, and throttled ones, of all shards."""
        counts = [cap.throttled_share() for cap in self.caps]
        return sum(count[0] for count in counts), sum(count[1] for count in counts)


def measure(rig: Rig) -> None:
    """Takes the figures."""
    with ExitStack() as stack:
        groups: CpuGroups | None = None
        if rig.shards_capped:
            if rig.shards * _CAP > len(rig.cpus) * (1 - _CLIENT_FREE):
                rig.report.skip(
                    f"{rig.shards} shards at {_CAP} of a CPU each leave too little of {len(rig.cpus)} for clients"
                )
                return
            try:
                groups = stack.enter_context(CpuGroups())
                groups.make("probe", _CAP)
            except NoController as error:
                rig.report.skip(str(error))
                return
        servers = {shards: stack.enter_context(_server(rig, shards, groups)) for shards in (1, rig.shards)}
        _compare(rig, servers)


@contextmanager
def _server(rig: Rig, shards: int, groups: CpuGroups | None) -> Iterator[_Server]:
    flags = ("--memory-limit", "2GiB", "--recompress", "never", "--shards", str(shards))
    with rig.daemon(*flags) as daemon, ExitStack() as stack:
        workers = []
        plain = mixed(rig.real, _PLAIN_MIB * MIB)
        pages = rig.write("shards", plain)
        for number in range(_CLIENTS_PER_SHARD * rig.shards):
            rig.say(f"shards: client {number + 1} of a server of {shards}")
            settings = {"target": daemon.target, "window_batches": _WINDOW_BATCHES, "apart": True}
            worker = Worker(pages=pages, store="aio", **settings)
            workers.append(stack.enter_context(worker))
        for worker in workers:
            worker.hear()
        for worker in workers:
            worker.tell(do="put", batch=1, unit=1, pages=len(plain) // PAGE_BYTES)
        for worker in workers:
            worker.take(worker.hear())
        caps = []
        if groups is not None:
            for number, pid in enumerate(_shard_pids(daemon.pid, shards)):
                caps.append(groups.make(f"{shards}-{number}", _CAP))
                caps[-1].add(pid)
        yield _Server(shards, workers, caps)


def _shard_pids(pid: int, shards: int) -> list[int]:
    """The processes that hold pages: the daemon itself, or those that it has started."""
    if shards == 1:
        return [pid]
    found = [
        int(child)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children")
        for child in tasks.read_text("ascii").split()
    ]
    if len(found) != shards:
        raise ChildProcessError(f"a server of {shards} shards has {len(found)} processes")
    return found


def _compare(rig: Rig, servers: dict[int, _Server]) -> None:
    rates: dict[tuple[int, str], list[float]] = {}
    before = {shards: server.throttled() for shards, server in servers.items()}
    for number in range(-1, rig.sizes.shard_rounds):  # the first one is to warm up
        for shards in servers if number % 2 else reversed(servers):
            for what in ("put", "get"):
                rig.say(f"shards: {shards}, {what}, round {number + 1} of {rig.sizes.shard_rounds}")
                load = work_together(servers[shards].workers, what, batch=1, unit=1, seconds=rig.sizes.shard_seconds)
                if number >= 0:
                    rates.setdefault((shards, what), []).append(load.rate)
    many = rig.shards
    how = f"each at {_CAP} of a CPU" if rig.shards_capped else "no cap"
    for what in ("put", "get"):
        title = f"{many} shards over one, {how}: lone pages {what}"
        goal = _GOAL if many == 2 and rig.shards_capped else None
        rig.report.add_rounds(f"shards_{what}_ratio", title, ratios(rates[many, what], rates[1, what]), goal)
        for shards in (1, many):
            rig.report.add_rounds(f"shards_{shards}_{what}_pages_s", f"  {shards}: pages/s", rates[shards, what])
    for shards, server in servers.items():
        if server.caps:
            periods, throttled = (now - then for now, then in zip(server.throttled(), before[shards], strict=True))
            title = f"  {shards}: share of the time in which the shards wanted more CPU than they had"
            rig.report.add(f"shards_{shards}_throttled_ratio", title, throttled / max(1, periods))
    rig.note_bad([worker for server in servers.values() for worker in server.workers])
    rig.report.about |= {"shards": many, "shards_cap_cpus": _CAP if rig.shards_capped else None}
