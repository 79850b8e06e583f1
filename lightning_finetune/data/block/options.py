"""What every way to a data module accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from typing_extensions import TypedDict

from lightning_finetune.data.pixels.decode import Resize
from lightning_finetune.data.pixels.mix import Mix
from lightning_finetune.data.pixels.transforms import Augmentation

Stats: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, for images in 0..1."""

IMAGENET: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Options(TypedDict, total=False):
    """Arguments of :class:`~lightning_finetune.data.image_data.ImageData` besides its items, explained there."""

    size: int | tuple[int, int]
    batch_size: int | None
    num_workers: int | None
    augment: Augmentation
    mix: Mix | None
    resize: Resize
    seed: int
    stats: Stats | None
    channels: int
    white: float | None
    cache_images: bool
