"""One attempt to reach a target, in a thread of its own: it may wait for a name, for a server that says nothing.

Owns: the thread, and what becomes of the attempt. The thread has the new link to itself until it is over; from then on the link is the agent's,
and the thread is no more. It is a daemon: a process that ends does not wait for it.

Must not know: what is done to reach a target, and when it is tried again.
"""

import logging
import os
import threading
from collections.abc import Callable

import tmem.client.link
from tmem.wire.errors import Closed, TmemError, Unavailable

__all__ = ["Reached", "Reaching"]

log = logging.getLogger(__name__)

Reached = tuple[tmem.client.link.Client, tmem.client.link.Pool]


class Reaching:
    """The attempt; it begins at once.

    Args:
        work: does it, and may raise TmemError. Before it changes anything at the server it calls `commit`.
        bell: an eventfd that is rung when it is over.

    Attributes:
        over: whether there is an outcome. reached: a link and its pool, or None, for `error`.

    Raises:
        RuntimeError: no thread can be had.
    """

    def __init__(self, work: "Callable[[Reaching], Reached]", bell: int) -> None:
        self._work = work
        self._bell = bell
        self._lock = threading.Lock()
        self._stopped = False
        self._committed = False
        self.over = False
        self.reached: Reached | None = None
        self.error: TmemError = Closed("it was not tried to the end")
        self._thread = threading.Thread(target=self._run, name="tmem-reach", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.reached = self._work(self)
        except TmemError as error:
            self.error = error
        except Exception as error:  # whatever it is: who waits for an outcome gets one
            log.exception("a target can't be tried")
            self.error = Unavailable(f"it can't be tried: {error!r}")
        self.over = True
        os.eventfd_write(self._bell, 1)

    @property
    def alive(self) -> bool:
        """Whether the thread is there, and may ring the bell yet."""
        return self._thread.is_alive()

    def commit(self) -> None:
        """From here on the attempt leaves something at the server.

        Raises:
            Closed: it is not wanted any more.
        """
        with self._lock:
            if self._stopped:
                raise Closed("the region was closed")
            self._committed = True

    def stop(self) -> bool:
        """It is not wanted any more; answers whether it may have left something at the server, so that it must be waited for."""
        with self._lock:
            self._stopped = True
            return self._committed

    def join(self, seconds: float | None) -> None:
        """Waits until it is over; None: however long that takes."""
        self._thread.join(seconds)
