"""Does this package learn as well as fastai: same weights, images, epochs, sizes and rates?

    python benchmarks/quality.py run DATA [--tasks landuse tags camvid] [--seeds 3] [--libraries ours fastai]
    python benchmarks/quality.py table

DATA holds ``satellite`` and ``camvid``. Both start from the ImageNet weights of EfficientNet-Lite0 that are installed
with this package and follow the same phases; both are scored by scikit-learn on the validation set at the last size.
Each run is added to ``quality.json`` as it ends, and a run that is there is not made again. ``table`` prints what is
in that file, as in ``docs/quality.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.metrics import fbeta_score, jaccard_score
from torch import Tensor

from lightning_finetune import FineTune, ImageClassifier, ImageData, MultiLabelClassifier, Phase, UNetSegmenter
from lightning_finetune.data.pixels.augment import Augment

RESULTS = Path(__file__).parent / "quality.json"
WORKERS = 2
VOID = 11
SATELLITE = {"flip_vert": True, "max_lighting": 0.1, "max_zoom": 1.05, "max_warp": 0.0}
"""Augmentation of the lessons' satellite tiles, in the words that both libraries share."""


@dataclass(frozen=True)
class Recipe:
    """What both libraries are told: phases, images a batch, and names of the scores, the first of which decides."""

    phases: tuple[Phase, ...]
    batch_size: int
    scores: tuple[str, ...]


def one_size(size: int, epochs: int, lr: float, full: tuple[float, float]) -> tuple[Phase, ...]:
    """The lessons' two phases."""
    return Phase(epochs, "head", lr, size=size), Phase(epochs, "all", full, size=size)


def four_stages(small: tuple[int, int], large: tuple[int, int]) -> tuple[Phase, ...]:
    """The recipe of the lesson's notebook on this data, with fewer epochs and smaller images."""
    return (
        Phase(4, "head", 2e-3, size=small, pct_start=0.8),
        Phase(4, "all", (2e-5, 2e-3), size=small, pct_start=0.8),
        Phase(2, "head", 1e-3, size=large, pct_start=0.8),
        Phase(2, "all", (1e-6, 1e-4), size=large, pct_start=0.25),
    )


RECIPES = {
    "landuse": Recipe(one_size(128, 3, 3e-3, (1e-5, 9e-4)), 32, ("error",)),
    "tags": Recipe(one_size(128, 3, 3e-3, (1e-5, 6e-4)), 32, ("F2",)),
    "camvid": Recipe(four_stages((96, 128), (192, 256)), 8, ("pixel accuracy", "mIoU")),
}


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("data", type=Path)
    run.add_argument("--tasks", nargs="+", choices=RECIPES, default=list(RECIPES))
    run.add_argument("--libraries", nargs="+", choices=("ours", "fastai"), default=["ours", "fastai"])
    run.add_argument("--seeds", type=int, default=3)
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "table":
        print(table(load()))
        return
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for seed in range(options.seeds):
        for task in options.tasks:
            for library in options.libraries:
                run_once(options.data, task, library, seed)


def run_once(root: Path, task: str, library: str, seed: int) -> None:
    """Train, score and keep the result, unless it is kept already."""
    key = {"task": task, "library": library, "seed": seed}
    if any(all(row[name] == value for name, value in key.items()) for row in load()):
        return
    start = time.perf_counter()
    if library == "fastai":
        from quality_fastai import train  # beside this file; fastai need not be installed for our own runs

        outputs, targets = train(root, task, RECIPES[task], SATELLITE, WORKERS, seed)
    else:
        outputs, targets = train_ours(root, task, seed)
    row = {**key, "seconds": round(time.perf_counter() - start), **score(task, outputs, targets)}
    rows = [*load(), row]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(row, flush=True)


def load() -> list[dict[str, Any]]:
    """The results so far."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return rows


def train_ours(root: Path, task: str, seed: int) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the validation set after all phases."""
    pl.seed_everything(seed, verbose=False)
    recipe = RECIPES[task]
    data = our_data(root, task, seed, recipe.phases[-1].size)
    module = our_module(task, data.num_classes)
    recipe_callback = FineTune(phases=list(recipe.phases), train_norm=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            callbacks=[recipe_callback],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
    return predict(module, data)


def our_module(task: str, classes: int) -> Any:
    """The network and its head."""
    if task == "camvid":
        return UNetSegmenter("unet", num_classes=classes, ignore_index=VOID)
    return {"landuse": ImageClassifier, "tags": MultiLabelClassifier}[task](
        "tf_efficientnet_lite0", num_classes=classes
    )


def our_data(root: Path, task: str, seed: int, size: Any) -> ImageData:
    """The images at a size, in the batches that both libraries train on."""
    common: dict[str, Any] = {
        "size": size,
        "batch_size": RECIPES[task].batch_size,
        "num_workers": WORKERS,
        "seed": seed,
    }
    if task == "camvid":
        folder = root / "camvid"
        return ImageData.from_folder(folder, valid="val", masks="masks", codes=folder / "codes.txt", **common)
    label_delim = " " if task == "tags" else None
    return ImageData.from_csv(
        root / "satellite",
        label_col=task,
        label_delim=label_delim,
        valid_col="is_valid",
        folder="images",
        augment=Augment(**SATELLITE),
        **common,
    )


@torch.no_grad()
def predict(module: Any, data: ImageData) -> tuple[Tensor, Tensor]:
    """Logits and targets of the validation set, in its order."""
    module.eval()
    outputs, targets = [], []
    for raw in data.val_dataloader():
        batch = data.on_after_batch_transfer(raw, 0)
        outputs.append(module(batch["image"]))
        targets.append(batch[module.target_key])
    return torch.cat(outputs), torch.cat(targets)


def score(task: str, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """What scikit-learn says of logits ``[N, C, ...]``."""
    if task == "landuse":
        values = [float((outputs.argmax(1) != targets).float().mean())]
    elif task == "tags":
        values = [fbeta_score(targets.int().numpy(), outputs.sigmoid().numpy() > 0.2, beta=2, average="samples")]
    else:
        truth, said = targets.flatten().numpy(), outputs.argmax(1).flatten().numpy()
        counts = truth != VOID
        values = [(truth == said)[counts].mean(), miou(truth[counts], said[counts])]
    return {name: round(float(value), 4) for name, value in zip(RECIPES[task].scores, values, strict=True)}


def miou(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean over the classes that occur in the truth."""
    return float(jaccard_score(truth, said, labels=np.unique(truth), average="macro", zero_division=0))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and range over seeds, in Markdown."""
    cells: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for name in RECIPES[row["task"]].scores:
            cells[row["task"], name, row["library"]].append(row[name])
    lines = ["| task | score | this package | fastai |", "|---|---|---|---|"]
    for task, recipe in RECIPES.items():
        for name in recipe.scores:
            ours, theirs = (shown(cells[task, name, library]) for library in ("ours", "fastai"))
            lines.append(f"| {task} | {name} | {ours} | {theirs} |")
    return "\n".join([*lines, "", f"{platform.machine()}, torch {torch.__version__.split('+')[0]}"])


def shown(values: list[float]) -> str:
    """Mean, with every seed's value."""
    if not values:
        return "not run"
    return f"{statistics.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"


if __name__ == "__main__":
    main()
