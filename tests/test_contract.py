"""What every method owes the house: one suite over all of them."""

import copy
import inspect

import pytest
import torch
from pytorch_lightning import LightningModule

from methods.base import SSLModule
from methods.contrastive import ContrastiveModule
from tests.support.methods import all_methods, arguments, contrastive_methods, small, to_double, views, without_norm

every_method = pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)


@every_method
def test_step_gives_a_finite_loss_and_features(method):
    module, batch = small(method), views(method)
    output = module.step(batch)
    assert output.loss.ndim == 0
    assert output.loss.isfinite()
    assert output.features.shape == (len(batch.label), module.feature_dim)
    assert output.positives is None or output.positives.shape == output.features.shape
    assert module(batch.global_views[0]).shape == output.features.shape
    assert all(value.ndim == 0 for value in output.logs.values())


@every_method
def test_every_trainable_parameter_learns_and_no_other(method):
    module, batch = small(method), views(method)
    for _ in range(4):  # a first phase may be without some of them: AdCo's negatives are filled before they learn
        module.zero_grad()
        output = module.step(batch)
        output.loss.backward()
        for name, keys in output.enqueue.items():
            module.get_submodule(name).push(keys.detach())
    without = [
        name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not without
    assert not frozen
    grouped = [p for group in module.param_groups() for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in module.parameters() if p.requires_grad}


@every_method
def test_state_dict_holds_all_of_the_state(method):
    module, fresh, batch = small(method), small(method), views(method)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn_like(value).abs() * 0.1)
    fresh.load_state_dict(module.state_dict(), strict=True)
    torch.manual_seed(1)
    expected = module.step(batch).loss
    torch.manual_seed(1)
    assert torch.equal(fresh.step(batch).loss, expected)


@every_method
def test_arguments_are_documented_and_saved_as_plain_data(method, tmp_path):
    for name in arguments(method):
        owner = next(
            c for c in method.__mro__ if issubclass(c, SSLModule) and name in inspect.signature(c.__init__).parameters
        )
        text = inspect.getdoc(owner.__init__) or ""
        assert f"{name}:" in text, f"{owner.__name__}.__init__ does not document {name}"
    module = small(method)
    checkpoint = {"pytorch-lightning_version": "2.6", "hyper_parameters": dict(module.hparams_initial)}
    torch.save(checkpoint | {"state_dict": module.state_dict()}, tmp_path / "m.ckpt")
    again = method.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert again.optim == module.optim
    assert torch.equal(again.step(views(method)).loss, module.step(views(method)).loss)


@every_method
def test_loss_falls_on_eight_images(method):
    module, batch = small(method), views(method)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)
        loss = module.step(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05 * abs(losses[0])


@every_method
def test_bf16_stays_close(method):
    module, batch = small(method), views(method)
    torch.manual_seed(0)
    expected = copy.deepcopy(module).step(batch).loss
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.step(batch).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)


@every_method
def test_only_the_announced_members_are_overridden(method):
    allowed = {
        "__init__",
        "step",
        "embed",
        "contrast",
        "ema_pairs",
        "param_groups",
        "networks",
        "resting_parameters",
        "forward",
        "recipe",
        "num_global_views",
        "takes_local_views",
    }
    hooks = {name for name in vars(LightningModule) if not name.startswith("_")}
    changed = {
        name for name in vars(method) if name in hooks or name in vars(SSLModule) or name in vars(ContrastiveModule)
    }
    dunder_noise = {"__module__", "__doc__", "__abstractmethods__", "_abc_impl", "__parameters__", "__annotations__"}
    assert changed - allowed - dunder_noise <= {"__firstlineno__", "__static_attributes__"}


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("method", contrastive_methods(), ids=lambda m: m.__name__)
def test_micro_batches_give_the_full_batchs_loss_and_gradient(method, size):
    batch = to_double(views(method))
    whole = without_norm(small(method)).double()
    chunked = without_norm(small(method, micro_batch_size=size)).double()
    torch.manual_seed(0)
    expected = whole.step(batch)
    expected.loss.backward()
    torch.manual_seed(0)
    output = chunked.step(batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(output.features, expected.features, rtol=1e-10, atol=1e-12)
    for name, keys in expected.enqueue.items():
        torch.testing.assert_close(output.enqueue[name], keys, rtol=1e-10, atol=1e-12)
    for (name, p), (_, q) in zip(whole.named_parameters(), chunked.named_parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-12, msg=name)
