"""What happened to a pool's pages: plain integers, counted where it happens.

Owns: `PoolCounters`. Reports (StatPool, /metrics) read them; nothing else does. Units: pages, unless a name says otherwise.

Laws that always hold, and that tests check:
    puts  = puts_stored + sum(puts_refused)
    gets  = gets_hit + gets_missed + gets_lost + gets_corrupt + sum(gets_refused)
    held  = puts_stored - puts_replaced - puts_dropped - flushes_found - object_flush_pages - evicted - left
"""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["PoolCounters"]


@dataclass(slots=True)
class PoolCounters:
    """Counters of one pool, or of all pools of one label.

    Attributes:
        puts: asked for. puts_refused: by Reason.
        puts_replaced: of the stored, took the place of an older page.
        puts_dropped: pages that a refused put removed.
        put_bytes: encoded bytes of stored pages, as they came.
        puts_raw, puts_same_filled: of the stored, did not shrink, or were one word.
        gets_refused: by Reason. get_bytes: encoded bytes answered, chunks whole.
        flushes_asked, flushes_found: by page. object_flushes_asked, object_flushes_found: objects.
        left: pages of a shared pool that went with the member who used them last.
        extents_whole, extents_partial, extents_single: stored extents of 512, of 2..511, and of one page.
    """

    puts: int = 0
    puts_stored: int = 0
    puts_replaced: int = 0
    puts_dropped: int = 0
    puts_refused: Counter[int] = field(default_factory=Counter)
    put_bytes: int = 0
    puts_raw: int = 0
    puts_same_filled: int = 0
    gets: int = 0
    gets_hit: int = 0
    gets_missed: int = 0
    gets_lost: int = 0
    gets_corrupt: int = 0
    gets_refused: Counter[int] = field(default_factory=Counter)
    get_bytes: int = 0
    flushes_asked: int = 0
    flushes_found: int = 0
    flushes_refused: Counter[int] = field(default_factory=Counter)
    object_flushes_asked: int = 0
    object_flushes_found: int = 0
    object_flush_pages: int = 0
    left: int = 0
    extents_whole: int = 0
    extents_partial: int = 0
    extents_single: int = 0

    def add(self, other: "PoolCounters") -> None:
        """Adds another's counts to these."""
        for name in PoolCounters.__slots__:
            value = getattr(other, name)
            if isinstance(value, Counter):
                # Of a copy, which is taken at once: the daemon counts on while a scraper's thread adds.
                getattr(self, name).update(dict(value))
            else:
                setattr(self, name, getattr(self, name) + value)
