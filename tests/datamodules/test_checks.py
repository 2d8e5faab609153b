"""What a data module of one's own may get wrong in its sources: a sentence each, in every way of loading."""

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.sources import ArraySource, Source
from tests.datamodules.toys import Toy, epoch, pixels

CACHES = pytest.mark.parametrize("cache", ["device", "ram", "none"])
LABELS = torch.arange(40) % 4


class Own(Toy):
    """Sources as given; `val_labels` and `val_names` are those of training unless they are set."""

    def __init__(self, images: Any = None, labels: Any = LABELS, names: list[str] | None = None, **options: Any):
        self.val_labels = options.pop("val_labels", labels)
        self.val_names = options.pop("val_names", names)
        super().__init__(**options)
        self.images = pixels(40) if images is None else images
        self.labels, self.names = labels, names

    def sources(self) -> tuple[Source, Source]:
        return (
            ArraySource(self.images, self.labels, self.names, "own train"),
            ArraySource(self.images[: len(self.val_labels)], self.val_labels, self.val_names, "own val"),
        )


def refused(**given: Any) -> str:
    with pytest.raises(UserError) as caught:
        epoch(Own(**given))
    return str(caught.value)


@CACHES
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (pixels(40) / 255, "own train[0] is a tensor [3, 16, 16] of float32; allowed is a tensor [C, H, W] of uint8"),
        (pixels(40).long(), "own train[0] is a tensor [3, 16, 16] of int64"),
        (pixels(40)[:, 0], "own train[0] is a tensor [16, 16] of uint8; allowed is a tensor [C, H, W]"),
        (pixels(40).numpy(), "own train[0] is of type ndarray; allowed is a tensor [C, H, W] of uint8"),
        (pixels(40, 5), "own train[0] has 5 channel(s), it is [5, 16, 16], but num_channels of the data module is 3"),
        (pixels(40).movedim(1, 3), "own train[0] has 16 channel(s), it is [16, 16, 3], but num_channels"),
    ],
    ids=["intensities in [0, 1]", "int64", "no channels", "an array", "other channels", "channels last"],
)
def test_images_of_another_kind(cache, images, said):
    assert refused(images=images, cache=cache).startswith(said)


class OneGrey(Source):
    """Colour images, but for one that is not among those looked at first."""

    labels = LABELS

    def image(self, i: int) -> Tensor:
        return pixels(1, channels=1 if i == 1 else 3)[0]

    def name(self, i: int) -> str:
        return f"picture {i}"


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_one_image_of_other_channels_is_named_by_the_workers_too(split, num_workers, monkeypatch):
    data = Toy(cache="none", num_workers=num_workers)
    monkeypatch.setattr(data, "sources", lambda: (OneGrey(), OneGrey()))
    with pytest.raises(UserError, match=r"picture 1 has 1 channel\(s\), it is \[1, 16, 16\], but num_channels"):
        if split == "train":
            for batch in (data.setup("fit"), data.train_dataloader())[1]:
                data.on_before_batch_transfer(batch, 0)
        else:
            data.setup("validate")
            list(data.clean_batches("val", torch.device("cpu")))


def test_channels_may_be_set_by_the_constructor():
    data = Own(pixels(40, 2), mean=[0.5, 0.5], std=[0.2, 0.2])
    data.num_channels = 2
    assert epoch(data)[0].global_views[0].shape == (8, 2, 16, 16)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": LABELS.int()}, "The training labels are a tensor [40] of int32; allowed is a tensor [N] of int64"),
        ({"labels": LABELS.float()}, "The training labels are a tensor [40] of float32"),
        ({"labels": torch.nn.functional.one_hot(LABELS)}, "The training labels are a tensor [40, 4] of int64"),
        ({"labels": LABELS.tolist()}, "The training labels are of type list"),
        ({"val_labels": LABELS.int()}, "The validation labels are a tensor [40] of int32"),
        (
            {"names": ["a", "b"]},
            "The training labels go from 0 to 3; allowed is -1 where unknown, and 0 to 1 for the 2 classes of training",
        ),
        (
            {"val_labels": torch.tensor([4])},
            "The validation labels go from 4 to 4; allowed is -1 where unknown, and 0 to 3 for the 4 classes",
        ),
        ({"labels": LABELS - 2}, "The training labels go from -2 to 1;"),
        ({"labels": LABELS - 9}, "The training labels go from -9 to -6; allowed is -1 where unknown: number"),
        (
            {"names": list("abcd"), "val_names": list("bcda")},
            "The classes of training are a, b, c, d, those of validation b, c, d, a: both sources must have the same",
        ),
        (
            {"val_names": list("abcdef")},
            "The classes of training are 4 numbers, those of validation a, b, c, d, e, ...",
        ),
        ({"images": pixels(30)}, "own train has 30 images and 40 labels: give one label an image."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_of_another_kind(given, said):
    assert refused(**given).startswith(said)


@pytest.mark.parametrize(
    "given",
    [
        {"names": list("abcde")},
        {"names": list("abcd"), "val_names": None},
        {"val_labels": LABELS[:3] - 1},
        {"labels": torch.full((40,), -1), "val_labels": LABELS, "val_names": list("abcd")},
    ],
    ids=["a class without images", "names on one side", "some unknown", "labels for validation alone"],
)
def test_sound_labels_pass(given):
    assert len(epoch(Own(**given))) == 5
