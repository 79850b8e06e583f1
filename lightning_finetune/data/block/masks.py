"""Where the mask of an image lies, and whether it fits its image."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lightning_finetune.data.block.files import image_files
from lightning_finetune.data.pixels.decode import MaskSource, image_size, open_mask
from lightning_finetune.errors import DataError

VOID = 255


def mask_finder(root: Path, name: str | Path) -> Callable[[Path], Path]:
    """A function from an image to its mask, the file of the same stem in a folder of masks.

    The folder lies beside the images (``train/images/a.jpg`` and ``train/masks/a.png``) or mirrors the tree of the
    images (``train/a.jpg`` and ``masks/train/a.png``, or ``masks/a.png``).

    Args:
        root: Folder of the data set.
        name: Name of the folders of masks, or the path of one.

    Raises:
        DataError: There is no such folder under ``root``.
    """
    masks = (file for folder in _folders(root, name) for file in image_files(folder).texts())
    # As text: `Path` objects of a million masks would take a gigabyte.
    found = {stem: sys.intern(suffix) for stem, suffix in map(os.path.splitext, masks)}
    if not found:
        raise DataError(f"masks: expected a folder {str(name)!r} with masks under {root}, found none.")

    def mask_of(image: Path) -> Path:
        likely = [place / image.stem for place in _places(root, Path(name), image)]
        return next(
            (Path(f"{stem}{found[str(stem)]}") for stem in likely if str(stem) in found),
            likely[0].with_name(f"{image.stem}.png"),
        )

    return mask_of


def read_codes(root: Path, codes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """The names of mask classes: given, or one a line in a file (by default ``codes.txt`` in ``root``).

    Raises:
        DataError: There is no such file, or it is not UTF-8.
    """
    if codes is not None and not isinstance(codes, (str, Path)):
        return tuple(codes)
    file = root / (codes or "codes.txt")
    if not file.is_file():
        raise DataError(
            f"codes: expected the names of the mask classes in {file}, or as a list; there is no such file."
        )
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected UTF-8, but {error}. Save the names as UTF-8.") from error
    return tuple(line.strip() for line in lines if line.strip())


def mask_problem(image: Path, mask: MaskSource, classes: int) -> str | None:
    """What is wrong with a mask: unreadable, another size than its image, or ids that no class has."""
    try:
        opened = open_mask(mask)
        seen = image_size(image)
    except DataError as error:
        return str(error)
    if (opened.height, opened.width) != seen:
        got = f"{opened.height} x {opened.width}"
        return f"{mask}: expected {seen[0]} x {seen[1]} pixels (height x width) as its image, got {got}"
    ids = np.unique(np.asarray(opened))
    outside = [int(number) for number in ids if number >= classes and number != VOID]
    return f"{mask}: expected ids 0 to {classes - 1} (or {VOID}, ignored), got {outside[:10]}" if outside else None


def _folders(root: Path, name: str | Path) -> list[Path]:
    direct = root / name
    return [direct] if direct.is_dir() else sorted(path for path in root.rglob(str(name)) if path.is_dir())


def _places(root: Path, name: Path, image: Path) -> list[Path]:
    """Folders in which the mask may lie, likeliest first."""
    direct = root / name
    parts = image.relative_to(root).parts[:-1] if image.is_relative_to(root) else ()
    beside = [root.joinpath(*parts[:k], name, *parts[k + 1 :]) for k in range(len(parts) - 1, -1, -1)]
    return [*beside, direct.joinpath(*parts), direct, image.parent / name]
