"""Every YAML under configs/ parses, builds, and takes a step of training and validation."""

import pytest
import yaml

from cli import ParallaxCLI
from scripts.parsing import SUBCOMMANDS, cli_arguments
from tests.support.commands import ROOT, cli

pytestmark = pytest.mark.process

TRAINING = [p for p in (ROOT / "configs").rglob("*.yaml") if "eval" not in p.parts]  # the others need a checkpoint
CONFIGS = sorted(p for p in TRAINING if p.name != "defaults.yaml")
LARGE = [p for p in CONFIGS if p.parent.name == "imagenet"]  # a step of these takes seconds


class MadeError(Exception):
    """There is a parser, and nothing was parsed yet."""


@pytest.fixture(scope="module")
def parser():
    """What reads the command line."""

    class OnlyAParser(ParallaxCLI):
        def parse_arguments(self, parser, args):
            raise MadeError(parser)

    with pytest.raises(MadeError) as made:
        OnlyAParser(**cli_arguments(*SUBCOMMANDS))
    return made.value.args[0]


@pytest.mark.parametrize("config", LARGE, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_is_understood(config, parser):
    settings = yaml.safe_load(config.read_text())
    understood = parser.parse_args(["fit", "--config", str(config), "--data.path", "."]).fit
    assert understood.model.class_path.endswith(f".{settings['model']['class_path']}")


@pytest.mark.parametrize(
    "config",
    [pytest.param(p, marks=pytest.mark.slow if p in LARGE else ()) for p in CONFIGS],
    ids=lambda p: str(p.relative_to(ROOT / "configs")),
)
def test_takes_a_step(config, synthetic, tmp_path):
    settings = yaml.safe_load(config.read_text())
    data = settings["data"]["class_path"].rpartition(".")[2]
    arguments = settings["model"]["init_args"]
    groups = str(arguments.get("batch_norm", "")).partition("split:")[2]  # of images, with statistics of their own
    batch = str(2 * int(groups or 2))
    paths = {"CIFAR10": synthetic, "HFImages": synthetic / "cifar10", "ImageFolder": synthetic / "folders"}
    where = ["--data.path", str(paths[data])] if data in paths else []
    if settings["model"]["class_path"] == "ReLICv2":
        where += ["--data.views", "relicv2_no_masks"]
    cores = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    small = ["--data.batch_size", batch, "--data.eval_batch_size", "4", "--data.num_workers", "0"]
    if data == "ImageFolder" and "vit" not in arguments["backbone"]["name"]:
        small += ["--data.image_size", "64"]  # a ViT is made for one size
    code, text = cli(
        "fit", "--config", str(config), *where, *small, *cores, "--trainer.fast_dev_run", "true", folder=tmp_path
    )
    assert code == 0, text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_says_what_it_is(config):
    """Paper, the command to run it, and what to expect or that it has not run yet."""
    header = "".join(line for line in config.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"--config {config.relative_to(ROOT)}" in header
    assert "Expected" in header


def test_a_saver_that_a_user_adds_has_names_of_its_own():
    """Lightning's own, which a saver of ours would overwrite and remove."""
    trainers = [yaml.safe_load(p.read_text()).get("trainer", {}) for p in (ROOT / "configs").rglob("*.yaml")]
    ours = [c for trainer in trainers for c in trainer.get("callbacks", []) if "ModelCheckpoint" in c["class_path"]]
    assert ours and all(saver["init_args"]["filename"] == "newest-{epoch}-{step}" for saver in ours)
