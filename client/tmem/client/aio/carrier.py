"""What client, pools and batches ask of whatever carries their messages.

Owns: `Carrier`. The stream over gRPC's channel (stream.py) is one; another transport is another, and the rest of a face does
not know the difference.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tmem.client._core.operations import Operation
from tmem.client._core.session import SessionCore

__all__ = ["Carrier"]


class Carrier(Protocol):
    """Carries operations and calls to the server, and answers back.

    Attributes:
        core: the session; use it under `lock`.
    """

    core: SessionCore

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """What guards the session."""
        ...

    async def run(self, operation: Operation, timeout: float) -> None:
        """Carries out an operation; raises what it failed with."""
        ...

    async def submit(self, operation: Operation, deadline: float) -> None:
        """Sends an operation as soon as there is credit for it and its handles are free."""
        ...

    async def wait(self, operation: Operation, deadline: float) -> None:
        """Waits until an operation is done; raises what it failed with."""
        ...

    async def until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Waits until `ready` says so; raises as `submit` does."""
        ...

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends what the core asked for; under the lock."""
        ...

    def fail(self, operations: Iterable[Operation]) -> None:
        """Wakes whoever waits for operations that the core has failed; under the lock."""
        ...

    async def call(self, path: str, data: bytes, timeout: float) -> bytes:
        """Carries out a call of bytes to bytes; raises what its status says."""
        ...

    def call_streaming(self, path: str, data: bytes, timeout: float | None) -> AsyncIterator[bytes]:
        """Carries out a call that answers many messages; raises what its status says."""
        ...

    async def close(self) -> None:
        """Says goodbye. Takes a bounded time."""
        ...
