import gc
import resource
import subprocess
import sys
from pathlib import Path

from tests.conftest import skip_or_fail

from tmem.server.host.memory import tame_collector


def test_long_lived_objects_leave_the_collections() -> None:
    before = gc.get_threshold()
    try:
        tame_collector()
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


LOCKED = """
import mmap, sys
from pathlib import Path
from tmem.server.host.memory import lock_memory
lock_memory()
later = mmap.mmap(-1, 64 << 20)
later[:4096] = bytes(4096)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(*(status[name].split()[0] for name in ("VmLck", "VmSize", "VmRSS")))
"""


def test_locked_memory_is_all_memory_and_costs_only_what_is_used() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and "CapEff:\t0000000000000000" in Path("/proc/self/status").read_text("ascii"):
        skip_or_fail(f"no more than {soft} bytes may be locked here")
    done = subprocess.run([sys.executable, "-c", LOCKED], capture_output=True, text=True, check=True, timeout=60)
    locked, size, resident = map(int, done.stdout.split())
    assert locked > size * 0.9
    assert resident < (64 << 10), "what was only reserved is not there"


# A process that may lock 64 KiB, and has not the capability that lifts the limit; what root executes has no more than the
# bounding set.
LIMITED = """
import ctypes, os, resource, sys
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_daemon_that_can_t_lock_its_memory_says_so_and_ends() -> None:
    daemon = ["-m", "tmem.server", "--lock-memory", "--listen", "127.0.0.1:0", "--metrics-listen", "none"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *daemon], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "--lock-memory: Cannot allocate memory" in done.stderr
    assert "LimitMEMLOCK" in done.stderr
