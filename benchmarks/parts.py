"""What each default of speed is worth, alone: memory format, optimizer kernels, decoding at a reduced scale.

    python benchmarks/parts.py DATA [--rounds 7] [--sizes 64 128 224] [--out FILE.json]

DATA holds ``satellite`` and ``ants_bees``. Contenders take turns; the median of each counts, and the median ratio. Set
beside a step on the same images, the time of those that lie decoded in memory says what keeping them saves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import nn
from torch.optim import AdamW

from lightning_finetune.data.pixels.decode import CENTRE, image_pixels

BATCH, CLASSES = 32, 21


def in_turns(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each turn; a first one warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def training_step(size: int, memory_format: torch.memory_format, trained: str) -> Callable[[], None]:
    """Forward and backward of one batch through EfficientNet-Lite0."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES).to(memory_format=memory_format)
    if trained == "head":
        model.eval().requires_grad_(False)
        model.classifier.requires_grad_(True)
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=memory_format)
    labels = torch.randint(0, CLASSES, (BATCH,))

    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()

    return step


def optimizer_step(fused: bool | None, foreach: bool | None) -> Callable[[], None]:
    """A step of AdamW over all parameters of EfficientNet-Lite0."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES)
    optimizer = AdamW(model.parameters(), fused=fused, foreach=foreach)
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    return optimizer.step


def reading(files: list[Path], size: int, reduced: bool) -> Callable[[], None]:
    """Files to pixels of the size that the model needs, decoded at a reduced scale or in full."""

    def read() -> None:
        for file in files:
            source = file if reduced else Image.open(file).convert("RGB")
            image_pixels(source, (size, size), "crop", CENTRE)

    return read


def fitting(files: list[Path], size: int) -> Callable[[], None]:
    """The same of images that lie decoded in memory, at the scale at which they would be decoded."""
    opened = []
    for file in files:
        with Image.open(file) as image:
            image.draft(None, (size, size))
            opened.append(image.convert("RGB"))

    def fit() -> None:
        for image in opened:
            image_pixels(image, (size, size), "crop", CENTRE)

    return fit


def main() -> None:
    """Measure, print rows of tables, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kept: dict[str, Any] = {"torch": torch.__version__}
    print("| | | | |\n|---|---|---|---|")
    kept["optimizer"] = report(
        "AdamW over 3.4 million parameters",
        {
            "loop": optimizer_step(None, False),
            "foreach": optimizer_step(None, True),
            "fused": optimizer_step(True, None),
        },
        options.rounds,
    )
    for size in options.sizes:
        for trained in ("head", "all"):
            formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
            steps = {name: training_step(size, given, trained) for name, given in formats.items()}
            kept[f"{trained} {size}"] = report(f"step of {trained}, {size} px, batch {BATCH}", steps, options.rounds)
        for name, pattern in (("satellite", "images/*.jpg"), ("ants_bees", "train/*/*.jpg")):
            files = sorted((options.data / name).glob(pattern))[:BATCH]
            if not files:
                parser.error(f"no {name}/{pattern} in {options.data}")
            ways = {
                "decoded in full": reading(files, size, False),
                "reduced": reading(files, size, True),
                "in memory": fitting(files, size),
            }
            kept[f"{name} {size}"] = report(f"{BATCH} images of {name} to {size} px", ways, options.rounds)
    if options.out:
        options.out.write_text(json.dumps(kept, indent=1))


def report(title: str, contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """A row: milliseconds of each, and its share of the first."""
    times = in_turns(contenders, rounds)
    first = next(iter(times.values()))
    cells = []
    for name, own in times.items():
        share = statistics.median(one / base for one, base in zip(own, first, strict=True))
        cells.append(f"{name} {statistics.median(own):.1f} ms ({share:.2f})")
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)
    return times


if __name__ == "__main__":
    main()
