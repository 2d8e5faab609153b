"""Projectors: biases, norms and shapes."""

import torch
from torch import nn

from methods.modules import mlp


def test_biases_stand_only_where_no_norm_follows():
    head = mlp(6, 5, 4, 3)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias is not None for layer in linear] == [False, False, True]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(6, 5), (5, 4), (4, 3)]


def test_last_norm_scales_and_never_shifts():
    head = mlp(6, 5, 3, last_norm="scale")
    norm = head[-1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert head[-2].bias is None
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.1)
    head(torch.randn(8, 6)).pow(3).sum().backward()
    optimizer.step()
    assert norm.weight.grad is not None
    assert norm.bias.grad is None
    assert not norm.bias.any()
    with torch.no_grad():
        norm.weight.fill_(2.0)
        z = head(torch.randn(64, 6))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, unbiased=False), torch.full((3,), 2.0), atol=0.05, rtol=0)


def test_two_widths_are_one_linear_map():
    (layer,) = mlp(6, 3)
    assert isinstance(layer, nn.Linear)
    assert layer.bias is not None
