"""BatchNorm over ranks, and teachers that see shuffled images: goldens on one and two ranks, plain BatchNorm."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from methods.modules.norms import convert_norms, shuffled
from tests.support.norms import EXACT, learnt, norm, randomised
from tests.support.ranks import on_ranks

# --- statistics of all ranks


def sync_on_rank(this: int, sizes: list[int], device: str, layer: nn.Module, x: Tensor, upstream: Tensor) -> dict:
    own = slice(sum(sizes[:this]), sum(sizes[: this + 1]))
    layer = copy.deepcopy(layer).to(device)  # what was sent to the ranks lies in memory that they share
    answer = learnt(DistributedDataParallel(layer), x[own].to(device), upstream[own].to(device))
    answer = {name.replace("module.", ""): value for name, value in answer.items()}
    answer["evaluated"] = layer.eval()(x[own].to(device))
    return {name: value.detach().cpu().numpy() for name, value in answer.items()}


def synchronised(sizes: list[int], layer: nn.Module, x: Tensor, upstream: Tensor, device: str = "cpu") -> dict:
    """`learnt` of two ranks as of one process: rows joined, averaged gradients made sums, buffers seen to be equal."""
    first, second = on_ranks(2, sync_on_rank, sizes, device, layer, x, upstream)
    joined = {}
    for name, value in first.items():
        mine, other = torch.from_numpy(value), torch.from_numpy(second[name])
        if name in ("out", "grad_x", "evaluated"):
            joined[name] = torch.cat([mine, other])
        else:
            assert torch.equal(mine, other), name
            joined[name] = 2 * mine if name.startswith("grad") else mine
    return joined


ACCELERATOR = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")]
)


@pytest.mark.ddp
@pytest.mark.parametrize("device", ["cpu", ACCELERATOR])
def test_sync_has_the_full_batch_statistics_of_the_golden(golden, device):
    g = golden("bn_variants")
    layer = norm("sync")
    layer.load_state_dict({"weight": g["sync_weight"], "bias": g["sync_bias"]}, strict=False)
    answer = synchronised([4, 4], layer, g["x"], g["sync_upstream"], device)
    for name in ("out", "grad_x", "running_mean", "running_var"):
        assert_close(answer[name], g[f"sync_{name}"], **EXACT)


@pytest.mark.ddp
@pytest.mark.parametrize("momentum", [0.1, None])
def test_sync_of_ragged_ranks_is_batchnorm_of_all_rows(momentum):
    layers = (
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.Conv2d(4, 3, 1),
        nn.BatchNorm2d(3, affine=False),
    )
    whole = randomised(nn.Sequential(*layers)).double()
    x = 1e3 + torch.randn(7, 3, 2, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    upstream = torch.randn_like(x)
    answer = synchronised([5, 2], convert_norms(copy.deepcopy(whole), "sync"), x, upstream)
    expected = learnt(whole, x, upstream)
    expected["evaluated"] = whole.eval()(x).detach()
    assert_close(answer, expected, rtol=1e-9, atol=1e-9)


def test_sync_on_one_process_is_batchnorm():
    x, upstream = torch.randn(2, 6, 5, dtype=torch.float64)
    local, sync = randomised(norm("local")), norm("sync")
    sync.load_state_dict(local.state_dict())
    assert_close(learnt(sync, x, upstream), learnt(local, x, upstream), rtol=0, atol=0)
    assert torch.equal(sync.eval()(x), local.eval()(x))


def bf16_on_rank(this: int, x: Tensor) -> dict:
    layer = convert_norms(nn.BatchNorm2d(3), "sync")
    own = x[this::2].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(own)
    out.float().square().sum().backward()
    types = [str(t.dtype) for t in (out, own.grad, layer.weight.grad, layer.running_mean)]
    return {"types": types, "mean": layer.running_mean.numpy(), "out": out.detach().float().numpy()}


@pytest.mark.ddp
def test_sync_takes_bf16_with_statistics_in_fp32():
    x = (10 + torch.randn(64, 3, 2, 2)).bfloat16()
    first, second = on_ranks(2, bf16_on_rank, x)
    assert first["types"] == ["torch.bfloat16", "torch.bfloat16", "torch.float32", "torch.float32"]
    reference = nn.BatchNorm2d(3)
    out = reference(x)  # torch's own in the same precision
    assert_close(torch.from_numpy(first["mean"]), reference.running_mean, rtol=1e-6, atol=0)
    assert_close(torch.from_numpy(second["out"]), out[1::2].float(), rtol=0, atol=2**-7)


# --- shuffling


def shuffle_on_rank(this: int, x: Tensor, order: Tensor) -> dict:
    torch.randperm = lambda n, **_: order if this == 0 else torch.arange(n)  # rank 0's order must reach the other
    layer, seen = norm("shuffle"), []

    def network(inputs: tuple[Tensor, Tensor]) -> dict[str, list[Tensor]]:
        seen.append(inputs[0])
        return {"out": [layer(inputs[0])], "maps": [inputs[1]]}

    own = x[4 * this : 4 * this + 4].clone().requires_grad_()
    maps = torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)
    answer = shuffled(network, (own, maps))
    assert torch.equal(answer["maps"][0], maps)  # the round trip is the identity
    assert not answer["out"][0].requires_grad
    return {"seen": seen[0].numpy(), "out": answer["out"][0].numpy()} | {
        name: getattr(layer, name).numpy() for name in ("running_mean", "running_var")
    }


@pytest.mark.ddp
def test_shuffle_equals_the_authors_code_on_two_ranks(golden):
    g = golden("bn_variants")
    answers = on_ranks(2, shuffle_on_rank, g["x"], g["idx_shuffle"])
    for this, answer in enumerate(answers):
        assert_close(torch.from_numpy(answer["seen"]), g[f"shuffled_r{this}"], rtol=0, atol=0)
        assert_close(torch.from_numpy(answer["out"]), g["bn_shuffled"][4 * this : 4 * this + 4], **EXACT)
        for name in ("running_mean", "running_var"):
            assert_close(torch.from_numpy(answer[name]), g[f"{name}_shuffled_r{this}"], **EXACT)
    assert not torch.allclose(g["bn_shuffled"], g["bn_local"], atol=0.1)  # or the test would say nothing


def test_what_treats_each_row_alone_is_not_changed_by_shuffling():
    x = torch.randn(4, 5, requires_grad=True)
    out = shuffled(lambda t: {"twice": 2 * t}, x)
    assert torch.equal(out["twice"], 2 * x.detach())
    assert not out["twice"].requires_grad
