"""Two ranks that share a batch do what one process with the whole batch does. All methods."""

import numpy as np
import pytest

from tests.support.methods import all_methods
from tests.support.ranks import in_process, on_ranks
from tests.support.training import fit


@pytest.mark.ddp
@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
def test_two_ranks_equal_one_process(method, tmp_path, record_property):
    one = in_process(fit, 0, method.__name__, str(tmp_path / "one"), double=True)
    two = on_ranks(2, fit, method.__name__, str(tmp_path / "two"), 2, None, False, True)

    mean_loss = np.mean([answer["losses"] for answer in two], axis=0)
    np.testing.assert_allclose(mean_loss, one["losses"], rtol=1e-6)
    distance = np.max(np.abs(mean_loss / one["losses"] - 1))
    for rank, answer in enumerate(two):
        for path, value in one["state"].items():
            if path.startswith("/state_dict/"):  # student, teacher, queue, pointer: after ten optimiser steps
                np.testing.assert_allclose(
                    answer["state"][path], value, rtol=1e-6, atol=1e-9, err_msg=f"rank {rank}: {path}"
                )
                apart, length = np.linalg.norm(answer["state"][path] - value), np.linalg.norm(value)
                distance = max(distance, apart / max(1, length))  # an average of next to nothing is compared as it is
            if (
                path.startswith("/callbacks/OnlineLinearProbe")
                and isinstance(value, np.ndarray)
                and "train_top1" not in path
            ):
                np.testing.assert_allclose(
                    answer["state"][path], value, rtol=1e-3, atol=1e-5, err_msg=f"rank {rank}: {path}"
                )
        for name in (
            "probe/val_top1",
            "knn/val_top1",
            "knn/untrained_top1",
            "knn/pixels_top1",
            "representation/alignment",
        ):
            if name in one["metrics"]:
                assert answer["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4), name
    record_property("promise", (method.__name__, "two ranks", float(distance)))
