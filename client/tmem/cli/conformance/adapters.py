"""Statements about what agents do with a server: the pager keeps some pages at home, the swap agent answers for slots, the cache for files.

Owns: where the agents' cores are looked for. Each is a package of tmem.agents; where it is not there yet, its statements can't run, and say so.
"""

import errno
import time
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tmem.client import Client
from tmem.v1 import pools_pb2
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES
from tmem.wire.results import Code

from .expect import CannotRun, expect, same
from .kit import statement
from .samples import noise, stamped, text
from .stage import PREFIX, Own, Stage, fetch

if TYPE_CHECKING:
    from .paging import Paged
    from .swapping import Swapped

FAILED_STORE = errno.EIO
"""What the kernel gets for a write that was refused, and for a read of what can't be had back."""


def _agent(name: str, what: str) -> Any:
    """The package of an agent; raises CannotRun while there is none."""
    if find_spec("tmem.agents") is None or find_spec(f"tmem.agents.{name}") is None:
        raise CannotRun(f"there is no {what} yet")
    if find_spec("hpack") is None:
        raise CannotRun("this needs the agents: pip install 'tmem[agents]'")
    return import_module(f"tmem.agents.{name}")


# ---- The pager ----

_UNITS, _RESIDENT = 400, 80


def _paged(stage: Stage, *owns: Own, inertia: float = 60.0) -> "Paged":
    """A region with its pages at some servers."""
    _agent("pager", "pager")
    from .paging import Paged

    paged = Paged([own.target for own in owns], name=PREFIX, units=_UNITS, resident=_RESIDENT, inertia=inertia)
    stage.at_end(paged.close)
    return paged


def _plain(unit: int) -> bytes:
    return noise(unit) if unit % 3 else text(unit)


def _write(paged: "Paged", units: range = range(_UNITS)) -> None:
    for unit in units:
        paged.write(unit, _plain(unit))


def _read(paged: "Paged", when: str) -> None:
    for unit in range(_UNITS):
        same(paged.read(unit), _plain(unit), f"page {unit}, read {when}")


def _pool_at(own: Own, paged: "Paged", target: int = 0) -> PoolRef:
    """The region's pool as its server knows it, with the right to freeze it."""
    (info,) = [info for info in own.client().pools() if info.name == paged.pool_name(target)]
    return PoolRef(pool_id=info.pool_id, generation=info.generation, token=paged.pool_token(target))


@statement(
    71, "A put to a server that fails leaves the page readable where it was, and is tried again later.", added=True
)
def failed_puts_stay_home(stage: Stage) -> None:
    own = stage.own(fresh=True)
    paged = _paged(stage, own)
    plain = stage.plain_at(own)
    ref = _pool_at(own, paged)
    plain.call(plain.pools.FreezePool, pools_pb2.FreezePoolRequest(pool=ref))
    _write(paged)
    paged.run(0.5)
    expect(own.client().stat_pool(ref.pool_id).puts_refused, "no put was tried, so nothing was shown")
    same(paged.remote, 0, "pages away, while the server refuses them")
    _read(paged, "while the server refuses them")
    plain.call(plain.pools.ThawPool, pools_pb2.ThawPoolRequest(pool=ref))
    paged.until(lambda: paged.remote >= _UNITS - _RESIDENT, "pages that leave once the server takes them")
    _read(paged, "from where they are now")


@statement(
    76, "Where local memory is too short to take a page home the get still answers it, and the server keeps its copy."
)
def gets_work_without_local_memory(stage: Stage) -> None:
    _agent("pager", "pager")
    from tmem.agents.pager.settings import Pages

    from .paging import Paged

    # Huge pages: of those local memory runs out before the region's limit is reached.
    own = stage.own(fresh=True)
    units, resident = 12, 4
    plain = [b"".join(stamped(unit * BLOCK_PAGES + page) for page in range(BLOCK_PAGES)) for unit in range(units)]
    paged = Paged([own.target], name=PREFIX, units=units, resident=resident, pages=Pages.HUGETLB)
    stage.at_end(paged.close)
    for unit in range(units):
        paged.write(unit, plain[unit])
    paged.until(lambda: paged.remote >= units - resident and paged.pager.quiet, "pages that leave")
    ref, client = _pool_at(own, paged), own.client()
    paged.program.room = 0
    for unit in [*range(units), *reversed(range(units))]:
        same(paged.read(unit) == plain[unit], True, f"the bytes of page {unit}, read with no room for one page more")
    expect(paged.remote >= units - resident, f"{paged.remote} pages are away, with no room for them at home")
    paged.until(lambda: paged.pager.quiet, "a pager that comes to rest")
    same(client.stat_pool(ref.pool_id).pages, paged.remote * BLOCK_PAGES, "pages that the server holds")


@statement(
    77,
    "While the number of pages away has not grown for a while they come home by themselves, steadily and to the last, readable all the time; growth begins the wait anew.",
)
def pages_come_home(stage: Stage) -> None:
    own = stage.own(fresh=True)
    inertia = 1.5
    paged = _paged(stage, own, inertia=inertia)
    _write(paged)
    paged.until(lambda: paged.remote >= _UNITS - _RESIDENT and paged.pager.quiet, "pages that leave")
    away = paged.remote
    paged.pager.resize(_UNITS + 64, time.monotonic())
    paged.until(lambda: paged.remote < away, "pages that come home")
    # They come, and then the program's share of local memory shrinks: more are away than before.
    paged.pager.resize(_RESIDENT - 10, time.monotonic())
    paged.until(lambda: paged.remote > away and paged.pager.quiet, "pages that leave again")
    away, grown = paged.remote, time.monotonic()
    paged.pager.resize(_UNITS + 64, grown)
    paged.run(inertia / 3)
    same(paged.remote, away, "pages away, soon after their number has grown")
    counts = [paged.remote]
    while paged.remote:
        paged.run(0.1)
        counts.append(paged.remote)
        unit = len(counts) * 37 % _UNITS
        same(paged.read(unit), _plain(unit), f"page {unit}, read meanwhile")
        expect(time.monotonic() - grown < 60, f"{paged.remote} pages are still away")
    same(counts, sorted(counts, reverse=True), "how many pages are away, ten times a second")
    _read(paged, "at home")
    ref = _pool_at(own, paged)
    paged.until(
        lambda: own.client().stat_pool(ref.pool_id).pages == 0, "copies that leave the server after their pages"
    )


@statement(83, "With several servers a page goes to the first that takes it, and is found wherever it went.")
def the_first_that_takes_it(stage: Stage) -> None:
    owns = stage.own(fresh=True), stage.own(fresh=True)
    paged = _paged(stage, *owns)
    plain = stage.plain_at(owns[0])
    refs = [_pool_at(own, paged, number) for number, own in enumerate(owns)]
    clients = [own.client() for own in owns]

    def held() -> list[int]:
        return [client.stat_pool(ref.pool_id).pages for client, ref in zip(clients, refs, strict=True)]

    _write(paged, range(_UNITS // 2))
    paged.until(lambda: paged.remote and paged.pager.quiet, "pages that leave")
    before = held()
    expect(before[0] > 0 and not before[1], f"the servers hold {before} pages, while the first takes them")
    plain.call(plain.pools.FreezePool, pools_pb2.FreezePoolRequest(pool=refs[0]))
    _write(paged, range(_UNITS // 2, _UNITS))
    paged.until(lambda: paged.remote >= _UNITS - _RESIDENT, "pages that leave for the second server")
    expect(all(held()), f"the servers hold {held()} pages")
    _read(paged, "wherever they went")


# ---- The swap agent ----


_SLOTS = 600


def _swapped(stage: Stage, own: Own) -> "Swapped":
    """A swap device with its slots at a server."""
    _agent("swap", "swap agent")
    from .swapping import Swapped

    device = Swapped(own.target, stage.name(), _SLOTS)
    stage.at_end(device.close)
    return device


@statement(
    79,
    "A load of a slot that was never stored asks the server nothing: such a slot is not the server's, and reads as nothing.",
)
def slots_never_stored_cost_nothing(stage: Stage) -> None:
    own = stage.own(fresh=True)
    device, client = _swapped(stage, own), own.client()
    device.store(5, _plain(5))
    before, asked = device.exchanges, _gets(client, device)
    for slot in (0, 4, 6, 511, 512, _SLOTS - 1):
        same(device.load(slot), bytes(PAGE_BYTES), f"slot {slot}, which was never stored")
    same(device.exchanges, before, "gets, puts and flushes that were sent")
    same(_gets(client, device), asked, "gets that the server counts")
    same(device.load(5), _plain(5), "the slot that was stored")
    expect(device.exchanges > before, "what was stored was not asked for, so nothing was shown")


def _gets(client: Client, device: "Swapped") -> int:
    stat = client.stat_pool(device.pool_id)
    return stat.gets_hit + stat.gets_missed + stat.gets_failed


@statement(80, "A store over a slot invalidates the old page first, whatever becomes of the new one.")
def stores_invalidate_first(stage: Stage) -> None:
    own = stage.own(fresh=True)
    device = _swapped(stage, own)
    plain = stage.plain_at(own)
    generation, token = device.right
    ref = PoolRef(pool_id=device.pool_id, generation=generation, token=token)
    for slot in range(20):
        same(device.store(slot, _plain(slot)), 0, f"the answer to a store of slot {slot}")
    plain.call(plain.pools.FreezePool, pools_pb2.FreezePoolRequest(pool=ref))
    for slot in (3, 4, 10):
        same(
            device.store(slot, _plain(100 + slot)),
            FAILED_STORE,
            f"the answer to a store of slot {slot} that is refused",
        )
        same(device.load(slot), FAILED_STORE, f"a load of slot {slot} after that")
        same(plain.look(ref, 0, slot), Code.MISS, f"slot {slot} on the server")
    for slot in (2, 5, 19):
        same(device.load(slot), _plain(slot), f"slot {slot}, which nobody stored over")
    plain.call(plain.pools.ThawPool, pools_pb2.ThawPoolRequest(pool=ref))
    for slot in (3, 4, 10):
        same(device.store(slot, _plain(200 + slot)), 0, f"the answer to a store of slot {slot} after the thaw")
        same(device.load(slot), _plain(200 + slot), f"slot {slot} after the thaw")


@statement(81, "An invalidation of a slot that is not held asks the server nothing.")
def invalidations_of_nothing_cost_nothing(stage: Stage) -> None:
    own = stage.own(fresh=True)
    device, client = _swapped(stage, own), own.client()
    device.store(5, _plain(5))
    before = device.exchanges
    for slot in (0, 4, 6, 511, 512, _SLOTS - 1):
        same(device.discard(slot), 0, f"the answer to an invalidation of slot {slot}")
    same(device.exchanges, before, "gets, puts and flushes that were sent")
    same(client.stat_pool(device.pool_id).flushes_asked, 0, "flushes that the server counts")
    same(device.discard(5), 0, "the answer to an invalidation of the slot that is held")
    end = time.monotonic() + 10
    while client.stat_pool(device.pool_id).pages and time.monotonic() < end:
        same(device.load(5), bytes(PAGE_BYTES), "the slot that was invalidated")
    same(client.stat_pool(device.pool_id).pages, 0, "pages on the server after that")


@statement(82, "Where every write is kept elsewhere too, the server may drop any page, and nothing is lost.")
def written_through_pages_can_be_dropped(stage: Stage) -> None:
    own = stage.own("--memory-limit", "4MiB")
    server = own.pool("ephemeral", take=False)
    elsewhere: dict[int, bytes] = {}
    from_server = 0
    for turn in range(3):
        for slot in range(turn, 1500, 1 + turn):
            elsewhere[slot] = stamped(turn * 10_000 + slot)
            server.put(7, slot, elsewhere[slot])
        for slot, wanted in elsewhere.items():
            (seen,) = fetch(server, 7, slot)
            if seen == Code.MISS:
                continue  # then it is read where it was kept
            from_server += 1
            same(seen, wanted, f"slot {slot}, from the server")
    expect(server.stat().evicted, "the server has dropped nothing, so nothing was shown")
    expect(from_server, "the server has dropped everything")


# ---- The cache ----


@statement(84, "A cache without a server ignores puts and misses gets, and that is no error.")
def a_cache_without_a_server(stage: Stage) -> None:
    raise _missing("cache", "cache adapter", stage)


def _missing(name: str, what: str, stage: Stage) -> CannotRun:
    _ = stage, _agent(name, what)
    return CannotRun(f"the {what} is not held against this yet")
