"""Results that come later.

Owns: `Pending`, a one-shot promise that knows no event loop. A store answers at once where it can and with a Pending where
it has to wait for a disk or a replica; whoever settles it does so on the thread that owns the store.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Pending", "then"]

T = TypeVar("T")
U = TypeVar("U")

_UNSET = object()


class Pending(Generic[T]):
    """A result to come. `settle` is called once; callbacks run in order of registration, at once if it is settled."""

    __slots__ = ("_callbacks", "_value")

    def __init__(self) -> None:
        self._value: T | object = _UNSET
        self._callbacks: list[Callable[[T], None]] = []

    def settle(self, value: T) -> None:
        """Gives the result."""
        assert self._value is _UNSET, "a Pending is settled once"
        self._value = value
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(value)

    def when_settled(self, callback: Callable[[T], None]) -> None:
        """Calls back with the result, now or later."""
        if self._value is _UNSET:
            self._callbacks.append(callback)
        else:
            callback(self._value)  # type: ignore[arg-type]


def then(result: T | Pending[T], function: Callable[[T], U]) -> U | Pending[U]:
    """`function` of a result, now if it is there, else when it comes."""
    if not isinstance(result, Pending):
        return function(result)
    later: Pending[U] = Pending()
    result.when_settled(lambda value: later.settle(function(value)))
    return later
