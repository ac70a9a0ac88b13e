"""What sqlite3 does when it is measured: a table is filled, an index is built over it, and rows are asked for at random.

The database is in the memory of the process, page by page of 4 KiB: they are what is paged. Prints one digest of all answers. Imports
nothing of tmem.

`python -m tmem.cli.bench_programs.sqlite_work ROWS QUERIES`
"""

import hashlib
import random
import sqlite3
import sys
from collections.abc import Iterator

_SEED = 3
_BODY_CHARACTERS = 900


def rows(count: int) -> Iterator[tuple[int, str, str]]:
    """The table: a number, a key in no order, and a text that is about half words and half figures."""
    chance = random.Random(_SEED)  # noqa: S311  input, no secret
    text = "".join(f"{chance.getrandbits(64):016x} shipped to Bologna, " for _ in range(4096))
    room = len(text) - _BODY_CHARACTERS
    bits = chance.getrandbits
    for number in range(count):
        at = bits(24) % room
        yield number, f"{bits(80):020x}", text[at : at + _BODY_CHARACTERS]


def main() -> None:
    """All of it."""
    count, queries = int(sys.argv[1]), int(sys.argv[2])
    digest = hashlib.sha256()
    database = sqlite3.connect(":memory:", isolation_level=None)
    for pragma in ("page_size = 4096", "journal_mode = off", "cache_size = -4194304", "temp_store = memory"):
        database.execute(f"pragma {pragma}")
    database.execute("create table entries (number integer primary key, name text, body text)")
    database.execute("begin")
    database.executemany("insert into entries values (?, ?, ?)", rows(count))
    database.execute("commit")
    database.execute("create index names on entries (name)")
    chance = random.Random(_SEED + 1)  # noqa: S311  as above
    for _ in range(queries):
        (name,) = database.execute("select name from entries where number = ?", (chance.randrange(count),)).fetchone()
        # By the index; the row after it in the order of the index is on another page of the table.
        found = database.execute(
            "select number, body from entries where name >= ? order by name limit 2", (name,)
        ).fetchall()
        digest.update(repr(found).encode())
    digest.update(repr(database.execute("select count(*), sum(length(body)) from entries").fetchone()).encode())
    database.close()
    sys.stdout.write(digest.hexdigest() + "\n")


if __name__ == "__main__":
    main()
