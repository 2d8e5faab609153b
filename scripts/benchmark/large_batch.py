"""What a large batch in micro-batches costs: memory against a small batch, time against the plain step.

    python scripts/benchmark/large_batch.py
    python scripts/benchmark/large_batch.py --device cuda --backbone resnet18

SimCLR at 32 px. Memory is the peak of a training step beyond what the process held before it, the views already there:
of the batch that is contrasted, in chunks, against a plain step with a batch of one chunk. Each figure comes from a
process of its own. Time is that of a batch that fits, in chunks and plain, in turns: on a CPU the CPU time of one
thread.
"""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.simclr import SimCLR
from scripts.benchmark.report import write_report
from scripts.benchmark.turns import in_turns, parser_of, settings, sgd_step

SIDE = 32
MEBIBYTE = 1024**2


def training_step(backbone: str, batch_size: int, chunk: int | None, device: str) -> Callable[[], None]:
    """Forward, backward and optimiser of SimCLR on random views."""
    torch.manual_seed(0)
    config = BackboneConfig(backbone, small_images=backbone.startswith("resnet"))
    module = SimCLR(backbone=config, hidden_dim=512, micro_batch_size=chunk).to(device)
    index = torch.arange(batch_size, device=device)
    views = Views([torch.randn(batch_size, 3, SIDE, SIDE, device=device) for _ in range(2)], index, index)
    return sgd_step(module, lambda: module.step(views).loss, device)


def peak_mib(backbone: str, batch_size: int, chunk: int | None, device: str) -> float:
    """Peak memory of a step in MiB, beyond what was held before it."""
    torch.set_num_threads(1)
    training_step(backbone, 8, None, device)()  # what a library sets up once
    step = training_step(backbone, batch_size, chunk, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    """A line of this process's memory status, in MiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"the system does not tell {name}"
    return int(found[1]) / 1024


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--backbone", default="convnet", help="name of a backbone")
    parser.add_argument("--batch-size", type=int, default=4096, help="images whose memory is measured")
    parser.add_argument("--chunk", type=int, default=256, help="images of a micro-batch")
    parser.add_argument("--time-batch-size", type=int, default=1024, help="images whose time is measured; must fit")
    o = parser.parse_args(arguments)

    sizes = {"one chunk": (o.chunk, None), "large batch": (o.batch_size, o.chunk)}
    memory = {}
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # in the new processes what is freed goes back: no fragments count
    for name, (batch_size, chunk) in sizes.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[name] = pool.apply(peak_mib, (o.backbone, batch_size, chunk, o.device))
    ratio = memory["large batch"] / memory["one chunk"]
    print(f"memory of a step: {o.chunk} images {memory['one chunk']:.0f} MiB, {o.batch_size} images in chunks of "
          f"{o.chunk} {memory['large batch']:.0f} MiB, ratio {ratio:.2f}")  # fmt: skip

    torch.set_num_threads(1)
    chunked, plain = (training_step(o.backbone, o.time_batch_size, chunk, o.device) for chunk in (o.chunk, None))
    *_, spread = in_turns((chunked, plain), o.rounds, 1, o.device)
    print(f"time of {o.time_batch_size} images in chunks of {o.chunk} over the plain step: {spread}")
    if o.out:
        write_report(
            o.out,
            packages=("torch", "torchvision"),
            what="SimCLR in micro-batches: peak memory of a step over a plain step of one chunk, and time over a plain "
            "step of the same images, median of rounds in turns",
            **settings(o),
            memory_mib={name: round(value, 1) for name, value in memory.items()},
            memory_ratio=ratio,
            time=spread._asdict(),
        )


if __name__ == "__main__":
    main()
