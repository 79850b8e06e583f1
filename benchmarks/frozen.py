"""What a head phase costs when frozen layers run once, and what it learns from a few augmented views.

    python benchmarks/frozen.py time DATA [--sizes 64 128 224] [--out FILE.json]
    python benchmarks/frozen.py views DATA [--views 1 2 4] [--epochs 8] [--seeds 3] [--out FILE.json]

DATA holds ``satellite``. EfficientNet-Lite0 with its packaged weights, 21 classes, batch 32, two workers. ``time``
trains the head for four epochs without augmentation, with and without the cache: seconds of each epoch, validation
included, and whether both end with the same bits; beside them the same head in a loop by hand over such outputs, which
lie ready in memory: less than that no way of running frozen layers once can take. ``views`` trains with augmentation
for the same epochs, anew each time (``off``) and on so many fixed views of each image.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase
from lightning_finetune.data.pixels.augment import Augment
from lightning_finetune.tasks.networks.heads import build_head

# As the lessons augment satellite tiles.
SATELLITE = Augment(flip_vert=True, max_lighting=0.1, max_zoom=1.05, max_warp=0.0)


class Epochs(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begin."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Training and validation have ended."""
        self.seconds.append(time.perf_counter() - self.began)


def train(data_root: Path, setting: Any, size: int, epochs: int, augment: Any, seed: int) -> dict[str, Any]:
    """One head phase, whose clock looks at no batch."""
    pl.seed_everything(seed, verbose=False)
    data = ImageData.from_csv(
        data_root / "satellite",
        label_col="landuse",
        valid_col="is_valid",
        folder="images",
        size=size,
        batch_size=32,
        num_workers=2,
        augment=augment,
        seed=seed,
    )
    model = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes)
    clock = Epochs()
    phases = [Phase(epochs, "head", 3e-3, size=size)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=[FineTune(phases, feature_cache=setting), clock],
        )
        trainer.fit(model, data)
    error = float(trainer.callback_metrics["val_error_rate"])
    return {"weights": model.state_dict(), "seconds": clock.seconds, "error": error}


def by_hand(size: int, epochs: int) -> list[float]:
    """Seconds of epochs of the head alone, over 1,343 outputs and a validation of 337, in a plain loop of torch."""
    side = size // 32
    outputs = torch.randn(1680, side, side, 1280).permute(0, 3, 1, 2)
    labels = torch.randint(0, 21, (1680,))
    head = build_head("concat_pool", 1280, 21, dropout=0.5, is_map=True)
    optimizer = AdamW(head.parameters(), fused=True)
    schedule = OneCycleLR(optimizer, 3e-3, total_steps=42 * epochs)
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        for rows in torch.randperm(1343)[: 41 * 32].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head.train()(outputs[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            right = [
                head.eval()(outputs[rows]).argmax(1) == labels[rows] for rows in torch.arange(1343, 1680).split(32)
            ]
        torch.cat(right).sum().item()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure_time(root: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """A row for each image size."""
    rows = []
    for size in sizes:
        off, exact = (train(root, setting, size, 4, "none", 0) for setting in ("off", "exact"))
        later = [statistics.median(run["seconds"][1:]) for run in (off, exact)]
        hand = by_hand(size, 12)
        floor = statistics.median(hand[1:])
        same = all(torch.equal(value, off["weights"][name]) for name, value in exact["weights"].items())
        rows.append(
            {"size": size, "off": off["seconds"], "exact": exact["seconds"], "by_hand": hand, "same_bits": same}
        )
        print(
            f"| {size} px | {off['seconds'][0]:.1f} s, then {later[0]:.2f} s | {exact['seconds'][0]:.1f} s, then "
            f"{later[1]:.2f} s | {later[0] / later[1]:.1f} | {'yes' if same else 'no'} | {floor:.2f} s | "
            f"{later[0] / floor:.1f} |",
            flush=True,
        )
    return rows


def measure_views(root: Path, views: list[int], epochs: int, seeds: int, size: int) -> list[dict[str, Any]]:
    """A row for each number of views."""
    rows = []
    for setting in ("off", *views):
        runs = [train(root, setting, size, epochs, SATELLITE, seed) for seed in range(seeds)]
        errors, total = [run["error"] for run in runs], [sum(run["seconds"]) for run in runs]
        rows.append({"views": setting, "errors": errors, "seconds": total})
        listed = ", ".join(f"{error:.4f}" for error in errors)
        print(
            f"| {setting} | {statistics.fmean(errors):.4f} ({listed}) | {statistics.fmean(total):.0f} s |", flush=True
        )
    return rows


def main() -> None:
    """Measure, print rows of a table, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "views"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="of images, for `views`")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.what == "time":
        print(
            "| size | anew each epoch | frozen layers once | times faster | same bits | head by hand | times faster |"
        )
        print("|---|---|---|---|---|---|---|")
        rows = measure_time(options.data, options.sizes)
    else:
        print("| views | error | time |\n|---|---|---|")
        rows = measure_views(options.data, options.views, options.epochs, options.seeds, options.size)
    if options.out:
        options.out.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
