"""Every test starts from the same seed, on one thread, without a trace of the environment's settings."""

import logging
import os
from pathlib import Path

import pytest
import torch

from tests.support.digits_run import train_on_digits
from tests.support.golden import load
from tests.support.promises import Promises
from tests.support.synthetic import write_data


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--promises", type=Path, metavar="FILE", help="write what the suites over all methods find to FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("promises")
    if path and not hasattr(config, "workerinput"):  # of several processes the one that hears of all tests
        config.pluginmanager.register(Promises(path))


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith(("PL_", "PARALLAX_")) and name != "PARALLAX_DATA"]:
        monkeypatch.delenv(name)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    yield
    assert lightning.level in (level, logging.INFO), "the next tests would not hear what a run says"


@pytest.fixture
def golden():
    """Loads a golden file as a dictionary of tensors."""
    return load


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoints/last.ckpt in the complete folder of a short run of SimCLR on the digits; read, never changed."""
    return train_on_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands in for every data set."""
    return write_data(tmp_path_factory.mktemp("data"))
