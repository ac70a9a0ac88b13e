import pytest

from tmem.client._core.writer import Footprint, Writer, whole_object

A, B = Footprint(7, 0, 0b1), Footprint(7, 0, 0b10)


def test_sequences_rise_from_one() -> None:
    writer = Writer()

    assert [writer.begin((A,)), writer.begin((B,))] == [1, 2]


def test_the_floor_is_the_lowest_unsettled_sequence() -> None:
    writer = Writer()
    assert writer.floor == 1
    first, second, third = writer.begin((A,)), writer.begin((B,)), writer.begin((Footprint(8, 0, 1),))
    assert writer.floor == first

    writer.settle(second)
    assert writer.floor == first
    writer.settle(first)
    assert writer.floor == third
    writer.settle(third)
    assert writer.floor == 4


@pytest.mark.parametrize(
    ("footprint", "conflict"),
    [
        (A, True),
        (B, False),
        (Footprint(7, 0, 0b11), True),
        (Footprint(7, 1, 0b1), False),
        (Footprint(8, 0, 0b1), False),
        (whole_object(7), True),
        (whole_object(8), False),
    ],
)
def test_a_handle_has_one_unsettled_write(footprint: Footprint, conflict: bool) -> None:
    writer = Writer()
    sequence = writer.begin((A,))

    assert writer.conflicts((footprint,)) is conflict
    writer.settle(sequence)
    assert not writer.conflicts((footprint,))


def test_a_flush_of_an_object_holds_all_its_pages() -> None:
    writer = Writer()
    sequence = writer.begin((whole_object(7),))

    assert writer.conflicts((A,))
    assert writer.conflicts((whole_object(7),))
    assert not writer.conflicts((Footprint(8, 0, 1),))
    writer.settle(sequence)
    assert not writer.conflicts((A,))


def test_a_write_that_was_given_up_holds_its_handles_until_a_floor_above_it_is_confirmed() -> None:
    writer = Writer()
    given_up = writer.begin((A,))
    writer.begin((B,))
    writer.give_up(given_up)

    assert writer.floor == 2
    assert writer.conflicts((A,))
    assert not writer.confirmed(1)
    assert writer.conflicts((A,))
    assert writer.confirmed(2)
    assert not writer.conflicts((A,))
    assert not writer.has_given_up


def test_a_late_answer_settles_what_was_given_up() -> None:
    writer = Writer()
    sequence = writer.begin((A,))
    writer.give_up(sequence)

    writer.settle(sequence)

    assert not writer.conflicts((A,))


def test_settling_twice_is_harmless() -> None:
    writer = Writer()
    first = writer.begin((A,))
    writer.settle(first)
    second = writer.begin((A,))

    writer.settle(first)
    writer.give_up(first)

    assert writer.conflicts((A,))
    writer.settle(second)


@pytest.mark.parametrize("footprints", [(A, A), (A, A, B), (B, A, B, A), (whole_object(7), whole_object(7))])
def test_one_write_may_touch_a_page_twice(footprints: tuple[Footprint, ...]) -> None:
    writer = Writer()
    sequence = writer.begin(footprints)
    assert writer.conflicts((A,))

    writer.settle(sequence)

    assert not writer.conflicts((A, B))
    assert writer.floor == 2
