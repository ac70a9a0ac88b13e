import pytest

from tmem.server.addresses import check_host_port, check_listen_address, is_loopback, split_host_port


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:8636", ("127.0.0.1", 8636)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9", ("::1", 9)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_host_port(address) == parts
    assert check_listen_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "8636",
        ":8636",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "::1:5",
        "host:-1",
        "a\0b:1",
        "unix:\0a",
        8636,
        None,
    ],
)
def test_anything_else_says_what_an_address_looks_like(address: object) -> None:
    for check in (check_listen_address, check_host_port):
        with pytest.raises(ValueError, match="HOST:PORT"):
            check(address)


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_host_must_be_one_that_can_be_looked_up(host: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        check_listen_address(f"{host}:1")


def test_where_a_port_is_needed_a_unix_socket_will_not_do() -> None:
    assert check_host_port("127.0.0.1:1") == "127.0.0.1:1"
    with pytest.raises(ValueError, match="Unix socket"):
        check_host_port("unix:/run/tmem.sock")


def test_unix_sockets_have_a_path_that_linux_takes() -> None:
    assert check_listen_address("unix:/run/tmem.sock") == "unix:/run/tmem.sock"
    with pytest.raises(ValueError, match="no path"):
        check_listen_address("unix:")
    with pytest.raises(ValueError, match="107"):
        check_listen_address("unix:/" + "x" * 107)
    with pytest.raises(ValueError, match="107"):
        check_listen_address("unix:/" + "ä" * 60)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("[::]:1", False),
    ],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
