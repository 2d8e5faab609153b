"""What Lightning would leave undone.

The validation after a checkpointed step, the checkpoint of the last step, and the best of the run before.
"""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint


class OwedValidation(Callback):
    """Lets a resumed run make up for the validation right after the step at which its checkpoint was written.

    Lightning writes checkpoints of steps before the validation that follows the step, and takes it for done when it
    goes on from one: after the last step of an epoch it would skip the epoch's end as well. So these checkpoints are
    marked as written amid the validation, before its first batch, which makes Lightning run it.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Marks it, between a step and its validation."""
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        current = loop.batch_progress.current
        amid_batch_end = trainer.training and current.completed == current.processed - 1  # pyright: ignore[reportAttributeAccessIssue]
        if fetcher is None or not amid_batch_end or not loop._should_check_val_fx(fetcher):
            return
        state = checkpoint["loops"]["fit_loop"]
        validated = state["epoch_loop.val_loop.batch_progress"]
        validated["current"] = dict.fromkeys(validated["current"], 0)
        for part in ("total", "current"):
            batches = state["epoch_loop.batch_progress"][part]
            batches["completed"] = batches["processed"]
            validated[part]["ready"] += 1
            validated[part]["started"] += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the mark away again."""
        if trainer.state.fn == "fit":
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()


class OwedCheckpoint(Callback):
    """Brings last.ckpt up to the end of the run.

    Lightning leaves it at the last validated epoch, or the last multiple of so many steps: the weights of what a run
    trained after that would be gone.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it, unless it is there."""
        savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        for saver in savers:
            if saver.save_last and saver._last_global_step_saved != trainer.global_step:
                saver._save_last_checkpoint(trainer, saver._monitor_candidates(trainer))


class OwedBest(Callback):
    """Lets a resumed run know its best checkpoints so far, and their scores.

    Lightning forgets them where the run has another folder, as here each part of a run has: the first validation after
    a resume would become the best, however bad. The files of the folder before are left alone: Lightning only removes
    what is in a run's own.
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has the states of `ModelCheckpoint` taken for this folder's, before Lightning hands them out.

        Those of remote folders are left out, since there Lightning would remove files of any folder.
        """
        savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        for saver in savers:
            state = checkpoint["callbacks"].get(saver.state_key, {})
            if "://" not in str(state.get("dirpath")):
                state["dirpath"] = saver.dirpath
