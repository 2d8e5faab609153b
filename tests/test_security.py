"""No file runs code on its own word: what docs/security.md says, looked up in the source."""

import ast
import importlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jsonargparse._common import get_parsing_setting

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("methods", "datamodules", "callbacks", "scripts")
SHIPPED = [ROOT / "cli.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]

RUN_CODE = {"eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module"}
BY_NAME = {  # where a name that a person gave becomes an object; each refuses what is no name of the right kind
    "methods/backbones.py": {"importlib.import_module"},
    "methods/optimizers.py": {"importlib.import_module"},
    "scripts/precompute_saliency.py": {"importlib.import_module"},
    "scripts/parsing.py": {"__import__"},
    "scripts/exporting/check.py": {"exec", "compile"},  # lines that the program itself made of literals
}
NEVER = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "joblib.load", "marshal.loads"),
    *("pandas.read_pickle", "pd.read_pickle", "shelve.open", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"),
    *("shutil.unpack_archive", "urllib.request.urlopen", "urlopen", "requests.get", "requests.post"),
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the name that is called as it is written."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword, None without it."""
    return next((getattr(k.value, "value", k.value) for k in call.keywords if k.arg == name), None)


def faults(path: Path, allowed: set[str]) -> list[str]:
    """What in a file could run code that a file brings, or a shell."""
    found = []
    for name, call in calls(path):
        if name in NEVER or (name in RUN_CODE and name not in allowed) or name.endswith((".extractall", ".extract")):
            found.append(name)
        elif name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
        elif name.endswith(".load_from_checkpoint"):
            found.append(f"{name}: methods.pretrained reads checkpoints")
        found += [f"{name}({flag})" for flag in ("allow_pickle", "shell", "trust_remote_code") if keyword(call, flag)]
    return found


def test_nothing_that_is_read_runs():
    guilty = {}
    for path in SHIPPED:
        name = str(path.relative_to(ROOT))
        if found := faults(path, BY_NAME.get(name, set())):
            guilty[name] = found
    assert not guilty


def test_the_list_of_places_that_import_by_name_is_no_longer_than_they_are():
    for name, allowed in BY_NAME.items():
        assert allowed <= {called for called, _ in calls(ROOT / name)}, name
        assert name in (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pickle.loads(data)",
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "archive.extractall(folder)",
        "datasets.load_dataset(name, trust_remote_code=True)",
        "importlib.import_module(name)",
        "SimCLR.load_from_checkpoint(path)",
    ],
)
def test_each_rule_can_be_broken(line, tmp_path):
    (tmp_path / "a.py").write_text(line)
    assert faults(tmp_path / "a.py", set())


@pytest.mark.parametrize(
    "line", ["torch.load(path, 'cpu', weights_only=True)", "np.load(path)", "yaml.safe_load(text)", "network.eval()"]
)
def test_what_is_harmless_passes(line, tmp_path):
    (tmp_path / "a.py").write_text(line)
    assert not faults(tmp_path / "a.py", set())


def test_no_value_of_a_configuration_is_a_command():
    importlib.import_module("scripts.parsing")  # which sets it
    assert get_parsing_setting("import_paths_enforced") and not get_parsing_setting("instantiate_subclass_spec_in_any")


def test_the_lock_pins_every_package_to_its_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    lines = [line for line in lock.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    loose = [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", line)]
    assert len(lines) > 100 and not loose
    assert "://" not in lock


class Outside(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        places = [given.get(name) or "" for name in ("src", "srcset", "data", "poster", "action")]
        places += [given.get("href") or ""] if tag != "a" else []
        self.fetched += [place for place in places if place and not place.startswith(("data:", "#"))]


@pytest.mark.process
def test_the_report_fetches_nothing_and_says_so_to_the_browser(digits_checkpoint):
    page = Outside((digits_checkpoint.parents[1] / "report.html").read_text())
    assert not page.fetched
    assert page.policy.startswith("default-src 'none'")


def test_a_page_that_fetches_is_seen():
    assert Outside('<img src="https://example.org/a.png">').fetched
    assert not Outside('<img src="data:image/png;base64,xx"><a href="https://example.org">x</a>').fetched
