from typing import Any

import pytest

from tmem.client import Options
from tmem.wire.errors import InvalidOption


def test_a_client_has_a_name() -> None:
    assert "[" in Options().name
    assert Options(name="agent").name == "agent"


@pytest.mark.parametrize(
    "wrong",
    [
        {"read_timeout": 0},
        {"write_timeout": -1},
        {"call_timeout": float("nan")},
        {"connect_timeout": 0},
        {"window_bytes": 1 << 20},
        {"window_batches": 0},
        {"token": "two\nlines"},
        {"token": "tökén"},
        {"tls_cert": "c.pem", "tls_ca": "ca.pem"},
        {"tls_key": "k.pem", "tls_ca": "ca.pem"},
        {"tls_name": "somebody"},
    ],
)
def test_what_can_not_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(wrong))):
        Options(**wrong)
