"""Every package that comes with foldserve is on the page of licences, with one."""

import licences
import pytest
from packaging.requirements import Requirement

LISTED = {
    cells[1].strip(): cells[2].strip()
    for line in licences.PAGE.read_text().splitlines()
    if len(cells := line.split("|")) == 4
}


@pytest.mark.parametrize("folder", licences.DISTRIBUTIONS)
def test_everything_needed_at_run_time_is_listed(folder: str) -> None:
    for requirements in licences.direct(folder).values():
        missing = licences.needed(requirements) - LISTED.keys()
        assert not missing, f"run 'make licences': {sorted(missing)}"


def test_each_has_a_licence() -> None:
    assert [name for name, told in LISTED.items() if not told] == []
    assert LISTED["numpy"].startswith("BSD-3-Clause")
    assert LISTED["grpcio"] == "Apache-2.0"


def test_what_is_not_there_is_found_missing() -> None:
    assert licences.needed([Requirement("no-such-package>=1")]) - LISTED.keys() == {"no-such-package"}
