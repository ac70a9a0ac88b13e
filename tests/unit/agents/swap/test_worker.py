"""A worker's beginning, as a process of its own: what it refuses before it touches anything."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tmem.agents.swap.config import READY, WORKER_MODULE, Config, Descriptors
from tmem.agents.swap.remote import presence_bytes
from tmem.agents.swap.shared import CONTROL_BYTES, Control, Identity, Word, make_file
from tmem.client.link import resolve

PAGES = 1024
TOKEN = b"t" * 32


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def config_of(target: str, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "name": "t0",
        "directory": "/nowhere",
        "size": PAGES * 4096,
        "target": target,
        "endpoints": changes.get("endpoints") or [tuple(endpoint) for endpoint in resolve(target)],
        "token": None,
        "pool": "swap/test/t0",
        "pool_token": TOKEN.hex(),
        "epoch": 1,
        "presence_bytes": presence_bytes(PAGES),
        "durability": "memory",
        "chunk_pages": 4,
        "reserved_bytes": 0,
        "io_deadline": 30.0,
        "write_deadline": 10.0,
    }
    return Config(**settings | changes)


@pytest.fixture
def start_worker(server: socket.socket) -> Iterator[Callable[[Callable[[Control], None]], Any]]:
    """Starts a worker on memory that was changed; answers its process and the holder's end of their socket."""
    ended: list[Callable[[], None]] = []

    def start(change: Callable[[Control], None]) -> tuple["subprocess.Popen[str]", socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = config_of(f"127.0.0.1:{server.getsockname()[1]}").to_file()
        files = [make_file("t", size) for size in (CONTROL_BYTES, PAGES, presence_bytes(PAGES))]
        null = os.open(os.devnull, os.O_RDWR)
        control = Control.make(files[0], PAGES, Identity(TOKEN, 1))
        change(control)
        control.close()
        descriptors = Descriptors(config, null, files[0], files[1], files[2], theirs.fileno())
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER_MODULE, *descriptors.to_arguments()],
            pass_fds=[getattr(descriptors, name) for name in Descriptors.__slots__],
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        for descriptor in (config, null, *files):
            os.close(descriptor)

        def end() -> None:
            process.kill()
            process.communicate()
            ours.close()

        ended.append(end)
        ours.settimeout(30)
        return process, ours

    yield start
    for end in ended:
        end()


def test_a_worker_of_another_version_touches_nothing_and_does_not_stand_by(start_worker, server):
    def another_version(control: Control) -> None:
        control.words[Word.MAGIC] -= 1

    process, holder = start_worker(another_version)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "another version" in said
    assert "Traceback" not in said
    assert holder.recv(16) != READY
    with pytest.raises(BlockingIOError):
        server.accept()
