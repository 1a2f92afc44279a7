"""Seven seconds of :mod:`tests.fuzz`; ``make fuzz`` tries fifty thousand inputs."""

import pytest

from tests.fuzz import TARGETS, fuzz


@pytest.mark.slow
def test_only_errors_of_ours_come_of_damaged_and_hostile_files() -> None:
    ends, findings = fuzz(1_000_000, seconds=7, jobs=1)
    assert not findings
    met = {name.split()[0] for name in ends}
    assert met == set(TARGETS), "every target was tried"
    assert {name.split()[1] for name in ends} == {"read", "refused"}
