"""Rotation prediction (RotNet): by how many quarter turns was the picture turned?

Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018, arXiv:1803.07728.
Follows gidariss/FeatureLearningRotNet (edafaba6). Deviations: any backbone, with a linear map to the four answers
(theirs are a network-in-network and an AlexNet); small images are cropped and resized instead of shifted over a black
border.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.views import Views
from methods.base import SSLModule, StepOutput
from methods.losses.classification import cross_entropy


class RotationPrediction(SSLModule):
    """Every image in its four rotations, in one batch, and a classifier that tells them apart.

    The last layers specialise in the question: earlier ones may carry over better, and a better answer need not mean a
    better representation.
    """

    recipe = "rotation"
    num_global_views = 1

    def __init__(self, **base: Any) -> None:
        """
        Args:
            base: arguments of `SSLModule`.
        """
        super().__init__(**base)
        self.classifier = nn.Linear(self.feature_dim, 4)

    def step(self, views: Views) -> StepOutput:
        """The loss of all four rotations; the watchers get the features of the upright images."""
        (x,) = views.global_views
        h = self.backbone(four_rotations(x))  # [4B, D]
        logits = self.classifier(h)  # [4B, 4]
        turns = torch.arange(4, device=x.device).repeat(len(x))
        accuracy = (logits.argmax(1) == turns).float().mean()
        return StepOutput(cross_entropy(logits, turns), h[::4], logs={"rotation_accuracy": accuracy})


def four_rotations(images: Tensor) -> Tensor:
    """Turns images by 0, 1, 2 and 3 quarters, counter-clockwise; pixels move, nothing is interpolated.

    Args:
        images: [B, C, H, H].

    Returns:
        [4B, C, H, H], the rotations of an image one after the other.
    """
    return torch.stack([images.rot90(turns, (2, 3)) for turns in range(4)], dim=1).flatten(0, 1)
