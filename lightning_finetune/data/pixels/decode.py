"""From a file, array or PIL image to pixels of the size that the model needs: one path for training and inference."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lightning_finetune.data.pixels.depth import Depth, depth_of, is_cut, to_bytes, top_of
from lightning_finetune.data.pixels.image_files import (
    ARRAY,
    decoded,
    is_array,
    lies_on_its_side,
    open_image,
    read_array,
)
from lightning_finetune.data.pixels.mask_values import Ids, MaskSource, mask_values
from lightning_finetune.errors import DataError

Resize: TypeAlias = Literal["crop", "squish"]
ImageSource: TypeAlias = "str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor"
Size: TypeAlias = tuple[int, int]
Pixels: TypeAlias = npt.NDArray[np.uint8]

CENTRE = (0.5, 0.5)


def load_image(
    source: ImageSource, size: int | Size, resize: Resize = "crop", channels: int = 3, white: float | None = None
) -> Tensor:
    """Read one image as validation and inference see it.

    Args:
        source: A file, a PIL image, or an array ``[h, w]``, ``[h, w, channels]`` (a tensor: ``[channels, h, w]``).
        size: Height and width in pixels, or one number for both.
        resize: ``"crop"`` scales the image until it covers ``size`` and keeps the centre; ``"squish"`` keeps all of it
            and gives up its proportions.
        channels: 3 for RGB, 1 for grey, or as many as every image has.
        white: The value that is white in images of more than 8 bits, where their type does not say it.

    Returns:
        uint8 ``[channels, h, w]``.

    Raises:
        DataError: The file does not hold a readable image, or one of another number of channels.
    """
    wanted = (size, size) if isinstance(size, int) else size
    pixels = image_pixels(source, wanted, resize, channels=channels, white=white)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def image_pixels(
    source: ImageSource,
    size: Size,
    resize: Resize,
    position: tuple[float, float] = CENTRE,
    channels: int = 3,
    white: float | None = None,
) -> Pixels:
    """Pixels ``[h, w, channels]``; ``position`` (x, y in 0..1) says where a crop lies in what it leaves out."""
    bands = _split(_open(source, size), channels, source, white)
    fitted = [np.asarray(_fit(band, size, resize, position, Image.Resampling.BILINEAR)) for band in bands]
    return fitted[0] if channels == 3 else np.stack(fitted, axis=-1)


def decoded_image(source: ImageSource, size: Size, channels: int = 3, white: float | None = None) -> Pixels:
    """An image before it is cropped and scaled, ``[h, w, channels]``: of it :func:`image_pixels` makes the same."""
    bands = [np.asarray(band) for band in _split(_open(source, size), channels, source, white)]
    return bands[0] if channels == 3 else np.stack(bands, axis=-1)


def can_move(full: tuple[int, ...], size: Size, resize: Resize) -> bool:
    """Whether something of an image of shape ``full`` is left out, so that a crop has more than one position."""
    return resize == "crop" and full[0] * size[1] != full[1] * size[0]


def visible(image: Tensor) -> Tensor:
    """What of an image ``[C, h, w]`` can be shown as RGB ``[3, h, w]``: its first three channels, or the first."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def mask_pixels(source: MaskSource, size: Size, resize: Resize, position: tuple[float, float] = CENTRE) -> Ids:
    """Values ``[h, w]`` of a mask, cut like its image and resized by nearest neighbour: they stay exact."""
    return np.asarray(_fit(Image.fromarray(mask_values(source)), size, resize, position, Image.Resampling.NEAREST))


def decoded_mask(source: MaskSource, size: Size) -> Ids:
    """A mask ``[h, w]`` before it is cropped and scaled; of it :func:`mask_pixels` makes the same."""
    return mask_values(source)


def image_size(source: str | Path) -> Size:
    """Height and width of an image file as it is seen, without decoding its pixels.

    Raises:
        DataError: It is no image.
    """
    if is_array(source):
        pixels = _from_array(read_array(source), source)
        return pixels.size[::-1] if isinstance(pixels, Image.Image) else (pixels.shape[0], pixels.shape[1])
    with open_image(source) as image:
        return upright_size(image)


def upright_size(image: Image.Image) -> Size:
    """Height and width of an image as it is seen."""
    width, height = image.size
    return (width, height) if lies_on_its_side(image) else (height, width)


def decode_fully(path: str | Path, channels: int = 3) -> tuple[Depth, float]:
    """Decode every byte of a file at its smallest scale.

    Returns:
        What its values may be, and the largest of them.

    Raises:
        DataError: It is empty, truncated, no image, or one that does not give so many channels.
    """
    image = _open(path, (1, 1))
    if channels not in (1, 3) or not isinstance(image, Image.Image):
        _split(image, channels, path, 1.0)
    depth = Depth.EIGHT if is_array(path) else file_depth(path)
    if depth == Depth.EIGHT or not isinstance(image, Image.Image):
        return Depth.EIGHT, 255.0
    return depth, top_of(image, path)


def _split(image: Image.Image | Pixels, channels: int, source: ImageSource, white: float | None) -> list[Image.Image]:
    """The image as RGB, as grey, or as one grey image for each of its channels."""
    if isinstance(image, Image.Image):
        if depth_of(image) != Depth.EIGHT:
            image = to_bytes(image, white, _name(source))
        if channels == 3:
            return [_rgb(image)]
        if channels == 1:
            return [image if image.mode == "L" else _rgb(image).convert("L")]
        bands = list(image.split()) if image.mode != "P" else [image]
    else:
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in image.transpose(2, 0, 1)]
    if len(bands) != channels:
        raise DataError(
            f"{_name(source)}: expected an image of {channels} channels (`channels`), got {len(bands)}. "
            f"Images of other numbers than 1 and 3 are {ARRAY} files or arrays, uint8 [h, w, channels]."
        )
    return bands


def _open(source: ImageSource, size: Size) -> Image.Image | Pixels:
    """The image upright, many channels as an array; a JPEG at the smallest of its scales that covers ``size``."""
    if isinstance(source, (np.ndarray, Tensor)):
        return _from_array(source)
    if isinstance(source, (str, Path)) and is_array(source):
        return _from_array(read_array(source), source)
    return decoded(source, size)


def file_depth(path: str | Path) -> Depth:
    """What the values of an image file may be, by its type alone."""
    with open_image(path) as image:
        return Depth.CUT if is_cut(image) else depth_of(image)


def _from_array(source: npt.NDArray[np.uint8] | Tensor, origin: object = "an array") -> Image.Image | Pixels:
    """Grey or RGB as an image, other numbers of channels as they are, ``[h, w, channels]``."""
    array = source.permute(1, 2, 0).cpu().numpy() if isinstance(source, Tensor) and source.ndim == 3 else source
    array = np.asarray(array)
    if array.dtype != np.uint8:
        raise DataError(
            f"{origin}: expected an image of uint8 values 0..255, got an array of {array.dtype}. "
            "Convert it to uint8 first."
        )
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{origin}: expected an image [h, w] or [h, w, channels], got an array {list(array.shape)}.")
    if array.ndim == 3 and array.shape[2] == 1:
        return Image.fromarray(array[..., 0])
    return Image.fromarray(array) if array.ndim == 2 or array.shape[2] == 3 else array


def _name(source: ImageSource) -> str:
    return str(source) if isinstance(source, (str, Path)) else "an image in memory"


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode of 8 bits: transparency laid on white."""
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _fit(
    image: Image.Image,
    size: Size,
    resize: Resize,
    position: tuple[float, float],
    resample: Image.Resampling,
) -> Image.Image:
    """Crop and scale in one resample."""
    (height, width), (full_width, full_height) = size, image.size
    box_width, box_height = float(full_width), float(full_height)
    if resize == "crop":
        scale = min(full_width / width, full_height / height)
        box_width, box_height = width * scale, height * scale
    left, top = position[0] * _left_out(full_width, box_width), position[1] * _left_out(full_height, box_height)
    box = (left, top, min(left + box_width, full_width), min(top + box_height, full_height))
    return image.resize((width, height), resample, box=box)


def _left_out(full: float, box: float) -> float:
    """Pixels; what rounding alone leaves out is none."""
    return full - box if full - box > 1e-6 else 0.0
