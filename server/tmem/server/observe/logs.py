"""Logging: for people on a terminal, JSON lines elsewhere. Never page bytes, never a token.

Owns: the set-up of structlog. Logs go to standard error; standard output belongs to what was asked for.
"""

import logging
import sys
from typing import Literal

import structlog

__all__ = ["set_up"]


def set_up(level: str, form: Literal["auto", "human", "json"], shard: str = "") -> None:
    """Configures logging for the whole process; of a shard every line says which."""
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if human
        else structlog.processors.JSONRenderer(default=str)
    )
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if shard:
        number = int(shard.partition("/")[0])
        processors.append(lambda _logger, _method, event: {**event, "shard": number})
    if not human:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # grpc.aio and asyncio speak through the standard library.
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
