"""Writes the tables of docs/*.md from the JSON files under results/: no measured figure there is typed by hand.

python scripts/result_tables.py

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def results(name: str) -> dict[str, Any]:
    """The JSON file of a measurement."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def markdown(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table; what is no text yet is written as it is."""
    lines = [list(map(str, row)) for row in rows]
    columns = list(head)
    ruler = ["---"] * len(columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ruler, *lines])


def ratio(row: dict[str, Any], name: str = "ratio", digits: int = 2) -> str:
    """A median with its smallest and largest value."""
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return f"{row[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def equal_budget() -> str:
    """Accuracy of every method after the same few epochs."""
    from scripts.equal_budget import RUNS

    rows = results("equal-budget-cpu")["rows"]
    lines = []
    for name in RUNS:
        knn, untrained, probe = (100 * rows[name][key] for key in ("knn_top1", "untrained_top1", "probe_top1"))
        figures = (f"{knn:.1f}", f"{untrained:.1f}", f"{knn - untrained:+.1f}", f"{probe:.1f}")
        lines.append((name, *figures, rows[name]["verdict"]))
    return markdown(("Method", "kNN %", "untrained %", "gain", "probe %", "verdict"), lines)


def fast_moco() -> str:
    """A step of Fast-MoCo over one of MoCo v3."""
    lines = []
    for name in ("benchmark-fast-moco-cpu", "benchmark-fast-moco-32px-cpu"):
        found = results(name)
        setting = f"{found['backbone']}, {found['image_size']} px, batch {found['batch_size']}"
        lines += [(setting, row["case"], ratio(row)) for row in found["results"]]
    return markdown(("Setting", "Heads", "Fast-MoCo / MoCo v3"), lines)


def mae() -> str:
    """A step with most patches hidden over one with all visible."""
    lines = []
    for name in ("benchmark-mae-cpu", "benchmark-mae-32px-cpu"):
        found = results(name)
        network = f"{found['backbone'].removeprefix('timm/')}, {found['image_size']} px, patch {found['patch_size']}"
        encoder, whole = (ratio(row) for row in found["results"])
        lines.append((network, f"{found['mask_ratio']:.0%}", encoder, whole))
    return markdown(("Network", "hidden", "encoder", "encoder, decoder and loss"), lines)


def large_batch() -> str:
    """Memory and time of a large batch in micro-batches."""
    found = results("benchmark-large-batch-cpu")
    small, large = found["memory_mib"].values()
    chunks = f"{found['batch_size']} images in chunks of {found['chunk']}"
    memory = f"{found['memory_ratio']:.2f} ({large:.0f} over {small:.0f} MiB)"
    timed = f"{found['time_batch_size']} images in chunks of {found['chunk']}"
    lines = [
        ("memory of a step beside its views", chunks, f"a plain step of {found['chunk']}", memory),
        ("time of a step", timed, "the same images at once", ratio(found["time"])),
    ]
    return markdown(("", "of", "over that of", "ratio"), lines)


def fit() -> str:
    """A run against its bare networks, and where the rest of a step goes."""
    lines = []
    for row in results("benchmark-fit-cpu")["results"]:
        spent = row["milliseconds_a_step"]
        whole = sum(spent.values())
        rest = sorted((n for n in spent if n not in ("forward", "backward", "optimiser step")), key=lambda n: -spent[n])
        shares = ", ".join(f"{name} {spent[name] / whole:.1%}" for name in rest if spent[name] >= 0.001 * whole)
        rates = (f"{row['fit_images_per_s']:.1f}", f"{row['bare_images_per_s']:.1f}")
        lines.append((row["case"], row["batch_size"], *rates, ratio(row, "efficiency", 3), shares))
    head = (
        "Method",
        "batch",
        "`cli.py fit`, images/s",
        "bare networks",
        "efficiency",
        "shares of a step beside the networks",
    )
    return markdown(head, lines)


def views() -> str:
    """Augmentation against lightly's."""
    lines = [
        (row["case"], f"{row['ours']:.0f}", f"{row['lightly']:.0f}", ratio(row, digits=1))
        for row in results("benchmark-views-cpu")["results"]
    ]
    return markdown(("Views", "ours, images/s", "lightly", "ratio"), lines)


def peers() -> str:
    """Whole training runs against lightly's."""
    lines = []
    for found in map(results, ("benchmark-peers-resnet18-cpu", "benchmark-peers-convnet-cpu")):
        for row in found["results"]:
            sides = found["precisions"][row["case"]]
            network = f"{row['case'].partition('-')[0]}, {found['data']}, batch {found['batch_size']}"
            rates = [f"{row[f'{side}_images_per_second']:.0f} in {sides[side]}" for side in ("ours", "theirs")]
            memory = f"{row['ours_host_mib']:.0f} / {row['theirs_host_mib']:.0f}"
            lines.append((network, row["method"], *rates, ratio(row), memory))
    return markdown(("Network", "Method", "ours, images/s", "lightly", "ratio", "MiB"), lines)


def parts() -> str:
    """What a step does beside the networks, against what the machine allows."""
    lines = [
        (
            row["backbone"],
            row["part"],
            f"{row['microseconds']:.0f}",
            f"{row['limit_microseconds']:.0f}",
            ratio(row, digits=1),
        )
        for row in results("benchmark-parts-cpu")["results"]
    ]
    return markdown(("Parameters of", "Part", "µs a step", "limit, µs", "times the limit"), lines)


def labels() -> str:
    """Fine-tuning against training from scratch at several shares of the labels."""
    import statistics

    found = results("cifar10-label-efficiency-cpu")
    cells = {(cell["fraction"], cell["start"]): cell for cell in found["cells"]}
    lines = []
    for fraction in sorted({fraction for fraction, _ in cells}):
        scratch, pretrained = (cells[fraction, start] for start in ("scratch", "pretrained"))
        means = [100 * statistics.mean(cell["accuracy"]) for cell in (scratch, pretrained)]
        shown = [
            f"{mean:.1f}" + (f" ± {100 * statistics.stdev(cell['accuracy']):.1f}" if len(cell["accuracy"]) > 1 else "")
            for mean, cell in zip(means, (scratch, pretrained), strict=True)
        ]
        steps = found["steps"][f"{fraction:g}"]
        lines.append((f"{fraction:.0%}", scratch["images"], steps, *shown, f"{means[1] - means[0]:+.1f}"))
    return markdown(("labels", "images", "steps", "from scratch %", "pretrained %", "gain"), lines)


def promises() -> str:
    """What the suites over all methods found."""
    lines = []
    for method, found in results("promises-cpu")["rows"].items():
        name = {"DINOOnViT": "DINO, on a ViT"}.get(method, method)
        if name == "ToyMoCo":  # of the tests alone
            continue
        ranks = f"{max(found['two ranks']):.0e}"
        ways = ", ".join(sorted(found["resumed exactly"]))
        if "resumed exactly, two ranks" in found:
            ways += f"; two ranks: {', '.join(sorted(found['resumed exactly, two ranks']))}"
        first, losses, rounded = (
            f"{found[figure][0]:.2%}" for figure in ("bf16, first loss", "bf16, losses", "rounded once, losses")
        )
        lines.append((name, ranks, ways, first, losses, rounded))
    head = (
        "Method",
        "two ranks and one",
        "equal bits after a kill in",
        "bf16: first loss",
        "six losses",
        "rounded once",
    )
    return markdown(head, lines)


def duplicates() -> str:
    """How many changed copies the comparison of thumbnails finds."""
    found = results("duplicates-cpu")["copies"]["found"]
    return markdown(("the copy", "found"), [(change, f"{share:.0%}") for change, share in found.items()])


def repeated() -> str:
    """How many pictures of CIFAR-10 repeat another."""
    found = results("duplicates-cpu")["cifar10"]
    share = f"{found['repeated']} ({found['repeated'] / found['images']:.1%})"
    return markdown(("training images of CIFAR-10", "repeat another"), [(f"{found['images']:,}", share)])


TABLES: dict[str, Callable[[], str]] = {
    "equal-budget": equal_budget,
    "fast-moco": fast_moco,
    "mae": mae,
    "large-batch": large_batch,
    "labels": labels,
    "fit": fit,
    "views": views,
    "peers": peers,
    "parts": parts,
    "promises": promises,
    "duplicates": duplicates,
    "repeated": repeated,
}


def filled(page: str) -> str:
    """A page with its tables as the results are now.

    Raises:
        KeyError: it asks for a table that there is not.
    """
    return BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}\n{block[4]}", page)


def main() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        before = page.read_text()
        if (after := filled(before)) != before:
            page.write_text(after)
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
