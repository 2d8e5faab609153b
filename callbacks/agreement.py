"""How ranks come to one answer without waiting for each other's devices."""

from collections import deque

import torch
import torch.distributed as dist
from torch import Tensor

DELAY = 2
"""Calls until a number has gone round. A rank's host may so be that many steps ahead of another's, as it is anyway."""


class Agreement:
    """The highest number that any rank named, the same on all ranks at the same call.

    Every call starts an exchange between the hosts, over gloo and beside what the devices exchange, and takes the
    result of the one before last, which has long arrived. One process has its answer at once.
    """

    def __init__(self, world_size: int = 1) -> None:
        """
        Args:
            world_size: number of ranks; all of them construct it at the same time.
        """
        together = world_size > 1 and dist.is_available() and dist.is_initialized()
        self._group = dist.new_group(backend="gloo") if together else None
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()

    def highest(self, number: int) -> int:
        """The highest number of all ranks, `DELAY` calls ago; all ranks call it equally often."""
        if self._group is None:
            return number
        own = torch.tensor(number)
        work = dist.all_reduce(own, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None, "asynchronous operations are waited for by their handle"
        self._under_way.append((work, own))
        if len(self._under_way) <= DELAY:
            return 0
        work, highest = self._under_way.popleft()
        work.wait()
        return int(highest)

    def close(self) -> None:
        """Waits for what is under way, at the same call of all ranks."""
        while self._under_way:
            self._under_way.popleft()[0].wait()
