"""DCL's arguments reach its loss, which is in tests/methods/losses/test_decoupled.py."""

import pytest
import torch

from datamodules.errors import UserError
from methods.dcl import DCL
from methods.losses.decoupled import decoupled_nt_xent
from tests.support.methods import small, views


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_loss(sigma):
    module = small(DCL, temperature=0.3, sigma=sigma)
    assert isinstance(module, DCL)
    e = module.embed(views(DCL))
    torch.testing.assert_close(e["z1"].norm(dim=1), torch.ones(8))
    torch.testing.assert_close(module.contrast(e).loss, decoupled_nt_xent(e["z1"], e["z2"], 0.3, sigma))
    assert float(module.contrast(e).loss.detach()) != pytest.approx(
        float(decoupled_nt_xent(e["z1"], e["z2"], 0.3, None if sigma else 0.5).detach()), rel=1e-4
    )


def test_says_what_is_wrong():
    with pytest.raises(UserError, match="sigma=0"):
        small(DCL, sigma=0.0)
