"""Tenants: who may speak to the daemon, and what each may have.

Owns: the token file and the check of a bearer token. Without a token file there is one tenant, `local`, and everybody who
can reach the daemon is it.

The token file is TOML, one table per tenant, tokens in plain or as the hex SHA-256 of the token:

    [tenants.alice]
    tokens = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    weight = 3                # share of memory for ephemeral pages
    quota = "8GiB"            # of all the tenant's pools together
    max_pools = 64
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tmem.wire.errors import Unauthenticated
from tmem.wire.metadata import BEARER

from .sizes import SizeBytes

__all__ = ["LOCAL", "Tenant", "Tenants", "TokenFileError"]

LOCAL = "local"
_SHA256 = "sha256:"


class TokenFileError(ValueError):
    """The token file can't be used; the message is one line that says why."""


class Tenant(BaseModel):
    """What one tenant may have.

    Attributes:
        tokens: any of them names the tenant.
        weight: share of memory for ephemeral pages among tenants; 0 for all = oldest first.
        quota: bytes of live payload and index of all its pools; 0 = no limit.
        max_pools: 0 = the daemon's default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    tokens: tuple[Annotated[str, Field(min_length=16)], ...] = ()
    weight: int = Field(default=0, ge=0, le=1_000_000)
    quota: SizeBytes = 0
    max_pools: int = Field(default=0, ge=0)


class Tenants:
    """All tenants, and who has which token.

    Args:
        tenants: empty = one tenant, LOCAL, without a token.
    """

    def __init__(self, tenants: list[Tenant] | None = None) -> None:
        self.open = not tenants
        self.by_name = {tenant.name: tenant for tenant in tenants or [Tenant(name=LOCAL)]}
        self._by_digest: dict[bytes, Tenant] = {}
        for tenant in self.by_name.values():
            for token in tenant.tokens:
                digest = _digest(token)
                if self._by_digest.setdefault(digest, tenant) is not tenant:
                    raise TokenFileError(
                        f"tenants {self._by_digest[digest].name} and {tenant.name} have the same token"
                    )

    @classmethod
    def load(cls, path: Path, *, shards: int = 1) -> "Tenants":
        """Reads a token file; of so many shards each holds its part of a tenant's quota.

        Raises:
            TokenFileError: it can't be read, is not TOML, names no tenant, or says something impossible.
        """
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise TokenFileError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise TokenFileError(f"{path}: not TOML: {error}") from error
        tables = data.pop("tenants", {})
        if data:
            raise TokenFileError(f"{path}: unknown key {next(iter(data))!r}; only [tenants.NAME] tables are known")
        if not isinstance(tables, dict) or not tables:
            raise TokenFileError(f"{path}: names no tenant; write a table [tenants.NAME] with tokens = [...]")
        for name, table in tables.items():
            if isinstance(table, dict) and "name" in table:
                raise TokenFileError(
                    f"{path}: unknown key 'name' in [tenants.{name}]; the table's own name is the name"
                )
        try:
            tenants = [Tenant.model_validate({**table, "name": name}) for name, table in tables.items()]
            return cls([tenant.model_copy(update={"quota": tenant.quota // shards}) for tenant in tenants])
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise TokenFileError(f"{path}: {error.title} {where}: {first['msg']}") from error
        except TypeError as error:
            raise TokenFileError(f"{path}: a tenant must be a table: {error}") from error
        except TokenFileError as error:
            raise TokenFileError(f"{path}: {error}") from error

    def authenticate(self, authorization: str | None) -> Tenant:
        """The tenant that an `authorization` metadata value names.

        Raises:
            Unauthenticated: no token, or one that nobody has.
        """
        if self.open:
            return self.by_name[LOCAL]
        if authorization is None or not authorization.startswith(BEARER):
            raise Unauthenticated('this server wants a token: metadata "authorization: Bearer TOKEN"')
        # Looked up by digest, so that the time it takes says nothing about the token.
        digest = hashlib.sha256(authorization[len(BEARER) :].encode()).digest()
        tenant = self._by_digest.get(digest)
        if tenant is None:
            raise Unauthenticated("nobody has this token")
        return tenant

    def quotas(self) -> dict[str, int]:
        """The quota of each tenant that has one."""
        return {tenant.name: tenant.quota for tenant in self.by_name.values() if tenant.quota}


def _digest(token: str) -> bytes:
    if token.startswith(_SHA256):
        try:
            digest = bytes.fromhex(token[len(_SHA256) :])
        except ValueError as error:
            raise TokenFileError(f"a token {_SHA256}... must be 64 hex digits") from error
        if len(digest) != hashlib.sha256().digest_size:
            raise TokenFileError(f"a token {_SHA256}... must be 64 hex digits")
        return digest
    return hashlib.sha256(token.encode()).digest()
