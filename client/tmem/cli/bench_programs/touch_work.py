"""A program that has a lot of memory and touches it page by page, timing every touch that waits for the kernel to bring a page back.

Prints one JSON object: how long it touched (`seconds`), how often it waited (`faults`), how long each time (`waits_us`, of those that came at random
places), and how many pages were not what they should be (`bad`). Imports nothing of tmem.

`python -m tmem.cli.bench_programs.touch_work BYTES random|sequential TOUCHES`
"""

import gc
import json
import mmap
import random
import resource
import sys
import time
import zlib

__all__ = ["PAGE_BYTES", "page"]

PAGE_BYTES = 4096
_SEED = 5
# A touch that takes longer may have been a fault; whether it was, the kernel's count of them says.
_SLOW_NS = 3_000
_PATTERN = b"tmem touches page after page, in no order. " * 48


def page(number: int) -> bytes:
    """What is on a page: half of it is random, so that it compresses as much as many real ones do."""
    noise = random.Random(_SEED + number).randbytes(PAGE_BYTES // 2 - 8)  # noqa: S311  data, no secret
    return number.to_bytes(8, "little") + noise + _PATTERN[: PAGE_BYTES // 2]


def main() -> None:
    """Fills its memory, and touches it."""
    size, order, touches = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    count = size // PAGE_BYTES
    memory = mmap.mmap(-1, count * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    checksums = []
    for number in range(count):
        data = page(number)
        memory[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = data
        checksums.append(zlib.crc32(data))
    chance = random.Random(_SEED)  # noqa: S311  as above
    in_order = order == "sequential"
    pages = [number % count if in_order else chance.randrange(count) for number in range(touches)]
    gc.collect()
    gc.disable()
    clock, usage, own = time.perf_counter_ns, resource.getrusage, resource.RUSAGE_SELF
    waits: list[int] = []
    bad = 0
    first = faults = usage(own).ru_majflt
    begun = clock()
    for number in pages:
        at = number * PAGE_BYTES
        before = clock()
        memory[at]
        took = clock() - before
        if took > _SLOW_NS and not in_order:
            now = usage(own).ru_majflt
            if now == faults + 1:
                waits.append(took)
            faults = now
        if zlib.crc32(memory[at : at + PAGE_BYTES]) != checksums[number]:
            bad += 1
    seconds = (clock() - begun) / 1e9
    report = {
        "seconds": seconds,
        "faults": usage(own).ru_majflt - first,
        "waits_us": [wait / 1e3 for wait in waits],
        "bad": bad,
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
