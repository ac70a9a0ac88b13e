"""What a client has done, as plain integers.

Owns: `ClientCounters`: full-size copies (counted by the codec that would make them), messages each way, and calls saved by
the presence map.
"""

from dataclasses import dataclass, field

from tmem.wire.copies import CopyCounter

__all__ = ["ClientCounters"]


@dataclass(slots=True)
class ClientCounters:
    """Counters of one client.

    Attributes:
        copies: plain pages copied at full size, out and back.
        messages_sent, messages_received: on Exchange streams.
        unary_calls: page calls that were no batches.
        local_gets: pages answered without a call, because nothing was ever stored there.
        reconnects: streams opened after the first.
        replays: batches sent again after a reconnect.
        slow_decodes: answers whose body the generated class had to copy.
    """

    copies: CopyCounter = field(default_factory=CopyCounter)
    messages_sent: int = 0
    messages_received: int = 0
    unary_calls: int = 0
    local_gets: int = 0
    reconnects: int = 0
    replays: int = 0
    slow_decodes: int = 0
