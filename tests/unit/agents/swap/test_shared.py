"""Memory that outlives workers: what one writes the next reads, and what a kill leaves makes sense."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.agents.swap.shared import (
    CONTROL_BYTES,
    TABLE_SLOTS,
    Control,
    Identity,
    Latencies,
    Word,
    bucket_of,
    bucket_top,
    make_file,
)

FIRST = Identity(b"a token of thirty-two bytes -----", 41)


@pytest.fixture
def file():
    descriptor = make_file("test", CONTROL_BYTES)
    yield descriptor
    os.close(descriptor)


def test_one_process_writes_and_another_reads(file):
    writer = Control.make(file, 1000, FIRST)
    writer.words[Word.READS] += 3
    reader = Control(file, readonly=True)
    assert reader.valid
    assert reader.words[Word.PAGES] == 1000
    assert reader.words[Word.READS] == 3
    assert reader.identity == FIRST
    with pytest.raises(TypeError):
        reader.words[Word.READS] = 1
    reader.close()
    writer.close()


def test_something_else_is_no_control_file(file):
    control = Control(file)
    assert not control.valid
    control.close()


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=64), st.integers(0, 2**64 - 1)), min_size=1, max_size=5))
def test_the_last_identity_that_was_remembered_counts(identities):
    descriptor = make_file("test", CONTROL_BYTES)
    control = Control.make(descriptor, 1, FIRST)
    for token, epoch in identities:
        control.remember(Identity(token, epoch))
        assert control.identity == Identity(token, epoch)
    control.close()
    os.close(descriptor)


def test_an_identity_that_was_remembered_in_part_does_not_count(file):
    """The word that says which of two places counts is written last."""
    control = Control.make(file, 1, FIRST)
    choice = control.words[Word.IDENTITY_CHOICE]
    control.remember(Identity(b"another", 42))
    control.words[Word.IDENTITY_CHOICE] = choice  # as if it had been killed just before
    assert control.identity == FIRST
    control.close()


def test_the_oldest_request_in_hand(file):
    control = Control.make(file, 1, FIRST)
    assert control.oldest() == 0
    for slot, (unique, came) in enumerate([(7, 500), (9, 300), (0, 100), (11, 400)]):
        control.table[2 * slot] = unique
        control.table[2 * slot + 1] = came
    assert control.oldest() == 300, "a free place keeps what was there"
    control.table[2 * (TABLE_SLOTS - 1)] = 13
    control.table[2 * (TABLE_SLOTS - 1) + 1] = 200
    assert control.oldest() == 200
    control.close()


@given(st.integers(0, 10**13))
def test_a_latency_lies_in_its_bucket(nanoseconds):
    bucket = bucket_of(nanoseconds)
    assert nanoseconds < bucket_top(bucket) or bucket == bucket_of(10**15)
    if bucket:
        assert nanoseconds >= bucket_top(bucket - 1)


def test_buckets_are_a_fifth_wide_at_most():
    for bucket in range(bucket_of(1000), bucket_of(10**10)):
        assert bucket_top(bucket + 1) / bucket_top(bucket) <= 1.25


def test_quantiles():
    counts = [0] * 160
    for microseconds in range(1, 101):
        counts[bucket_of(microseconds * 1000)] += 1
    found = Latencies(tuple(counts))
    assert found.total == 100
    half, most = found.quantile(0.5), found.quantile(0.99)
    assert half is not None
    assert most is not None
    assert 50e-6 <= half <= 63e-6
    assert 99e-6 <= most <= 125e-6
    assert found.since(found).quantile(0.5) is None
    assert Latencies(()).quantile(0.5) is None
