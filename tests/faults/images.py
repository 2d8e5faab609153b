"""Faults in the images."""

from pathlib import Path

from tests.faults.fault import FIT, TINY, Fault, Prepare
from tests.faults.prepare import directory, file, picture, pictures, shortened, table

SMALL = "--data.image_size 16 --data.batch_size 4 --data.num_workers 0"
FOLDER = f"{FIT} --model SimCLR {TINY} --data ImageFolder --data.path pictures {SMALL}"
PARQUET = FOLDER.replace("ImageFolder", "HFImages") + " --data.val_split 'train[:4]'"
CIFAR = f"{FIT} --model SimCLR {TINY} --data CIFAR10"
MASKED = "--data.views relicv2 --data.masks"

EVERY = range(12)
ODD = {
    0: picture(0, (24, 24, 4)),
    1: picture(1, (24, 24)),
    2: picture(2, mode="P"),
    3: picture(3, mode="CMYK", kind="TIFF"),
    4: picture(4, (1, 1, 3)),
    5: picture(5, (600, 9, 3), kind="JPEG"),
    6: picture(6, mode="1", kind="BMP"),
    7: picture(7, kind="GIF", mode="P"),
}


def named(split: str, labels: str) -> Prepare:
    """A split in a Parquet file, a picture for each letter of `labels`, which is its label."""

    def write(folder: Path, _: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        (folder / "pictures").mkdir(exist_ok=True)
        images = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(len(labels))]
        rows = pyarrow.table({"image": images, "label": list(labels)})
        parquet.write_table(rows, folder / f"pictures/{split}-0.parquet")

    return write


UNLABELLED = tuple(file(f"pictures/{i}.png", picture(i)) for i in EVERY)

FOLDERS = [
    Fault("a folder that is not there", "", "There is no pictures, here or below PARALLAX_DATA", on=FOLDER),
    Fault("an empty folder", "", "There are no pictures in pictures", on=FOLDER, prepare=(directory("pictures"),)),
    Fault(
        "a folder of texts", "", "There are no pictures in pictures", on=FOLDER, prepare=(file("pictures/a.txt", "a"),)
    ),
    Fault("a picture for a folder", "", "is no list of pictures", on=FOLDER, prepare=(file("pictures", picture()),)),
    Fault(
        "a list of pictures that are not there",
        "",
        "could be read",
        on=FOLDER,
        prepare=(file("pictures", "".join(f"{i}.png\n" for i in EVERY)),),
    ),
    Fault(
        "fewer images than a batch",
        "--data.batch_size 64",
        "fewer than one batch of 64",
        on=FOLDER,
        prepare=(pictures(),),
    ),
    Fault(
        "nothing left for training", "--data.val_fraction 1.5", "val_fraction is 1.5", on=FOLDER, prepare=(pictures(),)
    ),
    Fault(
        "one picture, and so none to validate on",
        "--data.batch_size 1",
        "There are no validation images",
        on=FOLDER,
        prepare=(pictures(count=1),),
    ),
    Fault(
        "validation classes that training lacks",
        "--data.val_path other",
        "has classes that the training pictures lack",
        on=FOLDER,
        prepare=(pictures(), file("other/c/1.png", picture())),
    ),
    Fault(
        "a share of the labels of pictures without any",
        "--data.label_fraction 0.5",
        "the data has no labels",
        on=FOLDER,
        prepare=UNLABELLED,
    ),
    Fault(
        "every picture broken",
        "",
        "could be read",
        on=FOLDER,
        prepare=(pictures(broken=dict.fromkeys(EVERY, b"broken")),),
    ),
    Fault("every picture empty", "", "it is empty", on=FOLDER, prepare=(pictures(broken=dict.fromkeys(EVERY, b"")),)),
    Fault(
        "a broken picture, and none to be skipped",
        "--data.unreadable stop",
        "cannot be read",
        on=FOLDER,
        prepare=(pictures(broken={1: b"broken"}),),
    ),
    Fault("a broken picture", "", "Skipped", on=FOLDER, prepare=(pictures(broken={1: b"broken"}),), code=0),
    Fault("a picture cut short", "", "Skipped", on=FOLDER, prepare=(pictures(), shortened("pictures/b/1.png")), code=0),
    Fault(
        "pictures of one size wanted, of several there",
        "--data.cache ram",
        "set data.cache to none",
        on=FOLDER,
        prepare=(pictures(broken=ODD),),
    ),
    Fault(
        "four channels, grey, a palette, CMYK, 1 bit, one pixel, a strip",
        "",
        "Finished after 1 epoch",
        on=FOLDER,
        prepare=(pictures(broken=ODD),),
        code=0,
    ),
]

TABLES = [
    Fault("a name that is neither folder nor on the hub", "", "is neither a local folder nor a data set", on=PARQUET),
    Fault("a folder without Parquet", "", "There are no Parquet files in pictures", on=PARQUET, prepare=(pictures(),)),
    Fault(
        "a Parquet file cut short",
        "",
        "cannot be read as Parquet",
        on=PARQUET,
        prepare=(table(), shortened("pictures/train-0.parquet")),
    ),
    Fault(
        "a text that is called Parquet",
        "",
        "cannot be read as Parquet",
        on=PARQUET,
        prepare=(file("pictures/train-0.parquet", "a"),),
    ),
    Fault(
        "a split that is not there",
        "--data.train_split training",
        "has no split training, only train",
        on=PARQUET,
        prepare=(table(),),
    ),
    Fault(
        "no split to validate on",
        "--data.val_split null",
        "has no split for validation",
        on=PARQUET,
        prepare=(table(),),
    ),
    Fault(
        "a column of pictures that is not there",
        "--data.image_column photo",
        "does not have photo; its columns are",
        on=PARQUET,
        prepare=(table(),),
    ),
    Fault(
        "a column of labels that is not there",
        "--data.label_column kind",
        "does not have kind; its columns are",
        on=PARQUET,
        prepare=(table(),),
    ),
    Fault(
        "validation classes that training lacks",
        "--data.val_split null --data.image_column image",
        "has classes that the training pictures lack: c.",
        on=PARQUET,
        prepare=(named("train", "ababab"), named("validation", "bcbc")),
    ),
    Fault("labels for pictures", "--data.image_column label", "holds Value", on=PARQUET, prepare=(table(),)),
    Fault("CIFAR-10 where it is not", "--data.path nowhere", "CIFAR10 is not in nowhere", on=CIFAR),
    Fault(
        "CIFAR-10 where PARALLAX_DATA says, and is not",
        "",
        "CIFAR10 is not in wrong",
        on=CIFAR,
        environment={"PARALLAX_DATA": "wrong"},
    ),
]

MASKS = [
    Fault(
        "background to remove, and no masks",
        "--data.views relicv2",
        "there are no foreground masks",
        on=FOLDER,
        prepare=(pictures(),),
    ),
    Fault(
        "masks that are not there",
        f"{MASKED} m.bin",
        "--data.masks m.bin: there is no such file",
        on=FOLDER,
        prepare=(pictures(),),
    ),
    Fault(
        "a text for masks",
        f"{MASKED} m.bin",
        "is no file of masks",
        on=FOLDER,
        prepare=(pictures(), file("m.bin", "a" * 5000)),
    ),
]
