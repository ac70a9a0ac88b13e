"""What the crash measurement calls lost: it must see a loss where there is one."""

from tests.pages import random_page

from tmem.cli.bench_store.crashes import Model, Tally, Write
from tmem.client import Code, PutResult
from tmem.wire.errors import Unavailable
from tmem.wire.handles import Extent

MEMORY = memoryview(b"".join(random_page(seed) for seed in range(4)))


def put(model: Model, first: int, count: int, *, answered: bool) -> Write:
    result = PutResult(Extent(7, first, count))
    if answered:
        result.settle(0)
    else:
        result.fail(Unavailable("gone"))
    return Write(first, model.draw_stamps(count), [result])


def found(model: Model, page: int, stamp: int | None) -> Tally:
    """What a look at one page adds to the tally."""
    tally = Tally()
    if stamp is None:
        model.check(page, Code.MISS, memoryview(bytes(4096)), tally)
    else:
        model.check(page, Code.HIT, memoryview(model.plain(stamp)), tally)
    return tally


def model_after(*answered: bool) -> tuple[Model, list[int]]:
    """Puts of page 3, one after the other."""
    model = Model(MEMORY)
    writes = [put(model, 3, 1, answered=each) for each in answered]
    model.take(writes, Tally())
    return model, [write.stamps[0] for write in writes]


def test_an_acknowledged_page_must_be_back():
    for stamp, expected in ((0, (0, 0)), (None, (1, 0))):
        model, stamps = model_after(True)
        tally = found(model, 3, stamps[0] if stamp == 0 else None)
        assert (tally.lost, tally.wrong) == expected


def test_an_acknowledged_overwrite_must_not_go_back():
    model, stamps = model_after(True, True)
    assert found(model, 3, stamps[0]).wrong == 1


def test_an_unanswered_write_may_have_happened_or_not():
    for index in (0, 1):
        model, stamps = model_after(True, False)
        tally = found(model, 3, stamps[index])
        assert (tally.lost, tally.wrong, tally.revived) == (0, 0, 0)
    model, _ = model_after(True, False)
    assert found(model, 3, None).lost == 1


def test_bytes_that_differ_behind_the_stamp_are_wrong():
    model, stamps = model_after(True)
    plain = bytearray(model.plain(stamps[0]))
    plain[4000] ^= 1
    tally = Tally()
    model.check(3, Code.HIT, memoryview(plain), tally)
    assert tally.wrong == 1


def test_a_flushed_page_must_not_come_back():
    model, stamps = model_after(True)
    model.may_be[3] = {0}
    assert found(model, 3, stamps[0]).revived == 1


def test_lost_is_lost_even_where_nothing_may_be_there():
    model, _ = model_after(False)
    tally = Tally()
    model.check(3, Code.LOST, memoryview(bytes(4096)), tally)
    assert tally.lost == 1


def test_what_was_found_is_what_must_be_there_the_next_time():
    model, _ = model_after(False)
    assert found(model, 3, None).lost == 0
    model, stamps = model_after(False)
    found(model, 3, stamps[0])
    assert found(model, 3, None).lost == 1
