"""Small folders of real JPEGs; the colour of each image tells which one it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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


@pytest.fixture(scope="session")
def insects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` with 7, 6, 6 and ``valid`` with 4, 4, 3 images of three classes."""
    root = tmp_path_factory.mktemp("insects")
    for split, counts in (("train", (7, 6, 6)), ("valid", (4, 4, 3))):
        for k, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            fill(root / split / name, count, start=100 * k + (50 if split == "valid" else 0))
    return root


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The folder of a real data set; the test is skipped where the shared data is absent."""

    def folder(name: str) -> Path:
        path = Path(__file__).parents[2] / "../shared/data" / name
        if not path.is_dir():
            pytest.skip(f"needs the data set ../shared/data/{name}")
        return path

    return folder
