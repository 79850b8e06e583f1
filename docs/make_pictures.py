"""The pictures of the documentation: ``python -m docs.make_pictures DATA``, at the root of the repository.

``DATA/satellite`` holds the UC Merced land use tiles (public domain) with ``labels.csv``. One run of the command on
them gives what the callbacks draw; the others are drawn from the engines, from recorded curves and from a small run
with Weights & Biases. Takes a few minutes on 2 CPU cores.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from lightning_finetune import GradualUnfreezing, ImageClassifier, ImageData, Phase, WatchModel
from lightning_finetune.engine.diagnosis import Curves, diagnose
from lightning_finetune.engine.layer_groups import layer_groups
from lightning_finetune.engine.plan import make_plan
from lightning_finetune.engine.recipes import RECIPES, Wishes, make_phases
from lightning_finetune.engine.schedules import Schedule, momentum, rate
from lightning_finetune.run.describe import to_pixels
from tests.wandb_files import read_history

PICTURES = Path(__file__).parent / "pictures"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RECORDED = BENCHMARKS / "diagnosis_runs.json"
LIMIT = 100_000
"""Bytes of a picture."""

TILES = ["--data", "lightning_finetune.ImageData.from_csv", "--data.label_col", "landuse", "--data.folder", "images"]
TILES += ["--data.valid_col", "is_valid", "--data.size", "128", "--data.augment", "satellite"]
PHASES = [
    {"epochs": 2, "train": "head", "lr": "find", "size": 64},
    {"epochs": 2, "train": "all", "lr": ["find", 1e-3], "size": 64},
    {"epochs": 1, "train": "head", "lr": 1e-3, "size": 128},
    {"epochs": 2, "train": "all", "lr": [1e-5, 1e-3], "size": 128},
]
BLUE, RED, GREEN, GREY = "#4477aa", "#cc3311", "#228833", "#d9dce1"
WAYS = {
    "ours": ("FineTune()", BLUE),
    "plain-1e-03": ("all layers at 1e-3", GREEN),
    "backbone-1e-03": ("BackboneFinetuning", "#aa7744"),
    "fine_tune": ("fastai's fine_tune", RED),
    "lessons": ("the lessons' recipe", "#888888"),
}
"""Of ``benchmarks/recipes.py``, as they are called and coloured."""


def main(root: Path) -> None:
    """Make all of them."""
    PICTURES.mkdir(exist_ok=True)
    unfreezing()
    one_cycle()
    recipe()
    diagnosis()
    sizes(root)
    watched(root)
    the_run(root)


def the_run(root: Path) -> None:
    """What the command draws of a run of four phases, and of its plan."""
    options = [*TILES, "--data.root", str(root), "--fine_tune.phases", json.dumps(PHASES)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_finetune"]
        subprocess.run([*command, "plan", *options], cwd=folder, env=_env(), check=True)  # noqa: S603  # our own program
        subprocess.run(  # noqa: S603
            [*command, "fit", *options, "--log_predictions.num", "9"], cwd=folder, env=_env(), check=True
        )
        logs = Path(folder, "lightning_logs")
        _keep(logs / "version_0" / "plan.png", "plan")
        names = {
            "run": "run",
            "predictions": "predictions",
            "confusion": "confusion",
            "lr_range_phase_2": "lr-range-test",
        }
        for name, picture in names.items():
            _keep(logs / "version_1" / f"{name}.png", picture)


def unfreezing() -> None:
    """Layer groups over epochs, from grey where frozen to dark where the rate is high."""
    groups = layer_groups(ImageClassifier(num_classes=2, weights=False))
    spans = [(4, "head"), (4, 2), (4, "all")]
    phases = [Phase(n, train, (1e-4, 1e-3), schedule="constant", moms=None) for n, train in spans]  # type: ignore[arg-type]
    plan = make_plan(phases, 1, num_groups=len(groups))
    rates = np.array([state.lrs for state in plan]).T
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.set_facecolor(GREY)
    shown = panel.pcolormesh(np.where(rates > 0, np.log10(rates.clip(1e-9)), np.nan), cmap="viridis_r", edgecolors="w")
    panel.set_yticks(np.arange(len(groups)) + 0.5, [group.name for group in groups], fontsize="small")
    panel.set_xticks(range(13))
    panel.set_xlabel("epoch")
    panel.set_ylabel("layer group")
    bar = figure.colorbar(shown, ticks=[-4, -3.5, -3], label="learning rate")
    bar.ax.set_yticklabels(["1e-4", "3e-4", "1e-3"])
    _save(figure, "gradual-unfreezing")


def one_cycle() -> None:
    """Both schedules, and the momentum of one."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    rates, moms = figure.subplots(1, 2)
    steps = np.arange(100)
    kinds: list[tuple[Schedule, str]] = [("one_cycle", BLUE), ("flat_cos", RED)]
    for kind, colour in kinds:
        rates.plot(steps, [rate(kind, 1, i / 100, div=25, div_final=1e5) for i in steps], color=colour, label=kind)
    moms.plot(steps, [momentum("one_cycle", (0.95, 0.85, 0.95), i / 100) for i in steps], color=BLUE)
    for panel, name in ((rates, "rate / peak"), (moms, "momentum")):
        _dress(panel, "optimizer step", name)
    rates.legend(frameon=False)
    _save(figure, "one-cycle")


def recipe() -> None:
    """The rates of the recipe, and its errors on unseen images after each epoch beside those of others."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    rates, errors = figure.subplots(1, 2)
    plan = make_plan(make_phases(RECIPES["measured"], Wishes(), False), 100, num_groups=5)
    for group, colour in ((0, GREEN), (4, BLUE)):
        made = [state.lrs[group] for state in plan]
        rates.plot(np.arange(len(made)) / 100, made, color=colour, label="input" if group == 0 else "head")
    for way, (label, colour) in WAYS.items():
        errors.plot(range(1, 9), errors_by_epoch(way), color=colour, marker=".", label=label)
    errors.axhline(errors_by_epoch("head")[0], color=BLUE, linestyle=":", label="logistic regression")
    errors.set_yscale("log")
    errors.set_yticks([0.2, 0.3, 0.5, 0.7], ["0.2", "0.3", "0.5", "0.7"])
    errors.yaxis.set_minor_locator(NullLocator())
    for panel, name in ((rates, "learning rate"), (errors, "error on unseen images")):
        _dress(panel, "epoch", name)
    rates.legend(frameon=False)
    errors.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, "recipe")


def errors_by_epoch(way: str) -> list[float]:
    """Geometric means over five sets of 200 images and their folds."""
    rows = [json.loads(line) for line in (BENCHMARKS / "recipes.jsonl").read_text().splitlines()]
    asked = {"way": way, "epochs": 8}
    sets = [f"{name}-200" for name in ("satellite", "ants_bees", "textures", "trash", "digits")]
    kept = [row for row in rows if asked.items() <= row.items() and row["set"] in sets]
    kept = [row for row in kept if row.get("backbone", "tf_efficientnet_lite0") == "tf_efficientnet_lite0"]
    by_epoch = zip(*([error for _, error in row["timeline"]] for row in kept), strict=True)
    return [statistics.geometric_mean(found) for found in by_epoch]


def diagnosis() -> None:
    """The first recorded run of a setting with each fault, and what is said of it."""
    runs = [run for run in json.loads(RECORDED.read_text()) if run["setting"] == "digits, CNN, one-cycle"]
    faults = ("healthy", "high", "low", "few", "many")
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for panel, fault in zip(figure.subplots(1, len(faults)), faults, strict=True):
        run = next(run for run in runs if run["fault"] == fault)
        curves = Curves(run["steps"], run["losses"], run["measured"])
        said = [finding.name for finding in diagnose(curves) if finding.fault]
        panel.plot(curves.steps, curves.losses, color=BLUE, linewidth=0.7)
        panel.plot(*zip(*curves.measured["val_loss"], strict=True), color=RED, marker=".")
        panel.set_title(said[0] if said else "nothing", fontsize=9)
        panel.set_yscale("log" if fault == "high" else "linear")
        _dress(panel, "optimizer step", "loss" if fault == "healthy" else "")
    _save(figure, "training-diagnosis")


def sizes(root: Path) -> None:
    """The same images at three sizes, and the cost of pixels."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    images, cost = figure.subfigures(1, 2, width_ratios=(3, 2))
    panels = images.subplots(3, 3)
    for row, size in zip(panels, (64, 128, 256), strict=True):
        data = _tiles(root, size=256)
        data.train_size = size
        for panel, pixels in zip(row, _first_images(data, 3), strict=True):
            panel.imshow(pixels, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
        row[0].set_ylabel(f"{size} px")
    panel = cost.subplots()
    share = np.array([(128 / 224) ** 2] * 8 + [1.0] * 4)
    panel.bar(range(12), share, width=0.9, color=BLUE)
    panel.set_xticks(range(0, 12, 2))
    panel.set_title(f"{share.mean():.0%} of the pixels of 224 px throughout", fontsize=9)
    _dress(panel, "epoch", "pixels an image, part of those at 224 px")
    _save(figure, "progressive-resizing", colours=64, scale=0.8)


def watched(root: Path) -> None:
    """Histograms of two layers that Weights & Biases recorded of a run that unfreezes in its middle."""
    pl.seed_everything(0)
    with tempfile.TemporaryDirectory() as folder:
        data = _tiles(root, size=64, batch_size=16)
        callbacks = [GradualUnfreezing({0: "head", 1: "all"}), WatchModel(log_freq=1)]
        logger = WandbLogger(project="pictures", save_dir=folder, offline=True)
        trainer = pl.Trainer(
            default_root_dir=folder, max_epochs=2, callbacks=callbacks, logger=logger, log_every_n_steps=1,
            limit_train_batches=15, limit_val_batches=0, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(ImageClassifier(num_classes=data.num_classes), data)
        logger.experiment.finish()
        history = read_history(next(Path(folder).glob("wandb/offline-run-*/*.wandb")))
    names = ["model.head.7.weight", "model.backbone.conv_stem.weight"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2, sharex=True), names, strict=True):
        _draw_histograms(panel, history, f"gradients/{name}")
        panel.set_title(name, fontsize=9)
    _save(figure, "watch-model")


def _draw_histograms(panel: Axes, history: dict[str, list[tuple[int, Any]]], name: str) -> None:
    """One column a step, darker where more gradients are."""
    reach = 0.0
    for (step, counts), (_, bins) in zip(history[f"{name}.values"], history[f"{name}.bins"], strict=True):
        reach = max(reach, *map(abs, bins))
        shades = np.sqrt(np.array(counts) / max(counts))[:, None]
        panel.pcolormesh([step, step + 1], bins, shades, cmap="Blues", vmin=0, vmax=1)
    panel.set_ylim(-reach, reach)
    panel.set_xlim(0, 30)
    _dress(panel, "optimizer step", "gradient")


def _tiles(root: Path, **options: int) -> ImageData:
    return ImageData.from_csv(
        root, label_col="landuse", valid_col="is_valid", folder="images", num_workers=0, augment="none", **options
    )


def _first_images(data: ImageData, count: int) -> Sequence[np.ndarray]:
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    return to_pixels(batch["image"][:count], *data.normalization)


def _dress(panel: Axes, across: str, up: str) -> None:
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, name: str, colours: int = 128, scale: float = 1.0) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    _write(Image.open(buffer), name, colours, scale)


def _keep(path: Path, name: str) -> None:
    """A picture of a run; photographs need more colours and fewer pixels."""
    photographs = name == "predictions"
    _write(Image.open(path), name, 128 if photographs else 256, 0.65 if photographs else 0.9)


def _write(image: Image.Image, name: str, colours: int, scale: float) -> None:
    small = image.convert("RGB").resize([math.ceil(side * scale) for side in image.size], Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    path = PICTURES / f"{name}.png"
    small.quantize(colours).save(path, optimize=True)
    if path.stat().st_size > LIMIT:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than {LIMIT:,}")


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "80"}


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "satellite")
