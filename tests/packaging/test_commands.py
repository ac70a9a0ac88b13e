"""Commands that a text mentions in passing, in `code`: they exist, with their flags."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.packaging.commands import commands_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy/README.md", "proto/README.md"]
DOCUMENTS += ["deploy/prometheus/RUNBOOK.md"]


def mentioned() -> list[str]:
    """Each only once; a name alone, such as `tmem`, says nothing that could be wrong."""
    texts = [(ROOT / document).read_text("utf-8") for document in DOCUMENTS]
    spans = {span for text in texts for span in re.findall(r"`((?:make|tmemd?) [^`\n]+)`", text)}
    return sorted(spans)


@functools.cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:], "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def test_something_is_mentioned() -> None:
    assert {"make lint", "make gen"} <= set(mentioned())


@pytest.mark.parametrize("span", mentioned())
def test_a_command_mentioned_in_passing_exists_with_its_flags(span: str) -> None:
    program, *words = shlex.split(span)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words) <= set(targets)
        return
    words = words[: words.index("--")] if "--" in words else words  # what follows is another program's
    command = commands_of(words) if program == "tmem" and words[0] != "--help" else []
    known = set(re.findall(r"--?[a-z][a-z-]*", help_of(program, *command)))
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known
