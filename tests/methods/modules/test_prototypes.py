"""Prototypes on the unit sphere."""

import torch
import torch.nn.functional as F

from methods.modules.prototypes import Prototypes


def test_scores_are_cosines_after_normalisation():
    prototypes = Prototypes(6, 4)
    z = F.normalize(torch.randn(3, 2, 4), dim=-1)
    before = prototypes.weight.detach().clone()
    prototypes.normalize()
    expected = F.cosine_similarity(z[..., None, :], before, dim=-1)
    torch.testing.assert_close(prototypes(z), expected)
    assert prototypes.weight.shape == (6, 4) and prototypes.bias is None


def test_normalisation_keeps_the_parameter_and_its_gradient():
    prototypes = Prototypes(6, 4)
    weight = prototypes.weight
    prototypes.normalize()
    prototypes(torch.randn(3, 4)).square().sum().backward()
    assert prototypes.weight is weight and weight.requires_grad
    assert weight.grad is not None and weight.grad.any()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(6))


def test_scores_are_taken_in_full_precision():
    prototypes, z = Prototypes(6, 4), torch.randn(3, 4)
    expected = prototypes(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypes(z), expected)
