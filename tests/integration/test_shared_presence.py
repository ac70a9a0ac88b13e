"""A presence map that a process leaves to the next, on a real daemon."""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faces import Face
from tests.pages import PAGE, text_page
from tests.processes import Program

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client import Code, SharedPresence
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

A, B = text_page(1), text_page(2)
PAGES = 2048
Names = Callable[[], str]
Start = Callable[..., CaptiveDaemon]

# Puts and flushes pages, 16 at a time and for ever, with a map in a file; says how it began, and when it is well under way.
WRITER = """
import mmap, select, sys
import tmem.client.link
from tests.faces import drive
from tests.pages import text_page
target, name, path = sys.argv[1:]
pages = [text_page(number) for number in range(64)]
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
link = tmem.client.link.connect(target)
pool = link.create_pool(name, presence=tmem.client.SharedPresence(memory, 2048))
print(pool.token.hex(), flush=True)
number = 0
def put_done(result):
    assert result.stored, result
    go_on()
def go_on():
    global number
    index = number * 7 % 2048
    number += 1
    if number == 3000:
        print("far", flush=True)
    if number % 5 == 4:
        pool.submit_flush(0, index, 1, lambda results: waiting.append(None))
    else:
        pool.submit_put(0, index, pages[number % 64], put_done)
waiting = [None] * 16
while True:
    while waiting:
        waiting.pop()
        go_on()
    drive(link, 1.0)
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[memoryview]:
    path = tmp_path / "presence"
    path.write_bytes(bytes(SharedPresence.size(PAGES)))
    with path.open("r+b") as file:
        yield memoryview(mmap.mmap(file.fileno(), 0))


def listings(daemon: CaptiveDaemon) -> float:
    return total(scrape(daemon.metrics_url), "tmem_rpc_requests_total", method="PoolsService/ListPages")


def test_the_next_process_goes_on_without_asking_what_is_stored(
    face: Face, daemon: CaptiveDaemon, pool_name: Names, memory: memoryview
) -> None:
    name = pool_name()
    with face.connect(daemon.target) as client:
        pool = client.create_pool(name, presence=SharedPresence(memory, PAGES))
        token = pool.token
        pool.put(0, 0, A + B)
        pool.put(0, 600, B)
        pool.flush(0, 1)
    before = listings(daemon)
    with face.connect(daemon.target) as client:
        pool = client.open_pool(name, token, presence=SharedPresence(memory, PAGES))
        assert listings(daemon) == before
        buffer = bytearray(PAGE)
        assert pool.get_into(0, 0, buffer).hit
        assert buffer == A
        sent = client.counters.messages_sent
        assert pool.get_into(0, 1, buffer).miss
        assert client.counters.messages_sent == sent
        assert pool.pages_stored == 2


def test_handles_outside_the_map_are_refused_before_anything_is_sent(
    face: Face, daemon: CaptiveDaemon, pool_name: Names, memory: memoryview
) -> None:
    with face.connect(daemon.target) as client:
        pool = client.create_pool(pool_name(), presence=SharedPresence(memory, PAGES))
        buffer = bytearray(PAGE)
        for call in (
            lambda: pool.put(1, 0, A),
            lambda: pool.put(0, PAGES, A),
            lambda: pool.put_page_sync(1, 0, A),
            lambda: pool.get_into(1, 0, buffer),
            lambda: pool.get_page_sync(1, 0, buffer),
            lambda: pool.flush(1, 0),
            lambda: pool.flush(0, 0, PAGES + 1),
            lambda: pool.flush_object(1),
        ):
            with pytest.raises(errors.InvalidHandle, match="presence map"):
                call()
        assert pool.put(0, 0, A).stored


def test_a_map_of_another_pool_is_refused(
    face: Face, daemon: CaptiveDaemon, pool_name: Names, memory: memoryview
) -> None:
    with face.connect(daemon.target) as client:
        client.create_pool(pool_name(), presence=SharedPresence(memory, PAGES))
        other = client.create_pool(pool_name())
        for call in (
            lambda: client.open_pool(other.name, other.token, presence=SharedPresence(memory, PAGES)),
            lambda: client.create_pool(pool_name(), presence=SharedPresence(memory, PAGES)),
        ):
            with pytest.raises(errors.InvalidOption, match="another pool's"):
                call()


def test_pages_that_the_server_lost_between_two_processes_are_lost_and_no_miss(
    face: Face, start_daemon: Start, pool_name: Names, memory: memoryview
) -> None:
    daemon = start_daemon()
    name = pool_name()
    client = face.connect(daemon.target)
    pool = client.create_pool(name, presence=SharedPresence(memory, PAGES))
    token = pool.token
    pool.put(0, 0, A)
    daemon.kill()
    start_daemon(listen=daemon.target)
    pool.put(0, 1, B, timeout=20)  # the pool is there again
    client.close()
    with face.connect(daemon.target) as client:
        pool = client.open_pool(name, token, presence=SharedPresence(memory, PAGES))
        assert pool.get_into(0, 0, bytearray(PAGE)).lost
        assert pool.get_into(0, 1, bytearray(PAGE)).hit
        assert pool.get_into(0, 2, bytearray(PAGE)).miss


def test_after_kill_9_in_full_flight_the_map_says_what_the_server_holds(
    daemon: CaptiveDaemon, pool_name: Names, memory: memoryview, tmp_path: Path
) -> None:
    name = pool_name()
    with Program(WRITER, daemon.target, name, str(tmp_path / "presence")) as writer:
        token = bytes.fromhex(writer.line())
        assert writer.line() == "far"
        writer.kill()
    kept = SharedPresence(memory, PAGES)
    assert kept.counts()[0] > 500
    with tmem.client.connect(daemon.target) as client:
        pool = client.open_pool(name, token, presence=kept)
        assert kept.counts()[1] == 0
        codes = {}
        for index in range(PAGES):
            codes[index] = pool.get_into(0, index, bytearray(PAGE)).pages[0]
        # As one sees it who asks the server for everything.
        other = client.open_pool(name, token)
        for index in range(PAGES):
            assert other.get_into(0, index, bytearray(PAGE)).pages[0] == codes[index], index
    assert set(codes.values()) == {Code.HIT, Code.MISS}
