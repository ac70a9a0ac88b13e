"""Disks that fail under a real daemon: its clients are told, and nothing that was acknowledged is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pages import PAGE, random_page

import tmem.client
from tmem.client import Code
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

Start = Callable[..., CaptiveDaemon]


def put_all(pool: tmem.client.Pool, count: int) -> list[int]:
    """Puts pages one by one; answers which were stored."""
    stored = []
    for index in range(count):
        try:
            pool.put(7, index, random_page(index))
            stored.append(index)
        except (errors.StoreFailed, errors.OutOfCapacity):
            continue
    return stored


@pytest.mark.parametrize("faults", ["short_write=0.5", "write_error=0.1", "full_after=1MiB", "seconds=0.002"])
def test_a_journal_on_a_bad_disk_keeps_exactly_what_it_acknowledged(
    start_daemon: Start, tmp_path: Path, faults: str
) -> None:
    daemon = start_daemon("--journal", str(tmp_path), "--disk-faults", f"{faults},seed=3")
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("a", durability="disk")
        stored = put_all(pool, 400)
        assert stored
        assert (len(stored) < 400) == faults.startswith(("write_error", "full_after"))
        daemon.kill()
        daemon = start_daemon("--journal", str(tmp_path), listen=daemon.target)
        page = bytearray(PAGE)
        for index in range(400):
            result = pool.get_into(7, index, page)
            if index in stored:
                assert result.hit
                assert page == random_page(index)
            else:
                assert result.pages[0] == Code.MISS


@pytest.mark.parametrize("faults", ["short_write=0.5", "write_error=0.5", "read_error=0.3", "full_after=1MiB"])
def test_pages_spilled_to_a_bad_disk_are_right_or_refused(start_daemon: Start, tmp_path: Path, faults: str) -> None:
    daemon = start_daemon(*("--memory-limit", "2MiB", "--spill", str(tmp_path), "--disk-faults", f"{faults},seed=3"))
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("a")
        stored = put_all(pool, 900)
        assert len(stored) > 300
        refused = 0
        page = bytearray(PAGE)
        for index in stored:
            try:
                assert pool.get_into(7, index, page).hit
                assert page == random_page(index)
            except errors.StoreFailed:
                refused += 1
        assert bool(refused) == faults.startswith("read_error")


def test_a_slow_scratch_disk_holds_up_only_whoever_reads_from_it(start_daemon: Start, tmp_path: Path) -> None:
    faults = ("--disk-faults", "read_seconds=3", "--spill", str(tmp_path), "--spill-limit", "32MiB")
    daemon = start_daemon("--memory-limit", "4MiB", *faults)
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("slow")
        count = 2000
        for index in range(count):
            while True:
                try:
                    pool.put(7, index, random_page(index))
                    break
                except errors.OutOfCapacity:  # the disk is being written to
                    continue
        on_disk = next(index for index in range(count) if pool.explain(7, index).tier == "disk")
        in_memory = next(index for index in reversed(range(count)) if pool.explain(7, index).tier == "memory")
        with tmem.client.connect(daemon.target) as other:
            quick = other.create_pool("quick")
            quick.put(1, 0, random_page(0))
            page = bytearray(PAGE)
            with pool.batch() as batch:
                slow = batch.get_into(7, on_disk, page)
                batch.submit()
                into = bytearray(PAGE)
                assert quick.get_into(1, 0, into).hit
                assert pool.get_into(7, in_memory, into).hit
                assert into == random_page(in_memory)
                assert not slow.done, "others are answered before the disk has answered"
            assert slow.hit
            assert page == random_page(on_disk)
