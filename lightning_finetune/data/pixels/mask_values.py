"""The values of a mask, in whatever way a file holds one whole number for each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_finetune.data.pixels.image_files import decoded, is_array, read_array
from lightning_finetune.errors import DataError

MaskSource: TypeAlias = "str | Path | Image.Image | npt.NDArray[np.uint8]"
Ids: TypeAlias = npt.NDArray[Any]

_COLOURS = 256  # colours up to which they are counted, to be told


def mask_values(source: MaskSource) -> Ids:
    """The values ``[h, w]`` of a mask: of a palette image the indices, of equal channels one of them.

    Returns:
        uint8, or int32 if one is above 255 or below 0.

    Raises:
        DataError: The file does not hold a readable image of one whole number per pixel.
    """
    if isinstance(source, np.ndarray):
        return _whole(source, "a mask in memory")
    if isinstance(source, (str, Path)) and is_array(source):
        return _whole(read_array(source), source)
    return _whole(np.asarray(_one_channel(decoded(source), source)), source)


def _one_channel(mask: Image.Image, source: object) -> Image.Image:
    bands = mask.split() if mask.mode != "P" else (mask,)
    colours, alpha = (bands[:-1], bands[-1]) if mask.mode in ("RGBA", "LA", "PA") else (bands, None)
    same = all(band.tobytes() == colours[0].tobytes() for band in colours[1:])
    if same and (alpha is None or alpha.getextrema() == (255, 255)):
        return colours[0]
    counted = mask.getcolors(_COLOURS)
    listed = f"{_COLOURS} colours and more"
    if counted is not None:
        listed = f"{len(counted)} colours, such as {min(counted)[1]} and {max(counted)[1]}"
    raise DataError(
        f"{source}: expected a mask of one channel that holds class ids, got mode {mask.mode} with {listed}. "
        "Save the id of each pixel's class as an 8-bit grey or palette PNG (docs/data.md, Masks in colours)."
    )


def _whole(values: npt.NDArray[Any], source: object) -> Ids:
    """Values as whole numbers."""
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise DataError(f"{source}: expected a mask [h, w] of class ids, got {list(values.shape)} of {values.dtype}.")
    if values.dtype.kind == "f" and not bool(np.equal(np.mod(values, 1), 0).all()):
        raise DataError(f"{source}: expected a mask that holds class ids, got numbers with fractions.")
    if values.dtype == np.uint8:
        return values
    low, top = (int(values.min()), int(values.max())) if values.size else (0, 0)
    return values.astype(np.uint8 if low >= 0 and top <= 255 else np.int32)
