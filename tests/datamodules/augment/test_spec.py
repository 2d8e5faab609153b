import pytest
from jsonargparse import ArgumentParser

from datamodules.augment import ViewSpec
from datamodules.errors import UserError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("count", 0),
        ("flip", 1.5),
        ("jitter", -0.1),
        ("rotation", -1.0),
        ("brightness", -0.4),
        ("hue", 0.6),
        ("crop_scale", (0.5, 0.2)),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.1, 1.1)),
        ("region", (0.5, 0.0, 0.5, 1.0)),
        ("region", (0.0, -0.1, 1.0, 1.0)),
        ("region", (0.0, 0.2, 1.0, 1.1)),
        ("blur_sigma", (2.0, 0.1)),
        ("blur_kernel", 4),
        ("blur_kernel", 65),
        ("solarize_threshold", 128.0),
        ("role", "teacher"),
        ("interpolation", "nearest"),
        ("background_removal", 1.1),
        ("background", "white"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(field, value):
    values = {"size": 32} | {field: value}
    with pytest.raises(UserError, match=f"{field} is .*; allowed is: "):
        ViewSpec(**values)


@pytest.mark.parametrize(("size", "kernel"), [(224, 23), (96, 9), (64, 7), (32, 3), (16, 3)])
def test_default_kernel_is_a_tenth_of_the_side_made_odd(size, kernel):
    assert ViewSpec(size=size).kernel == kernel
    assert ViewSpec(size=size, blur_kernel=5).kernel == 5


def test_a_recipe_can_be_spelled_out_in_yaml(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--views", type=list[ViewSpec])
    config = tmp_path / "views.yaml"
    config.write_text(
        "views:\n- {size: 32, count: 2, crop_scale: [0.2, 1.0], jitter: 0.8, hue: 0.1}\n- {size: 16, role: local}\n"
    )
    views = parser.instantiate(parser.parse_args([f"--config={config}"])).views
    assert views == [
        ViewSpec(size=32, count=2, crop_scale=(0.2, 1.0), jitter=0.8, hue=0.1),
        ViewSpec(size=16, role="local"),
    ]
