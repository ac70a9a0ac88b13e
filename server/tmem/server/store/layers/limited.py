"""Tenants' quotas: refuses puts of a tenant that holds as much as it may, before the store looks at them.

Owns: the sum over each tenant's pools, and its limit. A put refused here drops what its handles held.
"""

from collections.abc import Iterator, Mapping

from tmem.server.store.interface import PoolPolicy, Store, Stored
from tmem.server.store.pending import Pending, then
from tmem.wire.errors import QuotaExceeded
from tmem.wire.handles import Version
from tmem.wire.requests import Put
from tmem.wire.results import Reason

from .base import Layer

__all__ = ["LimitedLayer"]


class LimitedLayer(Layer):
    """Holds tenants to their quotas.

    Args:
        below: the store.
        quotas: bytes of live payload and index that each tenant's pools may hold together; 0 or absent = no limit. May be
            changed by its owner at any time.
    """

    def __init__(self, below: Store, quotas: Mapping[str, int]) -> None:
        super().__init__(below)
        self._quotas = quotas
        self._policies: dict[int, PoolPolicy] = {}
        self._tenants: dict[int, str] = {}
        self._pools: dict[str, set[int]] = {}

    def add_pool(self, policy: PoolPolicy) -> None:
        self._check_reservation(policy.tenant, policy.reserved_bytes)
        self.below.add_pool(policy)
        self._policies[policy.key] = policy
        self._charge(policy.key, policy.tenant)

    def reserve(self, key: int, size: int) -> None:
        policy = self._policies[key]
        self._check_reservation(policy.tenant, size - policy.reserved_bytes)
        self.below.reserve(key, size)

    def _check_reservation(self, tenant: str, more: int) -> None:
        """Raises QuotaExceeded if a tenant's pools would reserve more than the tenant may hold."""
        quota = self._quotas.get(tenant, 0)
        if not quota or more <= 0:
            return
        reserved = sum(self._policies[key].reserved_bytes for key in self._pools.get(tenant, ()))
        if reserved + more > quota:
            raise QuotaExceeded(
                f"{more} bytes can't be reserved: tenant {tenant} may hold {quota}, and has reserved {reserved} already"
            )

    def drop_pool(self, key: int) -> int:
        del self._policies[key]
        self._uncharge(key)
        return self.below.drop_pool(key)

    def leave(self, key: int, user: int) -> Iterator[int]:
        # Whose pool it is changes only when somebody leaves: then the next member's tenant answers for it.
        tenant = self._policies[key].tenant
        if tenant != self._tenants[key]:
            self._uncharge(key)
            self._charge(key, tenant)
        return self.below.leave(key, user)

    def _charge(self, key: int, tenant: str) -> None:
        self._tenants[key] = tenant
        self._pools.setdefault(tenant, set()).add(key)

    def _uncharge(self, key: int) -> None:
        tenant = self._tenants.pop(key)
        self._pools[tenant].discard(key)
        if not self._pools[tenant]:
            del self._pools[tenant]

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        tenant = self._tenants[key]
        quota = self._quotas.get(tenant, 0)
        if not quota or self._used(tenant) + len(put.body) <= quota:
            return self.below.put(key, version, put, user)
        # Stored or refused, what the handles hold now goes: so it need not count against the new pages.
        refused = self.below.refuse(key, version, put.extents, Reason.QUOTA)
        if self._used(tenant) + len(put.body) > quota:
            return refused
        result = self.below.put(key, version, put, user)
        # Answers of one pool come in the order of its writes: the removal's is there before the put's.
        dropped: list[int] = []
        then(refused, lambda stored: dropped.append(stored.dropped))
        return then(result, lambda stored: stored._replace(replaced=stored.replaced + sum(dropped)))

    def _used(self, tenant: str) -> int:
        counts = [self.below.counts(key) for key in self._pools[tenant]]
        return sum(count.payload_bytes + count.index_bytes for count in counts)
