"""Patches and masks against the authors' numbers and plain loops."""

import pytest
import torch

from methods.modules.masking import num_visible, patchify, random_mask, unpatchify


def test_patches(golden):
    g = golden("mae")
    size = (int(g["hp_patch_size"]),) * 2
    patches = patchify(g["in_images"], size)
    assert torch.equal(patches, g["out_patches"])
    assert torch.equal(unpatchify(patches, size, (4, 4)), g["out_unpatchified"])


def test_patches_of_any_shape_against_a_plain_loop():
    images = torch.randn(2, 5, 12, 8)
    patches = patchify(images, (3, 4))
    assert patches.shape == (2, 8, 60)
    for row in range(4):
        for column in range(2):
            patch = images[:, :, 3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
            assert torch.equal(patches[:, 2 * row + column], patch.permute(0, 2, 3, 1).flatten(1))
    assert torch.equal(unpatchify(patches, (3, 4), (4, 2)), images)


def test_mask(golden):
    g = golden("mae")
    mask = random_mask(g["in_noise"], float(g["hp_mask_ratio"]))
    assert torch.equal(mask.hidden, g["out_mask"].bool())
    assert torch.equal(mask.restore, g["out_ids_restore"])
    D = g["in_tokens"].shape[2]
    assert torch.equal(g["in_tokens"].gather(1, mask.kept[..., None].expand(-1, -1, D)), g["out_tokens_kept"])


def test_lengths_are_cut_off_as_floating_point_has_them(golden):
    g = golden("mae")
    lengths = [
        num_visible(L, ratio) for L, ratio in zip(g["in_len_L"].tolist(), g["in_len_ratio"].tolist(), strict=True)
    ]
    assert lengths == g["out_len_keep"].tolist()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_every_patch_is_either_kept_or_hidden(ratio):
    mask = random_mask(torch.rand(50, 16), ratio)
    N = num_visible(16, ratio)
    assert mask.kept.shape == (50, N)
    for kept, restore, hidden in zip(*mask, strict=True):
        assert hidden.sum() == 16 - N
        assert set(kept.tolist()) == set((~hidden).nonzero().flatten().tolist())
        assert torch.equal(kept[restore[kept]], kept)  # the place of a visible patch is that of its token


def test_all_patches_are_hidden_equally_often():
    share = random_mask(torch.rand(4000, 16), 0.75).hidden.double().mean(0)
    assert (share - 0.75).abs().max() < 0.03  # four standard deviations
