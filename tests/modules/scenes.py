"""Images of two kinds of land, drawn for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

LAND = {"field": (60, 140, 50), "water": (40, 70, 150)}


def draw(root: Path, count: int = 24, side: int = 64) -> Path:
    """``root`` with a subfolder of ``count`` images for each of two classes."""
    numbers = np.random.default_rng(1)
    for name, colour in LAND.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise = numbers.normal(0, 40, (side, side, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
