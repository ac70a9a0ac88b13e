"""Building the preload shim.

Owns: where the built shim is kept, and when it is built: once for each version of its source on each machine, on demand, with
the machine's gcc.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tmem.wire.errors import InvalidOption

__all__ = ["build"]

SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = ("-O2", "-g", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-builtin", "-pthread", "-Wall", "-Wextra")
_TIMEOUT_SECONDS = 120


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tmem"


def build(cache: Path | None = None, compiler: str = "gcc") -> Path:
    """The shim, built if it is not there yet.

    Args:
        cache: where it is kept; None = the user's cache.
        compiler: the command.

    Raises:
        InvalidOption: there is no compiler, or it fails: the message says what to do.
    """
    source = SOURCE.read_bytes()
    machine = os.uname().machine
    digest = hashlib.sha256(b"\0".join((source, " ".join(_FLAGS).encode(), machine.encode()))).hexdigest()[:16]
    cache = _cache() if cache is None else cache
    built = cache / f"pager-{machine}-{digest}.so"
    if built.exists():
        return built
    found = shutil.which(compiler)
    if found is None:
        raise InvalidOption(
            f"{compiler} is needed once, to build the pager's shim: install it (apt install gcc libc6-dev)"
        )
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        made = Path(directory) / "shim.so"
        done = subprocess.run(  # noqa: S603  the machine's compiler, our source
            [found, *_FLAGS, "-o", str(made), str(SOURCE), "-ldl"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise InvalidOption(f"the pager's shim can't be built: {done.stderr.strip()[-2000:]}")
        made.chmod(0o755)
        made.replace(built)  # whoever built it at the same time built the same
    return built
