"""The same short run in different precisions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor

from callbacks import NonFiniteGuard
from datamodules.sources import ArraySource, Source
from tests.support.methods import BACKBONES, CONVNET, IMAGE_SIZE, all_methods, images, small, specs_without_masks
from tests.support.training import Losses, TinyImages

BATCH = 32  # of 8 images BatchNorm's statistics would be noise
STEPS = 6
WIDE = {"backbone": replace(CONVNET, options={"width": 8})}


class MoreImages(TinyImages):
    """Enough for six batches."""

    def sources(self) -> tuple[Source, Source]:
        made = [
            ArraySource(images(n, seed), torch.arange(n) % 3, list("abc"), "tiny")
            for n, seed in ((BATCH * STEPS, 1), (19, 2))
        ]
        return made[0], made[1]


class Types(Callback):
    """The floating types of a step's loss, keys and gradients."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {"loss": set(), "keys": set(), "gradients": set()}

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self.found["loss"].add(str(loss.dtype))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.found["gradients"] |= {str(p.grad.dtype) for p in pl_module.parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.found["keys"] |= {str(keys.dtype) for keys in outputs["enqueue"].values() if keys.is_floating_point()}


def trained(method_name: str, precision: str, folder: str, rounded: bool = False) -> dict[str, Any]:
    """Trains one of `all_methods` for six steps.

    Args:
        method_name: its name.
        precision: the Trainer's.
        folder: for what a run may leave.
        rounded: the starting weights are rounded to bf16, once.

    Returns:
        `losses` of the steps; `start` and `end`, all `weights` and those of `teachers` in one vector each; and `types`,
        the floating types of `loss`, `keys`, `gradients`, the module's `state`, and what its parts `made`.
    """
    seed_everything(7, verbose=False)
    method = next(m for m in all_methods() if m.__name__ == method_name)
    module, losses, types = small(method, **({} if method_name in BACKBONES else WIDE)), Losses(), Types()
    if rounded:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter.bfloat16())
    made: set[str] = set()
    for part in module.modules():
        part.register_forward_hook(lambda m, x, y: made.add(str(y.dtype)) if isinstance(y, Tensor) else None)
    start = _vectors(module)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_epochs=1,
        callbacks=[losses, types, NonFiniteGuard()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=Path(folder),
    )
    data = MoreImages(specs_without_masks(method), IMAGE_SIZE, batch_size=BATCH)
    trainer.fit(module, datamodule=data)
    state = {str(v.dtype) for v in module.state_dict().values() if torch.is_tensor(v) and v.is_floating_point()}
    return {
        "losses": np.array(losses.values),
        "start": start,
        "end": _vectors(module),
        "types": types.found | {"state": state, "made": made},
    }


def _vectors(module: Any) -> dict[str, np.ndarray]:
    """All weights that learn in one vector, and those of the teachers."""
    teachers = [p for pair in module.ema_pairs() for p in pair.parameters()[0]]
    learned = [p for p in module.parameters() if p.requires_grad]
    parts = {"weights": learned, "teachers": teachers}
    return {name: torch.cat([p.detach().float().flatten() for p in ps]).numpy() for name, ps in parts.items() if ps}
