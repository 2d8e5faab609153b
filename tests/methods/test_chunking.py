"""Large batches in chunks: equal to the authors' two-pass code, and to the whole batch where images do not see each
other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from methods.chunking import embed_in_chunks
from methods.distributed import gather, rank, world_size
from methods.losses import nt_xent
from tests.support.ranks import on_ranks


class Encoder(nn.Module):
    """The golden file's network: linear, BatchNorm or not, ReLU, linear."""

    def __init__(self, g: dict[str, Tensor], norm: bool) -> None:
        super().__init__()
        self.l1, self.bn, self.l2 = nn.Linear(6, 10), nn.BatchNorm1d(10) if norm else nn.Identity(), nn.Linear(10, 8)
        self.double()
        self.load_state_dict(
            {k.removeprefix("init."): v for k, v in g.items() if k.startswith("init.") and (norm or "bn" not in k)},
            strict=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.l2(torch.relu(self.bn(self.l1(x))))


def chunked_loss(encoder: Encoder, g: dict[str, Tensor], size: int) -> Tensor:
    z = embed_in_chunks(lambda x: {"z": encoder(x)}, list(g["x"].split(size)), encoder)["z"]
    return nt_xent(*F.normalize(z, dim=1).chunk(2), float(g["temperature"]))


def assert_gradients(encoder: nn.Module, g: dict[str, Tensor], prefix: str) -> None:
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, g[f"{prefix}.{name}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_equals_the_authors_code_without_batch_norm(golden, size):
    g = golden("gradcache")
    encoder = Encoder(g, norm=False)
    loss = chunked_loss(encoder, g, size)
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["simclr_loss"], rtol=1e-9, atol=0)
    assert_gradients(encoder, g, "simclr_grad")


def test_equals_the_authors_code_with_batch_norm(golden):
    g = golden("gradcache")
    encoder = Encoder(g, norm=True)
    loss = chunked_loss(encoder, g, int(g["chunk"]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["bn_chunked_loss"], rtol=1e-9, atol=0)
    assert_gradients(encoder, g, "bn_chunked_grad")
    assert abs(float(loss.detach() - g["bn_full_loss"])) > 1e-3  # and so is not the whole batch's


def test_running_statistics_move_once_a_chunk(golden):
    """The authors' code counts every chunk twice, once a pass; both countings are reproduced, ours and theirs."""
    g = golden("gradcache")
    chunks = list(g["x"].split(int(g["chunk"])))
    encoder, once, twice = (Encoder(g, norm=True) for _ in range(3))
    embed_in_chunks(lambda x: {"z": encoder(x)}, chunks, encoder)["z"].sum().backward()
    for chunk in chunks:
        once(chunk)
    for chunk in chunks + chunks:
        twice(chunk)
    for name, buffer in encoder.named_buffers():
        torch.testing.assert_close(buffer, once.get_buffer(name))
        torch.testing.assert_close(twice.get_buffer(name), g[f"bn_chunked_buf.{name}"])


def test_dropout_repeats_itself_in_backward():
    net = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    z = embed_in_chunks(lambda x: {"z": net(x)}, list(x.split(3)), net)["z"]
    z.square().sum().backward()
    kept = (z != 0).double()
    expected = 2 * (2 * z.detach() * kept).T @ x  # dropout doubles what it keeps
    torch.testing.assert_close(net[0].weight.grad, expected)


def test_no_activation_outlives_its_chunk():
    def alive_after_forward(chunks: list[Tensor]) -> int:
        net = nn.Sequential(nn.Linear(8, 64), nn.Sigmoid(), nn.Linear(64, 4))
        hidden: list[StorageWeakRef] = []
        net[1].register_forward_hook(
            lambda module, inputs, output: hidden.append(StorageWeakRef(output.untyped_storage()))
        )
        if len(chunks) == 1:
            z = net(chunks[0])
        else:
            z = embed_in_chunks(lambda x: {"z": net(x)}, chunks, net)["z"]
        alive = sum(not storage.expired() for storage in hidden)
        z.sum().backward()
        return alive

    assert alive_after_forward([torch.randn(256, 8)]) == 1  # the plain step keeps the hidden layer for backward
    assert alive_after_forward(list(torch.randn(256, 8).split(8))) == 0


def pair_loss(x: Tensor, y: Tensor) -> Tensor:
    """The golden's one-directional loss, taken on local queries against gathered candidates."""
    logits = x @ gather(y).T
    return F.cross_entropy(logits, torch.arange(len(x)) + rank() * len(x))


def on_rank(rank: int, g: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = {name: torch.from_numpy(value) for name, value in g.items()}
    encoder = Encoder(tensors, norm=False)
    x, y = tensors["x"].chunk(2)
    rows = len(x) // world_size()
    mine = [view[rank * rows : (rank + 1) * rows] for view in (x, y)]
    z = embed_in_chunks(lambda pair: {"x": encoder(pair[0]), "y": encoder(pair[1])}, [mine], encoder)
    loss = pair_loss(F.normalize(z["x"], dim=1) / float(tensors["temperature"]), F.normalize(z["y"], dim=1))
    loss.backward()
    return {"loss": loss.detach().numpy()} | {
        n: p.grad.numpy() for n, p in encoder.named_parameters() if p.grad is not None
    }


@pytest.mark.ddp
def test_two_ranks_average_to_the_gradient_of_one_process(golden):
    g = golden("gradcache")
    answers = on_ranks(2, on_rank, {name: value.numpy() for name, value in g.items()})
    np.testing.assert_allclose(np.mean([a["loss"] for a in answers]), g["pair_loss"], rtol=1e-9)
    for name in ("l1.weight", "l1.bias", "l2.weight", "l2.bias"):
        mean = np.mean([a[name] for a in answers], axis=0)  # what DDP leaves
        np.testing.assert_allclose(mean, g[f"pair_grad.{name}"], rtol=1e-9, atol=1e-12)
        # In the authors' code every rank takes the global loss, so that only the sum over ranks is right: short by 2
        # after a mean.
        np.testing.assert_allclose(
            2 * mean, 2 * (g[f"w2_pair_grad_r0.{name}"] + g[f"w2_pair_grad_r1.{name}"]), rtol=1e-9, atol=1e-12
        )
