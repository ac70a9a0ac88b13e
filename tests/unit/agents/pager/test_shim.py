"""Building the preload shim."""

import struct
from pathlib import Path
from typing import Any

import pytest

from tmem.agents.pager import shim
from tmem.wire.errors import InvalidOption


def test_the_shim_is_built_once_and_without_a_compiler_the_message_says_what_to_do(
    tmp_path: Path, require_tool: Any
) -> None:
    require_tool("gcc")
    with pytest.raises(InvalidOption, match="install it"):
        shim.build(tmp_path / "one", compiler="no-such-compiler")
    built = shim.build(tmp_path / "one")
    assert built.read_bytes()[:4] == b"\x7fELF"
    before = built.stat().st_mtime_ns
    assert shim.build(tmp_path / "one", compiler="no-such-compiler") == built
    assert built.stat().st_mtime_ns == before
    assert list((tmp_path / "one").iterdir()) == [built]
    with pytest.raises(InvalidOption, match="can't be built"):
        shim.build(tmp_path / "two", compiler="false")


def test_the_shim_and_the_runner_speak_of_the_same_structures() -> None:
    from tmem.agents.pager import paging

    source = shim.SOURCE.read_text("utf-8")
    offer = source[source.index("struct offer {") :]
    fields = offer[offer.index("uint64_t") : offer.index(";")].removeprefix("uint64_t").split(",")
    assert [field.strip() for field in fields] == ["version", "size", "unit", "least", "features", "freed_at"]
    assert paging._OFFER.size == struct.calcsize("=6Q") == 8 * len(fields)
    assert f"VERSION = {paging._VERSION} " in source
