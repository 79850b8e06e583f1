"""Do `predict` and `interpret` keep up with the network? Images a second of processor time, one process, one thread.

    python benchmarks/predict_rate.py DATA [--sizes 128 224] [--images 160] [--rounds 3] [--out FILE.json]

DATA holds ``satellite`` (JPEG of 256 pixels) and ``ants_bees`` (photos of up to 500). In each round EfficientNet-Lite0
sees random batches of 32 that lie in memory: timm's network as it comes, in a hand-written loop, and then our task,
whose channels-last layout is faster here. Then as many files go through what the command ``predict --images`` calls,
its tables included, and through ``interpret``; each also with 32 files, whose time (the start) is taken off. It is time
of the processor, not of the clock: on one core they are the same, and what else the machine does counts less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import timm
import torch

from lightning_finetune import ImageClassifier, ImageData, interpret, load
from lightning_finetune.cli.files import Devices, predict_files

BATCH = 32
NETWORKS = ("network", "task")
"""What sees random batches alone."""


def checkpoint(folder: Path, data: ImageData) -> Path:
    """A file as training would leave it."""
    task = ImageClassifier("tf_efficientnet_lite0", num_classes=data.num_classes)
    task.classes, task.preprocessing = data.classes, data.preprocessing()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def seconds(work: Callable[[], Any]) -> float:
    """Time of the processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


def loop(model: torch.nn.Module, size: int, count: int) -> None:
    """A network alone, on batches in memory."""
    batch = torch.randn(BATCH, 3, size, size)
    with torch.inference_mode():
        for _ in range(count // BATCH):
            model(batch)


def ways(root: Path, name: str, size: int, count: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """The network, the task, the command and ``interpret``, on as many images."""
    files = sorted((root / name).rglob("*.jpg"))[:count]
    pairs = [(str(file), number % 2) for number, file in enumerate(files)]
    data = ImageData.from_dataset(pairs[:2], pairs, classes=["a", "b"], size=size, batch_size=BATCH, num_workers=0)
    path, images = checkpoint(folder, data), folder / f"images{count}"
    images.mkdir()
    for file in files:
        (images / file.name).symlink_to(file.resolve())

    def predict() -> None:
        out = str(folder / "out")
        predict_files(str(path), str(images), out, batch_size=BATCH, overwrite=True, trainer=Devices("cpu", 1))

    return {
        "network": lambda: loop(timm.create_model("tf_efficientnet_lite0", num_classes=2).eval(), size, count),
        "task": lambda: loop(load(path), size, count),
        "predict": predict,
        "interpret": lambda: interpret(load(path), data, trainer=Devices("cpu", 1).trainer()),
    }


def measure(root: Path, name: str, size: int, count: int, rounds: int) -> dict[str, Any]:
    """Images a second of each, and ratios to both networks of the same round."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (ways(root, name, size, number, Path(folder)) for number in (BATCH, BATCH + count))
        few["task"]()
        taken = [{way: seconds(many[way]) - seconds(few[way]) for way in many} for _ in range(rounds)]
    found: dict[str, Any] = {"files": name, "size": size, "rounds": taken}
    for way in many:
        found[way] = count / statistics.median(one[way] for one in taken)
        for other in NETWORKS:
            found[f"{way}/{other}"] = statistics.median(one[other] / one[way] for one in taken)
    return found


def shown(one: dict[str, Any], way: str) -> str:
    """Images a second, and the ratios to both networks."""
    ratios = ", ".join(f"{one[way + '/' + other]:.2f}" for other in NETWORKS)
    return f"{one[way]:.1f} | {ratios}"


def main() -> None:
    """Measure, print rows of a table, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| files | size | network, images/s | task | predict | ratios | interpret | ratios |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name in ("satellite", "ants_bees"):
        for size in options.sizes:
            one = measure(options.data, name, size, options.images, options.rounds)
            rows.append(one)
            networks = " | ".join(f"{one[other]:.1f}" for other in NETWORKS)
            print(f"| {name} | {size} | {networks} | {shown(one, 'predict')} | {shown(one, 'interpret')} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
