"""The processes of a sharded server.

Owns: `ShardedDaemon`: starts a process for each shard by exec, tells all of them where the others are, starts one again that has died, passes on
what the server is told, and ends when all have ended. It holds no page and answers no client: a shard's death is the loss of what
that shard held in memory, and the others serve on meanwhile.

To the command it looks as a Daemon does.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from tmem.server.config import Settings
from tmem.server.host.notify import notify
from tmem.server.host.ports import AddressInUseError, check_free
from tmem.server.observe.http import MetricsServer

from .control import encode_targets
from .errors import ShardError
from .plan import check_journal, shard_flags, shard_listen, shard_target
from .totals import Shard, add_up, by_shard

__all__ = ["ShardedDaemon"]

log = structlog.get_logger(__name__)

_READY = re.compile(rb"tmemd ready target=(\S+) metrics=(\S+)\n")
_BACKOFF_SECONDS = (0.1, 5.0)
# Who lived so long did not die of its start.
_STEADY_SECONDS = 30.0
_SCRAPE_SECONDS = 5.0
_END_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Shard:
    """One process.

    Attributes:
        listen: where it listens; after its first start a fixed address, so that clients find it again.
        metrics: where it is scraped; "" while it is not there.
        restarts: how often it had to be started again.
    """

    number: int
    listen: str
    target: str = ""
    metrics: str = ""
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None
    watch: "asyncio.Task[None] | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ShardedDaemon:
    """A server of several processes.

    Args:
        settings: the server's.

    Attributes:
        target: where clients reach its first shard, which tells them of the others.
        metrics_address: where /metrics is; None without.

    Raises:
        JournalError: the journal is one of another number of shards.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        check_journal(settings.journal, settings.shards)
        self._shards = [_Shard(number, shard_listen(settings.listen, number)) for number in range(settings.shards)]
        self._metrics_server: MetricsServer | None = None
        self._closing = False
        self.target = ""
        self.metrics_address: str | None = None

    # ---- Starting ----

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            AddressInUseError: an address can't be listened on.
            ShardError: a shard could not be started.
        """
        for shard in self._shards:
            check_free(shard.listen)
        self._listen_for_scrapers()
        try:
            await asyncio.gather(*(self._launch(shard) for shard in self._shards))
        except BaseException:
            await self.stop()
            raise
        for shard in self._shards:
            shard.listen = shard.target
            self._tell(shard)
            shard.watch = asyncio.create_task(self._watch(shard))
        self.target = self._shards[0].target
        log.info("server.ready", target=self.target, shards=len(self._shards), metrics=self.metrics_address)
        notify(READY="1", STATUS=f"serving on {self.target}, {len(self._shards)} shards")

    def _listen_for_scrapers(self) -> None:
        address = self._settings.metrics_listen
        if address == "none":
            return
        check_free(address)
        registry = CollectorRegistry()
        registry.register(_Totals(self._shards))
        try:
            self._metrics_server = MetricsServer(address, registry)
        except OSError as error:
            raise AddressInUseError(f"can't listen on {address}: {error.strerror}") from error
        self.metrics_address = self._metrics_server.address

    async def _launch(self, shard: _Shard) -> None:
        """Starts a shard's process, and waits until it is ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")}
        environment.pop("NOTIFY_SOCKET", None)  # the supervisor speaks for all
        shard.process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tmem.server", *shard_flags(self._settings, shard.number, shard.listen)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # what a terminal sends goes to the supervisor, which passes it on once
        )
        if self._closing:  # the signal that said so went to the one before it
            process.terminate()
        assert process.stdout is not None
        match = _READY.fullmatch(await process.stdout.readline())
        if match is None:
            status = await process.wait()
            raise ShardError(f"shard {shard.number} could not be started: it ended with status {status}")
        shard.target, shard.metrics = match[1].decode(), match[2].decode()

    def _tell(self, shard: _Shard) -> None:
        """Tells a shard where all are."""
        assert shard.process is not None
        assert shard.process.stdin is not None
        targets = [shard_target(self._settings.listen, other.target) for other in self._shards]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: its watch will see
            shard.process.stdin.write(encode_targets(targets))

    # ---- Watching ----

    async def _watch(self, shard: _Shard) -> None:
        """Starts a shard again whenever it has died."""
        backoff, most = _BACKOFF_SECONDS
        while True:
            assert shard.process is not None
            begun = time.monotonic()
            status = await shard.process.wait()
            shard.metrics = ""
            if self._closing:
                shard.ended.set()
                return
            log.error("shard.died", shard=shard.number, status=status, hint="what it held in memory is lost")
            if time.monotonic() - begun > _STEADY_SECONDS:
                backoff = _BACKOFF_SECONDS[0]
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, most)
            if self._closing:
                shard.ended.set()
                return
            shard.restarts += 1
            try:
                await self._launch(shard)
            except (ShardError, OSError) as error:  # OSError: no memory or no process to be had, just now
                log.error("shard.not_started", shard=shard.number, error=str(error))
                continue
            self._tell(shard)
            log.info("shard.restarted", shard=shard.number, restarts=shard.restarts)

    def reload(self) -> None:
        """Every shard reads the token file again."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        for shard in self._shards:
            if shard.process is not None and shard.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    shard.process.send_signal(number)

    # ---- Ending ----

    async def drain(self) -> None:
        """Every shard goes away gracefully."""
        notify(STOPPING="1", STATUS="draining")
        self._closing = True
        self._signal(signal.SIGTERM)
        await asyncio.gather(*(shard.ended.wait() for shard in self._shards))

    async def stop(self) -> None:
        """Ends what is still there."""
        self._closing = True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._all_ended()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._all_ended()
        watches = [shard.watch for shard in self._shards if shard.watch is not None]
        for watch in watches:
            watch.cancel()
        if watches:
            await asyncio.wait(watches)
        if self._metrics_server is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics_server.close)
        log.info("server.stopped")

    async def _all_ended(self) -> None:
        await asyncio.gather(*(shard.process.wait() for shard in self._shards if shard.process is not None))


class _Totals:
    """What is scraped: asked of every shard, on the scraper's thread."""

    def __init__(self, shards: list[_Shard]) -> None:
        self._shards = shards
        self._reported = {shard.number: Shard() for shard in shards}
        self._lock = threading.Lock()  # scrapers come on threads of their own

    def describe(self) -> list[Metric]:
        """Nothing is promised before the shards are there."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The sums."""
        with self._lock:
            lives = {shard.number: shard.restarts for shard in self._shards}
            texts = {shard.number: self._ask(shard) for shard in self._shards}
            for shard in self._shards:
                if shard.restarts != lives[shard.number]:
                    texts[shard.number] = None  # nobody knows which process that was
            reports = [self._reported[number].take(text, lives[number]) for number, text in texts.items()]
        yield from add_up(reports)
        up = {number: float(text is not None) for number, text in texts.items()}
        yield by_shard("tmem_shard_up", "Whether a shard answers.", up)
        restarts = {shard.number: float(shard.restarts) for shard in self._shards}
        yield by_shard(
            "tmem_shard_restarts_total", "How often a shard died and was started again.", restarts, "counter"
        )

    @staticmethod
    def _ask(shard: _Shard) -> str | None:
        address = shard.metrics
        if not address:
            return None
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=_SCRAPE_SECONDS) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return None
