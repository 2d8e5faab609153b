"""What every command with a Trainer's flags says of those that cannot be used."""

import os
import re
from typing import Any

from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from datamodules.errors import UserError

AT_LEAST_ONE = ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")
"""Flags by which Lightning divides, and which it does not check."""
NAMED = "a name of its own, such as --trainer.callbacks.name second"


class PlainCLI(LightningCLI):
    """LightningCLI with the project's own flag, and a sentence where a seed is none or no Trainer fits the flags."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what is ours; to every command, so that each can read a run's config.yaml."""
        parser.add_argument(
            "--extend", type=bool, default=False, help="let fit go on from ckpt_path to another length of the run"
        )

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"--seed_everything: {error}.") from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        for name in AT_LEAST_ONE:
            if config.get(name) is not None and config[name] < 1:
                raise UserError(f"--trainer.{name} {config[name]} must be at least 1.")
        try:
            trainer = super()._instantiate_trainer(config, callbacks)
        except (ValueError, ImportError, MisconfigurationException) as error:  # no such accelerator, package, ...
            raise UserError(f"The Trainer cannot be made of these flags: {' '.join(str(error).split())}") from error
        except RuntimeError as error:
            if (twice := re.search(r"more than one stateful callback of type `(\w+)`", str(error))) is None:
                raise
            apart = "another monitor or mode" if twice[1] == "ModelCheckpoint" else NAMED
            raise UserError(
                f"There are two {twice[1]}s that a checkpoint could not tell apart; one may be of "
                f"configs/defaults.yaml. Give one {apart}."
            ) from error
        _check_nodes(trainer)
        return trainer


def _check_nodes(trainer: Trainer) -> None:
    """Refuses a run on several machines that nothing brings together: it would wait half an hour for the others."""
    alone = isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    if trainer.num_nodes > 1 and alone and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"--trainer.num_nodes {trainer.num_nodes}, and nothing says where the other machines are: start the run by "
            "torchrun or srun (docs/clusters.md), or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each machine."
        )
