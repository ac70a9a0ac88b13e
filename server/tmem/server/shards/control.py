"""How a shard hears from its supervisor: lines of JSON on its standard input.

Owns: that input. A line `{"shards": [TARGET, ...]}` says where all shards are; the end of the input says that the supervisor is gone, and that
the shard is to go, too.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence

import structlog

__all__ = ["encode_targets", "listen_to_supervisor"]

log = structlog.get_logger(__name__)


def encode_targets(targets: Sequence[str]) -> bytes:
    """The line that says where all shards are."""
    return json.dumps({"shards": list(targets)}).encode() + b"\n"


async def listen_to_supervisor(on_targets: Callable[[list[str]], None], on_end: Callable[[], None]) -> None:
    """Reads standard input to its end.

    Args:
        on_targets: told where all shards are.
        on_end: told that the supervisor is gone.
    """
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while line := await reader.readline():
            on_targets(json.loads(line)["shards"])
    finally:
        transport.close()
    log.info("shard.supervisor_gone")
    on_end()
