"""Small folders of real JPEGs; the colour of each image tells which one it is."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "wasp")


def picture(number: int, size: tuple[int, int] = (48, 64)) -> Image.Image:
    """A smooth image of height and width ``size`` that differs from those of other numbers."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / np.array(size)[:, None, None]
    red = np.full(size, (37 * number % 256) / 255)
    pixels = np.stack([red, x, y], axis=-1) * 255
    return Image.fromarray(pixels.astype(np.uint8))


def fill(folder: Path, count: int, start: int = 0, size: tuple[int, int] = (48, 64)) -> list[Path]:
    """``count`` JPEGs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(start, start + count)]
    for number, path in enumerate(paths, start):
        picture(number, size).save(path, quality=95)
    return paths
