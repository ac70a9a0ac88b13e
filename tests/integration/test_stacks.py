"""SIGUSR1 shows where the daemon stands, on both event loops, and changes nothing."""

import signal

import pytest

import tmem.client


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_sigusr1_prints_threads_and_tasks_and_the_daemon_serves_on(start_daemon, loop):
    daemon = start_daemon("--loop", loop)
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("watched", kind="persistent")
        pool.put(1, 0, b"a" * 4096)
        daemon.signal(signal.SIGUSR1)
        back = bytearray(4096)
        assert pool.get_into(1, 0, back).hit
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    log = daemon.log()
    assert "most recent call first" in log
    assert "keep_up" in log.partition(" tasks:")[2]
