"""Test-time augmentation: the mean over ways to turn an image, with masks turned back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_finetune.tasks.shared.arguments import choose

TTA: TypeAlias = Literal["none", "flip", "dihedral"]

# Quarter turns, and whether a flip from left to right comes first.
_WAYS: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flip": ((0, False), (0, True)),
    "dihedral": tuple((turns, flipped) for flipped in (False, True) for turns in range(4)),
}


def mean_over_symmetries(probabilities: Callable[[Tensor], Tensor], images: Tensor, tta: TTA) -> Tensor:
    """Mean probabilities of ``images`` ``[B, C, H, W]`` over their symmetries.

    Unlike random augmentation it gives the same numbers each time, and can be undone exactly.

    Args:
        probabilities: Images to probabilities ``[B, C]`` or, for masks, ``[B, C, H, W]``.
        images: Normalised.
        tta: ``"none"``; ``"flip"``: the image and its mirror image; ``"dihedral"``: all eight ways to turn and flip it,
            for images without an up, such as those of satellites.
    """
    first, *others = _WAYS[choose("tta", tta, get_args(TTA))]
    total = _undo(probabilities(_do(images, *first)), *first)
    for way in others:  # one in memory at a time: of large images each would be much
        total = total + _undo(probabilities(_do(images, *way)), *way)
    return total / (1 + len(others))


def _do(images: Tensor, turns: int, flipped: bool) -> Tensor:
    return torch.rot90(images.flip(-1) if flipped else images, turns, (-2, -1))


def _undo(mask: Tensor, turns: int, flipped: bool) -> Tensor:
    if mask.ndim < 4:
        return mask
    upright = torch.rot90(mask, -turns, (-2, -1))
    return upright.flip(-1) if flipped else upright
