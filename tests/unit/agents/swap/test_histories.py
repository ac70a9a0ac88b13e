"""Histories of requests that overlap, fail, and survive workers, held against a model of each page.

Each request has a moment when it came and one when it was answered. A read may return what a request made of a page if that
request came before the read was answered, and no other one lies wholly between the two. What a failed write made of a page
is "unreadable": its reads must fail, until something else is made of it.
"""

import errno
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.agents.swap.doubles import Call, Clock, Kernel, Pool

from tmem.agents.swap.core import Core
from tmem.agents.swap.protocol import Allocate, Read, Write
from tmem.agents.swap.shared import CONTROL_BYTES
from tmem.wire.errors import OutOfCapacity, Unavailable

PAGE = 4096
PAGES = 1024
# Around the border of two blocks, so that requests cross it.
FIRST, COUNT = 506, 12
UNREADABLE = object()
ZERO = bytes(8)

kinds = st.sampled_from(
    ["write", "write", "read", "punch", "part", "step", "finish", "finish", "refuse", "fail", "die", "tick"]
)
steps = st.lists(
    st.tuples(kinds, st.integers(0, COUNT - 1), st.integers(1, 5), st.integers(0, 1000)), min_size=5, max_size=80
)


class Effect:
    """What one request made of one page."""

    def __init__(self, value: object, came: int) -> None:
        self.value = value
        self.came = came
        self.answered: int | None = None


class History:
    """The device, the requests on their way, and the model."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.kernel = Kernel()
        self.clock = Clock()
        self.states = bytearray(PAGES)
        self.words = memoryview(bytearray(CONTROL_BYTES)).cast("Q")
        self.moment = 0
        self.number = 0
        self.open: dict[int, tuple[str, Any, dict[int, Effect], int]] = {}
        self.effects: dict[int, list[Effect]] = {page: [Effect(ZERO, -1)] for page in range(PAGES)}
        for effects in self.effects.values():
            effects[0].answered = -1
        self.core = self.make_core()

    def make_core(self) -> Core:
        return Core(
            memoryview(self.states),
            self.words,
            self.pool,
            self.kernel,
            read_limit=30_000_000_000,
            write_limit=10_000_000_000,
            clock=self.clock,
        )

    def tell(self) -> int:
        self.moment += 1
        return self.moment

    # ---- Steps ----

    def write(self, first: int, count: int, mark: int) -> None:
        self.number += 1
        value = struct.pack("<II", self.number, mark)
        data = b"".join(struct.pack("<II", self.number, mark) * 512 for _ in range(count))
        effects = {page: Effect(value, self.tell()) for page in range(first, first + count)}
        self.begin("write", Write(self.number, first * PAGE, memoryview(bytearray(data))), effects)

    def part(self, first: int, mark: int) -> None:
        """The upper half of a page and the lower half of the next: not checked, so that both are replaced at once after it."""
        self.number += 1
        data = struct.pack("<II", self.number, mark) * 512
        effects = {page: Effect(None, self.tell()) for page in (first, first + 1)}
        self.begin("write", Write(self.number, first * PAGE + PAGE // 2, memoryview(bytearray(data))), effects)

    def punch(self, first: int, count: int) -> None:
        self.number += 1
        effects = {page: Effect(ZERO, self.tell()) for page in range(first, first + count)}
        self.begin("punch", Allocate(self.number, first * PAGE, count * PAGE, 3), effects)

    def read(self, first: int, count: int) -> None:
        self.number += 1
        self.tell()
        self.begin("read", Read(self.number, first * PAGE, count * PAGE), {})

    def begin(self, kind: str, request: Any, effects: dict[int, Effect]) -> None:
        for page, effect in effects.items():
            self.effects[page].append(effect)
        self.open[self.number] = (kind, request, effects, self.moment)
        self.core.handle(request, self.clock.now, lambda: None)
        if self.number % 3:
            self.core.send()
        self.settle()

    def die(self) -> None:
        """The worker is killed: what it had sent arrives or does not, what was unanswered is said again."""
        calls, self.pool.calls = list(self.pool.calls), type(self.pool.calls)()
        for call in calls[: len(calls) // 2]:
            if call.kind != "get":
                self.swallow(call)
        answers, self.kernel = self.kernel.answers, Kernel()
        self.kernel.answers = answers
        self.core = self.make_core()
        self.core.recover()
        for kind, request, _, _ in list(self.open.values()):
            if kind == "write":
                assert isinstance(request, Write)
            self.core.handle(request, self.clock.now, lambda: None)
        self.core.send()
        self.settle()

    def swallow(self, call: Call) -> None:
        """It is carried out, and nobody hears of it."""
        before = self.kernel
        self.kernel = self.core._answers = Kernel()
        for part in (self.core._reads, self.core._writes):
            part._answers = self.kernel
        states = bytes(self.states)
        call.run()
        self.states[:] = states
        self.kernel = before

    # ---- The model ----

    def settle(self) -> None:
        """Looks at the answers that have come."""
        for number in [number for number in self.open if number in self.kernel.answers]:
            kind, request, effects, came = self.open.pop(number)
            answer = self.kernel.answers.pop(number)
            moment = self.tell()
            for effect in effects.values():
                effect.answered = moment
                if isinstance(answer, int):
                    assert answer == errno.EIO
                    # A part of a page that could not be read first has changed nothing.
                    effect.value = UNREADABLE if effect.value is not None else None
            if kind == "read":
                self.check(request, answer, came, moment)

    def check(self, read: Read, answer: int | bytes, came: int, moment: int) -> None:
        pages = range(read.offset // PAGE, (read.offset + read.size) // PAGE)
        allowed = [self.allowed(page, came, moment) for page in pages]
        if isinstance(answer, int):
            assert answer == errno.EIO
            assert any(UNREADABLE in values or None in values for values in allowed) or self.failing
            return
        assert len(answer) == read.size
        for at, values in enumerate(allowed):
            found = answer[at * PAGE : (at + 1) * PAGE]
            if None in values:
                continue
            assert found == found[:8] * 512
            assert found[:8] in values, f"page {pages[at]}: {found[:8].hex()} is none of {values}"

    def allowed(self, page: int, came: int, answered: int) -> list[object]:
        effects = [effect for effect in self.effects[page] if effect.came < answered]
        return [
            effect.value
            for effect in effects
            if not any(
                other.came > (effect.answered if effect.answered is not None else answered)
                and other.answered is not None
                and other.answered < came
                for other in effects
            )
        ]

    failing = False

    def run(self, kind: str, at: int, count: int, chance: int) -> None:
        first, count = FIRST + at, min(count, COUNT - at)
        ready = self.pool.runnable()
        self.pool.refusal = None
        if kind == "write":
            self.write(first, count, chance)
        elif kind == "read":
            self.read(first, count)
        elif kind == "punch":
            self.punch(first, count)
        elif kind == "part" and at < COUNT - 1:
            self.part(first, chance)
        elif kind == "step":
            self.core.send()
            self.core.step()
        elif kind == "tick":
            self.clock.pass_seconds(0.3)
            self.core.tick()
        elif kind == "die":
            self.die()
        elif ready:
            call = ready[chance % len(ready)]
            if kind == "refuse":
                self.pool.refusal = OutOfCapacity("full")
                self.pool.refused = {FIRST + chance % COUNT}
            self.failing = kind == "fail"
            self.pool.finish(call, Unavailable("no") if kind == "fail" else None)
            self.settle()
            self.failing = False
        self.settle()

    def end(self) -> None:
        """All comes to rest, and is read once more."""
        self.pool.refusal = None
        for _ in range(1000):
            self.clock.pass_seconds(0.3)
            self.core.send()
            self.core.step()
            self.pool.finish_all()
            self.core.tick()
            self.settle()
            if not self.open and not self.core.busy:
                break
        assert not self.open, "requests are never answered"
        for page in range(FIRST, FIRST + COUNT):
            self.read(page, 1)
            self.core.send()
            self.pool.finish_all()
            self.settle()
        assert not self.open
        stored = set(self.pool.store)
        for page in range(FIRST, FIRST + COUNT):
            if all(value == ZERO for value in self.allowed(page, self.moment, self.moment + 1)):
                assert page not in stored, "given up, and never removed"


@settings(max_examples=150, deadline=None)
@given(steps)
def test_every_read_returns_what_it_may_and_every_request_is_answered(history):
    device = History()
    for step in history:
        device.run(*step)
    device.end()


def test_the_model_notices_an_old_page():
    device = History()
    device.run("write", 0, 1, 1)
    device.end()
    old = dict(device.pool.store)
    device.run("write", 0, 1, 2)
    device.core.step()
    device.pool.finish_all()
    device.settle()
    device.pool.store.update(old)
    with pytest.raises(AssertionError, match="is none of"):
        device.end()
