"""Networks too large for one device: every rank keeps a share of their weights, gradients and optimiser states."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from datamodules.errors import UserError


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks, `--trainer.strategy sharded`: the step of DDP, in less memory per rank.

    Each network of a method, and each block of a transformer in it, gathers its weights when it is called and gives
    them back after. Teachers are cut up as their students are, so that the moving average takes place on each rank's
    share. A checkpoint is one file with whole weights, as any other run's.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Spreads the networks over all ranks of all machines."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Cuts up the networks before the optimiser is built.

        Raises:
            UserError: the method has weights outside of its networks, which nothing would keep equal on all ranks.
        """
        own = [name for name, _ in self._module.named_parameters(recurse=False)]
        if own or getattr(self._module, "compile_networks", False):
            raise UserError(
                f"--trainer.strategy sharded needs all weights in networks ({', '.join(own)} are not): use ddp."
                if own
                else "--trainer.strategy sharded does not go with --model.compile true: leave one of them out."
            )
        for network in self._module.children():
            if any(True for _ in network.parameters()):
                shard(network, self.device_mesh["data_parallel"])
        super().setup(trainer)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The method's.

        Raises:
            UserError: it calls parts of a network by themselves, for which nobody gathers the weights.
        """
        try:
            return super().training_step(*args, **kwargs)
        except RuntimeError as error:
            if "mixed torch.Tensor and DTensor" not in str(error):
                raise
            raise UserError(
                f"{type(self._module).__name__} uses parts of its networks by themselves, which "
                "--trainer.strategy sharded cannot serve: use ddp."
            ) from error

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on rank 0, numbered as the optimiser's own; empty on the others.

        Lightning numbers it by the module's parameters, and another strategy would give it to the wrong ones.
        """
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole: dict[str, Any] = dict(get_optimizer_state_dict(self._module, optimizer, options=options))
        if not whole:
            return {}
        number = {name: place for place, name in enumerate(self._names(optimizer))}
        groups = [group | {"params": [number[name] for name in group["params"]]} for group in whole["param_groups"]]
        return {"state": {number[name]: state for name, state in whole["state"].items()}, "param_groups": groups}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are restored while networks are whole, and callbacks before `on_fit_start`, as in any other run."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """By `load_optimizer_state_dict`."""
        return True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole file, on every rank."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fills the networks, before they are cut up."""
        self._module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives each rank its share of what `optimizer_state`, or another strategy's, has written."""
        options = StateDictOptions(full_state_dict=True)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            groups = [group | {"params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
            state = {"state": {names[i]: state for i, state in saved["state"].items()}, "param_groups": groups}
            set_optimizer_state_dict(self._module, optimizer, optim_state_dict=state, options=options)

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None, "the Trainer has connected it"
        return self.lightning_module

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Of its parameters, in its order."""
        names = {parameter: name for name, parameter in self._module.named_parameters()}
        return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def shard(network: nn.Module, mesh: Any) -> None:
    """Cuts a network up, in place: the blocks of transformers each by itself, then what is left as a whole.

    Args:
        network: called by its forward pass alone, which gathers the weights.
        mesh: the ranks that share it, in one dimension.
    """
    for module in network.modules():
        if type(module).__name__ == "Block":  # timm's
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    # Given back also after a forward pass that no backward pass follows, as a teacher's.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


StrategyRegistry.register("sharded", ShardedStrategy, description="FSDP2 of every network, teachers included")
