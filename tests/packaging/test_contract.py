"""The contract as it is released: proto/README.md says what is true, and the .proto files change by addition only."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tmem.v1 import capabilities_pb2, common_pb2, extents_pb2
from tmem.wire import limits
from tmem.wire.answers import AnswerHeader, Chunk, GetAnswer, Pages, PutAnswer, Run, encode_answer
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import TABLE
from tmem.wire.handles import Extent
from tmem.wire.requests import Header, encode_get, encode_put
from tmem.wire.results import Code, Encoding, Reason

PROTO = Path(__file__).parents[2] / "proto"
README = (PROTO / "README.md").read_text("utf-8")


# ---- The worked example ----


def bytes_of(block: str) -> bytes:
    """The bytes of one block of the README, comments taken off."""
    text = re.search(rf"^```hex {block}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert text is not None
    return bytes.fromhex("".join(line.split("#")[0] for line in text[1].splitlines()))


def example() -> dict[str, bytes]:
    """The messages of the README's example, made anew."""
    chunks = EncodedChunks()
    codec = Codec(CopyCounter())
    codec.encode(memoryview(bytes(8192)), 0, 16, chunks)
    codec.encode(memoryview((b"abc" * 1366)[:4096]), 1000 % 512, 16, chunks)
    put = encode_put(Header(9, 1, 1, 41, 40, 5), [Extent(7, 512, 2), Extent(7, 1000, 1)], chunks)
    put_answer = encode_answer(
        PutAnswer(AnswerHeader(9, 41, 5, None, 12, 180), [0, int(Reason.QUOTA)]),
    )
    get = encode_get(Header(10, 1, 1, floor=42, epoch=5, answer_bytes=65536), [Extent(7, 512, 3)])
    pages = Pages(
        codes=[int(Code.HIT), int(Code.HIT), int(Code.MISS)],
        chunks=[Chunk(int(Encoding.SAME_FILLED), 2, bytes(8))],
        runs=[Run(0, 2, 0, 0, 1, 41)],
        crcs=chunks.crcs[:2],
    )
    get_answer = encode_answer(GetAnswer(AnswerHeader(10, 0, 5, None, 13, 95), pages))
    return {"put": put, "put-answer": put_answer, "get": get, "get-answer": get_answer}


@pytest.mark.parametrize("block", ["put", "put-answer", "get", "get-answer"])
def test_the_worked_example_is_what_the_library_writes(block):
    assert bytes_of(block) == example()[block]


@pytest.mark.parametrize(("block", "length"), [("put", 105), ("put-answer", 27), ("get", 37), ("get-answer", 57)])
def test_the_worked_example_states_its_lengths(block, length):
    assert len(bytes_of(block)) == length
    assert f"{length} bytes" in README


def test_the_worked_example_says_what_the_generated_class_reads():
    request = extents_pb2.ExchangeRequest.FromString(bytes_of("put"))
    assert list(request.put.extents.index) == [512, 1000]
    assert list(request.put.chunks.encoded_bytes) == [8, 28]
    assert len(request.body) == 36
    answer = extents_pb2.ExchangeResponse.FromString(bytes_of("put-answer"))
    assert [(detail.first, detail.count, detail.reason) for detail in answer.put.details] == [(1, 1, Reason.QUOTA)]


# ---- Tables ----


def rows(first_cell: str) -> list[list[str]]:
    """The cells of the README's table rows whose first cell matches."""
    found = re.findall(rf"^\| (?:{first_cell}) \|.*$", README, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found]


def test_the_table_of_refusals_is_the_one_that_the_library_acts_on():
    said = {cells[0].strip("`"): cells[1:4] for cells in rows("`[A-Z_]+`") if len(cells) == 5}
    acted = {
        reason.name: [row.code, row.old_page.value, "yes" if row.retryable else "no"] for reason, row in TABLE.items()
    }
    assert said == acted


def test_every_reason_and_result_of_the_contract_is_explained():
    reasons = {name.removeprefix("REFUSAL_REASON_") for name in set(common_pb2.RefusalReason.keys())} - {"UNSPECIFIED"}
    results = {name.removeprefix("RESULT_CODE_") for name in set(common_pb2.ResultCode.keys())} - {"UNSPECIFIED"}
    for name in reasons | results:
        assert f"`{name}`" in README, name


def test_the_limits_of_the_table_are_the_contract_s():
    said = {
        match[1]: cells[1] for cells in rows(r"[^|]*`max_\w+`[^|]*") if (match := re.search(r"`(max_\w+)`", cells[0]))
    }
    assert said == {
        "max_extent_pages": str(limits.BLOCK_PAGES),
        "max_batch_pages": str(limits.MAX_BATCH_PAGES),
        "max_batch_extents": str(limits.MAX_BATCH_EXTENTS),
        "max_chunk_pages": str(limits.MAX_CHUNK_PAGES),
        "max_index": "2^32 - 1",
        "max_message_bytes": f"{limits.MAX_MESSAGE_BYTES} bytes",
        "max_answer_bytes": f"{limits.MAX_ANSWER_BYTES} bytes",
        "max_session_pools": str(limits.MAX_SESSION_POOLS),
        "max_pool_name_chars": str(limits.MAX_POOL_NAME_CHARS),
    }
    assert limits.MAX_INDEX == 2**32 - 1
    fields = set(capabilities_pb2.Limits.DESCRIPTOR.fields_by_name)
    assert set(said) <= fields


# ---- The baseline ----


def buf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "buf"
    return subprocess.run([command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def altered(tmp_path: Path) -> Path:
    """A copy of the .proto files to do harm to."""
    shutil.copytree(PROTO, tmp_path / "proto", ignore=shutil.ignore_patterns("*.py", "*.pyi", "__pycache__"))
    return tmp_path / "proto"


def test_the_contract_is_clean_and_breaks_nothing_released():
    assert buf("lint", cwd=PROTO).stdout == ""
    done = buf("breaking", "--against", "baseline.binpb", cwd=PROTO)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("bytes body = 1000;", "bytes body = 999;"),
        ("uint64 sequence = 4;", "fixed64 sequence = 4;"),
        ("repeated uint32 found = 4;", ""),
        ("PutBatch put = 4;", "PutBatch store = 4;"),
    ],
)
def test_a_change_that_breaks_released_clients_is_found(altered, before, after):
    file = altered / "tmem/v1/extents.proto"
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), "utf-8")
    assert buf("breaking", "--against", "baseline.binpb", cwd=altered).returncode != 0


def test_an_addition_breaks_nothing(altered):
    file = altered / "tmem/v1/extents.proto"
    text = file.read_text("utf-8").replace("uint32 server_us = 6;", "uint32 server_us = 6;\n  uint32 later = 7;", 1)
    file.write_text(text, "utf-8")
    done = buf("breaking", "--against", "baseline.binpb", cwd=altered)
    assert (done.returncode, done.stdout) == (0, "")
