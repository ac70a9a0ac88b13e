"""The store: log-structured memory.

Each pool is a log of segments in order of age. `records` is the form of one record, `segments` the memory that records are
appended to, `leaves` the index from pages to records, `pool` one pool's log with its accounts, `cleaner` moves what lives
out of what is mostly dead, `recompressor` makes smaller what lives, `room` says who must give when memory is short, `spill` is where cold segments go, `store` puts the Store interface over them.
"""

from .store import LogStore, segment_size

__all__ = ["LogStore", "segment_size"]
