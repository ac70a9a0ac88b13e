"""Every face of the client under one set of tests: the asyncio one is driven from blocking code, call by call."""

import asyncio
import inspect
import select
import time
from collections.abc import Callable
from typing import Any

import tmem.client
import tmem.client.aio
import tmem.client.link

__all__ = ["FACES", "Face", "drive"]

_WRAPPED = (tmem.client.aio.Client, tmem.client.aio.Pool, tmem.client.aio.Batch)


class Face:
    """Connects, in one way or the other; `finish` waits for what a result's method may have returned."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.new_event_loop() if name == "aio" else None
        self._clients: list[Any] = []

    def connect(self, target: str, **options: Any) -> Any:
        if self._loop is None:
            connect = tmem.client.link.connect if self.name == "link" else tmem.client.connect
            client = connect(target, **options)
            self._clients.append(client)
            return client
        return _Driven(self._loop.run_until_complete(_connect(target, options)), self.finish)

    def finish(self, value: Any) -> Any:
        if self._loop is not None and inspect.isawaitable(value):
            value = self._loop.run_until_complete(_await(value))
        if self._loop is not None and isinstance(value, _WRAPPED):
            return _Driven(value, self.finish)
        return value

    def idle(self, seconds: float) -> None:
        """Lets the face's own work go on for a while: a loop, and a link, run only inside calls."""
        if self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(seconds))
        elif self.name == "link":
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                for client in self._clients:
                    drive(client, left / len(self._clients))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


FACES = ("sync", "aio", "link")


def drive(link: Any, seconds: float) -> None:
    """One turn of a loop around a link: waits for its descriptor and its timer, at most so long, and pumps it."""
    timer = link.next_timer()
    if timer is not None:
        seconds = min(seconds, max(0.0, timer - time.monotonic()))
    poll = select.poll()
    if link.fileno() >= 0:
        poll.register(link, select.POLLIN | (select.POLLOUT if link.wants_write else 0))
    poll.poll(seconds * 1000)
    link.pump()


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
