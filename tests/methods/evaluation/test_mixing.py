"""Mixup and CutMix against their papers' formulas."""

import torch
import torch.nn.functional as F

from methods.evaluation.mixing import mixing

K = 5


def batch(count=12, size=16):
    """Images that are constant and tell their row: [B, 1, size, size], and labels."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 1, size, size).contiguous()
    return images, torch.arange(count) % K


def test_both_off_is_none():
    assert mixing(K, 0.0, 0.0) is None


def test_mixup_blends_images_and_labels_by_one_coefficient():
    images, label = batch()
    coefficients = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, target = mixing(K, 0.8, 0.0)(images, label)
        neighbour = images.roll(1, 0)
        coefficient = ((mixed[1] - neighbour[1]) / (images[1] - neighbour[1])).flatten()[0]
        torch.testing.assert_close(mixed, coefficient * images + (1 - coefficient) * neighbour)
        y = F.one_hot(label, K).float()
        torch.testing.assert_close(target, coefficient * y + (1 - coefficient) * y.roll(1, 0))
        torch.testing.assert_close(target.sum(1), torch.ones(len(label)))
        coefficients.add(float(coefficient))
    assert len(coefficients) == 20 and min(coefficients) < 0.3 and max(coefficients) > 0.7


def test_cutmix_pastes_a_box_and_gives_labels_its_share():
    images, label = batch()
    shares = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, target = mixing(K, 0.0, 1.0)(images, label)
        own = mixed == images
        assert ((mixed == images.roll(1, 0)) | own).all() and (own == own[:1]).all()
        share = own[0].float().mean()
        rows, columns = torch.where(~own[0, 0])
        if len(rows):  # the pasted part is a box
            assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        y = F.one_hot(label, K).float()
        torch.testing.assert_close(target, share * y + (1 - share) * y.roll(1, 0))
        torch.testing.assert_close(target.sum(1), torch.ones(len(label)))
        shares.add(float(share))
    assert len(shares) > 10


def test_with_both_either_is_chosen_by_the_seeded_generator():
    images, label = batch()
    mix = mixing(K, 0.8, 1.0)
    pasted = []
    for seed in range(60):
        torch.manual_seed(seed)
        mixed, target = mix(images, label)
        torch.manual_seed(seed)
        again, same = mix(images, label)
        assert torch.equal(mixed, again) and torch.equal(target, same)
        pasted.append(bool(torch.equal(mixed, mixed.round())))
    assert 15 < sum(pasted) < 45
