"""`connect`, which can be awaited or entered."""

from collections.abc import Generator
from types import TracebackType
from typing import Any

from .client import Client, open_client

__all__ = ["Connecting", "connect"]


class Connecting:
    """A connection to be: `client = await connect(...)` or `async with connect(...) as client`."""

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        self._target = target
        self._options = options
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return open_client(self._target, **self._options).__await__()

    async def __aenter__(self) -> Client:
        self._client = await open_client(self._target, **self._options)
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._client is not None
        await self._client.close()


def connect(target: str, **options: Any) -> Connecting:
    """Connects to a tmem server; arguments and errors as in tmem.client.connect."""
    return Connecting(target, options)
