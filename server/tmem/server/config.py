"""Settings of the daemon: flag over environment over file over default.

Owns: `Settings`, and where each value comes from. Every setting is a flag (--memory-limit), an environment variable
(TMEM_MEMORY_LIMIT) and a key of the TOML file (memory_limit); its name says its unit unless it takes one (4GiB).
"""

import argparse
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tmem.wire.limits import MAX_MESSAGE_BYTES

from .addresses import HostPort, ListenAddress
from .host.disk import check_faults
from .sizes import SizeBytes, format_size
from .store.layers.specs import check_layer

__all__ = ["ConfigError", "Loaded", "Settings", "add_flags", "load"]

ENV_PREFIX = "TMEM_"
# Variables of this prefix that belong to clients, or that name the file itself.
_FOREIGN_ENV = {"TMEM_CONFIG", "TMEM_TARGET", "TMEM_METRICS", "TMEM_TOKEN", "TMEM_TOKEN_FILE", "TMEM_RUN_DIR"}

_SIZES = {"memory_limit", "max_window", "spill_limit"}

# What the contract can express: 32 bits of milliseconds, 32 bits of counts; and what gRPC can, 31 bits.
_MOST_SECONDS = 30 * 86400
_MOST = (1 << 31) - 1

Grace = Annotated[float, Field(ge=0)] | Literal["never"]
"""Seconds, or never."""


class ConfigError(ValueError):
    """The settings can't be used; the message is one line that says what, where and why."""


class Settings(BaseModel):
    """Everything that can be set. The description of each field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: ListenAddress = Field(
        default="127.0.0.1:8636",
        description="where clients reach the daemon: HOST:PORT (port 0: any free one) or unix:PATH",
    )
    metrics_listen: HostPort | Literal["none"] = Field(
        default="127.0.0.1:8637", description="where Prometheus scrapes /metrics: HOST:PORT, or none"
    )
    memory_limit: SizeBytes = Field(
        default=4 << 30, ge=1 << 20, description="memory for pages, dead ones and index included: 512MiB, 4GiB, ..."
    )
    lock_memory: bool = Field(
        default=False,
        description="never let this process be swapped out; needed where programs of the same machine swap to it",
    )
    tokens: Path | None = Field(
        default=None, description="TOML file of tenants and their tokens; without it everybody is the tenant `local`"
    )
    spill: Path | None = Field(
        default=None,
        description="directory on the disk that takes persistent pages when memory is full; scratch, gone with the daemon",
    )
    spill_limit: SizeBytes = Field(default=16 << 30, ge=8 << 20, description="the most bytes of spilled pages")
    recompress: Literal["idle", "never"] = Field(
        default="idle",
        description="idle: compress harder, on a thread of its own, what has been there for a while, when there is nothing else "
        "to do; about a fifth less memory for the same pages",
    )
    journal: Path | None = Field(
        default=None,
        description="directory where pools of durability `disk` are kept over restarts; without it there are none",
    )
    journal_sync: Literal["never", "always"] = Field(
        default="never",
        description="always: force every write to the disk before it is acknowledged; never: a crash of the daemon "
        "loses nothing, one of the machine may",
    )
    disk_faults: Annotated[str, AfterValidator(check_faults)] = Field(
        default="",
        description="for tests: makes the disk of spill and journal fail, as in full_after=10MiB,short_write=0.1,"
        "write_error=0.01,read_error=0.01,seconds=0.05",
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes that share the work, each with its part of the memory limit, on ports of its own from two "
        "above --listen; clients spread pages over them by themselves",
    )
    shard: str = Field(
        default="",
        pattern=r"^(\d+/\d+)?$",
        description="NUMBER/COUNT: this process is one shard of a server; --shards starts such processes",
    )
    loop: Literal["uvloop", "asyncio"] = Field(default="uvloop", description="event loop")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severity logged")
    log_format: Literal["auto", "human", "json"] = Field(
        default="auto", description="auto: human on a terminal, JSON lines otherwise"
    )
    max_pools_per_tenant: int = Field(default=1024, ge=1, le=_MOST, description="pools that one tenant may have")
    max_window: SizeBytes = Field(
        default=8 << 20, ge=MAX_MESSAGE_BYTES, description="most bytes that one session may have in flight"
    )
    max_window_batches: int = Field(
        default=1024, ge=1, le=_MOST, description="most batches that one session may have in flight"
    )
    max_streams_per_connection: int = Field(
        default=100, ge=1, le=_MOST, description="concurrent calls of one connection"
    )
    heartbeat_interval_seconds: float = Field(
        default=5.0, gt=0, le=_MOST_SECONDS, description="how often an idle session says it lives"
    )
    session_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=_MOST_SECONDS,
        description="a session silent for so long is dead, and its pools are parked",
    )
    stalled_reader_timeout_seconds: float = Field(
        default=30.0, gt=0, le=_MOST_SECONDS, description="a client that takes no answer for so long is cut off"
    )
    drain_timeout_seconds: float = Field(
        default=10.0, ge=0, le=_MOST_SECONDS, description="how long SIGTERM waits for clients to leave"
    )
    persistent_grace_seconds: Grace = Field(
        default="never", description="reclaim a dead client's persistent pools after so long, or never"
    )
    ephemeral_grace_seconds: Grace = Field(
        default=3600.0, description="reclaim a dead client's ephemeral pools after so long, or never"
    )
    reflection: bool = Field(default=False, description="offer gRPC server reflection")
    layers: tuple[Annotated[str, AfterValidator(check_layer)], ...] = Field(
        default=(),
        description="layers around the store, outermost first, such as delayed:seconds=0.01 or faulty:put_refused=0.1",
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value that is not a default came from ("--listen", "TMEM_LISTEN", "FILE: listen")."""

    settings: Settings
    origins: Mapping[str, str]

    def dump(self) -> str:
        """The settings as a TOML file that loads to the same."""
        lines = []
        for name, info in Settings.model_fields.items():
            value = getattr(self.settings, name)
            origin = self.origins.get(name, "default")
            lines.append(f"# {info.description} ({origin})")
            if value is None:
                lines.append(f"#{name} =")
            else:
                lines.append(f"{name} = {_toml(format_size(value) if name in _SIZES else value)}")
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # JSON's strings are TOML's, but for DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for every setting; one that is not given leaves no trace in the parsed namespace."""
    for name, info in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        default = format_size(info.default) if name in _SIZES else info.default
        text = f"{info.description} (default: {'unset' if default is None else default})".replace("%", "%%")
        if info.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        elif name == "layers":
            text = (info.description or "") + "; may be given several times"
            parser.add_argument(
                "--layer", dest=name, action="append", default=argparse.SUPPRESS, metavar="LAYER", help=text
            )
        else:
            choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else None
            metavar = "{" + ",".join(choices) + "}" if choices else name.rsplit("_", 1)[-1].upper()
            parser.add_argument(flag, default=argparse.SUPPRESS, metavar=metavar, help=text)


def load(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None) -> Loaded:
    """Puts the settings together.

    Args:
        flags: parsed flags by setting; only those that were given.
        environment: TMEM_* variables are looked up here. One with this prefix that is no setting is an error, like an
            unknown key: it would be believed to have an effect.
        file: a TOML file; TMEM_CONFIG is used when None.

    Raises:
        ConfigError: an unknown key, or a value that can't be.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if file is None and environment.get("TMEM_CONFIG"):
        file = Path(environment["TMEM_CONFIG"])
    if file is not None:
        for name, value in _read(file).items():
            values[name] = value
            origins[name] = f"{file}: {name}"
    for variable, text in environment.items():
        if not variable.startswith(ENV_PREFIX) or variable in _FOREIGN_ENV:
            continue
        name = variable[len(ENV_PREFIX) :].lower()
        values[name] = _from_environment(name, text)
        origins[name] = variable
    for name, value in flags.items():
        values[name] = value
        origins[name] = "--layer" if name == "layers" else "--" + name.replace("_", "-")
    try:
        return Loaded(Settings.model_validate(values), origins)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        origin = origins.get(name, name)
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{origin}: there is no such setting; tmemd --help lists them") from error
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{origin}: {values.get(name)!r}: {message}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error


def _from_environment(name: str, text: str) -> Any:
    if name == "layers":
        return [layer for layer in text.split(";") if layer]
    # An empty variable unsets what may be unset.
    return None if not text and name in Settings.model_fields and Settings.model_fields[name].default is None else text
