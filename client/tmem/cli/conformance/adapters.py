"""Statements about what agents do with a server: the pager keeps some pages at home, the swap agent answers for slots, the cache for files.

Owns: where the agents' cores are looked for. Each is a package of tmem.agents; where it is not there yet, its statements can't run, and say so.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .expect import CannotRun
from .kit import statement
from .stage import Stage


def _agent(name: str, what: str) -> Any:
    """The module of an agent's kit; raises CannotRun while there is none."""
    if find_spec("tmem.agents") is None or find_spec(f"tmem.agents.{name}") is None:
        raise CannotRun(f"there is no {what} yet")
    return import_module(f"tmem.agents.{name}")


@statement(
    71, "A put to a server that fails leaves the page readable where it was, and is tried again later.", added=True
)
def failed_puts_stay_home(stage: Stage) -> None:
    raise _missing("pager", "pager", stage)


@statement(
    76, "Where local memory is too short to take a page home the get still answers it, and the server keeps its copy."
)
def gets_work_without_local_memory(stage: Stage) -> None:
    raise _missing("pager", "pager", stage)


@statement(
    77,
    "While the number of pages away has not grown for a while they come home by themselves, steadily and to the last, readable all the time; growth begins the wait anew.",
)
def pages_come_home(stage: Stage) -> None:
    raise _missing("pager", "pager", stage)


@statement(
    79,
    "The swap agent answers for a slot that was never stored without asking the server, and says that it is not its own.",
)
def slots_never_stored_cost_nothing(stage: Stage) -> None:
    raise _missing("swap", "swap agent", stage)


@statement(80, "A store over a slot invalidates the old page first, whatever becomes of the new one.")
def stores_invalidate_first(stage: Stage) -> None:
    raise _missing("swap", "swap agent", stage)


@statement(81, "An invalidation of a slot that is not held asks the server nothing.")
def invalidations_of_nothing_cost_nothing(stage: Stage) -> None:
    raise _missing("swap", "swap agent", stage)


@statement(82, "With every write kept elsewhere too, the server may drop any page and nothing is lost.")
def written_through_pages_can_be_dropped(stage: Stage) -> None:
    raise _missing("swap", "swap agent", stage)


@statement(83, "With several servers a page goes to the first that takes it, and is found wherever it went.")
def the_first_that_takes_it(stage: Stage) -> None:
    raise _missing("pager", "pager", stage)


@statement(84, "A cache without a server ignores puts and misses gets, and that is no error.")
def a_cache_without_a_server(stage: Stage) -> None:
    raise _missing("cache", "cache adapter", stage)


def _missing(name: str, what: str, stage: Stage) -> CannotRun:
    _ = stage, _agent(name, what)
    return CannotRun(f"the {what} is not held against this yet")
