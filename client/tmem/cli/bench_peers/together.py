"""Several workers at the same time.

Owns: that all begin at one moment, and what their answers say together.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from tmem.cli.bench_common.figures import percentile

from .rig import Worker

__all__ = ["Load", "p99s", "work_together"]

# Those that were told first wait for the others.
_START_SECONDS = 0.2
_TELL_SECONDS = 0.005


class Load:
    """What a number of clients did at the same time.

    Attributes:
        rate: pages a second of all together.
        pages: of each. latencies: microseconds of each batch, by client.
    """

    def __init__(self, answers: Sequence[dict[str, Any]]) -> None:
        begun = min(answer["begun"] for answer in answers)
        ended = max(answer["ended"] for answer in answers)
        self.pages: list[int] = [answer["pages"] for answer in answers]
        self.latencies: list[list[float]] = [answer["latencies_us"] for answer in answers]
        self.rate = sum(self.pages) / (ended - begun)

    @property
    def least_share(self) -> float:
        """Pages of the client with the fewest over the median client's."""
        return min(self.pages) / statistics.median(self.pages)


def work_together(workers: Sequence[Worker], what: str, **arguments: Any) -> Load:
    """Lets all of them do the same at the same time."""
    at = time.monotonic() + _START_SECONDS + _TELL_SECONDS * len(workers)
    for worker in workers:
        worker.tell(do=what, at=at, detail=True, **arguments)
    answers = []
    for worker in workers:
        answers.append(worker.hear())
        worker.take(answers[-1])
    return Load(answers)


def p99s(loads: Sequence[Load]) -> list[float]:
    """The p99 of each client, over all rounds."""
    everything: list[list[float]] = [[] for _ in loads[0].latencies]
    for load in loads:
        for client, latencies in enumerate(load.latencies):
            everything[client] += latencies
    return [percentile(each, 99) for each in everything]
