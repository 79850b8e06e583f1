"""A dataset that is asked for whole batches: the key of a batch says all that its pixels depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_finetune.data.augment import turned
from lightning_finetune.data.decode import CENTRE, ImageSource, Resize, Size, mask_pixels, rgb_pixels
from lightning_finetune.data.draws import Ints, Stream, uniforms
from lightning_finetune.data.transforms import Augmenter

Batch: TypeAlias = dict[str, Tensor]
Kind: TypeAlias = Literal["single", "multi", "mask"]


@dataclass(frozen=True)
class BatchKey:
    """All that a batch depends on; that epoch and size travel in it lets persistent workers follow them."""

    items: Ints
    epoch: int
    size: Size


class ImageDataset(Dataset[Batch]):
    """Images of one split.

    Args:
        images: One source for each item.
        targets: int64 ``[N]`` for one label an image, float32 ``[N, L]`` for several, mask files for masks.
        resize: How an image gets its size.
        seed: Of crops and augmentation.
        augment: Training augmentation; None for the other splits, which see the centre of each image.
    """

    def __init__(
        self,
        images: Sequence[ImageSource],
        targets: npt.NDArray[Any] | Sequence[Path],
        *,
        resize: Resize,
        seed: int,
        augment: Augmenter | None,
    ) -> None:
        self.images = images
        self.targets = targets
        self.resize: Resize = resize
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: BatchKey) -> Batch:
        """The batch of a key: uint8 images ``[B, 3, h, w]``, targets, indices and the plan of augmentation."""
        positions, codes = self._places(key)
        pixels = [
            turned(rgb_pixels(self.images[i], key.size, self.resize, at), code)
            for i, at, code in zip(key.items, positions, codes, strict=True)
        ]
        batch = {"image": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)}
        if isinstance(self.targets, np.ndarray):
            batch["label"] = torch.from_numpy(self.targets[key.items])
        else:
            masks = [
                turned(mask_pixels(self.targets[i], key.size, self.resize, at), code)
                for i, at, code in zip(key.items, positions, codes, strict=True)
            ]
            batch["mask"] = torch.from_numpy(np.stack(masks))
        batch["index"] = torch.from_numpy(key.items)
        if self.augment is not None:
            batch["plan"] = self.augment.plan(self.seed, key.epoch, key.items, key.size)
        return batch

    def _places(self, key: BatchKey) -> tuple[list[tuple[float, float]], list[int]]:
        """Where each image is cropped, and how it is flipped."""
        if self.augment is None:
            return [CENTRE] * len(key.items), [0] * len(key.items)
        corners = uniforms(self.seed, key.epoch, key.items, 2, Stream.CROP)
        codes = self.augment.symmetries(self.seed, key.epoch, key.items, key.size[0] == key.size[1])
        return [(float(x), float(y)) for x, y in corners], codes.tolist()
