"""Driving a store by hand: what every test of stores, layers and the engine needs."""

from collections.abc import Sequence

from tests.pages import PAGE

from tmem.server.store.interface import PoolPolicy, Store, Stored
from tmem.server.store.pending import Pending
from tmem.wire.answers import Pages
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Header, Put, decode_request, encode_put
from tmem.wire.results import Code, PoolKind

KEY = 1


def make_put(
    items: Sequence[tuple[Extent, bytes]], sequence: int = 1, generation: int = 1, chunk_pages: int = 16, **header: int
) -> Put:
    """A put as it comes off the wire."""
    codec = Codec(CopyCounter())
    chunks = EncodedChunks()
    for extent, plain in items:
        assert len(plain) == extent.pages * PAGE
        codec.encode(memoryview(plain), extent.first, chunk_pages, chunks)
    full = Header(1, header.pop("pool_id", KEY), generation, sequence, **header)
    put, _ = decode_request(encode_put(full, [extent for extent, _ in items], chunks))
    assert isinstance(put, Put)
    return put


class StoreUser:
    """One writer of one pool of a store.

    Args:
        store: under test.
        key: the pool, made here unless it is there already.
    """

    def __init__(self, store: Store, kind: PoolKind = PoolKind.PERSISTENT, key: int = KEY, **policy: object) -> None:
        self.store = store
        self.key = key
        self.policy = PoolPolicy(key, kind, **({"tenant": "t"} | policy))  # type: ignore[arg-type]
        self.sequence = 0
        self.codec = Codec(CopyCounter())
        store.add_pool(self.policy)

    def version(self) -> Version:
        self.sequence += 1
        return Version(1, self.sequence)

    def put(
        self,
        obj: int,
        index: int,
        plain: bytes,
        *,
        chunk_pages: int = 16,
        user: int = 1,
        version: Version | None = None,
    ) -> Stored:
        version = version or self.version()
        put = make_put([(Extent(obj, index, len(plain) // PAGE), plain)], version.sequence, chunk_pages=chunk_pages)
        return now(self.store.put(self.key, version, put, user))

    def put_many(self, items: Sequence[tuple[int, int, bytes]]) -> Stored:
        version = self.version()
        extents = [(Extent(obj, index, len(plain) // PAGE), plain) for obj, index, plain in items]
        return now(self.store.put(self.key, version, make_put(extents, version.sequence), 1))

    def get(self, obj: int, index: int, pages: int = 1, *, user: int = 1, alone: bool = False, room: int = 0) -> "Got":
        extents = [Extent(obj, index, pages)]
        answer = now(self.store.get(self.key, extents, room or max(pages, 16) * PAGE * 2, user, alone=alone))
        return Got(answer, pages, self.codec)

    def flush(self, obj: int, index: int, pages: int = 1, condition: Version | None = None) -> int:
        conditions = None if condition is None else [condition]
        flushed = now(self.store.flush(self.key, self.version(), [Extent(obj, index, pages)], conditions))
        return flushed.found[0]

    def flush_object(self, obj: int) -> int:
        return now(self.store.flush_object(self.key, self.version(), [obj])).found[0]

    @property
    def pages(self) -> int:
        return self.store.counts(self.key).pages


class Got:
    """What a get answered, expanded.

    Attributes:
        codes: one for each page. data: the hit pages by position; the others are absent. versions: likewise.
    """

    def __init__(self, pages: Pages, count: int, codec: Codec) -> None:
        self.raw = pages
        self.codes = [Code(code) for code in (pages.codes or [Code.HIT] * count)]
        self.data: dict[int, bytes] = {}
        self.versions: dict[int, Version] = {}
        at = 0
        for run in pages.runs:
            chunk = pages.chunks[run.chunk]
            plain = bytearray(run.pages * PAGE)
            crcs = pages.crcs[at : at + run.pages]
            assert not codec.decode(chunk.encoding, chunk.data, chunk.pages, run.offset, memoryview(plain), crcs)
            for page in range(run.pages):
                assert run.position + page not in self.data
                self.data[run.position + page] = bytes(plain[page * PAGE : (page + 1) * PAGE])
                self.versions[run.position + page] = Version(run.generation, run.sequence)
            at += run.pages
        assert sorted(self.data) == [number for number, code in enumerate(self.codes) if code == Code.HIT]

    @property
    def page(self) -> bytes | None:
        """The first page, if it was hit."""
        return self.data.get(0)

    @property
    def whole(self) -> bytes:
        """All pages; every one must have been hit."""
        assert len(self.data) == len(self.codes)
        return b"".join(self.data[number] for number in range(len(self.codes)))


def now(result):  # type: ignore[no-untyped-def]
    """A result that must be there already."""
    assert not isinstance(result, Pending)
    return result
