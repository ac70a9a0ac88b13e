import pytest

from tmem.client._core.results import FlushResult, GetResult, PutResult, describe
from tmem.wire.errors import Closed, PageCorrupt, PageLost, PageMissing, QuotaExceeded, StoreFailed
from tmem.wire.handles import Extent
from tmem.wire.results import Code, Reason

E = Extent(7, 10, 3)


def test_a_stored_put_is_stored() -> None:
    result = PutResult(E)
    assert repr(result) == "<PutResult pending>"
    result.settle(0)

    assert (result.done, result.stored, result.reason, result.error) == (True, True, None, None)


def test_a_refused_put_says_why_in_words() -> None:
    result = PutResult(E)
    result.settle(int(Reason.QUOTA))

    assert (result.stored, result.reason) == (False, Reason.QUOTA)
    assert isinstance(result.error, QuotaExceeded)
    assert "object 7, pages 10..12" in str(result.error)
    assert "QUOTA: " in str(result.error)


def test_a_flush_tells_what_it_found() -> None:
    result = FlushResult("object 7")
    result.settle(3, 0)
    assert (result.found, result.error) == (3, None)
    refused = FlushResult("object 7")
    refused.settle(0, int(Reason.IO))
    assert isinstance(refused.error, StoreFailed)


@pytest.mark.parametrize(
    ("codes", "flags", "error"),
    [
        ([Code.HIT] * 3, (True, False, False, False), None),
        ([Code.HIT, Code.MISS, Code.HIT], (False, True, False, False), PageMissing),
        ([Code.LOST, Code.MISS, Code.HIT], (False, True, True, False), PageLost),
        ([Code.LOST, Code.MISS, Code.CORRUPT], (False, True, True, True), PageCorrupt),
    ],
)
def test_the_worst_of_a_gets_pages_is_what_it_raises(
    codes: list[Code], flags: tuple[bool, ...], error: type[Exception] | None
) -> None:
    result = GetResult(E, take=False)
    result.pages = codes
    result.done = True

    assert (result.hit, result.miss, result.lost, result.corrupt) == flags
    if error is None:
        result.raise_for_pages()
    else:
        with pytest.raises(error, match="object 7, page 1"):
            result.raise_for_pages()


def test_a_refused_get_raises_its_refusal() -> None:
    result = GetResult(E, take=False)
    result.refuse(range(3), int(Reason.IO))

    assert result.pages == [Code.REFUSED] * 3
    with pytest.raises(StoreFailed):
        result.raise_for_pages()


def test_a_result_that_no_client_made_can_not_be_acknowledged() -> None:
    with pytest.raises(Closed):
        GetResult(E, take=True).ack()


def test_single_pages_are_described_as_such() -> None:
    assert describe(Extent(7, 10, 1)) == "object 7, page 10"
