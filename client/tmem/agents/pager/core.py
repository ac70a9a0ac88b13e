"""The pager's core: what a touch of a page, a removal, an answer and the passing of time lead to.

Owns: faults, and the order in which work is done: what a thread waits for comes first; everything else is done in steps that
are short enough for a fault to wait for. `evictions`, `fetches`, `owed`, `clock`, `ahead`, `homecoming`, `recorder` and `takeover`
own their parts.

Must not know: the kernel, the network, the clock on the wall. It has two ports, gets the time with each call, and runs in one
thread. A message about a page is a hint only: what is done follows from the table.

    with each touch   NEVER: zeros. RESIDENT: mapped again, or unprotected. EVICTING: the eviction is cancelled. REMOTE: fetched.
                      RESTORING: the answer will wake it. LOST: SIGBUS
    the limit         is kept by waiting: a touch that needs room waits until an eviction has made some, as long as a target
                      takes pages. When none does the limit is soft: the program goes on, in more local memory

Units: units; seconds.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from tmem.wire.limits import BLOCK_PAGES, MAX_CHUNK_PAGES

from .ahead import ReadAhead
from .clock import Clock
from .evictions import Evictions
from .fetches import Fetches
from .homecoming import Homecoming
from .ledger import Figures, Ledger
from .owed import Owed
from .ports import AgainError, Fault, Memory, NoRoomError, Remote
from .recorder import Recorder
from .settings import Settings
from .stride import Strides
from .table import Flag, State, Table
from .takeover import take_over

__all__ = ["Pager"]

_INFINITE = float("inf")
_REFUSABLE = frozenset((State.NEVER, State.REMOTE, State.RESTORING))
_WP, _MINOR = int(Fault.WP), int(Fault.MINOR)
_LIFT = 1 << 16  # in the place of Fault bits: nobody has touched it, its poison is to be lifted
_HEAL_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 0.1  # while somebody waits for room: a target falls silent without telling


class Pager:
    """The pager of one region.

    Args:
        settings: the region's.
        table: where its units are. A table that another agent has left is taken over by `take_over`.
        memory, remote: the ports.
        now: the time.
    """

    def __init__(self, settings: Settings, table: Table, memory: Memory, remote: Remote, now: float) -> None:
        self.settings = settings
        self.table = table
        self._memory = memory
        self._remote = remote
        pages = settings.pages.unit_pages
        self._block = max(BLOCK_PAGES // pages, 1)
        self.ledger = Ledger(table, memory, remote, settings, limit=settings.resident // settings.unit)
        self._owed = Owed(table, remote, pages, self._block)
        self._evictions = Evictions(self.ledger, self._owed)
        self._fetches = Fetches(self.ledger, self._owed, self._came)
        run = max(MAX_CHUNK_PAGES // pages, 1)
        probation = self._probation() if settings.sampling else 0
        # A victim is one chunk at most, and a whole one where it can be: what is written over later is replaced as a whole.
        self._clock = Clock(table, run=run, block=run, probation=probation)
        strides = Strides(settings.units, settings.prefetch // settings.unit)
        self._ahead = ReadAhead(
            self.ledger, self._fetches, strides, self._block, room=self._room, zero=self._zero_ahead
        )
        self._recorder = Recorder(self.ledger)
        self._homecoming = Homecoming(settings.inertia, max(4 * run, 1), now)
        self._waiting: deque[tuple[int, int]] = (
            deque()
        )  # touches that wait for room, and poison that waits to be lifted
        self._retold: deque[tuple[int, int]] = deque()  # touches that came while the program was changing its memory
        self._heal_at = now
        self._machine_spare = settings.units
        self._now = now

    # ---- What others look at ----

    @property
    def figures(self) -> Figures:
        """What was done so far."""
        return self.ledger.figures

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way, owed or waited for."""
        ledger = self.ledger
        return not (
            ledger.evicting
            or self._fetches.in_flight
            or self._owed.pending
            or self._waiting
            or self._retold
            or ledger.again
        )

    def note_time(self, now: float) -> None:
        """The time, for what answers lead to; call it before the targets are asked for theirs."""
        self._note(now)

    def waits(self, now: float) -> list[float]:
        """How long those waited who got a remote page since this was called last."""
        served = self._fetches.served
        if not served:
            return []
        self._fetches.served = []
        return [now - touched for touched in served]

    # ---- The start ----

    def take_over(self, now: float) -> None:
        """Goes on from a table that another agent has left, killed at whatever instruction."""
        self._note(now)
        take_over(self.ledger, self._fetches, self._owed, self._give_up, now)

    # ---- Events ----

    def deliver(self, removals: Sequence[tuple[int, int]], touches: Sequence[tuple[int, int]], now: float) -> None:
        """What was read from the program, all at once.

        Removals come first, whatever the order of the messages: the program goes on removing from the moment at which they
        are read, so nothing may be mapped in between by what the table said before. A touch that was told before the
        removal races with it in the program itself.

        Args:
            removals: ranges that the program gives up, as (page, pages): it wants zeros from now on.
            touches: units that threads have touched and wait for, as (unit, Fault bits).
            now: the time.
        """
        self._note(now)
        for page, pages in removals:
            self._removed(page, page + pages)
        self.figures.faults += len(touches)
        for unit, flags in touches:
            self._touched(unit, flags)
        self._fetches.send()

    def _touched(self, unit: int, flags: int) -> None:
        table = self.table
        state = table.states[unit]
        try:
            if state == State.REMOTE:
                self._want(unit, flags)
            elif state == State.RESIDENT:
                self._show(unit, flags)
            elif state == State.NEVER:
                self._first_touch(unit, flags)
            elif state == State.EVICTING:
                self._evictions.cancel(unit)
                self._show(unit, flags)
            elif state == State.RESTORING:
                self._fetches.expect(unit)
                table.flags[unit] |= Flag.USED
                self._ahead.touched(unit)
            else:
                self._memory.punch(unit, 1)
                self._memory.poison(unit, 1)
        except AgainError:
            self._retold.append((unit, flags | _MINOR))  # by then something may lie there

    def _show(self, unit: int, flags: int) -> None:
        """The program sees a unit that is here, and may write to it."""
        if flags & _WP:
            self._memory.unprotect(unit, 1)
        elif self._memory.resume(unit, 1) and not self._fill(unit):
            return
        if self._clock.used(unit):
            self.figures.sampled += 1
        self.table.flags[unit] |= Flag.USED
        self._ahead.touched(unit)

    def _fill(self, unit: int) -> bool:
        """Not all of a unit that is touched is there, and the table says it is; whether it is now."""
        # The program has removed it, or a part, and touched it again before the message about that was read; or it was to be zeros
        # and the program stood in the way. Or it can't have been so.
        if self.table.flags[unit] & Flag.ZEROS:
            with suppress(NoRoomError):
                self._memory.zero(unit, 1)  # what is there stays as it is
                return True
        self._gone(unit)
        if self.table.states[unit] == State.NEVER:
            self._first_touch(unit, 0)
        return False

    def _first_touch(self, unit: int, flags: int) -> None:
        if not self._has_room(1):
            self._wait(unit, flags)
            return
        if flags & _MINOR:
            self._memory.punch(unit, 1)  # what was there when the program gave it up must not be seen again
        try:
            self._zero(unit, 1)
        except NoRoomError:
            self._fetches.expect(unit)
            self._wait(unit, flags)
            return
        self.table.flags[unit] |= Flag.USED
        self._ahead.missed(unit, first_touch=True)

    def _zero(self, first: int, count: int) -> None:
        table, ledger = self.table, self.ledger
        table.set_flags(first, count, Flag.ZEROS)
        table.set_states(first, count, State.RESIDENT)
        try:
            self._memory.zero(first, count)
        except NoRoomError:
            table.set_states(first, count, State.NEVER)
            raise
        except AgainError:
            # Part of it may be mapped, and written to: it is here. What is not is zeros, when it is touched again.
            ledger.again.append(("wake", first, count))
            self._fetches.lift(first, count)
        else:
            self._fetches.lifted(first, count)
        ledger.take(count)
        ledger.top = max(ledger.top, first + count)
        ledger.figures.zeroed += count
        self._fetches.forget(first, count)
        self._clock.came(first, count)

    def _zero_ahead(self, first: int, count: int) -> None:
        # The program may have given some of it up and not removed it yet: its old bytes are still in the file, and if they went away
        # before it comes to that they would be what it reads afterwards.
        self._memory.punch(first, count)
        step = (
            count if self.ledger.unit_pages == 1 else 1
        )  # huge ones one by one: there may be memory for the first only
        with suppress(NoRoomError):
            for unit in range(first, first + count, step):
                self._zero(unit, step)

    def _want(self, unit: int, flags: int) -> None:
        self._fetches.expect(unit)
        if not self._has_room(1) or not self._fetches.begin(unit, 1):
            self._wait(unit, flags)
            return
        self.figures.restored += 1
        self.table.flags[unit] |= Flag.USED
        self._ahead.missed(unit, first_touch=False)

    def _wait(self, unit: int, flags: int) -> None:
        self._waiting.append((unit, flags | _MINOR))  # by then something may lie there, which the program has given up
        self.figures.deferred += 1

    def _has_room(self, count: int) -> bool:
        return self.ledger.resident + count <= self.ledger.limit or self._evictions.accepting() is None

    def _room(self) -> int:
        """Units that may come; while the limit is soft, as many as anybody wants."""
        return self.ledger.free if self._evictions.accepting() is not None else self.table.units

    def _removed(self, page: int, end: int) -> None:
        unit_pages = self.settings.pages.unit_pages
        first, rest = divmod(page, unit_pages)
        last, beyond = divmod(end, unit_pages)
        if rest:
            self._removed_part(first)
            first += 1
        if beyond and last >= first:
            self._removed_part(last)
        if last > first:
            self._give_up(first, last - first)
            self._memory.wake(first, last - first)

    def _give_up(self, first: int, count: int) -> None:
        table, ledger = self.table, self.ledger
        states, flags = table.states, table.flags
        for unit in range(first, min(first + count, ledger.top)):
            state = states[unit]
            if state == State.RESTORING:
                flags[unit] |= Flag.DROP
            elif state != State.NEVER:
                if state == State.EVICTING:
                    self._evictions.cancel(unit)
                target = table.targets[unit]
                if state == State.LOST:
                    flags[unit] |= Flag.POISONED
                states[unit] = State.NEVER
                flags[unit] &= Flag.POISONED
                if flags[unit]:  # the program's removal leaves the poison where it is
                    self._fetches.poisoned.add(unit)
                    self._fetches.lift(unit, 1)
                if state == State.REMOTE:
                    ledger.remote -= 1
                    self._owed.add(target, unit, 1, self._now)
                elif state != State.LOST:
                    ledger.resident -= 1
        self._fetches.forget(first, count)
        # Last: an agent killed before this notes all of them once more, which changes nothing.
        table.freed[first : first + count] = bytes(count)

    def _removed_part(self, unit: int) -> None:
        """The program gives a part of a unit up: possible only while the unit is at home, as nothing remembers parts.

        A unit that is away, or coming, is lost for the program: SIGBUS. The shim and FarMemory remove whole units only.
        """
        state = self.table.states[unit]
        if state == State.EVICTING:
            self._evictions.cancel(unit)
            self.ledger.unprotect(unit, 1)
        if state in {State.RESIDENT, State.EVICTING}:
            self.table.set_flags(unit, 1, Flag.ZEROS)
        elif state == State.RESTORING:
            self.table.set_flags(unit, 1, Flag.DROP | Flag.PART)
        elif state == State.REMOTE:
            self._give_up(unit, 1)
            self.table.states[unit] = State.LOST
            self._fetches.lifted(unit, 1)  # it never will be
            self.figures.lost += 1
            self.ledger.poison(unit, 1)
        self._memory.wake(unit, 1)

    # ---- What the program asks for ----

    def resize(self, limit: int, now: float) -> None:
        """Another limit, in units."""
        self._note(now)
        self.ledger.limit = limit
        if self._clock.probation:
            self._clock.probation = self._probation()

    def _probation(self) -> int:
        return max(self.ledger.limit // 8, MAX_CHUNK_PAGES // self.settings.pages.unit_pages, 1)

    def machine(self, spare: int, *, can_hide: bool) -> None:
        """How the machine is.

        Args:
            spare: units of memory that it could do without; nothing comes home by itself into less.
            can_hide: whether pages can be hidden from the program now.
        """
        self._machine_spare = spare
        self._clock.probation = self._probation() if can_hide and self.settings.sampling else 0

    def bring(self, runs: list[tuple[int, int]], done: Callable[[], None], now: float) -> None:
        """Fetches what is REMOTE of these runs, as far as the limit has room for them; `done` when all of that is home."""
        self._note(now)
        self._ahead.bring(runs, done)

    def record(self, done: Callable[[], None], now: float) -> None:
        """Forgets which units were used so far, and hides all that are resident, so that using them is seen; then `done`."""
        self._note(now)
        self._recorder.begin(done)

    def recorded(self, now: float) -> None:
        """Ends the recording."""
        self._note(now)
        self._recorder.end()

    # ---- Work in steps ----

    def step(self, now: float) -> float:
        """Does a little of what there is to do; answers in how many seconds to call again: 0 = there is more."""
        self._note(now)
        more = self._retry()
        self._admit()
        more |= self._evict()
        more |= not self._waiting and self._ahead.step()
        more |= self._recorder.step()
        if self._owed.next_time() <= now or self._owed.pending > BLOCK_PAGES:
            self._owed.pay(now)
        self._return_home()
        self._fetches.send()
        return 0.0 if more else max(self._next_time() - now, 0.0)

    def _next_time(self) -> float:
        soonest = min(self._owed.next_time(), self._fetches.next_time())
        if self._waiting:
            soonest = min(soonest, self._now + _LOOK_AGAIN_SECONDS)
        elif self._spare() > 0:
            soonest = min(soonest, self._homecoming.next_time(self.ledger.remote))
        if self._fetches.poisoned:
            soonest = min(soonest, self._heal_at)
        return soonest

    def _note(self, now: float) -> None:
        self._now = now
        self._evictions.advance(now)
        self._fetches.advance(now)

    def _retry(self) -> bool:
        """Calls that the program stood in the way of, as far as they are still right."""
        again, self.ledger.again = self.ledger.again, deque()
        states = self.table.states
        for method, first, count in again:
            for unit in range(first, first + count):
                state = states[unit]
                if method == "resume" and state == State.RESIDENT:
                    self.ledger.resume(unit, 1)
                elif method == "poison" and (
                    state == State.LOST or (state in _REFUSABLE and unit in self._fetches.poisoned)
                ):
                    self.ledger.poison(unit, 1)
                elif method == "lift":
                    self._lift(unit)
                elif method == "wake":
                    self._memory.wake(unit, 1)
        retold, self._retold = self._retold, deque()
        for unit, flags in retold:
            self._touched(unit, flags)
        for unit in self._fetches.due(self._now):
            self._touched(unit, 0)
        if self._fetches.awaited:
            self._fetches.expire(self._now)
        return bool(self.ledger.again or self._retold)

    def _admit(self) -> None:
        """Touches that waited for room, one for each unit that is free."""
        waiting = self._waiting
        while waiting and self._has_room(1):
            before = len(waiting)
            unit, flags = waiting.popleft()
            if flags == _LIFT:
                self._lift(unit)
            else:
                self._touched(unit, flags)
            if len(waiting) >= before:  # no memory after all, whatever the limit says
                return

    def _evict(self) -> bool:
        """Sends the next part of a run, or sends off a run if there is too little room."""
        evictions, ledger = self._evictions, self.ledger
        if evictions.grew:
            evictions.grew = False
            self._homecoming.grew(self._now)
        if evictions.busy:
            evictions.compress()
            if self._waiting and evictions.gathered:
                evictions.send()
            return True
        excess = ledger.resident - ledger.evicting - (ledger.limit - ledger.headroom)
        pressed = bool(self._waiting) and not ledger.evicting
        if (excess > 0 or pressed) and not evictions.full and evictions.accepting() is not None:
            sampled = self._sample()
            victims = self._clock.victims(ledger.top, urgent=bool(self._waiting))
            if victims is not None:
                self._send_off(*victims)
                return True
            if sampled or self._waiting:
                return True
        if evictions.gathered:
            evictions.send()
        return False

    def _send_off(self, first: int, count: int) -> None:
        with suppress(AgainError):  # the next step looks again
            missing = [unit for unit in self._memory.missing(first, count) if not self._is_zeros(unit)]
            for unit in missing:
                self._gone(unit)
            if not missing:
                self._evictions.begin(first, count)

    def _is_zeros(self, unit: int) -> bool:
        """A unit of which not all is there: whether what is not there is zeros, and there is memory for them."""
        if not self.table.flags[unit] & Flag.ZEROS:
            return False
        try:
            self._memory.reserve(unit)
        except NoRoomError:
            return False
        return True

    def _gone(self, unit: int) -> None:
        """In the table it is here, in the file it is not: it is zeros if that can be so, and lost if not."""
        self.ledger.resident -= 1
        if self.table.flags[unit] & Flag.ZEROS:
            self.table.states[unit] = State.NEVER
        else:
            self.table.states[unit] = State.LOST
            self.figures.lost += 1
            self._memory.punch(unit, 1)
            self.ledger.poison(unit, 1)

    def _sample(self) -> bool:
        """Hides the next run, to see whether it is used."""
        run = self._clock.sample(self.ledger.top) if self._clock.probation else None
        if run is None:
            return False
        if self._memory.hide(*run):
            self.figures.hidden += run[1]
            self._clock.hidden(*run)
        else:
            self._clock.probation = 0
        return True

    def _came(self, first: int, count: int) -> range:
        """A run is home: tells the clock, and answers what is not to be mapped before it is touched."""
        self.table.clear_flags(first, count, Flag.ZEROS)
        self._clock.came(first, count)
        if self._recorder.recording:
            return range(first, first + count)
        return self._ahead.unseen(first, count)

    # ---- Coming home ----

    def _spare(self) -> int:
        """Room beyond what evictions keep free."""
        return min(self.ledger.free - self.ledger.headroom, self._machine_spare)

    def _return_home(self) -> None:
        """Brings units home for which there is room, a few at a time; first those that the program was refused."""
        if self._fetches.poisoned and self._now >= self._heal_at:
            self._heal_at = self._now + _HEAL_SECONDS
            for unit in list(self._fetches.poisoned):
                if self._may_heal(unit):
                    self._fetches.begin(unit, 1)
                else:
                    self._lift(unit)
        if self._waiting or self._ahead.busy:
            return
        due = self._homecoming.due(self.ledger.remote, self._spare(), self._now)
        at = 0
        while due > 0:
            at = self.table.states.find(bytes((State.REMOTE,)), at, self.ledger.top)
            if at < 0:
                return
            fetched = self._ahead.fetch_first(at, min(at + due, self.ledger.top))
            if not fetched:
                return
            self.figures.returned += fetched
            due -= fetched
            at += fetched

    def _lift(self, unit: int) -> None:
        """Takes the poison off a unit that is at home, or is zeros; as long as that can't be done it stays poisoned."""
        if unit not in self._fetches.poisoned:
            return
        state = self.table.states[unit]
        try:
            if state == State.RESIDENT:
                if not self._memory.resume(unit, 1):
                    self._fetches.lifted(unit, 1)
                elif self.table.flags[unit] & Flag.ZEROS:
                    self._memory.zero(unit, 1)  # what is there stays as it is
                    self._fetches.lifted(unit, 1)
                else:
                    self._gone(unit)
                    self._fetches.lifted(unit, 1)  # it never will be
            elif state == State.NEVER and not self._has_room(1):
                self._lift_with_room(unit)
            elif state == State.NEVER:
                # Only a page lifts it: a unit that nobody has touched takes memory, and goes as others go.
                self._memory.punch(unit, 1)
                self._zero(unit, 1)
        except NoRoomError:
            self._lift_with_room(unit)
        except AgainError:
            self._fetches.lift(unit, 1)

    def _lift_with_room(self, unit: int) -> None:
        """Asks for room as a touch would, but never keeps more than one place in the line."""
        if not self._waiting:
            self._waiting.append((unit, _LIFT))

    def _may_heal(self, unit: int) -> bool:
        return (
            self.table.states[unit] == State.REMOTE
            and self._remote.accepting(self.table.targets[unit])
            and self._has_room(1)
        )
