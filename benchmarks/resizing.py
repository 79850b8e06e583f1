"""Does training on small images first pay? The lessons' recipe against the final size throughout, by wall time.

    python benchmarks/resizing.py run DATA [--seeds 3]
    python benchmarks/resizing.py table
    python benchmarks/resizing.py plot docs/pictures/resizing.png

DATA holds ``satellite``: land use, 21 classes. EfficientNet-Lite0 with packaged weights, batch 32, two workers.
``fixed`` trains the head, then all layers, at 128 px; ``progressive`` does the same at 64 px and ends with a few
epochs at 128. Both are validated at 128 px after each epoch. Runs are added to ``resizing.json``; one that is there is
not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from lightning_finetune import FineTune, ImageClassifier, Phase

RESULTS = Path(__file__).with_suffix(".json")
FULL = (1e-5, 9e-4)
RECIPES = {
    "fixed": [Phase(3, "head", 3e-3, size=128), Phase(9, "all", FULL, size=128)],
    "progressive": [
        Phase(3, "head", 3e-3, size=64),
        Phase(7, "all", FULL, size=64),
        Phase(4, "all", FULL, size=128),
    ],
}


def main() -> None:
    """Run what is missing, print the table, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--seeds", type=int, default=3)
    commands.add_parser("table")
    commands.add_parser("plot").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        print(table(load()))
    elif options.command == "plot":
        plot(load(), options.out)
    else:
        for seed in range(options.seeds):
            for name in RECIPES:
                run_once(options.data, name, seed)


def load() -> list[dict[str, Any]]:
    """The results so far."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return rows


def run_once(root: Path, name: str, seed: int) -> None:
    """Train and keep the timeline, unless it is kept already."""
    import lightning.pytorch as pl
    from end_to_end_ways import fit, images  # beside this file

    if any((row["recipe"], row["seed"]) == (name, seed) for row in load()):
        return
    pl.seed_everything(seed, verbose=False)
    data = images(root, seed)
    model = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes)
    phases = RECIPES[name]
    clock = fit(model, data, [FineTune(phases, train_norm=True)], sum(phase.epochs or 0 for phase in phases))
    rows = [*load(), {"recipe": name, "seed": seed, "timeline": clock.timeline}]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(rows[-1], flush=True)


def pairs(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The fixed and the progressive run of each seed."""
    found = {(row["recipe"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    return [
        (found["fixed", seed], found["progressive", seed])
        for seed in seeds
        if all((recipe, seed) in found for recipe in RECIPES)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """One row a seed, and their mean, in Markdown."""
    lines = ["| seed | fixed: error, time | progressive: error, time | time to the fixed error, of fixed |"]
    lines.append("|---|---|---|---|")
    shares = []
    for fixed, small in pairs(rows):
        (end, error), (total, reached) = fixed["timeline"][-1], small["timeline"][-1]
        when = next((seconds for seconds, found in small["timeline"] if found <= error), float("inf"))
        shares.append(when / end)
        share = "never" if when == float("inf") else f"{when / end:.2f}"
        lines.append(f"| {fixed['seed']} | {error:.4f}, {end:.0f} s | {reached:.4f}, {total:.0f} s | {share} |")
    ends = [[run["timeline"][-1] for run in pair] for pair in pairs(rows)]
    errors = [statistics.fmean(pair[side][1] for pair in ends) for side in (0, 1)]
    times = [statistics.fmean(pair[side][0] for pair in ends) for side in (0, 1)]
    means = [f"{error:.4f}, {time:.0f} s" for error, time in zip(errors, times, strict=True)]
    return "\n".join([*lines, f"| mean | {means[0]} | {means[1]} | whole run: {times[1] / times[0]:.2f} |"])


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Error against wall time, one line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        color = {"fixed": "#4477aa", "progressive": "#cc3311"}[row["recipe"]]
        label = {"fixed": "128 px throughout", "progressive": "64 px, then 128"}[row["recipe"]]
        axes.plot(*zip(*row["timeline"], strict=True), color=color, marker="o", markersize=3, label=label)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), frameon=False)
    axes.set_xlabel("seconds of training, validation included")
    axes.set_ylabel("validation error at 128 px")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
