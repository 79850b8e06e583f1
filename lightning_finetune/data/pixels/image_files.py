"""Image files, opened with care: they may be anybody's."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from lightning_finetune.errors import DataError

ARRAY = ".npy"
"""Files of arrays, which may have any number of channels."""

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""What is read; the others that Pillow knows are documents, video, or start other programs (EPS: Ghostscript)."""

# Pillow's parsers raise whatever they trip over in a damaged file, by format.
UNREADABLE = Exception


def open_image(path: str | Path) -> Image.Image:
    """An image file; its pixels are decoded when they are asked for.

    Raises:
        DataError: There is no such file, it is no regular file, or holds none of :data:`FORMATS`.
    """
    check_regular(path)
    try:
        return Image.open(path, formats=_formats())
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def read_array(path: str | Path) -> npt.NDArray[np.uint8]:
    """An array of a file, in which nothing is executed.

    Raises:
        DataError: It holds none.
    """
    check_regular(path)
    try:
        array: npt.NDArray[np.uint8] = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return array


def is_array(path: str | Path) -> bool:
    """Whether a file holds an array of numpy's."""
    return Path(path).suffix.lower() == ARRAY


def is_image(path: str | Path) -> bool:
    """Whether the extension, whatever its case, is one of :data:`FORMATS`, or that of an array."""
    _, extension = os.path.splitext(path)  # noqa: PTH122  # `Path.suffix` takes ten times as long, of a million texts
    return extension.lower() in _extensions()


def check_regular(path: str | Path) -> None:
    """Check that a path is that of a file: a pipe or a device would be waited for, perhaps for ever.

    Raises:
        DataError: It is not.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise DataError(f"{path}: expected an image, but it is {kind}. Remove or replace it.")


def unreadable(source: object, error: Exception) -> DataError:
    """What is wrong with a source that could not be read."""
    name = source if isinstance(source, (str, Path)) else type(source).__name__
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name}: no such file.")
    reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
    if isinstance(source, (str, Path)) and Path(source).exists() and Path(source).stat().st_size == 0:
        reason = "it is empty"
    return DataError(f"{name}: expected an image, but {reason}. Remove or replace it.")


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def _extensions() -> frozenset[str]:
    known, formats = Image.registered_extensions(), _formats()
    return frozenset({ARRAY, *(extension for extension, name in known.items() if name in formats)})
