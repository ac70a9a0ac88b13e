from tmem.client._core.window import Window


def test_credit_is_taken_and_given() -> None:
    window = Window(1000, 10)
    window.take(600)

    assert window.has_room(400, write=False)
    assert not window.has_room(401, write=False)
    window.give(600)
    assert window.has_room(1000, write=False)


def test_puts_leave_a_quarter_for_gets() -> None:
    window = Window(1000, 100)
    window.take(600)

    assert window.has_room(150, write=True)
    assert not window.has_room(151, write=True)
    assert window.has_room(400, write=False)


def test_puts_leave_batches_for_gets_too() -> None:
    window = Window(1 << 20, 8)
    for _ in range(6):
        window.take(1)

    assert not window.has_room(1, write=True)
    assert window.has_room(1, write=False)


def test_alone_a_put_may_use_the_reserve_but_never_more_than_all() -> None:
    window = Window(1000, 10)

    assert window.has_room(1000, write=True)
    assert not window.has_room(1001, write=True)


def test_batches_count_as_well_as_bytes() -> None:
    window = Window(1 << 20, 2)
    window.take(1)
    window.take(1)

    assert not window.has_room(1, write=False)


def test_a_grant_counts_from_then_on_and_peaks_are_remembered() -> None:
    window = Window(1000, 10)
    window.take(900)
    window.grant(500, 5)
    assert not window.has_room(1, write=False)
    window.give(900)
    assert window.has_room(500, write=False)
    assert not window.has_room(501, write=False)

    assert (window.peak_bytes, window.peak_batches) == (900, 1)


def test_an_estimate_gives_way_to_the_real_cost() -> None:
    window = Window(1000, 10)
    window.take(900)
    window.recost(900, 300)

    assert window.used_bytes == 300
