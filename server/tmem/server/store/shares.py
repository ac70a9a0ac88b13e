"""Whose ephemeral pages go first.

Owns: the choice of the next victim. Weights divide memory among tenants first, then among a tenant's pools; whoever is
furthest over its weighted share gives, its oldest page first. Where all weights are 0 the oldest page of all goes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Holding", "choose_victim"]

T = TypeVar("T")


@dataclass(slots=True)
class Holding:
    """What one ephemeral pool holds.

    Attributes:
        used_bytes: more than 0.
        oldest: when its oldest page was stored or last made young; smaller is older.
    """

    key: int
    tenant: str
    tenant_weight: int
    weight: int
    used_bytes: int
    oldest: int


def choose_victim(holdings: Iterable[Holding]) -> int | None:
    """The key of the pool that gives its oldest page, or None where nobody holds any."""
    by_tenant: dict[str, list[Holding]] = {}
    for holding in holdings:
        by_tenant.setdefault(holding.tenant, []).append(holding)
    if not by_tenant:
        return None
    tenant = _furthest_over(
        list(by_tenant.values()),
        weight=lambda pools: pools[0].tenant_weight,
        used=lambda pools: sum(pool.used_bytes for pool in pools),
        oldest=lambda pools: min(pool.oldest for pool in pools),
    )
    return _furthest_over(
        tenant, weight=lambda pool: pool.weight, used=lambda pool: pool.used_bytes, oldest=lambda pool: pool.oldest
    ).key


def _furthest_over(
    parties: list[T], *, weight: Callable[[T], int], used: Callable[[T], int], oldest: Callable[[T], int]
) -> T:
    """The party with the most bytes per unit of weight; a weight of 0 among others has no share at all."""
    if len(parties) == 1:
        return parties[0]
    if not any(weight(party) for party in parties):
        return min(parties, key=oldest)
    return max(
        parties, key=lambda party: (used(party) / weight(party) if weight(party) else float("inf"), -oldest(party))
    )
