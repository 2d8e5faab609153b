"""What JigClu does beside its numbers: dealing crops, where its losses start, and what it refuses."""

import math

import pytest
import torch
from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.jigclu import JigClu
from methods.modules.patches import montage
from tests.support.methods import small, to_double, views


def test_crops_are_dealt_anew_in_every_epoch(monkeypatch):
    module, index = small(JigClu), torch.arange(32)
    image, corner = module.deal(index)
    assert torch.equal((4 * image + corner).flatten().sort().values, torch.arange(128))
    assert torch.equal(module.deal(index)[0], image)
    monkeypatch.setattr(JigClu, "current_epoch", 1)
    assert not torch.equal(module.deal(index)[0], image)


def test_a_cell_of_a_montage_is_the_crop_that_was_dealt_to_it():
    module, B = small(JigClu), 6
    crops = torch.arange(24.0).view(B, 4, 1, 1, 1).expand(B, 4, 3, 2, 2)  # each knows 4 * image + corner
    image, corner = module.deal(torch.arange(B))
    pictures = montage(crops[image, corner], 2)
    corners_of_pictures = pictures[:, 0, ::3, ::3].transpose(1, 2).flatten(1)  # down the columns
    assert torch.equal(corners_of_pictures, (4 * image + corner).float())


def test_both_losses_start_where_guessing_does():
    B, T = 8, 0.3
    module = small(JigClu).double()
    for head in (module.projector[-1], module.locator):
        nn.init.zeros_(head.weight)
    nn.init.zeros_(module.locator.bias)
    logs = module.step(to_double(views(JigClu, B))).logs
    assert float(logs["location_loss"]) == pytest.approx(math.log(4))
    assert float(logs["cluster_loss"]) == pytest.approx(T / 0.07 * math.log(4 * B - 1))


def test_one_pass_of_as_many_pictures_as_images():
    module, sizes = small(JigClu), []
    module.backbone.layers.register_forward_hook(lambda network, inputs, output: sizes.append(tuple(inputs[0].shape)))
    module.step(views(JigClu, 5))
    assert sizes == [(5, 3, 16, 16)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"backbone": BackboneConfig("timm/vit_tiny_patch16_224")}, "does not show the feature map"),
        ({"backbone": BackboneConfig("resnet18")}, "montage of 16 x 16 pixels ends as a map of 1 x 1"),
    ],
    ids=["temperature", "vit", "stem"],
)
def test_wrong_settings_are_answered_with_a_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        small(JigClu, **arguments).step(views(JigClu))
