"""A pool to a file and back: every page, the first and the last, or no pool at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pages import PAGE, mixed_page, random_page, same_filled_page, text_page

import tmem.client
from tmem.client.testing import CaptiveDaemon
from tmem.server.store.journal.entries import Kind, encode_entry
from tmem.wire.limits import MAX_INDEX, MAX_OBJECT

Start = Callable[..., CaptiveDaemon]
PAGES = {
    (0, 0): text_page(1),
    (0, 511): same_filled_page(b"8 bytes!"),
    (7, 5): random_page(5),
    (7, 512): mixed_page(),
    (MAX_OBJECT, MAX_INDEX): text_page(2),
}


def tmem_command(*arguments: object, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tmem.cli", *map(str, arguments), "--json", "--target", target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("TMEM_")},
    )


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def fill(pool: tmem.client.Pool) -> dict[tuple[int, int], bytes]:
    held = dict(PAGES)
    pool.put(9, 0, b"".join(text_page(page) for page in range(512)))
    held |= {(9, page): text_page(page) for page in range(512)}
    for (obj, index), page in PAGES.items():
        pool.put(obj, index, page)
    # A chunk of which only a part lives.
    pool.flush(9, 20, count=3)
    pool.put(9, 40, random_page(40))
    held[9, 40] = random_page(40)
    for number in range(20, 23):
        del held[9, number]
    return held


@pytest.fixture
def exported(start_daemon: Start, tmp_path: Path) -> tuple[Path, dict[tuple[int, int], bytes]]:
    daemon = start_daemon()
    file = tmp_path / "pool.tmem"
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("swap0", quota_bytes=1 << 30, weight=5, chunk_pages=8)
        held = fill(pool)
        report = figures(tmem_command("snapshot", "export", "swap0", file, target=daemon.target))
        assert report["pages"] == len(held)
        assert report["bytes"] == file.stat().st_size
        # The writer was not disturbed.
        assert pool.put(1, 1, text_page(3)).stored
        assert pool.token not in file.read_bytes()
        assert pool.token.hex().encode() not in file.read_bytes()
    return file, held


def test_every_page_comes_back_on_another_server(
    exported: tuple[Path, dict[tuple[int, int], bytes]], start_daemon: Start
) -> None:
    file, held = exported
    daemon = start_daemon()
    report = figures(tmem_command("snapshot", "import", file, target=daemon.target))
    assert (report["pool"], report["pages"], report["damaged_pages"]) == ("swap0", len(held), 0)
    with tmem.client.connect(daemon.target) as client:
        (info,) = client.pools()
        assert (info.quota_bytes, info.weight, info.chunk_pages) == (1 << 30, 5, 8)
        pool = client.open_pool("swap0", token=bytes.fromhex(str(report["token"])))
        page = bytearray(PAGE)
        for (obj, index), expected in held.items():
            assert pool.get_into(obj, index, page).hit
            assert page == expected
        assert pool.get_into(9, 20, page).miss
        assert pool.stat().pages == len(held)
        pool.put(7, 5, text_page(9))  # the new writer's own versions begin above those of the import
        assert pool.get_into(7, 5, page).hit
        assert page == text_page(9)


def test_an_import_takes_another_name_and_refuses_one_that_is_taken(
    exported: tuple[Path, dict[tuple[int, int], bytes]], start_daemon: Start
) -> None:
    file, _ = exported
    daemon = start_daemon()
    assert figures(tmem_command("snapshot", "import", file, "--name", "a", target=daemon.target))["pool"] == "a"
    again = tmem_command("snapshot", "import", file, "--name", "a", target=daemon.target)
    assert (again.returncode, again.stderr.count("\n")) == (3, 1)
    assert "exists already" in again.stderr


@pytest.mark.parametrize("harm", ["cut", "flipped", "no snapshot", "empty", "no end"])
def test_a_file_that_is_not_right_makes_no_pool_and_is_named(
    exported: tuple[Path, dict[tuple[int, int], bytes]], start_daemon: Start, harm: str
) -> None:
    file, _ = exported
    data = bytearray(file.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    elif harm == "flipped":
        data[len(data) // 2] ^= 1
    elif harm == "no end":
        data = data[: -len(b"".join(bytes(piece) for piece in encode_entry(Kind.END, b"")))]
    else:
        data = bytearray(b"" if harm == "empty" else b"something else " * 100)
    file.write_bytes(data)
    daemon = start_daemon()
    done = tmem_command("snapshot", "import", file, target=daemon.target)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(file) in done.stderr
    with tmem.client.connect(daemon.target) as client:
        assert client.pools() == []


def test_an_export_that_fails_leaves_no_file(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon()
    with tmem.client.connect(daemon.target) as client:
        client.create_pool("cache", kind="ephemeral")
        for name, message in (("cache", "ephemeral"), ("nothing", "no pool")):
            done = tmem_command("snapshot", "export", name, tmp_path / "x", target=daemon.target)
            assert (done.returncode, done.stderr.count("\n")) == (3, 1)
            assert message in done.stderr
    done = tmem_command("snapshot", "export", "cache", tmp_path / "absent" / "x", target=daemon.target)
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []
