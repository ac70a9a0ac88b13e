"""`tmem run` refuses what the way that was chosen does not have."""

import pytest
from click.testing import CliRunner

from tmem.cli.run import run


@pytest.mark.parametrize(
    ("option", "value"), [("--durability", "disk"), ("--overcommit", "2"), ("--durability", "memory")]
)
def test_the_pager_refuses_what_only_swapping_has(option, value):
    done = CliRunner().invoke(run, ["--memory", "64MiB", "--via", "pager", option, value, "--", "true"])
    assert done.exit_code == 2
    assert f"{option} is of --via swap" in done.output
