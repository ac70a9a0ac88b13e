"""deploy/README.md: it names what is there."""

import re
from pathlib import Path

from tmem.server.config import Settings


def test_every_file_is_named_and_every_named_file_is_there(deploy: Path) -> None:
    text = (deploy / "README.md").read_text("utf-8")
    named = {path for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE) for path in re.findall(r"`([^`]+)`", row)}
    there = {str(file.relative_to(deploy)) for file in deploy.rglob("*") if file.is_file()}
    assert named <= there
    # The one belongs to the Dockerfile, the other is this page.
    assert there - named == {"docker/Dockerfile.dockerignore", "README.md"}


def test_every_path_in_a_command_is_there(deploy: Path, root: Path) -> None:
    text = (deploy / "README.md").read_text("utf-8")
    paths = set(re.findall(r"\bdeploy/[A-Za-z0-9_./@-]+", text))
    assert len(paths) > 5
    assert {path for path in paths if not (root / path).exists()} == set()


def test_the_settings_that_it_names_are_settings(deploy: Path) -> None:
    text = (deploy / "README.md").read_text("utf-8")
    variables = set(re.findall(r"\bTMEM_([A-Z_]+)", text))
    settings = set(re.findall(r"`([a-z]+_[a-z_]+)`", text)) - {"rule_files"}
    assert variables
    assert {name.lower() for name in variables} | settings <= set(Settings.model_fields)
    assert str(Settings().metrics_listen) in text
