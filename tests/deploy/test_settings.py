"""deploy/tmemd.toml and deploy/tokens.example.toml: complete, true and loadable."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tmem.server.config import Settings, load
from tmem.server.tenants import Tenant, Tenants
from tmem.wire.errors import Unauthenticated

_UNSET = "Default: unset"
_SETTING = re.compile(r"(#?)([a-z][a-z_]*) = (.*)")


class Line(NamedTuple):
    """A setting as the file shows it; `comment` is the text above it."""

    name: str
    commented: bool
    value: object
    comment: str


def read(file: Path) -> list[Line]:
    """Every setting of a file, also those that are commented out."""
    lines = []
    comment: list[str] = []
    for text in file.read_text("utf-8").splitlines():
        match = _SETTING.fullmatch(text)
        if match is not None:
            value = tomllib.loads(f"{match[2]} = {match[3]}")[match[2]]
            lines.append(Line(match[2], bool(match[1]), value, " ".join(comment)))
        elif text.startswith("# "):
            comment.append(text[2:])
            continue
        comment = []
    return lines


@pytest.fixture(scope="module")
def shown(deploy: Path) -> dict[str, Line]:
    lines = read(deploy / "tmemd.toml")
    assert len(lines) == len({line.name for line in lines}), "a setting stands there twice"
    return {line.name: line for line in lines}


def check_config(*arguments: str) -> str:
    """What `tmemd --check-config` prints; it must succeed."""
    command = [sys.executable, "-m", "tmem.server", "--check-config", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={}).stdout


def test_the_daemon_takes_the_file(deploy: Path) -> None:
    assert check_config("--config", str(deploy / "tmemd.toml")) == "the settings are good\n"


def test_the_file_names_every_setting_and_no_other(shown: dict[str, Line]) -> None:
    assert set(shown) == set(Settings.model_fields)


def test_what_is_commented_out_is_the_default(shown: dict[str, Line]) -> None:
    defaults = Settings()
    for line in shown.values():
        default = getattr(defaults, line.name)
        if line.commented and default is not None:
            assert getattr(Settings.model_validate({line.name: line.value}), line.name) == default, line.name


def test_an_example_stands_only_where_the_default_is_unset(shown: dict[str, Line]) -> None:
    says_unset = {line.name for line in shown.values() if _UNSET in line.comment}
    assert says_unset == {name for name, field in Settings.model_fields.items() if field.default is None}
    for name in says_unset:
        assert shown[name].commented
        assert getattr(Settings.model_validate({name: shown[name].value}), name) is not None


def test_all_that_is_commented_out_can_be_set(shown: dict[str, Line], deploy: Path, tmp_path: Path) -> None:
    file = tmp_path / "tmemd.toml"
    text = (deploy / "tmemd.toml").read_text("utf-8")
    file.write_text(re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE), "utf-8")
    assert set(load({}, {}, file).origins) == set(shown)


def test_every_setting_is_explained(shown: dict[str, Line]) -> None:
    for line in shown.values():
        assert len(line.comment) > 60, f"{line.name}: {line.comment!r}"


def test_every_choice_of_a_setting_is_named(shown: dict[str, Line]) -> None:
    for name, choices in (
        ("loop", ("uvloop", "asyncio")),
        ("log_level", ("debug", "info", "warning", "error")),
        ("log_format", ("auto", "human", "json")),
        ("journal_sync", ("never", "always")),
    ):
        assert all(f'"{choice}"' in shown[name].comment for choice in choices), name


def test_values_that_comments_name_are_taken(shown: dict[str, Line]) -> None:
    assert '"never"' in shown["ephemeral_grace_seconds"].comment
    assert '"none"' in shown["metrics_listen"].comment
    example = re.search(r"\[[^]]*\]", shown["layers"].comment)
    assert example is not None
    layers = tomllib.loads(f"layers = {example[0]}")["layers"]
    settings = Settings(
        ephemeral_grace_seconds="never", persistent_grace_seconds=604800.0, metrics_listen="none", layers=layers
    )
    assert len(settings.layers) == 3


# ---- Tokens ----


def test_the_daemon_takes_the_example_of_tokens(deploy: Path) -> None:
    assert check_config("--tokens", str(deploy / "tokens.example.toml")) == "the settings are good\n"


def test_the_example_of_tokens_shows_everything_that_a_tenant_can_have(deploy: Path) -> None:
    tables = tomllib.loads((deploy / "tokens.example.toml").read_text("utf-8"))["tenants"]
    assert set(tables["alice"]) | {"name"} == set(Tenant.model_fields)
    tenants = Tenants.load(deploy / "tokens.example.toml")
    assert tenants.quotas() == {"alice": 8 << 30}
    assert not tenants.open
    # Someone will install it as it is: then it must let nobody in, and hold no token in plain.
    assert all(token.startswith("sha256:") for tenant in tenants.by_name.values() for token in tenant.tokens)


def test_the_commands_in_the_example_make_a_token(deploy: Path, tmp_path: Path, require_tool) -> None:  # type: ignore[no-untyped-def]
    require_tool("openssl")
    text = (deploy / "tokens.example.toml").read_text("utf-8")
    commands = re.findall(r"^#     (.+)$", text, re.MULTILINE)
    assert len(commands) == 2
    script = "\n".join([*commands, 'printf "%s\\n" "$token"'])
    digest, token = subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )[:2]
    file = tmp_path / "tokens.toml"
    file.write_text(re.sub(r"sha256:[0-9a-f]{64}", f"sha256:{digest.split()[0]}", text, count=1), "utf-8")
    tenants = Tenants.load(file)
    assert tenants.authenticate(f"Bearer {token}").name == "alice"
    with pytest.raises(Unauthenticated):
        Tenants.load(deploy / "tokens.example.toml").authenticate(f"Bearer {token}")
