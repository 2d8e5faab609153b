"""bf16-mixed stays as close to fp32 as fp32 stays to itself, and what must not be rounded is not. All methods."""

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from methods.losses import unit_norm
from tests.support.methods import all_methods, small
from tests.support.precision import trained

FIRST = 0.01  # of the first loss, with equal weights: a few roundings of up to 0.4 %, and what the loss makes of them
TIMES = 4  # as far as weights that were rounded to bf16 once, before a run in fp32; measured: up to 2.8
FLOOR = 0.01  # relative, where that is next to nothing

every_method = pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
FP32, BF16 = {"torch.float32"}, "torch.bfloat16"
WITH_TEACHER = [method for method in all_methods() if small(method).ema_pairs()]
WITHOUT_TEACHER = [method for method in all_methods() if method not in WITH_TEACHER]


def apart(losses: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances of losses, relative; of losses below 1, which may be 0, absolute."""
    return np.abs(others - losses) / np.maximum(np.abs(losses), 1)


def detour(run: dict, other: dict) -> float:
    """How far apart two runs have moved the weights, in units of the first one's way."""
    way, others = (x["end"]["weights"] - x["start"]["weights"] for x in (run, other))
    return float(np.linalg.norm(others - way) / np.linalg.norm(way))


@every_method
def test_bf16_stays_as_close_as_weights_that_were_rounded_once(method, tmp_path, record_property):
    name, folder = method.__name__, str(tmp_path)
    full, mixed = trained(name, "32-true", folder), trained(name, "bf16-mixed", folder)
    rounded = trained(name, "32-true", folder, rounded=True)

    distance, yardstick = apart(full["losses"], mixed["losses"]), apart(full["losses"], rounded["losses"])
    assert distance[0] < FIRST
    assert distance.mean() < FLOOR + TIMES * yardstick.mean()
    assert detour(full, mixed) < FLOOR + TIMES * detour(full, rounded)

    types = mixed["types"]
    assert BF16 in types["made"]  # the networks did run in 16 bit
    assert types["loss"] == types["gradients"] == types["state"] == FP32  # weights, teachers, queues, centers
    assert types["keys"] <= FP32
    if "teachers" in mixed["end"]:
        assert not np.array_equal(mixed["start"]["teachers"], mixed["end"]["teachers"])
    record_property("promise", (name, "bf16, first loss", float(distance[0])))
    record_property("promise", (name, "bf16, losses", float(distance.mean())))
    record_property("promise", (name, "rounded once, losses", float(yardstick.mean())))


def test_unit_norm_is_as_exact_under_autocast_as_without():
    x = torch.randn(64, 128)
    with torch.autocast("cpu", torch.bfloat16):
        lengths = unit_norm(x.bfloat16()).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(64), rtol=0, atol=1e-6)
    assert unit_norm(x.double()).dtype == torch.float64
    torch.testing.assert_close(unit_norm(x[None], dim=2)[0], unit_norm(x))


@pytest.mark.parametrize("method", WITH_TEACHER, ids=lambda m: m.__name__)
def test_16_bit_weights_are_refused_where_there_is_a_teacher(method, tmp_path):
    with pytest.raises(UserError, match="bf16-true cannot hold a teacher"):
        trained(method.__name__, "bf16-true", str(tmp_path))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("method", WITHOUT_TEACHER, ids=lambda m: m.__name__)
def test_16_bit_weights_train_where_there_is_none(method, precision, tmp_path):
    run = trained(method.__name__, precision, str(tmp_path))
    assert np.isfinite(run["losses"]).all()
    assert run["types"]["loss"] == FP32
    assert run["types"]["state"] == {"torch.bfloat16" if precision == "bf16-true" else "torch.float16"}
    assert not np.array_equal(run["start"]["weights"], run["end"]["weights"])
