import pytest

from tmem.server.addresses import check_listen_address, is_loopback, split_host_port


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


@pytest.mark.parametrize("address", ["", "8636", ":8636", "host", "host:", "host:x", "host:65536", "::1:5", "host:-1"])
def test_anything_else_says_what_an_address_looks_like(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        check_listen_address(address)


def test_unix_sockets_have_a_path_that_linux_takes() -> None:
    assert check_listen_address("unix:/run/tmem.sock") == "unix:/run/tmem.sock"
    with pytest.raises(ValueError, match="no path"):
        check_listen_address("unix:")
    with pytest.raises(ValueError, match="107"):
        check_listen_address("unix:/" + "x" * 107)


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
