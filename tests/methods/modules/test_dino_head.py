"""DINO's head against numbers from the authors' code."""

import copy

import pytest
import torch

from methods.clipping import clip_each
from methods.modules.dino_head import DINOHead
from tests.support.dino import names, numbers

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def golden_head(norm_last_layer: bool) -> DINOHead:
    g = numbers(f"head/{'normed' if norm_last_layer else 'free'}/param/")
    hidden, in_dim = g["mlp.0.weight"].shape
    K, bottleneck = g["last_layer.weight_v"].shape
    head = DINOHead(in_dim, hidden, bottleneck, K, norm_last_layer).double()
    head.load_state_dict(g)
    return head


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_output_and_gradients(norm_last_layer):
    kind = "normed" if norm_last_layer else "free"
    g, head = numbers(f"head/{kind}/"), golden_head(norm_last_layer)
    x = g["x"].requires_grad_()
    y = head(x)
    torch.testing.assert_close(y, g["y"], **CLOSE)
    (y * g["upstream"]).sum().backward()
    torch.testing.assert_close(x.grad, g["grad_x"], **CLOSE)
    expected = numbers(f"head/{kind}/grad/")
    grads = {name: p.grad for name, p in head.named_parameters() if p.requires_grad}
    assert grads.keys() == expected.keys()  # the length of the prototypes learns only where it is free
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], **CLOSE, msg=name)


def test_each_gradient_is_clipped_by_its_own_norm():
    before, after = numbers("clip/before/"), numbers("clip/after/")
    hidden, in_dim = before["mlp.0.weight"].shape
    K, bottleneck = before["last_layer.weight_v"].shape
    head = DINOHead(in_dim, hidden, bottleneck, K, batch_norm=True).double()
    trained = {name: p for name, p in head.named_parameters() if p.requires_grad}
    assert list(trained) == list(before)
    for name, p in trained.items():
        p.grad = before[name].clone()
    norms = torch.stack([p.grad.norm() for p in trained.values() if p.grad is not None])
    torch.testing.assert_close(norms, numbers()["clip/norms"], **CLOSE)
    clip_each(head.parameters(), float(numbers()["clip/max_norm"]))
    for name, p in trained.items():
        torch.testing.assert_close(p.grad, after[name], **CLOSE, msg=name)
    resting = {id(p) for p in head.last_layer.parameters()}
    assert [name for name, p in trained.items() if id(p) in resting] == names("clip/none_after_cancel_epoch0")


def test_starts_as_the_authors_do():
    head = DINOHead(64, 512, 32, 100)
    for layer in head.mlp[::2]:
        assert isinstance(layer, torch.nn.Linear)
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()
    assert (head.last_layer.weight_g == 1).all()
    assert not head.last_layer.weight_g.requires_grad
    assert head(torch.randn(5, 64)).abs().max() <= 1  # cosines


def test_can_be_copied_after_a_forward_pass():
    head, x = DINOHead(8, 16, 4, 6), torch.randn(3, 8)
    y = head(x)
    assert torch.equal(copy.deepcopy(head)(x), y)
