"""How much is measured, and what every measurement here needs: pages in files, the servers, a worker for each client.

Owns: the sizes of a run, in MiB unless a name says otherwise; that each set is captured once; where servers and workers run.
"""

import itertools
import os
import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tmem.cli.bench_common import rig
from tmem.cli.bench_common.figures import exactly
from tmem.cli.bench_common.rig import MIB, Program
from tmem.cli.bench_common.servers import Memcached, Redis, Rival, Valkey
from tmem.client.testing import CaptiveDaemon

from .data import RATIOS, REAL, DataSet, NotHere, capture_real, generate, mixed
from .peers import PEERS

__all__ = ["Rig", "Servers", "Sizes", "Worker", "place", "scratch"]

_SERVERS: dict[str, type[Rival]] = {kind.name: kind for kind in (Memcached, Redis, Valkey)}
_HELD_MIB = 2048
# What is measured must not change by itself meanwhile: the others do not recompress either.
_DAEMON = ("--memory-limit", "4GiB", "--recompress", "never")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each measurement takes.

    Attributes:
        set: of each real set; generated: of each generated one; speed: of the mix of real ones that speeds are taken with.
        rounds: of everything that is taken in pairs; slice_seconds: how long each of a pair runs.
        sweep: batch sizes, in pages; sweep_rounds: of each.
        lone_rounds, lone_calls: rounds, and calls of each client in each.
        clients: how many are active at once; client_rounds, client_seconds: rounds, and how long each runs.
        connected: clients, of which all but the active ones are idle.
        shard_rounds, shard_seconds: likewise.
    """

    set: int = 64
    generated: int = 8
    speed: int = 32
    rounds: int = 9
    slice_seconds: float = 0.3
    sweep: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    sweep_rounds: int = 2
    lone_rounds: int = 40
    lone_calls: int = 200
    clients: tuple[int, ...] = (1, 4, 16, 64)
    client_rounds: int = 5
    client_seconds: float = 1.2
    connected: int = 1000
    shard_rounds: int = 5
    shard_seconds: float = 3.0

    @classmethod
    def quick(cls) -> "Sizes":
        """For `make bench`: three minutes."""
        return cls(
            set=16,
            generated=4,
            speed=16,
            rounds=5,
            slice_seconds=0.1,
            sweep=(1, 8, 64, 512),
            sweep_rounds=1,
            lone_rounds=15,
            lone_calls=100,
            clients=(1, 16, 64),
            client_rounds=2,
            client_seconds=0.7,
            shard_rounds=3,
            shard_seconds=1.0,
        )

    def json(self) -> dict[str, Any]:
        """All of them by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def shrunk(self, divisor: int) -> "Sizes":
        """These, divided; for trying the command out. Nothing becomes less than what can be measured at all."""
        if divisor == 1:
            return self
        least: dict[str, Any] = {
            "set": 4,
            "generated": 2,
            "speed": 4,
            "rounds": 1,
            "slice_seconds": 0.01,
            "sweep": (1, 512),
            "sweep_rounds": 1,
            "lone_rounds": 1,
            "lone_calls": 20,
            "clients": (1, 3),
            "client_rounds": 1,
            "client_seconds": 0.1,
            "connected": 12,
            "shard_rounds": 1,
            "shard_seconds": 0.3,
        }
        return Sizes(
            **{
                f.name: least[f.name]
                if isinstance(getattr(self, f.name), tuple)
                else max(type(least[f.name])(getattr(self, f.name) / divisor), least[f.name])
                for f in fields(self)
            }
        )


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for the files of a run."""
    with tempfile.TemporaryDirectory(prefix="tmem-bench-") as directory:
        yield Path(directory)


class Worker(Program):
    """One client in a process of its own; see `worker`.

    Attributes:
        bad: pages that were not what they were to be. chosen: which calls it uses.
        pages, cpu_us_page: how many pages the last rate was taken over, and what each cost the client's CPU.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__("tmem.cli.bench_peers.worker", **settings)
        self.bad = 0
        self.chosen: dict[str, str] = {}
        self.cpu_us_page = 0.0
        self.pages = 0

    def work(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Asks for something, and adds up what was bad."""
        answer = self.ask(do=what, **arguments)
        self.take(answer)
        return answer

    def take(self, answer: dict[str, Any]) -> None:
        """Notes what an answer says beside its figures."""
        self.bad += answer.get("bad", 0)
        self.chosen = answer["chosen"]

    def rate(self, what: str, **arguments: Any) -> float:
        """Pages a second."""
        answer = self.work(what, **arguments)
        self.cpu_us_page = answer["cpu_seconds"] * 1e6 / answer["pages"]
        self.pages = answer["pages"]
        rate: float = answer["pages"] / answer["seconds"]
        return rate


@dataclass(frozen=True, slots=True)
class Servers:
    """What is running: a daemon, the bare echoes, and the peers' servers by name."""

    daemon: CaptiveDaemon
    floors: dict[str, Any]
    floors_pid: int
    rivals: dict[str, Rival]

    def address(self, store: str) -> dict[str, Any]:
        """What a worker must be told to reach the server of a store."""
        if store in PEERS:
            # No two clients of one server may have the same keys.
            return {"port": self.rivals[PEERS[store][1].server].port, "prefix": _letters(next(_clients))}
        if store in {"raw", "grpc_echo"}:
            return {"target": self.floors["target"]}
        if store == "socket_echo":
            return {"port": self.floors["port"]}
        return {"target": self.daemon.target}

    def pid(self, store: str) -> int:
        """The process that serves a store."""
        return self.rivals[PEERS[store][1].server].pid if store in PEERS else self.daemon.pid


_clients = itertools.count()


def _letters(number: int) -> str:
    """A number as few letters."""
    letters = string.ascii_letters
    return (
        letters[number]
        if number < len(letters)
        else _letters(number // len(letters) - 1) + letters[number % len(letters)]
    )


def place(pid: int, cpus: set[int]) -> None:
    """Puts a process, with all its threads, on some CPUs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended
            os.sched_setaffinity(int(task.name), cpus)


@dataclass(slots=True)
class Series:
    """What the plots are drawn from.

    Attributes:
        latencies: microseconds of lone gets, by title.
        sweep: by "put" and "get", by title: pages a second by batch size.
        clients: likewise, by number of clients.
        density: by set: stored bytes per page, by title.
        cost: by "put" and "get": microseconds a page, by title.
    """

    latencies: dict[str, list[float]] = field(default_factory=dict)
    sweep: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    clients: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    density: dict[str, dict[str, float]] = field(default_factory=dict)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)


class Rig(rig.Rig):
    """What one run shares.

    Args:
        sizes: of everything.
        directory: for files; it is the caller's to remove.
        say: told what happens now.
        shards: how many are compared with one. shards_capped: whether each may take only a part of a CPU.
        layers: around the daemon's store, such as "faulty:get_corrupt=0.1"; to see what is said then.

    Attributes:
        series: for plots.
    """

    def __init__(
        self,
        sizes: Sizes,
        directory: Path,
        say: Callable[[str], None],
        *,
        shards: int = 2,
        shards_capped: bool = True,
        layers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(say)
        self.sizes = sizes
        self.shards = shards
        self.shards_capped = shards_capped
        self.series = Series()
        self._files = directory
        self._layers = tuple(flag for layer in layers for flag in ("--layer", layer))
        self._real: list[DataSet] | None = None
        self._generated: list[DataSet] | None = None

    # ---- Pages ----

    @property
    def real(self) -> list[DataSet]:
        """The memory of real processes, as far as they can run here."""
        if self._real is None:
            self._real = []
            for name, (title, _) in REAL.items():
                self.say(f"capturing: {title}")
                try:
                    self._real.append(capture_real(self, name, self.sizes.set * MIB))
                except NotHere as error:
                    self.report.not_run[f"density_{name}"] = f"not run: {title}: {error}"
            for data in self._real:
                self.write(data.name, data.plain)
        return self._real

    @property
    def generated(self) -> list[DataSet]:
        """Pages with stated ratios."""
        if self._generated is None:
            self.say("generating pages")
            self._generated = [generate(ratio, self.sizes.generated * MIB) for ratio in RATIOS]
        return self._generated

    def write(self, name: str, plain: memoryview) -> str:
        """Puts pages into a file, which workers map."""
        file = self._files / f"{name}.pages"
        file.write_bytes(plain)
        return str(file)

    def file(self, name: str) -> str:
        """The file with the pages of a real set; "mix": blocks of all of them in turn."""
        file = self._files / f"{name}.pages"
        real = self.real
        if name == "mix" and not file.exists():
            self.write(name, mixed(real, self.sizes.speed * MIB))
        return str(file)

    # ---- Processes ----

    def missing(self, peer: str) -> str | None:
        """Why a peer can't be run here; None if it can."""
        kind = PEERS[peer][1]
        if find_spec(kind.module) is None:
            return f"the package {kind.module} is not installed: pip install 'tmem[bench]'"
        server = _SERVERS[kind.server]
        return None if server.installed() else f"{server.command} is not installed"

    def peers(self) -> list[str]:
        """The peers that can be run; the others are noted."""
        found = []
        for name, (title, _) in PEERS.items():
            reason = self.missing(name)
            if reason is None:
                found.append(name)
            else:
                self.report.skip(f"{title}: {reason}", name)
        return found

    @contextmanager
    def daemon(self, *arguments: str, pinned: bool = False, timeout: float = 60.0) -> Iterator[CaptiveDaemon]:
        """A daemon of one's own."""
        with super().daemon(*arguments, *self._layers, pinned=pinned, timeout=timeout) as daemon:
            yield daemon

    @contextmanager
    def servers(self, peers: list[str]) -> Iterator[Servers]:
        """A daemon, the bare echoes, and the servers of these peers, all on the server's CPU."""
        wanted = sorted({PEERS[peer][1].server for peer in peers})
        with ExitStack() as stack, self.on_cpu(self.server_cpu):
            directory = stack.enter_context(self.directory())
            # With one CPU more threads than one only get into each other's way.
            threads = ("-t", "1") if self.server_cpu is not None else ()
            flags = {"memcached": ("-c", str(2 * self.sizes.connected + 1024), *threads)}
            rivals = {
                name: stack.enter_context(_SERVERS[name](directory, _HELD_MIB, tcp=True, flags=flags.get(name, ())))
                for name in wanted
            }
            floors = stack.enter_context(Program("tmem.cli.bench_peers.floors"))
            daemon = stack.enter_context(self.daemon(*_DAEMON, pinned=True))
            yield Servers(daemon, floors.hear(), floors.pid, rivals)

    @contextmanager
    def workers(self, servers: Servers, pages: str, stores: dict[str, dict[str, Any]]) -> Iterator[dict[str, Worker]]:
        """Workers, by name, on the client's CPU from the time when they have started.

        Args:
            servers: that they work with.
            pages: a file.
            stores: by name, what each is told beside its server's address: {"store": ...} and more.
        """
        with ExitStack() as stack:
            started = {}
            for name, settings in stores.items():
                address = servers.address(settings["store"])
                started[name] = stack.enter_context(Worker(pages=pages, **address, **settings))
            for worker in started.values():
                worker.hear()
                if self.client_cpu is not None:
                    place(worker.pid, {self.client_cpu})
            yield started
            self.note_bad(started.values())

    def place_all(self, servers: Servers, workers: dict[str, Worker], *, both: bool) -> None:
        """Puts servers and clients on both CPUs, or each side back on its own."""
        if self.server_cpu is None or self.client_cpu is None:
            return
        cpus = {self.server_cpu, self.client_cpu}
        for pid in (servers.daemon.pid, servers.floors_pid, *(rival.pid for rival in servers.rivals.values())):
            place(pid, cpus if both else {self.server_cpu})
        for worker in workers.values():
            place(worker.pid, cpus if both else {self.client_cpu})

    def note_bad(self, workers: Any) -> None:
        """A page that is not what was put is a bug, whatever else was measured."""
        measurement = self.report.measurement
        bad = sum(worker.bad for worker in workers)
        title = f"{measurement}: pages that were refused, lost, damaged or wrong"
        self.report.add(f"{measurement}_bad_pages", title, bad, exactly(0))

    def note_chosen(self, workers: dict[str, Worker]) -> None:
        """Which calls of the peers' libraries were used."""
        for name, worker in workers.items():
            for what, call in worker.chosen.items():
                self.report.about[f"chosen_{name}_{what.replace(' ', '_')}"] = call
