"""The pure parts of `tmem bench peers`: pages, units, the clock of a worker, sizes, what a page may hold."""

import itertools
import os
import random
from pathlib import Path

import pytest
from tests.pages import random_page

from tmem.cli.bench_common.plots import embedded
from tmem.cli.bench_peers import plots
from tmem.cli.bench_peers.cgroups import NoController, controller_root
from tmem.cli.bench_peers.data import RATIOS, DataSet, _without_same_filled, generate, lz4_ratio, mixed
from tmem.cli.bench_peers.fairness import FAIRNESS
from tmem.cli.bench_peers.rig import Series, Sizes, _letters
from tmem.cli.bench_peers.stores import Store
from tmem.cli.bench_peers.together import Load, p99s
from tmem.cli.bench_peers.units import CHECKSUM_BYTES, pack, unpack
from tmem.cli.bench_peers.worker import Driver, _Clock

PAGE = 4096
BLOCK = 512 * PAGE


# ---- Pages ----


@pytest.mark.parametrize("ratio", RATIOS)
def test_generated_pages_have_the_ratio_that_they_state_and_do_not_help_each_other(ratio):
    data = generate(ratio, 1 << 20)
    assert data.pages == 256
    assert lz4_ratio(data.plain) == pytest.approx(ratio, rel=0.02)
    assert lz4_ratio(data.plain, 16 * PAGE) == pytest.approx(ratio, rel=0.03)
    assert len({bytes(data.plain[at : at + PAGE]) for at in range(0, len(data.plain), PAGE)}) == 256


def test_what_does_not_shrink_counts_as_it_is():
    assert lz4_ratio(memoryview(random.Random(1).randbytes(8 * PAGE))) == 1


def test_pages_that_repeat_a_word_are_left_out_and_counted():
    word = b"12345678" * 512
    pages = [random_page(number) for number in range(512)]
    almost = word[:-1] + b"9"
    memory = memoryview(b"".join([bytes(PAGE), *pages[:100], word, *pages[100:511], word, almost]))
    kept, share = _without_same_filled(memory, 2 * BLOCK)
    assert bytes(kept) == b"".join([*pages[:511], almost])
    assert share == pytest.approx(3 / 515)


def test_nothing_but_such_pages_is_an_error():
    with pytest.raises(ChildProcessError, match="same-filled"):
        _without_same_filled(memoryview(bytes(BLOCK)), BLOCK)


def test_the_mix_has_a_block_of_each_set_in_turn_as_far_as_they_go():
    sets = [
        DataSet(name, "", True, memoryview(bytes([mark]) * (count * BLOCK)))
        for name, mark, count in (("a", 1, 3), ("b", 2, 1), ("c", 3, 2))
    ]
    mix = mixed(sets, 6 * BLOCK)
    assert [mix[at] for at in range(0, len(mix), BLOCK)] == [1, 2, 3, 1, 3]


# ---- Units ----


@pytest.mark.parametrize("pages", [1, 16])
@pytest.mark.parametrize("shrinks", [True, False])
def test_a_unit_comes_back_and_one_changed_bit_is_seen(pages, shrinks):
    chance = random.Random(pages)
    plain = b"".join(chance.randbytes(PAGE // 2) * 2 if shrinks else chance.randbytes(PAGE) for _ in range(pages))
    value = pack(memoryview(plain))
    assert len(value) == len(plain) + pages * CHECKSUM_BYTES or shrinks
    assert len(value) < 0.6 * len(plain) or not shrinks
    into = memoryview(bytearray(pages * PAGE))
    assert unpack(value, into)
    assert into == plain
    seen = 0
    for position in range(0, len(value), max(1, len(value) // 50)):
        changed = bytearray(value)
        changed[position] ^= 1
        good = unpack(bytes(changed), into)
        assert not good or into == plain
        seen += not good
    assert seen > 25


def test_a_value_of_another_length_is_no_page():
    value = pack(memoryview(os.urandom(PAGE // 2) * 2))
    into = memoryview(bytearray(PAGE))
    for wrong in (value[:-5], value[:2], b"", value + b"more", bytes(PAGE)):
        assert not unpack(wrong, into)


# ---- The worker's clock ----


def test_places_go_round_and_all_are_handed_out_before_the_time_counts():
    clock = _Clock(first=1024, count=2048, batch=512, seconds=0, pages=2048)
    clock.start()
    assert list(clock.places()) == [1024, 1536, 0, 512]
    assert (clock.pages, clock.next) == (2048, 1024)
    assert sorted(clock.touched(512)) == [0, 512, 1024, 1536]
    assert len(clock.latencies(ended=float("inf"))) == 4


def test_at_least_one_place_is_handed_out_and_it_begins_where_a_batch_does():
    clock = _Clock(first=700, count=2048, batch=512, seconds=0, pages=0)
    clock.start()
    assert list(clock.places()) == [512]
    assert list(clock.touched(512)) == [512]


def test_going_round_more_than_once_touches_each_place_once():
    clock = _Clock(first=0, count=32, batch=16, seconds=0, pages=160)
    clock.start()
    assert len(list(clock.places())) == 10
    assert sorted(clock.touched(16)) == [0, 16]


# ---- Sizes ----


def test_shrunk_sizes_are_smaller_and_can_still_be_measured():
    full, quick = Sizes(), Sizes.quick()
    shrunk = quick.shrunk(1000)
    assert full.shrunk(1) is full
    assert full.shrunk(2).rounds == full.rounds // 2
    for sizes in (full, quick, shrunk):
        assert 512 in sizes.sweep
        assert sizes.connected > max(sizes.clients) > min(sizes.clients) == 1
        assert all(value for value in sizes.json().values())
    assert shrunk.speed <= quick.speed < full.speed


def test_prefixes_of_keys_are_letters_and_differ():
    prefixes = [_letters(number) for number in range(3000)]
    assert all(prefix.isalpha() and len(prefix) <= 2 for prefix in prefixes[: 52 + 52 * 52])
    assert len(set(prefixes)) == len(prefixes)
    # None may be the beginning of another's key: a letter for the unit and hexadecimal digits follow.
    keys = {f"{prefix}{form}{number:x}" for prefix in prefixes[:200] for form in "pu" for number in (0, 10, 255)}
    assert len(keys) == 200 * 2 * 3


# ---- Several at once ----


def test_the_rate_of_all_is_over_the_time_from_the_first_to_the_last():
    load = Load(
        [
            {"begun": 1.0, "ended": 3.0, "pages": 100, "latencies_us": [1.0, 2.0]},
            {"begun": 2.0, "ended": 5.0, "pages": 300, "latencies_us": [3.0]},
        ]
    )
    assert load.rate == 100
    assert load.least_share == 0.5
    assert p99s([load, load]) == [2.0, 3.0]


# ---- Control groups ----


def test_the_controller_is_found_by_either_version(tmp_path: Path):
    v1 = "tmpfs /sys tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n"
    assert controller_root(v1) == (Path("/sys/fs/cgroup/cpu,cpuacct"), 1)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory\n", "ascii")
    v2 = f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
    assert controller_root(v2) == (tmp_path, 2)
    assert controller_root(v2 + v1)[1] == 1, "a controller belongs to one version only"
    (tmp_path / "cgroup.controllers").write_text("cpuset io memory\n", "ascii")
    for mounts in (v2, "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n", ""):
        with pytest.raises(NoController):
            controller_root(mounts)


# ---- The page ----


def test_an_embedded_plot_names_nothing_outside_and_keeps_what_it_refers_to():
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://www.w3.org/x.dtd">\n'
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg" version="1.1">'
        '<metadata><a b="http://creativecommons.org"/>\n</metadata><defs><path id="m"/></defs><use xlink:href="#m" x="1"/></svg>\n'
    )
    assert embedded(svg) == (
        '<svg viewBox="0 0 1 1" version="1.1"><defs><path id="m"/></defs><use href="#m" x="1"/></svg>'
    )


def test_every_series_has_its_plot_and_none_has_none():
    assert plots.draw(Series()) == []
    lines = {
        f"{name} {number}": {1: 10.0, 512: 2000.0} for name, number in itertools.product(("tmem", "other"), range(9))
    }
    series = Series(
        latencies={"tmem": [100.0, 200.0, 150.0], "Redis <b>": [90.0]},
        sweep={"put": lines, "get": lines},
        clients={"get": lines},
        density={"heap & more": {"a": 1000.0, "b": 900.0}},
        cost={"put": {"memcpy": 0.1, "tmem": 5.0}},
    )
    found = plots.draw(series)
    assert len(found) == 6
    for title, svg in found:
        assert title
        assert svg.startswith("<svg")
        assert "http" not in svg
    assert "Redis &lt;b&gt;" in found[0][1]
    assert plots.draw(series) == found, "the same series has the same plots"


def test_fairness_is_said_in_whole_sentences():
    assert len(FAIRNESS) >= 6
    assert all(text.endswith(".") for text in FAIRNESS.values())


# ---- What is wrong is seen ----


class Memory(Store):
    """Pages by number, as every store is to give them back; or one that does not."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.pages: dict[int, bytes] = {}

    def put(self, batches, unit):
        for first, view in batches:
            for page in range(len(view) // PAGE):
                if self.fault != "stale" or first + page != 5 or not self.pages.get(5):
                    self.pages[first + page] = bytes(view[page * PAGE : (page + 1) * PAGE])

    def get(self, batches, unit):
        for first, view in batches:
            for page in range(len(view) // PAGE):
                if (self.fault, first + page) != ("untouched", 5):
                    other = first + page + ((self.fault, first + page) == ("swapped", 5))
                    view[page * PAGE : (page + 1) * PAGE] = self.pages[other]

    def get_page(self, page, into):
        if self.fault != "untouched":
            into[:] = self.pages[page ^ (self.fault == "swapped")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    file = tmp_path_factory.mktemp("driver") / "pages"
    file.write_bytes(b"".join(random_page(number) for number in range(1024)))
    return Driver({"store": "copy"}, str(file))


@pytest.mark.parametrize(("fault", "bad"), [("", 0), ("stale", 1), ("swapped", 1), ("untouched", 1)])
def test_a_page_that_is_another_or_an_old_one_is_counted(driver, fault, bad):
    # As it was made: "copy" is a limit, and what a limit brings is not compared.
    driver._settings = {"store": "memory"}
    driver.store = Memory(fault)
    for _ in range(2):
        assert driver.put(512, 16, pages=1024)["bad"] == 0
    assert driver.get(512, 16, pages=1024)["bad"] == bad
    assert driver.get(16, 16, pages=1024)["bad"] == bad


@pytest.mark.parametrize(("fault", "bad"), [("", 0), ("swapped", 20), ("untouched", 20)])
def test_lone_pages_are_compared_as_well(driver, fault, bad):
    driver._settings = {"store": "memory"}
    driver.store = Memory(fault)
    driver.put(512, 1, pages=1024)
    answer = driver.lone(12)
    assert (len(answer["us"]), answer["bad"]) == (12, bad)  # those that warm up count too
