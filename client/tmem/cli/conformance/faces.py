"""The faces of the client that the kit can use: the blocking one, and the agents' link.

A link belongs to one thread at a time, and some checks have several: here they take turns.
"""

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Self

import tmem.client
from tmem.client import Client

from .expect import CannotRun

__all__ = ["FACES", "Connect"]

Connect = Callable[..., Client]
"""Makes a client: tmem.client.connect, or another face of the same names."""


class _Turns:
    """An object of a link, used by one thread after the other."""

    def __init__(self, wrapped: Any, lock: threading.RLock) -> None:
        self._wrapped = wrapped
        self._lock = lock

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                return self._mine(value(*arguments, **options))

        return call

    def __enter__(self) -> Self:
        with self._lock:
            self._wrapped.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        with self._lock:
            return self._wrapped.__exit__(*error)

    def _mine(self, value: Any) -> Any:
        if isinstance(value, self._kinds()):
            return _Turns(value, self._lock)
        return value

    @staticmethod
    def _kinds() -> tuple[type, ...]:
        from tmem.client import link

        return (link.Batch, link.Client, link.Pool)


def _connect_link(target: str, **options: Any) -> Client:
    if find_spec("hpack") is None:
        raise CannotRun("the link needs an extra: pip install 'tmem[agents]'")
    from tmem.client import link

    client: Any = _Turns(link.connect(target, **options), threading.RLock())
    return client  # type: ignore[no-any-return]


FACES: dict[str, Connect] = {"blocking": tmem.client.connect, "link": _connect_link}
