"""The page on views against the code and against the measured figures."""

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from datamodules import ImageDataModule
from datamodules.augment import RECIPES, ViewSpec, recipe

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/views.md").read_text()


def table_row(name: str, size: int, spec: ViewSpec) -> str:
    """One specification of a recipe as a row of the page's table."""
    low, high = spec.crop_scale
    within = "" if spec.region == (0, 0, 1, 1) else f" of ({', '.join(f'{edge:g}' for edge in spec.region)})"
    strengths = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    cells = (
        f"`{name}`",
        str(size),
        f"{spec.count} {spec.role}, {spec.size} px"
        + (f", masked {spec.background_removal:g}" if spec.background_removal else "")
        + (f", RandAugment {spec.rand_augment} x {spec.rand_magnitude}" if spec.rand_augment else ""),
        f"{low:g}-{high:g}{within}, {spec.interpolation}",
        f"{spec.jitter:g}: {', '.join(f'{strength:g}' for strength in strengths)}" if spec.jitter else "",
        f"{spec.grayscale:g}" if spec.grayscale else "",
        f"{spec.blur:g} ({spec.kernel})" if spec.blur else "",
        f"{spec.solarize:g}" if spec.solarize else "",
    )
    return "| " + " | ".join(cell or "-" for cell in cells) + " |"


@pytest.mark.parametrize("name", RECIPES)
def test_the_table_states_every_recipe(name):
    rows = [table_row(name, size, spec) for size in (224, 32) for spec in recipe(name, size)]
    stated = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    assert stated == rows, "docs/views.md should have:\n" + "\n".join(rows)


def test_the_examples_are_valid():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    specs = [parser.instantiate(parser.parse_object(yaml.safe_load(text))).data.specs for text in examples]
    assert specs[0] == recipe("byol", 32)
    assert [(spec.count, spec.size, spec.role) for spec in specs[1]] == [(2, 32, "global"), (4, 16, "local")]
