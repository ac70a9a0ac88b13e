import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tmem.server.host.ports import AddressInUseError, check_free


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_a_free_port_is_free() -> None:
    check_free("127.0.0.1:0")


def test_a_port_in_use_is_named(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(AddressInUseError, match=f"{address}: another process does"):
        check_free(address)


def test_an_address_of_another_machine_can_not_be_listened_on() -> None:
    with pytest.raises(AddressInUseError, match="Cannot assign"):
        check_free("192.0.2.1:0")


def test_a_name_that_does_not_resolve_is_said() -> None:
    with pytest.raises(AddressInUseError, match=r"no-such-host\.invalid:0: "):
        check_free("no-such-host.invalid:0")


def test_a_unix_socket_in_use_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.raises(AddressInUseError, match="another process does"):
            check_free(f"unix:{path}")
    check_free(f"unix:{path}")  # left behind: may be replaced


def test_what_is_no_socket_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(AddressInUseError, match="no socket"):
            check_free(f"unix:{path}")


def test_a_unix_socket_needs_its_directory(tmp_path: Path) -> None:
    check_free(f"unix:{tmp_path}/s")
    with pytest.raises(AddressInUseError, match="no directory"):
        check_free(f"unix:{tmp_path}/none/s")
