"""The tables of the kernel, as they are written; and this process's own memory."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tmem.agents.host.log import say
from tmem.agents.host.memory import read_field
from tmem.agents.host.mounts import Mount, find_mount
from tmem.agents.host.notify import notify
from tmem.agents.host.peers import listener
from tmem.agents.host.processes import Identity
from tmem.agents.host.swaps import SwapArea, find_area, list_areas

SWAPS = """Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/dm-1                               partition\t8388604\t\t1024\t\t-2
/my\\040swap\\134file                    file\t\t1048572\t\t0\t\t5
"""


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
