"""State that differs between ranks, in the checkpoint for each of them."""

from abc import ABC, abstractmethod
from typing import Any

import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a tensor over all ranks, without the barrier for which Lightning's own `reduce` stops the host."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()


class RankState(Callback, ABC):
    """A callback that keeps tensors of its own on every rank: running sums, recent features.

    Lightning writes the callbacks of rank 0 alone, so that all ranks of a resumed run would go on with the memory of
    one. Here the checkpoint holds the tensors of every rank, and each gets its own back. With another number of ranks
    than before, nothing is given back.
    """

    @abstractmethod
    def rank_state(self) -> dict[str, Tensor]:
        """This rank's tensors, of the same names and shapes on all ranks."""

    @abstractmethod
    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        """Takes up this rank's tensors of the original run, on the run's device; before `on_fit_start`."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gathers every tensor to [W, ...]; Lightning calls this on all ranks, after the states of all callbacks."""
        gather, device = trainer.strategy.all_gather, trainer.strategy.root_device
        ranks = {
            name: gather(tensor.to(device)).reshape(trainer.world_size, *tensor.shape)
            for name, tensor in self.rank_state().items()
        }
        checkpoint["callbacks"].setdefault(self.state_key, {})["ranks"] = ranks

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gives this rank's tensors back."""
        ranks: dict[str, Tensor] = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("ranks", {})
        if ranks and all(len(tensor) == trainer.world_size for tensor in ranks.values()):
            device = trainer.strategy.root_device
            self.load_rank_state({name: tensor[trainer.global_rank].to(device) for name, tensor in ranks.items()})
