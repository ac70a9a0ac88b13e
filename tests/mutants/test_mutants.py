"""The mutants fit the source, and the check tells found from missed; `make mutants` examines all of them."""

from pathlib import Path

import pytest
from tests.mutants import check
from tests.mutants.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_source(mutant: Mutant) -> None:
    text = (check.ROOT / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    for test in mutant.tests:
        assert (check.ROOT / test.partition("::")[0]).exists()


def test_there_are_enough_and_none_is_there_twice() -> None:
    assert len(MUTANTS) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_one_is_planted_and_found() -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == "the presence map forgets checksums of what is stored"]
    verdict, why = check.examine(mutant)
    assert verdict == "found", why
    assert "test_session" in why


def test_one_that_its_tests_do_not_find_is_told() -> None:
    harmless = Mutant("harmless", "proto/tmem/wire/copies.py", '"""', '""" ', ("tests/unit/wire/test_handles.py",))
    text = (check.ROOT / harmless.file).read_text("utf-8")
    harmless = Mutant("harmless", harmless.file, text, text + "\n", harmless.tests)
    assert check.examine(harmless) == ("missed", "its tests pass")


def test_one_that_does_not_fit_is_told(tmp_path: Path) -> None:
    verdict, why = check.examine(Mutant("gone", "proto/tmem/wire/copies.py", "no such text", "", ()))
    assert verdict == "broken"
    assert "bring the mutant up to date" in why
