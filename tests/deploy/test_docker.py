"""deploy/docker: what the Dockerfile names exists, and what it runs works. No container engine is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmem.client.testing import CaptiveDaemon
from tmem.server.config import Settings, load


@pytest.fixture(scope="module")
def dockerfile(deploy: Path) -> Path:
    return deploy / "docker" / "Dockerfile"


@pytest.fixture(scope="module")
def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined, comments gone."""
    lines = [line for line in dockerfile.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def arguments(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in instructions if instruction == name]


def sources(instructions: list[tuple[str, str]]) -> set[str]:
    """What is copied from the repository."""
    copies = [rest.split() for rest in arguments(instructions, "COPY")]
    return {source for copy in copies if not copy[0].startswith("--from") for source in copy[:-1]}


@pytest.fixture(scope="module")
def environment(instructions: list[tuple[str, str]]) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="?([^" ]+)"?', " ".join(arguments(instructions, "ENV"))))


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def test_hadolint_is_content(dockerfile: Path, missing: Callable[[str], None]) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        missing("hadolint is not installed (make venv)")
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_that_is_copied_exists(instructions: list[tuple[str, str]], root: Path) -> None:
    assert sources(instructions)
    assert {source for source in sources(instructions) if not (root / source).exists()} == set()


def test_only_what_is_copied_enters_the_build(instructions: list[tuple[str, str]], dockerfile: Path) -> None:
    lines = dockerfile.with_name("Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources(instructions)


def test_the_wheel_can_be_built_from_what_is_copied(
    instructions: list[tuple[str, str]], root: Path, tmp_path: Path
) -> None:
    for source in sources(instructions):
        if (root / source).is_dir():
            shutil.copytree(root / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / source, tmp_path / source)
    (build,) = (rest for rest in arguments(instructions, "RUN") if rest.startswith("pip wheel"))
    command = [sys.executable, "-m", *build.split()]
    assert "--no-build-isolation" in command, "without it the build tool is fetched, in whatever version"
    # Nothing from the network, nothing left in anybody's cache.
    offline = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
    offline |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=offline)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"tmem/server/cli.py", "tmem/cli/ping.py", "tmem/v1/extents_pb2.py", "tmem/client/__init__.py"} <= names


def test_the_extras_are_extras_and_bring_the_commands(
    instructions: list[tuple[str, str]], project: dict[str, Any]
) -> None:
    text = " ".join(arguments(instructions, "RUN"))
    (extras,) = re.findall(r"tmem\[([a-z,]+)\]", text)
    # The daemon, and `tmem` for the health check.
    assert set(extras.split(",")) == {"server", "cli"} <= set(project["optional-dependencies"])


def test_dependencies_are_those_of_the_lock_file(instructions: list[tuple[str, str]], root: Path) -> None:
    installs = [
        command
        for rest in arguments(instructions, "RUN")
        for command in rest.split("&&")
        if " install " in command and "pip==" not in command
    ]
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in command for command in installs)
    lock = (root / "requirements.lock").read_text("utf-8")
    assert re.search(r"^hatchling==", lock, re.MULTILINE)


def test_the_image_can_run_the_python_that_the_project_wants(
    instructions: list[tuple[str, str]], project: dict[str, Any]
) -> None:
    (image,) = arguments(instructions, "ARG")
    match = re.fullmatch(r"PYTHON=python:(\d\.\d+)-slim-\w+", image)
    assert match is not None
    assert f"Programming Language :: Python :: {match[1]}" in project["classifiers"]
    assert [rest.split()[0] for rest in arguments(instructions, "FROM")] == ["${PYTHON}", "${PYTHON}"]


def test_it_runs_as_nobody_by_number(instructions: list[tuple[str, str]]) -> None:
    last_stage = instructions[max(number for number, (name, _) in enumerate(instructions) if name == "FROM") :]
    (user,) = arguments(last_stage, "USER")
    uid, gid = map(int, user.split(":"))
    assert uid >= 10000
    assert gid >= 10000


def test_it_listens_on_the_ports_that_it_exposes(
    instructions: list[tuple[str, str]], environment: dict[str, str]
) -> None:
    settings = load({}, environment).settings
    (ports,) = arguments(instructions, "EXPOSE")
    assert [settings.listen, settings.metrics_listen] == [f"0.0.0.0:{port}" for port in ports.split()]
    defaults = Settings()
    assert isinstance(defaults.metrics_listen, str)
    assert [address.rpartition(":")[2] for address in (defaults.listen, defaults.metrics_listen)] == ports.split()


def test_it_starts_what_the_project_installs(
    instructions: list[tuple[str, str]], environment: dict[str, str], project: dict[str, Any]
) -> None:
    (entry,) = arguments(instructions, "ENTRYPOINT")
    assert json.loads(entry) == ["tmemd"]
    assert set(project["scripts"]) >= {"tmemd", "tmem"}
    (copied,) = (rest for rest in arguments(instructions, "COPY") if rest.startswith("--from"))
    assert environment["PATH"].startswith(f"{copied.split()[-1]}/bin:")


@pytest.fixture(scope="module")
def probe(instructions: list[tuple[str, str]]) -> list[str]:
    """The health check's command, of this environment."""
    (check,) = arguments(instructions, "HEALTHCHECK")
    program, *rest = json.loads(check.partition("CMD ")[2])
    return [str(Path(sys.executable).with_name(program)), *rest]


def test_the_health_check_succeeds_while_the_daemon_serves(probe: list[str]) -> None:
    with CaptiveDaemon() as daemon:
        done = subprocess.run(probe, env={"TMEM_TARGET": daemon.target}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        address = daemon.target
    # And not when it is gone.
    done = subprocess.run(probe, env={"TMEM_TARGET": address}, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_the_health_check_of_a_daemon_with_tokens_wants_one(probe: list[str], tmp_path: Path) -> None:
    tokens, token = tmp_path / "tokens.toml", tmp_path / "token"
    tokens.write_text('[tenants.alice]\ntokens = ["a-token-of-a-test"]\n', "utf-8")
    token.write_text("a-token-of-a-test\n", "utf-8")
    with CaptiveDaemon("--tokens", str(tokens)) as daemon:
        target = {"TMEM_TARGET": daemon.target}
        assert subprocess.run(probe, env=target, capture_output=True, check=False).returncode != 0
        target["TMEM_TOKEN_FILE"] = str(token)
        assert subprocess.run(probe, env=target, capture_output=True, check=False).returncode == 0
