"""The online probe against an optimiser written out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks import OnlineLinearProbe
from datamodules.errors import UserError
from tests.support.replay import Prepared, Replay, batches, quiet_trainer, watch

C, D, B = 3, 4, 7  # classes, features, batch


def made(count: int, seed: int, some_unknown: bool = False) -> tuple[Tensor, Tensor]:
    """Features of three classes, of very different scale in each coordinate, and labels, 4 or 5 known of every 7.

    Never a multiple of three in a batch: a bias whose first gradient is zero but for rounding would be blown up by
    Adam, in fp32 otherwise than in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (count,), generator=generator)
    centre = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0, 1], [0, 0, 2, 1]])
    h = (centre[label] + torch.randn(count, D, generator=generator)) * torch.tensor([1.0, 10, 0.1, 1]) + 3
    if some_unknown:
        label[1::B] = label[4::B] = label[B + 2 :: 2 * B] = -1
    return h, label


class ByHand:
    """Multinomial regression on standardised features with Adam, in float64; Kingma and Ba, algorithm 1."""

    def __init__(self, lr: float, decay: float) -> None:
        self.lr, self.decay, self.t = lr, decay, 0
        self.w = np.zeros((C, D + 1))  # the last column is the bias
        self.m, self.v = np.zeros_like(self.w), np.zeros_like(self.w)
        self.mean, self.var = np.zeros(D), np.ones(D)
        self.right = self.labelled = 0

    def logits(self, h: np.ndarray, mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.c_[(h - mean) / np.sqrt(var + 1e-5), np.ones(len(h))]
        return x, x @ self.w.T

    def learn(self, h: np.ndarray, label: np.ndarray) -> None:
        mean, var = h.mean(0), h.var(0)
        self.mean, self.var = 0.9 * self.mean + 0.1 * mean, 0.9 * self.var + 0.1 * var
        x, logits = self.logits(h, mean, var)
        known = label >= 0
        self.right += int((logits.argmax(1) == label)[known].sum())
        self.labelled += int(known.sum())
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        g = (p - np.eye(C)[label])[known].T @ x[known] / known.sum()
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        step = (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)
        self.w = self.w * (1 - self.lr * self.decay) - self.lr * step

    def top1(self, h: np.ndarray, label: np.ndarray) -> float:
        answers = self.logits(h, self.mean, self.var)[1].argmax(1)
        return float((answers == label)[label >= 0].mean())


@pytest.mark.parametrize("some_unknown", [False, True])
def test_learns_as_written_by_hand(some_unknown):
    (h, label), (val_h, val_label) = made(63, 1, some_unknown), made(150, 2, some_unknown)
    probe = OnlineLinearProbe(lr=0.05, weight_decay=0.1)
    trainer = watch(probe, Prepared(batches(h, label, B), batches(val_h, val_label, 7), C), max_epochs=2)

    by_hand = ByHand(0.05, 0.1)
    for _ in range(2):
        by_hand.right = by_hand.labelled = 0
        for start in range(0, 63, B):
            by_hand.learn(h[start : start + B].double().numpy(), label[start : start + B].numpy())
    weight, bias = probe.layer.weight.detach(), probe.layer.bias.detach()
    np.testing.assert_allclose(torch.cat([weight, bias[:, None]], 1), by_hand.w, rtol=1e-4, atol=1e-5)
    logged = trainer.callback_metrics
    assert float(logged["probe/train_top1"]) == pytest.approx(by_hand.right / by_hand.labelled)  # of the last epoch
    top1 = by_hand.top1(val_h.double().numpy(), val_label.numpy())
    assert float(logged["probe/val_top1"]) == pytest.approx(top1)
    assert top1 > 0.5  # it did learn


def test_a_batch_without_labels_teaches_nothing_and_breaks_nothing():
    h, label = made(14, 1)
    label[:B] = -1
    data = Prepared(batches(h[:B], label[:B], B), batches(h, label, B), C)
    probe = OnlineLinearProbe()
    trainer = watch(probe, data)
    assert not probe.layer.weight.any()
    assert float(trainer.callback_metrics["probe/train_top1"]) != 0  # unknown, which is not zero
    watch(probe, Prepared(batches(h, label, B), data.val, C))
    assert probe.layer.weight.isfinite().all()
    assert probe.layer.weight.any()


def test_without_labels_it_is_off():
    h, label = made(14, 1)
    probe = OnlineLinearProbe()
    trainer = watch(probe, Prepared(batches(h, torch.full_like(label, -1), B), batches(h, label, B), None))
    assert probe.layer is None
    assert not trainer.callback_metrics


def test_several_labels_an_image_are_refused():
    h, label = made(14, 1)
    many = torch.nn.functional.one_hot(label, C)
    with pytest.raises(UserError, match=r"\(7, 3\).*OnlineLinearProbe"):
        watch(OnlineLinearProbe(), Prepared(batches(h, many, B), batches(h, many, B), C))


class Attached(Replay):
    """Returns features that still hang on its parameter, as a careless method might."""

    def training_step(self, batch, batch_idx):
        step = super().training_step(batch, batch_idx)
        return step | {"features": step["features"] * self.number}


def test_leaves_the_method_alone():
    h, label = made(14, 1)
    module, trainer = Attached(D), quiet_trainer([OnlineLinearProbe(lr=1.0)])
    trainer.fit(module, datamodule=Prepared(batches(h, label, B), batches(h, label, B), C))
    assert module.number.item() == pytest.approx(0.8**2)  # two steps on its own loss, number**2, at rate 0.1


def test_two_probes_live_side_by_side():
    h, label = made(14, 1)
    fast, slow = OnlineLinearProbe(lr=0.1, name="fast"), OnlineLinearProbe(lr=0.01, name="slow")
    trainer = quiet_trainer([fast, slow])
    trainer.fit(Replay(D), datamodule=Prepared(batches(h, label, B), batches(h, label, B), C))
    assert {"fast/val_top1", "slow/val_top1"} <= set(trainer.callback_metrics)
    assert fast.state_key != slow.state_key
    assert not torch.equal(fast.layer.weight, slow.layer.weight)


def stopped_and_resumed(tmp_path: Path, data: Prepared, resumed_on: Prepared) -> OnlineLinearProbe:
    """One epoch, a checkpoint, and the second epoch with everything new."""
    watch(OnlineLinearProbe(lr=0.05), data).save_checkpoint(tmp_path / "one.ckpt")
    probe = OnlineLinearProbe(lr=0.05)
    watch(probe, resumed_on, tmp_path / "one.ckpt", max_epochs=2)
    return probe


def test_resumes_where_it_stopped(tmp_path):
    h, label = made(35, 1)
    data = Prepared(batches(h, label, B), batches(h, label, B), C)
    whole = OnlineLinearProbe(lr=0.05)
    watch(whole, data, max_epochs=2)
    probe = stopped_and_resumed(tmp_path, data, data)
    assert torch.equal(probe.layer.weight, whole.layer.weight)
    assert torch.equal(probe.scale.var, whole.scale.var)


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    h, label = made(14, 1)
    data = Prepared(batches(h, label, B), batches(h, label, B), C)
    with pytest.raises(UserError, match="3 classes of 4 features, this run 5 of 4"):
        stopped_and_resumed(tmp_path, data, Prepared(data.train, data.val, 5))
