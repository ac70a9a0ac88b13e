"""Layers by name: `delayed:seconds=0.01,jitter_seconds=0.05`.

Owns: which layers can be named in a setting, and their parameters.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tmem.server.store.interface import Store
from tmem.wire.results import Reason

from .delayed import DelayedLayer, Later
from .faulty import FaultyLayer
from .logged import LoggedLayer

__all__ = ["LayerServices", "check_layer", "wrap"]


@dataclass(frozen=True, slots=True)
class LayerServices:
    """What layers may use of the world.

    Attributes:
        later: calls a function after some seconds, on the store's thread.
        log: takes an event's name and what is known of it.
    """

    later: Later
    log: Callable[..., object]


_MAX_SECONDS = 3600.0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _MAX_SECONDS:
        raise ValueError(f"{text} is not 0..{_MAX_SECONDS:g} seconds")
    return value


def _chance(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is no chance: 0..1")
    return value


def _reason(text: str) -> Reason:
    try:
        return Reason[text.upper()]
    except KeyError:
        raise ValueError(f"{text!r} is no reason") from None


_PARAMETERS: dict[str, dict[str, Callable[[str], object]]] = {
    "delayed": {"seconds": _seconds, "jitter_seconds": _seconds, "seed": int},
    "faulty": {
        "put_refused": _chance,
        "reason": _reason,
        "get_refused": _chance,
        "get_corrupt": _chance,
        "get_lost": _chance,
        "seed": int,
    },
    "logged": {},
}


def _parse(spec: str) -> tuple[str, dict[str, object]]:
    name, _, rest = spec.partition(":")
    known = _PARAMETERS.get(name)
    if known is None:
        raise ValueError(f"layer {name!r} is unknown; there are: {', '.join(_PARAMETERS)}")
    values: dict[str, object] = {}
    for item in filter(None, rest.split(",")):
        key, _, text = item.partition("=")
        if key not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"layer {name} has no parameter {key!r}; it has: {names}")
        try:
            values[key] = known[key](text)
        except ValueError as error:
            raise ValueError(f"layer {name}: {key}: {error}") from error
    return name, values


def check_layer(spec: str) -> str:
    """The spec, if it names a layer; raises ValueError with a message that says what is wrong."""
    _parse(spec)
    return spec


def wrap(store: Store, specs: tuple[str, ...], services: LayerServices) -> Store:
    """The store within its layers, the first spec outermost."""
    for spec in reversed(specs):
        name, values = _parse(spec)
        if name == "logged":
            store = LoggedLayer(store, services.log)
            continue
        chance = random.Random(values.pop("seed", None))  # type: ignore[arg-type]  # noqa: S311  no secret
        if name == "delayed":
            values.setdefault("seconds", 0.0)
            store = DelayedLayer(store, services.later, chance=chance, **values)  # type: ignore[arg-type]
        else:
            store = FaultyLayer(store, chance=chance, **values)  # type: ignore[arg-type]
    return store
