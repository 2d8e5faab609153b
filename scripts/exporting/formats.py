"""What a backbone can be exported to: for each format how it is written, and the lines that load it."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.pretrained import Pretrained
from scripts.exporting import hub, onnx_file
from scripts.exporting.rebuild import Library, Lines, UnfitError, lines_anywhere, lines_in, literal


@dataclass(frozen=True)
class Format:
    """One value of `--to`.

    Attributes:
        suffixes: ends of the file's name, the usual one first; none for a folder.
        write: writes a backbone to a path.
        code: the lines that load it from a path and turn `images` into `features`; raises `UnfitError` where the format
            cannot hold the network.
        needs: packages beside those of requirements.txt.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Pretrained, Path], None]
    code: Callable[[Pretrained, str], str]
    needs: tuple[str, ...] = ()

    def files(self, target: Path) -> list[Path]:
        """All that is written for a target; the last is the model card."""
        if not self.suffixes:
            return [target / name for name in (*hub.FILES, "README.md")]
        return [target, target.with_name(f"{target.name}.md")]


def code(lines: Lines, *loading: str) -> str:
    """Lines of Python: imports, the network, its weights, its features."""
    run = ["network.eval()", "with torch.no_grad():", "    features = network(images)"]
    return "\n".join([*lines.imports, "", *lines.body, *loading, *run]) + "\n"


def plain_tensors(pretrained: Pretrained) -> dict[str, Tensor]:
    """The state dict, each tensor with storage of its own, rows first: files take no views and no other layouts."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in pretrained.backbone.state_dict().items()
    }


def metadata(pretrained: Pretrained) -> dict[str, str]:
    """What a file says of its weights, as text, which is all that safetensors and ONNX take."""
    facts: dict[str, Any] = {
        "origin": pretrained.origin,
        "part": pretrained.part,
        "backbone": asdict(pretrained.config),
        "batch_norm": pretrained.batch_norm,
        "images": pretrained.images,
    }
    return {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items() if fact}


def _state_dict(library: Library) -> Format:
    def lines(pretrained: Pretrained, path: str) -> str:
        loaded = f"torch.load({literal(path)}, weights_only=True)"
        return code(lines_in(library, pretrained), f"network.load_state_dict({loaded}, strict=True)")

    return Format((f".{library}.pth", ".pth", ".pt"), lambda p, path: torch.save(plain_tensors(p), path), lines)


def _write_safetensors(pretrained: Pretrained, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(plain_tensors(pretrained), path, {"format": "pt"} | metadata(pretrained))


def _safetensors_code(pretrained: Pretrained, path: str) -> str:
    lines = lines_anywhere(pretrained)
    imports = sorted({*lines.imports, "import torch", "from safetensors.torch import load_file"})
    return code(Lines(imports, lines.body), f"network.load_state_dict(load_file({literal(path)}), strict=True)")


def _hub_code(pretrained: Pretrained, path: str) -> str:
    if pretrained.config.small_images:
        raise UnfitError("timm cannot build a stem for small images from a configuration")
    lines_in("timm", pretrained)
    source = literal(f"local-dir:{path}")
    return code(Lines(["import timm", "import torch"], [f"network = timm.create_model({source}, pretrained=True)"]))


def _write_hub(pretrained: Pretrained, folder: Path) -> None:
    hub.write(pretrained, plain_tensors(pretrained), folder)


def _onnx_code(pretrained: Pretrained, path: str) -> str:
    onnx_file.check_size(pretrained.backbone)
    session = f"session = onnxruntime.InferenceSession({literal(path)})"
    run = '(features,) = session.run(None, {"images": images.numpy()})  # or any float32 array [B, C, H, W]'
    return f"import onnxruntime\n\n{session}\n{run}\n"


def _write_onnx(pretrained: Pretrained, path: Path) -> None:
    onnx_file.write(pretrained, metadata(pretrained), path)


FORMATS: dict[str, Format] = {
    "torchvision": _state_dict("torchvision"),
    "timm": _state_dict("timm"),
    "safetensors": Format((".safetensors",), _write_safetensors, _safetensors_code),
    "onnx": Format((".onnx",), _write_onnx, _onnx_code, ("onnx", "onnxscript", "onnxruntime")),
    "hf": Format((), _write_hub, _hub_code),
}


def that_fit(pretrained: Pretrained) -> list[str]:
    """The formats that can hold a network."""
    return [name for name in FORMATS if _fits(name, pretrained)]


def _fits(name: str, pretrained: Pretrained) -> bool:
    try:
        FORMATS[name].code(pretrained, "")
    except UnfitError:
        return False
    return True
