"""Sessions: what a client holds open over its reconnects.

Owns: `Session` (its bindings, its credit, when it was last heard of) and `SessionTable`. Pure: no gRPC; time is passed in.

A session lives while its stream does, and `session_timeout_seconds` beyond: a client that reconnects in that time finds
its pools as they were. A client that says goodbye (ends its side of the stream) ends its session at once.
"""

from dataclasses import dataclass, field
from typing import Protocol

from tmem.server.store.engine import Binding
from tmem.server.store.lifecycle import Lifecycle
from tmem.server.store.pools import Member, Pool
from tmem.wire.errors import Fenced

__all__ = ["Session", "SessionTable", "StreamHandle"]


class StreamHandle(Protocol):
    """The stream that a session speaks over, as far as the session table knows it."""

    async def stop(self, why: str) -> None:
        """Ends the stream; nothing that arrives on it afterwards has an effect."""
        ...


@dataclass(slots=True, eq=False)
class Session:
    """One client.

    Attributes:
        bindings: by pool number of its tenant.
        window_bytes, window_batches: what it was granted.
        used_bytes, used_batches: what is in flight.
        last_seen: when it last sent anything, in the table's seconds.
        stream: what it speaks over; None between two streams.
    """

    tenant: str
    session_id: bytes
    client_name: str
    window_bytes: int
    window_batches: int
    last_seen: float
    bindings: dict[int, Binding] = field(default_factory=dict)
    used_bytes: int = 0
    used_batches: int = 0
    stream: StreamHandle | None = None

    def charge(self, cost: int) -> bool:
        """Takes credit for a batch; False if the client has none left: it broke the contract."""
        self.used_bytes += cost
        self.used_batches += 1
        return self.used_bytes <= self.window_bytes and self.used_batches <= self.window_batches

    def release(self, cost: int) -> None:
        """Gives a batch's credit back: its answer is on its way."""
        self.used_bytes -= cost
        self.used_batches -= 1


class SessionTable:
    """All sessions.

    Args:
        lifecycle: told which members are worked for and which are parked.
        timeout_seconds: how long a session without a stream lives on.
    """

    def __init__(self, lifecycle: Lifecycle, *, timeout_seconds: float) -> None:
        self._lifecycle = lifecycle
        self._timeout_seconds = timeout_seconds
        self._sessions: dict[tuple[str, bytes], Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, tenant: str, session_id: bytes) -> Session | None:
        """The session of this id, if it lives."""
        return self._sessions.get((tenant, session_id))

    def add(self, session: Session) -> None:
        """Notes a new session, in the place of an older one of the same id."""
        self._sessions[session.tenant, session.session_id] = session

    def bind(self, session: Session, pool: Pool, member: Member) -> None:
        """Lets a session work on a pool.

        Raises:
            Fenced: another session works on it with the same generation.
        """
        other = self._sessions.get((session.tenant, member.session)) if member.session else None
        if other is not None and other is not session:
            raise Fenced(f"another client works on pool {pool.name!r} with this generation; open the pool again")
        session.bindings[member.pool_id] = Binding(pool, member)
        self._lifecycle.attach(member, session.session_id)

    def end(self, session: Session, now: float) -> None:
        """Ends a session and parks what it worked on."""
        if self._sessions.get((session.tenant, session.session_id)) is session:
            del self._sessions[session.tenant, session.session_id]
            for binding in session.bindings.values():
                self._lifecycle.park(binding.member, session.session_id, now)
        session.bindings.clear()

    def silent(self, now: float) -> list[Session]:
        """The sessions that have said nothing for longer than the time-out."""
        return [session for session in self._sessions.values() if now - session.last_seen > self._timeout_seconds]
