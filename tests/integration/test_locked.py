"""A daemon whose memory is locked (--lock-memory): it works as any other, and gives back what it no longer needs."""

import os
from pathlib import Path

import pytest
from tests.conftest import skip_or_fail
from tests.pages import extent

import tmem.client


def field(pid: int, name: str) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    return int(status[name].split()[0]) * 1024


@pytest.fixture
def locked(start_daemon):
    if os.geteuid():
        skip_or_fail("only root may lock so much memory")
    return start_daemon("--lock-memory", "--memory-limit", "32MiB")


def test_memory_is_given_back_although_it_is_locked(locked):
    """A stream ended whenever the cleaner gave a part of a segment back: locked memory wants another word for that."""
    pages = extent(1, 64)
    with tmem.client.connect(locked.target) as client:
        pool = client.create_pool("pages", chunk_pages=4)
        for index in range(0, 4096, 64):
            pool.put(0, index, pages)
        with pool.batch() as batch:
            for index in range(0, 4096, 4):
                batch.flush(0, index, 3)
        assert client.counters.reconnects == 0
        back = bytearray(4096)
        assert pool.get_into(0, 4095, back).hit
        assert back == pages[-4096:]
    assert "stream.failed" not in locked.log()
    assert field(locked.pid, "VmLck") >= field(locked.pid, "VmRSS")
