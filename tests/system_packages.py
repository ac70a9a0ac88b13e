"""The system packages that tests use, from system-packages.txt.

`python tests/system_packages.py --install` installs what is missing when root can, and says what stays missing otherwise:
the tests that need it are skipped then, with the reason printed. With CI=true a test that would be skipped fails.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).parent / "system-packages.txt"


def wanted() -> dict[str, list[str]]:
    """What each package brings that tests use: commands and libraries."""
    lines = [line.split("#")[0].split() for line in LIST.read_text("utf-8").splitlines()]
    return {package: brought for package, *brought in filter(None, lines)}


def is_there(thing: str) -> bool:
    """Whether a command can be found, or a library be loaded."""
    if ".so" not in thing:
        return shutil.which(thing) is not None
    try:
        ctypes.CDLL(thing)
    except OSError:
        return False
    return True


def missing() -> list[str]:
    """The packages of which something is not there."""
    # Some distributions' nodejs brings npm along; the command counts, not the package.
    return [package for package, brought in wanted().items() if not all(map(is_there, brought))]


def main() -> int:
    """Installs, or says what is missing."""
    absent = missing()
    if not absent:
        return 0
    if "--install" in sys.argv and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *absent],
        ):
            if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
                break
        absent = missing()
    if absent:
        print(f"not installed, and the tests that need them will be skipped: {', '.join(absent)}")
        print(f"as root: apt-get install {' '.join(absent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
