"""What a way of running a program offers.

Owns: the interface between the command and the ways (kernel swap, pager), and the figures that all of them report. Units: bytes
and seconds; a figure that a way does not have is None.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

__all__ = ["Figures", "Order", "Running", "Way"]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run.

    Attributes:
        command: the program and its arguments.
        memory: the local memory that it may have.
        room: for pages that are out; None = the way's own default.
        target, token: the server.
        options: of the way alone.
    """

    command: list[str]
    memory: int
    room: int | None
    target: str
    token: str | None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """How a program is doing.

    Attributes:
        resident: memory that it has here. peak: the most that it had. remote: memory that is on the server.
        remote_peak: the most that was.
        faults: how often it waited for a page. fault_p50, fault_p99: how long, where the way can tell.
        pages_in, pages_out: pages that came back, and that went out.
        messages_in_per_mib, messages_out_per_mib: exchanges with the server for each MiB of them.
        ratio: plain bytes on the server to bytes that they take there.
        trouble: what is wrong just now, in words; "" if nothing is.
        more: what only this way has.
    """

    resident: int
    peak: int | None
    remote: int
    remote_peak: int
    faults: int
    fault_p50: float | None
    fault_p99: float | None
    pages_in: int
    pages_out: int
    messages_in_per_mib: float | None
    messages_out_per_mib: float | None
    ratio: float | None
    trouble: str = ""
    more: dict[str, Any] = field(default_factory=dict)


class Running(Protocol):
    """A program that was started. Use it in a `with` statement: whatever happens, nothing is left of it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self, seconds: float) -> int | None:
        """Waits so long for its end; answers its exit status (128 + n for signal n), or None if it still runs."""

    def figures(self) -> Figures:
        """How it does, or did."""

    def signal(self, number: int) -> None:
        """Sends it a signal."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Way(Protocol):
    """A way to run programs."""

    def start(self, order: Order) -> Running:
        """Starts one.

        Raises:
            TmemError, OSError: it can't be, and nothing is left.
        """
