"""What hiding patches saves: time of MAE's encoder with most patches hidden against all visible, side by side.

    python scripts/benchmark/mae.py
    python scripts/benchmark/mae.py --device cuda --batch-size 256 --steps 20
    python scripts/benchmark/mae.py --backbone timm/vit_tiny_patch16_224 --image-size 32 --patch-size 4 --batch-size 64

Forward and backward; the two take turns for several rounds. The second line adds decoder and loss, which see all
patches in either case. On a CPU it is the CPU time of one thread, on CUDA the time of the clock, in bf16. The table
shows the medians over the rounds, and the smallest and largest ratio.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from methods.backbones import BackboneConfig
from methods.losses.masked_pixels import masked_pixel_error
from methods.mae import MAE
from methods.modules.masked_vit import encode_visible
from methods.modules.masking import patchify, random_mask
from scripts.benchmark.report import write_report
from scripts.benchmark.turns import Spread, in_turns, parser_of, settings


@dataclass
class Result:
    """Seconds a step of one part: medians over the rounds, and the ratio's spread."""

    part: str
    masked: float
    all_visible: float
    ratio: float
    ratio_min: float
    ratio_max: float


def encoder(module: MAE, images: Tensor, mask_ratio: float) -> Tensor:
    """A scalar that all of the encoder's tokens enter."""
    mask = random_mask(torch.rand(len(images), module.num_patches, device=images.device), mask_ratio)
    return encode_visible(module.backbone, images, mask.kept).square().mean()


def whole(module: MAE, images: Tensor, mask_ratio: float) -> Tensor:
    """Loss of a training step; with all patches visible it is taken over all of them."""
    mask = random_mask(torch.rand(len(images), module.num_patches, device=images.device), mask_ratio)
    prediction = module.decoder(encode_visible(module.backbone, images, mask.kept), mask.restore)
    counted = mask.hidden if mask_ratio else ~mask.hidden
    return masked_pixel_error(prediction, patchify(images, module.patch_size), counted, module.norm_pix)


def training(module: MAE, images: Tensor, part: Callable[..., Tensor], mask_ratio: float) -> Callable[[], None]:
    """Forward and backward of a part, in bf16 on CUDA."""
    device = images.device.type

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            scalar = part(module, images, mask_ratio)
        scalar.backward()

    return step


def compare(module: MAE, images: Tensor, part: Callable[..., Tensor], rounds: int, steps: int) -> Result:
    """Lets both take turns, after one turn each to warm up."""
    ways = (training(module, images, part, module.mask_ratio), training(module, images, part, 0.0))
    masked, visible, spread = in_turns(ways, rounds, steps, images.device.type)
    return Result(part.__name__, masked, visible, *spread)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--backbone", default="timm/vit_base_patch16_224", help="name of a ViT")
    parser.add_argument("--image-size", type=int, default=224, help="side in pixels")
    parser.add_argument("--patch-size", type=int, default=16, help="side in pixels")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of the patches that are hidden")
    parser.add_argument("--batch-size", type=int, default=8, help="images in a step")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"img_size": options.image_size, "patch_size": options.patch_size}
    module = MAE(backbone=BackboneConfig(options.backbone, options=sizes), mask_ratio=options.mask_ratio)
    module.to(options.device)
    images = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=options.device)

    print(f"{'seconds a step':16} {f'{options.mask_ratio:.0%} hidden':>12} {'all visible':>12}   ratio (min to max)")
    results = []
    for part in (encoder, whole):
        result = compare(module, images, part, options.rounds, options.steps)
        print(
            f"{result.part:16} {result.masked:12.4f} {result.all_visible:12.4f} "
            f"  {Spread(result.ratio, result.ratio_min, result.ratio_max)}"
        )
        results.append(asdict(result))
    if options.out:
        write_report(
            options.out,
            packages=("torch", "timm"),
            what="seconds of forward and backward, medians over rounds in which masked and whole images take turns",
            **settings(options),
            results=results,
        )


if __name__ == "__main__":
    main()
