import pytest

from tmem.v1 import common_pb2, pools_pb2
from tmem.wire import results


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (results.Code, common_pb2.ResultCode, "RESULT_CODE_"),
        (results.Reason, common_pb2.RefusalReason, "REFUSAL_REASON_"),
        (results.Encoding, common_pb2.Encoding, "ENCODING_"),
        (results.PoolKind, common_pb2.PoolKind, "POOL_KIND_"),
        (results.Durability, common_pb2.Durability, "DURABILITY_"),
    ],
)
def test_names_and_numbers_are_the_contracts(ours: type, theirs: object, prefix: str) -> None:
    assert {prefix + member.name: int(member) for member in ours} == dict(theirs.items())  # type: ignore[attr-defined]


def test_flags_are_the_contracts() -> None:
    flags = {f"POOL_FLAG_{flag.name}": int(flag) for flag in results.PoolFlag}

    assert flags == {name: value for name, value in pools_pb2.PoolFlag.items() if value}
