"""Which pools there are, and who may use them.

Owns: `PoolTable`: names, numbers, tokens, generations, floors, members and epochs. It decides who may do what; it holds no
pages. Pure: time and randomness are passed in.

Rules
- A private pool has one member, its writer. Opening it again raises its generation; a message of an older one is FENCED.
- Each client that creates or joins a shared pool is a member of its own, with its own token and generation.
- Generations are unique within a pool, so (generation, sequence) names one write of one member.
- An unknown pool and one that the caller has no right to know of are the same answer: NoSuchPool.
- Pool numbers are unique within a tenant; the store's keys are unique on the server.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tmem.wire.errors import Fenced, Forbidden, InvalidRequest, NoSuchPool, PoolExists, PoolLimit
from tmem.wire.limits import (
    CHUNK_PAGES_DEFAULT,
    MAX_CHUNK_PAGES,
    MAX_POOL_NAME_CHARS,
    PAGE_BYTES,
    PROTOCOL_VERSION,
    TOKEN_MAX_BYTES,
    TOKEN_MIN_BYTES,
    UUID_BYTES,
)
from tmem.wire.results import Durability, PoolFlag, PoolKind, Reason

from .counters import PoolCounters
from .interface import PoolPolicy

__all__ = ["Member", "Pool", "PoolRequest", "PoolTable"]

_ALL_FLAGS = int(PoolFlag.TAKE | PoolFlag.KEEP | PoolFlag.ENCRYPTED)
_ALL_ONES = b"\xff" * UUID_BYTES
_MAX_WEIGHT = 1_000_000


@dataclass(slots=True)
class PoolRequest:
    """What a tenant asks for; fields as in CreatePoolRequest."""

    name: str
    kind: int
    page_size: int = 0
    flags: int = 0
    quota_bytes: int = 0
    weight: int = 0
    durability: int = 0
    chunk_pages: int = 0
    abi_version: int = PROTOCOL_VERSION
    token: bytes = b""
    uuid: bytes = b""
    lost_epoch: int = 0
    reserved_bytes: int = 0


@dataclass(slots=True, eq=False)
class Member:
    """One client's right to a pool.

    Attributes:
        pool_id: the pool's number in the member's tenant.
        generation: what its messages must carry.
        floor: the highest floor that it has shown; its writes below are STALE.
        session: the id of the session that works on the pool for it, or None. A member without one is parked.
        parked_since: when it was parked, in the table's seconds; None while it works.
    """

    tenant: str
    pool_id: int
    token: bytes
    generation: int
    floor: int = 0
    session: bytes | None = None
    parked_since: float | None = None


@dataclass(slots=True, eq=False)
class Pool:
    """One pool.

    Attributes:
        policy: what its store sees.
        generation: the newest handed out.
        members: by generation.
        owner: the tenant that answers for it now; first_owner: the one that made it, and that reports name it by.
        authorized: tenants that may join (shared pools).
        request: what it was made from, to recognise a repeated request.
        gone: destroyed; whoever still holds a reference must not use it.
    """

    policy: PoolPolicy
    name: str
    kind: PoolKind
    flags: PoolFlag
    owner: str
    first_owner: str
    uuid: bytes
    epoch: int
    request: PoolRequest
    incomplete: bool = False
    frozen: bool = False
    gone: bool = False
    generation: int = 0
    counters: PoolCounters = field(default_factory=PoolCounters)
    members: dict[int, Member] = field(default_factory=dict)
    authorized: set[str] = field(default_factory=set)

    @property
    def key(self) -> int:
        """Its number on this server."""
        return self.policy.key

    @property
    def parked(self) -> bool:
        """Whether no live session works on it."""
        return all(member.session is None for member in self.members.values())

    def gate(self, member: Member, generation: int, floor: int, sequence: int | None) -> Reason:
        """Whether a message of a member may pass, and notes its floor.

        Args:
            member: whose right the message claims.
            generation: what the message carries.
            floor: likewise.
            sequence: of a write; None for a read.

        Returns:
            UNSPECIFIED if it may; else why not.
        """
        if self.gone:
            return Reason.NO_SUCH_POOL
        if generation != member.generation or member.generation not in self.members:
            return Reason.FENCED
        member.floor = max(member.floor, floor)
        if sequence is not None and sequence < member.floor:
            return Reason.STALE
        return Reason.UNSPECIFIED


class PoolTable:
    """All pools of this server.

    Args:
        random_bytes: n secret random bytes.
        durabilities: what the store can promise.
        max_pools: pools per tenant, unless the tenant has a limit of its own.
    """

    def __init__(
        self,
        *,
        random_bytes: Callable[[int], bytes],
        durabilities: Iterable[Durability],
        max_pools: int,
    ) -> None:
        self._random_bytes = random_bytes
        self._durabilities = frozenset(durabilities)
        self._max_pools = max_pools
        self._next_key = 1
        self._next_id: dict[str, int] = {}
        self._by_id: dict[tuple[str, int], Pool] = {}
        self._by_name: dict[tuple[str, str], Pool] = {}
        self._by_uuid: dict[bytes, Pool] = {}
        self._pools: dict[int, Pool] = {}

    def __iter__(self) -> Iterator[Pool]:
        return iter(list(self._pools.values()))

    def __len__(self) -> int:
        return len(self._pools)

    # ---- Making and entering ----

    def create(
        self, tenant: str, request: PoolRequest, *, epoch: int, tenant_weight: int = 0, max_pools: int = 0
    ) -> tuple[Pool, Member, bool]:
        """Makes a pool.

        Args:
            tenant: its owner.
            request: what it shall be.
            epoch: the least epoch it may have; the pool's is higher than the one it lost.
            tenant_weight: the tenant's share among tenants.
            max_pools: the tenant's own limit; 0 = the table's.

        Returns:
            The pool, its first member, and whether it is new: the same request again finds the same pool.

        Raises:
            InvalidRequest, PoolExists, PoolLimit: why not.
        """
        kind, durability = self._check(request)
        existing = self._by_name.get((tenant, request.name))
        if existing is not None:
            member = next(iter(existing.members.values()))
            if request.token and existing.request == request and member.generation == 1:
                return existing, member, False
            raise PoolExists(f"pool {request.name!r} exists already; open it with its token")
        if request.uuid and request.uuid in self._by_uuid:
            raise PoolExists("a shared pool of this UUID exists already; join it")
        limit = max_pools or self._max_pools
        if sum(1 for owner, _ in self._by_id if owner == tenant) >= limit:
            raise PoolLimit(f"tenant {tenant} has {limit} pools, as many as it may have; destroy one")
        policy = PoolPolicy(
            key=self._next_key,
            kind=kind,
            tenant=tenant,
            tenant_weight=tenant_weight,
            weight=request.weight,
            quota_bytes=request.quota_bytes,
            chunk_pages=request.chunk_pages or CHUNK_PAGES_DEFAULT,
            durability=durability,
            reserved_bytes=request.reserved_bytes,
        )
        if request.flags & PoolFlag.ENCRYPTED:
            policy.chunk_pages = 1
        self._next_key += 1
        uuid = b""
        if kind == PoolKind.SHARED:
            uuid = request.uuid or self._random_bytes(UUID_BYTES)
        pool = Pool(
            policy=policy,
            name=request.name,
            kind=kind,
            flags=PoolFlag(request.flags),
            owner=tenant,
            first_owner=tenant,
            uuid=uuid,
            epoch=max(epoch, request.lost_epoch + 1),
            request=request,
            incomplete=bool(request.lost_epoch),
        )
        member = self._enter(pool, tenant, request.token or self._random_bytes(TOKEN_MAX_BYTES // 2))
        self._pools[pool.key] = pool
        self._by_name[tenant, pool.name] = pool
        if uuid:
            self._by_uuid[uuid] = pool
        return pool, member, True

    def restore(self, pool: Pool, member: Member) -> None:
        """Enters a pool of an earlier run, with the numbers that it had."""
        self._next_key = max(self._next_key, pool.key + 1)
        self._next_id[member.tenant] = max(self._next_id.get(member.tenant, 1), member.pool_id + 1)
        self._pools[pool.key] = pool
        self._by_name[pool.owner, pool.name] = pool
        self._by_id[member.tenant, member.pool_id] = pool

    def open(
        self, tenant: str, name: str, token: bytes, record: Callable[[Pool], object] = lambda _: None
    ) -> tuple[Pool, Member]:
        """Takes over a private pool: its writer before is fenced from now on.

        Args:
            tenant: whose.
            name: the pool's.
            token: its own.
            record: called with the pool as it is then; if that raises, the pool stays as it was.

        Raises:
            NoSuchPool: no pool of this name, or a wrong token.
            InvalidRequest: a shared pool; that one is joined.
        """
        pool = self._by_name.get((tenant, name))
        member = None if pool is None else self._by_token(pool, token)
        if pool is None or member is None:
            raise NoSuchPool(f"no pool {name!r} that this token opens")
        if pool.kind == PoolKind.SHARED:
            raise InvalidRequest(f"pool {name!r} is shared: join it by its UUID")
        pool.generation += 1
        # A new Member: whoever holds the old one is fenced.
        successor = Member(tenant, member.pool_id, member.token, pool.generation)
        pool.members = {pool.generation: successor}
        try:
            record(pool)
        except BaseException:
            pool.generation -= 1
            pool.members = {member.generation: member}
            raise
        return pool, successor

    def join(self, tenant: str, uuid: bytes, *, max_pools: int = 0) -> tuple[Pool, Member]:
        """Enters a shared pool; `max_pools` as in `create`: each membership counts as a pool.

        Raises:
            NoSuchPool: no such pool, or no right to join it. PoolLimit: the tenant is in too many already.
        """
        pool = self._by_uuid.get(uuid)
        if pool is None or uuid == _ALL_ONES or (tenant != pool.owner and tenant not in pool.authorized):
            raise NoSuchPool("no shared pool of this UUID that this tenant may join")
        limit = max_pools or self._max_pools
        memberships = sum(
            1
            for (owner, _), entered in self._by_id.items()
            if owner == tenant
            for member in entered.members.values()
            if member.tenant == tenant
        )
        if memberships >= limit:
            raise PoolLimit(f"tenant {tenant} works on {limit} pools, as many as it may; leave or destroy one")
        return pool, self._enter(pool, tenant, self._random_bytes(TOKEN_MAX_BYTES // 2))

    def _enter(self, pool: Pool, tenant: str, token: bytes) -> Member:
        known = [member.pool_id for member in pool.members.values() if member.tenant == tenant]
        if known:
            pool_id = known[0]
        else:
            pool_id = self._next_id.get(tenant, 1)
            self._next_id[tenant] = pool_id + 1
            self._by_id[tenant, pool_id] = pool
        pool.generation += 1
        member = Member(tenant, pool_id, token, pool.generation)
        pool.members[pool.generation] = member
        return member

    def _check(self, request: PoolRequest) -> tuple[PoolKind, Durability]:
        """Raises InvalidRequest unless such a pool can be."""

        def refuse(what: str) -> InvalidRequest:
            return InvalidRequest(f"pool {request.name!r} can't be made: {what}")

        if request.abi_version != PROTOCOL_VERSION:
            raise refuse(f"abi_version {request.abi_version} is unknown; this server speaks {PROTOCOL_VERSION}")
        if not 1 <= len(request.name) <= MAX_POOL_NAME_CHARS or not request.name.isprintable():
            raise refuse(f"a name has 1..{MAX_POOL_NAME_CHARS} printable characters")
        try:
            kind = PoolKind(request.kind)
        except ValueError:
            kind = PoolKind.UNSPECIFIED
        if kind == PoolKind.UNSPECIFIED:
            raise refuse(f"kind {request.kind} is unknown")
        if request.page_size not in {0, PAGE_BYTES}:
            raise refuse(f"page size {request.page_size} is not supported; {PAGE_BYTES} is")
        if request.flags & ~_ALL_FLAGS:
            raise refuse(f"flags {request.flags & ~_ALL_FLAGS:#x} are reserved")
        if request.uuid and kind != PoolKind.SHARED:
            raise refuse(f"a {kind.name.lower()} pool can't be shared, so it has no UUID")
        if request.uuid and (len(request.uuid) != UUID_BYTES or request.uuid == _ALL_ONES):
            raise refuse(f"a UUID has {UUID_BYTES} bytes, not all ones")
        if request.token and not TOKEN_MIN_BYTES <= len(request.token) <= TOKEN_MAX_BYTES:
            raise refuse(f"a token has {TOKEN_MIN_BYTES}..{TOKEN_MAX_BYTES} bytes")
        if request.chunk_pages > MAX_CHUNK_PAGES:
            raise refuse(f"chunk_pages {request.chunk_pages} is above {MAX_CHUNK_PAGES}")
        if request.flags & PoolFlag.ENCRYPTED and request.chunk_pages > 1:
            raise refuse("an encrypted pool has chunks of one page")
        if request.flags & PoolFlag.TAKE and request.flags & PoolFlag.KEEP:
            raise refuse("TAKE and KEEP contradict each other")
        if request.weight > _MAX_WEIGHT:
            raise refuse(f"weight {request.weight} is above {_MAX_WEIGHT}")
        try:
            durability = Durability(request.durability or Durability.MEMORY)
        except ValueError:
            durability = Durability.UNSPECIFIED
        if durability not in self._durabilities:
            offered = ", ".join(sorted(kind.name.lower() for kind in self._durabilities))
            raise refuse(f"durability {request.durability} is not offered by this server; it has: {offered}")
        if kind != PoolKind.PERSISTENT and durability != Durability.MEMORY:
            raise refuse(f"durability {durability.name.lower()} is for persistent pools")
        if kind != PoolKind.PERSISTENT and request.reserved_bytes:
            raise refuse("only persistent pools reserve memory")
        if request.quota_bytes and request.reserved_bytes > request.quota_bytes:
            raise refuse(f"it reserves {request.reserved_bytes} bytes, more than its quota of {request.quota_bytes}")
        return kind, durability

    # ---- Finding ----

    def find(self, tenant: str, pool_id: int, token: bytes) -> tuple[Pool, Member]:
        """The pool and member that a token shows the right to, whatever its generation.

        Raises:
            NoSuchPool: none.
        """
        pool = self._by_id.get((tenant, pool_id))
        member = None if pool is None else self._by_token(pool, token)
        if pool is None or member is None or member.tenant != tenant:
            raise NoSuchPool(f"no pool {pool_id} that this token opens")
        return pool, member

    def resolve(self, tenant: str, pool_id: int, token: bytes, generation: int) -> tuple[Pool, Member]:
        """As `find`, for a member of this generation.

        Raises:
            NoSuchPool: none.
            Fenced: the pool was opened again since.
        """
        pool, member = self.find(tenant, pool_id, token)
        if member.generation != generation:
            raise Fenced(f"pool {pool.name!r} was opened again: generation {member.generation}, not {generation}")
        return pool, member

    def owned(self, tenant: str, pool_id: int) -> Pool:
        """A pool that the tenant made, without showing its token.

        Raises:
            NoSuchPool: none.
        """
        pool = self._by_id.get((tenant, pool_id))
        if pool is None or pool.owner != tenant:
            raise NoSuchPool(f"tenant {tenant} has made no pool {pool_id}")
        return pool

    def of_tenant(self, tenant: str) -> list[tuple[Pool, int]]:
        """The tenant's pools with their numbers."""
        return [(pool, pool_id) for (owner, pool_id), pool in self._by_id.items() if owner == tenant]

    @staticmethod
    def _by_token(pool: Pool, token: bytes) -> Member | None:
        found = None
        for member in pool.members.values():  # all of them, so that the time taken says nothing
            if hmac.compare_digest(member.token, token):
                found = member
        return found

    # ---- Changing and leaving ----

    def authorize(self, pool: Pool, member: Member, tenant: str, *, allowed: bool) -> None:
        """Gives or takes a tenant's right to join later.

        Raises:
            InvalidRequest: the pool is private.
            Forbidden: the member is not of the owner's tenant.
        """
        if pool.kind != PoolKind.SHARED:
            raise InvalidRequest(f"pool {pool.name!r} is private: nobody can join it")
        if member.tenant != pool.owner:
            raise Forbidden(f"only the owner of pool {pool.name!r} says who may join")
        if allowed:
            pool.authorized.add(tenant)
        else:
            pool.authorized.discard(tenant)

    def leave(self, pool: Pool, member: Member) -> bool:
        """Ends a membership; answers whether it was the last, so that the pool must be destroyed."""
        pool.members.pop(member.generation, None)
        if not pool.members:
            return True
        if all(other.tenant != member.tenant for other in pool.members.values()):
            self._by_id.pop((member.tenant, member.pool_id), None)
            if pool.owner == member.tenant:
                # The pool lives on while anybody shares it; the next member answers for it.
                self._by_name.pop((pool.owner, pool.name), None)
                pool.owner = next(iter(pool.members.values())).tenant
                pool.policy.tenant = pool.owner
        return False

    def destroy(self, pool: Pool) -> None:
        """Forgets a pool."""
        pool.gone = True
        self._pools.pop(pool.key, None)
        for name in [name for name, known in self._by_name.items() if known is pool]:
            del self._by_name[name]
        for pool_id in [pool_id for pool_id, known in self._by_id.items() if known is pool]:
            del self._by_id[pool_id]
        if pool.uuid:
            self._by_uuid.pop(pool.uuid, None)
        pool.members.clear()
