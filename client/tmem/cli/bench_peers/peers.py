"""memcached, Redis and Valkey behind the same interface, each by its own client library.

Owns: which calls of each library store and fetch many values; where there are two ways, both are tried in the first rounds and the faster one is kept. What is
done with each page is in `units`. Every put is one that the server has confirmed.

A key is as short as text can be: a prefix of one or two letters for each client, a letter for the size of the unit, and its number in hexadecimal.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from tmem.wire.limits import PAGE_BYTES

from .stores import Batches, Store
from .units import pack, unpack

__all__ = ["PEERS", "Peer"]

_TIMEOUT_SECONDS = 60
_HOST = "127.0.0.1"
# Of each way to do it, before one is chosen.
_TRIALS = 7
_TRIED_BYTES = 2048  # for each page

SetMany = Callable[[dict[Any, bytes]], None]
GetMany = Callable[[list[Any]], Sequence[bytes | None]]


class Peer(Store):
    """A server that holds values by keys.

    Args:
        port: the server's.
        prefix: of all keys; no other client has it.

    Attributes:
        chosen: which call is used for many values: by what is done, and in units of how many pages.
    """

    module = ""
    server = ""

    def __init__(self, port: int, prefix: str) -> None:
        super().__init__()
        self._connect(port)
        self._prefix = prefix
        self.chosen: dict[str, str] = {}
        self._sets = self._ways_to_set()
        self._gets = self._ways_to_get()
        self._page_key = self._key_form(1)
        self._set_many: dict[int, SetMany] = {}
        self._get_many: dict[int, GetMany] = {}

    def _connect(self, port: int) -> None:
        raise NotImplementedError

    def _ways_to_set(self) -> dict[str, SetMany]:
        raise NotImplementedError

    def _ways_to_get(self) -> dict[str, GetMany]:
        raise NotImplementedError

    def _get_one(self, key: Any) -> bytes | None:
        raise NotImplementedError

    def put(self, batches: Batches, unit: int) -> None:
        size = unit * PAGE_BYTES
        key = self._key_form(unit)
        set_many = self._set_many.get(unit) or self._choose_set(unit)
        for first, view in batches:
            number = first // unit
            values = {}
            for at in range(0, len(view), size):
                values[key % number] = pack(view[at : at + size])
                number += 1
            set_many(values)

    def get(self, batches: Batches, unit: int) -> None:
        size = unit * PAGE_BYTES
        key = self._key_form(unit)
        get_many = self._get_many.get(unit) or self._choose_get(unit)
        for first, view in batches:
            number = first // unit
            keys = [key % each for each in range(number, number + len(view) // size)]
            at = 0
            for value in get_many(keys):
                if value is None or not unpack(value, view[at : at + size]):
                    self.bad += unit
                at += size

    def get_page(self, page: int, into: memoryview) -> None:
        value = self._get_one(self._page_key % page)
        if value is None or not unpack(value, into):
            self.bad += 1

    def _key_form(self, unit: int) -> bytes:
        return f"{self._prefix}{'p' if unit == 1 else 'u'}%x".encode()

    # ---- Which call ----

    def _choose_set(self, unit: int) -> SetMany:
        # Other keys than any page's.
        sample = bytes(_TRIED_BYTES * unit)
        values = dict.fromkeys(self._trial_keys(unit), sample)
        name = _faster({name: lambda call=call: call(values) for name, call in self._sets.items()})  # type: ignore[misc]
        self.chosen[f"put in units of {unit}"] = name
        self._set_many[unit] = self._sets[name]
        return self._sets[name]

    def _choose_get(self, unit: int) -> GetMany:
        keys = self._trial_keys(unit)
        name = _faster({name: lambda call=call: call(keys) for name, call in self._gets.items()})  # type: ignore[misc]
        self.chosen[f"get in units of {unit}"] = name
        self._get_many[unit] = self._gets[name]
        return self._gets[name]

    def _trial_keys(self, unit: int) -> list[Any]:
        return [f"{self._prefix}t{number}".encode() for number in range(512 // unit)]


def _faster(ways: dict[str, Callable[[], Any]]) -> str:
    """Which of several ways takes least time at its best."""
    least: dict[str, float] = {}
    for _ in range(_TRIALS):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            least[name] = min(time.perf_counter() - begun, least.get(name, float("inf")))
    return min(least, key=lambda name: least[name])


class RedisPy(Peer):
    """redis-py, with hiredis."""

    module = "redis"
    server = "redis"

    def _connect(self, port: int) -> None:
        import redis  # each library is loaded in the process that drives it

        self._client: Any = redis.Redis(_HOST, port, socket_timeout=_TIMEOUT_SECONDS)

    def _ways_to_set(self) -> dict[str, SetMany]:
        return {"MSET": self._client.mset, "a pipeline of SET": self._set_pipeline}

    def _ways_to_get(self) -> dict[str, GetMany]:
        return {"MGET": self._client.mget, "a pipeline of GET": self._get_pipeline}

    def _set_pipeline(self, values: dict[Any, bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(key, value)
        pipeline.execute()

    def _get_pipeline(self, keys: list[Any]) -> Sequence[bytes | None]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        values: list[bytes | None] = pipeline.execute()
        return values

    def _get_one(self, key: Any) -> bytes | None:
        value: bytes | None = self._client.get(key)
        return value

    def close(self) -> None:
        self._client.close()


class RedisPyOnValkey(RedisPy):
    """The same library on Valkey."""

    server = "valkey"


class Glide(Peer):
    """valkey-glide, by its blocking client."""

    module = "glide_sync"
    server = "valkey"

    def _connect(self, port: int) -> None:
        import glide_sync

        configuration = glide_sync.GlideClientConfiguration(
            [glide_sync.NodeAddress(_HOST, port)], request_timeout=_TIMEOUT_SECONDS * 1000
        )
        self._client: Any = glide_sync.GlideClient.create(configuration)
        self._batch = glide_sync.Batch

    def _ways_to_set(self) -> dict[str, SetMany]:
        return {"MSET": self._client.mset, "a batch of SET": self._set_batch}

    def _ways_to_get(self) -> dict[str, GetMany]:
        return {"MGET": self._client.mget, "a batch of GET": self._get_batch}

    def _set_batch(self, values: dict[Any, bytes]) -> None:
        batch = self._batch(is_atomic=False)
        for key, value in values.items():
            batch.set(key, value)
        self._client.exec(batch, raise_on_error=True)

    def _get_batch(self, keys: list[Any]) -> Sequence[bytes | None]:
        batch = self._batch(is_atomic=False)
        for key in keys:
            batch.get(key)
        values: list[bytes | None] = self._client.exec(batch, raise_on_error=True)
        return values

    def _get_one(self, key: Any) -> bytes | None:
        value: bytes | None = self._client.get(key)
        return value

    def close(self) -> None:
        self._client.close()


class Pylibmc(Peer):
    """pylibmc, which is libmemcached, by the text and by the binary protocol."""

    module = "pylibmc"
    server = "memcached"

    def _connect(self, port: int) -> None:
        import pylibmc

        behaviors = {"tcp_nodelay": True}
        address = [f"{_HOST}:{port}"]
        self._text: Any = pylibmc.Client(address, behaviors=behaviors)
        self._binary: Any = pylibmc.Client(address, binary=True, behaviors=behaviors)

    def _ways_to_set(self) -> dict[str, SetMany]:
        return {
            "set_multi": lambda values: _all_set(self._text.set_multi(values)),
            "set_multi, binary protocol": lambda values: _all_set(self._binary.set_multi(values)),
        }

    def _ways_to_get(self) -> dict[str, GetMany]:
        return {
            "get_multi": lambda keys: list(map(self._text.get_multi(keys).get, keys)),
            "get_multi, binary protocol": lambda keys: list(map(self._binary.get_multi(keys).get, keys)),
        }

    def _get_one(self, key: Any) -> bytes | None:
        value: bytes | None = self._text.get(key)
        return value

    def close(self) -> None:
        self._text.disconnect_all()
        self._binary.disconnect_all()


class Pymemcache(Peer):
    """pymemcache."""

    module = "pymemcache"
    server = "memcached"

    def _connect(self, port: int) -> None:
        import pymemcache

        self._client: Any = pymemcache.Client((_HOST, port), no_delay=True, timeout=_TIMEOUT_SECONDS)

    def _ways_to_set(self) -> dict[str, SetMany]:
        return {"set_many": lambda values: _all_set(self._client.set_many(values, noreply=False))}

    def _ways_to_get(self) -> dict[str, GetMany]:
        return {"get_many": lambda keys: list(map(self._client.get_many(keys).get, keys))}

    def _get_one(self, key: Any) -> bytes | None:
        value: bytes | None = self._client.get(key)
        return value

    def close(self) -> None:
        self._client.close()


def _all_set(failed: Sequence[Any]) -> None:
    if failed:
        raise ChildProcessError(f"memcached did not store {len(failed)} values")


PEERS: dict[str, tuple[str, type[Peer]]] = {
    "pylibmc": ("memcached by pylibmc", Pylibmc),
    "pymemcache": ("memcached by pymemcache", Pymemcache),
    "redis": ("Redis by redis-py", RedisPy),
    "valkey": ("Valkey by redis-py", RedisPyOnValkey),
    "glide": ("Valkey by valkey-glide", Glide),
}
