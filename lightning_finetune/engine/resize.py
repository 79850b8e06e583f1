"""Images and masks of a batch at another size, whatever the form of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_finetune.errors import PhaseError

Size = tuple[int, int]

MIN_SIZE = 64
STRIDE = 32


def snap(size: Size, stride: int = STRIDE) -> Size:
    """The nearest size with both sides multiples of ``stride``, at least one.

    Args:
        size: Height and width in pixels.
        stride: By which the model shrinks an image in all.
    """
    height, width = (max(stride, stride * round(side / stride)) for side in size)
    return height, width


def target_size(size: int | Size, final: Size | None, stride: int = STRIDE) -> Size:
    """The training size that ``size`` means.

    Args:
        size: The shorter side, or height and width.
        final: The size that the data validate at, which gives the shape; it is never snapped itself. None: square.
        stride: By which the model shrinks an image in all.
    """
    if final is not None and (size == final or size == min(final)):
        return final
    if isinstance(size, int):
        scale = 1.0 if final is None else size / min(final)
        size = (size, size) if final is None else (round(final[0] * scale), round(final[1] * scale))
    return snap(size, stride)


def check_min_size(size: int | Size, min_size: int) -> None:
    """Refuse images so small that a network pretrained on photos sees little in them.

    Raises:
        PhaseError: A side is shorter than ``min_size``.
    """
    shortest = size if isinstance(size, int) else min(size)
    if shortest < min_size:
        raise PhaseError(
            f"Expected training images of at least {min_size} pixels, got {size}: the lessons' rule is not to go below "
            f"64 x 64. If smaller ones are meant, lower `min_size`."
        )


def resize_batch(batch: Any, size: Size) -> Any:
    """The batch with its images and masks at ``size``; everything else in it, and its form, as it was.

    Images are the floating or uint8 tensors ``[B, C, H, W]`` with the most channels (of several with one channel, the
    first): bilinear with antialiasing. All other tensors of their height and width are masks: nearest, so that ids stay
    exactly what they were, also where they are floating.

    Args:
        batch: Tensors in lists, tuples, named tuples and dicts, nested.
        size: Height and width in pixels.

    Raises:
        PhaseError: No image in the batch.
    """
    leaves, form = tree_flatten(batch)
    images = _images(leaves)
    if not images:
        raise PhaseError("Expected images [B, C, H, W] in the batch to resize, got none.")
    shapes = {tuple(leaves[place].shape[-2:]) for place in images} - {size}
    resized = [
        leaf if not _has_shape(leaf, shapes) else _smooth(leaf, size) if place in images else _nearest(leaf, size)
        for place, leaf in enumerate(leaves)
    ]
    return tree_unflatten(resized, form)


def _images(leaves: list[Any]) -> set[int]:
    """Which of the leaves are images."""
    found = {
        place: leaf.shape[1]
        for place, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.ndim == 4 and (leaf.is_floating_point() or leaf.dtype == torch.uint8)
    }
    most = max(found.values(), default=0)
    places = [place for place, channels in found.items() if channels == most]
    return set(places if most > 1 else places[:1])


def _has_shape(leaf: Any, shapes: set[tuple[int, ...]]) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim in (3, 4) and tuple(leaf.shape[-2:]) in shapes


def _smooth(leaf: Tensor, size: Size) -> Tensor:
    resized = interpolate(leaf.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(leaf.dtype) if leaf.dtype == torch.uint8 else resized.to(leaf.dtype)


def _nearest(leaf: Tensor, size: Size) -> Tensor:
    planes = leaf if leaf.ndim == 4 else leaf[:, None]
    resized = interpolate(planes.double(), size, mode="nearest-exact").to(leaf.dtype)  # doubles hold every id
    return resized if leaf.ndim == 4 else resized[:, 0]
