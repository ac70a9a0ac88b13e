"""Who does what on either side, in words: for the report, so that whoever doubts it can check.

Owns: the words; each says what the code of this package does.
"""

__all__ = ["FAIRNESS"]

FAIRNESS = {
    "The same work for each page": "On both sides the client compresses with LZ4 (lz4.block, store_size=False, the same acceleration), keeps what does not shrink as it is, computes the CRC32C of each plain page, which is stored beside it, and after a get expands into the caller's own buffer (cramjam) and verifies every page. It is the same code from the same libraries.",
    "The same pages, compared": "All clients put the same pages and read them into buffers of their own; after each round, outside the time, every page that was got is compared byte for byte with what was put last, on both sides. Each round of puts moves the pages by a block, so an old page is not taken for a new one.",
    "Units": "On the peers' side a page is a value, as a swap agent would store it that must be able to overwrite and drop single pages; tmem stores extents, of which single pages can be overwritten and dropped as well. 64 KiB units on both sides, where the peers could not, and 4 KiB units on both sides, are reported beside it.",
    "The best call of each library": "pylibmc set_multi and get_multi, by the text or the binary protocol; pymemcache set_many and get_many; redis-py with hiredis and valkey-glide MSET and MGET, or a pipeline. Where there are two ways both are tried and the faster is used (see chosen_ in the figures). Every put waits until the server has confirmed it. Keys have two letters and a number in hexadecimal.",
    "What tmem may do that they can't": "tmem keeps several batches in flight from one thread, as its window allows; the peers' libraries send a batch and wait. What that alone is worth is reported: extents, one batch at a time.",
    "One kind of wire, one CPU for each end": "All servers listen on TCP ports of the loopback. All of them run on one CPU, all clients on another, but where it says that both ends are on both CPUs. memcached has one thread (-t 1), as it has one CPU; Redis and Valkey keep nothing on disk; tmemd does not recompress, but where density at rest is measured.",
    "In turn, in one run": "Everything that is compared is taken in turn within seconds, the order turned about each round; the first round is to warm up and does not count. A ratio is taken within each round; its median counts and its spread is the least and the greatest round.",
    "Pages": "Memory of real processes, captured for this run: a Python program's heap, numpy arrays, a redis-server, a compiler at work; speeds are taken with a mix of equal parts of all. Pages that repeat one word are left out of every set: tmem takes next to nothing for them, and a client of the others could do likewise.",
}
