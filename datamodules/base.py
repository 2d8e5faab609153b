"""The base of all image datamodules: from two sources of images to batches of `Views` on the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from datamodules.augment import Augment, CleanView, ViewSpec, recipe
from datamodules.cache import CacheChoice, Split, SplitName
from datamodules.checks import check_arguments
from datamodules.labels import taking_part
from datamodules.loading import CleanBatches, RawBatch, Refusal, ResumableLoader, TrainBatches, default_workers
from datamodules.masks import MaskedSource, check_masks, flags_of
from datamodules.randomness import run_seed
from datamodules.sampling import EvalSampler, TrainSampler, next_position
from datamodules.sources import Source, subset_rows
from datamodules.splits import Splits
from datamodules.views import Views


class ImageDataModule(LightningDataModule, ABC):
    """Training views and clean validation images of one data set; a subclass says where the images come from.

    Training batches hold the augmented views of the recipe, all other batches one clean view; both are made on the
    device, in fp32 (and only then converted, for a 16- or 64-bit Trainer). Test and prediction take the validation
    images.

    Attributes:
        num_channels: channels of the images.
        num_classes: number of classes, None without labels; known after `setup`.
        class_names: name of each class, None without names; known after `setup`.
    """

    num_channels = 3
    default_image_size = 224
    default_mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet
    default_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __init__(
        self,
        views: str | list[ViewSpec] | None = None,
        image_size: int | None = None,
        batch_size: int = 256,
        eval_batch_size: int = 512,
        cache: CacheChoice = "auto",
        num_workers: int | None = None,
        unreadable: Literal["skip", "stop"] = "skip",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        masks: str | None = None,
        max_train_images: int | None = None,
        max_val_images: int | None = None,
        label_fraction: float | None = None,
        label_seed: int = 0,
        held_out: float | None = None,
    ) -> None:
        """
        Args:
            views: recipe of the training views, by name or spelled out as a list of view specifications; null for
                the method's own.
            image_size: side in pixels of a named recipe's global views and of clean images; null for the data set's.
            batch_size: images per rank and training step.
            eval_batch_size: images per rank and batch wherever clean images are used.
            cache: where decoded images rest: `device` (one tensor on the accelerator, fastest), `ram` (one tensor in
                memory), `none` (workers decode and crop anew in each epoch), or `auto`: `device` for images of one
                size, at most 128 pixels a side and 2 GiB in all (on CUDA at most a quarter of its memory), `none`
                for others.
            num_workers: processes per rank that load; null for none where images are cached, else its share of the
                cores.
            unreadable: what to do with a picture that cannot be decoded: `skip` (name it and go on) or `stop`.
            mean: mean of each channel, for normalisation, on intensities in [0, 1]; null for that of the data set.
            std: standard deviation of each channel; null for that of the data set.
            masks: file with the foreground masks of the training images, written by `scripts/precompute_saliency.py`,
                as given or below PARALLAX_DATA; for recipes that remove background, others do not read it.
            max_train_images: train on a fixed random subset of this size; null for all images.
            max_val_images: validate on a fixed random subset of this size; null for all images.
            label_fraction: train on this share of each class alone, of what `max_train_images` leaves; null for all.
            label_seed: which draw of that share; the run's seed has no part in it.
            held_out: to choose settings by: validate on this share of each class, taken out of training, and leave the
                validation images alone; null for none.
        """
        super().__init__()
        self.views = views
        self.image_size = self.default_image_size if image_size is None else image_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.cache: CacheChoice = cache
        self.num_workers = num_workers
        self.unreadable: Literal["skip", "stop"] = unreadable
        self.mean = list(self.default_mean if mean is None else mean)
        self.std = list(self.default_std if std is None else std)
        self.masks = masks
        self.max_train_images = max_train_images
        self.max_val_images = max_val_images
        self.label_fraction = label_fraction
        self.label_seed = label_seed
        self.held_out = held_out
        self.num_classes: int | None = None
        self.class_names: list[str] | None = None
        self._splits = Splits(cache, unreadable)

    @property
    def specs(self) -> list[ViewSpec]:
        """The recipe of the training views, spelled out; the method's own where none is set."""
        views = self.views or getattr(self.trainer and self.trainer.lightning_module, "recipe", "simclr")
        return recipe(views, self.image_size) if isinstance(views, str) else views

    @property
    def num_train_images(self) -> int:
        """Images in the training set; known after `setup`."""
        return len(self.train_labels)

    @property
    def train_labels(self) -> Tensor:
        """[N] int64 labels of the training images, -1 where unknown; known after `setup`."""
        return self._splits.sources["train"].labels

    @abstractmethod
    def sources(self) -> tuple[Source, Source]:
        """The training and the validation images; `setup` asks once in each process."""

    def setup(self, stage: str | None = None) -> None:
        """Finds the images, and decodes those that are to be cached.

        Args:
            stage: `fit`, `validate`, `test` or `predict`. Training images are decoded for `fit`, otherwise when
                `clean_batches` first needs them.
        """
        sources = self._splits.sources
        if not sources:
            check_arguments(self)
            self._augment = Augment(self.specs, self.mean, self.std, run_seed())
            train, val = self.sources()
            if self.masks and self._augment.removes_background:
                train = MaskedSource(train, self.masks, flags_of(self))
            sources["train"], sources["val"] = taking_part(self, train, val)
            self.num_classes, self.class_names = sources["train"].num_classes, sources["train"].class_names
        if stage in (None, "fit"):
            check_masks(self.masks, self._augment.removes_background, self)
            self._split("train")
        self._split("val")

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training views, beginning where the trainer's counters stand."""
        split = self._split("train")
        sampler = TrainSampler(
            len(split.source),
            self.batch_size,
            *self._place(),
            run_seed(),
            position=partial(next_position, self.trainer) if self.trainer else None,
            reshuffle=not getattr(self.trainer, "overfit_batches", 0),
            order=split.source.order,
        )
        return self._loader(TrainBatches(split, self._augment), sampler, split, keep_workers=True)

    def val_dataloader(self) -> ResumableLoader:
        """Clean validation images, each exactly once over all ranks."""
        return self._clean_loader("val", None, keep_workers=True)

    def test_dataloader(self) -> ResumableLoader:
        """The validation images."""
        return self.val_dataloader()

    def predict_dataloader(self) -> ResumableLoader:
        """The validation images."""
        return self.val_dataloader()

    def clean_batches(
        self, split: SplitName, device: torch.device, max_images: int | None = None, raw: bool = False
    ) -> Iterator[Views]:
        """Clean images of a split, each exactly once over all ranks, all ranks with the same batch sizes.

        Args:
            split: `train` or `val`.
            device: where the views are wanted.
            max_images: only a fixed random subset of this size; None for all images.
            raw: intensities in [0, 1] instead of normalised ones.

        Yields:
            One global view [B, C, image_size, image_size], float32. Rows with index -1 hold no image.
        """
        for batch in self._clean_loader(split, max_images, keep_workers=False):
            yield self._to_views(self._splits.admit(batch).to(device), raw)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Tells of unreadable pictures. Batches that are not of this datamodule pass."""
        return self._splits.admit(batch) if isinstance(batch, RawBatch | Refusal) else batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes `Views` on the device. Batches that are not of this datamodule pass."""
        return self._to_views(batch) if isinstance(batch, RawBatch) else batch

    def teardown(self, stage: str | None = None) -> None:
        """Says how many pictures were skipped, if any."""
        self._splits.summarize()

    def _to_views(self, batch: RawBatch, raw: bool = False) -> Views:
        cache = self._split(batch.split).cache
        images = [cache.gather(batch.index)] if cache and cache.on_device else batch.images
        if batch.draws is None:
            global_views, local_views = [self._clean_view(raw)(images[0])], []
        elif cache:
            global_views, local_views = self._augment(images[0], batch.draws)
        else:
            global_views, local_views = self._augment.finish(images, batch.draws)
        views = Views(global_views, batch.label, batch.index, local_views)
        return self.trainer.precision_plugin.convert_input(views) if self.trainer else views

    def _split(self, name: SplitName) -> Split:
        return self._splits.open(name, self.num_channels, self._device)

    def _clean_view(self, raw: bool = False) -> CleanView:
        if raw:
            return CleanView(self.image_size, [0.0] * self.num_channels, [1.0] * self.num_channels)
        return CleanView(self.image_size, self.mean, self.std)

    def _clean_loader(self, name: SplitName, max_images: int | None, keep_workers: bool) -> ResumableLoader:
        split = self._split(name)
        sampler = EvalSampler(subset_rows(len(split.source), max_images), self.eval_batch_size, *self._place())
        return self._loader(CleanBatches(split, self._clean_view()), sampler, split, keep_workers)

    def _loader(
        self, batches: Dataset, sampler: DistributedSampler, split: Split, keep_workers: bool
    ) -> ResumableLoader:
        num_workers = self.num_workers
        if num_workers is None:
            num_workers = 0 if split.cache else default_workers(self.trainer.num_devices if self.trainer else 1)
        return ResumableLoader(
            batches,
            sampler=sampler,
            batch_size=None,  # the sampler yields whole batches
            num_workers=num_workers,
            pin_memory=self._device.type == "cuda",
            persistent_workers=keep_workers and num_workers > 0,
        )

    def _place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
