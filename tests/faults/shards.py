"""Faults of tar shards."""

from pathlib import Path

from tests.datamodules.tars import sample, write_files, write_shards
from tests.faults.fault import FIT, TINY, Fault, Prepare
from tests.faults.prepare import directory, file, picture, shortened

READ = f"{FIT} --model SimCLR {TINY} --data WebDataset --data.path shards --data.image_size 16 --data.batch_size 4"
SECOND = "shards/train-000001.tar"


def sound(folder: Path, _: Path) -> None:
    """Two shards to train on and one to validate on."""
    write_shards(folder / "shards", [8, 8])
    write_shards(folder / "shards", [6], "val")


def shard(*files: tuple[str, bytes]) -> Prepare:
    """One shard more, with these files after six sound samples."""

    def write(folder: Path, _: Path) -> None:
        whole = [(f"{i}.{extension}", content) for i in range(6) for extension, content in sample(i, i % 2).items()]
        write_files(folder / "shards" / "train-000002.tar", [*whole, *files])

    return write


SHARDS = [
    Fault("an address", "--data.path s3://bucket/shards", "mount it", on=READ),
    Fault("no shards", "", "There are no shards at shards", on=READ, prepare=(directory("shards"),)),
    Fault(
        "compressed shards",
        "",
        "unpack it to a plain tar",
        on=READ,
        prepare=(file("shards/train-0.tar.gz", "packed"),),
    ),
    Fault(
        "a range with a hole",
        "--data.path 'shards/train-{000000..000004}.tar'",
        "3 of the shards",
        on=READ,
        prepare=(sound,),
    ),
    Fault(
        "a shard cut short, and no skipping",
        "--data.unreadable stop",
        "Mend the shard",
        on=READ,
        prepare=(sound, shortened(SECOND)),
    ),
    Fault("a shard cut short", "", "Skipped", on=READ, prepare=(sound, shortened(SECOND)), code=0, midway=True),
    Fault("a text for a shard", "", "Skipped", on=READ, prepare=(sound, file(SECOND, "no tar")), code=0, midway=True),
    Fault(
        "a label that is none",
        "",
        "Skipped",
        on=READ,
        prepare=(sound, shard(("x.png", picture(1)), ("x.json", b"{"))),
        code=0,
        midway=True,
    ),
    Fault(
        "two pictures in a sample",
        "",
        "data.image_extension",
        on=READ,
        prepare=(sound, shard(("x.png", picture(1)), ("x.jpg", picture(1, kind="JPEG")))),
    ),
    Fault(
        "fewer shards than none",
        "--data.shuffle_shards -1",
        "data.shuffle_shards is -1",
        on=READ,
        prepare=(sound,),
    ),
]
