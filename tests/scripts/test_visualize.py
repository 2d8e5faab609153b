"""Pictures of a network and of runs, as a user makes them."""

from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.manifold
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules import Digits
from datamodules.augment import CleanView
from datamodules.errors import UserError
from methods.evaluation.features import Features, extract
from methods.pretrained import load_backbone
from scripts.look import attention, curves, maps, neighbours, pictures, views
from scripts.look.figures import Cell, picture_sheet, shortened, style, text_width
from scripts.look.runs import read_runs
from scripts.visualize import main
from tests.support.runs import write_run


@pytest.fixture
def visualize(run_script):
    """Runs the command in an empty folder; returns what it printed, and its exit status."""
    return partial(run_script, main)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_map_and_neighbours_take_the_data_of_the_run(visualize, digits_checkpoint):
    told, status = visualize("map", digits_checkpoint, "--max_images", "60", "--data.max_val_images", "80")
    assert (status, told.splitlines()[-1]) == (0, "written: map.png"), told
    assert min(size(Path("map.png"))) > 900
    few = ("--queries", "3", "--k", "2", "--max_images", "50", "--out", "sheet.svg")
    told, status = visualize("neighbours", digits_checkpoint, *few)
    assert status == 0, told
    drawn = Path("sheet.svg").read_text()
    assert drawn.count("<image") == 3 * 3 and "SimCLR, step" in drawn


def test_views_of_a_recipe_a_configuration_and_a_run(visualize, digits_checkpoint):
    config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    small = ("--data.max_train_images", "40", "--out", "v.svg")
    for what, columns in (
        (("byol", "--data", "Digits"), 3),
        (("dino", "--data", "Digits", "--data.image_size", "28"), 11),
        ((config,), 3),
        ((digits_checkpoint.parents[1],), 3),
        ((config, "--data", "Digits"), 3),
    ):
        told, status = visualize("views", *what, *small)
        assert status == 0, told
        assert Path("v.svg").read_text().count("<image") == 8 * columns, what


def test_views_are_those_of_the_run(digits_checkpoint):
    made = views.views_of(str(digits_checkpoint.parents[1]))
    assert isinstance(made, list) and made[0]["size"] == 20
    data = views.build_data({"class_path": "Digits"}, made)
    assert data.specs[0].size == 20 and views.sample(data).views[0].shape == (8, 1, 20, 20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["map"], "Of which network? Give its checkpoint"),
        (["map", "no.ckpt"], "no.ckpt: there is no such file"),
        (["map", "CHECKPOINT", "--method", "lle"], "method"),
        (["map", "CHECKPOINT", "--method", "umap"], "--method umap needs the package umap-learn"),
        (["map", "CHECKPOINT", "--max_images", "0"], "--max_images 0 must be at least 1"),
        (["map", "CHECKPOINT", "--out", "map.jpg"], "--out map.jpg must end in one of .png, .pdf, .svg"),
        (["map", "CHECKPOINT", "--out", "nodir/map.png"], "--out nodir/map.png: there is no folder nodir"),
        (["attention", "CHECKPOINT"], "The network is a ConvNet, and attention is shown of timm's plain"),
        (["attention", "CHECKPOINT", "no.png"], "no.png cannot be read as a picture: No such file"),
        (["views"], "Views of what?"),
        (["views", "simclr"], "On which images? Give --data NAME"),
        (["views", "simcl", "--data", "Digits"], "'simcl' is no recipe, configuration or run's folder. Did you mean"),
        (["curves"], "Which runs? Give their folders"),
        (["curves", "no"], "There is no folder no."),
        (["paint"], "argument picture: invalid choice: 'paint'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_be_mended_is_said_in_a_sentence(words, message, visualize, digits_checkpoint):
    if "umap" in words and maps.find_spec("umap"):
        pytest.skip("umap-learn is installed")
    told, status = visualize(*(digits_checkpoint if word == "CHECKPOINT" else word for word in words))
    assert status == 2 and told.startswith(f"error: {message}"), told
    assert told.count("\n") == 1


def test_pictures_of_an_index_are_those_of_the_source():
    data = Digits(max_train_images=70)
    data.prepare_data()
    data.setup("validate")
    index = torch.tensor([[3, 60], [60, 7]])
    found = pictures.clean_pictures(data, "train", index)
    assert sorted(found) == [3, 7, 60]
    for batch in data.clean_batches("train", torch.device("cpu"), raw=True):
        for i, image in zip(batch.index.tolist(), batch.global_views[0], strict=True):
            if i in found:
                assert np.array_equal(found[i], (image[0] * 255).round().byte().numpy())


def test_neighbours_are_the_nearest_by_cosine():
    torch.manual_seed(0)
    h = [torch.randn(n, 5) for n in (30, 9)]
    train, val = (Features(x, torch.arange(len(x)) % 3, torch.arange(len(x))) for x in h)
    near = neighbours.find(train, val, queries=3, k=4)
    assert near.query.tolist() == [0, 4, 8]
    for q, row, cosine in zip(near.query, near.row, near.cosine, strict=True):
        naive = torch.stack([F.cosine_similarity(val.h[q], x, dim=0) for x in train.h])
        assert row.tolist() == naive.argsort(descending=True)[:4].tolist()
        torch.testing.assert_close(cosine, naive[row])
    with pytest.raises(UserError, match="not finite"):
        neighbours.find(train._replace(h=train.h * torch.nan), val, 3, 4)


def test_neighbours_of_the_network_itself_come_first(digits_checkpoint):
    data = Digits(max_train_images=40)
    trained = load_backbone(str(digits_checkpoint))
    train = extract(trained.backbone, data, "train", torch.device("cpu"))
    near = neighbours.find(train, train, 5, 3)
    assert torch.equal(near.row[:, 0], near.query)
    with style():
        figure = neighbours.draw(data, train, train, near, None, "itself")
    captions = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert captions.count("1.000") == 5


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}


@pytest.mark.parametrize(
    "options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}, {"qk_norm": True}], ids=str
)
def test_attention_is_what_the_unfused_layer_computes(options):
    network = timm.create_model("vit_tiny_patch16_224", **VIT, **options).eval()
    images = torch.randn(2, 3, 32, 32)
    found = attention.attention(network, images)
    layer = network.blocks[-1].attn
    layer.fused_attn = False
    weights = []
    layer.attn_drop.register_forward_hook(lambda *call: weights.append(call[2]))
    with torch.no_grad():
        network(images)
    prefix = network.num_prefix_tokens
    queries = weights[0][:, :, prefix:] if network.cls_token is None else weights[0][:, :, :1]
    torch.testing.assert_close(found, queries[..., prefix:].mean(2).unflatten(2, (4, 4)))


def test_attention_over_pictures_of_ones_own(tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    shown = pictures.from_files([tmp_path / "a.png"], CleanView(32, [0.5] * 3, [0.25] * 3), 3)
    assert shown.names == ["a.png"] and shown.inputs.shape == (1, 3, 32, 32)
    torch.testing.assert_close(shown.inputs, torch.full((1, 3, 32, 32), -2.0))
    network = timm.create_model("vit_tiny_patch16_224", **VIT).eval()
    with style():
        figure = attention.draw(network, shown, "a title")
    assert len(figure.axes[0].images) == 2 + VIT["num_heads"]


def test_an_overlay_is_bright_where_the_weight_is():
    weights = torch.zeros(4, 4)
    weights[0, 3] = 1
    made = attention.overlay(np.full((16, 16), 128, np.uint8), weights).mean(2)
    assert made.shape == (112, 112)
    assert made[10, 100] > made[100, 10] + 40


def test_a_map_says_its_perplexity_and_names_its_classes(monkeypatch):
    seen = []
    build = sklearn.manifold.TSNE

    def spy(*arguments, **options):
        seen.append(options["perplexity"])
        return build(*arguments, **options)

    monkeypatch.setattr(sklearn.manifold, "TSNE", spy)
    h, label = torch.randn(40, 6), torch.arange(40) % 12 - 1
    places = maps.place(h, "tsne")
    assert places.shape == (40, 2) and places.min() >= 0 and places.max() <= 1
    told = maps.protocol(h, "tsne")
    assert f"perplexity {seen[0]:.3g}" in told and "perplexity 13" in told
    with style():
        figure = maps.draw(places, label, {k: f"_class $k_{k}$" for k in range(-1, 11)}, "title", told)
    assert [text.get_text() for text in figure.axes[1].texts] == [f"_class $k_{k}$" for k in range(11)]
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 40


def test_no_two_of_the_named_classes_look_alike():
    looks = {(maps.class_colour(k), maps._mark(k)) for k in range(maps._NAMED)}
    assert len(looks) == maps._NAMED == 30


@pytest.mark.parametrize(("h", "message"), [(torch.ones(20, 4), "all the same"), (torch.randn(7, 4), "too few")])
def test_what_has_no_map_says_so(h, message):
    with pytest.raises(UserError, match=message):
        maps.place(h, "pca")


def test_curves_of_runs_with_other_epochs_meet(tmp_path):
    folders = [write_run(tmp_path / name, epochs=n, steps=s) for name, n, s in (("a", 3, 10), ("b", 2, 20))]
    runs = read_runs(folders)
    with style():
        by_epoch, by_step = curves.draw(runs, "epochs"), curves.draw(runs, "steps")
    ends = [[line.get_xdata()[-1] for line in figure.axes[1].lines] for figure in (by_epoch, by_step)]
    assert ends == [[3, 2], [30, 40]]
    assert [text.get_text() for text in by_epoch.axes[-1].get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(UserError, match="has a metrics.csv with one of"):
        (folders[0] / "metrics.csv").unlink()
        curves.draw(read_runs(folders[:1]), "steps")


def test_a_sheet_enlarges_all_by_one_factor_and_cuts_long_names():
    rows = [[Cell(np.zeros((8, 8), np.uint8), "a name that is much too long for it"), Cell(np.zeros((4, 2), np.uint8))]]
    with style():
        figure = picture_sheet(rows, "t" * 500, "n " * 500)
        large, small = (image.get_extent() for image in figure.axes[0].images)
        (caption,) = figure.axes[0].texts
        title = figure.texts[0]
        assert caption.get_text().endswith("…") and title.get_text().endswith("…")
        assert text_width(shortened("W" * 50, 1.0, 8), 8) <= 1.0
    sides = [(right - left, bottom - top) for left, right, bottom, top in (large, small)]
    assert sides[0] == pytest.approx((1.5, 1.5)) and sides[1] == pytest.approx((0.375, 0.75))


def test_drawing_leaves_the_settings_of_others_alone():
    before = dict(matplotlib.rcParams)
    with style():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert dict(matplotlib.rcParams) == before
