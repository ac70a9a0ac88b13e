from array import array
from collections.abc import Callable
from typing import Any

import pytest

from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import (
    AnswerHeader,
    Chunk,
    EchoAnswer,
    FlushAnswer,
    FlushObjectAnswer,
    GetAnswer,
    Malformed,
    Pages,
    PutAnswer,
    Run,
    decode_answer,
    encode_answer,
    encode_control,
)
from tmem.wire.errors import ProtocolError
from tmem.wire.results import Code, Encoding, Reason

HEADER = AnswerHeader(5, 6, 7, (8 << 20, 100), 250, 33)
LZ4, RAW = int(Encoding.LZ4), int(Encoding.RAW)
HIT, MISS, REFUSED = int(Code.HIT), int(Code.MISS), int(Code.REFUSED)


def round_trip(answer: Any) -> Any:
    data = encode_answer(answer)
    assert pb.ExchangeResponse.FromString(data).SerializeToString() == data
    decoded, slow = decode_answer(data)
    assert not slow
    return decoded


@pytest.mark.parametrize(
    "answer",
    [
        PutAnswer(HEADER),
        PutAnswer(HEADER, [0, int(Reason.QUOTA), int(Reason.QUOTA), 0, int(Reason.STALE)]),
        FlushAnswer(HEADER, [3, 0, 512]),
        FlushAnswer(HEADER, [0, 0], [0, int(Reason.FENCED)]),
        FlushObjectAnswer(HEADER, [1 << 33]),
        FlushObjectAnswer(HEADER, [0], [int(Reason.NO_SUCH_POOL)]),
        EchoAnswer(HEADER, b"payload"),
        Malformed(HEADER, "the chunks do not cover the extents"),
        PutAnswer(AnswerHeader(1)),
    ],
)
def test_small_answers_survive(answer: Any) -> None:
    decoded = round_trip(answer)
    if isinstance(decoded, EchoAnswer):
        decoded.body = bytes(decoded.body)

    assert decoded == answer


def test_all_stored_takes_no_codes() -> None:
    message = pb.ExchangeResponse.FromString(encode_answer(PutAnswer(HEADER, [0] * 512)))

    assert not message.put.codes
    assert not message.put.details


def test_a_run_of_refusals_is_one_detail() -> None:
    message = pb.ExchangeResponse.FromString(encode_answer(PutAnswer(HEADER, [int(Reason.QUOTA)] * 512)))

    assert [(d.first, d.count, d.reason) for d in message.put.details] == [(0, 512, Reason.QUOTA)]


def get_answer(chunks: list[Chunk], runs: list[Run], **pages: Any) -> GetAnswer:
    count = sum(run.pages for run in runs)
    return GetAnswer(HEADER, Pages(chunks=chunks, runs=runs, crcs=array("I", range(count)), **pages))


def chunk(pages: int, size: int = 10, encoding: int = LZ4) -> Chunk:
    return Chunk(encoding, pages, bytes([pages]) * size)


SHAPES = {
    "whole chunks": get_answer([chunk(16)] * 3, [Run(16 * n, 16, n, 0, 2, 9 + n) for n in range(3)]),
    "one page": get_answer([chunk(1)], [Run(0, 1, 0, 0, 1, 1)]),
    "slice": get_answer([chunk(16)], [Run(0, 3, 0, 5, 1, 1)]),
    "two runs of one chunk": get_answer([chunk(16)], [Run(0, 3, 0, 0, 1, 1), Run(3, 2, 0, 9, 1, 1)]),
    "overwritten inside": get_answer(
        [chunk(16), chunk(1)], [Run(0, 5, 0, 0, 1, 1), Run(5, 1, 1, 0, 1, 8), Run(6, 10, 0, 6, 1, 1)]
    ),
    "with gaps": get_answer(
        [chunk(4), chunk(4)],
        [Run(1, 4, 0, 0, 1, 3), Run(6, 4, 1, 0, 1, 4)],
        codes=[MISS, HIT, HIT, HIT, HIT, REFUSED, HIT, HIT, HIT, HIT],
        refused=[(5, 1, int(Reason.IO))],
    ),
    "nothing": GetAnswer(HEADER, Pages([MISS] * 4, crcs=array("I"))),
    "several generations": get_answer([chunk(2), chunk(2)], [Run(0, 2, 0, 0, 1, 3), Run(2, 2, 1, 0, 2, 1)]),
    "raw": get_answer([chunk(2, 8192, RAW)], [Run(0, 2, 0, 0, 1, 3)]),
}


@pytest.mark.parametrize("answer", SHAPES.values(), ids=SHAPES)
def test_get_answers_of_every_shape_survive(answer: GetAnswer) -> None:
    decoded = round_trip(answer)

    assert decoded.header == answer.header
    assert decoded.pages.codes == answer.pages.codes
    assert decoded.pages.refused == answer.pages.refused
    assert decoded.pages.runs == answer.pages.runs
    assert decoded.pages.crcs == answer.pages.crcs
    assert [(c.encoding, c.pages, bytes(c.data)) for c in decoded.pages.chunks] == list(answer.pages.chunks)


def test_whole_extents_take_no_run_columns_but_versions() -> None:
    runs = pb.ExchangeResponse.FromString(encode_answer(SHAPES["whole chunks"])).get.runs

    assert not (runs.position or runs.pages or runs.chunk or runs.offset)
    assert (list(runs.generation), list(runs.sequence)) == ([2], [9, 10, 11])


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ("whole chunks", lambda g: g.chunks.encoded_bytes.append(3)),
        ("whole chunks", lambda g: g.chunks.encoded_bytes.pop()),
        ("whole chunks", lambda g: g.chunks.pages.__setitem__(0, 513)),
        ("whole chunks", lambda g: g.runs.sequence.append(4)),
        ("whole chunks", lambda g: g.page_crc32c.pop()),
        ("whole chunks", lambda g: g.codes.extend([HIT] * 47)),
        ("whole chunks", lambda g: g.codes.extend([MISS] * 48)),
        ("whole chunks", lambda g: g.codes.extend([HIT] * 49)),
        ("whole chunks", lambda g: g.details.add(first=0, count=1, reason=1)),
        ("slice", lambda g: g.runs.offset.__setitem__(0, 14)),
        ("slice", lambda g: g.runs.pages.__setitem__(0, 0)),
        ("overwritten inside", lambda g: g.runs.chunk.__setitem__(0, 7)),
        ("overwritten inside", lambda g: g.runs.position.extend([0, 1, 2])),
        ("overwritten inside", lambda g: g.runs.position.extend([0, 5])),
        ("with gaps", lambda g: g.details.pop()),
        ("with gaps", lambda g: g.details.add(first=9, count=9, reason=1)),
        ("with gaps", lambda g: g.codes.__setitem__(0, HIT)),
        ("with gaps", lambda g: g.codes.__setitem__(1, MISS)),
        ("with gaps", lambda g: g.runs.position.__setitem__(1, 9)),
        ("with gaps", lambda g: g.runs.generation.extend([1, 2, 3])),
    ],
)
def test_a_get_answer_that_contradicts_itself_is_a_protocol_error(
    shape: str, change: Callable[[pb.GetAnswer], object]
) -> None:
    message = pb.ExchangeResponse.FromString(encode_answer(SHAPES[shape]))
    change(message.get)

    with pytest.raises(ProtocolError, match="contradicts itself"):
        decode_answer(message.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.details.pop(),
        lambda p: p.codes.__setitem__(1, int(Code.STORED)),
        lambda p: p.codes.__setitem__(0, int(Code.HIT)),
        lambda p: p.details.add(first=5, count=1, reason=1),
        lambda p: p.details.add(first=0, count=1, reason=0),
    ],
)
def test_a_put_answer_that_contradicts_itself_is_a_protocol_error(change: Callable[[pb.PutAnswer], object]) -> None:
    message = pb.ExchangeResponse.FromString(encode_answer(PutAnswer(HEADER, [0, int(Reason.QUOTA)])))
    change(message.put)

    with pytest.raises(ProtocolError, match="contradicts itself"):
        decode_answer(message.SerializeToString())


@pytest.mark.parametrize(
    "message",
    [pb.Opened(protocol_version=1), pb.Attached(attach_id=2), pb.HeartbeatAnswer(heartbeat_id=3), pb.Drain(grace_ms=4)],
)
def test_control_messages_survive(message: Any) -> None:
    assert decode_answer(encode_control(message)) == (message, False)


@pytest.mark.parametrize("data", [b"", b"\xff\xff", pb.ExchangeResponse(body=b"x").SerializeToString()])
def test_a_response_of_no_kind_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(data)
