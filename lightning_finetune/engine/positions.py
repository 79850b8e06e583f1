"""Boxes, keypoints and other positions in images: which tensors hold them, and where they are in a resized image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_finetune.engine.resize import Size
from lightning_finetune.errors import PhaseError

_BOXES = re.compile(r"(^|_)(b?box|bndbox)(es)?(_|$)")
_POINTS = re.compile(r"(^|_)(key_?points?|kpts?|landmarks?)(_|$)")
_OTHERS = re.compile(
    r"(^|_)(points?|polygons?|polylines?|lines?|contours?|corners?|coords?|coordinates?|centers?|centres?|quads?|obb|"
    r"rboxes|rois?|proposals|segments|segmentations?)(_|$)"
)

are_distances = re.compile(r"(^|_)(flows?|disparity|disparities|displacements?)(_|$)").search
"""Whether a key says that its values, though they lie in the image as a mask does, are pixels of its old size."""


def in_pixels(named: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    """Whether boxes and keypoints are in pixels, else they are parts of the image, from 0 to 1; ``[]``, by their keys.

    It stays on their device, for which nobody waits.

    Args:
        named: Keys and values of a batch.
    """
    found: dict[str, Tensor] = {}
    for name, value in named:
        if isinstance(value, Tensor) and value.numel() and _per_position(name, value):
            xy = value if _BOXES.search(name) else value[..., :2]
            own = (xy > 1).any() if value.is_floating_point() else torch.ones_like(xy, dtype=torch.bool).any()
            found[name] = found[name] | own if name in found else own
    return found


def unknown(name: str, value: Tensor) -> PhaseError:
    """What is said of positions of a kind that is not known."""
    return PhaseError(
        f"Expected targets that can be resized with their images: boxes [N, 4] and keypoints [N, K, 2 or 3] in pixels "
        f"under their usual keys or as torchvision.tv_tensors, masks, labels. Got {name!r}, a tensor "
        f"{list(value.shape)}. Give its values in one of these forms, or leave out `size` and `sizes`."
    )


def scaled(name: str, value: Tensor, old: Size, new: Size, pixels: Mapping[str, Tensor]) -> Tensor:
    """Positions in an image of size ``old`` as they are at size ``new``; any other tensor as it is.

    Args:
        name: Key of the tensor in its batch.
        value: Boxes ``[..., 4]`` (two corners, or a point and a width and height), keypoints ``[..., 2 or 3]``, areas,
            or anything else.
        old: Height and width in pixels.
        new: Height and width in pixels.
        pixels: Of :func:`in_pixels`.

    Raises:
        PhaseError: Boxes or keypoints of another shape.
    """
    if _is_tv(value):
        return _scaled_tv(value, old, new)
    y, x = new[0] / old[0], new[1] / old[1]
    if name == "area":
        return _as(value, value.double() * (x * y))
    axes = _per_position(name, value)
    if axes is not None:
        columns = zip(value.double().unbind(-1), axes, strict=True)
        moved = torch.stack([column * {"x": x, "y": y}.get(axis, 1.0) for column, axis in columns], -1)
        return torch.where(pixels[name], _as(value, moved), value) if name in pixels else value
    if value.ndim and any(kind.search(name) for kind in (_BOXES, _POINTS, _OTHERS)):
        raise unknown(name, value)
    if not name and _looks_like_boxes(value, old):
        raise unknown("boxes without a key", value)
    return value


def like(given: Tensor, made: Tensor) -> Tensor:
    """``made`` of the type of ``given``, if that is one of torchvision's tensors."""
    if not _is_tv(given):
        return made
    from torchvision import tv_tensors

    wrapped: Tensor = tv_tensors.wrap(made, like=given)
    return wrapped


def _per_position(name: str, value: Tensor) -> str | None:
    """Along which axis each number of a position lies: ``"xyxy"``; None where the tensor holds none that are known."""
    last = value.shape[-1] if value.ndim else 0
    if _BOXES.search(name):
        return {4: "xyxy", 8: "xyxyxyxy"}.get(last)
    if _POINTS.search(name):
        return {2: "xy", 3: "xyv"}.get(last)
    return None


def _as(value: Tensor, made: Tensor) -> Tensor:
    """``made`` as numbers of the type of ``value``."""
    return made.to(value.dtype) if value.is_floating_point() else made.round().to(value.dtype)


def _looks_like_boxes(value: Tensor, size: Size) -> bool:
    """Four numbers each, some beyond 1 and all within the image, two corners in order; asks the device, and waits."""
    if not value.is_floating_point() or value.ndim < 2 or value.shape[-1] != 4 or not value.numel():
        return False
    limits = value.new_tensor([size[1], size[0], size[1], size[0]])
    inside = bool(((value >= 0) & (value <= limits)).all())
    return inside and bool((value > 1).any()) and bool((value[..., 2:] >= value[..., :2]).all())


def _is_tv(value: Tensor) -> bool:
    return type(value).__module__.startswith("torchvision.tv_tensors")


def _scaled_tv(value: Tensor, old: Size, new: Size) -> Tensor:
    """Torchvision's own way, which knows each of its formats."""
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    if not isinstance(value, (tv_tensors.BoundingBoxes, getattr(tv_tensors, "KeyPoints", tv_tensors.BoundingBoxes))):
        return value
    placed = tv_tensors.wrap(value.as_subclass(Tensor), like=value, canvas_size=old)  # they may not say it rightly
    resized: Tensor = functional.resize(placed, list(new))
    return resized
