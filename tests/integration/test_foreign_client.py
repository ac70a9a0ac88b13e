"""A client in JavaScript, made from the .proto files alone, on the real daemon: the contract stands without our own code.

The program prints what it did and saw; what should have been is said here, and held against the Python client and the
daemon's metrics.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import skip_or_fail
from tests.pages import PAGE, extent, random_page, same_filled_page

import tmem.client
from tmem.client.testing import CaptiveDaemon
from tmem.wire.handles import join_object

# The first run fetches packages.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("foreign")
INSTALL_SECONDS = 150
RUN_SECONDS = 60
# npm's own are 10 s and more: whoever has no network would wait for a minute.
QUICK_RETRIES = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
# What npm says when nobody is there to fetch from.
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT")

# Mixed pages; then chunks that do not shrink; then pages of one word.
RANDOM, SAME = 448, 480
BLOCK = bytes(extent(0, RANDOM)) + b"".join(map(random_page, range(1000, 1032))) + same_filled_page(b"JSandPy!") * 32
SAMPLES = [RANDOM, SAME, 0]
ENCODINGS = ["ENCODING_RAW", "ENCODING_SAME_FILLED", "ENCODING_LZ4"]

HIT, MISS, STORED, FLUSHED, REFUSED = (
    f"RESULT_CODE_{name}" for name in ("HIT", "MISS", "STORED", "FLUSHED", "REFUSED")
)
NO_REASON = "REFUSAL_REASON_UNSPECIFIED"
POOL = "foreign"

Report = dict[str, Any]
Run = Callable[..., Report]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sha256(*pages: int) -> str:
    """Of some pages of the block."""
    return hashlib.sha256(b"".join(BLOCK[page * PAGE : (page + 1) * PAGE] for page in pages)).hexdigest()


def words(obj: dict[str, str]) -> int:
    return join_object(int(obj["low"]), int(obj["mid"]), int(obj["high"]))


def scrape(daemon: CaptiveDaemon) -> Samples:
    with urllib.request.urlopen(daemon.metrics_url, timeout=RUN_SECONDS) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def packages(require_tool: Callable[[str], str]) -> Path:
    """What the program needs, installed once for each lock file, so that later runs need no network."""
    npm = require_tool("npm")
    key = hashlib.sha256((PROGRAM / "package-lock.json").read_bytes()).hexdigest()[:16]
    home = ROOT / ".cache" / "foreign" / key
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place and moved there when it is whole: an install that was cut short is not taken for one.
        partial = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=home.parent))
        try:
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(PROGRAM / name, partial)
            install(npm, partial)
            partial.rename(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return home / "node_modules"


def install(npm: str, directory: Path) -> None:
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *QUICK_RETRIES],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode and any(word in done.stderr for word in NO_NETWORK):
        skip_or_fail(f"npm can't fetch packages: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def block_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The block's plain pages."""
    path = tmp_path_factory.mktemp("foreign") / "block"
    path.write_bytes(BLOCK)
    return path


@pytest.fixture(scope="module")
def run(packages: Path, block_file: Path, require_tool: Callable[[str], str]) -> Run:
    """Runs a scenario of the program; answers its report."""
    node = require_tool("node")

    def run(scenario: str, daemon: CaptiveDaemon, **options: Any) -> Report:
        common = {"target": daemon.target, "proto": str(ROOT / "proto"), "pages": str(block_file)}
        done = subprocess.run(
            [node, str(PROGRAM / "client.js"), scenario, json.dumps(common | options)],
            env=os.environ | {"NODE_PATH": str(packages)},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{done.stderr}\n{daemon.log()}"
        report: Report = json.loads(done.stdout)
        return report

    return run


@pytest.fixture(scope="module")
def tmemd() -> Iterator[CaptiveDaemon]:
    """A daemon for the program alone, so that its metrics are about nothing else."""
    with CaptiveDaemon() as captive:
        yield captive


@pytest.fixture(scope="module")
def stored(run: Run, tmemd: CaptiveDaemon) -> tuple[Report, Samples]:
    """The long scenario, and the metrics before anybody else came."""
    report = run("store", tmemd, samples=SAMPLES, name=POOL)
    return report, scrape(tmemd)


@pytest.fixture(scope="module")
def report(stored: tuple[Report, Samples]) -> Report:
    return stored[0]


def test_the_server_says_what_it_can_do(report: Report) -> None:
    said = report["capabilities"]
    limits = said["limits"]

    assert (said["protocolVersionLow"], said["protocolVersionHigh"]) == (1, 1)
    assert said["pageSizes"] == [PAGE]
    assert sorted(said["encodings"]) == sorted(ENCODINGS)
    assert limits["maxExtentPages"] == limits["maxBatchPages"] == 512
    assert limits["maxChunkPages"] == limits["defaultChunkPages"] == 16
    assert limits["maxIndex"] == str(2**32 - 1)
    assert limits["objectIdBits"] == 192
    assert 512 * PAGE < int(limits["maxAnswerBytes"]) < int(limits["maxMessageBytes"]) <= int(limits["maxWindowBytes"])
    assert 0 < limits["heartbeatIntervalMs"] < limits["sessionTimeoutMs"]


def test_a_repeated_request_makes_no_second_pool(report: Report) -> None:
    assert report["created"]["pool"]["name"] == POOL
    assert report["created"]["pool"]["chunkPages"] == 16
    assert report["repeated"] == report["created"]
    assert report["token"] == report["chosenToken"]


class TestUnaryCalls:
    def test_pages_of_each_encoding_come_back(self, report: Report) -> None:
        puts, gets = report["unary"]["puts"], report["unary"]["gets"]

        assert [put["encoding"] for put in puts] == ENCODINGS
        assert [(put["code"], put["reason"]) for put in puts] == [(STORED, NO_REASON)] * 3
        assert [(got["code"], got["sha256"]) for got in gets] == [(HIT, sha256(page)) for page in SAMPLES]
        assert [got["encoding"] for got in gets] == ENCODINGS
        assert [got["generation"] for got in gets] == [report["created"]["generation"]] * 3
        assert [got["sequence"] for got in gets] == [put["sequence"] for put in puts]

    @pytest.mark.parametrize("what", ["absent", "flushed", "objectFlushed"])
    def test_what_is_not_held_is_a_miss(self, report: Report, what: str) -> None:
        assert report["unary"][what] == {"code": MISS, "reason": NO_REASON, "bytes": 0}

    def test_flushes_tell_what_they_removed(self, report: Report) -> None:
        unary = report["unary"]
        flushes = [unary["flush"], unary["flushAgain"], unary["flushObject"]]

        assert [flush["code"] for flush in flushes] == [FLUSHED] * 3
        assert [unary["flush"]["found"], unary["flushAgain"]["found"]] == [1, 0]
        assert unary["flushObject"]["found"] == "2"


class TestExchange:
    def test_the_session_is_granted(self, report: Report) -> None:
        opened, pool = report["opened"], report["created"]["pool"]

        assert opened["protocolVersion"] == 1
        assert opened["window"] == {"maxBytes": str(8 << 20), "maxBatches": 64}
        assert report["sameInstance"] is True
        assert opened["pools"] == [
            {
                "reason": NO_REASON,
                "poolId": pool["poolId"],
                "generation": report["created"]["generation"],
                "epoch": pool["epoch"],
                "incomplete": False,
                "frozen": False,
                "chunkPages": 16,
            }
        ]

    def test_a_block_goes_in_and_comes_back_whole(self, report: Report) -> None:
        put, got = report["block"]["put"], report["block"]["get"]

        assert (put["codes"], put["details"]) == ([], [])
        assert len(put["chunks"]["encodedBytes"]) == 32
        assert set(put["chunks"]["encoding"]) == set(ENCODINGS)
        assert (got["codes"], got["hits"], got["sha256"]) == ([], 512, sha256(*range(512)))
        assert got["bodyBytes"] == put["bodyBytes"] < len(BLOCK)
        assert [chunk["bytes"] for chunk in got["chunks"]] == put["chunks"]["encodedBytes"]
        assert [chunk["encoding"] for chunk in got["chunks"]] == put["chunks"]["encoding"]
        assert {"position", "pages", "chunk", "offset"} <= set(got["absent"])
        assert {run["sequence"] for run in got["runs"]} == {report["block"]["sequence"]}
        assert {run["generation"] for run in got["runs"]} == {report["created"]["generation"]}

    def test_a_page_comes_in_its_whole_chunk(self, report: Report) -> None:
        got = report["block"]["page"]

        assert (got["hits"], got["sha256"]) == (1, sha256(100))
        assert [chunk["pages"] for chunk in got["chunks"]] == [16]
        assert [(run["pages"], run["offset"]) for run in got["runs"]] == [(1, 100 % 16)]

    def test_a_page_comes_alone_where_its_chunk_has_no_room(self, report: Report) -> None:
        got = report["block"]["expanded"]

        assert (got["hits"], got["sha256"]) == (1, sha256(450))
        assert got["chunks"] == [{"encoding": "ENCODING_RAW", "pages": 1, "bytes": PAGE}]

    def test_a_conditional_flush_asks_for_the_version(self, report: Report) -> None:
        block = report["block"]

        assert block["flushOther"]["found"] == [0]
        assert block["flush"]["found"] == [512]
        assert block["flush"]["codes"] == []
        assert block["flushed"]["codes"] == [MISS] * 512
        assert block["flushed"]["bodyBytes"] == block["flushed"]["hits"] == 0

    def test_columns_tell_extents_and_gaps_apart(self, report: Report) -> None:
        extents = report["extents"]
        got = extents["get"]

        assert (extents["put"]["codes"], extents["put"]["details"]) == ([], [])
        assert extents["put"]["chunks"]["pages"] == [1, 16, 4]
        assert got["codes"] == [HIT] + [MISS] * 4 + [HIT] * 17
        assert got["sha256"] == sha256(0, *range(3, 20))
        # Pages 492..508 of extents of 490..505 and 506..509.
        runs = [(run["position"], run["pages"], run["offset"]) for run in got["runs"]]
        assert runs == [(0, 1, 0), (5, 14, 2), (19, 3, 0)]
        assert extents["flushObject"]["found"] == ["1", "0", "20"]
        assert extents["flushObject"]["codes"] == []

    def test_a_batch_that_contradicts_itself_harms_nothing(self, report: Report) -> None:
        stray = report["stray"]

        assert stray["malformed"]["kind"] == "malformed"
        assert "cover" in stray["malformed"]["message"]
        assert stray["afterwards"]["codes"] == [MISS] * 16

    def test_a_refusal_says_why(self, report: Report) -> None:
        unknown = report["stray"]["unknownPool"]

        assert unknown["codes"] == [REFUSED]
        assert unknown["details"] == [{"first": 0, "count": 1, "reason": "REFUSAL_REASON_NO_SUCH_POOL"}]

    def test_heartbeats_and_echoes_are_answered(self, report: Report) -> None:
        heartbeat = report["heartbeat"]

        assert heartbeat["heartbeatId"] == str(2**53 + 1)
        assert heartbeat["window"] == report["opened"]["window"]
        assert report["echo"] == {"same": "nothing but the way there and back", "zeros": 100000, "allZero": True}

    def test_many_batches_are_in_flight_and_take_effect_in_order(self, report: Report) -> None:
        many = report["inFlight"]

        assert many["inFlight"] == report["peak"]["batches"] == 9
        assert many["gets"] == [sha256(SAMPLES[0]), sha256(SAMPLES[2])]
        assert many["flush"]["found"] == [1, 1]
        assert many["flushed"] == [MISS] * 2
        assert many["echoes"] == ["first", "second"]

    def test_the_end_of_one_side_ends_the_other_well(self, report: Report) -> None:
        assert report["end"] == 0
        assert report["unanswered"] == 0


def test_an_echo_overtakes_a_slow_put(run: Run, start_daemon: Callable[..., CaptiveDaemon]) -> None:
    slow = start_daemon("--layer", "delayed:seconds=1")
    said = run("overtake", slow, name=POOL)

    assert said["arrived"] == ["opened", "echo", "put"]
    assert (said["codes"], said["echo"], said["end"]) == ([], "overtaking", 0)
    assert said["window"]["maxBytes"] >= 4 << 20


def test_the_server_counted_the_same(stored: tuple[Report, Samples]) -> None:
    report, samples = stored
    label = report["created"]["pool"]["owner"] + "/" + POOL

    def count(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    def total(name: str) -> float:
        return sum(value for (sample, _), value in samples.items() if sample == name)

    # Unary, block, extents, in flight, kept page, kept extent.
    assert count("tmem_put_pages_total", pool=label, result="stored", reason="") == 3 + 512 + 21 + 3 + 1 + 512
    assert count("tmem_put_pages_total", pool="none", result="refused", reason="no_such_pool") == 16
    assert count("tmem_flush_pages_total", pool=label, result="found", reason="") == 1 + 512 + 2
    assert count("tmem_flush_object_pages_total", pool=label) == 2 + 21
    assert count("tmem_extents_total", pool=label, shape="whole") == 2
    assert count("tmem_expanded_pages_total", pool=label) == 1
    assert count("tmem_pages", pool=label) == 513
    assert total("tmem_exchange_batches_total") == report["batches"]
    assert count("tmem_malformed_messages_total", where="batch") == total("tmem_malformed_messages_total") == 1
    assert count("tmem_rpc_requests_total", method="ExtentsService/Exchange", code="OK") == 1
    assert count("tmem_sessions") == count("tmem_streams") == total("tmem_streams_cut_total") == 0
    # A stock library writes the body last, so nobody's payload is copied on the way in.
    assert count("tmem_slow_decodes_total") == 0


def test_python_reads_what_javascript_stored(report: Report, tmemd: CaptiveDaemon) -> None:
    obj = words(report["kept"]["object"])
    page, whole = bytearray(PAGE), bytearray(len(BLOCK))

    assert (report["keptPage"]["code"], report["keptExtent"]["codes"]) == (STORED, [])
    with tmem.client.connect(tmemd.target) as client:
        pool = client.open_pool(POOL, bytes.fromhex(report["token"]))

        assert pool.get_into(obj, int(report["kept"]["page"]), page).hit
        assert pool.get_into(obj, report["kept"]["extent"], whole).hit
        assert pool.get_page_sync(obj, report["kept"]["extent"] + 511, page_again := bytearray(PAGE)).hit

    assert page == BLOCK[:PAGE]
    assert whole == BLOCK
    assert page_again == BLOCK[-PAGE:]


def test_javascript_reads_what_python_stored(run: Run, start_daemon: Callable[..., CaptiveDaemon]) -> None:
    daemon = start_daemon()
    obj = {"low": str(2**64 - 2), "mid": str(2**63 + 1), "high": str(2**53 + 1)}
    index = 2**32 - 512
    singles = [0, 100, RANDOM + 2, SAME + 5, 511]
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool(POOL)
        assert pool.put(words(obj), index, BLOCK).stored
        token = pool.token
        first = pool.stat()

    said = run("read", daemon, name=POOL, token=token.hex(), object=obj, index=index, pages=512, singles=singles)

    assert first.pages == 512
    assert int(said["generation"]) == 2
    assert [(got["code"], got["sha256"]) for got in said["unary"]] == [(HIT, sha256(page)) for page in singles]
    assert (said["stream"]["codes"], said["stream"]["hits"]) == ([], 512)
    assert said["stream"]["sha256"] == sha256(*range(512))
    assert ("ENCODING_LZ4", 16) in {(chunk["encoding"], chunk["pages"]) for chunk in said["stream"]["chunks"]}
    assert said["end"] == 0
    # The pages in chunks of several that do not repeat one word were expanded for the unary calls.
    samples = scrape(daemon)
    assert samples["tmem_expanded_pages_total", frozenset({("pool", f"local/{POOL}")})] == 3
