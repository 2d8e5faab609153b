"""CIFAR-10 and CIFAR-100, from torchvision's files or from Parquet files in Hugging Face layout."""

from pathlib import Path

import torch
from torchvision import datasets

from datamodules.base import ImageDataModule
from datamodules.errors import UserError
from datamodules.hf import open_parquet
from datamodules.sources import ArraySource, Source, data_root


class _CIFAR(ImageDataModule):
    """What the two data sets share."""

    default_image_size = 32
    _torchvision: type[datasets.CIFAR10]
    _parquet_folder: str
    _label_column: str

    def __init__(self, path: str | None = None, download: bool = False, **base) -> None:
        """
        Args:
            path: folder that holds torchvision's folder `cifar-10-batches-py` (CIFAR-100: `cifar-100-python`), or
                `train-*.parquet` and `test-*.parquet`, or a folder `cifar10` (`cifar100`) with these; null for the
                folder that the environment variable PARALLAX_DATA names, or else `data`.
            download: fetch torchvision's files if they are missing.
            **base: see `ImageDataModule`.
        """
        super().__init__(**base)
        self.path = Path(path) if path else data_root() or Path("data")
        self.download = download

    def prepare_data(self) -> None:
        """Downloads, if it was asked for; in one process a machine."""
        if self.download:
            self._torchvision(str(self.path), download=True)

    def sources(self) -> tuple[Source, Source]:
        """The official training and test images."""
        for folder in (self.path, self.path / self._parquet_folder):
            if list(folder.glob("train-*.parquet")) and list(folder.glob("test-*.parquet")):
                return (
                    open_parquet(folder / "train-*.parquet", label_column=self._label_column),
                    open_parquet(folder / "test-*.parquet", label_column=self._label_column),
                )
        try:
            return self._from_torchvision(train=True), self._from_torchvision(train=False)
        except RuntimeError:  # torchvision's word for "not there, or damaged"
            raise UserError(
                f"{type(self).__name__} is not in {self.path}: fetch it with --data.download true, or point "
                "--data.path or the environment variable PARALLAX_DATA to a folder that has it."
            ) from None

    def _from_torchvision(self, train: bool) -> ArraySource:
        cifar = self._torchvision(str(self.path), train=train)
        images = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()  # [N, 3, 32, 32]
        name = f"{type(self).__name__} {'train' if train else 'test'}"
        return ArraySource(images, torch.tensor(cifar.targets), list(cifar.classes), name)


class CIFAR10(_CIFAR):
    """CIFAR-10: 50,000 training and 10,000 validation images (the official test set), 32x32 pixels, ten classes.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    default_mean = (0.4914, 0.4822, 0.4465)
    default_std = (0.2470, 0.2435, 0.2616)
    _torchvision = datasets.CIFAR10
    _parquet_folder = "cifar10"
    _label_column = "label"


class CIFAR100(_CIFAR):
    """CIFAR-100: 50,000 training and 10,000 validation images (the official test set), 32x32 pixels, a hundred classes.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    default_mean = (0.5071, 0.4865, 0.4409)
    default_std = (0.2673, 0.2564, 0.2762)
    _torchvision = datasets.CIFAR100
    _parquet_folder = "cifar100"
    _label_column = "fine_label"
