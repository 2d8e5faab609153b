"""The scattered digits: always the same, and neither trivial nor hopeless."""

import torch
import torch.nn.functional as F

from datamodules import Digits
from datamodules.digits import scatter


def test_two_splits_that_never_change():
    (train, val), (again, _) = Digits().sources(), Digits().sources()
    assert len(train) + len(val) == 1797 and 355 <= len(val) <= 365
    assert train.num_classes == 10 and train.image(0).shape == (1, 28, 28) and train.image(0).dtype == torch.uint8
    assert torch.equal(train.image(1000), again.image(1000))
    assert (train.labels.bincount() > 130).all() and (val.labels.bincount() > 33).all()
    names = {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))}
    assert not names


def test_whole_glyphs_at_many_places():
    images = scatter(torch.ones(500, 1, 8, 8), 28)[:, 0].float() / 255
    mass = images.sum((1, 2))
    assert mass.min() > 8 * 8 * 1.2**2 * 0.85 and mass.max() < 8 * 8 * 2.2**2 * 1.15
    centre = (images.sum(1) * torch.arange(28)).sum(1) / mass
    assert centre.min() < 9 and centre.max() > 18
    assert scatter(torch.ones(3, 2, 8, 8), 40).shape == (3, 2, 40, 40)


def test_pixels_classify_about_half():
    data = Digits()
    data.setup("fit")
    bank, queries = (
        [b for b in data.clean_batches(split, torch.device("cpu"), raw=True)] for split in ("train", "val")
    )

    def gather(batches):
        return F.normalize(torch.cat([b.global_views[0] for b in batches]).flatten(1)), torch.cat(
            [b.label for b in batches]
        )

    (x, y), (q, truth) = gather(bank), gather(queries)
    similarity, nearest = (q @ x.T).topk(20)
    votes = torch.zeros(len(q), 10).scatter_add_(1, y[nearest], (similarity / 0.07).exp())
    assert 0.43 < (votes.argmax(1) == truth).float().mean() < 0.51


def test_normalisation_fits():
    data = Digits()
    data.setup("fit")
    images = torch.cat([b.global_views[0] for b in data.clean_batches("train", torch.device("cpu"))])
    assert abs(images.mean()) < 0.01 and abs(images.std() - 1) < 0.01
