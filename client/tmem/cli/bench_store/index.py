"""How much memory finding a page takes.

Owns: bytes beyond payload per stored page, where blocks are dense (written in order, in random order, page by page) and in the worst case of one page
per block or object. Each filling is a store in a process of its own; two figures each: by its own accounts, and what the process
grew by, less the payload.
"""

from tmem.cli.bench_common.figures import at_most
from tmem.cli.bench_common.rig import Program

from .rig import Rig

__all__ = ["measure"]

_DENSE = at_most(32)
_LONE = at_most(256)
# Small, so that many pages fit: the store does not look into them. A length that is no power of two, as real ones.
_BODY_BYTES = 75


def measure(rig: Rig) -> None:
    """Takes the figures."""
    dense, lone = rig.sizes.index_pages, rig.sizes.lone_pages
    for key, title, pattern, pages, chunk_pages, goal in (
        ("dense_extents", "dense, extents in 64 KiB chunks", "extents", dense, 16, _DENSE),
        ("dense_in_order", "dense, extents in 4 KiB chunks", "extents", dense, 1, _DENSE),
        ("dense_page_by_page", "dense, page by page in order", "pages", dense, 1, _DENSE),
        ("dense_random_order", "dense, page by page in random order", "random", dense, 1, _DENSE),
        ("lone_blocks", "one page per block", "blocks", lone, 1, _LONE),
        ("lone_objects", "one page per object, 192-bit ids", "objects", lone, 1, _LONE),
    ):
        rig.say(f"index: {title}")
        shuffled = pages if pattern == "random" else 0
        with Program("tmem.cli.bench_store.holder", body=_BODY_BYTES, same_filled=False, shuffled=shuffled) as holder:
            empty = holder.hear()["resident"]
            filled = holder.ask(do="fill", pattern=pattern, pages=pages, chunk_pages=chunk_pages)
        assert filled["pages"] == pages
        grown = filled["resident"] - empty - filled["payload"]
        rig.report.add(f"index_{key}_bytes", f"index B/page, {title}", filled["index"] / pages, goal)
        rig.report.add(f"index_{key}_resident_bytes", "  as the process grew", grown / pages, goal)
    rig.report.about |= {"index_dense_pages": dense, "index_lone_pages": lone}
