"""A run of a few seconds that is complete all the same, for tests of what comes after training."""

from pathlib import Path

from tests.support.commands import ROOT, cli

WIDTH = 8  # of the convnet's first layer
EPOCHS = 2


def train_on_digits(folder: Path) -> Path:
    """Trains SimCLR on the digits as the quickstart does, only smaller and shorter.

    Args:
        folder: empty; the run's own, with config.yaml, metrics.csv and checkpoints/, is `runs/version_0` in it.

    Returns:
        checkpoints/last.ckpt in the run's folder.
    """
    outcome = cli(
        *("fit", "--config", str(ROOT / "configs" / "quickstart.yaml")),
        *("--model.backbone.options", f"{{width: {WIDTH}}}", "--trainer.max_epochs", str(EPOCHS)),
        *("--trainer.check_val_every_n_epoch", "1", "--trainer.default_root_dir", "runs"),
        folder=folder,
    )
    assert outcome.code == 0, outcome.text
    return folder / "runs" / "version_0" / "checkpoints" / "last.ckpt"
