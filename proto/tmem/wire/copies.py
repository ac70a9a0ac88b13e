"""Counting the copies that should not be.

Owns: `CopyCounter`. A full-size copy is any copy of uncompressed page bytes that is not LZ4's own pass between the
caller's buffer and the message, a same-filled fill, or the raw copy of an incompressible page straight to its
destination. Code that makes one counts it here, in pages, where it makes it.
"""

__all__ = ["CopyCounter"]


class CopyCounter:
    """Full-size copies so far, in pages, on the way out (put) and on the way back (get).

    Its owner lends it to the code that might copy. The plain attributes may be read at any time; `on_put` and `on_get`
    belong to one thread at a time, as the codec that calls them does.
    """

    __slots__ = ("get_pages", "put_pages")

    def __init__(self) -> None:
        self.put_pages = 0
        self.get_pages = 0

    def on_put(self, pages: int) -> None:
        """Counts a copy of `pages` plain pages made while storing."""
        self.put_pages += pages

    def on_get(self, pages: int) -> None:
        """Counts a copy of `pages` plain pages made while reading."""
        self.get_pages += pages
