"""The typed batch that every datamodule yields and every method takes."""

from typing import NamedTuple

from torch import Tensor


class Views(NamedTuple):
    """Several augmented views of the same B images, with what the watchers need to know about the images.

    A NamedTuple, because PyTorch's collate and pinning and Lightning's device transfer all carry it unchanged.

    Attributes:
        global_views: V_g tensors [B, C, H, W], float, normalised.
        label: [B] int64, -1 where unknown. For watchers and supervised losses only.
        index: [B] int64, position in the data set; -1 marks a row that only pads the last batch of an evaluation.
        local_views: V_l tensors [B, C, h, w], empty without multi-crop.
        extras: what one recipe adds (masks, patch offsets, ...), each with B rows.
    """

    global_views: list[Tensor]
    label: Tensor
    index: Tensor
    local_views: list[Tensor] = []
    extras: dict[str, Tensor] = {}

    def rows(self, start: int, stop: int) -> "Views":
        """The images `start:stop` of the batch, all their views; nothing is copied."""
        return Views(
            [view[start:stop] for view in self.global_views],
            self.label[start:stop],
            self.index[start:stop],
            [view[start:stop] for view in self.local_views],
            {name: value[start:stop] for name, value in self.extras.items()},
        )
