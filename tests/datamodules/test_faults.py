"""Pictures that cannot be read: named, counted, skipped or refused, in every way of loading."""

import logging

import pytest
import torch

from datamodules.errors import UserError
from datamodules.faults import Fault, FaultReport
from tests.datamodules.toys import Recorder, Toy, epoch, trainer

WAYS = pytest.mark.parametrize(
    "way", [{"cache": "device"}, {"cache": "ram"}, {"cache": "none"}, {"cache": "none", "num_workers": 2}], ids=str
)


@WAYS
def test_skip_takes_the_next_readable_picture_with_its_label(way):
    clean = [batch.index for batch in epoch(Toy())]
    batches = epoch(Toy(bad={3, 4, 39}, **way))
    stand_in = torch.arange(40)
    stand_in[[3, 4, 39]] = torch.tensor([5, 5, 0])
    for before, batch in zip(clean, batches, strict=True):
        assert torch.equal(batch.index, stand_in[before])
        assert torch.equal(batch.label, batch.index % 3)


@WAYS
def test_evaluation_leaves_out_what_it_cannot_read(way):
    data, module = Toy(bad_val={2, 19}, **way), Recorder()
    trainer().validate(module, data, verbose=False)
    index = torch.cat([batch.index for batch in module.other_batches])
    label = torch.cat([batch.label for batch in module.other_batches])
    assert index.tolist() == [-1 if i in (2, 19) else i for i in range(20)]
    assert label[2] == label[19] == -1 and (label[index >= 0] >= 0).all()


@WAYS
def test_each_picture_is_named_once_and_counted_at_the_end(way, caplog):
    with caplog.at_level(logging.WARNING, "datamodules"):
        trainer(max_epochs=2).fit(Recorder(), Toy(bad={3, 7}, bad_val={1}, **way))
    names = [record.getMessage() for record in caplog.records if record.name.startswith("datamodules")]
    assert sorted(names[:-1]) == [f"Skipped picture {i}: it is broken." for i in (1, 3, 7)]
    assert names[-1] == "3 of 60 pictures could not be read and were skipped."


@WAYS
def test_stop_names_the_picture_and_no_stack_comes_from_a_worker(way):
    with pytest.raises(UserError) as caught:
        trainer().fit(Recorder(), Toy(bad={7}, unreadable="stop", **way))
    assert str(caught.value).startswith("picture 7 cannot be read: it is broken. Replace or remove it")
    assert caught.value.__cause__ is None


def test_a_long_row_of_bad_pictures_is_no_accident():
    with pytest.raises(UserError, match="100 pictures in a row cannot be read, the last of them picture"):
        epoch(Toy(num_images=240, bad=set(range(100, 210)), cache="none"))


def test_only_bad_pictures():
    with pytest.raises(UserError, match="None of 16 pictures tried could be read, among them picture"):
        epoch(Toy(bad=set(range(40))))


def test_ten_are_named_and_the_others_counted(caplog):
    report = FaultReport()
    with caplog.at_level(logging.WARNING, "datamodules"):
        report.add([Fault(f"picture {i}", "it is broken") for i in range(12)])
        report.add([Fault("picture 3", "it is broken")])
        report.summarize(100)
    messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("Skipped") for message in messages) == 10
    assert messages[-2:] == [
        "Further pictures that cannot be read are only counted.",
        "12 of 100 pictures could not be read and were skipped.",
    ]
