"""One fuzz target for so many inputs: `python -m tests.fuzz.run TARGET --runs N`.

Begins with the seeds beside this file; what is new goes to a corpus directory, for the next run. Exit status 0: every input was answered, and memory did
not grow. An input that was not is written beside the corpus.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import atheris

HERE = Path(__file__).parent
# What the interpreter's own caches, and the corpus that libFuzzer keeps, may take.
_MOST_GROWTH_BYTES = 96 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, required=True)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["tmem.wire", "tmem.server", "tmem.client", "tmem.agents"]):
        import structlog
        from tests.fuzz.targets import TARGETS
    structlog.configure(processors=[_drop])
    target = TARGETS[arguments.target]
    # Everything that is made on demand is made before memory is looked at.
    for seed in sorted((HERE / "seeds" / arguments.target).iterdir()):
        for _ in range(20):
            target(seed.read_bytes())
    done = 0
    early = 0

    def one(data: bytes) -> None:
        nonlocal done, early
        target(data)
        done += 1
        if done == arguments.runs // 4:
            early = resident_bytes()
        if done == arguments.runs:
            grown = resident_bytes() - early
            print(
                f"{arguments.target}: {done:,} inputs, memory grew by {grown >> 20} MiB over the last three quarters",
                flush=True,
            )
            if grown > _MOST_GROWTH_BYTES:
                raise MemoryError(f"{grown >> 20} MiB were not given back")

    arguments.corpus.mkdir(parents=True, exist_ok=True)
    options = [
        *(
            sys.argv[0],
            f"-runs={arguments.runs}",
            f"-seed={arguments.seed}",
            "-max_len=9000",
            "-timeout=20",
            "-print_final_stats=0",
        ),
        f"-artifact_prefix={arguments.corpus.parent}/{arguments.target}-",
        *(str(arguments.corpus), str(HERE / "seeds" / arguments.target)),
    ]
    atheris.Setup(options, one)
    atheris.Fuzz()


def _drop(_logger: Any, _method: str, _event: Any) -> Any:
    import structlog

    raise structlog.DropEvent


if __name__ == "__main__":
    main()
