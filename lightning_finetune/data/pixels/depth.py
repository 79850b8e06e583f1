"""Images of more than eight bits: one scale for a whole data set, or none."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_finetune.errors import DataError

_FULL = 65535  # white of 16 bits


class Depth(IntEnum):
    """What the values of an image may be."""

    EIGHT = 0
    SIXTEEN = 1
    INTEGER = 2
    FLOAT = 3
    CUT = 4  # colours of 16 bits, of which Pillow gives the upper 8


def depth_of(image: Image.Image) -> Depth:
    """What the values of an image may be, by its type."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Depth.SIXTEEN
    return {"I": Depth.INTEGER, "F": Depth.FLOAT}.get(image.mode, Depth.EIGHT)


def is_cut(image: Image.Image) -> bool:
    """Whether a file that is not yet decoded holds more bits than its mode says."""
    return image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def top_of(image: Image.Image, origin: object) -> float:
    """The largest value of a decoded image; ``origin`` names it in an error.

    Raises:
        DataError: Values are negative or not finite.
    """
    return float(_values(image, origin).max(initial=0))


def _values(image: Image.Image, origin: object) -> npt.NDArray[np.float64]:
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{origin}: expected finite values, got NaN or infinity. Remove or replace it.")
    if values.min(initial=0) < 0:
        raise DataError(
            f"{origin}: expected values from 0 on, which is black, got {values.min():g}. Add the same number to all "
            "images, so that none is negative, and save them again."
        )
    return values


def white_of(tops: Mapping[Depth, float]) -> float | None:
    """The value that is white in all images of a data set; None where their type says it.

    Floats that are all at most 1, and integers that fill 8 or 16 bits, leave no doubt either.

    Args:
        tops: The largest value of the images of each depth but 8 bits.

    Raises:
        DataError: It cannot be known.
    """
    tops = dict(tops)
    if tops.pop(Depth.CUT, 255.0) < 128:
        raise DataError(
            "Expected colours of 8 bits, got files of 16 bits that use the lower ones, of which nothing would be left. "
            "Save them with 8 bits, scaled so that white is 255."
        )
    if len(tops) > 1:
        names = ", ".join(f"{depth.name.lower()} to {top:g}" for depth, top in sorted(tops.items()))
        raise DataError(f"white: expected images of one depth, got several: {names}. Give the white of all.")
    for depth, top in tops.items():
        if depth == Depth.FLOAT and top <= 1:
            return 1.0
        if depth == Depth.INTEGER and (top <= 255 or _FULL // 2 < top <= _FULL):
            return 255.0 if top <= 255 else float(_FULL)
        if depth != Depth.SIXTEEN or top <= _FULL // 2:
            raise DataError(_doubt(depth, top))
    return None


def to_bytes(image: Image.Image, white: float | None, origin: object) -> Image.Image:
    """Grey of more than 8 bits as 8 bits.

    Args:
        image: Decoded.
        white: The value that becomes 255; larger ones do too. None: that of the type.
        origin: Names the image in an error.

    Raises:
        DataError: The type does not say what is white, or values are negative or not finite.
    """
    depth = depth_of(image)
    if white is None and depth != Depth.SIXTEEN:
        raise DataError(
            f"{origin}: expected an image of 8 or 16 bits, got {depth.name.lower()} values up to "
            f"{top_of(image, origin):g}. Say which value is white: ImageData(white=…), load_image(white=…)."
        )
    scaled = _values(image, origin) * (255 / (_FULL if white is None else white))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _doubt(depth: Depth, top: float) -> str:
    guesses = [white for white in (1.0, 255.0, 1023.0, 4095.0, 16383.0, float(_FULL)) if white >= top] or [top]
    bits = f" (with {_FULL} they would be nearly black)" if depth == Depth.SIXTEEN else ""
    return (
        f"white: the images hold {depth.name.lower()} values up to {top:g}, and nothing says which value is "
        f"white{bits}. Say it, such as white={guesses[0]:g} or white={_FULL}."
    )
