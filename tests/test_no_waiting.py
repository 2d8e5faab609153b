"""A training step never makes the host wait for the accelerator. All methods."""

import pytest
import torch
from pytorch_lightning.utilities import move_data_to_device

from methods.modules import EMAPair
from methods.optim import OptimConfig
from tests.support.methods import all_methods, small, views

DEVICE = torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
def test_a_step_does_not_wait(method):
    module = small(method, optim=OptimConfig("lars", lr=0.1, warmup_epochs=0)).to(DEVICE)
    batch = move_data_to_device(views(method), DEVICE)
    optimizer, _ = module.optim.build(module.param_groups(), 8, 10, 10)
    followed = [(pair, *pair.parameters()) for pair in module.ema_pairs()]

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            output = module.step(batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, keys in output.enqueue.items():
            module.get_submodule(name).push(keys.detach())
        for pair, teachers, students in followed:
            follow(pair, teachers, students)

    step()  # what a library sets up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def follow(pair: EMAPair, teachers: list, students: list) -> None:
    torch._foreach_lerp_(teachers, students, 1 - pair.momentum_at(0.5))
