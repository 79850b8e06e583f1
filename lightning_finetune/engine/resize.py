"""Images and masks of a batch at another size, whatever the form of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_finetune.engine.nested import leaves, map_nested
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
    things = leaves(batch)
    images = _images(things)
    if not images:
        raise PhaseError("Expected images [B, C, H, W] in the batch to resize, got none.")
    shapes = {tuple(things[place].shape[-2:]) for place in images} - {size}
    resized = iter(
        thing if not _has_shape(thing, shapes) else _smooth(thing, size) if place in images else _nearest(thing, size)
        for place, thing in enumerate(things)
    )
    return map_nested(lambda _: next(resized), batch)


def _images(things: list[Any]) -> set[int]:
    """Which of them are images."""
    found = {
        place: thing.shape[1]
        for place, thing in enumerate(things)
        if isinstance(thing, Tensor) and thing.ndim == 4 and (thing.is_floating_point() or thing.dtype == torch.uint8)
    }
    most = max(found.values(), default=0)
    places = [place for place, channels in found.items() if channels == most]
    return set(places if most > 1 else places[:1])


def _has_shape(thing: Any, shapes: set[tuple[int, ...]]) -> bool:
    return isinstance(thing, Tensor) and thing.ndim in (3, 4) and tuple(thing.shape[-2:]) in shapes


def _smooth(image: Tensor, size: Size) -> Tensor:
    resized = interpolate(image.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(image.dtype) if image.dtype == torch.uint8 else resized.to(image.dtype)


def _nearest(mask: Tensor, size: Size) -> Tensor:
    planes = mask if mask.ndim == 4 else mask[:, None]
    resized = interpolate(planes.double(), size, mode="nearest-exact").to(mask.dtype)  # doubles hold every id
    return resized if mask.ndim == 4 else resized[:, 0]
