"""Python's garbage collector, set for a process that holds many objects and makes few cycles.

Owns: the collector's thresholds. A store of millions of pages is millions of objects that live long; walking them all in a
full collection stops the event loop for seconds, and finds nothing: the daemon's hot paths make no cycles.
"""

import gc

__all__ = ["tame_collector"]

# Young objects are still collected; a full collection waits until the old generation has grown by a quarter anyway, and
# these keep the attempts rare.
_THRESHOLDS = (50_000, 50, 100)


def tame_collector() -> None:
    """Takes what exists now out of all collections and makes full ones rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
