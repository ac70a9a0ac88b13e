"""`make mutants`: plants each fault in a copy of the packages, and shows that the tests find it.

Run as `python -m tests.mutants.check [NAME...]`. First the tests must pass on an unchanged copy; then each mutant must make one of its tests fail. Exit
status 1: one was not found, no longer fits the source, or broke the packages so that they can't even be loaded.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PORTIONS = ("proto", "server", "client")
_LOAD = "import tmem.server.daemon, tmem.client.aio, tmem.cli.main"
_SECONDS = 240.0


def copy_packages(into: Path) -> None:
    """The packages, to be changed."""
    for portion in PORTIONS:
        shutil.copytree(ROOT / portion, into / portion, ignore=shutil.ignore_patterns("__pycache__"))


def plant(mutant: Mutant, root: Path) -> None:
    """Changes the copy; raises ValueError unless the text is there exactly once."""
    file = root / mutant.file
    text = file.read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"the text is {text.count(mutant.old)} times in {mutant.file}: bring the mutant up to date")
    if mutant.old == mutant.new:
        raise ValueError("it changes nothing")
    file.write_text(text.replace(mutant.old, mutant.new), "utf-8")


def environment(root: Path) -> dict[str, str]:
    """What makes Python take the copy."""
    paths = os.pathsep.join(str(root / portion) for portion in PORTIONS)
    return os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(root: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Runs tests against the copy, to the first that fails; answers pytest's status, and what it printed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--timeout",
        "100",
    ]
    try:
        done = subprocess.run(
            [*command, *tests],
            cwd=ROOT,
            env=environment(root),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"not over after {_SECONDS:g} s"
    return done.returncode, done.stdout + done.stderr


def loads(root: Path) -> bool:
    """Whether the packages can be loaded, and are the copy's."""
    code = f"{_LOAD}; assert tmem.server.daemon.__file__.startswith({str(root)!r})"
    return not subprocess.run(
        [sys.executable, "-c", code], env=environment(root), capture_output=True, check=False
    ).returncode


def examine(mutant: Mutant) -> tuple[str, str]:
    """Plants a mutant and runs its tests: `found`, `missed` or `broken`, and what there is to say."""
    with tempfile.TemporaryDirectory(prefix="tmem-mutant-") as directory:
        root = Path(directory)
        copy_packages(root)
        try:
            plant(mutant, root)
        except ValueError as error:
            return "broken", str(error)
        if not loads(root):
            return "broken", "the packages can't be loaded with it"
        status, output = run_tests(root, mutant.tests)
    failed = [
        line.partition(" - ")[0].rpartition("/")[2]
        for line in output.splitlines()
        if line.startswith(("FAILED", "ERROR"))
    ]
    if status == 1:
        return "found", failed[0] if failed else output.strip().splitlines()[-1]
    if status == 0:
        return "missed", "its tests pass"
    return "broken", f"pytest ended with {status}: {output.strip().splitlines()[-1]}"


def main() -> int:
    """Examines the chosen mutants; answers the exit status."""
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="only mutants whose name contains one of these")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests on an unchanged copy first")
    arguments = parser.parse_args()
    chosen = [
        mutant for mutant in MUTANTS if not arguments.names or any(name in mutant.name for name in arguments.names)
    ]
    if not arguments.no_baseline:
        with tempfile.TemporaryDirectory(prefix="tmem-mutant-") as directory:
            copy_packages(Path(directory))
            tests = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
            assert loads(Path(directory))
            status, output = run_tests(Path(directory), tests)
        if status:
            print(output)
            print("the tests do not pass on an unchanged copy")
            return 1
    counts = {"found": 0, "missed": 0, "broken": 0}
    for number, mutant in enumerate(chosen, 1):
        begun = time.monotonic()
        verdict, why = examine(mutant)
        counts[verdict] += 1
        print(
            f"{number:>3}/{len(chosen)} {verdict:>6} {mutant.name} ({time.monotonic() - begun:.0f} s): {why}",
            flush=True,
        )
    print(
        f"{counts['found']} of {len(chosen)} mutants were found, {counts['missed']} missed, {counts['broken']} broken"
    )
    return 1 if counts["missed"] or counts["broken"] or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
