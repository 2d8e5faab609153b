"""What the suites over all methods find, kept: `pytest --promises FILE` (`make promises`)."""

from pathlib import Path

import pytest

from scripts.benchmark.report import write_report


class Promises:
    """Collects what tests say with `record_property("promise", (method, name, figure))` when they pass.

    Several figures of the same method and name are kept together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, list[float | str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            for name, said in report.user_properties:
                if name == "promise":
                    method, promise, figure = said
                    self.rows.setdefault(method, {}).setdefault(promise, []).append(figure)

    def pytest_sessionfinish(self) -> None:
        rows = {method: dict(sorted(found.items())) for method, found in sorted(self.rows.items())}
        write_report(
            self.path,
            ("torch", "pytorch-lightning"),
            what="what tests/test_distributed.py, tests/test_resume*.py and tests/test_precision.py found, by method",
            rows=rows,
        )
