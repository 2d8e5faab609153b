"""Faults in files of the user's: configurations and code."""

from tests.faults.fault import FIT, IMAGES, TINY, Fault
from tests.faults.prepare import directory, file

OWN = f"{FIT} --model mine.Mine {TINY} --model.backbone.in_channels 1 {IMAGES}"
CLASS = "from methods import SimCLR\n\n\nclass Mine(SimCLR):\n    "
NET = "--model.backbone.name mine.Net --model.backbone.options '{}' --model.backbone.in_channels 3"
VIEWS = "data:\n  class_path: Digits\n  init_args:\n    views:\n      - "


def config(wrong: str, text: str, says: str) -> Fault:
    """A fault in mine.yaml."""
    return Fault(wrong, "--config mine.yaml", says, on=FIT, prepare=(file("mine.yaml", text),))


def code(wrong: str, text: str, says: str) -> Fault:
    """A fault in mine.py, which is to hold the method Mine."""
    return Fault(wrong, "", says, on=OWN, prepare=(file("mine.py", text),))


def made_of(part: str) -> str:
    """Mine, with another part that its step knows nothing of."""
    kind = part.partition("(")[0]
    method = f"{CLASS}def __init__(self, **base):\n        super().__init__(**base)\n        self.part = {part}\n"
    return f"from methods.modules import {kind}\n{method}"


CONFIGURATIONS = [
    Fault("a file that is not there", "--config nowhere.yaml", "--config nowhere.yaml: there is no such file", on=FIT),
    Fault("a folder in its place", "--config folder", "folder", on=FIT, prepare=(directory("folder"),)),
    config("an empty file", "", "A configuration holds nothing"),
    config("brackets that do not close", "model: [", "line 2"),
    config("a tab for spaces", "model:\n\tclass_path: SimCLR\n", "line 2"),
    config("a list", "- model\n- data\n", "A configuration holds - model - data"),
    config("bytes that are no text", "\x00\x01\x02", "is no YAML"),
    config("a misspelt section", "modle: {class_path: SimCLR}", "Did you mean 'model'?"),
    config("a misspelt method", "model: {class_path: SimCLRR}", "Did you mean 'SimCLR'?"),
    config(
        "a misspelt argument", "model: {class_path: SimCLR, init_args: {temprature: 3}}", "Did you mean 'temperature'?"
    ),
    config(
        "a misspelt argument inside another",
        "model: {class_path: SimCLR, init_args: {optim: {lrr: 3}}}",
        "Did you mean 'optim.lr'?",
    ),
    config("a misspelt part of a view", f"{VIEWS}{{count: 2, sizze: 20}}", "Did you mean"),
    config(
        "a command for a class", "model: {class_path: os.system, init_args: {command: touch it_ran}}", "'os.system'"
    ),
    config("Python in YAML", "model: !!python/object/apply:os.system ['touch it_ran']", "python/object"),
]

OWN_CODE = [
    Fault("no such file", "", "No module named 'mine'", on=OWN),
    code("no such class in it", "from methods import SimCLR\n", "has no attribute 'Mine'"),
    code("a syntax error", f"{CLASS}def __init__(self:\n", "never closed (mine.py, line 5)"),
    code("an import that fails", "import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
    code(
        "a class that is no method", "class Mine:\n    pass\n", "does not correspond to a subclass of LightningModule"
    ),
    code("an abstract method", "from methods.base import SSLModule\n\n\nclass Mine(SSLModule):\n    pass\n", "Mine"),
    code(
        "parameters that the optimiser does not get",
        f"{CLASS}def param_groups(self):\n        return self.optim.groups(self.backbone)\n",
        "param_groups() has to put every parameter into a group",
    ),
    code(
        "a teacher that nothing moves", made_of("Teacher(self.backbone, self.projector)"), "ema_pairs() has to list it"
    ),
    code("a queue that is not filled", made_of("FeatureQueue(8, 8)"), "StepOutput.enqueue has to name every queue"),
    Fault("a backbone that is not there", NET, "cannot be imported"),
    Fault(
        "a backbone that does not say its features",
        NET,
        "needs an attribute `feature_dim`",
        prepare=(file("mine.py", "from torch import nn\n\n\nclass Net(nn.Identity):\n    pass\n"),),
    ),
    Fault("an optimiser that is none", "--model.optim.optimizer os.path", "is unknown"),
]
