"""How this process uses memory.

Owns: the settings of Python's garbage collector for a process that holds many objects and makes few cycles.
"""

import gc

__all__ = ["tame_collector"]

# Young objects are still collected; these keep attempts at a full collection rare.
_THRESHOLDS = (50_000, 50, 100)


def tame_collector() -> None:
    """Takes what exists now out of all collections and makes full ones rare.

    A store of millions of pages is millions of objects that live long; walking them all stops the event loop for seconds,
    and finds nothing: the daemon's hot paths make no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
