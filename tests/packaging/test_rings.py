"""The rings again, from the other side: what breaks them is found, and what is pure leans on nothing impure."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ("tmem.v1", "tmem.wire", "tmem.client._core", "tmem.server.store")
# Calls by which the world outside comes in, or is changed. Randomness by a Random that was handed in is none.
FORBIDDEN = {
    *("open", "print", "input", "exec", "eval"),
    *("os.open", "os.read", "os.write", "os.urandom", "os.environ", "os.getenv", "os.times", "os.fork"),
    *("random.random", "random.randrange", "random.randbytes", "random.choice", "random.seed"),
}

# A client makes its own session id and its pools' tokens; both are opaque, and no test depends on what they are.
ALLOWED = {("session.py", "os.urandom"), ("calls.py", "os.urandom")}


def files(package: str) -> list[Path]:
    name = package.replace(".", "/")
    return [file for top in ("proto", "server", "client") for file in (ROOT / top / name).rglob("*.py")]


def test_all_that_pure_code_imports_of_ours_is_pure():
    for package in ("tmem.wire", "tmem.client._core", "tmem.server.store"):
        assert files(package)
        for file in files(package):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    # `from tmem import wire` names it second.
                    modules = [node.module if node.module != "tmem" else f"tmem.{alias.name}" for alias in node.names]
                for module in modules:
                    if module.partition(".")[0] == "tmem":
                        assert any(f"{module}.".startswith(f"{pure}.") for pure in PURE), f"{file}: {module}"


@pytest.mark.parametrize("module", ["frames", "headers", "http2", "outbox", "waiting"])
def test_the_pure_parts_of_the_link_lean_on_nothing_impure(module):
    """They are fed by tests as by sockets."""
    (file,) = (file for file in files("tmem.client") if file.parent.name == "link" and file.stem == module)
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ".".join(alias.name for alias in node.names)]
        for name in names:
            top = name.partition(".")[0]
            assert top not in {"asyncio", "grpc", "io", "os", "select", "socket", "ssl", "threading", "time"}, name
            if isinstance(node, ast.ImportFrom) and node.level:
                assert top in {"frames", "headers", "http2", "outbox", "waiting"}, name


def spelled(node: ast.expr) -> str:
    """The dotted name of what is called; nothing if it is no name."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("package", ["tmem.wire", "tmem.client._core", "tmem.server.store"])
def test_pure_code_calls_for_nothing_from_outside(package):
    for file in files(package):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.Name, ast.Attribute)) and spelled(node) in FORBIDDEN:
                assert (file.name, spelled(node)) in ALLOWED, f"{file}:{node.lineno}"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("client/tmem/client/broken.py", "import tmem.server.sizes"),
        ("server/tmem/server/broken.py", "from tmem.client import aio"),
        ("proto/tmem/wire/broken.py", "from tmem.client import Options"),
        ("proto/tmem/v1/broken.py", "import tmem.wire.limits"),
        ("client/tmem/client/broken.py", "from tmem.cli import output"),
    ],
)
def test_an_import_across_the_rings_is_found(tmp_path, file, line):
    for top in ("proto", "server", "client"):
        shutil.copytree(ROOT / top / "tmem", tmp_path / top / "tmem", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).write_text(line + "\n", "utf-8")
    paths = os.pathsep.join(str(tmp_path / top) for top in ("proto", "server", "client"))
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert ".broken -> tmem." in done.stdout
