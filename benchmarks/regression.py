"""R² on held-out images of a ridge regression over pretrained features, by alpha and by what the head sees.

    python benchmarks/regression.py DATA [--train]

DATA holds ``camvid`` and ``satellite``. The numbers to predict are the shares of four classes in a street scene, and
how many tags a satellite image has; a quarter of the images is held out. With ``--train`` also R² and mean absolute
error after the eight epochs of the recipe. ``docs/tasks.md`` shows the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_finetune import FineTune, ImageData, ImageRegressor
from lightning_finetune.engine.linear_probe import solve_head

ALPHAS = (5, 50, 200, 800)
SHARES = ("Sky", "Building", "Road", "Tree")


def main() -> None:
    """Print a row per set of images and head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args()
    root = options.data.resolve()
    print("set", "head", "training images", *ALPHAS)
    tables: dict[str, Callable[[Path], pd.DataFrame]] = {"camvid": streets, "satellite": tags}
    for name, table in tables.items():
        frame = table(root / name)
        held_out = np.random.default_rng(0).permutation(len(frame))[: len(frame) // 4]
        frame["is_valid"] = np.isin(np.arange(len(frame)), held_out)
        for head in ("linear", "multi_level"):
            found = r_squared(frame, head)
            print(name, head, len(frame) - len(held_out), *(f"{value:.2f}" for value in found), flush=True)
            if options.train:
                print(name, head, "trained", *trained(frame, head), flush=True)


def streets(root: Path) -> pd.DataFrame:
    """Shares of four classes in the masks."""
    codes = (root / "codes.txt").read_text().split()
    rows = []
    for image in sorted(root.glob("*/images/*")):
        ids = np.asarray(Image.open(next((image.parents[1] / "masks").glob(f"{image.stem}*"))))
        rows.append([str(image), *((ids == codes.index(code)).mean() for code in SHARES)])
    return pd.DataFrame(rows, columns=["name", *SHARES])


def tags(root: Path) -> pd.DataFrame:
    """How many tags each image has."""
    table = pd.read_csv(root / "labels.csv")
    files = [str(root / "images" / name) for name in table["image"]]
    return pd.DataFrame({"name": files, "count": table["tags"].str.split().str.len().astype(float)})


def made(frame: pd.DataFrame, head: str) -> tuple[ImageData, ImageRegressor]:
    """The images, and a model for their numbers."""
    names = [name for name in frame.columns if name not in ("name", "is_valid")]
    data = ImageData.from_df(frame, "/", valid_col="is_valid", numbers=names, size=128, num_workers=0, augment="none")
    return data, ImageRegressor(num_outputs=len(names), head=head)  # type: ignore[arg-type]  # a name from this file


def trained(frame: pd.DataFrame, head: str) -> list[str]:
    """R² and mean absolute error after the recipe."""
    pl.seed_everything(0, verbose=False)
    data, task = made(frame, head)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = pl.Trainer(callbacks=[FineTune()], accelerator="cpu", max_epochs=8, **quiet)
    trainer.fit(task, data)
    return [f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in ("val_r2", "val_mae")]


@torch.no_grad()
def r_squared(frame: pd.DataFrame, head: str) -> list[float]:
    """For each alpha, the mean over the numbers."""
    data, task = made(frame, head)
    task.eval()
    data.stats = task.normalization
    data.setup("fit")
    (x, y), (x_held_out, y_held_out) = (
        features(task, data, loader) for loader in (data.train_dataloader().one_pass(), data.val_dataloader())
    )
    mean, deviation = y.mean(0), y.std(0)
    spread = (y_held_out - y_held_out.mean(0)).square().sum(0)
    found = []
    for alpha in ALPHAS:
        weight, bias = solve_head(x, (y - mean) / deviation, nn.MSELoss(), y.shape[1], 0.5 / alpha)
        errors = y_held_out - (x_held_out @ weight.T + bias) * deviation - mean
        found.append(float((1 - errors.square().sum(0) / spread).mean()))
    return found


def features(task: ImageRegressor, data: ImageData, loader: object) -> tuple[Tensor, Tensor]:
    """What the head sees ``[N, C]``, and the numbers ``[N, L]``."""
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]  # type: ignore[attr-defined]
    seen = torch.cat([task.model.forward_features(batch["image"]) for batch in batches])
    return seen, torch.cat([batch["label"] for batch in batches])


if __name__ == "__main__":
    main()
