"""From rows of a stream to a batch: what a loader of any library calls in its workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lightning_finetune.data.batches.dataset import Batch, BatchKey, Place, places, plans
from lightning_finetune.data.block.rows import pair_of
from lightning_finetune.data.pixels.augment import turned
from lightning_finetune.data.pixels.decode import Pixels, Resize, Size, decoded_image, image_pixels, mask_pixels
from lightning_finetune.data.pixels.mix import Mixer
from lightning_finetune.data.pixels.transforms import Augmenter


@dataclass
class StreamBatch:
    """Makes the batch of rows (image, target), as :class:`~lightning_finetune.data.batches.dataset.ImageDataset` does.

    A row of a stream has no position, from which its crop and augmentation could be drawn: they are drawn from its
    pixels, so that workers, processes and restarts change nothing.

    Args:
        kind: Of the targets: ``"single"``, ``"multi"``, ``"number"`` or ``"mask"``.
        resize: How an image gets its size.
        seed: Of crops and augmentation.
        augment: Of training images; None for others.
        mix: Of training images.
        channels: Of an image.
        white: The value that is white in images of more than 8 bits.
        size: Height and width.
        epoch: Whose draws.
    """

    kind: str
    resize: Resize
    seed: int
    augment: Augmenter | None
    mix: Mixer | None
    channels: int
    white: float | None
    size: Size = (0, 0)
    epoch: int = 0

    def __call__(self, rows: Sequence[Any]) -> Batch:
        """uint8 images ``[B, channels, h, w]``, targets and the plan of augmentation."""
        pairs = [pair_of(row) for row in rows]
        decoded = [decoded_image(image, self.size, self.channels, self.white) for image, _ in pairs]
        key = BatchKey(np.array([crc32(image[::4, ::4].tobytes()) for image in decoded]), self.epoch, self.size)
        placed = places(self.augment, self.seed, key)
        pixels = [self._seen(image, place) for image, place in zip(decoded, placed, strict=True)]
        batch = {"image": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)}
        batch |= self._targets([target for _, target in pairs], placed)
        return batch | plans(self.augment, self.mix, self.seed, key)

    def _seen(self, image: Pixels, place: Place) -> Pixels:
        return turned(image_pixels(image, self.size, self.resize, place.crop, self.channels), place.symmetry)

    def _targets(self, targets: Sequence[Any], placed: Sequence[Place]) -> dict[str, Tensor]:
        """Under the key of their kind."""
        if self.kind != "mask":
            dtype = torch.int64 if self.kind == "single" else torch.float32
            values = torch.from_numpy(np.stack([np.asarray(target) for target in targets])).to(dtype)
            return {"label": values}
        masks = zip(targets, placed, strict=True)
        seen = [turned(mask_pixels(mask, self.size, self.resize, place.crop), place.symmetry) for mask, place in masks]
        return {"mask": torch.from_numpy(np.stack(seen))}
