"""`make faults`: every fault in its long form, again and again with other seeds, until the time is over.

Run as `python -m tests.faults.campaign [--minutes N] [--seed N] [--only NAME] [--json FILE]`. Prints a line a run and sums at the end. Exit status 1:
something was lost, wrong, left behind, or a client had not gone on within two seconds. A run whose load was below the floor before the fault is
void: it shows nothing, and is counted as nothing.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tests.faults.faults import FAULTS, RESUME_SECONDS, CanNotRun, Run
from tests.faults.load import Void


def main() -> int:
    """Runs the campaign; answers its exit status."""
    parser = argparse.ArgumentParser(prog="make faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no run after so long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (default: 1)")
    parser.add_argument(
        "--only", action="append", choices=sorted(FAULTS), help="only this fault; may be given several times"
    )
    parser.add_argument("--rounds", type=int, default=1 << 30, help="at most so many rounds of all faults")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.minutes * 60
    chosen = [name for name in FAULTS if not arguments.only or name in arguments.only]
    report: list[dict[str, object]] = []
    totals = {"passed": 0, "failed": 0, "void": 0, "not run": 0}
    pages = 0
    for number, name in ((number, name) for number in range(arguments.rounds) for name in chosen):
        if time.monotonic() > deadline:
            break
        run = Run(arguments.seed + number, short=False)
        begun = time.monotonic()
        verdict, why = _carry_out(name, run)
        totals[verdict] += 1
        # What a failed or void run has checked until then counts for nothing.
        pages += run.pages if verdict == "passed" else 0
        resumed = f", resumed within {max(run.resumed):.2f} s" if run.resumed else ""
        print(
            f"{verdict:>7} {name} seed {run.seed}: {run.pages:,} page operations in {time.monotonic() - begun:.0f} s{resumed}"
            f"{': ' + why if why else ''}",
            flush=True,
        )
        for what, note in run.notes.items():
            print(f"          {what}: {note}", flush=True)
        report.append(
            {
                "fault": name,
                "seed": run.seed,
                "verdict": verdict,
                "why": why,
                "page_operations": run.pages,
                "resumed_seconds": [round(seconds, 3) for seconds in run.resumed],
                "notes": {what: str(note) for what, note in run.notes.items()},
            }
        )
    sums = ", ".join(f"{count} {verdict}" for verdict, count in totals.items() if count)
    print(f"{pages:,} page operations were checked, none lost or wrong in what passed: {sums or 'nothing was run'}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"page_operations": pages, "totals": totals, "runs": report}, indent=2), "utf-8"
        )
    return 1 if totals["failed"] or not totals["passed"] else 0


def _carry_out(name: str, run: Run) -> tuple[str, str]:
    try:
        FAULTS[name](run)
    except Void as void:
        return "void", str(void)
    except CanNotRun as cannot:
        return "not run", str(cannot)
    except Exception as error:  # noqa: BLE001  the campaign goes on and says so at the end
        return "failed", f"{type(error).__name__}: {error}"
    slow = [seconds for seconds in run.resumed if seconds > RESUME_SECONDS]
    if slow:
        return "failed", f"a client took {max(slow):.2f} s to go on; {RESUME_SECONDS:g} are allowed"
    return "passed", ""


if __name__ == "__main__":
    sys.exit(main())
