"""What is written down of a device, and who is believed to be a worker of it."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tmem.agents.swap.config import WORKER_MODULE, Config
from tmem.agents.swap.device import detach
from tmem.agents.swap.state import Record, Site, _workers
from tmem.wire.errors import InvalidOption


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "run", "t0")


def config_file(site: Site, name: str = "t0") -> int:
    return Config(name, str(site.path), 4096, "s:1", [], None, "p", "00", 1, 4096, "memory", 4, 0, 30.0, 10.0).to_file()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Starts a program with a worker's command line and a file for its config, that does nothing."""
    started: list[subprocess.Popen[bytes]] = []
    folder = tmp_path / "path" / Path(*WORKER_MODULE.split(".")).parent
    folder.mkdir(parents=True)
    for path in (folder, folder.parent, folder.parent.parent):
        (path / "__init__.py").touch()
    (folder / "worker.py").write_text("print(flush=True); input()\n", "ascii")

    def start(config: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER_MODULE, *map(str, (config, *range(100, 105)))],
            env={"PYTHONPATH": str(tmp_path / "path")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[config],
        )
        os.close(config)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_is_of_the_directory_that_is_there(site, monkeypatch):
    """Another process had it, and removed the directory, between its opening and its lock here."""
    real = fcntl.flock

    def meanwhile(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        site.remove()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with site.locked(), pytest.raises(InvalidOption, match="another process"), Site(site.path.parent, "t0").locked():
        pass


def test_what_another_process_detaches_meanwhile_is_not_detached_by_what_was_read_before(site, monkeypatch):
    site.path.mkdir(parents=True)
    site.write(Record("t0", 4096, "s:1", "p", 1, "memory", 30.0, 0.0))
    real = site.locked

    @contextmanager
    def meanwhile() -> Iterator[None]:
        site.remove()
        with real():
            yield

    monkeypatch.setattr(site, "locked", meanwhile)
    with pytest.raises(InvalidOption, match="no device is named"):
        detach(site)
    assert not site.path.exists()


def test_a_worker_is_found_by_what_it_was_told(site, start_worker):
    pid = start_worker(config_file(site))
    assert [found for found, _ in _workers(site)] == [pid]


def test_nobody_is_believed_to_be_a_worker_who_is_another_user_s(site, start_worker, monkeypatch):
    start_worker(config_file(site))
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert list(_workers(site)) == []


def test_a_false_worker_s_pipe_does_not_hang_those_who_look(site, start_worker, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    config = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    start_worker(config)
    assert list(_workers(site)) == []


def test_a_false_worker_s_file_is_not_read_if_it_is_large(site, start_worker, monkeypatch):
    config = config_file(site)
    os.ftruncate(config, 1 << 40)
    start_worker(config)
    read = []
    real = Config.from_file

    def note(descriptor: int) -> Config:
        read.append(os.fstat(descriptor).st_size)
        return real(descriptor)

    monkeypatch.setattr(Config, "from_file", note)
    assert list(_workers(site)) == []
    assert 1 << 40 not in read
