from dataclasses import replace

import pytest

from datamodules.augment import RECIPES, ViewSpec, recipe
from datamodules.augment.recipes import local_size
from datamodules.errors import UserError


def test_simclr_at_imagenet_size_has_the_paper_s_values():
    assert recipe("simclr", 224) == [
        ViewSpec(
            size=224,
            count=2,
            crop_scale=(0.08, 1.0),
            jitter=0.8,
            brightness=0.8,
            contrast=0.8,
            saturation=0.8,
            hue=0.2,
            grayscale=0.2,
            blur=0.5,
            blur_kernel=23,
        )
    ]


def test_simclr_at_small_size_has_half_the_strength_and_no_blur():
    (view,) = recipe("simclr", 32)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)
    assert view.blur == 0


@pytest.mark.parametrize("name", ["byol", "moco_v3"])
def test_the_second_view_alone_is_solarised(name):
    first, second = recipe(name, 224)
    assert (first.blur, first.solarize) == (1.0, 0.0)
    assert (second.blur, second.solarize) == (0.1, 0.2)
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)


@pytest.mark.parametrize(
    ("name", "views", "global_scale", "local_scale"),
    [("swav", (2, 6), (0.14, 1.0), (0.05, 0.14)), ("dino", (2, 8), (0.4, 1.0), (0.05, 0.4))],
)
def test_multi_crop(name, views, global_scale, local_scale):
    specs = recipe(name, 224)
    by_role = {role: [spec for spec in specs if spec.role == role] for role in ("global", "local")}
    assert tuple(sum(spec.count for spec in by_role[role]) for role in ("global", "local")) == views
    assert {spec.crop_scale for spec in by_role["global"]} == {global_scale}
    assert {(spec.crop_scale, spec.size, spec.blur_kernel) for spec in by_role["local"]} == {(local_scale, 96, 23)}


def test_relicv2_removes_background_from_large_views_alone():
    specs = recipe("relicv2", 224)
    assert [(spec.role, spec.count, spec.background_removal) for spec in specs] == [
        ("global", 1, 0.1),
        ("global", 1, 0.1),
        ("local", 6, 0.0),
    ]
    assert [(spec.crop_scale, spec.blur, spec.solarize) for spec in specs] == [
        ((0.14, 1.0), 1.0, 0.0),
        ((0.14, 1.0), 0.1, 0.2),
        ((0.05, 0.14), 1.0, 0.0),
    ]
    plain = recipe("relicv2_no_masks", 224)
    assert plain == [replace(spec, background_removal=0.0) for spec in specs]


@pytest.mark.parametrize(("size", "jigsaw"), [(224, 255), (128, 147), (64, 63), (32, 30), (16, 15)])
def test_local_views_of_detco_can_be_cut_into_nine(size, jigsaw):
    large, small = recipe("detco", size)
    assert [large] == recipe("moco_v2", size)
    assert (small.size, small.count, small.role) == (jigsaw, 2, "local")
    assert (small.crop_scale, small.grayscale, small.jitter) == ((0.6, 1.0), 0.0, 0.8)


@pytest.mark.parametrize(("size", "crop", "kernel"), [(224, 112, 23), (32, 16, 3)])
def test_jigclu_crops_near_each_corner(size, crop, kernel):
    views = recipe("jigclu", size)
    corners = [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.2, 0.2)]  # top left, bottom left, top right, bottom right
    assert [spec.region for spec in views] == [(y, x, y + 0.8, x + 0.8) for y, x in corners]
    assert {(spec.size, spec.count, spec.crop_scale, spec.kernel) for spec in views} == {(crop, 1, (0.2, 1.0), kernel)}


def test_small_upright_views_for_rotation_keep_most_of_the_image():
    assert recipe("rotation", 224) == recipe("crop_flip", 224)
    assert recipe("rotation", 32) == [replace(spec, crop_scale=(0.75, 1.0)) for spec in recipe("crop_flip", 32)]


def test_variants_differ_from_their_models_as_their_names_say():
    assert [replace(spec, interpolation="bilinear") for spec in recipe("fast_moco", 224)] == recipe("moco_v2", 224)
    assert [replace(spec, crop_scale=(0.08, 1.0)) for spec in recipe("moco_v3_resnet", 224)] == recipe("moco_v3", 224)


@pytest.mark.parametrize(("size", "local"), [(224, 96), (128, 48), (96, 48), (64, 24), (32, 16), (28, 16), (8, 8)])
def test_local_crops_keep_the_proportion(size, local):
    assert local_size(size) == local


def test_local_crops_of_large_images_are_blurred_however_small_they_are():
    (local,) = [spec for spec in recipe("dino", 128) if spec.role == "local"]
    assert (local.size, local.blur, local.blur_kernel) == (48, 0.5, 13)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", RECIPES)
def test_small_images_are_never_blurred_and_globals_come_first(name, size):
    specs = recipe(name, size)
    side = size // 2 if name == "jigclu" else size  # four of these make a picture
    assert [spec.size for spec in specs if spec.role == "global"].count(side) >= 1
    assert sorted(spec.role for spec in specs) == [spec.role for spec in specs]
    assert size > 64 or all(spec.blur == 0 for spec in specs)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="no recipe 'simclar'.*moco_v1.*Did you mean 'simclr'"):
        recipe("simclar", 32)
