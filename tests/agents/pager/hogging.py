"""A program that hogs far memory: started beside a test, which kills agents and servers under it.

    python -m tests.agents.pager.hogging LIBRARY OPTIONS      OPTIONS: JSON for FarMemory, and seconds, threads, pattern, seed

It prints a line of JSON ten times a second, how far it is, and one at the end, what it found. A line on its standard input ends it.
"""

import ctypes
import json
import sys
import threading

from tmem.agents.pager import FarMemory, kernel

NAMES = ("operations", "bad", "writes", "first_bad_page", "p50_ns", "p99_ns", "longest_ns")


class Report(ctypes.Structure):
    """What the hog found."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in NAMES)


def main(library: str, options: str) -> int:
    settings = json.loads(options)
    seconds, threads, pattern, seed = (settings.pop(name) for name in ("seconds", "threads", "pattern", "seed"))
    loaded = ctypes.CDLL(library)
    hog = loaded.hog
    hog.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_double, ctypes.c_int, ctypes.c_int, ctypes.c_uint64),
        ctypes.POINTER(Report),
    )
    size = settings.pop("size")
    report = Report()
    done = threading.Event()
    with FarMemory(size, **settings) as far:

        def tell() -> None:
            while not done.wait(0.1):
                print(json.dumps(far.stats()), flush=True)

        def listen() -> None:
            sys.stdin.readline()
            ctypes.c_int.in_dll(loaded, "hog_stop").value = 1

        # They touch no far memory, and the hog does not hold the lock.
        threading.Thread(target=listen, daemon=True).start()
        teller = threading.Thread(target=tell)
        teller.start()
        status = int(hog(kernel.address_of(far), size, seconds, threads, pattern, seed, ctypes.byref(report)))
        done.set()
        teller.join()
        stats = far.stats()
    print(json.dumps({name: getattr(report, name) for name in NAMES} | {"stats": stats}), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
