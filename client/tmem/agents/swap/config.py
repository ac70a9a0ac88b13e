"""What the holder and the workers of one device are told.

Owns: the settings that pass from `attach` to the holder and on to each worker, as JSON in an anonymous file, because they have
secrets and the command line of a process is read by everybody; and the few words that holder and workers exchange.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from .shared import make_file

__all__ = ["GONE", "LEFT", "READY", "STOP", "TAKE", "WORKER_MODULE", "Config", "Descriptors", "shelter_name"]

# What holder and worker say to each other, each a message of their socket.
TAKE = b"take"
"""To a worker: serve from now on."""
STOP = b"stop"
"""To a worker: the device is gone; destroy the pool, and end."""
WORKER_MODULE = "tmem.agents.swap.worker"
"""What a holder starts, with the numbers of Descriptors behind it."""
READY = b"ready"
"""From a worker: loaded and locked."""
GONE, LEFT = b"gone", b"left"
"""From a worker that stops: the pool is destroyed; it could not be."""


@dataclass(frozen=True, slots=True)
class Config:
    """One device.

    Attributes:
        name: what its user calls it. directory: its own, below the run directory.
        size: bytes.
        target, token: the server, and the tenant's secret if it wants one.
        endpoints: where the server is, as (family, address) of sockets: a worker that takes over can't wait for a resolver.
        pool: the pool's name. pool_token, epoch: the right to it, as it was made.
        presence_bytes: of the presence map.
        durability, chunk_pages, reserved_bytes: how the pool was made, and is made again on a server that lost it.
        io_deadline: seconds within which a read is answered or fails; write_deadline: likewise.
    """

    name: str
    directory: str
    size: int
    target: str
    endpoints: list[tuple[int, Any]]
    token: str | None
    pool: str
    pool_token: str
    epoch: int
    presence_bytes: int
    durability: str
    chunk_pages: int
    reserved_bytes: int
    io_deadline: float
    write_deadline: float

    @property
    def hang_seconds(self) -> float:
        """How long a worker may show no sign of life before it is replaced: its requests have to be answered yet."""
        return max(1.0, min(10.0, self.io_deadline / 3))

    def to_file(self) -> int:
        """Writes them down; answers a descriptor to be inherited."""
        text = json.dumps(asdict(self)).encode()
        descriptor = make_file("tmem-swap-config", len(text))
        os.pwrite(descriptor, text, 0)
        os.set_inheritable(descriptor, True)
        return descriptor

    @classmethod
    def from_file(cls, descriptor: int) -> "Config":
        """Reads them back."""
        found = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        # Sockets want tuples, and JSON has none.
        endpoints = [
            (family, tuple(address) if isinstance(address, list) else address) for family, address in found["endpoints"]
        ]
        return cls(**found | {"endpoints": endpoints})


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What a worker inherits: descriptors by what they are."""

    config: int
    fuse: int
    control: int
    states: int
    presence: int
    socket: int

    def to_arguments(self) -> list[str]:
        """For its command line."""
        return [str(getattr(self, name)) for name in self.__slots__]

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> "Descriptors":
        """From its command line."""
        return cls(*map(int, arguments))


def shelter_name(holder: int) -> str:
    """The control group that a holder takes itself and its workers to, if they have to leave the one they are born in."""
    return f"tmem-swap-{holder}"
