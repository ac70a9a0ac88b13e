"""Every store beside a dict: whatever is done to both, the store holds what the dict does, and may miss only what it says it evicted."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.disks import LateScratch
from tests.pages import PAGE, mixed_page, random_page, same_filled_page, text_page
from tests.plain import PlainStore
from tests.stores import StoreUser

from tmem.server.host.scratch import ScratchFile
from tmem.server.store.interface import Store, Stored
from tmem.server.store.layers.base import Layer
from tmem.server.store.log import LogStore
from tmem.server.store.log.recompressor import Recompression
from tmem.server.store.pending import Pending
from tmem.wire.answers import Pages
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES
from tmem.wire.requests import Put
from tmem.wire.results import Code, PoolKind, Reason

LIMIT = 1 << 20
SEGMENT = 128 << 10
PAGES = [
    *(text_page(seed) for seed in range(6)),
    *(random_page(seed) for seed in range(4)),
    same_filled_page(),
    same_filled_page(b"8 bytes!"),
    mixed_page(),
]

objects = st.sampled_from([0, 7, 7 + (1 << 64), (1 << 192) - 1])
# Few places, so that operations meet; at both ends of blocks.
firsts = st.sampled_from([0, 1, 5, 16, 30, 500, 511])
blocks = st.sampled_from([0, 1, (1 << 23) - 1])
counts = st.sampled_from([1, 1, 2, 11, 16, 40])
kinds = st.sampled_from([PoolKind.PERSISTENT, PoolKind.EPHEMERAL, PoolKind.SHARED])
Handle = tuple[int, int]


class StoreMachine(RuleBasedStateMachine):
    """Three pools, one of each kind, in one store of 1 MiB."""

    make_store: Any
    evicted: set[tuple[int, int, int]] | None = None
    most_bytes = LIMIT

    def __init__(self) -> None:
        super().__init__()
        self.store: Store = self.make_store()
        self.keys = 0
        self.users: dict[PoolKind, StoreUser] = {}
        self.models: dict[PoolKind, dict[Handle, tuple[bytes, Version]]] = {}
        for kind in PoolKind:
            if kind:
                self.add(kind)

    def add(self, kind: PoolKind) -> None:
        self.keys += 1
        self.users[kind] = StoreUser(self.store, kind, self.keys, tenant=kind.name, quota_bytes=600 << 10)
        self.models[kind] = {}

    @initialize(quota=st.sampled_from([0, 200 << 10]))
    def limit(self, quota: int) -> None:
        self.users[PoolKind.PERSISTENT].policy.quota_bytes = quota

    def forget_evicted(self, kind: PoolKind) -> None:
        """An ephemeral pool may drop pages, as many as it counts."""
        user, model = self.users[kind], self.models[kind]
        if user.policy.ephemeral:
            held = held_pages(self.store, user.key)
            gone = [handle for handle in model if handle not in held]
            assert len(gone) <= self.store.counts(user.key).evicted
            if self.evicted is not None:
                assert all((user.key, *handle) in self.evicted for handle in gone)  # each by name
            for handle in gone:
                del model[handle]

    # ---- Operations ----

    @rule(
        kind=kinds,
        obj=objects,
        block=blocks,
        first=firsts,
        count=counts,
        data=st.data(),
        chunk=st.sampled_from([1, 4, 16]),
    )
    def put(self, kind: PoolKind, obj: int, block: int, first: int, count: int, data: Any, chunk: int) -> None:
        user, model = self.users[kind], self.models[kind]
        count = min(count, BLOCK_PAGES - first)
        start = data.draw(st.integers(0, len(PAGES) - 1))
        run = data.draw(st.booleans())
        pages = [PAGES[start if run else (start + number) % len(PAGES)] for number in range(count)]
        index = block * BLOCK_PAGES + first
        version = user.version()
        stored = user.put(obj, index, b"".join(pages), chunk_pages=chunk, version=version)
        for number, page in enumerate(pages):
            model.pop((obj, index + number), None)
            if stored.reasons is None:
                model[obj, index + number] = page, version
        assert stored.reasons is None or stored.reasons[0] in {Reason.QUOTA, Reason.CAPACITY}
        for other in self.users:
            self.forget_evicted(other)

    @rule(kind=kinds, obj=objects, block=blocks, first=firsts, count=counts)
    def flush(self, kind: PoolKind, obj: int, block: int, first: int, count: int) -> None:
        user, model = self.users[kind], self.models[kind]
        count = min(count, BLOCK_PAGES - first)
        index = block * BLOCK_PAGES + first
        held = [number for number in range(index, index + count) if (obj, number) in model]
        assert user.flush(obj, index, count) == len(held)
        for number in held:
            del model[obj, number]

    @rule(kind=kinds, obj=objects)
    def flush_object(self, kind: PoolKind, obj: int) -> None:
        user, model = self.users[kind], self.models[kind]
        held = [handle for handle in model if handle[0] == obj]
        assert user.flush_object(obj) == len(held)
        for handle in held:
            del model[handle]

    @rule(kind=kinds, obj=objects, block=blocks, first=firsts, age=st.integers(0, 3))
    def take(self, kind: PoolKind, obj: int, block: int, first: int, age: int) -> None:
        """Flushes a page at the version that a get returned, or at one that was never its."""
        user, model = self.users[kind], self.models[kind]
        index = block * BLOCK_PAGES + first
        got = user.get(obj, index)
        if not got.versions:
            return
        version = got.versions[0]
        condition = Version(version.generation, version.sequence + age)
        assert user.flush(obj, index, condition=condition) == (age == 0)
        if not age:
            del model[obj, index]

    @rule(kind=kinds, obj=objects, block=blocks, first=firsts)
    def put_late(self, kind: PoolKind, obj: int, block: int, first: int) -> None:
        """A put whose sequence is below what the handle holds changes nothing."""
        user, model = self.users[kind], self.models[kind]
        index = block * BLOCK_PAGES + first
        held = model.get((obj, index))
        if held is not None and held[1].sequence > 1:
            stored = user.put(obj, index, PAGES[0], version=Version(1, held[1].sequence - 1))
            assert stored.reasons == [Reason.STALE]

    @rule(kind=kinds, obj=objects, block=blocks, first=firsts, count=counts, alone=st.booleans(), tight=st.booleans())
    def get(self, kind: PoolKind, obj: int, block: int, first: int, count: int, alone: bool, tight: bool) -> None:
        user, model = self.users[kind], self.models[kind]
        count = min(count, BLOCK_PAGES - first)
        index = block * BLOCK_PAGES + first
        got = user.get(obj, index, count, alone=alone, room=count * PAGE if tight else 0)
        for number in range(count):
            held = model.get((obj, index + number))
            assert got.codes[number] == (Code.MISS if held is None else Code.HIT)
            if held is not None:
                assert (got.data[number], got.versions[number]) == held

    @rule(kind=kinds)
    def replace_pool(self, kind: PoolKind) -> None:
        assert self.store.drop_pool(self.users[kind].key) == len(self.models[kind])
        self.add(kind)

    @rule(steps=st.integers(1, 20))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            if not self.store.step():
                break

    # ---- What always holds ----

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        for kind, user in self.users.items():
            model = self.models[kind]
            counts = self.store.counts(user.key)
            assert counts.pages == len(model)
            assert counts.objects == len({obj for obj, _ in model})
            assert counts.blocks == len({(obj, index // BLOCK_PAGES) for obj, index in model})
            assert held_pages(self.store, user.key) == set(model)

    @invariant()
    def it_stays_below_its_limit(self) -> None:
        counts = self.store.counts()
        assert counts.payload_bytes + counts.index_bytes + counts.dead_bytes <= self.most_bytes

    def teardown(self) -> None:
        for user in self.users.values():
            self.store.drop_pool(user.key)
        while self.store.step():
            pass
        counts = self.store.counts()
        held = (
            counts.pages,
            counts.objects,
            counts.blocks,
            counts.payload_bytes,
            counts.index_bytes,
            counts.dead_bytes,
        )
        assert held == (0,) * 6
        self.store.close()


def held_pages(store: Store, key: int) -> set[Handle]:
    found = set()
    for listing in store.blocks(key):
        bits = int.from_bytes(listing.bitmap, "little")
        assert bits
        assert bits.bit_count() == len(listing.crcs)
        for page in range(BLOCK_PAGES):
            if bits >> page & 1:
                found.add((listing.object, listing.block * BLOCK_PAGES + page))
    return found


class Prompt(Layer):
    """Answers at once, though the disk below takes its time: gets hurry it, and of other calls every third one.

    So segments are on their way to the disk while they are read, overwritten, cleaned and given back.
    """

    def __init__(self, below: Store, scratch: LateScratch) -> None:
        super().__init__(below)
        self._scratch = scratch
        self._calls = 0

    def get(self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False) -> Pages:
        result = self.below.get(key, extents, max_bytes, user, alone=alone)
        if not isinstance(result, Pending):
            return result
        answers: list[Pages] = []
        result.when_settled(answers.append)
        while not answers:
            assert self._scratch.turn()
        return answers[0]

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        self._calls += 1
        if self._calls % 3 == 0:
            self._scratch.turn()
        return self.below.put(key, version, put, user)

    def step(self) -> bool:
        return self._scratch.turn() or self.below.step()

    def close(self) -> None:
        self._scratch.finish()
        self.below.close()


class Recompressing(Layer):
    """Recompresses: a piece of work is taken by one put and brought back by another, so that much happens in between."""

    def __init__(self, below: LogStore) -> None:
        super().__init__(below)
        self._recompressor = below.recompressor
        self._work: Recompression | None = None

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        result = self.below.put(key, version, put, user)
        if self._work is None:
            self._work = self._recompressor.begin()
        else:
            self._work.run()
            self._recompressor.finish(self._work)
            self._work = None
        return result


@pytest.mark.parametrize("name", ["plain", "log", "spilling", "late", "recompressing"])
def test_a_store_holds_what_a_dict_would(name: str, tmp_path: Path) -> None:
    scratch = (LateScratch if name == "late" else ScratchFile)(tmp_path, SEGMENT, 2 * LIMIT)
    evicted: set[tuple[int, int, int]] = set()

    def note(key: int, pages: Extent) -> None:
        evicted.update((key, pages.object, index) for index in range(pages.index, pages.index + pages.pages))

    makers: dict[str, Callable[[], Store]] = {
        "plain": lambda: PlainStore(LIMIT, CopyCounter()),
        # Segments of few records, so that cleaning and eviction have much to do.
        "log": lambda: LogStore(LIMIT, CopyCounter(), segment_bytes=SEGMENT, on_evicted=note),
        # So little memory that most of it is on the disk.
        "spilling": lambda: LogStore(
            LIMIT // 2, CopyCounter(), segment_bytes=SEGMENT, scratch=scratch, on_evicted=note
        ),
    }
    makers["recompressing"] = lambda: Recompressing(
        LogStore(LIMIT, CopyCounter(), segment_bytes=SEGMENT, on_evicted=note)
    )
    if isinstance(scratch, LateScratch):
        late = scratch
        makers["late"] = lambda: Prompt(makers["spilling"](), late)
    attributes = {
        "make_store": staticmethod(makers[name]),
        "most_bytes": 3 * LIMIT if name in {"spilling", "late"} else LIMIT,
        "evicted": None if name == "plain" else evicted,
    }
    machine: Any = type("Machine", (StoreMachine,), attributes)
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    case = machine.TestCase()
    case.runTest()
    if isinstance(scratch, LateScratch):
        scratch.finish()
    assert scratch.used_bytes == 0
    scratch.close()
