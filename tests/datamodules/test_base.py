"""Batches as the method gets them, with Lightning around the datamodule and without."""

import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from datamodules.augment import ViewSpec
from datamodules.errors import UserError
from datamodules.views import Views
from tests.datamodules.toys import Recorder, Stereo, Toy, epoch, trainer

CACHES = ["device", "ram", "none"]
NO_JITTER = [ViewSpec(size=16, count=2, interpolation="bilinear")]


def same(left: list[Views], right: list[Views]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.index, b.index)
        and torch.equal(a.label, b.label)
        and all(torch.equal(x, y) for x, y in zip(a.global_views, b.global_views, strict=True))
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("cache", CACHES)
def test_a_training_batch(cache):
    batches = epoch(Toy(cache=cache))
    assert len(batches) == 5
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(40))
    for batch in batches:
        assert torch.equal(batch.label, batch.index % 3)
        assert [view.shape for view in batch.global_views] == [(8, 3, 16, 16)] * 2
        assert batch.global_views[0].dtype == torch.float32
        assert not torch.equal(*batch.global_views)


def test_caches_on_device_and_in_memory_agree_exactly():
    assert same(epoch(Toy(cache="device")), epoch(Toy(cache="ram")))


def test_workers_crops_differ_from_batched_ones_by_their_rounding():
    cached, decoded = epoch(Toy(views=NO_JITTER)), epoch(Toy(views=NO_JITTER, cache="none"))
    for a, b in zip(cached, decoded, strict=True):
        assert torch.equal(a.index, b.index)
        for x, y in zip(a.global_views, b.global_views, strict=True):
            assert (x - y).abs().max() * 0.25 * 255 < 2  # 0.25 is the std of the normalisation


@pytest.mark.parametrize("cache", CACHES)
def test_workers_change_nothing(cache):
    assert same(epoch(Toy(cache=cache)), epoch(Toy(cache=cache, num_workers=2)))


def test_multi_crop_and_any_number_of_channels():
    specs = [ViewSpec(size=16, count=2, jitter=1.0, brightness=0.4), ViewSpec(size=8, count=3, role="local")]
    for cache in CACHES:
        batch = epoch(Stereo(views=specs, cache=cache))[0]
        assert [view.shape for view in batch.global_views] == [(8, 2, 16, 16)] * 2
        assert [view.shape for view in batch.local_views] == [(8, 2, 8, 8)] * 3


@pytest.mark.parametrize("loop", ["validate", "test", "predict"])
@pytest.mark.parametrize("cache", CACHES)
def test_evaluation_sees_every_clean_image_once(loop, cache):
    data, module = Toy(cache=cache), Recorder()
    getattr(trainer(), loop)(module, data, **({} if loop == "predict" else {"verbose": False}))
    index = torch.cat([batch.index for batch in module.other_batches])
    assert index.tolist() == list(range(20))
    images = torch.cat([batch.global_views[0] for batch in module.other_batches])
    expected = data.sources()[1].images.float() / 255
    assert (images * 0.25 + 0.5 - expected).abs().max() < 1e-6


@pytest.mark.parametrize("cache", CACHES)
def test_clean_batches_of_ranks_partition_the_split(cache, monkeypatch):
    seen = []
    for rank in range(3):
        data = Toy(cache=cache)
        data.setup("validate")
        monkeypatch.setattr(data, "_place", lambda rank=rank: (rank, 3))
        batches = list(data.clean_batches("train", torch.device("cpu")))
        assert [len(batch.index) for batch in batches] == [8, 6]
        assert all(torch.equal(batch.label == -1, batch.index == -1) for batch in batches)
        seen += [i for batch in batches for i in batch.index.tolist()]
    assert sorted(seen) == [-1, -1, *range(40)]


def test_clean_batches_of_a_fixed_subset_and_raw():
    data = Toy()
    data.setup("fit")
    subset = [
        torch.cat([b.index for b in data.clean_batches("train", torch.device("cpu"), max_images=11)]) for _ in range(2)
    ]
    assert torch.equal(*subset) and len(set(subset[0].tolist())) == 11
    raw = next(data.clean_batches("train", torch.device("cpu"), raw=True)).global_views[0]
    assert (raw * 255 - data.sources()[0].images[:8]).abs().max() < 1e-3


def test_subsets_do_not_depend_on_the_run():
    kept = []
    for seed in (1, 2):
        seed_everything(seed, verbose=False)
        data = Toy(max_train_images=12, max_val_images=5)
        batches = epoch(data)
        assert len(batches) == 1 and max(batches[0].index.tolist()) < 12
        kept.append(torch.cat([b.global_views[0] for b in data.clean_batches("train", torch.device("cpu"))]))
        assert sum(len(b.index) for b in data.clean_batches("val", torch.device("cpu"))) == 5
    assert torch.equal(*kept)


def test_what_a_data_set_tells_of_itself():
    data = Toy()
    assert data.num_channels == 3 and data.num_classes is None
    data.setup("fit")
    assert data.num_classes == 3 and data.class_names == ["a", "b", "c"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true", "bf16-true"])
def test_views_have_the_precision_of_the_model_and_are_made_in_full(precision):
    module, reference = Recorder(), epoch(Toy())[0]
    trainer(precision=precision, limit_train_batches=1).fit(module, Toy())
    view = module.train_batches[0][1].global_views[0]
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert view.dtype == dtype
    assert torch.equal(view, reference.global_views[0].to(dtype))


def test_lightning_leaves_the_samplers_alone():
    module, data = Recorder(), Toy()
    trainer(overfit_batches=2, max_epochs=2).fit(module, data)
    epochs = [[batch.index.tolist() for _, batch in module.train_batches[i : i + 2]] for i in (0, 2)]
    assert epochs[0] == epochs[1] == [batch.index.tolist() for batch in epoch(Toy())[:2]]
    assert not torch.equal(module.train_batches[0][1].global_views[0], module.train_batches[2][1].global_views[0])

    module = Recorder()
    trainer(fast_dev_run=True).fit(module, Toy())
    assert [len(batch.index) for _, batch in module.train_batches] == [8]


class Interrupt(Callback):
    """Stops the run before a step, as a preemption would, and saves."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def history(module: Recorder) -> list[tuple[int, list[int], float]]:
    return [(step, b.index.tolist(), float(b.global_views[0].double().sum())) for step, b in module.train_batches]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("when", "options"),
    [
        ({"every_n_train_steps": 1}, {"max_epochs": 2}),
        ({"every_n_train_steps": 1}, {"max_epochs": 2, "limit_train_batches": 3}),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {"max_epochs": 3}),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {"max_epochs": -1, "max_steps": 14}),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": False}, {"max_epochs": 3}),
    ],
    ids=["steps", "short epochs", "epoch ends", "epoch ends of a run by steps", "validation ends"],
)
def test_resumed_runs_see_what_the_uninterrupted_run_saw(when, options, num_workers, tmp_path):
    def fit(checkpoint=None, **more):
        seed_everything(3, verbose=False)
        module = Recorder()
        fitted = trainer(default_root_dir=tmp_path, **options, **more)
        fitted.fit(
            module, Toy(num_workers=num_workers), ckpt_path=checkpoint, weights_only=False if checkpoint else None
        )
        return history(module)

    saving = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)
    whole = fit(callbacks=[saving], enable_checkpointing=True)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) > 1
    for checkpoint in checkpoints:
        step = int(checkpoint.stem.removeprefix("step="))
        assert fit(str(checkpoint)) == whole[step:], checkpoint.stem


def test_a_step_that_was_interrupted_is_done_again(tmp_path):
    seed_everything(3, verbose=False)
    whole, part, rest = Recorder(), Recorder(), Recorder()
    trainer(max_epochs=2).fit(whole, Toy())
    stopped = trainer(max_epochs=2, callbacks=[Interrupt(7)])
    with pytest.raises(SystemExit):
        stopped.fit(part, Toy())
    stopped.save_checkpoint(tmp_path / "x.ckpt")
    trainer(max_epochs=2).fit(rest, Toy(), ckpt_path=str(tmp_path / "x.ckpt"), weights_only=False)
    assert history(part) + history(rest) == history(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": "simclrr"}, "simclrr.*simclr"),
        ({"batch_size": 0}, "data.batch_size is 0; it must be at least 1"),
        ({"mean": [0.5]}, r"data.mean is \[0.5\], but the images have 3 channel"),
        ({"max_train_images": 0}, "0 images were asked for; at least 1"),
        ({"batch_size": 64}, "40 training images, fewer than one batch of 64: set data.batch_size to at most 40"),
        ({"num_images": 0}, "no training images"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        epoch(Toy(**arguments))
