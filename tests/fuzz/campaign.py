"""`make fuzz`: every fuzz target for many inputs, with a corpus that is kept from run to run (.cache/fuzz).

Run as `python -m tests.fuzz.campaign [--runs N] [--seed N] [TARGET...]`. Exit status 1: an input brought out what is no error of the contract, hung, or
memory grew. The input is written beside the corpus: put it among the seeds once the fault is mended.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(".cache/fuzz")


def main() -> int:
    """Fuzzes; answers the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=150_000, help="inputs for each target (default: 150000)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    total = failed = 0
    for name in arguments.targets or TARGETS:
        begun = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.run",
            name,
            "--runs",
            str(arguments.runs),
            "--seed",
            str(arguments.seed),
        ]
        done = subprocess.run(
            [*command, "--corpus", str(CORPUS / name / "corpus")], capture_output=True, text=True, check=False
        )
        said = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        if done.returncode or not said:
            failed += 1
            print(done.stdout[-3000:], done.stderr[-6000:], sep="\n")
            print(f"{name}: FAILED", flush=True)
            continue
        total += arguments.runs
        print(f"{said[-1]}, {arguments.runs / (time.monotonic() - begun):,.0f} a second", flush=True)
    print(f"{total:,} inputs, {failed} targets failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
