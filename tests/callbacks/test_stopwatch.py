import tracemalloc

import pytest

from callbacks.stopwatch import REST, Stopwatch
from tests.callbacks.toy_run import BlobData, ToyModule, ToyMonitor, toy_trainer


class Clock:
    """A clock that moves when told."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("callbacks.stopwatch.time.perf_counter", lambda: self.now)


def run(stopwatch, clock, *script):
    """Plays ("start" | "stop", action, seconds that pass before it)."""
    for verb, action, seconds in script:
        clock.now += seconds
        getattr(stopwatch, verb)(action)


def test_nested_actions_are_counted_once_and_add_up_to_the_wall_time(monkeypatch):
    clock = Clock(monkeypatch)
    stopwatch = Stopwatch()
    run(
        stopwatch,
        clock,
        ("start", "[LightningModule]M.optimizer_step", 2.0),  # 2 s before anything: the rest
        ("start", "[Strategy]S.training_step", 1.0),
        ("stop", "[Strategy]S.training_step", 4.0),
        ("start", "[Strategy]S.backward", 0.5),
        ("stop", "[Strategy]S.backward", 8.0),
        ("stop", "[LightningModule]M.optimizer_step", 0.25),
    )
    categories = stopwatch.categories()
    assert {name: tally.seconds for name, tally in categories.items()} == {
        "forward": 4.0,
        "backward": 8.0,
        "optimiser step": 1.75,
        REST: 2.0,
    }
    assert sum(tally.seconds for tally in categories.values()) == stopwatch.wall_seconds == 15.75


def test_validation_is_a_category_of_its_own_and_callbacks_are_not_part_of_it(monkeypatch):
    clock = Clock(monkeypatch)
    stopwatch = Stopwatch()
    actions = ["[Strategy]S.on_validation_start", "[_EvaluationLoop].val_next", "[Strategy]S.batch_to_device"]
    actions += ["[Callback]KNNMonitor{'k': 2.5}.on_validation_batch_end", "[Strategy]S.on_validation_end"]
    for action in [*actions, "[Strategy]S.batch_to_device"]:
        run(stopwatch, clock, ("start", action, 0.0), ("stop", action, 1.0))
    categories = stopwatch.categories()
    assert categories["validation"].seconds == 3.0  # its fetch, its transfer and the hook that ends it
    assert categories["transfer"].seconds == 1.0  # of training, after it
    assert categories["callbacks"].parts["KNNMonitor"].seconds == 1.0


def test_checkpoints_are_told_apart_from_other_callbacks(monkeypatch):
    clock = Clock(monkeypatch)
    stopwatch = Stopwatch()
    outer, inner = "[Callback]ModelCheckpoint{'monitor': None}.on_train_batch_end", "save_checkpoint"
    run(stopwatch, clock, ("start", outer, 0), ("start", inner, 1), ("stop", inner, 5), ("stop", outer, 1))
    assert stopwatch.categories()["checkpoint"].seconds == 7.0
    assert stopwatch.categories()["checkpoint"].count == 1


@pytest.mark.parametrize("running", [[], ["outer", "inner"]])
def test_actions_that_do_not_nest_are_refused(running):
    stopwatch = Stopwatch()
    for action in running:
        stopwatch.start(action)
    with pytest.raises(ValueError, match="innermost"):
        stopwatch.stop("outer")


def test_memory_does_not_grow_with_the_run():
    stopwatch = Stopwatch()

    def play(count):
        for _ in range(count):
            stopwatch.start("[Strategy]S.training_step")
            stopwatch.stop("[Strategy]S.training_step")

    play(10)
    tracemalloc.start()
    play(20_000)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 2000  # bytes


def test_a_real_run_has_the_expected_counts(tmp_path):
    stopwatch = Stopwatch()
    trainer = toy_trainer(tmp_path, [ToyMonitor()], epochs=3, profiler=stopwatch)
    trainer.fit(ToyModule(), datamodule=BlobData(96))
    categories = stopwatch.categories()
    steps = 3 * 6
    for name in ("data wait", "transfer", "views", "forward", "backward", "optimiser step"):
        assert categories[name].count == steps, name
    assert categories["validation"].count == 1 + steps  # one batch of the sanity check
    assert "ToyMonitor" in categories["callbacks"].parts
    assert sum(tally.seconds for tally in categories.values()) == pytest.approx(stopwatch.wall_seconds, abs=0.05)
    assert "forward" in stopwatch.summary()


def test_each_fit_starts_afresh():
    stopwatch = Stopwatch()
    stopwatch.start("[Strategy]S.training_step")
    stopwatch.stop("[Strategy]S.training_step")
    stopwatch.setup("fit")
    assert list(stopwatch.categories()) == [REST]
