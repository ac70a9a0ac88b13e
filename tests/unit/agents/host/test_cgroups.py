"""Control groups of memory: the same answers from v1 and v2."""

import os

import pytest
from tests.unit.agents.host.trees import V1_UNLIMITED, proc, v1_group, v2_group

from tmem.agents.host.cgroups import Hierarchy
from tmem.wire.errors import InvalidOption

MIB = 1 << 20


@pytest.fixture
def v1(tmp_path):
    top = tmp_path / "one"
    v1_group(top / "memory")
    lines = "9:name=systemd:/\n4:memory:/outer/inner\n1:cpu:/x\n0::/"
    return Hierarchy.find(top, proc(tmp_path / "proc", self=lines, pid42="4:memory:/"))


@pytest.fixture
def v2(tmp_path):
    top = tmp_path / "two"
    top.mkdir()
    (top / "cgroup.controllers").write_text("cpu memory pids\n", "ascii")
    (top / "cgroup.subtree_control").write_text("", "ascii")
    (top / "cgroup.procs").write_text("", "ascii")
    return Hierarchy.find(top, proc(tmp_path / "proc", self="0::/outer/inner", pid42="0::/"))


@pytest.fixture(params=["v1", "v2"])
def hierarchy(request):
    return request.getfixturevalue(request.param)


def fill(hierarchy, name, limit=None, *, swappable=True, **stat):
    path = hierarchy.root / name
    if hierarchy.version == 1:
        figures = {f"total_{key}": value for key, value in stat.items()}
        v1_group(path, V1_UNLIMITED if limit is None else limit, 60 if swappable else 0, **figures)
    else:
        v2_group(path, "max" if limit is None else str(limit), "max" if swappable else "0", **stat)
    return hierarchy.group(name)


def test_the_version_is_found(v1, v2):
    assert (v1.version, v2.version) == (1, 2)
    assert v1.root.name == "memory"


def test_hybrid_machines_have_the_controller_in_v1(tmp_path):
    v1_group(tmp_path / "memory")
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n", "ascii")
    assert Hierarchy.find(tmp_path).version == 1


def test_a_machine_without_says_what_to_do(tmp_path):
    with pytest.raises(InvalidOption, match="Mount one"):
        Hierarchy.find(tmp_path)


def test_limits(hierarchy):
    assert fill(hierarchy, "free").limit is None
    group = fill(hierarchy, "tight", 64 * MIB)
    assert group.limit == 64 * MIB
    group.set_limit(32 * MIB)
    assert hierarchy.group("tight").limit == 32 * MIB


def test_a_limit_that_is_refused_is_told_with_the_file(hierarchy):
    group = hierarchy.group("absent")
    with pytest.raises(OSError, match=r"memory\.(limit_in_bytes|max) can't be set to 5"):
        group.set_limit(5)


def test_usage(hierarchy):
    swapped = {"swap": 900} if hierarchy.version == 1 else {}
    group = fill(hierarchy, "busy", pgmajfault=11, inactive_file=300, active_file=200, **swapped)
    usage = group.usage()
    assert (usage.resident, usage.peak, usage.swapped, usage.major_faults, usage.oom_kills) == (5000, 7000, 900, 11, 2)
    assert group.droppable() == 500


def test_an_old_v2_has_no_peak(v2):
    group = fill(v2, "old")
    (group.path / "memory.peak").unlink()
    assert group.usage().peak is None


def test_the_group_of_a_process(hierarchy):
    assert hierarchy.of().path == hierarchy.root / "outer/inner"
    assert hierarchy.of(42).path == hierarchy.root


def test_the_nearest_limit_above(hierarchy):
    fill(hierarchy, "outer", 100 * MIB)
    fill(hierarchy, "outer/inner")
    limited = hierarchy.limited(hierarchy.of())
    assert limited is not None
    assert limited.path.name == "outer"
    fill(hierarchy, "outer")
    assert hierarchy.limited(hierarchy.of()) is None


def test_swap_is_forbidden_and_seen_to_be(hierarchy):
    fill(hierarchy, "outer")
    group = fill(hierarchy, "outer/inner")
    assert not hierarchy.keeps_swap_out(group)
    group.forbid_swap()
    assert hierarchy.keeps_swap_out(group)


def test_in_v2_the_group_above_decides_too(v2):
    fill(v2, "outer", swappable=False)
    assert v2.keeps_swap_out(fill(v2, "outer/inner"))


@pytest.mark.parametrize(("limit", "swap", "moves"), [(None, False, False), (None, True, True), (MIB, False, True)])
def test_a_process_takes_shelter_where_it_must(hierarchy, limit, swap, moves):
    fill(hierarchy, "outer", limit, swappable=swap)
    fill(hierarchy, "outer/inner", swappable=swap)
    fill(hierarchy, "shelter")
    group = hierarchy.shelter("shelter")
    assert (group is not None) == moves
    if group is not None:
        assert hierarchy.keeps_swap_out(group)
        assert group.processes() == [os.getpid()]


def test_a_process_that_can_t_leave_its_limit_is_told(hierarchy):
    fill(hierarchy, "outer", MIB)
    fill(hierarchy, "outer/inner")
    (hierarchy.root / "shelter").write_text("in the way", "ascii")
    with pytest.raises(OSError):  # which one depends on the version
        hierarchy.shelter("shelter")
    fill(hierarchy, "outer")
    assert hierarchy.shelter("shelter") is None, "without a limit it stays: its memory is locked anyway"


def test_v2_hands_the_controller_down(v2):
    v2.create("new")
    assert (v2.root / "cgroup.subtree_control").read_text("ascii") == "+memory"


def test_all_groups(hierarchy):
    fill(hierarchy, "a")
    fill(hierarchy, "a/b")
    found = [group.path for group in hierarchy.all()]
    assert found[-1] == hierarchy.root
    assert {hierarchy.root / "a", hierarchy.root / "a/b"} <= set(found)


def test_removing_what_is_gone_is_fine(hierarchy):
    hierarchy.group("absent").remove()
