"""Flame graphs of the hot paths: where a put, a get and a fault spend their time, drawn by py-spy from real processes under load.

Run as `python -m tests.benchmarks.flames [NAME...]`, with py-spy on the PATH; the pictures go to `figures/`. `fault` needs root, and what the swap agent needs.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.pages import extent

import tmem.client
from tmem.agents.swap.shared import Word
from tmem.agents.swap.state import sites
from tmem.agents.swap.status import read_device
from tmem.client.testing import CaptiveDaemon
from tmem.wire.limits import PAGE_BYTES

FIGURES = Path(__file__).parent / "figures"
_SECONDS = 8
_EXTENT_PAGES = 512
_ATTACH_SECONDS = 60.0
_FAR_BYTES = 96 << 20


def _record(name: str, pid: int) -> None:
    """Draws what a process does for some seconds."""
    spy = shutil.which("py-spy")
    if spy is None:
        sys.exit("py-spy is not on the PATH (pip install py-spy)")
    FIGURES.mkdir(exist_ok=True)
    command = [spy, "record", "--format", "flamegraph", "--rate", "400", "--duration", str(_SECONDS)]
    command += ["--threads", "--nonblocking", "--output", f"{name}.svg", "--pid", str(pid)]
    done = subprocess.run(command, cwd=FIGURES, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"py-spy ended with {done.returncode}: {done.stderr}")
    picture = FIGURES / f"{name}.svg"
    # py-spy's title is its own command line; and what it reads of a process that goes on may be no name.
    text = re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{name}", picture.read_text("utf-8"))
    picture.write_text(re.sub("[\0-\b\x0e-\x1f]", "?", text), "utf-8")
    print(picture, flush=True)


def load(target: str, what: str) -> None:
    """Does one thing to a server until it is ended."""
    data = extent(0, _EXTENT_PAGES)
    back = bytearray(len(data))
    with tmem.client.connect(target) as client:
        pool = client.create_pool("pool")
        pool.put(1, 0, data)
        print("ready", flush=True)
        while True:
            match what:
                case "put-extent":
                    pool.put(1, 0, data)
                case "get-extent":
                    pool.get_into(1, 0, back)
                case "put-page":
                    pool.put(2, 0, data[:PAGE_BYTES])
                case _:
                    pool.get_into(1, 3, back[:PAGE_BYTES])


def _ends(what: str) -> Callable[[], None]:
    """Both ends of a put or a get."""

    def take() -> None:
        with (
            CaptiveDaemon() as daemon,
            subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.flames", "--load", daemon.target, what],
                stdout=subprocess.PIPE,
                text=True,
            ) as client,
        ):
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "ready\n"
                _record(f"{what}-client", client.pid)
                _record(f"{what}-server", daemon.pid)
            finally:
                client.kill()

    return take


def _fault() -> None:
    """The swap agent's worker, while a program touches pages at random."""
    with (
        CaptiveDaemon("--lock-memory", "--memory-limit", "512MiB") as daemon,
        tempfile.TemporaryDirectory(prefix="tmem-flames-") as name,
    ):
        directory = Path(name)
        command = [
            str(Path(sys.executable).with_name("tmem")),
            "run",
            "--no-live",
            "--memory",
            "40MiB",
            "--size",
            "128MiB",
        ]
        command += ["--target", daemon.target, "--run-dir", name, "--"]
        command += [sys.executable, "-c", _TOUCH, str(_FAR_BYTES)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            try:
                assert run.stdout is not None
                assert run.stdout.readline() == "ready\n"
                (site,) = sites(directory)
                reading = read_device(site)
                assert reading is not None
                _record("fault-swap-worker", reading[Word.WORKER_PID])
            finally:
                run.send_signal(signal.SIGTERM)
                run.wait(_ATTACH_SECONDS)


_TOUCH = """
import mmap, random, sys
size = int(sys.argv[1])
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, 4096):
    memory[at:at + 2048] = random.randbytes(2048)
print("ready", flush=True)
while True:
    memory[random.randrange(size)]
"""

_TAKEN: dict[str, Callable[[], None]] = {
    "put-extent": _ends("put-extent"),
    "get-extent": _ends("get-extent"),
    "put-page": _ends("put-page"),
    "get-page": _ends("get-page"),
    "fault": _fault,
}


def main() -> None:
    """Draws those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(_TAKEN)}")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(*arguments.load)
        return
    if unknown := set(arguments.names) - set(_TAKEN):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    for name, take in _TAKEN.items():
        if not arguments.names or name in arguments.names:
            take()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[2]))
    main()
