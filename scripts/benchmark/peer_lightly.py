"""A training run through lightly's public components, the way its own CIFAR-10 benchmark puts them together.

`peers.py` starts it beside ours and hands it a `Run` as JSON. Networks (without a ReLU behind the first convolution),
heads, losses, views, optimiser and schedule are those of lightly's benchmark script, in today's components, without its
kNN at validation. Where the script does more than our method, it is brought to the same work: MoCo's loss takes one
direction, as the paper's does, not both; images lie in memory as pixels, so that no file is read or decoded.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models import ResNetGenerator
from lightly.models.batchnorm import get_norm_layer
from lightly.models.modules import heads
from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, SimCLRTransform
from PIL import Image
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from datamodules.loading import default_workers
from methods.backbones import BackboneConfig, build_backbone
from scripts.benchmark.epochs import EpochClock, Run, training_images

SPLITS = 8  # groups of the batch whose statistics MoCo's BatchNorm takes apart


class Pictures(Dataset):
    """Labelled PIL images, made from pixels as torchvision's CIFAR-10 does."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """
        Args:
            images: [N, 3, H, W] uint8.
            labels: [N].
        """
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform: Callable[[Image.Image], Any] | None = None  # set by lightly

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        assert self.transform is not None
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def backbone(config: BackboneConfig, splits: int = 0) -> tuple[nn.Module, int]:
    """Lightly's ResNet-18 for small images, or our small network with lightly's norms, and the number of features."""
    if config.name == "resnet18":
        layers = list(ResNetGenerator("resnet-18", num_splits=splits).children())[:-1]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512
    network: Any = build_backbone(config)
    for place, layer in enumerate(network.layers):
        if isinstance(layer, nn.BatchNorm2d):
            network.layers[place] = get_norm_layer(layer.num_features, splits)
    return network, network.feature_dim


class Benchmark(LightningModule):
    """SGD with a cosine an epoch, over all that learns."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.rate = 0.06 * batch_size / 128

    def configure_optimizers(self) -> Any:
        """As for all methods of the benchmark but two."""
        learning = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=self.rate, momentum=0.9, weight_decay=5e-4)
        assert self.trainer.max_epochs is not None
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Takes both views and logs the loss."""
        (x0, x1), _, _ = batch
        loss = self.loss(x0, x1)
        self.log("train_loss_ssl", loss)
        return loss

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Scalar loss of two views [B, 3, H, W]."""
        raise NotImplementedError


class LightlySimCLR(Benchmark):
    """NT-Xent within the batch."""

    def __init__(self, config: BackboneConfig, batch_size: int) -> None:
        super().__init__(batch_size)
        network, dim = backbone(config)
        self.online = nn.Sequential(network, heads.SimCLRProjectionHead(dim, 512, 128))
        self.criterion = NTXentLoss(temperature=0.5)

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        """One view after the other."""
        return self.criterion(self.online(x0), self.online(x1))


class LightlyMoCo(Benchmark):
    """Keys shuffled, BatchNorm in groups, negatives from lightly's memory bank."""

    def __init__(self, config: BackboneConfig, batch_size: int) -> None:
        super().__init__(batch_size)
        network, dim = backbone(config, SPLITS)
        self.online = nn.Sequential(network, heads.MoCoProjectionHead(dim, 512, 128))
        self.slow = copy.deepcopy(self.online)
        deactivate_requires_grad(self.slow)
        self.criterion = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128))

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The first view is the query; the memory bank takes its key at once."""
        update_momentum(self.online, self.slow, 0.99)
        shuffled, order = batch_shuffle(x1)
        query = self.online(x0)
        return self.criterion(query, batch_unshuffle(self.slow(shuffled), order))


class LightlyBYOL(Benchmark):
    """Every view through both networks."""

    def __init__(self, config: BackboneConfig, batch_size: int) -> None:
        super().__init__(batch_size)
        network, dim = backbone(config)
        self.online = nn.Sequential(network, heads.BYOLProjectionHead(dim, 1024, 256))
        self.slow = copy.deepcopy(self.online)
        deactivate_requires_grad(self.slow)
        self.predictor = heads.BYOLPredictionHead(256, 1024, 256)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Mean of both directions."""
        update_momentum(self.online, self.slow, 0.99)
        p0, p1 = (self.predictor(self.online(x)) for x in (x0, x1))
        z0, z1 = (self.slow(x).detach() for x in (x0, x1))
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


METHODS: dict[str, Callable[[BackboneConfig, int], Benchmark]] = {
    "SimCLR": LightlySimCLR,
    "MoCo": LightlyMoCo,
    "BYOL": LightlyBYOL,
}


def views(method: str) -> Callable[[Image.Image], Any]:
    """The views of the benchmark, for 32 px: no blur."""
    if method == "BYOL":
        return BYOLTransform(BYOLView1Transform(32, gaussian_blur=0.0), BYOLView2Transform(32, gaussian_blur=0.0))
    return SimCLRTransform(32, cj_strength=0.5, gaussian_blur=0.0)


def main() -> None:
    run = Run(**json.loads(sys.argv[1]))
    seed_everything(0, verbose=False)
    dataset: Any = LightlyDataset.from_torch_dataset(Pictures(*training_images(run)), transform=views(run.method))
    loader = DataLoader(dataset, run.batch_size, shuffle=True, drop_last=True, num_workers=default_workers(1))
    trainer = Trainer(
        accelerator="gpu" if run.device == "cuda" else run.device,
        devices=1,
        precision=run.precision,  # pyright: ignore[reportArgumentType]
        max_epochs=run.epochs,
        logger=TensorBoardLogger(run.folder),
        callbacks=[ModelCheckpoint(Path(run.folder) / "checkpoints"), EpochClock(run.clock)],
    )
    trainer.fit(METHODS[run.method](BackboneConfig(**run.backbone), run.batch_size), loader)


if __name__ == "__main__":
    main()
