"""The tree keeps its own rules: generated files are current, rings hold, the pure parts are pure, the lock file names no registry."""

import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.conftest import skip_or_fail
from tests.packaging.commands import commands_of

import tmem.client
import tmem.client.aio
from tmem.agents.pager.uffd import probe_features

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )


# ---- Generated ----


def test_the_code_of_the_contract_is_current(tmp_path):
    shutil.copytree(ROOT / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("*_pb2*", "__pycache__"))
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "generate_sync.py").write_text("", "utf-8")
    shutil.copy(ROOT / "Makefile", tmp_path)
    # The recipe itself, with this environment in the place of the one that it would build.
    done = run("make", "--silent", "gen", f"BIN={BIN}", "STAMP=", "CURDIR=", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    generated = sorted((tmp_path / "proto/tmem/v1").glob("*_pb2*"))
    assert len(generated) == len(list((ROOT / "proto/tmem/v1").glob("*_pb2*")))
    for file in generated:
        assert file.read_text("utf-8") == (ROOT / "proto/tmem/v1" / file.name).read_text("utf-8"), file.name


def test_the_blocking_face_is_current():
    done = run(sys.executable, "client/generate_sync.py", "--check")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_blocking_face_that_is_not_current_is_found(tmp_path):
    shutil.copytree(ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    pool = tmp_path / "client/tmem/client/aio/pool.py"
    pool.write_text(pool.read_text("utf-8").replace("async def put(", "async def store(", 1), "utf-8")
    done = run(sys.executable, tmp_path / "client/generate_sync.py", "--check")
    assert done.returncode == 1
    assert "pool.py" in done.stdout


# ---- Rings ----


def test_import_rings_hold():
    done = run(BIN / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout


def test_the_namespace_has_no_file_of_its_own():
    assert not list(ROOT.glob("*/tmem/__init__.py"))


# ---- The public surface ----

# Names that the documentation promises; the faces may have more.
CLIENT = {"create_pool", "open_pool", "join_pool", "pools", "close"}
POOL = {
    *("put", "get_into", "flush", "flush_object", "batch", "authorize", "freeze", "thaw", "resize", "destroy", "stat"),
    *("put_page_sync", "get_page_sync", "token", "uuid"),
}


@pytest.mark.parametrize(("name", "members"), [("Client", CLIENT), ("Pool", POOL)])
def test_both_faces_have_the_promised_names_and_the_same_parameters(name, members):
    blocking, asynchronous = getattr(tmem.client, name), getattr(tmem.client.aio, name)
    for member in members:
        one, other = getattr(blocking, member), getattr(asynchronous, member)
        assert one.__doc__, member
        if callable(one):
            assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters), member


# ---- Dependencies ----


def test_the_lock_file_pins_everything_by_hash_and_names_no_registry():
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert not re.search(r"https?://|--index-url|--find-links|--extra-index", text)
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==\S+.*?\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE))
    names = {name.lower().replace("_", "-") for name, _ in pinned}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *(item for extra in project["project"]["optional-dependencies"].values() for item in extra),
        *project["dependency-groups"]["dev"],
    ]
    assert {re.split(r"[<>=\[ ]", item)[0].lower() for item in wanted} <= names


# ---- Documentation ----


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md", ROOT / "proto" / "README.md"]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
        assert (document.parent / link).exists(), link


def test_the_first_screen_says_what_it_is_and_how_to_run_and_test_it():
    first = (ROOT / "README.md").read_text("utf-8").splitlines()[:25]
    text = "\n".join(first)
    assert "lends one machine's RAM to another" in text
    assert re.search(r"^make run\b", text, re.MULTILINE)
    assert re.search(r"^make test\b", text, re.MULTILINE)


def commands() -> list[str]:
    """The lines of shell blocks, without their comments, of every document."""
    lines = []
    for document in documents():
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            lines += [line.split(" #")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line]


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert used
    assert set(used) <= targets


@pytest.mark.parametrize("line", [line for line in commands() if line.split()[0] in {"tmem", "tmemd"}])
def test_documented_commands_and_flags_exist(line):
    program, *words = line.split()
    words = words[: words.index("--")] if "--" in words else words  # what follows is another program's
    command = commands_of(words) if program == "tmem" else []
    help_text = run(BIN / program, *command, "--help")
    assert help_text.returncode == 0, help_text.stderr
    for flag in (word for word in words if word.startswith("--")):
        assert flag.split("=")[0] in help_text.stdout


PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", PYTHON, ids=["client", "far-memory"])
def test_the_readme_s_python_runs_as_it_stands(start_daemon, block):
    if "FarMemory" in block:
        try:
            probe_features()
        except OSError as error:
            skip_or_fail(f"userfaultfd can't be used: {error}")
    daemon = start_daemon()
    assert "127.0.0.1:8636" in block
    done = run(sys.executable, "-c", block.replace("127.0.0.1:8636", daemon.target))
    assert done.returncode == 0, done.stderr
