"""Does training on small images first pay? The lessons' recipe against the final size throughout, by wall time.

    python benchmarks/resizing.py run DATA [--seeds 3]
    python benchmarks/resizing.py table
    python benchmarks/resizing.py plot docs/pictures/resizing.png

DATA holds ``satellite``: land use, 21 classes. EfficientNet-Lite0 with packaged weights, batch 32, two workers.
``fixed`` trains the head, then all layers, at 128 or 224 px; the others do the same at a smaller size and end with a
few epochs at the final one. All are validated at the final size after each epoch. Runs are added to ``resizing.json``;
one that is there is not made again.
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
    "fixed at 128": [Phase(3, "head", 3e-3, size=128), Phase(9, "all", FULL, size=128)],
    "96, then 128": [
        Phase(2, "head", 3e-3, size=96),
        Phase(4, "all", FULL, size=96),
        Phase(3, "all", FULL, size=128),
    ],
    "64, then 128": [
        Phase(3, "head", 3e-3, size=64),
        Phase(7, "all", FULL, size=64),
        Phase(4, "all", FULL, size=128),
    ],
    "fixed at 224": [Phase(3, "head", 3e-3, size=224), Phase(6, "all", FULL, size=224)],
    "128, then 224": [
        Phase(3, "head", 3e-3, size=128),
        Phase(5, "all", FULL, size=128),
        Phase(2, "all", (3e-6, 3e-4), size=224),
    ],
}
COLORS = {"64, then 128": "#ccbb44", "96, then 128": "#cc3311", "128, then 224": "#cc3311"}


def main() -> None:
    """Run what is missing, print the table, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    commands.add_parser("table")
    commands.add_parser("plot").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        print(table(load()))
    elif options.command == "plot":
        plot(load(), options.out)
    else:
        for seed in range(options.seeds):
            for name in options.recipes:
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
    phases = RECIPES[name]
    data = images(root, seed, size=final_size(name))
    model = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes)
    clock = fit(model, data, [FineTune(phases, train_norm=True)], sum(phase.epochs or 0 for phase in phases))
    rows = [*load(), {"recipe": name, "seed": seed, "timeline": clock.timeline}]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(rows[-1], flush=True)


def final_size(name: str) -> int:
    """At which a recipe ends and is judged."""
    size = RECIPES[name][-1].size
    assert isinstance(size, int)
    return size


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each recipe: its error and time, and when it had the error of its fixed size, in Markdown."""
    found = {(row["recipe"], row["seed"]): row["timeline"] for row in rows}
    lines = ["| recipe | error | time, of fixed | time to the error of fixed, of fixed |", "|---|---|---|---|"]
    for name in dict.fromkeys(recipe for recipe, _ in found):
        seeds = [seed for recipe, seed in found if recipe == name]
        fixed = f"fixed at {final_size(name)}"
        errors = [found[name, seed][-1][1] for seed in seeds]
        times = [found[name, seed][-1][0] / found[fixed, seed][-1][0] for seed in seeds]
        shares = [reached(found[name, seed], found[fixed, seed]) for seed in seeds]
        listed = ", ".join(f"{error:.4f}" for error in errors)
        means = f"{statistics.fmean(errors):.4f} ({listed}) | {statistics.fmean(times):.2f}"
        lines.append(f"| {name} | {means} | {', '.join(shares)} |")
    return "\n".join(lines)


def reached(timeline: list[list[float]], fixed: list[list[float]]) -> str:
    """The share of the time of ``fixed`` after which a run had its last error."""
    end, error = fixed[-1]
    return next((f"{seconds / end:.2f}" for seconds, had in timeline if had <= error), "never")


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Error against wall time, one line a run, beside each other for each final size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, size in zip(figure.subplots(1, 2, sharey=True), (128, 224), strict=True):
        for row in rows:
            if final_size(row["recipe"]) == size:
                color = COLORS.get(row["recipe"], "#4477aa")
                times_and_errors = zip(*row["timeline"], strict=True)
                axes.plot(*times_and_errors, color=color, marker="o", markersize=3, label=row["recipe"])
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), frameon=False)
        axes.set_xlabel("seconds of training, validation included")
        axes.set_title(f"validation error at {size} px")
        axes.set_yscale("log")
        axes.set_yticks([0.03, 0.05, 0.1, 0.2, 0.4], ["3 %", "5 %", "10 %", "20 %", "40 %"])
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
