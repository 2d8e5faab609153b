"""`cli.py predict`: the features of all images in a file."""

import shlex

import pytest
import torch

from datamodules import Digits
from methods.pretrained import load_backbone
from tests.support.commands import cli

pytestmark = pytest.mark.process

TINY = shlex.split(
    "--model SimCLR --model.hidden_dim 16 --model.backbone.name convnet --model.backbone.in_channels 1 "
    "--model.backbone.options '{width: 4}' --data Digits --data.max_train_images 64 --data.max_val_images 32 "
    "--data.batch_size 16 --trainer.max_epochs 1 --trainer.accelerator cpu"
)


def test_a_prediction_writes_the_features_of_all_images_in_order(tmp_path):
    cli("fit", *TINY, folder=tmp_path)
    run = tmp_path / "runs/version_0"
    flags = [*TINY, "--data.eval_batch_size", "5", "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    code, text = cli("predict", *flags, folder=tmp_path)
    assert code == 0 and "32 images, features of size 32: " in text, text
    assert "dirpath" not in text and not (tmp_path / "runs/version_1").exists()
    found = torch.load(run / "features.pt", weights_only=True)
    pretrained, data = load_backbone(str(run / "checkpoints/last.ckpt")), Digits(max_val_images=32)
    data.setup("validate")
    (views,) = data.clean_batches("val", torch.device("cpu"))
    with torch.no_grad():
        expected = pretrained.backbone(views.global_views[0])
    order = views.index.argsort()
    assert found["index"].tolist() == views.index[order].tolist() and found["class_names"] == data.class_names
    assert torch.equal(found["label"], views.label[order])
    torch.testing.assert_close(found["features"], expected[order])


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_write_what_one_does(tmp_path):
    cli("fit", *TINY, folder=tmp_path)
    features = tmp_path / "runs/version_0/features.pt"
    flags = ["predict", *TINY, "--data.eval_batch_size", "5", "--ckpt_path", "auto"]
    code, text = cli(*flags, folder=tmp_path)
    assert code == 0, text
    one = torch.load(features, weights_only=True)
    code, text = cli(*flags, "--trainer.devices", "2", "--trainer.strategy", "ddp", folder=tmp_path)
    assert code == 0, text
    two = torch.load(features, weights_only=True)
    assert two["index"].tolist() == one["index"].tolist() and torch.equal(two["label"], one["label"])
    torch.testing.assert_close(two["features"], one["features"])
