"""A device's life: attach and detach, step by step.

Owns: the order of the steps, and that a step that fails undoes those before it. Each step is written down (state.py) when it is
done, so that what a crash leaves can be taken down by the next `detach`; an attach that fails goes by what is written down as well.
No signal comes between a step and its line there. Whatever happened: while the kernel swaps to a device, whoever serves it stays.

    attach: pool on the server, holder (mounts, starts workers), loop device over the mounted file, swap header, swapon
    detach: does it fit? swapoff, the loop device goes by itself, unmount, the holder ends, and its worker destroys the pool

What is out stays in the server's memory until swapoff has brought it back: a detach that is interrupted, or that does not
fit, leaves the device as it was.
"""

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tmem.agents.host import kernel, loops, mounts, swaps
from tmem.agents.host.log import make_log
from tmem.agents.host.machine import Machine, missing
from tmem.agents.host.processes import Identity
from tmem.agents.host.signals import held
from tmem.wire.errors import InvalidOption, MachineUnfit, NoRoom
from tmem.wire.limits import PAGE_BYTES

from .config import Config, shelter_name
from .fits import crowded, machine_hierarchy, obstacles
from .protocol import FILE_NAME
from .remote import NewPool, pool_name, presence_bytes
from .requirements import needs, server_swapless
from .shared import Word
from .state import Record, Site, open_control

__all__ = ["Options", "Outcome", "attach", "detach", "swapped_to"]

_LOOP_SECTOR_BYTES = 4096
_END_SECONDS = 20.0
# The kernel sums up what a group has out every two seconds: programs that have just ended may still be in its count.
_STALE_SECONDS = 2.5
_SWAPOFF_ATTEMPTS = 5
_GONE_SECONDS = 2.0
_POLL_SECONDS = 0.1

Progress = Callable[[int, int], None]
"""Told how much is still out, and how much was, in bytes."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `attach` is asked for.

    Attributes:
        size: bytes of plain pages.
        overcommit: the compression that is counted on: 1 = none, so that there is room for whatever comes.
        priority: of the swap area, 0..32767; None = after those in use.
        io_deadline: seconds until a read fails. write_deadline: until a write does.
        log: where holder and workers write; None = the site's log file.
    """

    target: str
    token: str | None
    size: int
    priority: int | None = None
    durability: str = "memory"
    overcommit: float = 1.0
    chunk_pages: int = 4
    io_deadline: float = 30.0
    write_deadline: float = 10.0
    log: int | None = None


def attach(site: Site, options: Options) -> Record:
    """Makes a device, and lets the kernel swap to it.

    Raises:
        MachineUnfit: the machine lacks something. InvalidOption: the device exists, or can't be. TmemError: the server refuses.
        OSError: the machine does.
    """
    if options.size < 64 * PAGE_BYTES or options.size % PAGE_BYTES:
        raise InvalidOption(f"a device of {options.size} bytes can't be: whole pages of 4096 bytes, and 64 at least")
    machine = Machine()
    lacking = missing([*needs(machine), server_swapless(options.target, machine)])
    if lacking:
        lines = "\n".join(f"  {need.what}: {need.found}. {need.advice}" for need in lacking)
        raise MachineUnfit(f"this machine can't swap to a server yet:\n{lines}")
    with site.locked():
        if site.read() is not None:
            raise InvalidOption(
                f"a device named {site.name!r} is attached already, or something is left of it: see `tmem swap status`, "
                "and take it down with `tmem swap detach`"
            )
        # The innermost is undone first: whoever serves ends before the pool that it serves from goes.
        with NewPool(options.target, options.token, pool_name(site.name)) as pool:
            try:
                with held():
                    pool.create(options.size // PAGE_BYTES, options.overcommit, options.durability, options.chunk_pages)
                config, record = _write_down(site, options, pool)
                record = _start_holder(site, record, config, options.log)
                record = _swap_on(site, record, options.priority)
            except BaseException:
                with held():
                    _undo(site)
                raise
    return record


def _undo(site: Site) -> None:
    """Takes down what an attach that failed has made.

    Raises:
        OSError: the kernel swaps to it and does not let go; it stays, for a later `detach`.
    """
    record = site.read()
    if record is not None:
        while (device := swapped_to(site, record)) is not None:
            with suppress(InterruptedError):
                kernel.swapoff(device)
        _end_holder(site, record)
    site.remove()


def _write_down(site: Site, options: Options, pool: NewPool) -> tuple[Config, Record]:
    """What the holder is told, and what is known of the device from here on."""
    config = Config(
        name=site.name,
        directory=str(site.path),
        size=options.size,
        target=options.target,
        endpoints=pool.endpoints,
        token=options.token,
        pool=pool.name,
        pool_token=pool.token.hex(),
        epoch=pool.epoch,
        presence_bytes=presence_bytes(options.size // PAGE_BYTES),
        durability=options.durability,
        chunk_pages=options.chunk_pages,
        reserved_bytes=pool.reserved_bytes,
        io_deadline=options.io_deadline,
        write_deadline=options.write_deadline,
    )
    record = Record(
        name=site.name,
        size=options.size,
        target=options.target,
        pool=pool.name,
        pool_id=pool.pool_id,
        durability=options.durability,
        io_deadline=options.io_deadline,
        started=time.time(),
    )
    site.mount.mkdir(exist_ok=True)
    site.write(record)
    return config, record


def _start_holder(site: Site, record: Record, config: Config, log: int | None) -> Record:
    """Starts the holder, which mounts the file system and serves it."""
    with held():
        record, read_end = _spawn_holder(site, record, config, log)
    with os.fdopen(read_end, "rb") as pipe:
        answer = json.loads(pipe.read() or b"null")
    if answer is None:
        raise OSError(errno.ECHILD, f"the holder did not start: {_tail(site, log)}")
    if "error" in answer:
        raise OSError(errno.ECHILD, answer["error"])
    return site.update(record, control=answer["control"])


def _spawn_holder(site: Site, record: Record, config: Config, log: int | None) -> tuple[Record, int]:
    """Its process, written down, and where it tells how its start went."""
    read_end, write_end = os.pipe()
    config_file = config.to_file()
    out = make_log(site.log) if log is None else log
    try:
        for descriptor in (config_file, write_end):
            os.set_inheritable(descriptor, True)
        command = [sys.executable, "-m", "tmem.agents.swap.holder", str(config_file), str(write_end)]
        # In a session of its own: what is typed at a terminal is not for it. Nobody waits for its end here.
        pid = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, out, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(write_end)
        os.close(config_file)
        if log is None:
            os.close(out)
    try:
        record = site.update(record, holder=Identity.of(pid))
    except ProcessLookupError:
        pass  # it has ended already; the pipe says so too
    except BaseException:  # no room to write it down, say: nobody would find it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return record, read_end


def _tail(site: Site, log: int | None) -> str:
    """The end of the log, for a message."""
    if log is not None:
        return "its own words are above"
    try:
        lines = site.log.read_text("utf-8", errors="replace").strip("\0\n ").splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


@held()
def _swap_on(site: Site, record: Record, priority: int | None) -> Record:
    """Makes the block device, and lets the kernel swap to it; the loop device is not left open, and is gone if it does not."""
    file = os.open(site.mount / FILE_NAME.decode(), os.O_RDWR | os.O_CLOEXEC)
    try:
        loop = loops.Loop.over(file, name=f"tmem:{site.name}", block_bytes=_LOOP_SECTOR_BYTES)
    finally:
        os.close(file)
    try:
        record = site.update(record, device=loop.path)
        # A whole folio of 2 MiB then is two requests of FUSE's largest size, and not three.
        with suppress(OSError):
            Path(f"/sys/block/loop{loop.number}/queue/max_sectors_kb").write_text("1024", "ascii")
        swaps.format_area(loop.path, f"tmem-{site.name}")
        swaps.swapon(loop.path, priority)
    finally:
        loop.close()
    return site.update(record, attached=True)


# ---- The way back ----


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a detach did beside taking the device down.

    Attributes:
        given_up: bytes that were out and could not be had back.
        pool_gone: the pool on the server went too; if the server could not be asked, it is left there.
    """

    given_up: int
    pool_gone: bool


def detach(
    site: Site,
    *,
    force: bool = False,
    progress: Progress | None = None,
    interrupted: Callable[[], None] | None = None,
) -> Outcome:
    """Takes a device down; it works on whatever a crash has left of one.

    Args:
        site: the device's.
        force: also if what is out does not fit back, or can't be had back: programs that it belongs to are killed then,
            by the kernel, when they touch it.
        progress: told how far it is.
        interrupted: called at a Ctrl-C, which takes effect when the kernel has done with the process that it is at.

    Raises:
        InvalidOption: there is none of this name. NoRoom: nothing has changed.
        KeyboardInterrupt: it was interrupted. The kernel goes on swapping to the device, or nothing is out any more and the next
            `detach` takes down what is left: see swapped_to.
    """
    none = InvalidOption(f"no device is named {site.name!r}; `tmem swap status` lists them")
    if site.read() is None:
        raise none
    lost = 0
    with site.locked():
        record = site.read()
        if record is None:  # another process has just detached it
            site.remove()
            raise none
        device = record.device
        if device is not None and _is_ours(site, device):
            area = swaps.find_area(device)
            if area is not None:
                if _check(site, record, area, force=force):
                    lost = area.used
                patience = _Patience(site, record.io_deadline / 2) if force else None

                def told(left: int) -> None:
                    if progress is not None:
                        progress(left, area.used)
                    if patience is not None:
                        patience.look(left)

                _swap_off_for(site, area, lost, told, interrupted)
                if patience is not None:
                    lost = lost or patience.given_up
            record = site.update(record, attached=False)
            # It goes by itself when its last user closes it.
            if not _await(lambda: not _is_ours(site, device), _GONE_SECONDS):
                loops.clear(device)
            if not _await(lambda: not _is_ours(site, device), _END_SECONDS):
                raise OSError(errno.EBUSY, f"{device} is still in use by another program: end it, and detach again")
        control = open_control(site, record)
        _end_holder(site, record)
        site.remove()
    if control is None:
        return Outcome(lost, pool_gone=False)
    gone = bool(control.words[Word.POOL_GONE])
    control.close()
    return Outcome(lost, pool_gone=gone)


def swapped_to(site: Site, record: Record) -> str | None:
    """The loop device, if the kernel swaps to it now, whatever is written down."""
    device = record.device
    return device if device is not None and _is_ours(site, device) and swaps.find_area(device) is not None else None


def _is_ours(site: Site, device: str) -> bool:
    """Whether a loop device is still this one's: its number may be another's by now."""
    backing = loops.backing_of(device)
    # A file whose mount somebody has detached is shown with a remark, or by its path below that mount. That may be another
    # device's too; but the kernel goes on swapping to it, and what is out must be had back before anything ends.
    file = FILE_NAME.decode()
    return backing is not None and backing.removesuffix(" (deleted)") in {str(site.mount / file), f"/{file}"}


def _check(site: Site, record: Record, area: swaps.SwapArea, *, force: bool) -> bool:
    """Sees that swapoff can succeed, or makes that what can't be had back fails at once; answers whether it is given up."""
    control = open_control(site, record)
    words = None if control is None else control.words
    aborted = words is None or bool(words[Word.ABORTED_AT])
    unreachable = aborted or (words is not None and not words[Word.CONNECTED_SINCE])
    if control is not None:
        control.close()
    if not area.used:
        return False
    out = f"{area.used / (1 << 20):.0f} MiB"
    if unreachable and not force:
        why = (
            "its processes are gone"
            if words is None
            else "its connection was aborted"
            if aborted
            else "no server answers"
        )
        raise OSError(
            errno.EIO,
            f"{out} are out on {site.name}, and can't be had back now: {why}. `tmem swap detach --force` gives them up: "
            "programs that they belong to are killed when they touch them",
        )
    if force:
        if unreachable and not aborted:
            _abort(site)
        return unreachable
    hierarchy = machine_hierarchy()
    why_not: list[str] = []

    def fits() -> bool:
        nonlocal why_not
        now = swaps.find_area(area.path)
        alone = len(swaps.list_areas()) == 1
        why_not = [] if now is None else obstacles(now.used, hierarchy, alone=alone)
        return not why_not

    if not _await(fits, _STALE_SECONDS):
        raise NoRoom(f"{site.name} stays attached: what it holds does not fit back", why_not)
    return False


class _Patience:
    """Aborts a device that brings nothing back, as when its server stands still and the connection to it stands.

    Args:
        seconds: how long nothing may come back.

    Attributes:
        given_up: bytes that were out when it was aborted.
    """

    def __init__(self, site: Site, seconds: float) -> None:
        self._site = site
        self._seconds = seconds
        self._left = -1
        self._since = time.monotonic()
        self._aborted = False
        self.given_up = 0

    def look(self, left: int) -> None:
        """Told how much is still out, now and then."""
        moment = time.monotonic()
        if left != self._left:
            self._left, self._since = left, moment
        elif not self._aborted and moment - self._since > self._seconds:
            self._aborted = True
            self.given_up = left
            _abort(self._site)


def _abort(site: Site) -> None:
    """Every request fails from now on."""
    mounted = mounts.find_mount(str(site.mount))
    if mounted is not None:
        descriptor = mounts.control_file(mounted.minor, "abort", os.O_WRONLY)
        os.write(descriptor, b"1")
        os.close(descriptor)


def _swap_off_for(
    site: Site, area: swaps.SwapArea, lost: int, told: Callable[[int], None], interrupted: Callable[[], None] | None
) -> None:
    """The same; if what is out is lost, those whose pages have not even room to be marked so are killed."""
    for left in reversed(range(_SWAPOFF_ATTEMPTS)):
        try:
            _swap_off(area, told, interrupted)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            hierarchy = machine_hierarchy()
            now = swaps.find_area(area.path) or area
            why_not = obstacles(now.used, hierarchy, alone=len(swaps.list_areas()) == 1)
            # The kernel says so, too, where a program came for the same page at that moment.
            if not left or (why_not and not lost):
                raise NoRoom(f"{site.name} stays attached: what it holds does not fit back", why_not) from error
            if lost and hierarchy is not None:
                for group in crowded(now.used, hierarchy):
                    group.kill()
        else:
            return


def _swap_off(area: swaps.SwapArea, told: Callable[[int], None], interrupted: Callable[[], None] | None) -> None:
    """Brings back what is out, and tells how much still is; a Ctrl-C stops that, and the kernel goes on using the area."""
    failure: list[OSError] = []
    # Not the thread's own state: a join that is interrupted believes that the thread has ended (Python 3.11).
    ended = threading.Event()

    def work() -> None:
        try:
            kernel.swapoff(area.path)
        except OSError as error:
            failure.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="swapoff", daemon=True)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        thread.start()
        try:
            while not ended.wait(_POLL_SECONDS):
                now = swaps.find_area(area.path)
                told(now.used if now is not None else 0)
        except KeyboardInterrupt:
            # In the kernel, a signal of its own ends the call; it looks at that when it has done with one process's pages.
            if interrupted is not None:
                interrupted()
            while not ended.is_set():
                signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
                ended.wait(_POLL_SECONDS)
            if failure:
                raise
    finally:
        signal.signal(signal.SIGUSR1, before)
    if failure and swaps.find_area(area.path) is not None:
        raise failure[0]


def _end_holder(site: Site, record: Record) -> None:
    """Unmounts, upon which the holder and its workers end by themselves; insists if they do not.

    Raises:
        OSError: EBUSY: the kernel swaps to the device. Nothing has changed.
    """
    if swapped_to(site, record) is not None:
        raise OSError(
            errno.EBUSY, f"the kernel still swaps to {record.device}: {site.name} stays, until `tmem swap detach` works"
        )
    patience = time.monotonic() + _END_SECONDS
    # One that is just starting mounts it yet.
    while _unmount(site, lazily=time.monotonic() > patience) or not _ended(record):
        if time.monotonic() > patience + 2 * _END_SECONDS:
            break
        if time.monotonic() > patience + _END_SECONDS and record.holder is not None:
            record.holder.signal(signal.SIGKILL)
        time.sleep(_POLL_SECONDS / 5)
    if record.holder is None:
        return
    with suppress(ChildProcessError):  # it is ours only if it was attached by this very process
        os.waitpid(record.holder.pid, os.WNOHANG)
    hierarchy = machine_hierarchy()
    if hierarchy is not None:
        shelter = hierarchy.group(shelter_name(record.holder.pid))
        if shelter.path.exists():
            shelter.kill()  # workers of a holder that had to be killed
            shelter.remove()


def _unmount(site: Site, *, lazily: bool) -> bool:
    """Unmounts the file system, if it is mounted and nothing uses it; answers whether it was mounted."""
    if mounts.find_mount(str(site.mount)) is None:
        return False
    try:
        mounts.unmount(str(site.mount), lazily=lazily)
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.EINVAL}:
            raise
    return True


def _ended(record: Record) -> bool:
    return record.holder is None or not record.holder.alive


def _await(ready: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS / 5)
    return True
