"""Whether what is out fits back: the machine's memory, and every limited group's."""

import pytest
from tests.unit.agents.host.trees import proc, v1_group

from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.swap.fits import obstacles

MIB = 1 << 20


@pytest.fixture
def meminfo(tmp_path):
    file = tmp_path / "meminfo"

    def write(available_mib: int) -> None:
        file.write_text(f"MemTotal: {4096 * 1024} kB\nMemAvailable: {available_mib * 1024} kB\n", "ascii")

    write(2048)
    return file, write


@pytest.fixture
def hierarchy(tmp_path):
    v1_group(tmp_path / "cgroup/memory", swappiness=60)
    return Hierarchy.find(tmp_path / "cgroup", proc(tmp_path / "proc", self="4:memory:/"))


def job(hierarchy, limit, resident, swapped, file=0):
    path = v1_group(hierarchy.root / "job", limit, total_swap=swapped, total_inactive_file=file)
    (path / "memory.usage_in_bytes").write_text(str(resident), "ascii")


def test_nothing_out_always_fits(meminfo):
    assert obstacles(0, None, meminfo[0]) == []


def test_the_machine_s_memory(meminfo, hierarchy):
    file, write = meminfo
    assert obstacles(1024 * MIB, hierarchy, file) == []
    write(1024)
    (why,) = obstacles(1024 * MIB, hierarchy, file)
    assert "1024 MiB are out" in why
    assert "960 MiB of this machine's memory are free" in why


def test_a_group_that_has_no_room_is_named_with_its_programs(meminfo, hierarchy):
    job(hierarchy, 64 * MIB, 60 * MIB, 100 * MIB)
    (why,) = obstacles(100 * MIB, hierarchy, meminfo[0])
    assert str(hierarchy.root / "job") in why
    assert "100 MiB out" in why
    assert "room for 4 MiB" in why
    assert "none is left in it" in why
    assert "another area" not in why
    assert "perhaps in another area" in obstacles(100 * MIB, hierarchy, meminfo[0], alone=False)[0]


def test_cached_files_make_room(meminfo, hierarchy):
    job(hierarchy, 64 * MIB, 60 * MIB, 20 * MIB, file=30 * MIB)
    assert obstacles(20 * MIB, hierarchy, meminfo[0]) == []


def test_only_as_much_as_is_out_comes_back(meminfo, hierarchy):
    job(hierarchy, 64 * MIB, 60 * MIB, 100 * MIB)
    assert obstacles(4 * MIB, hierarchy, meminfo[0]) == [], "the rest is in another area"
