"""What the docs say of measurements is what the results' JSON files say."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from callbacks.summary import Summary
from scripts.equal_budget import RESULTS, RUNS
from scripts.result_tables import BLOCK, TABLES, filled, results

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page):
    assert page.read_text() == filled(page.read_text())


def test_every_table_has_its_place():
    assert sorted(block[2] for page in PAGES for block in BLOCK.finditer(page.read_text())) == sorted(TABLES)


def test_the_quickstart_ends_as_the_readme_shows():
    text = io.StringIO()
    Console(width=120, file=text).print(Summary(**results("quickstart-cpu")["summary"]).render())
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    shown = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) > 6 and not set(lines) - set(shown)


def test_its_network_is_judged_as_the_page_shows():
    shown = (ROOT / "docs" / "evaluation.md").read_text()
    for row in results("quickstart-evaluation-cpu")["rows"]:
        for name, accuracy in row["accuracies"].items():
            spread = f" ± {100 * row['deviations'][name]:.2f}" if row["deviations"] else ""
            assert f"{100 * accuracy:.2f}{spread}" in shown, name


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
