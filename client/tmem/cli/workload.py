"""A real process with real data in its memory.

Owns: the program that `tmem demo` and `tmem bench` read the memory of: it builds a table of records the way an application
does (names, texts, numbers, nested lists), says how much memory that took, and waits. Run as `python -m tmem.cli.workload BYTES`, or
with `--write RECORDS FILE` to write them down; it imports nothing of tmem, so its memory is that of a plain Python program.
"""

import gc
import json
import random
import subprocess
import sys
from types import TracebackType
from typing import Self

__all__ = ["RECORD_BYTES", "Workload", "build"]

RECORD_BYTES = 1550
"""About what a record takes in memory."""

_SEED = 20110601
_WORDS = [
    "address",
    "agent",
    "answer",
    "batch",
    "block",
    "body",
    "buffer",
    "cache",
    "capacity",
    "checksum",
    "chunk",
    "client",
    "codec",
    "column",
    "commit",
    "copy",
    "credit",
    "daemon",
    "deadline",
    "disk",
    "drain",
    "epoch",
    "error",
    "evict",
    "exchange",
    "extent",
    "fault",
    "fence",
    "floor",
    "flush",
    "frame",
    "freeze",
    "generation",
    "get",
    "handle",
    "header",
    "heap",
    "index",
    "journal",
    "kernel",
    "latency",
    "ledger",
    "limit",
    "log",
    "map",
    "memory",
    "message",
    "miss",
    "mount",
    "node",
    "object",
    "offset",
    "order",
    "owner",
    "page",
    "park",
    "path",
    "payload",
    "peer",
    "pool",
    "port",
    "process",
    "proof",
    "pump",
    "queue",
    "quota",
    "range",
    "read",
    "record",
    "refuse",
    "replay",
    "reserve",
    "result",
    "ring",
    "route",
    "run",
    "scan",
    "segment",
    "send",
    "sequence",
    "server",
    "session",
    "shard",
    "share",
    "size",
    "slice",
    "slot",
    "snapshot",
    "socket",
    "spill",
    "stale",
    "store",
    "stream",
    "swap",
    "table",
    "tenant",
    "thread",
    "token",
    "trace",
    "unit",
    "update",
    "value",
    "version",
    "wait",
    "weight",
    "window",
    "word",
    "write",
]


def resident_bytes() -> int:
    """How much memory this process has now."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  pathlib would only add objects here
        return int(statm.read().split()[1]) * 4096


def _more(records: list[dict[str, object]], chance: random.Random, count: int) -> None:
    """Appends so many records."""
    for number in range(len(records), len(records) + count):
        words = chance.choices(_WORDS, k=24)
        records.append(
            {
                "id": number,
                "name": f"{words[0]}.{words[1]}-{number:08d}",
                "mail": f"{words[2]}@{words[3]}.example",
                "text": " ".join(words[4:]),
                "scores": [chance.random() for _ in range(8)],
                "links": [chance.randrange(number + 1) for _ in range(6)],
                "flags": {words[4]: True, words[5]: number % 7 == 0},
            }
        )


def build(target_bytes: int) -> list[dict[str, object]]:
    """Builds records until the process has grown by so much."""
    chance = random.Random(_SEED)  # noqa: S311  the same data every time
    records: list[dict[str, object]] = []
    begun = resident_bytes()
    while resident_bytes() - begun < target_bytes:
        _more(records, chance, 1000)
    return records


def write_down(count: int, path: str) -> None:
    """Builds so many records, and then writes them to a file in order.

    Not so many bytes of them: of a process that is swapped out it can't be told how many it has.
    """
    gc.disable()  # there are no cycles; looking for some would touch all of the memory again and again
    records: list[dict[str, object]] = []
    _more(records, random.Random(_SEED), count)  # noqa: S311  as above
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123  as above
        file.writelines(json.dumps(record) + "\n" for record in records)


class Workload:
    """That program, running. Use it in a `with` statement.

    Args:
        size: bytes of data that it is to build.
    """

    def __init__(self, size: int) -> None:
        # In a group of its own: Ctrl-C is for the command; and if the command is killed while this process is stopped, the
        # kernel wakes and ends an orphaned group.
        self._process = subprocess.Popen(  # noqa: S603  the interpreter itself
            [sys.executable, "-m", "tmem.cli.workload", str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def await_built(self) -> int:
        """Waits until its data is there; answers how many records it has."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"the process that was to fill its memory ended with status {self._process.wait()}")
        return int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Standard input's end would do if we were killed; now it may be building still, or be stopped.
        self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def main() -> None:
    """Builds, reports, and waits until standard input ends; with --write, writes it to a file and ends."""
    if sys.argv[1] == "--write":
        write_down(int(sys.argv[2]), sys.argv[3])
        return
    records = build(int(sys.argv[1]))
    print(len(records), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
