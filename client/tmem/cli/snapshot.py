"""`tmem snapshot`: a pool to a file, and a file to a pool.

Owns: the two commands. A snapshot is one file of the journal's format: what the pool is, its pages, and an END, without which it is
not whole. The pool's token is not in it.
"""

import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click

from tmem.client import Client, Pool
from tmem.server.store.journal.entries import (
    FileHeader,
    JournalError,
    Kind,
    Torn,
    encode_header,
    read_entries,
    read_header,
)
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES
from tmem.wire.requests import Put, decode_request

from .options import Server, fail, server_options
from .output import console, format_bytes, print_json, progress
from .pools import find_pool

__all__ = ["snapshot"]


@click.group()
def snapshot() -> None:
    """Keep a pool in a file, or make one from a file."""


@snapshot.command(name="export")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@server_options
def export_(server: Server, name: str, file: Path) -> None:
    """Write the persistent pool NAME to FILE.

    Each block of 512 pages is as it is when its turn comes; freeze the pool for one point in time.
    """
    part = file.with_name(f"{file.name}.part")
    pages = 0
    try:
        with server.connect() as client, progress() as bars, part.open("wb") as out:
            pool = find_pool(client, name)
            bar = bars.add_task(f"writing {file.name}", total=None)
            out.write(encode_header(FileHeader(1, bytes(16), synced=True)))
            for entries, pages, total in client.export_pool(pool.pool_id):
                out.write(entries)
                bars.update(bar, completed=pages, total=total)
            out.flush()
            os.fsync(out.fileno())
        size = part.stat().st_size
        part.rename(file)
    except OSError as error:
        fail(f"{part}: {error.strerror}", 1)
    finally:
        part.unlink(missing_ok=True)
    if server.json:
        print_json({"pool": name, "file": str(file), "pages": pages, "bytes": size})
    else:
        console.print(f"pool {name}: {pages:,} pages, {format_bytes(size)} in {file}")


@snapshot.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="The new pool's name.  [default: the old one's]")
@click.option("--durability", type=click.Choice(["memory", "disk"]), help="[default: the old one's]")
@server_options
def import_(server: Server, file: Path, name: str | None, durability: str | None) -> None:
    """Make a pool from FILE, and print the token that opens it."""
    try:
        with _Snapshot(file) as held, server.connect() as client:
            pool = _make(client, held.description, name, durability)
            try:
                damage = _fill(pool, held)
            except BaseException:
                pool.destroy()  # half a pool is worse than none
                raise
            report = {"pool": pool.name, "pages": pool.stat().pages, "damaged_pages": damage, "token": pool.token.hex()}
    except JournalError as error:
        fail(str(error), 1)
    if server.json:
        print_json(report)
    else:
        console.print(
            f"pool {report['pool']}: {report['pages']:,} pages; open it with the token {report['token']} (hexadecimal)"
        )
    if damage:
        fail(f"{file}: {damage} pages failed their checksums and are not in the pool", 1)


def _make(client: Client, description: dict[str, Any], name: str | None, durability: str | None) -> Pool:
    request = description["request"]
    old = "disk" if request["durability"] == 2 else "memory"
    flags = request["flags"]
    return client.create_pool(
        name or request["name"],
        kind="persistent",
        quota_bytes=description["quota_bytes"],
        reserved_bytes=description.get("reserved_bytes", 0),
        weight=description["weight"],
        chunk_pages=description["chunk_pages"],
        durability=durability or old,
        take=True if flags & 1 else None,
        encrypted=bool(flags & 4),
    )


def _fill(pool: Pool, held: "_Snapshot") -> int:
    """Puts every page that verifies; answers how many did not."""
    damaged = 0
    with progress() as bars:
        bar = bars.add_task(f"reading {held.path.name}", total=held.size)
        for put, position in held.puts():
            with pool.batch() as batch:
                results = []
                for obj, index, plain, bad in _extents(put):
                    damaged += bad
                    if plain is not None:
                        results.append(batch.put(obj, index, plain))
            for result in results:
                if result.error is not None:
                    raise result.error
            bars.update(bar, completed=position)
    return damaged


def _extents(put: Put) -> Iterator[tuple[int, int, memoryview | None, int]]:
    """The chunks of a put: object, first page, plain pages (None if they can't be had), and how many are damaged."""
    codec = Codec(CopyCounter())
    chunk = page = body = 0
    for extent in put.extents:
        first, end = extent.index, extent.index + extent.pages
        while first < end:
            pages, size = put.pages[chunk], put.sizes[chunk]
            plain = memoryview(bytearray(pages * PAGE_BYTES))
            data = put.body[body : body + size]
            bad = codec.decode(put.encodings[chunk], data, pages, 0, plain, put.crcs[page : page + pages])
            if not bad:
                yield extent.object, first, plain, 0
            else:
                for number in range(pages):
                    if number not in bad:
                        yield extent.object, first + number, plain[number * PAGE_BYTES : (number + 1) * PAGE_BYTES], 0
                yield extent.object, first, None, len(bad)
            first += pages
            chunk += 1
            page += pages
            body += size


@dataclass
class _Snapshot:
    """A snapshot file, checked from its beginning to its end before anything is made of it.

    Attributes:
        description: what the pool was.
        size: bytes of the file.
    """

    path: Path
    description: dict[str, Any] = field(default_factory=dict)
    size: int = 0

    def __enter__(self) -> Self:
        with self.path.open("rb") as opened:
            self.size = opened.seek(0, os.SEEK_END)
            if not self.size:
                raise JournalError(f"{self.path}: the file is empty")
            self._data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        read_header(self._data, str(self.path))
        kind = None
        for kind, payload in self._entries():
            if kind == Kind.POOL:
                self.description = json.loads(bytes(payload))
        if kind != Kind.END or not self.description:
            raise JournalError(f"{self.path}: the snapshot is not whole")
        return self

    def __exit__(self, *_: object) -> None:
        self._data.release()

    def _entries(self) -> Iterator[tuple[Kind, memoryview]]:
        for entry in read_entries(self._data, str(self.path), last=False):
            assert not isinstance(entry, Torn)
            yield entry

    def puts(self) -> Iterator[tuple[Put, int]]:
        """Every put, and about how far into the file it is."""
        position = 0
        for kind, payload in self._entries():
            position += len(payload)
            if kind != Kind.BATCH:
                continue
            try:
                batch, _ = decode_request(bytes(payload))
            except TmemError as error:
                raise JournalError(f"{self.path}: {error}") from error
            if not isinstance(batch, Put):
                raise JournalError(f"{self.path}: a snapshot holds puts only")
            yield batch, position
