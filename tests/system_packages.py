"""The system packages that tests use, from system-packages.txt.

`python tests/system_packages.py --install` installs what is missing when root can, and says what stays missing otherwise:
the tests that need it are skipped then, with the reason printed. With CI=true a test that would be skipped fails.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).parent / "system-packages.txt"


def wanted() -> dict[str, str]:
    """Commands by package."""
    lines = [line.split("#")[0].split() for line in LIST.read_text("utf-8").splitlines()]
    return {line[0]: line[1] for line in lines if line}


def missing() -> list[str]:
    """The packages whose command is not there."""
    # Some distributions' nodejs brings npm along; the command counts, not the package.
    return [package for package, command in wanted().items() if shutil.which(command) is None]


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
