import pytest

from tmem.server.store.shares import Holding, choose_victim


def holding(
    key: int, used: int, weight: int = 0, tenant: str = "t", tenant_weight: int = 0, oldest: int = 0
) -> Holding:
    return Holding(key, tenant, tenant_weight, weight, used, oldest or key)


def test_nobody_holds_anything() -> None:
    assert choose_victim([]) is None


def test_without_weights_the_oldest_of_all_goes() -> None:
    holdings = [holding(1, 900, oldest=50), holding(2, 1, oldest=3), holding(3, 1, tenant="other", oldest=9)]

    assert choose_victim(holdings) == 2


def test_whoever_is_furthest_over_its_share_gives() -> None:
    assert choose_victim([holding(1, 300, weight=3), holding(2, 101, weight=1)]) == 2
    assert choose_victim([holding(1, 304, weight=3), holding(2, 101, weight=1)]) == 1


def test_tenants_come_before_pools() -> None:
    holdings = [
        holding(1, 100, weight=9, tenant="a", tenant_weight=1),
        holding(2, 60, weight=1, tenant="b", tenant_weight=1),
        holding(3, 60, weight=5, tenant="b", tenant_weight=1),
    ]

    assert choose_victim(holdings) == 2


def test_a_weight_of_zero_among_others_is_no_share() -> None:
    assert choose_victim([holding(1, 1, weight=0), holding(2, 10**9, weight=1)]) == 1


@pytest.mark.parametrize(("first", "second", "victim"), [(5, 9, 1), (9, 5, 2)])
def test_of_equal_ones_the_older_gives(first: int, second: int, victim: int) -> None:
    holdings = [holding(1, 100, weight=1, oldest=first), holding(2, 100, weight=1, oldest=second)]

    assert choose_victim(holdings) == victim
