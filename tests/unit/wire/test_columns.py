import pytest

from tmem.wire.columns import ColumnError, collapse, expand


@pytest.mark.parametrize(
    ("column", "expected"), [([], [7, 7, 7]), ([5], [5, 5, 5]), ([1, 2, 3], [1, 2, 3])], ids=["none", "one", "all"]
)
def test_a_column_has_none_one_or_all_entries(column: list[int], expected: list[int]) -> None:
    assert expand(column, 3, 7, "pages") == expected


@pytest.mark.parametrize("length", [2, 4])
def test_any_other_length_is_an_error_that_names_the_column(length: int) -> None:
    with pytest.raises(ColumnError, match="pages"):
        expand([1] * length, 3, 7, "pages")


@pytest.mark.parametrize(
    ("values", "shortest"),
    [([], ()), ([7, 7], ()), ([5, 5], (5,)), ([5, 7], [5, 7]), ([7], ()), ([5], (5,))],
)
def test_collapse_finds_the_shortest_column(values: list[int], shortest: object) -> None:
    assert collapse(values, 7) == shortest


@pytest.mark.parametrize("values", [[7], [5], [7, 7, 7], [5, 5, 5], [5, 7, 5]])
def test_expand_undoes_collapse(values: list[int]) -> None:
    assert expand(collapse(values, 7), len(values), 7, "x") == values
