"""Small checkpoints to export, of networks whose every number differs from a fresh network's, and how it is done."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.backbones import BackboneConfig
from methods.base import SSLModule
from methods.pretrained import Pretrained
from scripts import export
from tests.support.methods import small

IMAGES = {"data": "CIFAR10", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "image_size": 16, "num_channels": 3}
CIFAR_RESNET = BackboneConfig("resnet18", small_images=True)


def stir(network: nn.Module) -> nn.Module:
    """Moves statistics and weights a little, and ends training."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "running" in name:
                tensor.add_(torch.rand_like(tensor) * 0.1)
            elif tensor.is_floating_point():
                tensor.mul_(1 + torch.rand_like(tensor) * 0.1)
    return network.eval()


def make(method: type[SSLModule], folder: Path, images: dict[str, Any] | None = IMAGES, **arguments: Any) -> Any:
    """A module of a method, its networks at random, and its checkpoint in the folder, as `last.ckpt`."""
    module = small(method, **arguments)
    module.configure_model()
    stir(module)
    saved = {
        "epoch": 3,
        "global_step": 77,
        "method": method.__name__,
        "images": images,
        "hyper_parameters": {**module.hparams, "_class_path": f"methods.{method.__name__}"},
        "state_dict": module.state_dict(),
    }
    torch.save(saved, folder / "last.ckpt")
    return module


def pretrained(network: nn.Module, config: BackboneConfig) -> Pretrained:
    """A network as `load_backbone` would give it."""
    return Pretrained(stir(network), config, "SimCLR, step 77", "backbone", 1, (), None, "local")


def lines_of(card: Path) -> str:
    """The Python of a model card."""
    return card.read_text().split("```python\n")[1].split("```")[0]


def features(code: str, images: Tensor) -> Tensor:
    """What a card's lines make of images."""
    names: dict[str, Any] = {"images": images}
    exec(code, names)
    return torch.as_tensor(names["features"])


def command(monkeypatch: pytest.MonkeyPatch, *flags: Any) -> None:
    """Runs the script with these flags, in this process."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, flags)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    export.main()


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: Any) -> str:
    """What the script answers to flags that it refuses: one sentence, and nothing else."""
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *flags)
    told = capsys.readouterr()
    assert stopped.value.code == 2 and not told.out and told.err.count("\n") == 1
    return told.err


def images(B: int = 5, side: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(B, channels, side, side)


def assert_same(code: str, network: torch.nn.Module, *batches: Tensor) -> None:
    for batch in batches:
        with torch.no_grad():
            torch.testing.assert_close(features(code, batch), network(batch), rtol=0, atol=1e-5)
