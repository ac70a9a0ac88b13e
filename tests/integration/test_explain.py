"""Asked why a page is not there, the server says."""

from collections.abc import Callable

import pytest
from tests.faces import Face
from tests.pages import PAGE, random_page, same_filled_page, text_page

import tmem.client
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

Start = Callable[..., CaptiveDaemon]


def test_where_a_held_page_is_and_how(face: Face, start_daemon: Start) -> None:
    with face.connect(start_daemon().target) as client:
        pool = client.create_pool("a")
        pool.put(7, 0, b"".join(map(text_page, range(20))))
        pool.put(7, 600, same_filled_page())
        pool.put((1 << 192) - 1, (1 << 32) - 1, random_page())

        found = pool.explain(7, 17)
        assert (found.held, found.tier, found.encoding, found.chunk_pages) == (True, "memory", "lz4", 4)
        assert (found.generation, found.sequence, found.events) == (1, 1, ())
        assert pool.explain(7, 600).encoding == "same_filled"
        last = pool.explain((1 << 192) - 1, (1 << 32) - 1)
        assert (last.encoding, last.encoded_bytes) == ("raw", PAGE)
        nothing = pool.explain(7, 20)
        assert (nothing.held, nothing.tier, nothing.events) == (False, "", ())
        with pytest.raises(errors.InvalidHandle):
            pool.explain(7, 1 << 32)


def test_refusals_are_remembered_with_their_reasons_the_newest_first(start_daemon: Start) -> None:
    with tmem.client.connect(start_daemon().target) as client:
        pool = client.create_pool("a", quota_bytes=20_000)
        with pytest.raises(errors.QuotaExceeded):
            pool.put(7, 0, b"".join(map(random_page, range(8))))
        pool.freeze()
        with pytest.raises(errors.PoolFrozen):
            pool.put(7, 3, random_page())
        found = pool.explain(7, 3)
        assert [(event.fate, event.reason) for event in found.events] == [("refused", "FROZEN"), ("refused", "QUOTA")]
        assert found.events[0].age_seconds <= found.events[1].age_seconds
        assert [event.reason for event in pool.explain(7, 4).events] == ["QUOTA"]
        assert pool.explain(7, 8).events == ()


def test_an_evicted_page_is_said_to_be(start_daemon: Start) -> None:
    with tmem.client.connect(start_daemon("--memory-limit", "2MiB").target) as client:
        pool = client.create_pool("a", kind="ephemeral")
        for index in range(600):
            pool.put(7, index, random_page(index))
        assert pool.stat().evicted
        gone = pool.explain(7, 0)
        assert not gone.held
        assert [event.fate for event in gone.events] == ["evicted"]
        assert pool.explain(7, 599).held


def test_a_page_on_the_disk_is_said_to_be(start_daemon: Start, tmp_path: object) -> None:
    daemon = start_daemon("--memory-limit", "2MiB", "--spill", str(tmp_path))
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("a")
        for index in range(1000):
            pool.put(7, index, random_page(index))
        assert pool.explain(7, 0).tier == "disk"
        assert pool.explain(7, 999).tier == "memory"
        page = bytearray(PAGE)
        assert pool.get_into(7, 0, page).hit
        assert page == random_page(0)


def test_nobody_asks_about_anothers_pool(start_daemon: Start, tmp_path: object) -> None:
    with tmem.client.connect(start_daemon().target) as client, pytest.raises(errors.NoSuchPool):
        client.explain_page(99, 7, 0)
