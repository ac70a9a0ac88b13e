"""The same pages in tmem, in memcached and in Redis.

Owns: resident memory per stored page, less the empty server's, of each server holding the same real pages, LZ4-compressed by the same
code: memcached with its own slab settings, Redis without persistence, tmem with 4 KiB chunks (the very same bytes), and tmem with extents in 64 KiB
chunks: when just put, and at rest, when it has recompressed them, which the others do not do. Same-filled pages are left out: tmem takes next to nothing for them, and a client of the others could do likewise.
"""

import time

import tmem.client
from tmem.cli.bench_common.figures import at_most
from tmem.cli.bench_common.rig import MIB, resident_bytes, settle
from tmem.cli.bench_common.servers import Memcached, Redis, Rival
from tmem.client import Pool
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.limits import BLOCK_BYTES, PAGE_BYTES
from tmem.wire.results import Encoding
from tmem.wire.splice import BytesLike

from .rig import Rig

__all__ = ["measure"]

_OBJECT = 7
_PAGE_GOAL = at_most(0.9)
_EXTENT_GOAL = at_most(0.75)


def measure(rig: Rig) -> None:
    """Takes the figures."""
    plain, encoded = _pages(rig.memory(rig.sizes.rivals * MIB))
    count = len(encoded)
    payload = sum(map(len, encoded)) / count
    add = rig.report.add
    found = {}
    for rival in (Memcached, Redis):
        name = rival.name
        rig.say(f"rivals: {name}")
        if not rival.installed():
            rig.report.skip(f"{rival.command} is not installed", name)
            continue
        found[name] = _hold(rig, rival, encoded) / count
        add(f"rivals_{name}_page_bytes", f"{name}: resident bytes per page", found[name])
    ours = {}
    for name, title, chunk_pages in (("4k", "pages in 4 KiB chunks", 1), ("extent", "extents in 64 KiB chunks", 16)):
        rig.say(f"rivals: tmem, {title}")
        held = _hold_here(rig, plain, chunk_pages)
        ours[name] = held["settled"] / count
        add(f"rivals_tmem_{name}_page_bytes", f"tmem, {title}: resident bytes per page, at rest", ours[name])
        add(f"rivals_tmem_{name}_put_page_bytes", "  when just put", held["put"] / count)
        add(f"rivals_tmem_{name}_payload_page_bytes", "  of these payload, when just put", held["put_payload"] / count)
        add(f"rivals_tmem_{name}_settled_payload_page_bytes", "  and at rest", held["settled_payload"] / count)
        add(f"rivals_tmem_{name}_settle_s", "  seconds from one to the other", held["seconds"])
    add("rivals_lz4_page_bytes", "  LZ4's own bytes per page, 4 KiB at a time", payload)
    rig.report.about["rivals_pages"] = count
    if found:
        best = min(found, key=lambda name: found[name])
        title = f"over the better of the others, {best}" if len(found) > 1 else f"over {best}, the only other"
        add("rivals_4k_ratio", f"tmem, 4 KiB pages, {title}", ours["4k"] / found[best], _PAGE_GOAL)
        add("rivals_extent_ratio", f"tmem, extents, {title}", ours["extent"] / found[best], _EXTENT_GOAL)


def _pages(memory: memoryview) -> tuple[memoryview, list[BytesLike]]:
    """The pages that are not same-filled, one behind the other, and the encoded bytes of each."""
    plain = memoryview(bytearray(len(memory)))
    encoded: list[BytesLike] = []
    codec = Codec(CopyCounter())
    for at in range(0, len(memory), PAGE_BYTES):
        chunks = EncodedChunks()
        codec.encode(memory[at : at + PAGE_BYTES], 0, 1, chunks)
        if chunks.encodings[0] == Encoding.SAME_FILLED:
            continue
        plain[len(encoded) * PAGE_BYTES : (len(encoded) + 1) * PAGE_BYTES] = memory[at : at + PAGE_BYTES]
        encoded.append(chunks.pieces[0])
    return plain[: len(encoded) * PAGE_BYTES], encoded


def _hold(rig: Rig, kind: type[Rival], encoded: list[BytesLike]) -> int:
    """Bytes that the server grows by."""
    with rig.directory() as directory, kind(directory, 4 * rig.sizes.rivals) as rival:
        empty = resident_bytes(rival.pid)
        # The shortest key that says which page it is.
        rival.set((b"%d:%d" % (_OBJECT, number), value) for number, value in enumerate(encoded))
        return resident_bytes(rival.pid) - empty


def _hold_here(rig: Rig, plain: memoryview, chunk_pages: int) -> dict[str, float]:
    """Bytes that a daemon grows by, and its payload: when everything was just put, and once it has come to rest."""
    with rig.daemon("--memory-limit", "8GiB") as daemon, tmem.client.connect(daemon.target) as client:
        empty = resident_bytes(daemon.pid)
        pool = client.create_pool("pages", chunk_pages=chunk_pages)
        with pool.batch() as batch:
            for at in range(0, len(plain), BLOCK_BYTES):
                batch.put(_OBJECT, at // PAGE_BYTES, plain[at : at + BLOCK_BYTES])
        held: dict[str, float] = {}

        def note(moment: str) -> None:
            stat = pool.stat()
            assert stat.pages == len(plain) // PAGE_BYTES
            held[moment] = resident_bytes(daemon.pid) - empty
            held[f"{moment}_payload"] = stat.payload_bytes

        note("put")
        begun = time.monotonic()
        settle(lambda: pool.stat().payload_bytes)
        held["seconds"] = time.monotonic() - begun
        note("settled")
        _check(pool, plain)
        return held


def _check(pool: Pool, plain: memoryview) -> None:
    """Every page is still what it was."""
    into = bytearray(BLOCK_BYTES)
    for at in range(0, len(plain), BLOCK_BYTES):
        size = min(BLOCK_BYTES, len(plain) - at)
        pool.get_into(_OBJECT, at // PAGE_BYTES, memoryview(into)[:size]).raise_for_pages()
        if into[:size] != plain[at : at + size]:
            raise ChildProcessError(f"bytes differ in block {at // BLOCK_BYTES}")
