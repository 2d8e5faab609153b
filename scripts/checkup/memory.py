"""How much memory the steps take, and what of it is accounted for."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

INTERVAL = 0.005  # seconds between two looks at the process
_STATM = Path("/proc/self/statm")


class PeakMemory:
    """The highest memory use between `start` and `stop`.

    On CUDA that of torch's tensors, which torch keeps itself; elsewhere the resident memory of this process, sampled,
    where the system tells it (Linux).

    Attributes:
        before: bytes at the start, None if it cannot be told.
        peak: the highest since then.
    """

    def __init__(self, device: torch.device) -> None:
        self.before: int | None = None
        self.peak: int | None = None
        self._device = device
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self.before = torch.cuda.memory_allocated(self._device)
        elif _STATM.exists():
            self.before = self.peak = resident()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends it; a second call changes nothing."""
        if self._device.type == "cuda" and self.before is not None:
            self.peak = torch.cuda.max_memory_allocated(self._device)
        elif self._thread is not None:
            self._done.set()
            self._thread.join()

    @property
    def total(self) -> int | None:
        """Bytes that the device has."""
        if self._device.type == "cuda":
            return torch.cuda.get_device_properties(self._device).total_memory
        return machine_memory()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self.peak = max(self.peak or 0, resident())


def resident() -> int:
    """Resident bytes of this process."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_memory() -> int | None:
    """Bytes of this machine's memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def nbytes(tensors: Iterable[object]) -> int:
    """Bytes of those that are tensors."""
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
