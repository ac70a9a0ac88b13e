"""Both faces of the client under one set of tests: the asyncio one is driven from blocking code, call by call."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import tmem.client
import tmem.client.aio

__all__ = ["FACES", "Face"]

_WRAPPED = (tmem.client.aio.Client, tmem.client.aio.Pool, tmem.client.aio.Batch)


class Face:
    """Connects, in one way or the other; `finish` waits for what a result's method may have returned."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.new_event_loop() if name == "aio" else None

    def connect(self, target: str, **options: Any) -> Any:
        if self._loop is None:
            return tmem.client.connect(target, **options)
        return _Driven(self._loop.run_until_complete(_connect(target, options)), self.finish)

    def finish(self, value: Any) -> Any:
        if self._loop is not None and inspect.isawaitable(value):
            value = self._loop.run_until_complete(_await(value))
        if self._loop is not None and isinstance(value, _WRAPPED):
            return _Driven(value, self.finish)
        return value

    def idle(self, seconds: float) -> None:
        """Lets the face's own work go on for a while: its loop runs only inside calls."""
        if self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(seconds))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


FACES = ("sync", "aio")


async def _connect(target: str, options: dict[str, Any]) -> Any:
    return await tmem.client.aio.connect(target, **options)


async def _await(value: Any) -> Any:
    return await value


class _Driven:
    """An object of the asyncio face whose methods block."""

    def __init__(self, wrapped: Any, finish: Callable[[Any], Any]) -> None:
        self._wrapped = wrapped
        self._finish = finish

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not callable(value):
            return value
        return lambda *arguments, **options: self._finish(value(*arguments, **options))

    def __enter__(self) -> Any:
        return self._finish(self._wrapped.__aenter__())

    def __exit__(self, *error: object) -> Any:
        return self._finish(self._wrapped.__aexit__(*error))
