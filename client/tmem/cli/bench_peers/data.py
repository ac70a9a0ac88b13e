"""The pages that are stored: the memory of real processes, and generated pages with stated ratios.

Owns: how each set comes about, and that every process started for it has ended before its pages are used. Sizes: bytes.

From all sets pages that repeat one word are left out: tmem takes next to nothing for them, a client of the others could do likewise, and so
they would say nothing about either. How many there were is reported.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import lz4.block

from tmem.cli.bench_common.rig import MIB, Rig
from tmem.cli.bench_common.servers import Redis
from tmem.cli.capture import capture, capture_from
from tmem.cli.memory import regions
from tmem.wire.limits import BLOCK_BYTES, PAGE_BYTES

__all__ = ["RATIOS", "REAL", "DataSet", "NotHere", "capture_real", "generate", "lz4_ratio", "mixed"]

RATIOS = (1.0, 1.5, 2.0, 4.0, 8.0)
# Random bytes lie in so many places of a generated page, with repeated ones between.
_PIECES = 4
_RATIO_ERROR = 0.02
# So much more is read than wanted, as same-filled pages are left out; and so much more a process must hold than is read.
_SLACK = 5 / 4
_BUILD_SECONDS = 120.0
_POLL_SECONDS = 0.02


class NotHere(Exception):  # noqa: N818  it says what is not here
    """A set can't be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Pages.

    Attributes:
        name: in keys. title: for people.
        real: whether they were some process's.
        plain: the pages, whole blocks of them; none repeats one word.
        same_filled: the share of the captured pages that did, and were left out.
        stated: the ratio that they were generated for; None of real ones.
    """

    name: str
    title: str
    real: bool
    plain: memoryview
    same_filled: float = 0.0
    stated: float | None = None

    @property
    def pages(self) -> int:
        """How many there are."""
        return len(self.plain) // PAGE_BYTES


def lz4_ratio(plain: memoryview, unit_bytes: int = PAGE_BYTES) -> float:
    """Plain over compressed bytes, in units of so many bytes; a unit that does not shrink counts as it is."""
    compressed = 0
    for at in range(0, len(plain), unit_bytes):
        unit = plain[at : at + unit_bytes]
        compressed += min(len(lz4.block.compress(unit, store_size=False)), len(unit))
    return len(plain) / compressed


# ---- Real processes ----


def _python(_rig: Rig, size: int) -> memoryview:
    return capture(size)


def _numpy(_rig: Rig, size: int) -> memoryview:
    if find_spec("numpy") is None:
        raise NotHere("numpy is not installed: pip install 'tmem[bench]'")
    command = [sys.executable, "-m", "tmem.cli.bench_peers.arrays", str(int(size * _SLACK))]
    with _started(command, talks=True) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise ChildProcessError(f"the program with numpy arrays ended with status {process.wait()}")
        return capture_from(process.pid, size)


_WORDS = ("order", "basket", "visit", "mobile", "garden", "city", "paper", "light", "green", "small", "north", "river")


def _values(chance: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values as web programs keep them: sessions, counters, pieces of pages."""
    number = 0
    while True:
        number += 1
        words = chance.choices(_WORDS, k=6)
        items = ",".join(f'{{"sku":"{chance.randrange(10**7):07d}","qty":{chance.randrange(9)}}}' for _ in words[:3])
        yield (
            b"session:%d" % number,
            (
                f'{{"user":{chance.randrange(10**6)},"token":"{chance.getrandbits(128):032x}","name":"{words[0]} {words[1]}",'
                f'"cart":[{items}],"seen":{1700000000 + number},"agent":"Mozilla/5.0 (X11; Linux x86_64)"}}'
            ).encode(),
        )
        yield b"hits:%d" % number, b"%d" % chance.randrange(10**6)
        if number % 8 == 0:
            rows = "".join(f"<li class='{word}'><a href='/{word}/{chance.randrange(10**5)}'>" for word in words * 4)
            yield b"page:%d" % number, f"<ul>{rows}</ul>".encode()


def _redis(rig: Rig, size: int) -> memoryview:
    if not Redis.installed():
        raise NotHere(f"{Redis.command} is not installed")
    values = _values(random.Random(20110601))  # noqa: S311  the same every time
    with rig.directory() as directory, Redis(directory, 2 * size // MIB) as server:
        while _own_bytes(server.pid) < size * _SLACK:
            server.set(next(values) for _ in range(4000))
        return capture_from(server.pid, size)


def _c_source(size: int) -> str:
    """A program large enough to keep a compiler busy until it holds that much."""
    chance = random.Random(20110601)  # noqa: S311
    functions = []
    for number in range(size // (16 << 10)):
        cases = "".join(
            f"    case {case}: total += (x{case % 4} {chance.choice('+-*^')} {chance.randrange(1, 9999)}) >> {case % 7}; break;\n"
            for case in range(12)
        )
        callee = f"work_{chance.randrange(number)}" if number else "first"
        functions.append(
            f"static int table_{number}[] = {{{','.join(str(chance.randrange(1000)) for _ in range(24))}}};\n"
            f"int work_{number}(int x0, int x1, int x2, int x3)\n{{\n    int total = 0;\n"
            f"    for (int i = 0; i < 24; i++) {{\n        switch ((x0 + i) % 12) {{\n{cases}        }}\n"
            f"        total ^= table_{number}[i] * {callee}(x1, x2, x3, i);\n    }}\n    return total;\n}}\n"
        )
    return "int first(int, int, int, int);\n" + "".join(functions)


def _compiler(rig: Rig, size: int) -> memoryview:
    gcc = shutil.which("gcc")
    if gcc is None:
        raise NotHere("gcc is not installed")
    # The compiler proper: gcc itself only starts it.
    asked = subprocess.run(  # noqa: S603  gcc, asked where its parts are
        [gcc, "-print-prog-name=cc1"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
    )
    cc1 = shutil.which(asked.stdout.strip())
    if cc1 is None:
        raise NotHere("gcc is installed without its C compiler")
    with rig.directory() as directory:
        source = directory / "work.c"
        source.write_text(_c_source(size), "ascii")
        command = [cc1, "-quiet", "-O2", str(source), "-o", os.devnull]
        with _started(command) as process:
            deadline = time.monotonic() + _BUILD_SECONDS
            while process.poll() is None:
                process.send_signal(signal.SIGSTOP)
                if _own_bytes(process.pid) >= size * _SLACK:
                    return capture_from(process.pid, size)
                if time.monotonic() > deadline:
                    raise ChildProcessError(f"the compiler holds less than {size} bytes after {_BUILD_SECONDS:g} s")
                process.send_signal(signal.SIGCONT)
                time.sleep(_POLL_SECONDS)  # nobody reports another program's memory
            raise ChildProcessError(f"the compiler ended with status {process.returncode} before it held {size} bytes")


def _own_bytes(pid: int) -> int:
    """How much memory a process has now that is its own, not a file's."""
    return sum(region.resident for region in regions(pid))


@contextmanager
def _started(command: list[str], *, talks: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of the block."""
    pipe = subprocess.PIPE if talks else subprocess.DEVNULL
    # In a group of its own: Ctrl-C is for the command.
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, process_group=0)  # noqa: S603
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


REAL: dict[str, tuple[str, Callable[[Rig, int], memoryview]]] = {
    "python": ("heap of a Python program", _python),
    "numpy": ("numpy arrays", _numpy),
    "redis": ("redis-server with sessions, counters, pages", _redis),
    "compiler": ("gcc -O2 on a large file", _compiler),
}


def capture_real(rig: Rig, name: str, size: int) -> DataSet:
    """A set of REAL.

    Raises:
        NotHere: what it is made from is not installed.
    """
    title, take = REAL[name]
    memory = take(rig, int(size * _SLACK) // PAGE_BYTES * PAGE_BYTES)
    kept, share = _without_same_filled(memory, size)
    return DataSet(name, title, True, kept, share)


def _without_same_filled(memory: memoryview, size: int) -> tuple[memoryview, float]:
    """Whole blocks of the pages that do not repeat one word, at most so many bytes of them; and the share of those that do."""
    words = PAGE_BYTES // 8
    pages = [bytes(memory[at : at + PAGE_BYTES]) for at in range(0, len(memory), PAGE_BYTES)]
    kept = [page for page in pages if page != page[:8] * words]
    joined = b"".join(kept)
    whole = min(len(joined), size) // BLOCK_BYTES * BLOCK_BYTES
    if not whole:
        raise ChildProcessError("nearly all of the captured pages are same-filled; there is nothing to store")
    return memoryview(joined)[:whole], 1 - len(kept) / len(pages)


# ---- Generated ----


def generate(ratio: float, size: int) -> DataSet:
    """Pages that LZ4 makes smaller by this ratio, each for itself; no page helps to compress another.

    Raises:
        AssertionError: they do not have it.
    """
    chance = random.Random(int(ratio * 10))  # noqa: S311
    # What LZ4 writes beside the random bytes: tokens and lengths, of every piece.
    random_bytes = PAGE_BYTES if ratio == 1 else int(PAGE_BYTES / ratio) - 10 * _PIECES
    piece = PAGE_BYTES // _PIECES
    pages = []
    for _ in range(size // PAGE_BYTES):
        noise = chance.randbytes(random_bytes)
        share = random_bytes // _PIECES
        pages.append(
            b"".join(
                noise[at * share : (at + 1) * share] + noise[at * share : at * share + 1] * (piece - share)
                for at in range(_PIECES)
            )
        )
    plain = memoryview(b"".join(pages))
    found = lz4_ratio(plain)
    assert abs(found / ratio - 1) <= _RATIO_ERROR, f"pages generated for a ratio of {ratio} have {found:.3f}"
    return DataSet(f"ratio_{ratio:g}".replace(".", "_"), f"generated, ratio {ratio:g}", False, plain, stated=ratio)


def mixed(sets: list[DataSet], size: int) -> memoryview:
    """Blocks of all sets in turn, about so many bytes together."""
    blocks = []
    for block in range(max(1, size // BLOCK_BYTES // len(sets))):
        at = block * BLOCK_BYTES
        blocks += [data.plain[at : at + BLOCK_BYTES] for data in sets if at < len(data.plain)]
    return memoryview(b"".join(blocks))
