"""Where checks are carried out: a server that was named, or daemons of the kit's own.

Owns: `Endpoint`, what a whole run shares; `Stage`, what one check may use; and that nothing that a check made outlives it: pools, clients,
daemons, directories. Against a server that was named a check touches nothing but pools of the kit's own names; whatever needs more (a
second tenant, a restart, a fault, a full memory) can't run there, and says so.
"""

import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

import tmem.client
from tmem.cli.scrape import scrape
from tmem.client import Client, Pool
from tmem.client.testing import CaptiveDaemon
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES
from tmem.wire.results import Code

from .expect import CannotRun, Seen, Violation, same
from .faces import Connect
from .plain import Plain, ref_of

__all__ = ["PREFIX", "Endpoint", "Own", "Stage", "fetch"]

PREFIX = "conformance"
"""What the names of all pools that the kit makes begin with."""

_TENANTS = ("first", "second", "third")
_OWNS_KEPT = 3


def token_of(tenant: str) -> str:
    """The token of a tenant of the kit's own daemons."""
    return f"{PREFIX}-token-of-{tenant}"


class Endpoint:
    """What a run is held against. Use it in a `with` statement.

    Args:
        target: a server; None = daemons of the kit's own.
        token: the tenant's, for a server that was named. second_token: of another tenant of it, if there is one.
        metrics_url: that server's metrics, if they can be had.
        flags: of every daemon that the kit starts, such as another store's.
        connect: makes clients.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: str | None = None,
        second_token: str | None = None,
        metrics_url: str | None = None,
        flags: Sequence[str] = (),
        connect: Connect = tmem.client.connect,
    ) -> None:
        self.named = target is not None
        self.connect = connect
        self.run = secrets.token_hex(4)
        self._flags = tuple(flags)
        self._target = target
        self._tokens = {"first": token, "second": second_token}
        self._metrics_url = metrics_url
        self._names = 0
        self._stack = ExitStack()
        self._shared: CaptiveDaemon | None = None
        self._idle: dict[tuple[str, ...], CaptiveDaemon] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.named:
                self.sweep()
        finally:
            self._stack.close()

    @property
    def target(self) -> str:
        """The server that checks share."""
        if self._target is not None:
            return self._target
        return self._daemon().target

    @property
    def metrics_url(self) -> str | None:
        """Its metrics."""
        return self._metrics_url if self.named else self._daemon().metrics_url

    def token(self, tenant: str) -> str | None:
        """What a tenant shows to it; raises CannotRun if there is no such tenant."""
        if not self.named:
            return token_of(tenant)
        if tenant != "first" and self._tokens.get(tenant) is None:
            raise CannotRun("this needs a second tenant: give --second-token-file, or run without --target")
        return self._tokens[tenant]

    def name(self, number: int) -> str:
        """A name that no other pool has."""
        self._names += 1
        return f"{PREFIX}-{self.run}-{number}-{self._names}"

    # ---- Daemons ----

    def _daemon(self) -> CaptiveDaemon:
        if self._shared is None:
            self._shared = self.start(["--tokens", str(self.tokens_file())])
        return self._shared

    def tokens_file(self, weights: Mapping[str, int] | None = None) -> Path:
        """A file of three tenants."""
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tmem-conformance-")))
        path = directory / "tokens.toml"
        path.touch(0o600)
        path.write_text(
            "".join(
                f'[tenants.{name}]\ntokens = ["{token_of(name)}"]\nweight = {(weights or {}).get(name, 0)}\n'
                for name in _TENANTS
            ),
            "utf-8",
        )
        return path

    def start(self, flags: Sequence[str], listen: str = "127.0.0.1:0") -> CaptiveDaemon:
        """Another daemon; it ends with the run at the latest."""
        if find_spec("tmem.server") is None or find_spec("pydantic") is None:
            raise CannotRun("this needs the server: pip install 'tmem[cli,server]'")
        daemon = CaptiveDaemon(*flags, *self._flags, listen=listen)
        self._stack.callback(daemon.close)
        return daemon

    def borrow(self, flags: tuple[str, ...]) -> CaptiveDaemon:
        """A daemon of these flags, which may have been another check's before."""
        daemon = self._idle.pop(flags, None)
        return daemon if daemon is not None and daemon.process.poll() is None else self.start(flags)

    def give_back(self, flags: tuple[str, ...], daemon: CaptiveDaemon) -> None:
        """A daemon that is empty again."""
        while len(self._idle) >= _OWNS_KEPT:
            self._idle.pop(next(iter(self._idle))).close()
        self._idle[flags] = daemon

    # ---- The end ----

    def sweep(self) -> None:
        """Ends pools that checks of this run left on a server that was named, such as after a check that hung."""
        for tenant, token in self._tokens.items():
            if tenant != "first" and token is None:
                continue
            with suppress(TmemError), tmem.client.connect(self.target, token=token) as client:
                for pool in client.pools():
                    if pool.name.startswith(f"{PREFIX}-{self.run}-"):
                        with suppress(TmemError):
                            client.destroy_parked(pool.pool_id)


class Own:
    """A daemon that one check may do to as it likes.

    Attributes:
        daemon: of the moment. flags: what it was started with.
    """

    def __init__(self, stage: "Stage", daemon: CaptiveDaemon, flags: tuple[str, ...]) -> None:
        self._stage = stage
        self.daemon = daemon
        self.flags = flags
        self.spoilt = False

    @property
    def target(self) -> str:
        """Where clients reach it."""
        return self.daemon.target

    def client(self, tenant: str | None = None, **options: Any) -> Client:
        """A client of it."""
        return self._stage.connect(self.target, token=None if tenant is None else token_of(tenant), **options)

    def pool(self, kind: str = "persistent", client: Client | None = None, **options: Any) -> Pool:
        """A pool on it."""
        return self._stage.pool(kind, client=client or self.client(), **options)

    def samples(self) -> dict[str, float]:
        """What its metrics say now."""
        return scrape(self.daemon.metrics_url)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; it is nobody else's from now on."""
        self.spoilt = True
        self.daemon.signal(number)

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.spoilt = True
        self.daemon.kill()

    def restart(self, *flags: str) -> None:
        """Starts another one in its place, at the same address; with other flags if any are given."""
        self.spoilt = True
        if self.daemon.process.poll() is None:
            self.daemon.kill()
        self.daemon = self._stage.endpoint.start(flags or self.flags, listen=self.target)


class Stage:
    """What one check may use; everything that it makes goes with it.

    Args:
        endpoint: of the run.
        number: of the statement.
    """

    def __init__(self, endpoint: Endpoint, number: int) -> None:
        self.endpoint = endpoint
        self._number = number
        self._stack = ExitStack()
        self._clients: dict[str, Client] = {}
        self._homes: dict[int, Client] = {}  # by the id of a pool: who made it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # ---- The endpoint ----

    @property
    def first(self) -> Client:
        """A client of the tenant that the run is for."""
        return self.client_of("first")

    @property
    def second(self) -> Client:
        """A client of another tenant; raises CannotRun if there is none."""
        return self.client_of("second")

    def client_of(self, tenant: str) -> Client:
        """A tenant's client, the same each time."""
        if tenant not in self._clients:
            self._clients[tenant] = self.another(tenant)
        return self._clients[tenant]

    def another(self, tenant: str = "first", **options: Any) -> Client:
        """One more client of a tenant."""
        return self.connect(self.endpoint.target, token=self.endpoint.token(tenant), **options)

    def connect(self, target: str, **options: Any) -> Client:
        """A client of any server."""
        return self._stack.enter_context(self.endpoint.connect(target, name=PREFIX, **options))

    def plain(self, tenant: str = "first") -> Plain:
        """A stranger's client of the endpoint."""
        return self._stack.enter_context(Plain(self.endpoint.target, self.endpoint.token(tenant)))

    def plain_at(self, own: Own, tenant: str | None = None) -> Plain:
        """A stranger's client of a daemon of one's own."""
        return self._stack.enter_context(Plain(own.target, None if tenant is None else token_of(tenant)))

    def samples(self) -> dict[str, float]:
        """What the endpoint's metrics say now; raises CannotRun if they can't be had."""
        url = self.endpoint.metrics_url
        if url is None:
            raise CannotRun("this needs the server's metrics: give --metrics-url, or run without --target")
        return scrape(url)

    # ---- Pools ----

    def name(self) -> str:
        """A name for a pool."""
        return self.endpoint.name(self._number)

    def pool(self, kind: str = "persistent", *, client: Client | None = None, **options: Any) -> Pool:
        """A pool of the kit's own name."""
        maker = client or self.first
        made = maker.create_pool(options.pop("name", None) or self.name(), kind=kind, **options)
        self._stack.callback(_destroy, made)
        self._homes[id(made)] = maker
        return made

    def plain_pool(self, plain: Plain, **fields: Any) -> PoolRef:
        """The same by the stubs alone."""
        ref = plain.create_pool(self.name(), **fields)
        self._stack.callback(_destroy_plain, plain, ref)
        return ref

    def held(self, pool: Pool, obj: int, index: int) -> Seen:
        """What the server itself holds, past the client's own knowledge."""
        home = self._homes[id(pool)]
        with Plain(home.target, home.options.token) as plain:
            return plain.look(ref_of(pool), obj, index)

    # ---- Daemons of one's own ----

    def own(self, *flags: str, tenants: Mapping[str, int] | bool = False, fresh: bool = False) -> Own:
        """A daemon of the check's own; raises CannotRun against a server that was named.

        Args:
            flags: of tmemd.
            tenants: it has tenants, with these weights if any.
            fresh: no other check has used it, as its counters or its start matter.
        """
        if self.endpoint.named:
            raise CannotRun("this needs a daemon that it can fill, break or restart: run without --target")
        if tenants:
            weights = tenants if isinstance(tenants, Mapping) else None
            flags = (*flags, "--tokens", str(self.endpoint.tokens_file(weights)))
            fresh = True
        daemon = self.endpoint.start(flags) if fresh else self.endpoint.borrow(flags)
        own = Own(self, daemon, flags)

        def end() -> None:
            if own.spoilt or fresh:
                own.daemon.close()
            else:
                self.endpoint.give_back(flags, own.daemon)

        self._stack.callback(end)
        return own

    def directory(self) -> Path:
        """A directory that goes with the check."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tmem-conformance-")))

    @contextmanager
    def stopped(self, own: Own) -> Iterator[None]:
        """A daemon that hangs, for as long as the block takes."""
        own.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            own.signal(signal.SIGCONT)

    def at_end(self, callback: Callable[[], object]) -> None:
        """Calls back when the check is over, however it ends."""
        self._stack.callback(callback)


def _destroy(pool: Pool) -> None:
    with suppress(TmemError):
        pool.destroy()


def _destroy_plain(plain: Plain, ref: PoolRef) -> None:
    with suppress(grpc.RpcError):
        plain.destroy_pool(ref)


def fetch(pool: Pool, obj: int, index: int, pages: int = 1, *, take: bool | None = None) -> list[Seen]:
    """What a get answers for each page; what was not hit must be untouched in the buffer."""
    blank = b"\xee" * PAGE_BYTES
    buffer = bytearray(blank * pages)
    result = pool.get_into(obj, index, buffer, take)
    same(len(result.pages), pages, "pages answered")
    seen: list[Seen] = []
    for number, code in enumerate(result.pages):
        plain = bytes(buffer[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])
        if code == Code.HIT:
            seen.append(plain)
            continue
        if plain != (bytes(PAGE_BYTES) if code == Code.CORRUPT else blank):
            raise Violation(f"page {index + number} is {code.name}, and the buffer holds bytes for it")
        seen.append(code)
    return seen
