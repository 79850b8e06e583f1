"""Memory of predicting one large image in overlapping pieces: ``python benchmarks/large_image.py``.

Writes a photo of squares, predicts its mask in a process of its own, and prints that process's peak of memory above
what it had before, and its time. The network has random weights; what it finds is of no interest.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Measure each side in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 4096, 10_000])
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--child", type=Path, help="used by this program itself: the image")
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    with tempfile.TemporaryDirectory() as name:
        for side in options.sides:
            path = Path(name) / f"{side}.jpg"
            photo(side).save(path, quality=85)
            words = [sys.executable, __file__, "--child", path, "--classes", options.classes, "--tile", options.tile]
            subprocess.run([*map(str, words), "--backbone", options.backbone], check=True)


def photo(side: int) -> Image.Image:
    """Squares of colours, with noise."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (max(1, side // 64), max(1, side // 64), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def child(options: argparse.Namespace) -> None:
    """Predict one image at its own resolution, and say what that took."""
    import torch

    from lightning_finetune import SemanticSegmenter

    torch.set_num_threads(1)
    task = SemanticSegmenter("unet", backbone=options.backbone, num_classes=options.classes, weights=False)
    task.preprocessing = {"size": [256, 256], "mean": [0.5] * 3, "std": [0.25] * 3, "resize": "crop"}
    task.predict(Image.new("RGB", (256, 256)), scale=1, tile=options.tile)
    before, clock = peak(), time.perf_counter()
    found = task.predict(options.child, scale=1, tile=options.tile)
    height, width = found.mask.shape
    seconds = time.perf_counter() - clock
    print(
        f"{height} x {width} pixels ({height * width / 1e6:.0f} million), {options.classes} classes, "
        f"pieces of {options.tile}: "
        f"{peak() - before:.2f} GB more at the peak ({peak():.2f} GB in all), {seconds:.0f} s",
        flush=True,
    )


def peak() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
