"""Tables in the docs are what the results' JSON files say."""

import json

from scripts.equal_budget import BEGIN, END, PAGE, RESULTS, RUNS, table


def test_the_table_of_equal_budgets_is_that_of_the_results():
    results = json.loads(RESULTS.read_text())
    assert table(results) in PAGE.read_text().split(BEGIN)[1].split(END)[0]


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
