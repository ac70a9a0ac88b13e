"""Where the daemon stands: for whoever must find out why it does not answer.

Owns: what SIGUSR1 prints. The stacks of all threads come from the signal handler itself, so they come even when the event loop
hangs; the tasks come from the loop, so their absence says that it does.
"""

import asyncio
import faulthandler
import signal
import sys

__all__ = ["print_on_signal"]


def _print_tasks() -> None:
    tasks = asyncio.all_tasks()
    lines = [f"{len(tasks)} tasks:"]
    for task in tasks:
        frames = task.get_stack(limit=1)
        where = f"{frames[-1].f_code.co_qualname} at line {frames[-1].f_lineno}" if frames else "nowhere"
        lines.append(f"  {task.get_name()} {task.get_coro()} waits in {where}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def print_on_signal(loop: asyncio.AbstractEventLoop) -> None:
    """From now on SIGUSR1 prints the stacks of all threads and then all tasks to standard error; nothing else happens."""
    loop.add_signal_handler(signal.SIGUSR1, _print_tasks)
    # Chained: it calls the loop's handler behind itself.
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    faulthandler.enable()
