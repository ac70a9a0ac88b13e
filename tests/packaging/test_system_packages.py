"""The list of system packages: it can be read, it is right, and it has all that tests ask for."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import system_packages
from tests.conftest import skip_or_fail

TESTS = Path(__file__).parents[1]


def asked_for() -> set[str]:
    """The commands and libraries that tests name where they require them."""
    found = set()
    for file in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function.lstrip("_") in {"require_tool", "CDLL"} and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def test_every_line_names_a_package_and_what_it_brings() -> None:
    wanted = system_packages.wanted()
    lines = [line for line in system_packages.LIST.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(wanted) == len(lines)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package) for package in wanted)
    assert all(brought for brought in wanted.values())


def test_all_that_tests_require_is_brought_by_a_package_of_the_list() -> None:
    asked = asked_for()
    assert {"promtool", "systemd-analyze", "libseccomp.so.2"} <= asked
    assert asked <= {thing for brought in system_packages.wanted().values() for thing in brought}


@pytest.mark.parametrize("package", system_packages.wanted())
def test_an_installed_package_brings_what_the_list_says(package: str) -> None:
    query = shutil.which("dpkg-query")
    if query is None:
        skip_or_fail("this is no Debian")
    command = [str(query), "--show", "--showformat=${db:Status-Status}", package]
    status = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    if package in system_packages.missing():
        assert status != "installed"
        skip_or_fail(f"{package} is not installed")


def test_a_package_of_which_something_is_missing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Path(sys.executable).name
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    listed = tmp_path / "list.txt"
    listed.write_text(f"# a comment\nhere {there}\nabsent no-such-command\nhalf {there} libno-such.so.9\n", "utf-8")
    monkeypatch.setattr(system_packages, "LIST", listed)
    assert system_packages.missing() == ["absent", "half"]
