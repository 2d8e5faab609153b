"""SwAV's crops, frozen prototypes, queue and symmetries."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.optim import OptimConfig
from methods.output import StepOutput
from methods.swav import SwAV
from tests.support.methods import small, to_double, views, without_norm
from tests.support.trajectory import TINY, replay


def swav(**arguments: Any) -> SwAV:
    module = small(SwAV, **arguments)
    assert isinstance(module, SwAV)
    return module


def trained(epochs: int, **arguments: Any) -> dict[str, Tensor]:
    """Some epochs of two steps on random inputs, with decay and momentum; prototypes and rows seen after each step."""
    torch.manual_seed(0)
    sgd = OptimConfig("sgd", lr=0.5, weight_decay=0.1, options={"momentum": 0.9}, warmup_epochs=0, final_lr_ratio=1.0)
    arguments = {"hidden_dim": 16, "out_dim": 8, "num_prototypes": 12, "queue_size": 12} | arguments
    module = SwAV(backbone=TINY, optim=sgd, **arguments).double()

    def read(module: SwAV) -> dict[str, Tensor]:
        assert module.queue is not None
        return {"prototypes": module.prototypes.weight, "seen": torch.tensor(module.queue.seen)}

    before = module.prototypes.weight.detach().clone()
    x = torch.randn(2, 2 * epochs, 8, 6, dtype=torch.float64)
    return replay(module, list(x), read, steps_per_epoch=2, total_epochs=epochs) | {"before": before}


def test_frozen_prototypes_change_by_their_normalisation_alone():
    run = trained(epochs=3, freeze_prototypes_epochs=2)
    unit = F.normalize(run["before"], dim=1)
    for step in range(4):
        torch.testing.assert_close(run["prototypes"][step], unit, rtol=1e-12, atol=0)
    assert (run["prototypes"][4] - unit).norm() > 0.01
    first_free = trained(epochs=1, freeze_prototypes_epochs=0)["prototypes"][0]
    assert (first_free - unit).norm() > 0.01


def test_the_queue_fills_from_its_epoch_on():
    assert trained(epochs=3, queue_start_epoch=1)["seen"].tolist() == [0, 0, 8, 16, 24, 32]
    assert trained(epochs=1)["seen"].tolist() == [8, 16]


def test_the_queue_counts_only_once_it_is_full():
    module, batch = swav(queue_size=24), views(SwAV, 8)
    without, losses = swav(queue_size=0).step(batch), []
    assert without.enqueue == {} and module.queue is not None
    for _ in range(4):
        output = module.step(batch)
        module.queue.push(output.enqueue["queue"].detach())
        losses.append(output.loss)
    for loss in losses[:3]:
        torch.testing.assert_close(loss, without.loss, rtol=1e-4, atol=0)
    # The same batch three times over: each image has now three rows beside its own, all with the same code.
    torch.testing.assert_close(losses[3], without.loss, rtol=1e-4, atol=0)
    module.queue.keys.copy_(F.normalize(torch.randn(24, 2, 8), dim=2))
    assert abs(module.step(batch).loss - without.loss) > 1e-3


def test_crops_of_one_size_go_through_the_backbone_together_and_all_through_the_projector():
    module, batch, seen = swav(), views(SwAV, 4), []
    module.backbone.register_forward_pre_hook(lambda _, x: seen.append(("backbone", tuple(x[0].shape))))
    module.projector.register_forward_pre_hook(lambda _, x: seen.append(("projector", tuple(x[0].shape))))
    module.embed(batch)
    D = module.feature_dim
    assert seen == [("backbone", (8, 3, 16, 16)), ("backbone", (24, 3, 8, 8)), ("projector", (32, D))]


def test_embeddings_stand_in_the_order_of_the_crops():
    module, batch = without_norm(swav()).double(), to_double(views(SwAV, 4))
    assert isinstance(module, SwAV)
    e = module.embed(batch)
    for v, crop in enumerate([*batch.global_views, *batch.local_views]):
        expected = F.normalize(module.projector(module.backbone(crop)), dim=1)
        torch.testing.assert_close(e["z"][:, v], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(e["h2"], module.backbone(batch.global_views[1]), rtol=1e-9, atol=1e-12)


def test_works_without_local_crops():
    module, batch = swav(), views(SwAV, 8)
    two = module.step(batch._replace(local_views=[])).loss
    assert two.isfinite() and two != module.step(batch).loss


def contrasted(module: SwAV, z: Tensor) -> StepOutput:
    h = torch.zeros(len(z), module.feature_dim)
    with torch.no_grad():
        return module.contrast({"h1": h, "h2": h, "z": z})


def test_the_loss_of_identical_features_is_log_k():
    module = swav(num_prototypes=2, out_dim=2).double()
    with torch.no_grad():
        module.prototypes.weight.copy_(torch.tensor([[1.0, 2.0], [-2.0, 4.0]]))
    middle = torch.tensor([0.0, 1.0]).double().expand(6, 3, 2)  # equally far from both, once they have unit norm
    output = contrasted(module, middle)
    assert float(output.loss) == pytest.approx(math.log(2))
    assert [float(value) for value in output.logs.values()] == pytest.approx([2, 2])
    aside = torch.tensor([1.0, 0.0]).double().expand(6, 3, 2)  # nearer to one: codes are even all the same
    output = contrasted(module, aside)
    assert float(output.loss) > math.log(2)
    assert [float(value) for value in output.logs.values()] == pytest.approx([2, 2])


def test_permuted_images_or_prototypes_change_nothing():
    module = swav(queue_size=0).double()
    z = F.normalize(torch.randn(8, 4, 8, dtype=torch.float64), dim=2)
    expected = contrasted(module, z).loss
    torch.testing.assert_close(contrasted(module, z[torch.randperm(8)]).loss, expected, rtol=1e-12, atol=0)
    module.prototypes.weight = nn.Parameter(module.prototypes.weight[torch.randperm(12)])
    torch.testing.assert_close(contrasted(module, z).loss, expected, rtol=1e-12, atol=0)


def test_wrong_settings_are_told():
    for wrong in ({"epsilon": 0.0}, {"num_prototypes": 0}, {"sinkhorn_iterations": 0}, {"queue_size": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            swav(**wrong)
