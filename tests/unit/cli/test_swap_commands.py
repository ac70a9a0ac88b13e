"""What `tmem swap` says of a device, and its exit status."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tmem.agents.host import loops, swaps
from tmem.agents.host.swaps import SwapArea
from tmem.agents.swap import device
from tmem.agents.swap.state import Record, Site
from tmem.cli.swap import swap

RECORD = Record("t0", 4096, "s:1", "p", 1, "memory", 30.0, 0.0, device="/dev/loop900", attached=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path, "t0")
    site.path.mkdir()
    site.write(RECORD)
    return site


@pytest.mark.parametrize(
    ("left", "words"),
    [("in use", "t0 stays attached"), ("not in use", "t0 is half detached"), ("nothing", "t0 is detached")],
)
def test_an_interrupted_detach_says_what_it_has_left(site, monkeypatch, left, words):
    monkeypatch.setattr(loops, "backing_of", lambda _: f"{site.mount}/swap")
    areas = [SwapArea("/dev/loop900", 4096, 0, 1)] if left == "in use" else []
    monkeypatch.setattr(swaps, "find_area", lambda path: next((a for a in areas if a.path == path), None))

    def interrupted(*_arguments, **_options):
        if left == "nothing":
            site.remove()
        raise KeyboardInterrupt

    monkeypatch.setattr(device, "detach", interrupted)
    done = CliRunner().invoke(swap, ["detach", "t0", "--run-dir", str(site.path.parent)])
    assert done.exit_code == 130
    assert words in done.stderr


@pytest.mark.parametrize("options", [[], ["--watch"], ["--watch", "--json"]])
def test_a_device_that_is_not_there_can_t_be_watched_either(tmp_path, options):
    done = CliRunner().invoke(swap, ["status", "none", "--run-dir", str(tmp_path), *options])
    assert done.exit_code == 1
    assert "no device is named 'none'" in done.stderr
