import argparse
import tomllib
from pathlib import Path

import pytest

from tmem.server.config import ConfigError, Settings, add_flags, load


def test_defaults() -> None:
    settings = load({}, {}).settings

    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:8636", "127.0.0.1:8637")
    assert (settings.memory_limit, settings.max_pools_per_tenant) == (4 << 30, 1024)
    assert (settings.persistent_grace_seconds, settings.ephemeral_grace_seconds) == ("never", 3600.0)


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "tmemd.toml"
    file.write_text('memory_limit = "1GiB"\nmax_window = "16MiB"\nlog_level = "error"\n')

    loaded = load({"memory_limit": "3GiB"}, {"TMEM_MEMORY_LIMIT": "2GiB", "TMEM_MAX_WINDOW": "32MiB"}, file)

    assert loaded.settings.memory_limit == 3 << 30
    assert loaded.settings.max_window == 32 << 20
    assert loaded.settings.log_level == "error"
    assert loaded.origins == {
        "memory_limit": "--memory-limit",
        "max_window": "TMEM_MAX_WINDOW",
        "log_level": f"{file}: log_level",
    }


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tmemd.toml"
    file.write_text("max_window_batches = 7\n")

    assert load({}, {"TMEM_CONFIG": str(file)}).settings.max_window_batches == 7


def test_variables_of_clients_are_not_settings() -> None:
    load({}, {"TMEM_TARGET": "x:1", "TMEM_TOKEN": "secret", "TMEM_METRICS": "http://x", "HOME": "/"})


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"memory_limit": "4Gx"}, {}, "--memory-limit: '4Gx': .*write a number and a unit"),
        ({"memory_limit": "1K"}, {}, "--memory-limit: '1K': .*greater than or equal to 1048576"),
        ({"listen": "nowhere"}, {}, "--listen: 'nowhere': .*HOST:PORT"),
        ({"loop": "twisted"}, {}, "--loop: 'twisted'"),
        ({"max_pools_per_tenant": "0"}, {}, "--max-pools-per-tenant"),
        ({"layers": ["slow"]}, {}, "--layer: .*layer 'slow' is unknown"),
        ({}, {"TMEM_MEMRY_LIMIT": "4GiB"}, "TMEM_MEMRY_LIMIT: there is no such setting"),
        ({}, {"TMEM_SESSION_TIMEOUT_SECONDS": "soon"}, "TMEM_SESSION_TIMEOUT_SECONDS: 'soon'"),
        ({}, {"TMEM_PERSISTENT_GRACE_SECONDS": "-1"}, "TMEM_PERSISTENT_GRACE_SECONDS: '-1'"),
        ({}, {"TMEM_PERSISTENT_GRACE_SECONDS": "always"}, "TMEM_PERSISTENT_GRACE_SECONDS: 'always'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_origin(
    flags: dict[str, object], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(flags, environment)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memry_limit = 4", "memry_limit: there is no such setting"),
        ("memory_limit = ", "not TOML"),
        ("memory_limit = true", "memory_limit"),
        ("[limits]\nx = 1", "limits: there is no such setting"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tmemd.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load({}, {}, file)

    assert str(file) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load({}, {}, tmp_path / "none.toml")


def test_what_is_dumped_loads_to_the_same(tmp_path: Path) -> None:
    loaded = load(
        {"memory_limit": "1536KiB", "layers": ["delayed:seconds=0.5", "logged"], "reflection": True},
        {
            "TMEM_TOKENS": '/etc/a "quoted" path.toml',
            "TMEM_EPHEMERAL_GRACE_SECONDS": "never",
            "TMEM_PERSISTENT_GRACE_SECONDS": "1.5",
        },
    )
    file = tmp_path / "dumped.toml"
    file.write_text(loaded.dump())

    assert load({}, {}, file).settings == loaded.settings
    assert "(TMEM_TOKENS)" in loaded.dump()
    tomllib.loads(loaded.dump())


def test_every_setting_is_a_flag_with_help() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)  # type: ignore[arg-type]
    text = parser.format_help()

    for name, field in Settings.model_fields.items():
        flag = "--layer" if name == "layers" else "--" + name.replace("_", "-")
        assert flag in text
        assert field.description


def test_flags_that_were_not_given_leave_no_trace() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)  # type: ignore[arg-type]

    assert vars(parser.parse_args([])) == {}
    assert vars(parser.parse_args(["--no-reflection", "--layer", "logged", "--layer", "delayed"])) == {
        "reflection": False,
        "layers": ["logged", "delayed"],
    }


def test_numbers_say_their_unit_in_their_name() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is float or "float" in str(field.annotation):
            assert name.endswith("_seconds"), name
