"""docs/faults.md, from what the commands really say: python -m tests.faults.page writes it anew."""

import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.fault import LONGEST, Fault
from tests.faults.prepare import train
from tests.faults.table import AREAS
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "faults.md"
HEAD = """# What goes wrong, and what you are told

Each row is brought about, and its answer compared with this page, by `make test-faults`; `make faults` writes the page
anew. What you can mend ends in one sentence and exit status 2 (the doctor's findings: 1), never in a stack trace; the
answer is the last line of at most {longest}. No file of yours is changed. Where an answer does not begin with
`error:`, the command goes on.

`given` are the flags that bring it about, where it is not the files alone. There are {count} rows.
"""


def row(fault: Fault, answer: str) -> str:
    """A line of the table, without lists of all that is known, which grow, and times."""
    answer = re.sub(r"(Known: |; there are |names are: )[^.]*\.", r"\1….", answer)
    answer = re.sub(r", \d+ s\.", ".", answer)
    shown = answer.replace("&", "&amp;").replace("<", "&lt;").replace("|", r"\|").replace("*", r"\*")
    flags = fault.flags.replace("|", r"\|")
    return f"| {fault.wrong} | {f'`{flags}`' if flags else ''} | {shown.strip()} |"


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a page, by area."""
    found: dict[str, list[str]] = {}
    for part in text.split("\n## ")[1:]:
        area, *lines = part.splitlines()
        found[area] = [line for line in lines if line.startswith("| ")][1:]  # the first is the heads
    return found


def page(answers: dict[str, list[str]]) -> str:
    """The whole page from the rows of each area."""
    parts = [HEAD.format(longest=LONGEST, count=sum(map(len, answers.values())))]
    for area, lines in answers.items():
        parts.append("\n".join([f"## {area}", "", "| what is wrong | given | answer |", "|---|---|---|", *lines, ""]))
    return "\n".join(parts)


def main(only: list[str]) -> None:
    """Writes the page, or says which faults are not answered as they should be.

    Args:
        only: areas to bring about; the rows of others stay as they are. Nothing for all.
    """
    kept = {area: lines for area, lines in rows(PAGE.read_text()).items() if only and area not in only}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as workers:
        (trained := Path(folder) / "trained").mkdir()
        train(trained)

        def told(fault: Fault) -> str | AssertionError:
            try:
                return row(fault, fault.answer(Path(tempfile.mkdtemp(dir=folder)), trained))
            except AssertionError as error:
                return error

        chosen = {area: faults for area, faults in AREAS.items() if area not in kept}
        waiting = {area: [workers.submit(told, fault) for fault in faults] for area, faults in chosen.items()}
        answers = {area: [answer.result() for answer in answers] for area, answers in waiting.items()}
    wrong = [f"{area}: {answer}" for area, found in answers.items() for answer in found if not isinstance(answer, str)]
    if wrong:
        sys.exit("\n\n".join(wrong))
    written = kept | {area: [str(answer) for answer in found] for area, found in answers.items()}
    PAGE.write_text(page({area: written[area] for area in AREAS}))


if __name__ == "__main__":
    main(sys.argv[1:])
