"""`tmem pools`, `tmem stat`, `tmem explain`, `tmem destroy`: the pools of a tenant."""

import dataclasses

import click

from tmem.client import Client, PoolInfo
from tmem.wire.limits import MAX_INDEX

from .options import Server, fail, server_options
from .output import console, format_bytes, print_json, print_table

__all__ = ["destroy", "explain", "find_pool", "pools", "stat"]


@click.command()
@server_options
def pools(server: Server) -> None:
    """List the tenant's pools."""
    with server.connect() as client:
        listed = client.pools()
    if server.json:
        print_json([dataclasses.asdict(pool) for pool in listed])
        return
    print_table(
        f"Pools at {server.target}",
        ["name", "id", "kind", "durability", "quota", "reserved", "weight", "chunk", "epoch", "generation", "state"],
        [
            [
                pool.name,
                str(pool.pool_id),
                pool.kind,
                pool.durability,
                format_bytes(pool.quota_bytes) if pool.quota_bytes else "none",
                format_bytes(pool.reserved_bytes) if pool.reserved_bytes else "none",
                str(pool.weight),
                f"{4 * pool.chunk_pages} KiB",
                str(pool.epoch),
                str(pool.generation),
                _state(pool),
            ]
            for pool in listed
        ],
    )


def _state(pool: PoolInfo) -> str:
    states = [name for name in ("frozen", "incomplete", "parked") if getattr(pool, name)]
    return ", ".join(states) or "in use"


def find_pool(client: Client, name: str) -> PoolInfo:
    """The tenant's pool of this name; ends the command if there is none."""
    pool = next((pool for pool in client.pools() if pool.name == name), None)
    if pool is None:
        fail(f"there is no pool {name!r} at {client.target}", 3)
    return pool


@click.command()
@click.argument("name", required=False)
@server_options
def stat(server: Server, name: str | None) -> None:
    """Show what the server is and holds; with NAME, one pool in full."""
    with server.connect() as client:
        capabilities = client.capabilities
        chosen = [find_pool(client, name)] if name else client.pools()
        stats = {pool.name: client.stat_pool(pool.pool_id) for pool in chosen}
    if server.json:
        report = {pool: dataclasses.asdict(counts) for pool, counts in stats.items()}
        if name:
            print_json(report[name])
            return
        print_json(
            {
                "target": server.target,
                "server_version": capabilities.server_version,
                "store": capabilities.store,
                "tenant": capabilities.tenant,
                "memory_limit_bytes": capabilities.limits.memory_limit_bytes,
                "pools": report,
            }
        )
        return
    if name:
        print_table(
            f"Pool {name}",
            ["count", "value"],
            [[key.replace("_", " "), f"{value:,}"] for key, value in dataclasses.asdict(stats[name]).items()],
        )
        return
    console.print(
        f"tmemd {capabilities.server_version} at {server.target}: store {capabilities.store}, memory limit "
        f"{format_bytes(capabilities.limits.memory_limit_bytes)}, you are tenant {capabilities.tenant}",
        markup=False,
    )
    print_table(
        "Pools",
        ["name", "pages", "plain", "payload", "index", "ratio", "stored", "refused", "hits", "misses", "evicted"],
        [
            [
                pool,
                f"{counts.pages:,}",
                format_bytes(counts.pages * 4096),
                format_bytes(counts.payload_bytes),
                format_bytes(counts.index_bytes),
                f"{counts.pages * 4096 / counts.payload_bytes:.2f}" if counts.payload_bytes else "-",
                f"{counts.puts_stored:,}",
                f"{counts.puts_refused:,}",
                f"{counts.gets_hit:,}",
                f"{counts.gets_missed:,}",
                f"{counts.evicted:,}",
            ]
            for pool, counts in stats.items()
        ],
    )


@click.command()
@click.argument("name")
@click.argument("object_id", metavar="OBJECT")
@click.argument("index", type=click.IntRange(0, MAX_INDEX))
@server_options
def explain(server: Server, name: str, object_id: str, index: int) -> None:
    """Say where page INDEX of OBJECT in pool NAME is, or what became of it.

    OBJECT is a number, decimal or with 0x.
    """
    try:
        obj = int(object_id, 0)
    except ValueError as error:
        raise click.BadParameter(f"{object_id!r} is no number", param_hint="OBJECT") from error
    with server.connect() as client:
        found = client.explain_page(find_pool(client, name).pool_id, obj, index)
    if server.json:
        print_json(dataclasses.asdict(found))
        return
    if found.held:
        console.print(
            f"held in {found.tier}: {found.encoding}, in a chunk of {found.chunk_pages} pages and "
            f"{found.encoded_bytes:,} bytes, version {found.generation}/{found.sequence}"
        )
    else:
        console.print("not held")
    for event in found.events:
        console.print(f"{event.age_seconds:,.1f} s ago: {event.fate}{f' {event.reason}' if event.reason else ''}")
    if not found.held and not found.events:
        console.print("nothing is remembered of it: it was never put, was flushed, or that was too long ago")


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
def destroy(server: Server, name: str, yes: bool) -> None:
    """End the parked pool NAME, whose client is gone, and everything in it."""
    with server.connect() as client:
        pool = find_pool(client, name)
        pages = client.stat_pool(pool.pool_id).pages
        if not yes:
            click.confirm(f"Destroy pool {name!r} with {pages:,} pages for ever?", abort=True, err=True)
        dropped = client.destroy_parked(pool.pool_id)
    if server.json:
        print_json({"pool": name, "dropped_pages": dropped})
    else:
        console.print(f"pool {name} is gone, and {dropped:,} pages with it")
