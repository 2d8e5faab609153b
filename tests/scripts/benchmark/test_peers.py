"""Both sides train the same on the same, the clock leaves the warm-up out, and ratios are those of each round."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Callback

import methods
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.optim import OptimConfig
from scripts.benchmark import epochs, peer_lightly, peers
from scripts.benchmark.epochs import EpochClock, Generated, Run, training_images
from scripts.benchmark.peers import CASES, CONVNET, METHODS, PEERS, RESNET18, SGD, compare, main, our_config
from scripts.reproduce import ROOT
from tests.callbacks.toy_run import BlobData, ToyModule, toy_trainer

RUN = Run("SimCLR", CONVNET, "32-true", "cpu", batch_size=4, num_images=10, epochs=2, path=None)


def shapes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Of all weights that learn; biases and norms differ where a library adds one that does nothing."""
    return sorted(tuple(p.shape) for p in module.parameters() if p.requires_grad and p.ndim > 1)


@pytest.mark.parametrize("backbone", [RESNET18, CONVNET], ids=["resnet18", "convnet"])
@pytest.mark.parametrize("method", METHODS)
def test_both_sides_train_weights_of_the_same_shapes(method, backbone):
    config = BackboneConfig(**backbone)
    ours = getattr(methods, method)(backbone=config, optim=OptimConfig(**SGD), **METHODS[method])
    theirs = peer_lightly.METHODS[method](config, 4)
    assert shapes(ours) == shapes(theirs)
    if method == "MoCo":
        assert ours.queue.keys.shape == theirs.criterion.memory_bank.bank.shape


@pytest.mark.parametrize("method", METHODS)
def test_theirs_learns_from_two_views(method):
    transform = peer_lightly.views(method)
    dataset = peer_lightly.Pictures(*training_images(RUN))
    dataset.transform = transform
    pairs = [dataset[i][0] for i in range(8)]
    x0, x1 = (torch.stack(view) for view in zip(*pairs, strict=True))
    assert x0.shape == (8, 3, 32, 32)
    module = peer_lightly.METHODS[method](BackboneConfig(**CONVNET), 8)
    module.loss(x0, x1).backward()
    assert all((p.grad is not None) == p.requires_grad for p in module.parameters())


def test_theirs_sees_the_pixels_of_our_data_module():
    images, labels = training_images(RUN)
    dataset = peer_lightly.Pictures(images, labels)
    dataset.transform = lambda image: image
    image, label = dataset[3]
    assert isinstance(image, Image.Image)
    assert image.getpixel((5, 2)) == tuple(images[3, :, 2, 5].tolist())
    data = Generated(10, batch_size=10)
    data.setup("fit")
    seen = next(iter(data.clean_batches("train", torch.device("cpu"), raw=True)))
    assert isinstance(seen, Views)
    torch.testing.assert_close(seen.global_views[0], images / 255)
    assert torch.equal(seen.label, labels) and label == labels[3]


def test_ours_runs_with_all_default_callbacks_and_the_clock():
    defaults = yaml.safe_load((ROOT / "configs" / "defaults.yaml").read_text())["trainer"]
    config = our_config(RUN)
    names = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert names == [c["class_path"] for c in defaults["callbacks"]] + ["scripts.benchmark.epochs.EpochClock"]
    assert set(config["trainer"]) - set(defaults) == {
        *("accelerator", "devices", "precision", "max_epochs", "limit_val_batches")
    }


class Time(Callback):
    """A clock that runs 100 s in every batch of the first epoch, and 1 s in every other batch."""

    now = 0.0

    def on_train_batch_end(self, trainer, *_):
        self.now += 1 if trainer.current_epoch else 100


def test_the_clock_leaves_the_first_epoch_out(tmp_path, monkeypatch):
    clock = Time()
    monkeypatch.setattr(epochs, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    path = tmp_path / "clock.json"
    trainer = toy_trainer(tmp_path, [clock, EpochClock(str(path))], epochs=3, limit_val_batches=0)
    trainer.fit(ToyModule(), datamodule=BlobData())
    facts = json.loads(path.read_text())
    assert facts["seconds"] == 96 / 16  # batches of an epoch
    assert facts["host_mib"] > 50
    assert facts["device_mib"] is None


def test_sides_take_turns_and_ratios_are_those_of_each_round(monkeypatch):
    rates = iter([30.0, 10.0, 80.0, 20.0, 20.0, 10.0])
    trained = []

    def train(command, run):
        trained.append((command(run)[1], run.precision))
        return {"images_per_second": next(rates), "host_mib": 1.0, "device_mib": None}

    monkeypatch.setattr(peers, "train", train)
    monkeypatch.setattr(peers, "ours", lambda run: ["python", "ours"])
    result = compare("resnet18-bf16", RUN, "lightly", rounds=3)
    lightly = str(ROOT / "scripts" / "benchmark" / "peer_lightly.py")
    assert trained == [("ours", "bf16-mixed"), (lightly, "32-true")] * 3
    assert (result.ratio, result.ratio_min, result.ratio_max) == (3, 2, 4)
    assert (result.ours_images_per_second, result.theirs_images_per_second) == (30, 10)
    assert result.ours_device_mib is None
    assert "3.00 (2.00 to 4.00)" in result.line()


def test_cases_of_an_accelerator_wait_for_one(monkeypatch, capsys):
    facts = {"images_per_second": 1.0, "host_mib": 1.0, "device_mib": 2.0}
    monkeypatch.setattr(peers, "train", lambda command, run: facts)
    main(["--methods", "BYOL", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "resnet18: BYOL" in printed and "convnet: BYOL" in printed
    assert "resnet18-half" not in printed
    main(["--methods", "BYOL", "--rounds", "1", "--device", "cuda", "--only", "resnet18-half"])
    assert "on the device 2 / 2" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--images", "100", "--batch-size", "128"], ["--epochs", "0"]])
def test_runs_with_nothing_to_time_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    assert "at least the batch size, 128, --epochs and --rounds at least 1" in capsys.readouterr().err


def test_other_libraries_are_found_by_their_file():
    assert PEERS == ["lightly"]
    assert all((Path(peers.__file__).parent / f"peer_{peer}.py").is_file() for peer in PEERS)
    assert set(CASES) == {"resnet18", "resnet18-bf16", "resnet18-both-bf16", "resnet18-half", "convnet"}


@pytest.mark.slow
@pytest.mark.process
def test_real_runs_of_both_sides_are_compared(tmp_path):
    out = tmp_path / "peers.json"
    sizes = ["--images", "64", "--batch-size", "16", "--rounds", "1"]
    main(["--only", "convnet", "--methods", "MoCo", *sizes, "--out", str(out)])
    (row,) = json.loads(out.read_text())["results"]
    assert row["case"] == "convnet" and row["method"] == "MoCo"
    assert min(row["ours_images_per_second"], row["theirs_images_per_second"], row["ratio"]) > 0
    assert min(row["ours_host_mib"], row["theirs_host_mib"]) > 100
