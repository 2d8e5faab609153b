"""Rules that no single file can keep: who may import whom, how long a file may be, what must be told."""

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

import methods
from methods.base import SSLModule

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("methods", "datamodules", "callbacks", "scripts")
OURS = {*PACKAGES, "cli", "tests"}
LONGEST = 250  # lines
MACHINES = tuple(f"/{folder}/" for folder in ("home", "root", "work", "Users"))
PROSE = {".py", ".yaml", ".yml", ".md", ".toml", ".sh", ".sbatch", ".txt", ".json", ".html", ".cfg", ""}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def our_imports(path: Path) -> Iterator[str]:
    """Full names of our modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).with_suffix("").parts[: -node.level]) if node.level else ""
            module = ".".join(part for part in (package, node.module) if part)
            found = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (full for full in found if full.partition(".")[0] in OURS)


def outside(path: Path, allowed: tuple[str, ...]) -> list[str]:
    return [full for full in our_imports(path) if not f"{full}.".startswith(tuple(f"{a}." for a in allowed))]


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("datamodules", ("datamodules",)),
        ("callbacks", ("callbacks", "datamodules.views", "datamodules.errors")),
        ("methods", ("methods", "datamodules", "callbacks")),
        ("scripts", ("scripts", "methods", "datamodules", "callbacks")),
    ],
)
def test_rooms_import_only_what_stands_below_them(folder, allowed):
    trespassers = {name(path): found for path in sources(folder) if (found := outside(path, allowed))}
    assert not trespassers


def test_losses_and_modules_do_not_know_the_base():
    for path in sources("methods/losses", "methods/modules"):
        assert not [full for full in our_imports(path) if full.startswith("methods.base")], name(path)


def test_the_import_reader_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "callbacks").mkdir()
    path = tmp_path / "callbacks" / "a.py"
    path.write_text("import os, cli\nfrom . import b\nfrom .c import d\ndef f():\n    from methods import base as x\n")
    assert list(our_imports(path)) == ["cli", "callbacks.b", "callbacks.c.d", "methods.base"]
    assert outside(path, ("callbacks",)) == ["cli", "methods.base"]


@pytest.mark.parametrize("path", [ROOT / "cli.py", *sources(*PACKAGES)], ids=name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST


def texts() -> Iterator[Path]:
    for entry in sorted(ROOT.iterdir()):
        if entry.name.startswith(".") and entry.name not in {".ci", ".github", ".pre-commit-config.yaml", ".gitignore"}:
            continue
        if entry.name in {"runs", "data", "shared", "tests"}:  # tests name such paths to see them left out
            continue
        for path in [entry] if entry.is_file() else sorted(entry.rglob("*")):
            if path.is_file() and path.suffix in PROSE and "__pycache__" not in path.parts:
                yield path


def test_no_file_names_a_folder_of_somebodys_machine():
    guilty = {name(path): m for path in texts() for m in MACHINES if re.search(rf"(?<![\w.}}]){m}", path.read_text())}
    assert not guilty


def undocumented(path: Path) -> Iterator[str]:
    """Public classes, functions, and functions of public classes without a docstring."""
    public = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, public) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, f"{node.name}.")

    tree = ast.parse(path.read_text())
    if ast.get_docstring(tree) is None and path.name != "__init__.py":
        yield "(the file)"
    yield from visit(tree.body, "")


def test_everything_public_says_what_it_is():
    silent = {name(path): found for path in sources(*PACKAGES[:3]) if (found := list(undocumented(path)))}
    assert not silent


COLUMNS = ["Method", "Paper", "Idea", "Teacher / queue / views", "Config", "Deviations"]


def method_rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "methods.md").read_text().splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return list(takewhile(bool, cells[cells.index(COLUMNS) + 2 :]))  # up to the first line that is no table's


def exported() -> list[str]:
    classes = [value for value in vars(methods).values() if isinstance(value, type) and issubclass(value, SSLModule)]
    return [cls.__name__ for cls in classes if not inspect.isabstract(cls)]


def test_the_table_of_methods_has_a_row_for_each():
    rows = method_rows()
    listed = [cell for row in rows for cell in re.findall(r"\w+", row[0])]
    assert not [method for method in exported() if listed.count(method) != 1]
    for row in rows:
        assert len(row) == len(COLUMNS), row
        assert all(row), f"an empty cell: {row}"
        for config in re.findall(r"configs/[\w./-]+\.yaml", row[COLUMNS.index("Config")]):
            assert (ROOT / config).is_file(), f"{row[0]} names {config}"
