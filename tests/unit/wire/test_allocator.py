import subprocess
import sys

SCRIPT = """
import resource
from tmem.wire.allocator import keep_freed_messages
keep_freed_messages()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): bytes(1 << 20)
before = faults()
for _ in range(100): bytes(1 << 20)
print(faults() - before)
"""


def test_freed_messages_are_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)

    assert int(done.stdout) < 2000  # 100 messages of 1 MiB would take 25,600
