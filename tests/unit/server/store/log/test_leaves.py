"""The index of a pool beside a dict, through all the forms that a leaf can have."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from tmem.server.store.log.leaves import Leaves

OBJECTS = st.sampled_from([0, 7, 7 << 64, (1 << 192) - 1])
BLOCKS = st.sampled_from([0, 1, (1 << 23) - 1])
RUNS = st.tuples(st.integers(0, 511), st.sampled_from([1, 1, 2, 30, 512]))


@given(st.lists(st.tuples(OBJECTS, BLOCKS, RUNS, st.booleans()), max_size=40))
def test_it_finds_what_was_written_and_names_what_it_finds(writes):
    leaves, model = Leaves(), {}
    for tick, (obj, block, (first, count), keep) in enumerate(writes, 1):
        pages = min(count, 512 - first)
        if not keep and not leaves.find(obj, block):
            continue
        number = leaves.make(obj, block)
        leaves.write(number, first, [tick] * pages if keep else [0] * pages)
        for page in range(first, first + pages):
            if keep:
                model[obj, block, page] = tick
            else:
                model.pop((obj, block, page), None)

    found = {}
    for number in leaves.numbers():
        obj, block = leaves.name(number)
        assert leaves.find(obj, block) == number
        assert number in leaves.of_object(obj)
        read = leaves.read(number, 0, 512)
        assert list(leaves.read(number, 100, 50)) == list(read[100:150])
        held = {(obj, block, page): locator for page, locator in enumerate(read) if locator}
        assert held
        assert leaves.pages(number) == len(held)
        found |= held
    assert found == model
    assert leaves.count == len({key[:2] for key in model})
    assert leaves.objects == len({key[0] for key in model})
    assert bool(leaves.bytes) == bool(model)

    while leaves.shrink():
        pass
    assert leaves.bytes == leaves.objects == 0


def test_an_index_of_lone_pages_is_charged_what_it_takes():
    """The estimate that quotas and limits count is close to what Python takes."""
    leaves = Leaves()
    for obj in range(20_000):
        leaves.write(leaves.make((obj << 150) + 1, 5), 7, [obj + 1])
    taken = (
        sys.getsizeof(leaves._of) + sum(map(sys.getsizeof, leaves._of)) + sum(map(sys.getsizeof, leaves._of.values()))
    )
    taken += sum(sys.getsizeof(form) for form in leaves._forms if form)
    taken += sum(map(sys.getsizeof, (leaves._forms, leaves._objects, leaves._blocks, leaves._counts)))
    assert 0.8 < leaves.bytes / taken < 1.25
    assert leaves.bytes / 20_000 < 230


def test_a_full_block_takes_less_than_nine_bytes_a_page():
    leaves = Leaves()
    for block in range(50):
        leaves.write(leaves.make(1, block), 0, [1] * 512)
    assert leaves.bytes / (50 * 512) < 9


def test_a_block_that_is_emptied_page_by_page_shrinks_again():
    leaves = Leaves()
    number = leaves.make(1, 0)
    leaves.write(number, 0, [1] * 512)
    dense = leaves.bytes
    for page in range(511):
        leaves.write(number, page, [0])
    assert leaves.bytes < dense / 10
    leaves.write(number, 511, [0])
    assert leaves.bytes == 0
    assert leaves.find(1, 0) == 0


def test_numbers_of_leaves_that_are_gone_are_used_again():
    leaves = Leaves()
    for block in range(1000):
        leaves.write(leaves.make(1, block), 3, [9])
        leaves.write(leaves.find(1, block), 3, [0])
    assert len(leaves._forms) == 2


def test_listing_ends_although_leaves_are_added_while_it_runs():
    leaves = Leaves()
    for block in range(3):
        leaves.write(leaves.make(1, block), 0, [1])
    seen = []
    for number in leaves.numbers():
        seen.append(number)
        leaves.write(leaves.make(1, 100 + number), 0, [1])
    assert seen == [1, 2, 3]
