"""What all handlers share: who is calling, and one way in and out of every unary call.

Owns: `Service`, the parts of the daemon that handlers use, and `unary`, which wraps a plain function from bytes to bytes
with authentication, time, metrics and errors, in that order.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from tmem.server.config import Settings
from tmem.server.observe.metrics import Metrics
from tmem.server.store.engine import Engine
from tmem.server.store.lifecycle import Lifecycle
from tmem.server.store.pending import Pending
from tmem.server.tenants import Tenant, Tenants
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import ProtocolError, Recovering, Refused, Unauthenticated
from tmem.wire.metadata import AUTHORIZATION

from .sessions import SessionTable
from .status import status_of

__all__ = ["Context", "Service", "UnaryFunction", "settled", "streaming", "unary"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
Context = Any  # grpc.aio.ServicerContext is generic over types that raw-bytes handlers do not have

_RAW_BYTES = None  # as (de)serializer: the handler takes and gives bytes


@dataclass(slots=True)
class Service:
    """The parts of the daemon that handlers use.

    Attributes:
        instance_id: random, made at start.
        load_permille: share of the loop's time in use, kept by the daemon.
        closing: no new session any more.
        recovering: the journal is being read; what is asked of pools is answered so.
        shards: where the server's shards are, this one's own place empty; None while that is not known.
    """

    settings: Settings
    tenants: Tenants
    engine: Engine
    lifecycle: Lifecycle
    sessions: SessionTable
    metrics: Metrics
    copies: CopyCounter
    instance_id: bytes
    version: str
    load_permille: int = 0
    closing: bool = False
    recovering: bool = False
    shards: list[str] | None = field(default_factory=lambda: [""])
    clock: Callable[[], float] = field(default=time.monotonic)

    def demand_pools(self) -> None:
        """Raises Recovering while pools and pages of the last run are not all there."""
        if self.recovering:
            raise Recovering("the server is reading its journal: ask again")

    def authenticate(self, context: Context) -> Tenant:
        """The caller's tenant; raises Unauthenticated."""
        if self.tenants.open:
            return self.tenants.authenticate(None)
        for key, value in context.invocation_metadata() or ():
            if key == AUTHORIZATION:
                return self.tenants.authenticate(value)
        return self.tenants.authenticate(None)


UnaryFunction = Callable[[Tenant, bytes], bytes | Awaitable[bytes]]


async def settled(result: T | Pending[T]) -> T:
    """The result, once it is there."""
    if not isinstance(result, Pending):
        return result
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def settle(value: T) -> None:
        if not future.done():  # the caller may have gone
            future.set_result(value)

    result.when_settled(settle)
    return await future


def unary(service: Service, method: str, function: UnaryFunction, *, of_pools: bool = False) -> Any:
    """The handler of a unary call; one that is `of_pools` is refused while the server recovers."""
    observe = service.metrics.rpc(method)

    async def handle(data: bytes, context: Context) -> bytes:
        begun = time.perf_counter()
        try:
            tenant = service.authenticate(context)
            if of_pools:
                service.demand_pools()
            answer = function(tenant, data)
            if not isinstance(answer, bytes):
                answer = await answer
        except asyncio.CancelledError:
            observe(grpc.StatusCode.CANCELLED.name, time.perf_counter() - begun)
            raise
        except Exception as error:
            await _abort(service, method, context, error, lambda code: observe(code, time.perf_counter() - begun))
            raise
        observe(grpc.StatusCode.OK.name, time.perf_counter() - begun)
        return answer

    return grpc.unary_unary_rpc_method_handler(handle, _RAW_BYTES, _RAW_BYTES)


def streaming(service: Service, method: str, function: Callable[[Tenant, bytes], AsyncIterator[bytes]]) -> Any:
    """The handler of a call about pools that answers many messages to one."""
    observe = service.metrics.rpc(method)

    async def handle(data: bytes, context: Context) -> None:
        begun = time.perf_counter()
        try:
            tenant = service.authenticate(context)
            service.demand_pools()
            async for answer in function(tenant, data):
                await context.write(answer)
        except asyncio.CancelledError:
            observe(grpc.StatusCode.CANCELLED.name, time.perf_counter() - begun)
            raise
        except Exception as error:
            await _abort(service, method, context, error, lambda code: observe(code, time.perf_counter() - begun))
            raise
        observe(grpc.StatusCode.OK.name, time.perf_counter() - begun)

    return grpc.unary_stream_rpc_method_handler(handle, _RAW_BYTES, _RAW_BYTES)


async def _abort(
    service: Service, method: str, context: Context, error: Exception, observe: Callable[[str], None]
) -> None:
    """Ends a call with the status of an exception, counted before it leaves: whoever has the answer finds it counted."""
    code, details, trailing = status_of(error)
    _note(service, method, error)
    observe(code.name)
    context.set_trailing_metadata(trailing)
    await context.abort(code, details)


def _note(service: Service, method: str, error: Exception) -> None:
    """Counts and logs a failed call."""
    if isinstance(error, ProtocolError):
        service.metrics.malformed("unary")
        log.warning("rpc.malformed", method=method, error=str(error))
    elif isinstance(error, Refused | Unauthenticated):
        log.info("rpc.refused", method=method, error=str(error))
    else:
        log.error("rpc.failed", method=method, exc_info=error)
