"""AdCo in whole runs: the filling of the negatives, the game of the two players, and the passage between them."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks.momentum import MomentumUpdate
from callbacks.queue import QueueUpdate
from datamodules.views import Views
from methods.adco import AdCo
from methods.optim import OptimConfig
from tests.support.methods import small, to_double, views, without_norm
from tests.support.replay import Prepared, quiet_trainer
from tests.support.trajectory import TINY

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def playing(**arguments: Any) -> AdCo:
    """A small AdCo, always with the same weights, whose negatives are full."""
    module = small(AdCo, **arguments)
    assert isinstance(module, AdCo)
    module.negatives.push(torch.randn(module.negatives.weight.shape))
    return module


def test_negatives_climb_their_objective_and_the_encoder_feels_nothing_of_it():
    batch = to_double(views(AdCo))
    module = playing(adversary_weight_decay=0.1).double()
    e = module.embed(batch)
    output = module.contrast(e)
    output.loss.backward()

    W = module.negatives.weight.detach().clone().requires_grad_()
    q, k = e["q"][:, 0].detach(), e["k"][:, 0]
    similarities, own = torch.cat([q @ k.T, q @ F.normalize(W, dim=1).T], dim=1), torch.arange(8)
    torch.testing.assert_close(output.loss, F.cross_entropy(similarities / module.temperature, own), **CLOSE)
    objective = F.cross_entropy(similarities / module.adversary_temperature, own) - 0.05 * (W**2).sum()
    (expected,) = torch.autograd.grad(objective, W)
    torch.testing.assert_close(module.negatives.weight.grad, expected, **CLOSE)

    other = copy.deepcopy(module)
    other.adversary_temperature, other.adversary_weight_decay = 1.0, 0.0
    other.zero_grad()
    other.contrast(other.embed(batch)).loss.backward()
    for (name, p), (_, changed) in zip(module.named_parameters(), other.named_parameters(), strict=True):
        if p.requires_grad and not name.startswith("negatives"):
            torch.testing.assert_close(changed.grad, p.grad, **CLOSE, msg=name)


@pytest.mark.parametrize("arguments", [{}, {"symmetric": True}])
def test_micro_batches_give_the_full_batchs_gradient_in_play(arguments):
    batch = to_double(views(AdCo))
    if not arguments:  # multi-crop
        batch = batch._replace(local_views=[view[..., :12, :12] for view in batch.global_views])
    gradients = []
    for size in (None, 3):
        module = without_norm(playing(micro_batch_size=size, **arguments)).double()
        module.step(batch).loss.backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-12, msg=name)
        assert gradient is not None and gradient.any(), name


def test_bf16_stays_close_in_play():
    batch = views(AdCo)
    module = playing()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.step(batch).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, module.step(batch).loss, rtol=0.05, atol=0.05)


K, B, STEPS = 20, 8, 6  # the third batch has room for 4 of its 8 keys


class Recorder(Callback):
    """After every batch: the negatives, their momentum, the weights of query and key encoder; and the batch's keys."""

    def __init__(self) -> None:
        self.history: dict[str, list[Tensor]] = {"W": [], "v": [], "query": [], "key": []}
        self.keys: list[Tensor | None] = []

    def read(self, module: AdCo) -> None:
        W, optimizer = module.negatives.weight, module.trainer.optimizers[0]
        v = optimizer.state[W].get("momentum_buffer", torch.zeros_like(W))
        key, query = module.ema_pairs()[0].parameters()
        flat = {"query": torch.cat([p.flatten() for p in query]), "key": torch.cat([p.flatten() for p in key])}
        for name, value in ({"W": W, "v": v} | flat).items():
            self.history[name].append(value.detach().clone())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            self.read(pl_module)  # only now have all callbacks acted on the batch before

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        keys = outputs["enqueue"]["negatives"]
        self.keys.append(keys if len(keys) else None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.read(pl_module)


def start() -> tuple[AdCo, list[Views]]:
    """A small AdCo, always with the same weights, and its batches."""
    torch.manual_seed(0)
    optim = OptimConfig("sgd", lr=3.2, options={"momentum": 0.9}, warmup_epochs=0, final_lr_ratio=1.0)
    module = AdCo(backbone=TINY, optim=optim, num_negatives=K, hidden_dim=10, out_dim=4, teacher_momentum=0.9)
    rest = torch.full((B,), -1), torch.arange(B)
    return module, [Views(list(torch.randn(2, B, 6)), *rest) for _ in range(STEPS)]


def fit(
    module: AdCo, batches: list[Views], callbacks: list[Callback], ckpt_path: Any = None, **arguments: Any
) -> Trainer:
    """An epoch of these batches."""
    trainer = quiet_trainer(callbacks, limit_val_batches=0, **arguments)
    trainer.fit(module, datamodule=Prepared(batches, [], num_classes=None), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("order", [(), (MomentumUpdate, QueueUpdate), (QueueUpdate, MomentumUpdate)])
def test_negatives_are_filled_with_the_keys_in_order_and_then_play(order):
    module, batches = start()
    first, recorder = module.negatives.weight.detach().clone(), Recorder()
    fit(module, batches, [*(kind() for kind in order), recorder])
    seen, keys = recorder.history, recorder.keys
    assert [k is not None for k in keys] == [True] * 3 + [False] * 3
    given = torch.cat([k for k in keys if k is not None])
    for step, count in enumerate((8, 16, 20)):
        assert torch.equal(seen["W"][step][:count], given[:count])
        assert torch.equal(seen["W"][step][count:], first[count:])  # untouched by the optimiser, to the bit
        assert not seen["v"][step].any()
        assert torch.equal(seen["key"][step], seen["query"][step]) is (step == 2)  # a copy once all are filled
    for step in (3, 4, 5):
        assert not torch.equal(seen["W"][step], seen["W"][step - 1])
        average = 0.9 * seen["key"][step - 1] + 0.1 * seen["query"][step]
        torch.testing.assert_close(seen["key"][step], average)


@pytest.mark.filterwarnings("ignore:negatives holds")  # the shorter runs end within the filling
@pytest.mark.parametrize("stop", [2, 3, 5])  # the filling under way, just ended, long ended
def test_a_run_resumed_at_any_stage_ends_the_same(stop, tmp_path):
    whole, batches = start()
    fit(whole, batches, [])
    part, _ = start()
    fit(part, batches[:stop], []).save_checkpoint(tmp_path / "part.ckpt")
    resumed, _ = start()
    fit(resumed, batches[stop:], [], tmp_path / "part.ckpt", max_epochs=2)
    expected = whole.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_filling_may_end_within_accumulated_batches():
    module, batches = start()
    recorder = Recorder()
    fit(module, batches, [recorder], accumulate_grad_batches=2)
    seen, keys = recorder.history, recorder.keys
    assert [k is not None for k in keys] == [True] * 3 + [False] * 3
    same = [torch.equal(key, query) for key, query in zip(seen["key"], seen["query"], strict=True)]
    assert same == [True, False, False, True, True, False]  # at first, and from the optimiser step of batches 3 and 4
    assert [bool(v.any()) for v in seen["v"]] == [False] * 3 + [True] * 3  # batch 4 found them full


class NeverWaits(TorchDispatchMode):
    """Refuses to bring a number from the device to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("full", [False, True])
def test_a_step_never_waits_for_the_device(full):
    module, batch = playing() if full else small(AdCo), views(AdCo)
    with NeverWaits():
        output = module.step(batch)
        output.loss.backward()
        for keys in output.enqueue.values():
            module.negatives.push(keys)
