import hashlib
from pathlib import Path

import pytest

from tmem.server.tenants import LOCAL, Tenants, TokenFileError
from tmem.wire.errors import Unauthenticated

TOKEN_A, TOKEN_B = "a-token-of-alice-0001", "a-token-of-bob-000001"
FILE = f"""
[tenants.alice]
tokens = ["{TOKEN_A}", "sha256:{hashlib.sha256(b"another-one-of-alice").hexdigest()}"]
weight = 3
quota = "8GiB"
max_pools = 64

[tenants.bob]
tokens = ["{TOKEN_B}"]
"""


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    path = tmp_path / "tokens.toml"
    path.write_text(FILE)
    return Tenants.load(path)


def test_without_a_file_everybody_is_local() -> None:
    tenants = Tenants()

    assert tenants.open
    assert tenants.authenticate(None).name == tenants.authenticate("Bearer x").name == LOCAL


@pytest.mark.parametrize(("token", "name"), [(TOKEN_A, "alice"), ("another-one-of-alice", "alice"), (TOKEN_B, "bob")])
def test_a_token_names_its_tenant(tenants: Tenants, token: str, name: str) -> None:
    assert tenants.authenticate(f"Bearer {token}").name == name


@pytest.mark.parametrize("value", [None, "", TOKEN_A, "bearer " + TOKEN_A, "Bearer wrong-token-wrong-token", "Bearer "])
def test_anything_else_is_nobody(tenants: Tenants, value: str | None) -> None:
    with pytest.raises(Unauthenticated):
        tenants.authenticate(value)


def test_what_a_tenant_may_have(tenants: Tenants) -> None:
    alice, bob = tenants.by_name["alice"], tenants.by_name["bob"]

    assert (alice.weight, alice.quota, alice.max_pools) == (3, 8 << 30, 64)
    assert (bob.weight, bob.quota, bob.max_pools) == (0, 0, 0)
    assert tenants.quotas() == {"alice": 8 << 30}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no tenant"),
        ("x = 1", "unknown key 'x'"),
        ("[tenants]", "names no tenant"),
        ("[tenants.a]\ntokens = ['short']", "at least 16"),
        ("[tenants.a]\nquota = '4Gx'", "write a number and a unit"),
        ("[tenants.a]\nweigth = 3", "weigth"),
        ("[tenants.a]\nweight = -3", "weight"),
        ("[tenants.a]\ntokens = ['sha256:xyz0123456789']", "64 hex digits"),
        ("[tenants.a]\ntokens = ['sha256:00112233445566']", "64 hex digits"),
        (f"[tenants.a]\ntokens = ['{TOKEN_A}']\n[tenants.b]\ntokens = ['{TOKEN_A}']", "same token"),
        ("tenants = 3", "names no tenant"),
        ("[tenants]\na = 3", "table"),
        ("[tenants.a]\nname = 'b'", "unknown key 'name'"),
        ("not toml", "not TOML"),
    ],
)
def test_a_bad_file_says_what_is_wrong_in_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(TokenFileError, match=message) as raised:
        Tenants.load(path)

    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="No such file"):
        Tenants.load(tmp_path / "none")


def test_tokens_do_not_show_in_a_tenant_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f"[tenants.a]\ntokens = ['{TOKEN_A}', 5]")
    with pytest.raises(TokenFileError) as raised:
        Tenants.load(path)

    assert TOKEN_A not in str(raised.value)
