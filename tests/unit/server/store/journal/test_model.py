"""A journal beside a dict: killed at any byte, what was acknowledged is there, what was removed stays away, the rest is either."""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.journals import Host, SteppedFiles, Writer, contents
from tests.pages import PAGE, random_page, same_filled_page, text_page

from tmem.server.host import journal_directory as files_module
from tmem.server.store.interface import Flushed, Stored
from tmem.server.store.journal import rewriter
from tmem.server.store.pending import Pending
from tmem.wire.errors import StoreFailed
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Reason

PAGES = [*(text_page(seed) for seed in range(4)), random_page(1), random_page(2), same_filled_page()]
Handle = tuple[int, int]
Page = tuple[bytes, Version] | None

durable = st.sampled_from(["one", "two"])
names = st.sampled_from(["one", "two", "memory"])
objects = st.sampled_from([0, 7, (1 << 192) - 1])
firsts = st.sampled_from([0, 1, 3, 255, 508])
counts = st.sampled_from([1, 1, 2, 4, 18])


class Killed(BaseException):
    """The daemon is no more."""


class Disk:
    """os.writev that writes in parts, fails when told to, and kills the daemon after so many bytes."""

    def __init__(self) -> None:
        self.at_most = 1 << 30
        self.failing: Callable[[], bool] = lambda: False
        self.left: int | None = None

    def __call__(self, file: int, pieces: list[memoryview]) -> int:
        data = b"".join(pieces)[: self.at_most]
        if self.left is not None and len(data) >= self.left:
            os.write(file, data[: self.left])
            raise Killed
        if self.failing():
            os.write(file, data[: len(data) // 2])
            raise OSError(errno.EIO, "no")
        written = os.write(file, data)
        if self.left is not None:
            self.left -= written
        return written


@dataclass(eq=False)
class Change:
    """Something that was asked for and is not answered.

    Attributes:
        after: what its handles hold if it was done.
        heard: whether anybody still listens to the answer.
    """

    after: dict[Handle, Page]
    result: Any
    heard: bool = True


@dataclass
class Known:
    """What is known of a pool.

    Attributes:
        may: what each handle may hold after a crash, oldest first; the first was acknowledged.
        held: what the store holds now.
        changes: not answered yet.
    """

    may: dict[Handle, list[Page]] = field(default_factory=dict)
    held: dict[Handle, Page] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def busy(self, handle: Handle) -> bool:
        return any(handle in change.after for change in self.changes)


class JournalMachine(RuleBasedStateMachine):
    """Two durable pools and one of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tmem-"))
        self.lives = 0
        self.disk = Disk()
        self.mode = "well"
        self.last: Any = None
        self.host = self.start()
        self.sequences: dict[str, int] = {}
        self.known: dict[str, Known] = {}
        for name in ("one", "two"):
            self.host.make(name, quota_bytes=150_000)
            self.known[name] = Known()
        self.make_memory()

    def make_memory(self) -> None:
        self.host.make("memory", durable=False)
        self.known["memory"] = Known()

    def start(self) -> Host:
        return Host(self.root / str(self.lives), limit=8 << 20, segment_bytes=128 << 10, write=self.disk, stepped=True)

    def writer(self, name: str) -> Writer:
        writer = self.host.find(name)
        writer.sequence = self.sequences.get(f"{name}/{writer.pool.generation}", 0)
        return writer

    def note(self, name: str, writer: Writer) -> None:
        self.sequences[f"{name}/{writer.pool.generation}"] = writer.sequence

    # ---- Operations ----

    def asked(self, name: str, change: Change, on_answer: Callable[[Any], None]) -> None:
        known = self.known[name]
        for handle, page in change.after.items():
            known.may.setdefault(handle, [None]).append(page)
        known.changes.append(change)

        def answered(result: Any) -> None:
            known.changes.remove(change)
            if change.heard:
                on_answer(result)

        if isinstance(change.result, Pending):
            change.result.when_settled(answered)
        else:
            answered(change.result)

    @rule(name=names, obj=objects, first=firsts, count=counts, page=st.integers(0, len(PAGES) - 1), more=st.booleans())
    def put(self, name: str, obj: int, first: int, count: int, page: int, more: bool) -> None:
        known = self.known[name]
        count = min(count, 512 - first)
        items = [(obj, first, b"".join(PAGES[(page + number) % len(PAGES)] for number in range(count)))]
        if more:
            items.append((obj, 100, PAGES[page]))
            items.append((obj, first, PAGES[page - 1]))
        handles = [(obj, first + number) for number in range(count)] + [(obj, 100)] * more
        if any(known.busy(handle) for handle in handles):
            return
        writer = self.writer(name)
        version = writer.version()
        self.note(name, writer)
        self.do_put(name, writer, items, version)

    def do_put(self, name: str, writer: Writer, items: list[tuple[int, int, bytes]], version: Version) -> Change:
        known = self.known[name]
        result = writer.ask_put(*items, version=version)
        handles = [(obj, index + number) for obj, index, plain in items for number in range(len(plain) // PAGE)]
        # What was refused at once is seen at once, as the store's work is done before it answers.
        now = contents(self.host.store, writer.key)
        after = {handle: now.get(handle) for handle in handles}
        known.held.update(after)
        change = Change(after, result)

        def answered(stored: Stored) -> None:
            reasons = stored.reasons or [0] * len(items)
            assert set(reasons) <= {0, Reason.QUOTA, Reason.IO, Reason.UNSETTLED}
            failed = bool({Reason.IO, Reason.UNSETTLED} & set(reasons))
            unsettled = Reason.UNSETTLED in reasons
            for handle, page in after.items():
                if failed:
                    assert handle not in contents(self.host.store, writer.key)
                    known.held[handle] = None
                if unsettled:
                    known.may[handle].append(None)
                else:
                    known.may[handle] = [None if failed else page]

        self.asked(name, change, answered)
        self.last = (name, writer, items, version, change)
        return change

    @rule()
    def put_again(self) -> None:
        """A client that lost its connection repeats what was not answered; only the last answer reaches it."""
        if self.last is None or self.last[0] == "memory":
            return
        name, writer, items, version, change = self.last
        if change not in self.known[name].changes:
            return
        change.heard = False
        self.do_put(name, writer, items, version)

    @rule(name=names, obj=objects, first=firsts, count=counts, conditional=st.booleans())
    def flush(self, name: str, obj: int, first: int, count: int, conditional: bool) -> None:
        known = self.known[name]
        count = 1 if conditional else min(count, 512 - first)
        handles = [(obj, first + number) for number in range(count)]
        if any(known.busy(handle) for handle in handles):
            return
        condition = None
        if conditional:
            held = known.held.get(handles[0])
            if held is None:
                return
            condition = held[1]
        writer = self.writer(name)
        result = writer.ask_flush(obj, first, count, condition)
        self.note(name, writer)
        self.removed(name, handles, result)

    @rule(name=names, obj=objects)
    def flush_object(self, name: str, obj: int) -> None:
        known = self.known[name]
        handles = [handle for handle in known.may if handle[0] == obj]
        if any(known.busy(handle) for handle in handles):
            return
        writer = self.writer(name)
        result = self.host.store.flush_object(writer.key, writer.version(), [obj])
        self.note(name, writer)
        self.removed(name, handles, result)

    @rule(name=names, obj=objects, first=firsts)
    def refuse(self, name: str, obj: int, first: int) -> None:
        if self.known[name].busy((obj, first)):
            return
        writer = self.writer(name)
        result = self.host.store.refuse(writer.key, writer.version(), [Extent(obj, first, 1)], Reason.FROZEN)
        self.note(name, writer)
        self.removed(name, [(obj, first)], result)

    def removed(self, name: str, handles: list[Handle], result: Any) -> None:
        known = self.known[name]
        after: dict[Handle, Page] = dict.fromkeys(handles)
        known.held.update(after)

        def answered(done: Flushed | Stored) -> None:
            if {Reason.IO, Reason.UNSETTLED} & set(done.reasons or ()):
                return  # it may be there still
            for handle in handles:
                known.may[handle] = [None]

        self.asked(name, Change(after, result), answered)

    @rule(name=durable)
    def open(self, name: str) -> None:
        pool = self.host.pool(name)
        generation = pool.generation
        token = next(iter(pool.members.values())).token
        try:
            self.host.lifecycle.open("t", name, token, 0.0)
        except StoreFailed:
            assert self.mode != "well"
            assert (pool.generation, list(pool.members)) == (generation, [generation])

    @rule(name=durable)
    def replace(self, name: str) -> None:
        try:
            self.host.lifecycle.destroy(self.host.pool(name))
        except StoreFailed:
            assert self.mode != "well"
            return
        for change in self.known[name].changes:
            change.heard = False
        self.host.settle()
        self.known[name] = Known()
        self.fail("well")
        self.host.make(name, quota_bytes=150_000)

    # ---- The disk ----

    @rule(share=st.booleans())
    def write(self, share: bool) -> None:
        assert isinstance(self.host.files, SteppedFiles)
        self.host.files.turn()
        if share:
            self.host.settle()

    @rule(mode=st.sampled_from(["well", "well", "all", "every second", "every third"]))
    def fail(self, mode: str) -> None:
        self.mode = mode
        calls = itertools.count()
        self.disk.failing = {
            "well": lambda: False,
            "all": lambda: True,
            "every second": lambda: next(calls) % 2 == 0,
            "every third": lambda: next(calls) % 3 == 2,
        }[mode]

    @rule(at_most=st.sampled_from([7, 100, 5000, 1 << 30]))
    def short(self, at_most: int) -> None:
        self.disk.at_most = at_most

    @rule(steps=st.integers(1, 10))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            if not self.host.store.step():
                break

    @rule(after=st.integers(0, 20_000), settle=st.booleans())
    def kill(self, after: int, settle: bool) -> None:
        """Dies after so many more bytes were written, and comes back."""
        self.disk.left = after
        with contextlib.suppress(Killed):
            if settle:
                self.host.settle()
            else:
                self.host.files._turn()
        self.come_back()

    @rule()
    @precondition(lambda self: self.mode == "well")
    def restart(self) -> None:
        self.host.settle()
        self.come_back()

    def come_back(self) -> None:
        old = self.root / str(self.lives)
        self.lives += 1
        shutil.copytree(old, self.root / str(self.lives))
        self.host.files.close()
        self.host.plain.close()
        shutil.rmtree(old)
        self.disk = Disk()
        self.mode = "well"
        self.last = None
        self.host = self.start()
        assert {pool.name for pool in self.host.table} == {"one", "two"}
        for name in ("one", "two"):
            known = self.known[name]
            found = contents(self.host.store, self.host.pool(name).key)
            for handle, may in known.may.items():
                assert found.get(handle) in may, (name, handle)
            assert found.keys() <= known.may.keys()
            known.may = {handle: [found.get(handle)] for handle in known.may}
            known.held = dict(found)
            known.changes = []
        self.make_memory()

    # ---- What always holds ----

    @invariant()
    def it_holds_what_was_put(self) -> None:
        for name, known in self.known.items():
            key = self.host.pool(name).key
            held = {handle: page for handle, page in known.held.items() if page is not None}
            if not known.changes:
                assert contents(self.host.store, key) == held
                counts = self.host.store.counts(key)
                assert counts.pages == len(held)
                assert counts.objects == len({obj for obj, _ in held})
        assert not self.known["memory"].changes

    def teardown(self) -> None:
        self.host.files.close()
        self.host.plain.close()
        shutil.rmtree(self.root)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passes begin early, files are short, and nothing is forced to the disk: a process is killed here, not a machine."""
    monkeypatch.setattr(rewriter, "_REWRITE_BYTES", 10_000)
    monkeypatch.setattr(rewriter, "_REWRITE_FACTOR", 1.2)
    monkeypatch.setattr(rewriter, "_CHECK_BYTES", 20_000)
    monkeypatch.setattr(files_module, "_FILE_BYTES", 60_000)
    monkeypatch.setattr(files_module, "_RESERVE_BYTES", 8192)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    import structlog

    structlog.configure(processors=[drop])
    yield
    structlog.reset_defaults()


def drop(_logger: object, _name: str, _event: object) -> Any:
    import structlog

    raise structlog.DropEvent


@pytest.mark.usefixtures("small")
def test_a_journal_holds_what_a_dict_would() -> None:
    machine: Any = JournalMachine
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
    machine.TestCase().runTest()
