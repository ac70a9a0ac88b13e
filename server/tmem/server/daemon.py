"""The daemon: everything wired together, from its start to its end.

Owns: construction, listening, the once-a-second upkeep, and the order of going away: say so (DRAIN on every stream, health
NOT_SERVING), refuse new sessions and new puts, let what is in flight finish, and stop.
"""

import asyncio
import os
import stat
import time
from pathlib import Path

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tmem.wire.allocator import give_back_freed, keep_freed_messages
from tmem.wire.copies import CopyCounter
from tmem.wire.limits import server_options

from .addresses import is_loopback
from .config import ConfigError, Settings
from .host.disk import disk_of
from .host.journal import JournalFiles
from .host.memory import lock_memory, tame_collector
from .host.notify import notify
from .host.ports import AddressInUseError, check_free
from .host.recompression import recompress_when_idle
from .host.scratch import ScratchFile
from .journal import Journal
from .observe.http import MetricsServer
from .observe.metrics import JournalFigures, Metrics, RecompressionFigures, Sources
from .rpc.capabilities import CapabilitiesHandlers
from .rpc.exchange import ExchangeHandlers
from .rpc.pages import PagesHandlers
from .rpc.pools import PoolsHandlers
from .rpc.service import Service
from .rpc.sessions import SessionTable
from .store.engine import Engine
from .store.history import Fate, History
from .store.interface import Store
from .store.layers.limited import LimitedLayer
from .store.layers.metered import MeteredLayer
from .store.layers.specs import LayerServices, wrap
from .store.lifecycle import Graces, Lifecycle
from .store.log import LogStore, segment_size
from .store.pools import Pool, PoolTable
from .tenants import Tenants

__all__ = ["Daemon"]

log = structlog.get_logger(__name__)

_SERVICES = ("PagesService", "ExtentsService", "PoolsService", "CapabilitiesService")
_UPKEEP_SECONDS = 1.0
_STEP_PAUSE_SECONDS = 0.001
_INSTANCE_ID_BYTES = 16
# With fewer batches a second the daemon counts as idle: memory that it keeps for the next messages goes back to the system,
# and what is held is recompressed.
_BUSY_BATCHES = 20
# systemd waits so much longer each time that it is told of progress.
_EXTENSION_SECONDS = 60


class Daemon:
    """One tmemd.

    Args:
        settings: all of them.
        version: what it says it is.

    Attributes:
        target: where clients reach it; set by `start`.
        metrics_address: where /metrics is; None without.

    Raises:
        TokenFileError: the token file can't be used.
    """

    def __init__(self, settings: Settings, version: str) -> None:
        self._settings = settings
        self._shard_count = int(settings.shard.partition("/")[2] or 1)
        self._tenants = Tenants.load(settings.tokens, shards=self._shard_count) if settings.tokens else Tenants()
        self._quotas = self._tenants.quotas()
        self._metrics = Metrics(version)
        self._version = version
        self._metrics_server: MetricsServer | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self._history = History(time.monotonic)
        self._disk = disk_of(settings.disk_faults)
        self._scratch: ScratchFile | None = None
        self._recompression: asyncio.Task[None] | None = None
        self._quiet, self._cleaning = False, True  # until the first look
        self.target = ""
        self.metrics_address: str | None = None

    # ---- Starting ----

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            AddressInUseError: an address can't be listened on.
            JournalError: the journal can't be used.
            asyncio.CancelledError: it was to stop while it read the journal; it has stopped.
        """
        keep_freed_messages()
        settings = self._settings
        if settings.lock_memory:
            try:
                lock_memory()
            except OSError as error:
                raise ConfigError(
                    f"--lock-memory: {error.strerror}; raise LimitMEMLOCK (ulimit -l), or give CAP_IPC_LOCK"
                ) from error
        loop = asyncio.get_running_loop()
        copies = CopyCounter()
        plain, store = self._build_store(loop, copies)
        table = PoolTable(
            random_bytes=os.urandom, durabilities=store.durabilities, max_pools=settings.max_pools_per_tenant
        )

        def retire(pool: Pool) -> None:
            self._metrics.retire(pool, store.counts(pool.key))

        lifecycle = Lifecycle(
            table,
            store,
            graces=Graces(
                *(
                    None if grace == "never" else grace
                    for grace in (settings.persistent_grace_seconds, settings.ephemeral_grace_seconds)
                )
            ),
            # Microseconds since 1970: higher than any epoch of this machine's past, but for a clock that was set back;
            # a client that knows a higher one says so when it makes its pool again.
            epoch=lambda: time.time_ns() // 1000,
            on_gone=retire,
            records=self._journal,
        )
        sessions = SessionTable(lifecycle, timeout_seconds=settings.session_timeout_seconds)
        self._service = Service(
            settings=settings,
            tenants=self._tenants,
            engine=Engine(store, self._history),
            lifecycle=lifecycle,
            sessions=sessions,
            metrics=self._metrics,
            copies=copies,
            instance_id=os.urandom(_INSTANCE_ID_BYTES),
            version=self._version,
            recovering=self._journal is not None,
            shards=None if settings.shard else [""],
        )
        self._exchange = ExchangeHandlers(self._service)
        self._metrics.sources = Sources(
            pools=lambda: table,
            unbound=self._service.engine.unbound,
            store=store,
            copies=copies,
            memory_limit_bytes=settings.memory_limit,
            sessions=lambda: len(sessions),
            streams=lambda: len(self._exchange.streams),
            load_permille=lambda: self._service.load_permille,
            recovering=lambda: self._service.recovering,
            journal=JournalFigures if self._journal is None else self._journal.figures,
            recompression=lambda: RecompressionFigures(plain.recompressor.tried_bytes, plain.recompressor.saved_bytes),
        )
        await self._listen()
        if self._journal is not None:
            try:
                await self._recover(self._journal, plain, store)
            except BaseException:
                await self.stop()
                raise
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        tame_collector()
        self._upkeep = asyncio.create_task(self._keep_up())
        if settings.recompress == "idle":
            self._recompression = asyncio.create_task(recompress_when_idle(plain.recompressor, self._is_idle))
        self._warn_of_open_tokens()
        if self._tenants.open and not is_loopback(settings.listen):
            log.warning("daemon.open", listen=self.target, hint="everybody who can reach this address may use it")
        log.info("daemon.ready", target=self.target, metrics=self.metrics_address, store=store.name)
        notify(READY="1", STATUS=f"serving on {self.target}")

    async def _recover(self, journal: Journal, plain: LogStore, store: Store) -> None:
        """Reads the journal, while clients are told to come back."""
        loop = asyncio.get_running_loop()
        table = self._service.lifecycle.table
        log.debug("daemon.recovering", target=self.target)
        notify(STATUS=f"reading the journal; listening on {self.target}")
        told = time.monotonic()
        for work in journal.recover(plain, store, table, epoch=time.time_ns() // 1000, now=time.monotonic()):
            if time.monotonic() - told > _UPKEEP_SECONDS:
                told = time.monotonic()
                percent = round(100 * journal.read_share)
                notify(
                    STATUS=f"reading the journal: {percent} %", EXTEND_TIMEOUT_USEC=str(_EXTENSION_SECONDS * 1_000_000)
                )
            if work is None:
                await asyncio.sleep(0)
            else:
                waiting = loop.run_in_executor(None, work)
                try:
                    await asyncio.shield(waiting)
                except asyncio.CancelledError:
                    await asyncio.wait([waiting])  # the files are its until it has ended
                    raise
        self._weigh_pools(table)
        self._service.recovering = False

    def _warn_of_open_tokens(self) -> None:
        path = self._settings.tokens
        if path is not None and path.stat().st_mode & stat.S_IRWXO:
            log.warning(
                "daemon.tokens_readable", file=str(path), hint="everybody on this machine can read it: chmod o= it"
            )

    def _make_scratch(self, slot_bytes: int, loop: asyncio.AbstractEventLoop) -> ScratchFile | None:
        directory = self._settings.spill
        if directory is None:
            return None
        try:
            self._scratch = ScratchFile(
                directory, slot_bytes, self._settings.spill_limit, self._disk, loop.call_soon_threadsafe
            )
        except OSError as error:
            raise ConfigError(f"--spill {directory}: {error.strerror}") from error
        return self._scratch

    def _build_store(self, loop: asyncio.AbstractEventLoop, copies: CopyCounter) -> tuple[LogStore, Store]:
        """What holds the pages, and the same within its layers."""
        limit = self._settings.memory_limit
        plain = LogStore(
            limit,
            copies,
            scratch=self._make_scratch(segment_size(limit), loop),
            on_evicted=lambda key, extent: self._history.note(key, extent, Fate.EVICTED),
        )
        store: Store = plain
        if self._settings.journal is not None:
            self._journal = Journal(
                JournalFiles(
                    self._settings.journal,
                    synced=self._settings.journal_sync == "always",
                    post=loop.call_soon_threadsafe,
                    disk=self._disk,
                )
            )
            store = self._journal.layer(store)
        store = LimitedLayer(store, self._quotas)
        store = wrap(store, self._settings.layers, LayerServices(loop.call_later, log.info))
        return plain, MeteredLayer(store, time.perf_counter, self._metrics.store_operation)

    async def _listen(self) -> None:
        settings = self._settings
        check_free(settings.listen)
        self._listen_for_scrapers()
        server = grpc.aio.server(options=server_options(max_concurrent_streams=settings.max_streams_per_connection))
        for handlers in (
            PagesHandlers(self._service),
            self._exchange,
            PoolsHandlers(self._service),
            CapabilitiesHandlers(self._service),
        ):
            server.add_generic_rpc_handlers((handlers.handler(),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            _add_reflection(server)
        try:
            port = server.add_insecure_port(settings.listen)
        except RuntimeError as error:
            self._close_metrics()
            raise AddressInUseError(f"can't listen on {settings.listen}: {error}") from error
        if settings.listen.startswith("unix:"):
            self.target = settings.listen
        else:
            self.target = f"{settings.listen.rpartition(':')[0]}:{port}"
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        self._server = server

    def _listen_for_scrapers(self) -> None:
        address = self._settings.metrics_listen
        if address == "none":
            return
        check_free(address)
        try:
            self._metrics_server = MetricsServer(address, self._metrics.registry)
        except OSError as error:
            raise AddressInUseError(f"can't listen on {address}: {error.strerror}") from error
        self.metrics_address = self._metrics_server.address

    def _close_metrics(self) -> None:
        if self._metrics_server is not None:
            self._metrics_server.close()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        await self._health.set("", status)
        for name in _SERVICES:
            await self._health.set(f"tmem.v1.{name}", status)

    # ---- Running ----

    async def _keep_up(self) -> None:
        """Once a second: how busy, who is silent, what has expired, what the store has left to do."""
        settings = self._settings
        interval = min(
            _UPKEEP_SECONDS, settings.session_timeout_seconds / 4, settings.stalled_reader_timeout_seconds / 4
        )
        service = self._service
        wall, busy = time.monotonic(), time.thread_time()
        kept = False  # what was freed since memory was last given back
        batches = 0
        more = False  # to do for the store at once
        while True:
            await asyncio.sleep(_STEP_PAUSE_SECONDS if more else interval)
            now, used = time.monotonic(), time.thread_time()
            service.load_permille = min(1000, int(1000 * (used - busy) / max(now - wall, 1e-6)))
            wall, busy = now, used
            try:
                self._quiet = service.engine.batches - batches < _BUSY_BATCHES * interval
                batches = service.engine.batches
                if not self._quiet:
                    kept = True
                elif kept:
                    kept = False
                    await asyncio.get_running_loop().run_in_executor(None, give_back_freed)
                self._exchange.watch()
                for pool in service.lifecycle.expire(service.clock()):
                    log.info("pool.expired", pool=pool.name, tenant=pool.owner)
                self._cleaning = more = True
                # Under steady overwriting there is always a next step; the others here have their turn all the same.
                while service.lifecycle.step() or service.engine.store.step():
                    # Not 0: an answer takes several turns of the loop, and would wait for a step in each of them.
                    await asyncio.sleep(_STEP_PAUSE_SECONDS)
                    if time.monotonic() - now > interval:
                        break
                else:
                    self._cleaning = more = False
            except Exception:
                self._cleaning = more = False
                log.exception("daemon.upkeep_failed")

    def _is_idle(self) -> bool:
        """Whether there is time for what nobody waits for."""
        return self._quiet and not self._cleaning

    def _weigh_pools(self, table: PoolTable) -> None:
        for pool in table:
            tenant = self._tenants.by_name.get(pool.policy.tenant)
            pool.policy.tenant_weight = tenant.weight if tenant else 0

    def learn_shards(self, targets: list[str]) -> None:
        """Notes where the shards of this server are, of which it is one."""
        own = int(self._settings.shard.partition("/")[0])
        self._service.shards = [target if number != own else "" for number, target in enumerate(targets)]

    def reload(self) -> None:
        """Reads the token file again; a bad one is reported and changes nothing."""
        if self._upkeep is None:
            log.info("daemon.reload", hint="the token file is being read just now")
            return
        path = self._settings.tokens
        if path is None:
            log.info("daemon.reload", hint="there is no token file to read again")
            return
        try:
            tenants = Tenants.load(Path(path), shards=self._shard_count)
        except ValueError as error:
            log.error("daemon.reload_failed", error=str(error))
            return
        self._tenants = self._service.tenants = tenants
        self._quotas.clear()
        self._quotas.update(tenants.quotas())
        self._weigh_pools(self._service.lifecycle.table)
        self._exchange.remove_strangers()
        self._warn_of_open_tokens()
        log.info("daemon.reloaded", tenants=len(tenants.by_name))

    # ---- Ending ----

    async def drain(self) -> None:
        """Goes away gracefully: at most drain_timeout_seconds until every stream has ended."""
        grace = self._settings.drain_timeout_seconds
        log.info("daemon.draining", streams=len(self._exchange.streams), seconds=grace)
        notify(STOPPING="1", STATUS="draining")
        self._service.closing = True
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._exchange.drain(grace)
        self._service.engine.draining = True
        await self._exchange.emptied(grace)
        if self._exchange.streams:
            log.warning("daemon.cutting", streams=len(self._exchange.streams))

    async def stop(self) -> None:
        """Stops serving; open streams are cut."""
        tasks = [task for task in (self._recompression, self._upkeep) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.stop(0.2)
        if self._metrics_server is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._close_metrics)
        if self._journal is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._journal.close)
        self._service.engine.store.close()
        if self._scratch is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._scratch.close)
        if self.target.startswith("unix:"):
            Path(self.target.removeprefix("unix:")).unlink(missing_ok=True)  # noqa: ASYNC240  nothing is served any more
        if self._upkeep is not None:
            log.info("daemon.stopped")


def _add_reflection(server: grpc.aio.Server) -> None:
    # Imported on demand: it needs the descriptors of everything, and is off by default.
    from grpc_reflection.v1alpha import reflection

    from tmem.v1 import capabilities_pb2, extents_pb2, pages_pb2, pools_pb2

    modules = (capabilities_pb2, extents_pb2, pages_pb2, pools_pb2)
    names = [service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
