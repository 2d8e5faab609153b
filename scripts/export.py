"""Hands a trained backbone over to torchvision, timm, the Hugging Face hub, ONNX, or as plain safetensors.

python scripts/export.py runs/version_0/checkpoints/last.ckpt --to torchvision
python scripts/export.py runs/version_0/checkpoints/last.ckpt --to hf --part teacher --out my-model
python scripts/export.py moco_v2_800ep_pretrain.pth.tar --to timm

What is written is loaded back in the way that the model card beside it shows, and compared with the network, before it
takes its place.
"""

import importlib.util
import os
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.layouts.weights import Part
from methods.pretrained import Pretrained, load_backbone
from scripts.evaluation_data import run_config
from scripts.exporting.card import HUB_HEADER, card
from scripts.exporting.check import Deviation, reference, round_trip
from scripts.exporting.formats import FORMATS, Format, that_fit
from scripts.exporting.provenance import provenance
from scripts.exporting.rebuild import UnfitError
from scripts.parsing import PlainParser, answering_mistakes


def export(
    checkpoint: str, to: str, part: Part, backbone: BackboneConfig | None, out: str | None, overwrite: bool
) -> None:
    """Writes a backbone and its model card, and tells how to load it.

    Raises:
        UserError: the checkpoint cannot be read, the format cannot hold the network, something is in the place, or
            what was written does not give the network's features.
    """
    form = FORMATS[to]
    check_packages(to, form)
    pretrained = load_backbone(checkpoint, part, backbone)
    check_fit(to, pretrained)
    target = place(to, form, pretrained, checkpoint, out)
    check_place(form.files(target), overwrite)
    expected = reference(pretrained)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        form.write(pretrained, draft)
        deviation = round_trip(expected, form.code(pretrained, str(draft)))
        name, known = target.resolve().name, provenance(checkpoint, part)
        header = "" if form.suffixes else HUB_HEADER
        text = card(pretrained, known, name, form.code(pretrained, name), deviation, header)
        form.files(draft)[-1].write_text(text)
        for made, final in zip(form.files(draft), form.files(target), strict=True):
            final.parent.mkdir(exist_ok=True)
            os.replace(made, final)
    tell(pretrained, target, form, deviation)


def check_packages(to: str, form: Format) -> None:
    """Refuses a format whose packages are not installed."""
    missing = [name for name in form.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to {to} needs {' and '.join(missing)}: pip install {' '.join(form.needs)}")


def check_fit(to: str, pretrained: Pretrained) -> None:
    """Refuses a network that the format cannot hold, and names the formats that can."""
    try:
        FORMATS[to].code(pretrained, "")
    except UnfitError as reason:
        raise UserError(
            f"--to {to} cannot hold this {pretrained.config.name}: {reason}. Choose --to "
            f"{' or '.join(that_fit(pretrained))}."
        ) from None


def place(to: str, form: Format, pretrained: Pretrained, checkpoint: str, out: str | None) -> Path:
    """Where to write: `out`, a file in it, or by default the folder of the checkpoint's run, or this one.

    Raises:
        UserError: the folder is not there, or the file's name has another format's ending.
    """
    network = pretrained.config.name.removeprefix("timm/")
    network = network.rpartition(".")[2] if "/" not in pretrained.config.name else network.partition(".")[0]
    usual = f"{network}-{pretrained.part}{form.suffixes[0] if form.suffixes else '-hf'}"
    if out is None:
        run = run_config(checkpoint)
        return Path(os.path.relpath(run.parent)) / usual if run else Path(usual)
    target = Path(out)
    if form.suffixes and (target.is_dir() or out.endswith("/")):
        target /= usual
    if not (target.parent.is_dir() and os.access(target.parent, os.W_OK)):
        raise UserError(f"--out {out}: there is no folder {target.parent} to write to. Make it, or give another place.")
    if form.suffixes and not target.name.endswith(form.suffixes):
        raise UserError(f"--out {out}: the file of --to {to} ends in {' or '.join(form.suffixes)}.")
    return target


def check_place(files: list[Path], overwrite: bool) -> None:
    """Refuses to write over anything without being told to.

    Raises:
        UserError: a file is there already, or a folder has its name.
    """
    for file in files:
        if file.is_dir() or (file.parent.exists() and not file.parent.is_dir()):
            raise UserError(f"{file} cannot be written: {file if file.is_dir() else file.parent} is in its place.")
        if file.exists() and not overwrite:
            raise UserError(f"{file} is there already: add --overwrite, or give another place with --out.")


def tell(pretrained: Pretrained, target: Path, form: Format, deviation: Deviation) -> None:
    """Says what was read, what was written, how well it came back and how it is loaded."""
    *files, beside = form.files(target)
    unused = f"; {len(pretrained.unused)} more of its keys found no place" if pretrained.unused else ""
    shapes = " and ".join(str(list(shape)) for shape in deviation.shapes)
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"read: {pretrained.origin}, {pretrained.part} {pretrained.config.name}, {pretrained.loaded} tensors{unused}")
    print(f"written: {target} ({size:.1f} MiB); model card: {beside}")
    print(
        f"round trip: features of random images {shapes} differ by at most {deviation.largest:.1e} "
        f"({deviation.allowed:.0e} is allowed)"
    )
    print(f"To load it:\n\n{textwrap.indent(form.code(pretrained, str(target)), '    ')}")


def main() -> None:
    sys.path.append(os.getcwd())  # a backbone of the user's own
    parser = PlainParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("checkpoint", type=str, help="of this project's or another's (docs/checkpoints.md)")
    parser.add_argument("--to", type=Literal[tuple(FORMATS)], required=True, help="what to write")  # pyright: ignore
    parser.add_argument("--part", type=Part, default="backbone", help="the network that learned, or its slow copy")
    parser.add_argument("--backbone", type=BackboneConfig | None, help="the network, for files that do not tell")
    parser.add_argument("--out", type=str | None, help="file or folder (default: the run's folder, or this one)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    with answering_mistakes():
        given = parser.parse_args()
        backbone = parser.instantiate(given).backbone
        export(given.checkpoint, given.to, given.part, backbone, given.out, given.overwrite)


if __name__ == "__main__":
    main()
