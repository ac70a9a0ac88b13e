"""How much smaller pages are stored as extents than one by one.

Owns: for each set, real and generated, the bytes a page takes in units of 4 KiB and in extents of 64 KiB units, by the server's accounts of compressed bytes:
when just put, and at rest, when the daemon has compressed anew what it holds (its default; the peers have nothing of the kind). Every page is read
back and compared.
"""

import tmem.client
from tmem.cli.bench_common.figures import at_least, exactly
from tmem.cli.bench_common.rig import settle
from tmem.client import Client, Pool
from tmem.wire.limits import BLOCK_BYTES, PAGE_BYTES

from .data import DataSet, lz4_ratio
from .rig import Rig

__all__ = ["measure"]

_OBJECT = 7
_UNITS = {"4k": 1, "extent": 16}


def measure(rig: Rig) -> None:
    """Takes the figures."""
    sets = [*rig.real, *rig.generated]
    # Its default: to compress harder when it is idle.
    with (
        rig.daemon("--memory-limit", "8GiB") as daemon,
        tmem.client.connect(daemon.target, write_timeout=60.0, read_timeout=60.0) as client,
    ):
        pools: dict[tuple[str, str], Pool] = {}
        put: dict[tuple[str, str], float] = {}
        for data in sets:
            rig.say(f"density: {data.title}")
            for unit, chunk_pages in _UNITS.items():
                key = (data.name, unit)
                pools[key] = _put(client, data, f"{data.name}-{unit}", chunk_pages)
                put[key] = pools[key].stat().payload_bytes / data.pages
        rig.say("density: until the daemon has come to rest")
        settle(lambda: sum(pool.stat().payload_bytes for pool in pools.values()))
        rest = {
            (data.name, unit): pools[data.name, unit].stat().payload_bytes / data.pages
            for data in sets
            for unit in _UNITS
        }
        rig.say("density: comparing")
        bad = sum(_differing(pools[data.name, unit], data) for data in sets for unit in _UNITS)
    _report(rig, sets, put, rest)
    rig.report.add("density_bad_pages", "density: pages that are not what was put", bad, exactly(0))


def _put(client: Client, data: DataSet, name: str, chunk_pages: int) -> Pool:
    pool = client.create_pool(name, chunk_pages=chunk_pages)
    with pool.batch() as batch:
        for at in range(0, len(data.plain), BLOCK_BYTES):
            batch.put(_OBJECT, at // PAGE_BYTES, data.plain[at : at + BLOCK_BYTES])
    return pool


def _differing(pool: Pool, data: DataSet) -> int:
    into = bytearray(BLOCK_BYTES)
    bad = 0
    for at in range(0, len(data.plain), BLOCK_BYTES):
        result = pool.get_into(_OBJECT, at // PAGE_BYTES, into)
        wanted = bytes(data.plain[at : at + BLOCK_BYTES])
        if not result.hit or into != wanted:
            bad += sum(
                into[page : page + PAGE_BYTES] != wanted[page : page + PAGE_BYTES]
                for page in range(0, BLOCK_BYTES, PAGE_BYTES)
            )
    return bad


def _report(
    rig: Rig, sets: list[DataSet], put: dict[tuple[str, str], float], rest: dict[tuple[str, str], float]
) -> None:
    def saving(data: DataSet, extents: dict[tuple[str, str], float], units: dict[tuple[str, str], float]) -> float:
        return 1 - extents[data.name, "extent"] / units[data.name, "4k"]

    add = rig.report.add
    real = [data for data in sets if data.real]
    # As a peer's agent holds them: compressed once, by the fast compressor, each page for itself.
    for key, title, extents, units, goal in (
        (
            "rest",
            "extents at rest smaller than 4 KiB units as put, median of real sets, share",
            rest,
            put,
            at_least(0.15),
        ),
        ("put", "  both as put", put, put, None),
        ("both_rest", "  both at rest", rest, rest, None),
    ):
        values = [saving(data, extents, units) for data in real]
        rig.report.add_rounds(f"density_{key}_saving_ratio", title, values, goal)
    for data in sets:
        name = data.name
        add(
            f"density_{name}_rest_saving_ratio",
            f"{data.title}: saved, at rest over 4 KiB units as put",
            saving(data, rest, put),
        )
        add(f"density_{name}_put_saving_ratio", "  both as put", saving(data, put, put))
        for unit, title in (("4k", "4 KiB units"), ("extent", "extents")):
            add(f"density_{name}_{unit}_put_page_bytes", f"  {title}, as put, B/page", put[name, unit], detail=True)
            add(f"density_{name}_{unit}_rest_page_bytes", f"  {title}, at rest, B/page", rest[name, unit], detail=True)
        add(f"density_{name}_lz4_ratio", "  LZ4's own ratio, 4 KiB at a time", lz4_ratio(data.plain), detail=True)
        rig.report.about[f"density_{name}_same_filled_left_out_share"] = round(data.same_filled, 4)
        rig.report.about[f"density_{name}_pages"] = data.pages
        rig.series.density[data.title] = {
            "4 KiB units, as put": put[name, "4k"],
            "extents, as put": put[name, "extent"],
            "extents, at rest": rest[name, "extent"],
        }
