"""The presence map that outlives its process: it is what the other one is, and it can be killed anywhere."""

import contextlib
import sys
from array import array
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tmem.client import SharedPresence
from tmem.client._core import shared_presence
from tmem.client._core.presence import PresenceMap, mask_of
from tmem.wire.errors import InvalidBuffer, InvalidHandle, InvalidOption
from tmem.wire.handles import Extent

PAGES = 700
TOKEN = b"t" * 32


def made(buffer: bytearray | None = None, pages: int = PAGES, obj: int = 0) -> SharedPresence:
    return SharedPresence(bytearray(SharedPresence.size(pages)) if buffer is None else buffer, pages, obj)


def state(presence: Any, page: int) -> tuple[bool, bool, int | None]:
    """Stored, uncertain, and the CRC if one is known."""
    block = presence.block(Extent(0, page, 1))
    if block is None:
        return False, False, None
    bit = page % 512
    stored = bool(block.stored >> bit & 1)
    return (
        stored,
        bool(block.uncertain >> bit & 1),
        block.crcs[bit] if stored and block.with_crc >> bit & 1 else None,
    )


class TestShape:
    def test_it_takes_four_and_a_half_bytes_a_page(self) -> None:
        assert SharedPresence.size(512 * 1000) == 64 + 512 * 1000 * 9 // 2
        assert SharedPresence.size(1) == SharedPresence.size(512)

    def test_a_buffer_that_is_too_small_or_read_only_is_refused(self) -> None:
        size = SharedPresence.size(PAGES)
        for buffer in (bytearray(size - 1), bytes(size), memoryview(bytearray(2 * size))[::2]):
            with pytest.raises(InvalidBuffer, match=str(size)):
                SharedPresence(buffer, PAGES)

    @pytest.mark.parametrize(("pages", "obj"), [(PAGES - 1, 0), (PAGES, 1)])
    def test_a_map_of_another_shape_is_refused(self, pages: int, obj: int) -> None:
        buffer = bytearray(SharedPresence.size(PAGES))
        made(buffer)
        with pytest.raises(InvalidOption):
            made(buffer, pages, obj)

    def test_memory_that_holds_something_else_is_refused(self) -> None:
        with pytest.raises(InvalidOption):
            made(bytearray(b"x" * SharedPresence.size(PAGES)))

    @pytest.mark.parametrize("extent", [Extent(1, 0, 1), Extent(0, PAGES, 1), Extent(0, PAGES - 1, 2)])
    def test_what_it_has_no_place_for_is_said(self, extent: Extent) -> None:
        presence = made()
        for call in (presence.check, presence.block):
            with pytest.raises(InvalidHandle, match=r"pages 0\.\.699"):
                call(extent)

    def test_another_process_finds_everything(self) -> None:
        buffer = bytearray(SharedPresence.size(PAGES))
        one = made(buffer)
        one.created(TOKEN, epoch=5, generation=1)
        one.stored(Extent(0, 510, 2), [7, 8])
        one.begin(Extent(0, 600, 1))

        other = made(buffer)

        assert (other.owned, other.epoch, other.counts()) == (True, 5, (2, 1))
        assert [state(other, page) for page in (510, 511, 600, 0)] == [
            (True, False, 7),
            (True, False, 8),
            (False, True, None),
            (False, False, None),
        ]


class TestOwners:
    def opened(self, presence: SharedPresence, **changes: Any) -> bool:
        return presence.opened(
            changes.pop("token", TOKEN),
            **({"epoch": 5, "generation": 2, "known_epoch": None, "incomplete": False} | changes),
        )

    @pytest.fixture
    def kept(self) -> SharedPresence:
        presence = made()
        presence.created(TOKEN, epoch=5, generation=1)
        presence.stored(Extent(0, 0, 4), [1, 2, 3, 4])
        return presence

    def test_a_map_that_was_kept_is_believed_without_a_listing(self, kept: SharedPresence) -> None:
        assert not self.opened(kept)
        assert not self.opened(kept, generation=3)
        assert kept.counts() == (4, 0)

    def test_a_map_that_is_nobodys_is_filled(self) -> None:
        presence = made()
        assert self.opened(presence, known_epoch=4)
        assert presence.absent_is_lost
        assert not presence.owned
        presence.listed(0, 1, 0b11, [7, 8])
        presence.listed(9, 0, 1, [1])  # another object: nobody asks this map for it
        presence.filled()

        assert presence.owned
        assert presence.counts() == (2, 0)
        assert state(presence, 513) == (True, False, 8)

    def test_a_listing_that_was_cut_short_counts_for_nothing(self) -> None:
        buffer = bytearray(SharedPresence.size(PAGES))
        presence = made(buffer)
        self.opened(presence)
        presence.listed(0, 0, 1, [7])

        again = made(buffer)
        assert self.opened(again, generation=3)
        assert again.counts() == (0, 0)

    def test_what_is_uncertain_is_settled_by_the_listing(self, kept: SharedPresence) -> None:
        kept.begin(Extent(0, 1, 1))  # an overwrite that came through
        kept.begin(Extent(0, 2, 1))  # a flush that came through
        kept.begin(Extent(0, 9, 2))  # two puts, of which one came through
        assert self.opened(kept)
        kept.listed(0, 0, 0b10_0000_0011, [99, 22, 9])
        kept.filled()

        assert [state(kept, page) for page in (0, 1, 2, 9, 10)] == [
            (True, False, 1),  # as the map knew
            (True, False, 22),
            (False, False, None),
            (True, False, 9),
            (False, False, None),
        ]

    @pytest.mark.parametrize("loss", [{"epoch": 6}, {"incomplete": True}])
    def test_where_the_server_lost_something_what_was_stored_stays_known(
        self, kept: SharedPresence, loss: dict[str, Any]
    ) -> None:
        kept.begin(Extent(0, 1, 1))
        kept.begin(Extent(0, 9, 1))
        assert self.opened(kept, **loss)
        kept.filled()

        assert state(kept, 0) == (True, False, 1)
        assert state(kept, 1)[:2] == (True, False)  # so that a get of it is LOST and no miss
        assert state(kept, 9) == (False, False, None)

    def test_a_writer_in_between_puts_everything_in_doubt(self, kept: SharedPresence) -> None:
        assert self.opened(kept, generation=3)
        kept.listed(0, 0, 0b1_0011, [1, 22, 55])
        kept.filled()

        assert [state(kept, page)[0] for page in range(6)] == [True, True, False, False, True, False]
        assert [state(kept, page)[2] for page in (0, 1, 4)] == [1, 22, 55]

    def test_another_pools_map_is_refused(self, kept: SharedPresence) -> None:
        with pytest.raises(InvalidOption, match="another pool's"):
            self.opened(kept, token=b"u" * 32)
        with pytest.raises(InvalidOption, match="reset"):
            kept.created(b"u" * 32, epoch=1, generation=1)
        kept.reset()
        kept.created(b"u" * 32, epoch=1, generation=1)
        assert kept.counts() == (0, 0)

    def test_pages_beyond_the_map_are_left_out_of_a_listing(self) -> None:
        presence = made()
        self.opened(presence)
        presence.listed(0, 1, (1 << 512) - 1, list(range(512)))
        presence.listed(0, 2, 1, [1])
        presence.filled()

        assert presence.counts() == (PAGES - 512, 0)
        assert state(presence, PAGES - 1) == (True, False, PAGES - 1 - 512)


# ---- As the other map ----

extents = st.integers(0, PAGES - 1).flatmap(
    lambda index: st.builds(
        Extent, st.just(0), st.just(index), st.integers(1, min(PAGES - index, 512 - index % 512, 20))
    )
)


class BothMaps(RuleBasedStateMachine):
    """Whatever a client notes, both maps answer the same; and so does one that was mapped anew."""

    @initialize(lost=st.booleans())
    def make(self, lost: bool) -> None:
        self.buffer = bytearray(SharedPresence.size(PAGES))
        self.shared = made(self.buffer)
        self.plain = PresenceMap()
        self.shared.absent_is_lost = self.plain.absent_is_lost = lost

    def both(self, name: str, *arguments: Any) -> None:
        for presence in (self.shared, self.plain):
            getattr(presence, name)(*arguments)

    @rule(extent=extents)
    def begin(self, extent: Extent) -> None:
        assert self.shared.begin(extent) == self.plain.begin(extent)

    @rule(extent=extents, crc=st.integers(0, 2**32 - 600))
    def stored(self, extent: Extent, crc: int) -> None:
        self.both("stored", extent, array("I", range(crc, crc + extent.pages)))

    @rule(extent=extents)
    def absent(self, extent: Extent) -> None:
        self.both("absent", extent)

    @rule(extent=extents, doubted=st.integers(0, (1 << 512) - 1) | st.just(0))
    def unchanged(self, extent: Extent, doubted: int) -> None:
        for presence in (self.shared, self.plain):
            block = presence.block(extent)
            presence.unchanged(extent, doubted & block.uncertain & mask_of(extent) if block else 0)

    @rule(extent=extents)
    def begun_and_unchanged(self, extent: Extent) -> None:
        before = self.shared.block(extent)
        self.both("unchanged", extent, self.shared.begin(extent) | self.plain.begin(extent))
        after = self.shared.block(extent)
        assert (before.stored, before.uncertain) == (after.stored, after.uncertain)

    @rule(page=st.integers(0, PAGES - 1))
    def missing(self, page: int) -> None:
        self.both("missing", Extent(0, page, 1), page % 512)

    @rule(bitmap=st.integers(0, (1 << 40) - 1), shift=st.integers(0, 471), crc=st.none() | st.integers(0, 2**32 - 600))
    def listed(self, bitmap: int, shift: int, crc: int | None) -> None:
        crcs = None if crc is None else list(range(crc, crc + bitmap.bit_count()))
        self.both("listed", 0, 0, bitmap << shift, crcs)

    @rule()
    def forget(self) -> None:
        self.both("forget")

    @rule(under_way=st.integers(0, (1 << 512) - 1) | st.just(-1))
    def lost(self, under_way: int) -> None:
        self.both("lost", lambda obj, number: under_way if number else under_way >> 1)

    @rule()
    def map_anew(self) -> None:
        self.shared = made(self.buffer)

    @invariant()
    def they_answer_the_same(self) -> None:
        if not hasattr(self, "shared"):
            return
        assert self.shared.counts() == self.plain.counts()
        assert self.shared.objects() == self.plain.objects()
        assert {number for number, _ in self.shared.blocks_of(0)} == {number for number, _ in self.plain.blocks_of(0)}
        for first in (0, 512):
            extent = Extent(0, first, 1)
            mine, other = self.shared.block(extent), self.plain.block(extent)
            if other is None:
                assert not (mine.stored | mine.uncertain)
                continue
            assert (mine.stored, mine.uncertain) == (other.stored, other.uncertain)
            assert mine.with_crc & mine.stored == other.with_crc & other.stored
            for page in range(512):
                if mine.stored & mine.with_crc & ~mine.uncertain & 1 << page:
                    assert mine.crcs[page] == other.crcs[page]
            assert mine.checksums(3, 4) == array("I", mine.crcs[3:7])
        if self.plain.absent_is_lost:
            for page in range(0, PAGES, 7):
                removed = [
                    presence.was_removed(Extent(0, page, 1), page % 512) for presence in (self.shared, self.plain)
                ]
                if not state(self.shared, page)[0]:
                    assert removed[0] == removed[1]


TestBothMaps = BothMaps.TestCase
TestBothMaps.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# ---- Killed anywhere ----


class Killed(BaseException):
    pass


class Killer:
    """Ends the program at its n-th instruction inside the map's code."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sys.settrace(self._before)
        return kind is Killed

    def _trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != shared_presence.__file__:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                raise Killed
        return self._trace


E = Extent(0, 508, 4)


def story(presence: SharedPresence) -> Iterator[tuple[Callable[[], object], list[int | None]]]:
    """Steps of a client's life, each with what the server holds of E's pages while the step is noted: CRCs, or nothing."""
    nothing: list[int | None] = [None] * 4
    first: list[int | None] = [11, 12, 13, 14]
    second: list[int | None] = [21, 22, 23, 24]
    yield lambda: presence.begin(E), nothing
    yield lambda: presence.stored(E, array("I", [11, 12, 13, 14])), first
    yield lambda: presence.begin(E), first
    yield lambda: presence.stored(E, array("I", [21, 22, 23, 24])), second
    yield lambda: presence.begin(E), second
    yield lambda: presence.unchanged(E), second
    yield lambda: presence.begin(E), second
    yield lambda: presence.absent(E), nothing
    yield lambda: presence.begin(E), nothing
    yield lambda: presence.stored(E, array("I", [11, 12, 13, 14])), first


def check(buffer: bytearray, held: list[int | None], where: str) -> None:
    """Nothing is said for certain that is not so."""
    presence = made(buffer)
    assert presence.owned
    for position, crc in enumerate(held):
        stored, uncertain, noted = state(presence, E.index + position)
        if not uncertain:
            assert stored is (crc is not None), where
            assert noted == crc, where
    assert state(presence, E.index - 1) == (False, False, None)
    assert state(presence, E.index + 4) == (False, False, None)


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("lost", [False, True])
def test_a_process_that_is_killed_between_any_two_instructions_leaves_a_true_map(step: int, lost: bool) -> None:
    instruction = 0
    while True:
        buffer = bytearray(SharedPresence.size(PAGES))
        presence = made(buffer)
        presence.created(TOKEN, epoch=1, generation=1)
        presence.absent_is_lost = lost
        steps = list(story(presence))
        for earlier, _ in steps[:step]:
            earlier()
        note, held = steps[step]
        killer = Killer(instruction)
        with killer:
            note()
        check(buffer, held, f"step {step}, instruction {instruction}")
        if killer.left >= 0:
            break  # it was not killed any more
        instruction += 1
    assert instruction > 20


@pytest.mark.parametrize("step", range(10))
def test_a_copy_of_bits_that_is_cut_short_leaves_a_true_map(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that is killed in the middle of a memcpy."""
    put = shared_presence._Bitmap.put
    copies = cut_at = 0

    def cut_short(self: Any, number: int, bits: int) -> None:
        nonlocal copies
        copies += 1
        if copies <= cut_at:
            put(self, number, bits)
            return
        at = number * 64
        self._view[at : at + cut_bytes] = bits.to_bytes(64, "little")[:cut_bytes]
        raise Killed

    for cut_at in range(20):
        for cut_bytes in (1, 63, 64):  # E's pages lie in the last byte but one and the last
            buffer = bytearray(SharedPresence.size(PAGES))
            presence = made(buffer)
            presence.created(TOKEN, epoch=1, generation=1)
            steps = list(story(presence))
            for earlier, _ in steps[:step]:
                earlier()
            note, held = steps[step]
            copies = 0
            monkeypatch.setattr(shared_presence._Bitmap, "put", cut_short)
            with contextlib.suppress(Killed):
                note()
            monkeypatch.undo()
            check(buffer, held, f"step {step}, copy {cut_at}, {cut_bytes} bytes")
        if copies <= cut_at:
            return


@pytest.mark.parametrize("owned", [False, True])
def test_an_opening_that_is_killed_anywhere_is_done_again_to_the_same_end(owned: bool) -> None:
    """The next process opens the pool, which raises its generation once more, and fills the map from the same listing."""

    def prepare() -> bytearray:
        buffer = bytearray(SharedPresence.size(PAGES))
        presence = made(buffer)
        if owned:
            presence.created(TOKEN, epoch=1, generation=1)
            presence.stored(Extent(0, 0, 3), array("I", [1, 2, 3]))
            presence.begin(Extent(0, 1, 3))
        return buffer

    def open_it(buffer: bytearray, generation: int) -> None:
        presence = made(buffer)
        if presence.opened(TOKEN, epoch=1, generation=generation, known_epoch=1, incomplete=False):
            presence.listed(0, 0, 0b1011, [1, 22, 44])
            presence.listed(0, 1, 0b1, [55])
            presence.filled()

    def told(buffer: bytearray) -> list[Any]:
        return [state(made(buffer), page) for page in (0, 1, 2, 3, 4, 511, 512)]

    whole = prepare()
    open_it(whole, 2)
    instruction = 0
    while True:
        buffer = prepare()
        killer = Killer(instruction)
        with killer:
            open_it(buffer, 2)
        if killer.left >= 0:
            break
        open_it(buffer, 3)
        assert told(buffer) == told(whole), instruction
        instruction += 7
    assert instruction > 500
    expected = [(True, False, 1), (True, False, 22), (False, False, None), (True, False, 44), (False, False, None)]
    assert told(whole)[:5] == expected
