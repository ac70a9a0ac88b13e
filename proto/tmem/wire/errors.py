"""Everything that tmem raises, and what follows from it.

    TmemError
    ├── LocalError                   you asked for something that can't be
    │   ├── InvalidHandle            object, index or extent out of range             (a ValueError)
    │   ├── InvalidBuffer            not contiguous, not writable, or a wrong length  (a ValueError)
    │   ├── InvalidOption            an unknown kind, a bad size                      (a ValueError)
    │   └── Closed                   the client, pool or batch was closed
    ├── MachineError                 this machine can't
    │   ├── MachineUnfit             it lacks something that an agent needs
    │   └── NoRoom                   what is out does not fit back into its memory
    ├── RemoteError                  the other side, or the way to it
    │   ├── Unavailable              no connection, and none came back in time
    │   ├── DeadlineExceeded         no answer in time; a write may or may not have happened
    │   ├── Unauthenticated          the server does not know who you are
    │   ├── ProtocolError            the other side sent what the contract forbids
    │   │   └── MalformedBatch       readable, but its columns contradict each other or a limit
    │   └── Refused                  a well-formed answer: no
    │       ├── QuotaExceeded        QUOTA
    │       ├── OutOfCapacity        CAPACITY
    │       ├── PoolFrozen           FROZEN
    │       ├── StoreFailed          IO
    │       ├── TooFewReplicas       REPLICAS
    │       ├── Draining             DRAINING
    │       ├── Unsettled            UNSETTLED
    │       ├── Fenced               FENCED
    │       ├── Stale                STALE
    │       ├── Forbidden            FORBIDDEN
    │       ├── NoSuchPool           NO_SUCH_POOL
    │       ├── InvalidRequest       INVALID
    │       ├── Recovering           RECOVERING
    │       ├── PoolExists           POOL_EXISTS
    │       └── PoolLimit            POOL_LIMIT
    └── PageError                    a page can't be had back
        ├── PageMissing              nothing is stored there
        ├── PageLost                 it was stored, and the server no longer has it
        └── PageCorrupt              its bytes fail their checksum

Owns: the tree and `TABLE`, the one place that says for each reason which class it is, which gRPC code carries it, whether
the same request can succeed later, and what is left of the page that the handle held. Foreign errors (grpc.RpcError,
OSError) are translated into this tree at the borders, by the modules that own them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from .results import Reason

__all__ = [
    "TABLE",
    "Closed",
    "DeadlineExceeded",
    "Draining",
    "Fenced",
    "Forbidden",
    "InvalidBuffer",
    "InvalidHandle",
    "InvalidOption",
    "InvalidRequest",
    "LocalError",
    "MachineError",
    "MachineUnfit",
    "MalformedBatch",
    "NoRoom",
    "NoSuchPool",
    "OldPage",
    "OutOfCapacity",
    "PageCorrupt",
    "PageError",
    "PageLost",
    "PageMissing",
    "PoolExists",
    "PoolFrozen",
    "PoolLimit",
    "ProtocolError",
    "QuotaExceeded",
    "Recovering",
    "Refused",
    "RemoteError",
    "Row",
    "Stale",
    "StoreFailed",
    "TmemError",
    "TooFewReplicas",
    "Unauthenticated",
    "Unavailable",
    "Unsettled",
    "explain",
    "refusal",
]


class TmemError(Exception):
    """The root; never raised itself."""

    retryable: ClassVar[bool] = False
    """Whether the same request can succeed later without the caller changing anything."""


class LocalError(TmemError):
    """You asked for something that can't be; nothing was sent."""


class InvalidHandle(LocalError, ValueError):
    """Object id, page index or extent out of range."""


class InvalidBuffer(LocalError, ValueError):
    """A buffer that is not contiguous, not writable where it must be, or not a whole number of pages."""


class InvalidOption(LocalError, ValueError):
    """An option that does not exist, or a value that it can't have."""


class Closed(LocalError):
    """The client, pool or batch was closed before."""


class MachineError(TmemError):
    """This machine can't do what was asked of it."""


class MachineUnfit(MachineError):
    """It lacks something that an agent needs; the message lists all of it, and what to do."""


class NoRoom(MachineError):
    """What is out on a server does not fit back into memory. Nothing has changed.

    Attributes:
        obstacles: why, a sentence each.
    """

    def __init__(self, message: str, obstacles: list[str]) -> None:
        super().__init__("\n  ".join([message, *obstacles]))
        self.obstacles = obstacles


class RemoteError(TmemError):
    """The other side, or the way to it, failed."""


class Unavailable(RemoteError):
    """There is no connection, and none came back before the deadline. Nothing is known to have been applied."""

    retryable = True


class DeadlineExceeded(RemoteError):
    """No answer came in time. A write may or may not have been applied: its pages are uncertain."""

    retryable = True


class Unauthenticated(RemoteError):
    """The server does not know the caller: no token, or a wrong one."""


class ProtocolError(RemoteError):
    """The other side sent bytes that the contract forbids."""


class MalformedBatch(ProtocolError):
    """A batch that can be read, but whose columns contradict each other or a limit. Nothing of it was applied.

    Attributes:
        batch_id: the batch's own id, so that it can be answered in-band.
    """

    def __init__(self, batch_id: int, message: str) -> None:
        super().__init__(message)
        self.batch_id = batch_id


class Refused(RemoteError):
    """The server answered no. Each reason has a class of its own; see TABLE."""

    reason: ClassVar[Reason] = Reason.UNSPECIFIED


class QuotaExceeded(Refused):
    """The pool or its tenant is at its quota: flush pages, or resize the pool."""

    reason = Reason.QUOTA
    retryable = True


class OutOfCapacity(Refused):
    """The server is at its memory limit, and nothing that it holds may be evicted."""

    reason = Reason.CAPACITY
    retryable = True


class PoolFrozen(Refused):
    """The pool is frozen: thaw it."""

    reason = Reason.FROZEN
    retryable = True


class StoreFailed(Refused):
    """The server's store could not write, or could not read just now."""

    reason = Reason.IO
    retryable = True


class TooFewReplicas(Refused):
    """Too few replicas confirmed the write."""

    reason = Reason.REPLICAS
    retryable = True


class Draining(Refused):
    """The server is shutting down."""

    reason = Reason.DRAINING
    retryable = True


class Unsettled(Refused):
    """The put was refused, and the removal of the old page can't be confirmed: a flush is owed."""

    reason = Reason.UNSETTLED
    retryable = True


class Fenced(Refused):
    """The pool was opened again since: this writer is no longer its writer."""

    reason = Reason.FENCED


class Stale(Refused):
    """A replay that came too late: the sequence lies below the floor, or a newer write was applied."""

    reason = Reason.STALE


class Forbidden(Refused):
    """The caller may see the pool but may not do this."""

    reason = Reason.FORBIDDEN


class NoSuchPool(Refused):
    """There is no such pool, or the caller may not know of it."""

    reason = Reason.NO_SUCH_POOL


class InvalidRequest(Refused):
    """The request contradicts itself or a limit of the server."""

    reason = Reason.INVALID


class Recovering(Refused):
    """The server is still loading its journal: ask again."""

    reason = Reason.RECOVERING
    retryable = True


class PoolExists(Refused):
    """A pool of this name, or shared pool of this UUID, exists already: open or join it."""

    reason = Reason.POOL_EXISTS


class PoolLimit(Refused):
    """The tenant has as many pools as it may have: destroy one."""

    reason = Reason.POOL_LIMIT


class PageError(TmemError):
    """A page can't be had back."""


class PageMissing(PageError):
    """Nothing is stored under the handle."""


class PageLost(PageError):
    """The page was stored, and the server no longer has it."""


class PageCorrupt(PageError):
    """The page's bytes fail their checksum."""


class OldPage(Enum):
    """What a refused put leaves of the page that the handle held before."""

    GONE = "gone"
    KEPT = "kept"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Row:
    """What follows from one reason.

    Attributes:
        error: the class that the client raises.
        code: the gRPC status code that carries it where a call can't answer in-band.
        old_page: what a put refused for this reason leaves of the old page.
    """

    error: type[Refused]
    code: str
    old_page: OldPage

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return self.error.retryable


TABLE: dict[Reason, Row] = {
    Reason.QUOTA: Row(QuotaExceeded, "RESOURCE_EXHAUSTED", OldPage.GONE),
    Reason.CAPACITY: Row(OutOfCapacity, "RESOURCE_EXHAUSTED", OldPage.GONE),
    Reason.FROZEN: Row(PoolFrozen, "FAILED_PRECONDITION", OldPage.GONE),
    Reason.IO: Row(StoreFailed, "UNAVAILABLE", OldPage.GONE),
    Reason.REPLICAS: Row(TooFewReplicas, "UNAVAILABLE", OldPage.GONE),
    Reason.DRAINING: Row(Draining, "UNAVAILABLE", OldPage.GONE),
    Reason.UNSETTLED: Row(Unsettled, "UNAVAILABLE", OldPage.UNKNOWN),
    Reason.FENCED: Row(Fenced, "ABORTED", OldPage.KEPT),
    Reason.STALE: Row(Stale, "ABORTED", OldPage.KEPT),
    Reason.FORBIDDEN: Row(Forbidden, "PERMISSION_DENIED", OldPage.KEPT),
    Reason.NO_SUCH_POOL: Row(NoSuchPool, "NOT_FOUND", OldPage.KEPT),
    Reason.INVALID: Row(InvalidRequest, "INVALID_ARGUMENT", OldPage.KEPT),
    Reason.RECOVERING: Row(Recovering, "UNAVAILABLE", OldPage.UNKNOWN),
    Reason.POOL_EXISTS: Row(PoolExists, "ALREADY_EXISTS", OldPage.KEPT),
    Reason.POOL_LIMIT: Row(PoolLimit, "RESOURCE_EXHAUSTED", OldPage.KEPT),
}


def refusal(reason: int, message: str) -> Refused:
    """The exception for a reason, known or not.

    A reason that a newer server invented is a plain Refused: its number is in the message.
    """
    row = TABLE.get(reason)  # type: ignore[call-overload]
    if row is None:
        return Refused(f"{message} (reason {reason})")
    error: Refused = row.error(message)
    return error


def explain(reason: int) -> str:
    """What a reason means, for a message."""
    row = TABLE.get(reason)  # type: ignore[call-overload]
    text = (row.error.__doc__ or "") if row is not None else ""
    return f"{Reason(reason).name}: {text}" if row is not None else f"reason {reason}"
