"""Every fault of the campaign, in its short form: `make faults` has the long one."""

import pytest
from tests.conftest import skip_or_fail
from tests.faults.faults import FAULTS, CanNotRun, Run
from tests.faults.load import Void


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    run = Run(seed=1, short=True)
    try:
        FAULTS[name](run)
    except Void as void:
        pytest.skip(str(void))  # nothing was shown on this machine now; the campaign says so too
    except CanNotRun as cannot:
        skip_or_fail(str(cannot))
    assert run.pages > 500
