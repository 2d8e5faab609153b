"""When images are kept decoded, and what happens if they cannot be."""

import pytest
import torch

from datamodules import cache as cache_module
from datamodules.cache import open_split
from datamodules.errors import UserError
from datamodules.faults import FaultReport
from tests.datamodules.toys import BadSource, pixels

CPU = torch.device("cpu")


class Mixed(BadSource):
    """One image, of those not looked at before loading, is larger."""

    def image(self, i: int) -> torch.Tensor:
        return pixels(1, size=20)[0] if i == 1 else self.images[i]


def opened(source, choice):
    return open_split("train", source, 3, choice, CPU, "skip", FaultReport())


def test_auto_caches_small_images_of_one_size():
    split = opened(BadSource(pixels(40), set()), "auto")
    assert split.cache is not None and split.cache.on_device
    assert torch.equal(split.cache.images, pixels(40))
    assert split.cache.image_size == (16, 16)


def test_auto_leaves_large_images_to_the_workers():
    assert opened(BadSource(torch.zeros(3, 3, 129, 100, dtype=torch.uint8), set()), "auto").cache is None
    assert opened(BadSource(torch.zeros(3, 3, 128, 100, dtype=torch.uint8), set()), "auto").cache is not None


def test_auto_leaves_many_images_to_the_workers(monkeypatch):
    monkeypatch.setattr(cache_module, "_AUTO_BYTES", 40 * 3 * 16 * 16 - 1)
    assert opened(BadSource(pixels(40), set()), "auto").cache is None
    assert opened(BadSource(pixels(39), set()), "auto").cache is not None


def test_auto_notices_images_of_another_size_also_late():
    assert opened(Mixed(pixels(40), set()), "auto").cache is None


@pytest.mark.parametrize("choice", ["ram", "device"])
def test_unequal_sizes_are_refused_where_the_cache_was_asked_for(choice):
    with pytest.raises(
        UserError, match=f"cache {choice} needs.*picture 1 is 20x20.*another picture 16x16.*cache to none"
    ):
        opened(Mixed(pixels(40), set()), choice)


def test_none_decodes_nothing_in_advance():
    assert opened(BadSource(pixels(40), set()), "none").cache is None


def test_order_survives_the_threads():
    source = BadSource(pixels(1000, size=4), {0, 999})
    split = opened(source, "ram")
    assert split.cache is not None
    assert torch.equal(split.cache.images[1:999], source.images[1:999])
    assert split.cache.stand_in.tolist() == [1, *range(1, 999), 1]


def test_padding_rows_gather_some_image():
    split = opened(BadSource(pixels(4), set()), "ram")
    assert split.cache is not None
    assert torch.equal(split.cache.gather(torch.tensor([2, -1]))[0], pixels(4)[2])
