import signal
from pathlib import Path

import pytest

from tmem.server.host.captive import Captive


async def test_a_signal_before_the_command_was_started_keeps_it_from_being_started(tmp_path: Path) -> None:
    captive = Captive(f"touch {tmp_path}/ran")
    captive.signal(signal.SIGTERM)

    assert await captive.run("127.0.0.1:1", None) == 128 + signal.SIGTERM
    assert not (tmp_path / "ran").exists()


async def test_a_signal_after_its_end_is_nobodys(tmp_path: Path) -> None:
    captive = Captive("exit 3")

    assert await captive.run("127.0.0.1:1", None) == 3
    captive.signal(signal.SIGTERM)


async def test_the_command_finds_this_daemon_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMEM_TARGET", "another:1")
    monkeypatch.setenv("TMEM_METRICS", "http://another:2/metrics")
    command = f"echo $TMEM_TARGET ${{TMEM_METRICS-none}} >{tmp_path}/said"
    said = tmp_path / "said"

    await Captive(command).run("127.0.0.1:1", None)
    assert said.read_text() == "127.0.0.1:1 none\n"
    await Captive(command).run("127.0.0.1:1", "127.0.0.1:2")
    assert said.read_text() == "127.0.0.1:1 http://127.0.0.1:2/metrics\n"


async def test_the_command_does_not_find_what_the_daemon_has_set_for_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRPC_A", "the daemon's")
    monkeypatch.setenv("GRPC_B", "the user's")

    await Captive(f"echo ${{GRPC_A-none}} $GRPC_B >{tmp_path}/said", without=["GRPC_A"]).run("127.0.0.1:1", None)

    assert (tmp_path / "said").read_text() == "none the user's\n"
