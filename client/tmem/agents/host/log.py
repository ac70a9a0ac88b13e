"""Lines for the log of an agent.

Owns: that saying something can neither fail nor wait. Whoever reads the log may be gone, or may be swapped out to the very agent
that speaks; such a line is lost.
"""

import os
import select

__all__ = ["say"]

_STANDARD_ERROR = 2
# What a pipe takes as a whole once it says that it takes something.
_MOST_BYTES = 4000


def say(who: str, message: str, program: str = "tmem-swap") -> None:
    """Writes a line on standard error, if it can be written this moment."""
    line = f"{program} {who}[{os.getpid()}]: {message}".encode(errors="replace")[:_MOST_BYTES] + b"\n"
    poll = select.poll()
    poll.register(_STANDARD_ERROR, select.POLLOUT)
    try:
        if any(event & select.POLLOUT for _, event in poll.poll(0)):
            os.write(_STANDARD_ERROR, line)
    except OSError:
        return
