"""The command line of the daemon as its user meets it: settings, and what is wrong with them in one line."""

import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.processes import run_tmemd

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client.testing import CaptiveDaemon
from tmem.server.config import Settings
from tmem.wire import errors

Start = Callable[..., CaptiveDaemon]

TOKEN = "a-token-of-alice-0001"
# Flags of a daemon that would start, and end at once.
SHORT = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--run", "true")
LONG_NAME = "a" * 70
TOO_BIG = "9" * 400


def refusal(*arguments: str, **environment: str) -> str:
    """What a daemon that can't be says; it must be one line, and the exit status 2."""
    done = run_tmemd(*arguments, **environment)
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tmemd: ")
    return line.removeprefix("tmemd: ")


@pytest.fixture
def taken() -> Iterator[str]:
    """An address on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


class TestWhatCanNotBe:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--nonsense",), "unrecognized arguments: --nonsense"),
            (("--lis", "127.0.0.1:0"), "unrecognized arguments: --lis"),  # a later flag may be called so
            (("stray",), "unrecognized arguments: stray"),
            (("--loop",), "argument --loop: expected one argument"),
            (("--loop", "twisted"), "--loop: 'twisted': "),
            (("--memory-limit", "4Gx"), "--memory-limit: '4Gx': '4Gx' is not a size; write a number and a unit"),
            (("--memory-limit", "1KiB"), "--memory-limit: '1KiB': "),
            (("--memory-limit", TOO_BIG), "--memory-limit: "),
            (("--max-window", "9999999999TiB"), "--max-window: '9999999999TiB': "),
            (("--max-window-batches", "4294967296"), "--max-window-batches: '4294967296': "),
            (("--max-streams-per-connection", "4294967296"), "--max-streams-per-connection: '4294967296': "),
            (("--drain-timeout-seconds", "inf"), "--drain-timeout-seconds: 'inf': "),
            (("--session-timeout-seconds", "1e12"), "--session-timeout-seconds: '1e12': "),
            (("--heartbeat-interval-seconds", "nan"), "--heartbeat-interval-seconds: 'nan': "),
            (("--layer", "slow"), "--layer: "),
            (("--listen", "nowhere"), "--listen: 'nowhere': 'nowhere' is not an address; write HOST:PORT"),
            (("--listen", "127.0.0.1:65536"), "--listen: '127.0.0.1:65536': "),
            (("--listen", "::1:5"), "--listen: '::1:5': "),
            (("--listen", f"{LONG_NAME}:1"), f"--listen: '{LONG_NAME}:1': "),
            (("--listen", "unix:"), "--listen: 'unix:': 'unix:' names no path"),
            (("--metrics-listen", "unix:/run/x"), "--metrics-listen: 'unix:/run/x': 'unix:/run/x' is a Unix socket"),
            (("--config", "/nonexistent.toml"), "/nonexistent.toml: No such file or directory"),
            (("--config", "/"), "/: Is a directory"),
            (("--tokens", "/nonexistent.toml"), "/nonexistent.toml: No such file or directory"),
            (("--tokens", "/"), "/: Is a directory"),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
    )
    def test_a_bad_flag_is_one_line_that_names_it_and_status_2(self, arguments: tuple[str, ...], says: str) -> None:
        assert refusal(*SHORT, *arguments).startswith(says)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("TMEM_MEMORY_LIMIT", "4Gx"), ("TMEM_MEMRY_LIMIT", "4GiB"), ("TMEM_LISTEN", "nowhere"), ("TMEM_LOOP", "")],
    )
    def test_a_bad_variable_is_named(self, name: str, value: str) -> None:
        assert refusal("--run", "true", **{name: value}).startswith(f"{name}: ")

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("memry_limit = 4", "memry_limit"),
            ("[limits]\nmemory = 4", "limits"),
            ("memory_limit = 1.5", "memory_limit"),
            ("memory_limit = true", "memory_limit"),
            ("max_window = [1]", "max_window"),
            ("listen = 8636", "listen"),
            ('listen = "a\\u0000b:1"', "listen"),
            ("metrics_listen = 8637", "metrics_listen"),
            ("tokens = 5", "tokens"),
            ("layers = [5]", "layers"),
            ("reflection = []", "reflection"),
        ],
    )
    def test_a_bad_key_of_a_file_is_named_with_its_file(self, tmp_path: Path, text: str, key: str) -> None:
        file = tmp_path / "tmemd.toml"
        file.write_text(text, "utf-8")

        assert refusal("--config", str(file), "--run", "true").startswith(f"{file}: {key}: ")

    @pytest.mark.parametrize("content", [b"memory_limit = ", b"listen = 'a'\nlisten = 'b'", b"\xff\xfe\x00"])
    @pytest.mark.parametrize("flag", ["--config", "--tokens"])
    def test_a_file_that_is_no_toml_is_named(self, tmp_path: Path, flag: str, content: bytes) -> None:
        file = tmp_path / "file.toml"
        file.write_bytes(content)

        assert refusal(*SHORT, flag, str(file)).startswith(f"{file}: not TOML: ")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "names no tenant"),
            ("[tenants.alice]\ntokens = ['short']", "Tenant tokens.0: "),
            ("[tenants.alice]\nquotum = 3", "Tenant quotum: "),
            ("[tenants.alice]\nquota = 1.5", "Tenant quota: "),
            ("[tenants.alice]\nname = 'bob'", "unknown key 'name'"),
            (f"[tenants.a]\ntokens = ['{TOKEN}']\n[tenants.b]\ntokens = ['{TOKEN}']", "tenants a and b have the same"),
        ],
    )
    def test_a_bad_token_file_is_named_and_tells_no_token(self, tmp_path: Path, text: str, says: str) -> None:
        file = tmp_path / "tokens.toml"
        file.write_text(text, "utf-8")

        line = refusal(*SHORT, "--tokens", str(file))

        assert line.startswith(f"{file}: {says}")
        assert TOKEN not in line
        assert refusal("--check-config", "--tokens", str(file)) == line


class TestAddressesThatCanNotBe:
    @pytest.mark.parametrize("flag", ["--listen", "--metrics-listen"])
    def test_a_port_in_use_is_named(self, taken: str, flag: str) -> None:
        assert refusal(*SHORT, flag, taken) == f"can't listen on {taken}: another process does"

    def test_two_daemons_do_not_share_a_port(self, start_daemon: Start) -> None:
        first = start_daemon()

        assert refusal(*SHORT, "--listen", first.target) == f"can't listen on {first.target}: another process does"
        metrics = first.metrics_url.removeprefix("http://").removesuffix("/metrics")
        assert refusal(*SHORT, "--metrics-listen", metrics) == f"can't listen on {metrics}: another process does"
        with tmem.client.connect(first.target) as client:
            assert client.echo(b"still there") == b"still there"

    @pytest.mark.parametrize("flag", ["--listen", "--metrics-listen"])
    @pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
    def test_an_address_that_is_not_of_this_machine_is_named(self, flag: str, address: str) -> None:
        assert refusal(*SHORT, flag, address).startswith(f"can't listen on {address}: ")

    def test_a_unix_socket_needs_its_directory(self, tmp_path: Path) -> None:
        address = f"unix:{tmp_path}/none/s"

        assert refusal(*SHORT, "--listen", address) == (
            f"can't listen on {address}: there is no directory {tmp_path}/none"
        )

    def test_what_is_no_socket_is_not_taken_for_one(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.txt"
        file.write_text("keep me")

        assert "no socket" in refusal(*SHORT, "--listen", f"unix:{file}")
        assert "no socket" in refusal(*SHORT, "--listen", f"unix:{tmp_path}")
        assert file.read_text() == "keep me"

    def test_nothing_is_left_behind_when_only_the_metrics_can_not_be_served(self, taken: str, tmp_path: Path) -> None:
        path = tmp_path / "s"
        refusal(*SHORT, "--listen", f"unix:{path}", "--metrics-listen", taken)

        assert not path.exists()

    def test_a_port_that_became_free_can_be_had_at_once(self, start_daemon: Start) -> None:
        first = start_daemon()
        with tmem.client.connect(first.target) as client:
            client.create_pool("p").put(7, 0, bytes(4096))
            first.close()

            assert start_daemon(listen=first.target).target == first.target


class TestHelp:
    def test_help_names_every_setting_and_the_exit_statuses(self) -> None:
        done = run_tmemd("--help")

        assert (done.returncode, done.stderr) == (0, "")
        for name in Settings.model_fields:
            assert ("--layer " if name == "layers" else f"--{name.replace('_', '-')} ") in f"{done.stdout} " or (
                name == "reflection" and "--reflection" in done.stdout
            )
        for word in ("--config", "--dump-config", "--check-config", "--run", "SIGHUP", "Exit status", "TMEM_"):
            assert word in done.stdout

    def test_version_is_the_distributions(self) -> None:
        from importlib.metadata import version

        done = run_tmemd("--version")

        assert (done.returncode, done.stdout, done.stderr) == (0, f"tmemd {version('tmem')}\n", "")

    def test_the_installed_script_is_the_same_command(self) -> None:
        script = Path(sys.executable).with_name("tmemd")
        done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30, check=True)

        assert done.stdout == run_tmemd("--version").stdout


class TestConfig:
    def test_what_is_dumped_loads_again_unchanged(self, tmp_path: Path) -> None:
        flags = (
            *("--memory-limit", "1536KiB", "--max-window", "16MiB", "--loop", "asyncio", "--reflection"),
            *("--listen", "unix:/run/tmem/s", "--metrics-listen", "none", "--persistent-grace-seconds", "7.5"),
            *("--ephemeral-grace-seconds", "never", "--tokens", '/etc/a "quoted" \\ name\n\x7f.toml'),
            *("--journal", "/var/lib/journal", "--spill", "/var/tmp/spill"),
            *("--layer", "delayed:seconds=0.5", "--layer", "logged"),
        )
        first = run_tmemd("--dump-config", *flags)
        file = tmp_path / "dumped.toml"
        file.write_text(first.stdout, "utf-8")

        second = run_tmemd("--dump-config", "--config", str(file))

        assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
        settings = tomllib.loads(first.stdout)
        assert tomllib.loads(second.stdout) == settings
        assert set(settings) == set(Settings.model_fields)
        assert settings["tokens"] == '/etc/a "quoted" \\ name\n\x7f.toml'
        assert (settings["memory_limit"], settings["reflection"]) == ("1536KiB", True)

    def test_a_dump_names_every_setting_and_says_where_each_comes_from(self, tmp_path: Path) -> None:
        file = tmp_path / "tmemd.toml"
        file.write_text("max_pools_per_tenant = 7\n", "utf-8")
        done = run_tmemd("--dump-config", "--config", str(file), "--loop", "asyncio", TMEM_MAX_WINDOW="16MiB")

        for name in Settings.model_fields:
            assert f"\n{name} = " in done.stdout or f"\n#{name} =" in done.stdout
        for origin in ("(--loop)", "(TMEM_MAX_WINDOW)", f"({file}: max_pools_per_tenant)", "(default)"):
            assert origin in done.stdout

    def test_settings_that_are_good_are_said_to_be_and_nothing_is_listened_on(self, taken: str, tmp_path: Path) -> None:
        tokens = tmp_path / "tokens.toml"
        tokens.write_text(f"[tenants.alice]\ntokens = ['{TOKEN}']\n", "utf-8")
        done = run_tmemd("--check-config", "--listen", taken, "--tokens", str(tokens), "--run", "echo ran")

        assert (done.returncode, done.stdout, done.stderr) == (0, "the settings are good\n", "")

    def test_a_flag_wins_over_the_environment_and_that_over_the_file(self, start_daemon: Start, tmp_path: Path) -> None:
        file = tmp_path / "tmemd.toml"
        file.write_text('memory_limit = "64MiB"\nmax_window = "16MiB"\nmax_pools_per_tenant = 2\n', "utf-8")
        variables = {"TMEM_CONFIG": str(file), "TMEM_MEMORY_LIMIT": "128MiB", "TMEM_MAX_WINDOW": "32MiB"}
        daemon = start_daemon("--memory-limit", "256MiB", environment=variables)

        with tmem.client.connect(daemon.target) as client:
            limits = client.capabilities.limits
            assert limits.memory_limit_bytes == 256 << 20
            assert limits.max_window_bytes == 32 << 20
            assert limits.max_pools_per_tenant == 2
            client.create_pool("a")
            client.create_pool("b")
            with pytest.raises(errors.PoolLimit):
                client.create_pool("c")
        assert total(scrape(daemon.metrics_url), "tmem_memory_limit_bytes") == 256 << 20

    def test_a_config_flag_wins_over_the_variable(self, tmp_path: Path) -> None:
        file = tmp_path / "tmemd.toml"
        file.write_text("max_pools_per_tenant = 7\n", "utf-8")
        done = run_tmemd("--dump-config", "--config", str(file), TMEM_CONFIG="/nonexistent.toml")

        assert tomllib.loads(done.stdout)["max_pools_per_tenant"] == 7

    def test_variables_of_clients_do_no_harm(self) -> None:
        others = {"TMEM_TARGET": "x:1", "TMEM_TOKEN": "secret", "TMEM_METRICS": "http://x"}

        assert run_tmemd("--check-config", **others).returncode == 0

    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_the_event_loop_is_the_one_that_was_asked_for(self, start_daemon: Start, loop: str) -> None:
        daemon = start_daemon("--loop", loop)

        assert ("/uvloop/" in Path(f"/proc/{daemon.pid}/maps").read_text()) is (loop == "uvloop")

    def test_reflection_is_offered_only_when_asked_for(self, start_daemon: Start) -> None:
        def services(*arguments: str) -> set[str]:
            with grpc.insecure_channel(start_daemon(*arguments).target) as channel:
                return set(ProtoReflectionDescriptorDatabase(channel).get_services())

        names = ("Pages", "Extents", "Pools", "Capabilities")
        assert {f"tmem.v1.{name}Service" for name in names} < services("--reflection")
        with pytest.raises(grpc.RpcError) as raised:
            services()
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
