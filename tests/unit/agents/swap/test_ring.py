"""Memory for messages: none is given out twice, and all of it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.agents.swap.protocol import HEADER_BYTES, MAX_REQUEST_BYTES
from tmem.agents.swap.ring import ReplyBuffers, Ring

SIZE = 5 * MAX_REQUEST_BYTES // 2


@given(st.lists(st.tuples(st.integers(17, MAX_REQUEST_BYTES), st.booleans(), st.integers(0, 100)), max_size=60))
def test_what_is_kept_is_not_overwritten(steps):
    ring = Ring(SIZE)
    kept = []
    for number, (size, keeps, chance) in enumerate(steps, 1):
        room = ring.room()
        if room is None:
            assert kept, "empty, and no room"
            view, mark, release = kept.pop(chance % len(kept))
            assert bytes(view) == mark
            release()
            continue
        assert len(room) == MAX_REQUEST_BYTES
        mark = bytes((number % 256,)) * 16
        room[:16] = mark
        room[size - 1 : size] = b"\xff"
        if keeps:
            kept.append((room[:16], mark, ring.keep(size)))
    for view, mark, release in kept:
        assert bytes(view) == mark
        release()
    assert not ring.used
    assert ring.room() is not None


def test_room_comes_back_in_order_whatever_is_let_go_first():
    ring = Ring(2 * MAX_REQUEST_BYTES)
    releases = []
    for _ in range(2):
        assert ring.room() is not None
        releases.append(ring.keep(MAX_REQUEST_BYTES - 64))
    assert ring.room() is None
    releases[1]()
    assert ring.room() is None, "the older one lies at the beginning"
    releases[0]()
    assert ring.room() is not None


def test_a_small_message_takes_little():
    ring = Ring(2 * MAX_REQUEST_BYTES)
    for _ in range(200):
        assert ring.room() is not None
        ring.keep(4096 + 80)


def test_a_ring_that_is_too_small_can_t_be():
    with pytest.raises(AssertionError):
        Ring(MAX_REQUEST_BYTES)


def test_reply_buffers_are_lent_and_given_back():
    buffers = ReplyBuffers(2, 8192)
    first, second = buffers.take(), buffers.take()
    assert first is not None
    assert second is not None
    assert buffers.take() is None
    first.data[:] = b"a" * 8192
    second.data[:] = b"b" * 8192
    message = first.message(100, 50)
    assert len(message) == HEADER_BYTES + 50
    message[:HEADER_BYTES] = bytes(HEADER_BYTES)
    assert bytes(message[HEADER_BYTES:]) == b"a" * 50
    assert bytes(second.data) == b"b" * 8192
    whole = first.message(0, 8192)
    assert bytes(whole[HEADER_BYTES:]).endswith(b"a" * 50)
    buffers.give(first)
    assert buffers.take() is first
