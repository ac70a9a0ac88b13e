"""The tables of the kernel, as they are written; and this process's own memory."""

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import skip_or_fail

from tmem.agents.host.log import LOG_BYTES, make_log, say
from tmem.agents.host.memory import read_field
from tmem.agents.host.mounts import Mount, find_mount, unswappable_files
from tmem.agents.host.notify import notify
from tmem.agents.host.peers import listener
from tmem.agents.host.processes import Identity
from tmem.agents.host.swaps import SwapArea, find_area, list_areas

SWAPS = """Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/dm-1                               partition\t8388604\t\t1024\t\t-2
/my\\040swap\\134file                    file\t\t1048572\t\t0\t\t5
"""


_MADV_PAGEOUT = 21
_KPF_UNEVICTABLE = 18


def test_swap_areas(tmp_path):
    table = tmp_path / "swaps"
    table.write_text(SWAPS, "ascii")
    areas = list_areas(table)
    assert areas[0] == SwapArea("/dev/dm-1", 8388604 * 1024, 1 << 20, -2)
    assert areas[1].path == "/my swap\\file"
    assert find_area("/dev/dm-1", table) == areas[0]
    assert find_area("/dev/sda", table) is None


MOUNTS = r"""22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:51 / /run/tmem/a\040b rw,nosuid,nodev - fuse.tmem tmem:one rw,user_id=0
41 22 0:52 / /run/tmem/a\040b rw,nosuid,nodev shared:7 master:3 - fuse.tmem tmem:two\040x rw,user_id=0
"""


def test_mounts(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS, "ascii")
    assert find_mount("/run/tmem/a b", table) == Mount(52, "fuse.tmem", "tmem:two x"), "the topmost"
    assert find_mount("/run/tmem", table) is None
    assert find_mount("/") is not None


def test_fields_of_proc(tmp_path):
    file = tmp_path / "status"
    file.write_text("Name:\tx\nVmLck:\t    12 kB\nThreads:\t3\n", "ascii")
    assert read_field(file, "VmLck") == 12 * 1024
    assert read_field(file, "Threads") == 3
    assert read_field(file, "VmSwap") is None
    assert (read_field(Path("/proc/meminfo"), "MemTotal") or 0) > 1 << 20


# ---- Processes ----


def test_a_process_is_known_from_another_of_its_number():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        identity = Identity.of(child.pid)
        assert identity.alive
        other = Identity(child.pid, identity.started + 1)
        assert not other.alive
        assert not other.signal(signal.SIGKILL)
        assert other.wait(0)
        assert not identity.wait(0)
        assert identity.signal(signal.SIGKILL)
        assert identity.wait(20)
        assert not identity.alive, "although nobody has waited for it yet"
    finally:
        child.kill()
        child.communicate()
    assert not identity.signal(signal.SIGKILL)
    assert identity.wait(0)
    with pytest.raises(ProcessLookupError):
        Identity.of(child.pid)


def test_a_name_with_parentheses_does_not_confuse_it(tmp_path):
    script = tmp_path / "a) R (b"
    script.write_text("#!/bin/sh\nread x\n", "ascii")
    script.chmod(0o700)
    with subprocess.Popen([script], stdin=subprocess.PIPE) as child:
        assert Identity.of(child.pid).started > 0
        child.kill()


# ---- Who listens ----


def test_the_process_behind_an_address_of_this_machine(daemon):
    assert listener(daemon.target) == daemon.pid
    port = daemon.target.rpartition(":")[2]
    assert listener(f"localhost:{port}") == daemon.pid


def test_the_process_behind_a_unix_socket(start_daemon, tmp_path):
    captive = start_daemon(listen=f"unix:{tmp_path}/s")
    assert listener(captive.target) == captive.pid
    assert listener(f"unix:{tmp_path}/none") is None


def test_nobody_and_another_machine():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert listener(f"127.0.0.1:{port}") == os.getpid()
    assert listener(f"127.0.0.1:{port}") is None
    assert listener("192.0.2.1:8636") is None  # an address that no machine has
    assert listener("no.such.host.invalid:1") is None


# ---- Telling ----


def test_systemd_is_told(tmp_path, monkeypatch):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify(READY="1", STATUS="attached")
        assert sock.recv(100) == b"READY=1\nSTATUS=attached"
    notify(READY="1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify(READY="1")


SAYS = """
import os
from tmem.agents.host.log import say
read, write = os.pipe()
os.dup2(write, 2)
for _ in range(1000):
    say("test", "x" * 500)          # nobody reads: neither waits nor fails
os.close(read)
say("test", "gone")
print("alive")
"""


def test_a_log_that_nobody_reads_holds_up_nobody():
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "alive\n"


def test_a_line_for_the_log(capfd):
    say("test", "words")
    assert capfd.readouterr().err == f"tmem-swap test[{os.getpid()}]: words\n"


def test_a_state_of_several_lines_is_told_as_one(tmp_path, monkeypatch):
    """Each further line would be a state of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(tmp_path / "notify"))
        notifications.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify(STOPPING="1", STATUS="t0 stays attached\n  no room\n  none at all")
        assert notifications.recv(4096) == b"STOPPING=1\nSTATUS=t0 stays attached; no room; none at all"


_KEEPER = """
import sys
from tmem.agents.host import log
log.say("first", "said before it is kept")
assert log.keep(sys.argv[1])
for number in range(int(sys.argv[2])):
    log.say("who", f"line {number}")
"""


def say_lines(log: Path, descriptor: int, count: int) -> None:
    subprocess.run([sys.executable, "-c", _KEEPER, str(log), str(count)], stderr=descriptor, check=True, timeout=60)


@pytest.fixture
def kept_log(tmp_path):
    path = tmp_path / "log"
    descriptor = make_log(path)
    yield path, descriptor
    os.close(descriptor)


def test_a_log_has_its_room_from_the_start_and_never_more(kept_log):
    path, descriptor = kept_log
    assert path.stat().st_size == LOG_BYTES
    assert path.stat().st_blocks * 512 >= LOG_BYTES
    say_lines(path, descriptor, 2)
    say_lines(path, descriptor, 1)  # the next worker goes on behind it
    lines = path.read_text("ascii").strip("\0").splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        *("said before it is kept", "line 0", "line 1"),
        *("said before it is kept", "line 0"),
    ]
    say_lines(path, descriptor, 10_000)
    assert path.stat().st_size == LOG_BYTES
    lines = path.read_text("ascii").strip("\0").splitlines()
    assert [line.partition(": ")[2] for line in lines] == [f"line {10_000 - left}" for left in range(len(lines), 0, -1)]
    assert sum(map(len, lines)) > LOG_BYTES / 3


def test_the_log_of_somebody_else_is_left_as_it_is(tmp_path, kept_log):
    other = tmp_path / "other"
    with other.open("w") as file, pytest.raises(subprocess.CalledProcessError):
        say_lines(kept_log[0], file.fileno(), 1)
    assert "AssertionError" in other.read_text("ascii"), "it is not kept"


def is_unevictable(descriptor: int) -> bool:
    """What the kernel's flags say of a file's first page, once it was asked to take it away."""
    mapping = mmap.mmap(descriptor, mmap.PAGESIZE)
    mapping[0] = 1
    mapping.madvise(_MADV_PAGEOUT)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(address // mmap.PAGESIZE * 8)
        entry = int.from_bytes(file.read(8), "little")
    if not entry >> 63:
        return False
    with Path("/proc/kpageflags").open("rb") as file:
        file.seek((entry & (1 << 55) - 1) * 8)
        return bool(int.from_bytes(file.read(8), "little") >> _KPF_UNEVICTABLE & 1)


@pytest.fixture
def files():
    if os.geteuid():
        skip_or_fail("only root can mount")
    made = unswappable_files([3, 1 << 20])
    yield made
    for descriptor in made:
        os.close(descriptor)


def test_files_that_are_not_swapped_out_whoever_has_them(files):
    assert [os.fstat(descriptor).st_size for descriptor in files] == [3, 1 << 20]
    assert not any(os.fstat(descriptor).st_blocks for descriptor in files)
    os.pwrite(files[1], b"x" * 4096, (1 << 20) - 4096)
    again = os.open(f"/proc/self/fd/{files[1]}", os.O_RDONLY)
    assert os.pread(again, 1, (1 << 20) - 1) == b"x", "those who look find it by its number"
    os.close(again)
    assert is_unevictable(files[1])
    plain = os.memfd_create("plain")
    os.ftruncate(plain, mmap.PAGESIZE)
    assert not is_unevictable(plain), "or this test could not fail"
    os.close(plain)
    assert "tmem-tmpfs-" not in Path("/proc/self/mountinfo").read_text("utf-8")


_TOUCHER = """
import mmap, os
from tmem.agents.host.memory import lock_memory, map_sparse, touch_data
size = 64 << 20
file = os.memfd_create("sparse")
os.ftruncate(file, size)
for page in (0, 1, 5000, 16383):
    os.pwrite(file, b"x", page * 4096)
lock_memory()
mapping = map_sparse(file, size)
def locked():
    found = 0
    ours = False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0]:
            ours = "memfd:sparse" in line
        elif ours and line.startswith("Locked:"):
            found += int(line.split()[1])
    return found
before = locked()
touch_data(file, mapping)
print(before, locked(), os.fstat(file).st_blocks // 2)
"""


def test_all_data_of_a_sparse_mapping_are_locked_and_its_holes_are_not_filled():
    if os.geteuid():
        skip_or_fail("only root may lock so much")
    done = subprocess.run([sys.executable, "-c", _TOUCHER], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0", "16", "16"]
