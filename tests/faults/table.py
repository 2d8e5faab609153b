"""All faults, by area, in the order of docs/faults.md."""

from tests.faults import checkpoints, files, flags, images, runs, scripts, shards
from tests.faults.fault import Fault

AREAS: dict[str, list[Fault]] = {
    "Names on the command line": flags.NAMES,
    "Values": flags.VALUES,
    "What does not go together": flags.TOGETHER,
    "Hardware that is not there": flags.HARDWARE,
    "Configurations": files.CONFIGURATIONS,
    "Code of your own": files.OWN_CODE,
    "Folders of pictures": images.FOLDERS,
    "Tables of pictures": images.TABLES,
    "Tar shards": shards.SHARDS,
    "Masks": images.MASKS,
    "Checkpoints to go on from": checkpoints.RESUME,
    "Another length on resume": runs.LENGTH,
    "Numbers that are not finite": runs.NUMBERS,
    "Signals and ranks": runs.RANKS,
    "Disks": checkpoints.WRITE + runs.DISKS,
    "Judging": scripts.JUDGING,
    "Handing over": scripts.HANDING_OVER,
    "Looking": scripts.LOOKING,
    "Before a run": scripts.BEFORE,
}
