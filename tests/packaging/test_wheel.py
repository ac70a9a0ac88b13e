"""What is built and installed: every portion of the namespace, nothing else, and commands that start."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(pytest.__file__).parents[1]
PORTIONS = ("tmem/v1/", "tmem/wire/", "tmem/server/", "tmem/client/", "tmem/agents/", "tmem/cli/")


def build(source: Path, into: Path, what: str) -> Path:
    """Builds a wheel or an sdist as an installer would, with the tools that are installed already."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{what}", "--outdir", str(into), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.glob("*.whl" if what == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone in a folder, as pip would unpack it."""
    target = str(tmp_path_factory.mktemp("installed"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        target,
        str(wheel),
    ]
    subprocess.run(command, capture_output=True, timeout=100, check=True)
    return Path(target)


def run(installed: Path, *arguments: str, block: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the installed wheel, not the checkout, beside its dependencies, some of which can be hidden."""
    hide = f"import sys\nfor name in {block!r}: sys.modules[name] = None\n"
    # -I and -S: nothing of this environment's own site-packages, whose editable install is the checkout.
    setup = f"import sys; sys.path[:0] = [{str(installed)!r}, {str(SITE)!r}]\n" + hide
    code = setup + "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=installed,
    )


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_portion_and_nothing_else(wheel):
    held = names(wheel)
    assert "tmem/__init__.py" not in held
    for portion in PORTIONS:
        assert f"{portion}py.typed" in held, portion
    for name in held:
        assert name.startswith((*PORTIONS, "tmem-")), name
    # A client in another language begins with these.
    assert "tmem/v1/extents.proto" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    (source,) = tmp_path.iterdir()
    again = build(source, tmp_path / "again", "wheel")
    assert checksums(again) == checksums(wheel)


def checksums(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def test_the_sdist_holds_the_whole_repository(sdist):
    listing = subprocess.run(["tar", "-tzf", sdist], capture_output=True, text=True, check=True).stdout.splitlines()
    held = {name.partition("/")[2] for name in listing}
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    # The clone may be another user's.
    git = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    files = {
        name for name in subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0") if name
    }
    assert held == {name for name in files if (ROOT / name).exists()} | {"PKG-INFO"}


def test_every_portion_imports_from_the_wheel(installed):
    code = "import tmem.client, tmem.client.aio, tmem.client.testing, tmem.server.daemon, tmem.cli.main; print(tmem.client.__file__)"
    script = installed / "try.py"
    script.write_text(code, "utf-8")
    done = run(installed, str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))


@pytest.mark.parametrize("command", ["tmem", "tmemd"])
def test_commands_say_the_version_of_the_wheel(installed, wheel, command):
    done = run(installed, str(installed / "bin" / command), "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [command, wheel.name.split("-")[1]]


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [("tmem", "click", "tmem[cli]"), ("tmem", "rich", "tmem[cli]"), ("tmemd", "pydantic", "tmem[server]")],
)
def test_a_command_without_its_extra_says_which_one_in_one_line(installed, command, missing, extra):
    done = run(installed, str(installed / "bin" / command), "--version", block=(missing,))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert extra in done.stderr


@pytest.mark.parametrize("missing", ["structlog", "uvloop", "grpc_health", "grpc_reflection", "prometheus_client"])
def test_a_daemon_with_half_an_extra_says_so_when_it_starts(installed, missing):
    somewhere = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--reflection", "--run", "true")
    assert run(installed, str(installed / "bin" / "tmemd"), *somewhere).returncode == 0
    done = run(installed, str(installed / "bin" / "tmemd"), *somewhere, block=(missing,))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"tmemd: {missing}")
    assert "tmem[server]" in done.stderr


def test_the_client_needs_nothing_but_the_base(installed):
    script = installed / "base.py"
    script.write_text(
        "import tmem.client, tmem.client.aio, sys\n"
        "print([name for name in sys.modules if name.startswith(('tmem.server', 'tmem.cli.', 'numpy'))])\n",
        "utf-8",
    )
    extras = ("click", "rich", "prometheus_client", "pydantic", "structlog", "uvloop", "grpc_health", "hpack", "numpy")
    done = run(installed, str(script), block=extras)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"[]", "['numpy']"}  # blocked modules have an entry of their own


def test_a_link_without_its_extra_says_which_one(installed):
    script = installed / "link.py"
    script.write_text("import tmem.client.link\n", "utf-8")
    done = run(installed, str(script), block=("hpack",))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "hpack is not installed: agents need an extra: pip install 'tmem[agents]'"
    )
