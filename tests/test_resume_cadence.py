"""Checkpoints at unusual places in an epoch, and epochs with unusual parts: the resumed run ends like the other."""

import signal

import pytest

from tests.support.killing import Kill
from tests.support.ranks import in_process
from tests.support.training import fit, same_end

CASES = {
    "at the end of the epoch": (Kill("step", 8), {"every": None}),
    "after its last step, before its validation": (Kill("validation", 2), {"every": 5}),
    "validated twice an epoch": (Kill("step", 8), {"val_check_interval": 0.4}),
    "amid an epoch validated twice": (Kill("validation", 11), {"every": 4, "val_check_interval": 0.4}),
    "amid an epoch, before its validation": (Kill("validation", 5), {"every": 4, "val_check_interval": 0.4}),
    "validated every other epoch": (Kill("validation", 2), {"every": 4, "check_val_every_n_epoch": 2}),
    "several batches a step": (Kill("step", 5), {"every": 2, "accumulate_grad_batches": 2}),
    "logged every other step": (Kill("step", 7), {"every": 2, "log_every_n_steps": 2}),
    "counted in steps": (Kill("step", 7), {"max_epochs": -1, "max_steps": 8}),
}


FAST = ("after its last step, before its validation", "several batches a step")


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in CASES])
def test_checkpoint(case, tmp_path):
    kill, arguments = CASES[case]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = in_process(fit, 0, "ToyMoCo", str(whole), **arguments)
    assert in_process(fit, 0, "ToyMoCo", str(broken), kill=kill, **arguments) == -signal.SIGKILL
    actual = in_process(fit, 0, "ToyMoCo", str(broken), resume=True, **arguments)
    same_end(broken, [actual], whole, [expected])
