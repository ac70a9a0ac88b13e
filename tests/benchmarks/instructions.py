"""How many instructions a put, a get and a fault take: what guards the speed of the hot paths where times would say nothing.

Owns: the operations that are counted, how (cachegrind, without a cache), and the budgets in `instructions.json`. An operation's count is a ratio to that of a
reference, a loop of plain Python in the same process, so that another build of CPython moves both. Run as `python -m tests.benchmarks.instructions` to see the
counts, with `--write` to take them as the budgets.

Everything is imported once; then a child is forked for each count, twice, with so many operations and with twice as many: the difference is
what the operations took, and nothing else.
"""

import argparse
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog
from tests.pages import extent
from tests.sim import PureClient, PureServer
from tests.unit.agents.swap import doubles

from tmem.agents.swap.core import Core
from tmem.agents.swap.ports import Buffer
from tmem.agents.swap.protocol import Read
from tmem.agents.swap.shared import CONTROL_BYTES
from tmem.wire.limits import PAGE_BYTES
from tmem.wire.results import PoolKind

__all__ = ["BUDGETS", "REFERENCE", "SLACK", "WORKS", "count", "ratios"]

BUDGETS = Path(__file__).parent / "instructions.json"
REFERENCE = "reference"
SLACK = 1.1
"""A ratio may be so much above its budget: what another CPU's variants of the libraries make of it, and chance in addresses."""

_EXTENT_PAGES = 512
_TIMEOUT_SECONDS = 300.0

Work = Callable[[int], None]
"""Does an operation so many times."""


def _reference() -> Work:
    """Plain Python of the kind that the product is made of: calls, slices, dicts, integers."""
    found: dict[int, bytes] = {}
    data = bytes(range(256)) * 16

    def one(number: int) -> None:
        for at in range(0, 64, 4):
            key = int.from_bytes(data[at : at + 4], "little") ^ number
            found[key & 0xFF] = data[at : at + 16]

    def run(times: int) -> None:
        for number in range(times):
            one(number)

    return run


class _Pair:
    """A client and a server without I/O, and a pool; what is put is there for gets."""

    def __init__(self) -> None:
        self.server = PureServer(random.Random(1), memory_limit=256 << 20)
        self.client = PureClient(self.server)
        self.pool = self.client.create_pool("pool", PoolKind.PERSISTENT)
        self.data = extent(0, _EXTENT_PAGES)

    def puts(self, pages: int) -> Work:
        plain = bytes(self.data[: pages * PAGE_BYTES])

        def run(times: int) -> None:
            for number in range(times):
                operation = self.client.put(self.pool, 1, number % 8 * _EXTENT_PAGES, plain)
                self.client.settle()
                assert operation is not None
                assert operation.results[0].stored

        return run

    def gets(self, pages: int) -> Work:
        self.puts(pages)(8)

        def run(times: int) -> None:
            for number in range(times):
                reading = self.client.get(self.pool, 1, number % 8 * _EXTENT_PAGES, pages)
                self.client.settle()
                assert reading.result.hit

        return run

    def flushes(self) -> Work:
        put = self.puts(1)

        def run(times: int) -> None:
            for _ in range(times):
                put(1)
                assert self.client.flush(self.pool, 1, 0) is not None
                self.client.settle()

        return run


class _Kernel(doubles.Kernel):
    """One that does not look after its buffers: that would be most of what is counted."""

    def give_buffer(self, buffer: Buffer) -> None:
        assert isinstance(buffer, doubles.Room)
        self.free.append(buffer)


def _swap_reads() -> Work:
    """Faults of the swap agent: from the kernel's request to its answer, with a pool that answers at once."""
    page = bytes(extent(0, 1))
    kernel, pool = _Kernel(), doubles.Pool(dict.fromkeys(range(64), page))
    pool.at_once = True
    words = memoryview(bytearray(CONTROL_BYTES)).cast("Q")
    clock = doubles.Clock()
    core = Core(memoryview(bytearray(64)), words, pool, kernel, read_limit=10**9, write_limit=10**9, clock=clock)

    def run(times: int) -> None:
        for number in range(2, 2 + times):
            core.handle(Read(number, number % 64 * PAGE_BYTES, PAGE_BYTES), clock.now, None)
            core.send()
            assert kernel.answers.pop(number) == page
            pool.messages.clear()

    return run


# By name: what makes it ready, and how many operations one count is of.
WORKS: dict[str, tuple[Callable[[], Work], int]] = {
    REFERENCE: (_reference, 1000),
    "put_page": (lambda: _Pair().puts(1), 40),
    "put_16_pages": (lambda: _Pair().puts(16), 20),
    "put_512_pages": (lambda: _Pair().puts(_EXTENT_PAGES), 4),
    "get_page": (lambda: _Pair().gets(1), 40),
    "get_16_pages": (lambda: _Pair().gets(16), 20),
    "get_512_pages": (lambda: _Pair().gets(_EXTENT_PAGES), 4),
    "put_and_flush_page": (lambda: _Pair().flushes(), 20),
    "swap_read_page": (_swap_reads, 100),
}


def count() -> dict[str, float]:
    """Instructions of one operation each, by name.

    Raises:
        RuntimeError: valgrind could not run it.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise RuntimeError("valgrind is not installed (Debian: apt-get install valgrind)")
    with tempfile.TemporaryDirectory(prefix="tmem-instructions-") as directory:
        done = subprocess.run(
            [
                *(valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
                *(f"--log-file={directory}/%p", sys.executable, "-m", "tests.benchmarks.instructions", "--counted"),
            ],
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"valgrind ended with {done.returncode}: {done.stderr[-2000:]}")
        children: dict[str, list[int]] = json.loads(done.stdout)
        found = {}
        for name, pids in children.items():
            less, more = (_instructions(Path(directory) / str(pid)) for pid in pids)
            found[name] = (more - less) / WORKS[name][1]
    return found


def _instructions(log: Path) -> int:
    text = log.read_text("utf-8")
    match = re.search(r"I +refs: +([\d,]+)", text)
    if match is None:
        raise RuntimeError(f"valgrind counted nothing: {text[-1000:]}")
    return int(match[1].replace(",", ""))


def ratios(counts: dict[str, float]) -> dict[str, float]:
    """Each operation's count as a multiple of the reference's."""
    return {name: round(value / counts[REFERENCE], 2) for name, value in counts.items() if name != REFERENCE}


def _be_counted() -> None:
    """What runs under valgrind; prints who did what."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    children = {name: [_fork(prepare, times), _fork(prepare, 2 * times)] for name, (prepare, times) in WORKS.items()}
    print(json.dumps(children))


def _fork(prepare: Callable[[], Work], times: int) -> int:
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"a child ended with status {status}")
        return pid
    # Nothing of the parent's may run in the child, whatever happens here.
    try:
        work = prepare()
        work(2)  # what is made at first use is no part of an operation
        work(times)
    except BaseException as error:  # noqa: BLE001
        print(f"{error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Prints the counts, or takes them as the budgets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="take the counts as the budgets")
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.counted:
        _be_counted()
        return
    counts = count()
    found = ratios(counts)
    budgets = json.loads(BUDGETS.read_text("utf-8")) if BUDGETS.exists() else {}
    for name, value in found.items():
        print(
            f"{name:20} {counts[name]:12,.0f} instructions   {value:8.2f} x reference   budget {budgets.get(name, '-')}"
        )
    if arguments.write:
        BUDGETS.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
