"""Which attached device a run uses: one to which its pages will go, as they are asked to; else it makes its own."""

from dataclasses import replace
from pathlib import Path

import pytest

from tmem.agents.host import swaps
from tmem.agents.host.swaps import SwapArea
from tmem.agents.run import swapping
from tmem.agents.run.ways import Order
from tmem.agents.swap.shared import Latencies
from tmem.agents.swap.state import Record, Site
from tmem.agents.swap.status import Reading

MIB = 1 << 20
RECORD = Record(
    name="s0",
    size=1024 * MIB,
    target="server:8636",
    pool="swap/here/s0",
    pool_id=1,
    durability="memory",
    io_deadline=30.0,
    started=0.0,
    device="/dev/loop7",
    attached=True,
)
READING = Reading("s0", 0.0, RECORD, "attached", 100 * MIB, 5, (), Latencies(()), Latencies(()))
ORDER = Order(["true"], 64 * MIB, None, "server:8636", None)
OTHERS = [SwapArea("/dev/loop7", 1024 * MIB, 0, 5), SwapArea("/swapfile", 1024 * MIB, 0, 4)]


@pytest.fixture
def choose(monkeypatch):
    def ask(reading=READING, order=ORDER, areas=OTHERS, **options):
        site = Site(Path("/nowhere"), reading.name)
        monkeypatch.setattr(swapping, "sites", lambda _: [site])
        monkeypatch.setattr(swapping, "read_device", lambda _: reading)
        monkeypatch.setattr(swaps, "list_areas", lambda: areas)
        return swapping._shared_device(Path("/nowhere"), order, options) is site

    return ask


def test_one_that_suits_is_used(choose):
    assert choose()
    assert choose(durability="memory", io_deadline=30.0)


def test_one_that_is_not_the_first_that_is_filled_is_not(choose):
    assert not choose(areas=[*OTHERS, SwapArea("/dev/zram0", MIB, 0, 6)])
    assert not choose(areas=[*OTHERS, SwapArea("/dev/zram0", MIB, 0, 5)])


def test_one_that_is_full_is_not_though_no_room_is_asked_for(choose):
    assert choose(replace(READING, used=960 * MIB))
    assert not choose(replace(READING, used=961 * MIB))


def test_one_without_the_room_asked_for_is_not(choose):
    assert choose(order=replace(ORDER, room=924 * MIB))
    assert not choose(order=replace(ORDER, room=925 * MIB))


def test_one_that_is_less_durable_is_not(choose):
    assert not choose(durability="disk")
    disk = replace(READING, record=replace(RECORD, durability="disk"))
    assert choose(disk, durability="disk")
    assert choose(disk, durability="memory"), "more than was asked for"


def test_one_of_another_deadline_is_not(choose):
    assert not choose(io_deadline=2.0)
    assert not choose(io_deadline=60.0)


def test_with_an_overcommit_asked_for_none_is(choose):
    assert not choose(overcommit=2.0)


def test_one_of_another_server_that_is_unwell_or_of_another_run_is_not(choose):
    assert not choose(replace(READING, record=replace(RECORD, target="other:8636")))
    assert not choose(replace(READING, condition="aborted"))
    assert not choose(replace(READING, used=None, priority=None))
    assert not choose(replace(READING, name="run-7"))
