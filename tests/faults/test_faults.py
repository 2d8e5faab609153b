"""Everything that we know to go wrong ends as docs/faults.md says; see `tests.faults.page` for how that is written."""

from pathlib import Path

import pytest

from tests.faults.fault import Fault
from tests.faults.page import PAGE, page, row, rows
from tests.faults.prepare import train
from tests.faults.table import AREAS

COMMON = ("Names on the command line",)  # the others are for `make test-faults`
CASES = [
    pytest.param(area, fault, id=f"{area}: {fault.wrong}", marks=() if area in COMMON else pytest.mark.slow)
    for area, faults in AREAS.items()
    for fault in faults
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run; read, never changed."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.mark.process
@pytest.mark.parametrize(("area", "fault"), CASES)
def test_a_fault_is_answered_as_the_page_says(area: str, fault: Fault, tmp_path: Path, trained: Path):
    answer = row(fault, fault.answer(tmp_path, trained))
    assert answer in rows(PAGE.read_text())[area], f"make faults writes the page anew; now the row is\n{answer}"


def test_the_page_is_the_table_s():
    listed = rows(PAGE.read_text())
    assert page(listed) == PAGE.read_text()
    assert {area: [line.split(" | ")[0].removeprefix("| ") for line in lines] for area, lines in listed.items()} == {
        area: [fault.wrong for fault in faults] for area, faults in AREAS.items()
    }


def test_faults_have_names_of_their_own():
    for area, faults in AREAS.items():
        names = [fault.wrong for fault in faults]
        assert len(set(names)) == len(names), area
    assert sum(map(len, AREAS.values())) >= 60
