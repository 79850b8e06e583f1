"""Does training on small images first pay? The lessons' recipe against the final size throughout, by wall time.

    python benchmarks/resizing.py run DATA [--seeds 3] [--races NAME ...]
    python benchmarks/resizing.py table
    python benchmarks/resizing.py plot docs/pictures/resizing.png

DATA holds ``satellite``, tiles with one class of land use and with several labels, and ``camvid``, streets whose pixels
have classes. EfficientNet-Lite0 with packaged weights, or a U-Net on it; two workers. In each race ``fixed`` trains the
head, then all layers, at the final size; the others do the same at a smaller size and end with a few epochs at the
final one. All are validated at the final size after each epoch. The error is the share of wrong classes, 1 - F2, or the
share of wrong pixels. Runs are added to ``resizing.json``; one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from PIL import Image
from training import fit  # beside this file

from lightning_finetune import FineTune, ImageClassifier, ImageData, MultiLabelClassifier, Phase, UNetSegmenter
from lightning_finetune.data.pixels.augment import Augment

RESULTS = Path(__file__).with_suffix(".json")
WORKERS = 2
VOID = 11
SATELLITE = Augment(flip_vert=True, max_lighting=0.1, max_zoom=1.05, max_warp=0.0)
"""Augmentation of the lessons' satellite tiles."""
TILES = (1e-5, 9e-4)
STREETS = (2e-5, 2e-3)
SMALL, LARGE = (96, 128), (192, 256)

ERRORS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "landuse": lambda metrics: float(metrics["val_error_rate"]),
    "tags": lambda metrics: 1 - float(metrics["val_f2"]),
    "camvid": lambda metrics: 1 - float(metrics["val_pixel_accuracy"]),
}


@dataclass(frozen=True)
class Race:
    """Recipes that end at the same size, the first of which has it throughout; with their task."""

    task: str
    recipes: dict[str, list[Phase]]

    @property
    def size(self) -> Any:
        """At which all end."""
        return self.recipes["fixed"][-1].size


RACES = {
    "land use, 128 px": Race(
        "landuse",
        {
            "fixed": [Phase(3, "head", 3e-3, size=128), Phase(9, "all", TILES, size=128)],
            "96, then 128": [
                Phase(2, "head", 3e-3, size=96),
                Phase(4, "all", TILES, size=96),
                Phase(3, "all", TILES, size=128),
            ],
            "64, then 128": [
                Phase(3, "head", 3e-3, size=64),
                Phase(7, "all", TILES, size=64),
                Phase(4, "all", TILES, size=128),
            ],
        },
    ),
    "land use, 128 px, long": Race(
        "landuse",
        {
            "fixed": [Phase(5, "head", 3e-3, size=128), Phase(15, "all", TILES, size=128)],
            "96, then 128": [
                Phase(3, "head", 3e-3, size=96),
                Phase(7, "all", TILES, size=96),
                Phase(5, "all", TILES, size=128),
            ],
            "96, then 128 gently": [
                Phase(3, "head", 3e-3, size=96),
                Phase(9, "all", TILES, size=96),
                Phase(4, "all", (3e-6, 3e-4), size=128),
            ],
        },
    ),
    "land use, 224 px": Race(
        "landuse",
        {
            "fixed": [Phase(3, "head", 3e-3, size=224), Phase(6, "all", TILES, size=224)],
            "128, then 224": [
                Phase(3, "head", 3e-3, size=128),
                Phase(5, "all", TILES, size=128),
                Phase(2, "all", (3e-6, 3e-4), size=224),
            ],
        },
    ),
    "labels, 128 px": Race(
        "tags",
        {
            "fixed": [Phase(3, "head", 3e-3, size=128), Phase(9, "all", TILES, size=128)],
            "96, then 128": [
                Phase(2, "head", 3e-3, size=96),
                Phase(4, "all", TILES, size=96),
                Phase(3, "all", TILES, size=128),
            ],
        },
    ),
    "streets, 192 x 256 px": Race(
        "camvid",
        {
            "fixed": [Phase(3, "head", 2e-3, size=LARGE), Phase(7, "all", STREETS, size=LARGE)],
            "96 x 128, then 192 x 256": [
                Phase(3, "head", 2e-3, size=SMALL),
                Phase(5, "all", STREETS, size=SMALL),
                Phase(3, "all", STREETS, size=LARGE),
            ],
        },
    ),
}


def main() -> None:
    """Run what is missing, print the table, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument("--races", nargs="+", choices=RACES, default=list(RACES))
    commands.add_parser("table")
    commands.add_parser("plot").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        print(table(load()))
    elif options.command == "plot":
        plot(load(), options.out)
    else:
        for seed in range(options.seeds):
            for race in options.races:
                for recipe in RACES[race].recipes:
                    run_once(options.data, {"race": race, "recipe": recipe, "seed": seed})


def load() -> list[dict[str, Any]]:
    """The results so far."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return rows


def run_once(root: Path, key: dict[str, Any]) -> None:
    """Train and keep the timeline, unless it is kept already."""
    if any(key.items() <= row.items() for row in load()):
        return
    pl.seed_everything(key["seed"], verbose=False)
    race = RACES[key["race"]]
    data = make_data(root, race.task, key["seed"], race.size)
    recipe = FineTune(race.recipes[key["recipe"]], train_norm=True)
    clock = fit(make_module(race.task, data.num_classes), data, [recipe], recipe.epochs, ERRORS[race.task])
    rows = [*load(), {**key, "timeline": clock.timeline}]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(rows[-1], flush=True)


def make_module(task: str, classes: int) -> Any:
    """The network, with the head of the lessons."""
    if task == "camvid":
        return UNetSegmenter("unet", num_classes=classes, ignore_index=VOID)
    kind = {"landuse": ImageClassifier, "tags": MultiLabelClassifier}[task]
    return kind("tf_efficientnet_lite0", num_classes=classes, head="concat_pool")


def make_data(root: Path, task: str, seed: int, size: Any) -> ImageData:
    """The images, validated at a size."""
    common: dict[str, Any] = {"size": size, "num_workers": WORKERS, "seed": seed}
    if task == "camvid":
        folder = root / "camvid"
        codes = folder / "codes.txt"
        return ImageData.from_folder(folder, valid="val", masks="masks", codes=codes, batch_size=8, **common)
    return ImageData.from_csv(
        root / "satellite",
        label_col=task,
        label_delim=" " if task == "tags" else None,
        valid_col="is_valid",
        folder="images",
        augment=SATELLITE,
        batch_size=32,
        **common,
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each recipe: its error and time, and when it had the error of its fixed size, in Markdown."""
    found = {(row["race"], row["recipe"], row["seed"]): row["timeline"] for row in rows}
    lines = [
        "| task | recipe | error | time, of fixed | time to the error of fixed, of fixed |",
        "|---|---|---|---|---|",
    ]
    for race, recipe in dict.fromkeys((race, recipe) for race, recipe, _ in found):
        runs = [
            (found[race, recipe, seed], found[race, "fixed", seed]) for *key, seed in found if key == [race, recipe]
        ]
        errors = [run[-1][1] for run, _ in runs]
        times = [run[-1][0] / fixed[-1][0] for run, fixed in runs]
        listed = ", ".join(f"{error:.4f}" for error in errors)
        means = f"{statistics.fmean(errors):.4f} ({listed}) | {statistics.fmean(times):.2f}"
        lines.append(f"| {race} | {recipe} | {means} | {', '.join(reached(*run) for run in runs)} |")
    return "\n".join(lines)


def reached(timeline: list[list[float]], fixed: list[list[float]]) -> str:
    """The share of the time of ``fixed`` after which a run had its last error."""
    end, error = fixed[-1]
    return next((f"{seconds / end:.2f}" for seconds, had in timeline if had <= error), "never")


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Error against wall time, one line a run, a picture for each race."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.5 * len(RACES) / 2), layout="constrained")
    grid = list(figure.subplots(-(-len(RACES) // 2), 2, squeeze=False).flat)
    for axes in grid[len(RACES) :]:
        axes.remove()
    for axes, (name, race) in zip(grid, RACES.items(), strict=False):
        for recipe, color in zip(race.recipes, ("#4477aa", "#cc3311", "#ccbb44"), strict=False):
            runs = [row["timeline"] for row in rows if (row["race"], row["recipe"]) == (name, recipe)]
            for timeline in runs:
                label = recipe if timeline is runs[0] else None
                axes.plot(*zip(*timeline, strict=True), color=color, marker="o", markersize=3, label=label)
        axes.legend(frameon=False)
        axes.set_xlabel("seconds of training, validation included")
        axes.set_title(f"error: {name}")
        axes.set_yscale("log")
        axes.set_yticks([0.03, 0.05, 0.1, 0.2, 0.4], ["3 %", "5 %", "10 %", "20 %", "40 %"])
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(64).save(out, optimize=True)  # a third of the bytes


if __name__ == "__main__":
    main()
