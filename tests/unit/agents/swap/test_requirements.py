"""What is missing on machines that lack something: each time a sentence that says what to do."""

import pytest
from tests.unit.agents.host.trees import proc, v1_group, v2_group

from tmem.agents.host.machine import CAP_IPC_LOCK, CAP_SYS_ADMIN, Machine, missing
from tmem.agents.swap.protocol import Features
from tmem.agents.swap.requirements import needs, server_swapless

ALL_FLAGS = (1 << 15) | (1 << 22) | (1 << 39)
ROOT = (1 << CAP_SYS_ADMIN) | (1 << CAP_IPC_LOCK)
GOOD = Features(1, 7, 45, 0, ALL_FLAGS)


@pytest.fixture
def root(tmp_path):
    """A machine that has everything."""
    v2_group(tmp_path / "sys/fs/cgroup")
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("memory\n", "ascii")
    proc(tmp_path / "proc", self="0::/")
    for name, text in (("proc/swaps", "Filename\n"), ("proc/filesystems", "nodev\tfuse\nnodev\tfusectl\n")):
        (tmp_path / name).write_text(text, "ascii")
    (tmp_path / "dev").mkdir()
    for name in ("fuse", "loop-control"):
        (tmp_path / "dev" / name).touch()
    return tmp_path


def lacking(root, *, capabilities=ROOT, which=lambda name: f"/sbin/{name}", features=GOOD):
    def ask():
        if isinstance(features, Exception):
            raise features
        return features

    return missing(needs(Machine(root, capabilities, which), ask))


def only(found):
    (need,) = found
    assert need.advice
    assert need.found
    return need


def test_a_machine_with_everything_lacks_nothing(root):
    assert lacking(root) == []


def test_without_root(root):
    need = only(lacking(root, capabilities=1 << CAP_IPC_LOCK))
    assert need.what == "swap rights"
    assert "run it as root" in need.advice


def test_without_loop_devices(root):
    (root / "dev/loop-control").unlink()
    need = only(lacking(root))
    assert need.what == "loop devices"
    assert "modprobe loop" in need.advice


def test_without_fuse(root):
    (root / "dev/fuse").unlink()
    assert "modprobe fuse" in only(lacking(root)).advice


@pytest.mark.parametrize(("flag", "name"), [(15, "ASYNC_DIO"), (39, "HAS_RESEND")])
def test_with_an_old_fuse(root, flag, name):
    need = only(lacking(root, features=Features(1, 7, 38, 0, ALL_FLAGS & ~(1 << flag))))
    assert name in need.found
    assert "7.38" in need.found
    assert "Linux 6.9" in need.advice


def test_with_a_fuse_that_can_t_be_mounted(root):
    need = only(lacking(root, features=PermissionError(1, "Operation not permitted")))
    assert "not permitted" in need.found


def test_without_kernel_swap(root):
    (root / "proc/swaps").unlink()
    assert "CONFIG_SWAP" in only(lacking(root)).advice


def test_without_mkswap(root):
    assert "util-linux" in only(lacking(root, which=lambda _: None)).advice


def test_without_a_way_to_abort(root):
    (root / "proc/filesystems").write_text("nodev\tfuse\n", "ascii")
    assert only(lacking(root)).what == "fusectl"


def test_without_the_right_to_lock_memory(root, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    need = only(lacking(root, capabilities=1 << CAP_SYS_ADMIN))
    assert need.found == "65536 bytes"
    assert "LimitMEMLOCK" in need.advice


def test_a_limited_control_group_is_left(root):
    v2_group(root / "sys/fs/cgroup/job", "1048576")
    proc(root / "proc", self="0::/job")
    assert lacking(root) == []
    (found,) = [need for need in needs(Machine(root, ROOT), lambda: GOOD) if need.what == "memory of its own"]
    assert "which it will leave" in found.found


def test_a_limit_of_everything_can_t_be_left(root):
    v2_group(root / "sys/fs/cgroup", "1048576")
    need = only(lacking(root))
    assert need.what == "memory of its own"
    assert "outside that control group" in need.advice


def test_a_machine_without_control_groups_limits_nobody(root):
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n", "ascii")
    assert lacking(root) == []


# ---- The server on the same machine ----


def test_a_server_that_can_be_swapped_out_to_itself_is_refused(start_daemon, root):
    captive = start_daemon()
    proc(root / "proc", **{f"pid{captive.pid}": "0::/"})
    need = server_swapless(captive.target, Machine(root, ROOT))
    assert not need.met
    assert str(captive.pid) in need.found
    assert "--lock-memory" in need.advice


def test_a_server_whose_memory_is_locked_is_taken(start_daemon):
    assert server_swapless(start_daemon("--lock-memory").target, Machine()).met


@pytest.mark.parametrize("version", [1, 2])
def test_a_server_whose_group_forbids_swap_is_taken(start_daemon, root, version):
    captive = start_daemon()
    if version == 1:
        (root / "sys/fs/cgroup/cgroup.controllers").unlink()
        v1_group(root / "sys/fs/cgroup/memory")
        v1_group(root / "sys/fs/cgroup/memory/tmemd", swappiness=0)
    else:
        v2_group(root / "sys/fs/cgroup/tmemd", swap_max="0")
    lines = {f"pid{captive.pid}": "4:memory:/tmemd\n0::/tmemd" if version == 1 else "0::/tmemd"}
    proc(root / "proc", **lines)
    need = server_swapless(captive.target, Machine(root, ROOT))
    assert need.met
    assert "forbids swap" in need.found


def test_a_server_of_another_machine_is_none_of_our_business(root):
    assert server_swapless("192.0.2.1:8636", Machine(root, ROOT)).met
