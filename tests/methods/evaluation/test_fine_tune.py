"""Fine-tuning: where it starts, what it trains on, and that it is the same on two ranks and after a resume."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules import Digits
from datamodules.augment import ViewSpec
from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.evaluation.fine_tune import FineTune
from methods.optim import OptimConfig
from methods.pretrained import load_backbone
from tests.datamodules.toys import Toy, trainer
from tests.support.fine_tuning import OPTIM, fine_tune
from tests.support.methods import CONVNET, VIT, images
from tests.support.ranks import on_ranks

ADAMW = OptimConfig("adamw", lr=2e-2, weight_decay=0.05, lr_scaling="none", warmup_epochs=0.5)
MIXED = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "layer_decay": 0.8}


class Unlabelled(Toy):
    """Some or all images without a label."""

    def __init__(self, share: float, **base) -> None:
        super().__init__(**base)
        self.share = share

    def sources(self):
        train, val = super().sources()
        train.labels = torch.where(torch.arange(len(train)) < self.share * len(train), -1, train.labels)
        train.class_names = None if self.share == 1 else train.class_names
        return train, val


def attached(module: FineTune, data) -> FineTune:
    """The module as at the start of a fit."""
    runner = trainer()
    runner.datamodule = data
    runner.strategy.connect(module)
    data.trainer, module.trainer = runner, runner
    data.setup("fit")
    module.setup("fit")
    module.configure_model()
    return module


def test_resumed_in_the_middle_of_an_epoch_it_ends_where_it_would_have(tmp_path):
    arguments = {"backbone": BackboneConfig("timm/resnet10t", options={"drop_path_rate": 0.5})} | MIXED
    whole = fine_tune(0, str(tmp_path), **arguments)
    (middle,) = tmp_path.glob("*step=3.ckpt")
    resumed = fine_tune(0, str(tmp_path), str(middle), **arguments)
    assert len(set(whole["losses"])) == 10
    assert resumed["losses"] == whole["losses"][3:]
    assert resumed["result"] == whole["result"]
    for name, value in whole["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], value, err_msg=name)


@pytest.mark.ddp
def test_two_ranks_are_one_process(tmp_path):
    arguments = {"batch_norm": "sync", "label_smoothing": 0.1}
    alone = fine_tune(0, None, None, 1, True, **arguments)
    both = on_ranks(2, fine_tune_on_rank, arguments)
    for rank in both:
        assert rank["result"] == alone["result"]
        for name, value in alone["weights"].items():
            np.testing.assert_allclose(rank["weights"][name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def fine_tune_on_rank(rank: int, arguments: dict) -> dict:
    return fine_tune(rank, None, None, 2, True, **arguments)


def test_a_step_is_the_smoothed_cross_entropy_of_the_mixed_batch():
    module = attached(FineTune(backbone=CONVNET, optim=OPTIM, mixup=0.8, label_smoothing=0.1, head_std=0.5), Toy())
    module.log = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    batch = Views([images(8).float() / 255], torch.arange(8) % 3, torch.arange(8))
    module.on_train_batch_start(batch, 0)
    loss = module.training_step(batch, 0)["loss"]
    module.on_train_batch_start(batch, 0)
    x, target = module._mixing(batch.global_views[0], batch.label)
    smooth = 0.9 * target + 0.1 / 3
    expected = -(smooth * F.log_softmax(module(x), dim=1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


def test_it_starts_from_the_checkpoint_and_can_be_started_from(digits_checkpoint, tmp_path):
    found = load_backbone(str(digits_checkpoint))
    module = FineTune(str(digits_checkpoint), optim=ADAMW)
    for name, value in found.backbone.state_dict().items():
        assert torch.equal(module.backbone.state_dict()[name], value), name
    assert all(p.requires_grad for p in module.parameters()) and module.training
    runner = trainer(max_epochs=3)
    upright = [ViewSpec(size=28, crop_scale=(0.8, 1.0), flip=0.0)]
    runner.fit(module, datamodule=Digits(views=upright, batch_size=64, max_train_images=640))
    assert "SimCLR" in module.protocol()
    assert module.result["top1"] > 0.25  # chance: 0.1
    path = tmp_path / "tuned.ckpt"
    runner.save_checkpoint(path)
    again = FineTune.load_from_checkpoint(path, pretrained=None, weights_only=True)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(again.eval()(x), module.eval()(x)) and again(x).shape == (2, 10)
    tuned = load_backbone(str(path))  # in turn somebody's starting point
    assert torch.equal(tuned.backbone(x), module.backbone(x))
    assert tuned.origin.startswith("FineTune, step")
    assert tuned.images is not None and tuned.images["data"] == "Digits"


def test_labels_are_needed_for_every_training_image():
    with pytest.raises(UserError, match="needs labels, and Unlabelled has none"):
        attached(FineTune(backbone=CONVNET), Unlabelled(1.0))
    with pytest.raises(UserError, match="10 of 40 training images have no label.*label_fraction 1.0"):
        attached(FineTune(backbone=CONVNET), Unlabelled(0.25))
    module = attached(FineTune(backbone=CONVNET), Unlabelled(0.25, label_fraction=1.0))
    assert module.trainer.datamodule.num_train_images == 30


def test_refusals():
    with pytest.raises(UserError, match="--model.pretrained CHECKPOINT, or --model.backbone.name"):
        FineTune()
    with pytest.raises(UserError, match="layer_decay=0"):
        FineTune(backbone=CONVNET, layer_decay=0.0)
    with pytest.raises(UserError, match="takes 1 global views.*makes 2"):
        trainer().fit(FineTune(backbone=CONVNET, optim=OPTIM), datamodule=Toy(views="simclr"))


def test_the_protocol_says_what_was_done():
    module = attached(FineTune(backbone=VIT, **MIXED), Toy(label_fraction=0.5, label_seed=1))
    module.validated_epoch = 2
    assert module.protocol() == (
        "all weights, from scratch on 50 % of the labels (draw 1); layer decay 0.8; mixup 0.8; cutmix 1; "
        "label smoothing 0.1; "
        f"one clean view of the validation images, after 2 of {module.trainer.max_epochs} epochs"
    )
