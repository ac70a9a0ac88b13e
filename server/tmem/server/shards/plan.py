"""What each shard of a server runs with.

Owns: the division of a server's settings among its shards: addresses, memory, directories; and that a journal is never read with another
number of shards than it was written with. Units: bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tmem.server.addresses import split_host_port
from tmem.server.config import Settings
from tmem.server.store.journal.entries import JournalError

__all__ = ["check_journal", "shard_flags", "shard_listen", "shard_target"]

_COUNT_FILE = "shards"
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104  they are looked for, not listened on


def shard_listen(listen: str, number: int) -> str:
    """Where a shard listens: the first one where the server does, the others on the ports after the one behind it, or on sockets of the next names.

    The port behind a server's own is by default its metrics'.
    """
    if not number:
        return listen
    if listen.startswith("unix:"):
        return f"{listen}.{number}"
    host, colon, port = listen.rpartition(":")
    return f"{host}{colon}{int(port) + 1 + number if int(port) else 0}"


def shard_target(listen: str, target: str) -> str:
    """How clients are told of a shard: by its port alone where the server listens on all addresses."""
    if listen.startswith("unix:"):
        return target
    host, _ = split_host_port(listen)
    return f":{target.rpartition(':')[2]}" if host in _WILDCARDS else target


def shard_flags(settings: Settings, number: int, listen: str) -> list[str]:
    """The flags of a shard's process.

    Args:
        settings: the server's.
        number: which shard.
        listen: where it listens.
    """
    count = settings.shards
    own: dict[str, Any] = {
        "listen": listen,
        "metrics_listen": "127.0.0.1:0",
        "memory_limit": settings.memory_limit // count,
        "spill_limit": settings.spill_limit // count,
        "journal": None if settings.journal is None else settings.journal / f"shard-{number}",
        "shards": 1,
        "shard": f"{number}/{count}",
    }
    flags: list[str] = []
    for name, info in Settings.model_fields.items():
        value = own.get(name, getattr(settings, name))
        flag = "--" + name.replace("_", "-")
        if value == info.default:
            continue
        if name == "layers":
            flags += [part for layer in value for part in ("--layer", layer)]
        elif isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, str(value)]
    return flags


def check_journal(directory: Path | None, count: int) -> None:
    """Notes how many shards keep their journals in a directory, or finds that noted.

    Raises:
        JournalError: it was another number: then pages would be looked for where they are not.
    """
    if directory is None:
        return
    file = directory / _COUNT_FILE
    try:
        found = json.loads(file.read_text("utf-8"))["shards"] if file.exists() else _found_without(directory)
        if found not in {None, count}:
            raise JournalError(
                f"{directory}: the journal was written by {found} shards, not {count}: start with --shards {found}, or move it away"
            )
        if found is None and count > 1:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(json.dumps({"shards": count}) + "\n", "utf-8")
    except OSError as error:
        raise JournalError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{file}: not a file of tmemd's journal") from error


def _found_without(directory: Path) -> int | None:
    """How many shards a directory without a note is of: one if there is a journal, None if there is nothing."""
    files: Sequence[Path] = list(directory.glob("journal-*")) if directory.is_dir() else []
    return 1 if files else None
