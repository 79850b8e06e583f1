"""Image files, opened with care: they may be anybody's."""

from __future__ import annotations

import logging
import os
import stat
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

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

LARGEST = 2**32
"""Bytes of a file that holds an array, which is read whole; images in other formats have Pillow's limit of pixels."""

# Pillow's parsers raise whatever they trip over in a damaged file, by format.
UNREADABLE = Exception

_ORIENTATION = 0x0112
# What makes an image upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decoded(source: str | Path | Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """An image with all of its pixels, upright as it is seen.

    Args:
        source: A file, or an image in memory, which stays as it is.
        size: Height and width; a JPEG file is decoded at the smallest of its scales that covers them.

    Raises:
        DataError: It cannot be read.
    """
    if isinstance(source, Image.Image):
        return _upright(source, source)
    with open_image(source) as image:  # Pillow leaves files of several frames open
        if size is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, size if lies_on_its_side(image) else size[::-1])
        return _upright(image, source)


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


def ready_for_threads() -> None:
    """Let threads that read images need no lock of logging's; called by the thread that waits for them.

    Pillow logs, and a logger that is asked for the first time takes that lock. torch raises its error of a killed
    worker process wherever the main thread stands, be it amid the release of that lock after a fork. The main thread
    then has the lock for good, and the readers of the next run would wait for it without end.
    """
    _formats()
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "PIL":
            logging.getLogger(name).isEnabledFor(logging.DEBUG)


def image_in(encoded: bytes) -> Image.Image:
    """The image that the bytes of a file hold; its pixels are decoded when they are asked for.

    Raises:
        DataError: They hold none of :data:`FORMATS`.
    """
    try:
        return Image.open(BytesIO(encoded), formats=_formats())
    except UNREADABLE as error:
        raise unreadable(encoded, error) from error


def read_array(path: str | Path) -> npt.NDArray[np.uint8]:
    """An array of a file, in which nothing is executed.

    Raises:
        DataError: It holds none.
    """
    check_regular(path)
    length = Path(path).stat().st_size
    if length > LARGEST:
        raise DataError(f"{path}: expected an array of at most {LARGEST:,} bytes, got {length:,}. Cut it into pieces.")
    try:
        held: Any = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if not isinstance(held, np.ndarray):  # an archive, whatever its name
        held.close()
        raise DataError(f"{path}: expected one array, as np.save writes it, got an archive of arrays (np.savez).")
    return held


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether height and width change places in what is seen."""
    return _orientation(image) >= 5


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
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"{name}: {str(error).rstrip('. ')}. Cut it into pieces, or set PIL.Image.MAX_IMAGE_PIXELS.")
    if isinstance(error, MemoryError):
        return DataError(f"{name}: there is not enough memory to read it. Cut it into pieces.")
    reason = "it is no image" if isinstance(error, UnidentifiedImageError) else _reason(error)
    if isinstance(source, (str, Path)) and Path(source).exists() and Path(source).stat().st_size == 0:
        reason = "it is empty"
    return DataError(f"{name}: expected an image, but {reason}. Remove or replace it.")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.rstrip(". ") or type(error).__name__


def _upright(image: Image.Image, source: object) -> Image.Image:
    """The image itself, where it lies as it is seen: of a large one a copy would be much."""
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        return image if turn is None else image.transpose(turn)
    except UNREADABLE as error:
        raise unreadable(source, error) from error


def _orientation(image: Image.Image) -> int:
    """1 to 8, by EXIF; 1 where that is missing or damaged, as the pixels may be whole all the same."""
    try:
        number = image.getexif().get(_ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return int(number) if number in range(1, 9) else 1


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def _extensions() -> frozenset[str]:
    known, formats = Image.registered_extensions(), _formats()
    return frozenset({ARRAY, *(extension for extension, name in known.items() if name in formats)})
