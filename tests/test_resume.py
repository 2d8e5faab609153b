"""A run that dies between two steps and is resumed ends bit for bit where the uninterrupted run ends. All methods."""

import csv
import signal
from pathlib import Path

import pytest

from tests.support.methods import all_methods
from tests.support.ranks import in_process, on_ranks
from tests.support.training import STEPS, assert_same, fit


def rows(folder: Path, version: str) -> dict[str, dict[str, str]]:
    """Logged values by step."""
    with (folder / version / "metrics.csv").open() as file:
        merged: dict[str, dict[str, str]] = {}
        for row in csv.DictReader(file):
            merged.setdefault(row["step"], {}).update({name: value for name, value in row.items() if value})
    return merged


@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
def test_killed_in_the_middle_of_an_epoch_and_resumed(method, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = in_process(fit, 0, method.__name__, str(whole))
    step = STEPS + 3  # in the second epoch; the newest checkpoint is of step 6, itself in the middle of an epoch
    assert in_process(fit, 0, method.__name__, str(broken), kill_at=step) == -signal.SIGKILL
    actual = in_process(fit, 0, method.__name__, str(broken), resume=True)

    assert len(actual["losses"]) == 2 * STEPS - 6
    assert actual["losses"] == expected["losses"][6:]
    assert actual["draws"] == expected["draws"][6:]  # masks and dropout would be the same
    assert len(set(expected["draws"])) == 2 * STEPS
    assert_same(actual["state"], expected["state"])
    logged, reference = rows(broken, "resumed"), rows(whole, "logs")
    assert logged  # a resumed run's log begins where the checkpoint was written, and says the same
    for step_name, values in logged.items():
        assert values == {name: value for name, value in reference[step_name].items() if name in values}
    assert any("probe/val_top1" in values for values in logged.values())


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
def test_two_ranks_resume_exactly(method, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = on_ranks(2, fit, method.__name__, str(whole), 2)
    on_ranks(2, fit, method.__name__, str(broken), 2, STEPS + 3, may_die=True)
    actual = on_ranks(2, fit, method.__name__, str(broken), 2, None, True)
    for rank in range(2):
        assert actual[rank]["losses"] == expected[rank]["losses"][6:]
        assert_same(actual[rank]["state"], expected[rank]["state"])
