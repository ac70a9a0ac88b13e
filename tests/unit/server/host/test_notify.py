import socket
from pathlib import Path

import pytest

from tmem.server.host.notify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_states_go_to_the_socket_that_systemd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@tmem-test-{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)

        notify(READY="1", STATUS="serving")

        sock.settimeout(5)
        assert sock.recv(1000) == b"READY=1\nSTATUS=serving"


def test_nobody_to_tell_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY="1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify(READY="1")
