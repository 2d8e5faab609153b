"""What the docs say of measurements is what the results' JSON files say."""

import json
from pathlib import Path

import pytest

from scripts.equal_budget import RESULTS, RUNS
from scripts.result_tables import BLOCK, TABLES, filled

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page):
    assert page.read_text() == filled(page.read_text())


def test_every_table_has_its_place():
    assert sorted(block[2] for page in PAGES for block in BLOCK.finditer(page.read_text())) == sorted(TABLES)


def test_no_method_is_at_the_untrained_level():
    for name, row in json.loads(RESULTS.read_text())["rows"].items():
        assert row["knn_top1"] > row["untrained_top1"] + 0.03, name


def test_rows_ran_with_the_flags_of_the_script():
    rows = json.loads(RESULTS.read_text())["rows"]
    assert set(rows) == set(RUNS)
    for name, row in rows.items():
        assert pairs(row["flags"]) == pairs(RUNS[name].flags()), name


def pairs(flags):
    return dict(zip(flags[::2], flags[1::2], strict=True))
