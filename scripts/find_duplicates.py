"""Pictures that are in the training set more than once: to a contrastive loss such a pair is a false negative.

python scripts/find_duplicates.py --data ImageFolder --data.path FOLDER --sheet groups.png            # first a look
python scripts/find_duplicates.py --data ImageFolder --data.path FOLDER --out unique.txt
python cli.py fit --model SimCLR --data ImageFolder --data.path unique.txt

Pictures are compared by grey thumbnails or, with `--checkpoint`, by the features of a trained network;
docs/duplicates.md says what either finds.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from datamodules import ImageDataModule, ImageFolder
from datamodules.augment import CleanView
from datamodules.errors import UserError
from datamodules.sources import Source, Subset, subset_rows
from methods.pretrained import load_backbone
from scripts.checkup.duplicates import THUMBNAIL, Found, Keep, find
from scripts.checkup.outputs import check_writable
from scripts.evaluation_data import add_data, data_for
from scripts.look.figures import Cell, picture_sheet, save, style
from scripts.look.pictures import as_array
from scripts.parsing import PlainParser, answering_mistakes

LISTED = 10  # pictures named in the terminal
SHOWN, IN_ROW = 32, 8  # groups on a sheet, and pictures of each at most


def pictures_of(data: ImageDataModule) -> tuple[Source, bool]:
    """The training images and, where validation is held out of a folder's pictures, these too; whether it is.

    A run on the list of a folder's pictures divides it anew.
    """
    data.prepare_data()
    train, val = data.sources()
    divided = isinstance(data, ImageFolder) and isinstance(train, Subset) and isinstance(val, Subset)
    source = train.source if isinstance(train, Subset) and divided else train
    return Subset(source, subset_rows(len(source), data.max_train_images)), divided


def tell(found: Found, source: Source, how: str) -> None:
    """Prints how many there are, the first few by name, and where labels disagree."""
    repeated, readable = found.repeated, int(found.readable.sum())
    print(f"{len(repeated)} of {readable} pictures ({len(repeated) / max(1, readable):.1%}) repeat another, by {how}")
    for i in repeated[:LISTED].tolist():
        print(f"  {source.name(i)} is like {source.name(int(found.kept[i]))} ({found.cosine[i]:.3f})")
    if len(repeated) > LISTED:
        print(f"  and {len(repeated) - LISTED} more")
    differ = source.labels[torch.from_numpy(repeated)] != source.labels[torch.from_numpy(found.kept[repeated])]
    if differ.any():
        print(f"{int(differ.sum())} of them have another label than the picture that stays: see which is right")


def draw(found: Found, source: Source, view: CleanView, how: str) -> Figure:
    """Groups of duplicates, each begun by the framed one that stays; those least alike, the doubtful ones, first."""
    groups: dict[int, list[int]] = {}
    for i in found.repeated[found.cosine[found.repeated].argsort(kind="stable")].tolist():
        groups.setdefault(int(found.kept[i]), []).append(i)
    rows: list[list[Cell | None]] = [[]]
    for kept, like in list(groups.items())[:SHOWN]:
        cells = [_cell(view, source, kept, "stays", framed=True)]
        cells += [_cell(view, source, i, f"{found.cosine[i]:.3f}") for i in like[: IN_ROW - 1]]
        if len(rows[-1]) + len(cells) > IN_ROW:
            rows.append([])
        rows[-1] += cells
    title = f"{len(found.repeated)} of {int(found.readable.sum())} pictures repeat another"
    shown = f"The {SHOWN} least alike" if len(groups) > SHOWN else "All"
    note = f"{shown} of {len(groups)} groups, alike by {how}. The framed one stays, at most {IN_ROW} are shown of each."
    return picture_sheet(rows, title, note)


def _cell(view: CleanView, source: Source, i: int, told: str, framed: bool = False) -> Cell:
    picture = as_array(view.crop(source.image(i)))
    return Cell(picture, f"{told}\n{Path(source.name(i)).name}", "same" if framed else "")


def write_list(out: Path, source: Source, rows: np.ndarray) -> None:
    """Writes paths relative to the file, each with a tab and its label if it has one, as `ImageFolder` takes them.

    Raises:
        UserError: a name that a line cannot hold.
    """
    lines = []
    for row in rows.tolist():
        folder, name = os.path.split(source.name(row))
        path = os.path.join(os.path.relpath(os.path.realpath(folder), out.parent.resolve()), name)
        if path != path.strip() or any(mark in path for mark in "\t\n\r"):
            raise UserError(f"{path!r} cannot stand in a list, which takes a path a line and no tabs: rename it.")
        label = int(source.labels[row])
        lines.append(f"{path}\t{source.class_names[label]}" if source.class_names and label >= 0 else path)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write(out: Path, rows: np.ndarray, source: Source, data: ImageDataModule, divided: bool) -> None:
    """Writes what stays: a list of paths for picture files, the rows of other data; says how to use it."""
    if isinstance(data, ImageFolder):
        write_list(out, source, rows)
        validation = "" if divided else f" --data.val_path {data.val_path or 'FOLDER OF VALIDATION PICTURES'}"
        told = f"{len(rows)} pictures: train on them with --data ImageFolder --data.path {out}{validation}"
    else:
        out.write_text("\n".join(map(str, rows.tolist())) + "\n")
        told = f"{len(rows)} rows of the training images, from 0, as {type(data).__name__} has no files to list"
    print(f"written: {out}, {told}")


def check_flags(given: Namespace) -> None:
    """Refuses before the pictures are read what would fail after.

    Raises:
        UserError: a threshold that is none, or a file that cannot be written.
    """
    if not 0 < given.threshold <= 1:
        raise UserError(f"--threshold {given.threshold:g} must lie above 0 and be at most 1, for example 0.95.")
    check_writable("--out", given.out)
    check_writable("--sheet", given.sheet, ".png")


def run(given: Namespace, parser: PlainParser) -> None:
    """Does what the command line asks for."""
    check_flags(given)
    if given.checkpoint:
        trained = load_backbone(given.checkpoint)
        data = data_for(given, parser, given.checkpoint, trained.images)
        network, view = trained.backbone, CleanView(data.image_size, data.mean, data.std)
        how = f"the features of {trained.origin}"
    elif given.data is None:
        raise UserError("--data missing: give for example --data ImageFolder --data.path FOLDER.")
    else:
        data = parser.instantiate(given).data
        C = data.num_channels
        network, view = None, CleanView(data.image_size, [0.0] * C, [1.0] * C)
        how = f"{THUMBNAIL}x{THUMBNAIL} grey thumbnails (no --checkpoint given)"
    if given.keep == "largest" and not isinstance(data, ImageFolder):
        raise UserError(f"--keep largest compares files, and {type(data).__name__} has none: use --keep first.")
    how += f", cosine of {given.threshold:g} and more"
    source, divided = pictures_of(data)
    found = find(source, view, network, given.threshold, given.keep)
    if not found.readable.any():
        raise UserError(f"None of {len(source)} pictures can be read: see --data.path.")
    tell(found, source, how)
    if given.out:
        write(given.out, found.unique, source, data, divided)
    if given.sheet and not len(found.repeated):
        print(f"{given.sheet} is not written: there is nothing to show")
    elif given.sheet:
        with style():
            save(draw(found, source, view, how), given.sheet)


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    add_data(parser)
    parser.add_argument("--checkpoint", type=str | None, help="network whose features are compared; else thumbnails")
    parser.add_argument("--threshold", type=float, default=0.97, help="least cosine of two pictures that count as one")
    parser.add_argument("--keep", type=Keep, default="first", help="which of a group stays: the first, or largest file")
    parser.add_argument("--out", type=Path | None, help="list of the pictures that stay, for --data.path")
    parser.add_argument("--sheet", type=Path | None, help="picture (PNG) of the groups")
    with answering_mistakes():
        run(parser.parse_args(), parser)


if __name__ == "__main__":
    main()
