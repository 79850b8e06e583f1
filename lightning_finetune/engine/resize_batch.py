"""Images of a batch at another size, and all that lies in them: masks, boxes, keypoints; whatever the batch's form."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_finetune.engine import positions
from lightning_finetune.engine.nested import map_nested, placed_leaves
from lightning_finetune.engine.resize import Size
from lightning_finetune.errors import PhaseError

_IMAGES = ("image", "images", "img", "pixel_values")


@dataclass(frozen=True)
class Leaf:
    """A value of a batch.

    Attributes:
        name: Its last key; empty where it has none.
        index: Its place in the innermost list around it, which may be that of its image; None where there is none.
        value: Any.
    """

    name: str
    index: int | None
    value: Any


def resize_batch(batch: Any, size: Size) -> Any:
    """The batch with its images at ``size``, and what lies in them where it belongs; its form, and all else, as it was.

    Images are the floating or uint8 tensors ``[B, C, H, W]`` with the most channels (of several with one channel, the
    first), or a list of ``[C, H, W]``: bilinear with antialiasing. Tensors of the height and width of their image are
    masks: nearest, so that ids stay exactly what they were, also where they are floating. Boxes and keypoints in pixels
    are known as ``torchvision.tv_tensors`` or by their usual keys; those that are parts of the image stay.

    Args:
        batch: Tensors in lists, tuples, named tuples and dicts, nested.
        size: Height and width in pixels.

    Raises:
        PhaseError: No image in the batch, or positions in it of a kind that is not known.
    """
    if isinstance(batch, UserDict):  # as transformers' collators give
        resized = copy.copy(batch)
        resized.data = resize_batch(dict(batch), size)
        return resized
    leaves = [Leaf(*placed) for placed in placed_leaves(batch)]
    images = _images(leaves)
    if not images:
        raise PhaseError("Expected images [B, C, H, W] in the batch to resize, got none.")
    sizes = _sizes(leaves, images)
    in_pixels = positions.in_pixels([(leaf.name, leaf.value) for leaf in leaves])
    values = iter(
        _smooth(leaf.value, size) if place in images else _moved(leaf, sizes, size, in_pixels)
        for place, leaf in enumerate(leaves)
    )
    return map_nested(lambda _: next(values), batch)


def _images(leaves: list[Leaf]) -> set[int]:
    """Which of the leaves are images."""
    channels_at = {place: leaf.value.shape[1] for place, leaf in enumerate(leaves) if _is_image(leaf.value, 4)}
    if not channels_at:
        return _listed_images(leaves)
    most = max(channels_at.values())
    places = [place for place, channels in channels_at.items() if channels == most]
    return set(places if most > 1 else places[:1])


def _listed_images(leaves: list[Leaf]) -> set[int]:
    """Images of a list: under their usual key, else the first tensors that have none."""
    listed = [place for place, leaf in enumerate(leaves) if leaf.index is not None and _is_image(leaf.value, 3)]
    named = [place for place in listed if leaves[place].name in _IMAGES]
    bare = [place for place in listed if not leaves[place].name]
    first = bare[: next((n for n, place in enumerate(bare) if n and leaves[place].index == 0), len(bare))]
    return set(named or first)


def _is_image(value: Any, ndim: int) -> bool:
    if not isinstance(value, Tensor) or value.ndim != ndim:
        return False
    return value.is_floating_point() or value.dtype == torch.uint8


def _sizes(leaves: list[Leaf], images: set[int]) -> list[Size]:
    """Height and width of the images: of each in a list, else of those that are stacked."""
    chosen = [leaves[place] for place in sorted(images)]
    return [(int(leaf.value.shape[-2]), int(leaf.value.shape[-1])) for leaf in chosen]


def _moved(leaf: Leaf, sizes: list[Size], size: Size, in_pixels: Mapping[str, Tensor]) -> Any:
    """A value that is no image."""
    value = leaf.value
    if not isinstance(value, Tensor):
        return value
    own = sizes[leaf.index] if leaf.index is not None and leaf.index < len(sizes) else sizes[0]
    if positions.are_distances(leaf.name):
        raise positions.unknown(leaf.name, value)
    if value.ndim in (3, 4) and tuple(value.shape[-2:]) in {own, *sizes}:
        return value if tuple(value.shape[-2:]) == size else _nearest(value, size)
    return positions.scaled(leaf.name, value, own, size, in_pixels)


def _smooth(image: Tensor, size: Size) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    batch = (image if image.ndim == 4 else image[None]).float()
    resized = interpolate(batch, size, mode="bilinear", antialias=True)
    resized = resized.round().clamp(0, 255) if image.dtype == torch.uint8 else resized
    return positions.like(image, (resized if image.ndim == 4 else resized[0]).to(image.dtype))


def _nearest(mask: Tensor, size: Size) -> Tensor:
    planes = mask if mask.ndim == 4 else mask[:, None]
    if not len(mask):
        return positions.like(mask, mask.new_zeros((*mask.shape[:-2], *size)))
    resized = interpolate(planes.double(), size, mode="nearest-exact").to(mask.dtype)  # doubles hold every id
    return positions.like(mask, resized if mask.ndim == 4 else resized[:, 0])
