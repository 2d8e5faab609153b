"""Faults around the scripts: what each answers has more tests in tests/scripts/."""

from tests.faults.fault import Fault
from tests.faults.images import FOLDER
from tests.faults.prepare import LAST, directory, edited, file, finished_run, pictures

HERE = (finished_run,)
SALIENCY = "scripts/precompute_saliency.py --data Digits --out masks.bin"
DOCTOR = FOLDER.replace("cli.py fit", "scripts/doctor.py --seconds 1")

JUDGING = [
    Fault(
        "no checkpoint", "nowhere.ckpt --suite quick", "nowhere.ckpt: there is no such file", on="scripts/evaluate.py"
    ),
    Fault(
        "a suite that there is not",
        f"{LAST} --suite fast",
        "--suite fast is none of quick",
        on="scripts/evaluate.py",
        prepare=HERE,
    ),
    Fault(
        "a checkpoint of no run, and no data",
        "other.ckpt",
        "On which images?",
        on="scripts/evaluate.py",
        prepare=(edited(dict),),
    ),
    Fault(
        "data of other channels",
        f"{LAST} --data ImageFolder --data.path pictures",
        "channel(s)",
        on="scripts/evaluate.py",
        prepare=(finished_run, pictures()),
    ),
    Fault(
        "a share of labels above 1",
        f"{LAST} --fractions 2",
        "above 0 and at most 1",
        on="scripts/label_efficiency.py",
        prepare=HERE,
    ),
    Fault(
        "a text for a checkpoint",
        "text.ckpt --data Digits",
        "is no checkpoint",
        on="scripts/label_efficiency.py",
        prepare=(file("text.ckpt", "weights"),),
    ),
]

HANDING_OVER = [
    Fault("a format that there is not", f"{LAST} --to tim", "'timm'", on="scripts/export.py", prepare=HERE),
    Fault(
        "a network that the format cannot hold",
        f"{LAST} --to torchvision",
        "Choose --to safetensors or onnx.",
        on="scripts/export.py",
        prepare=HERE,
    ),
    Fault(
        "a file in the place",
        f"{LAST} --to safetensors --out mine.safetensors",
        "add --overwrite",
        on="scripts/export.py",
        prepare=(finished_run, file("mine.safetensors", "mine")),
    ),
    Fault(
        "a network that is not finite",
        "other.ckpt --to safetensors",
        "training diverged",
        on="scripts/export.py",
        prepare=(edited(lambda c: c | {"state_dict": {k: v * float("nan") for k, v in c["state_dict"].items()}}),),
    ),
]

LOOKING = [
    Fault("a picture that there is not", "", "invalid choice: 'paint'", on="scripts/visualize.py paint"),
    Fault(
        "a folder that is no run's",
        "curves folder --out curves.png",
        "folder",
        on="scripts/visualize.py",
        prepare=(directory("folder"),),
    ),
    Fault(
        "a format of pictures that there is not",
        "curves runs/version_0 --out curves.xyz",
        "--out curves.xyz",
        on="scripts/visualize.py",
        prepare=HERE,
    ),
    Fault("a folder that is not there", "nowhere", "There is no folder nowhere.", on="scripts/compare.py"),
    Fault(
        "a column that there is not",
        "runs/version_0 --sort kn",
        "sort is kn; allowed is one of",
        on="scripts/compare.py",
        prepare=HERE,
    ),
]

BEFORE = [
    Fault("a misspelt argument", "--data.batchsize 8", "Did you mean 'batch_size'?", on=DOCTOR, prepare=(pictures(),)),
    Fault("no time to measure", "--seconds 0", "--seconds 0 must be above 0", on=DOCTOR, prepare=(pictures(),)),
    Fault("no pictures", "", "There is no pictures", on=DOCTOR, code=1, midway=True),
    Fault(
        "a threshold above 1",
        "--threshold 2",
        "must lie above 0 and be at most 1",
        on="scripts/find_duplicates.py --data Digits",
    ),
    Fault(
        "pictures that are all broken",
        "--data ImageFolder --data.path pictures",
        "can be read",
        on="scripts/find_duplicates.py",
        prepare=(pictures(broken=dict.fromkeys(range(12), b"broken")),),
    ),
    Fault("a saliency that cannot be imported", "--saliency mine.saliency", "cannot be imported", on=SALIENCY),
    Fault("a saliency that fails", "--saliency json.dumps", "fails on a picture with TypeError", on=SALIENCY),
    Fault(
        "a folder that is not there for a result", "--out nowhere/masks.bin", "there is no folder nowhere", on=SALIENCY
    ),
    Fault(
        "no name for the result",
        "",
        "the following arguments are required: --name",
        on="scripts/reproduce.py configs/quickstart.yaml",
    ),
    Fault(
        "a configuration that is not there",
        "--name faults",
        "--config nowhere.yaml: there is no such file",
        on="scripts/reproduce.py nowhere.yaml",
    ),
]
