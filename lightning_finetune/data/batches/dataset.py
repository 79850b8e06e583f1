"""A dataset that is asked for whole batches: the key of a batch says all that its pixels depend on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_finetune.data.block.labels import MultiHot
from lightning_finetune.data.block.rows import Pictures
from lightning_finetune.data.pixels.augment import turned
from lightning_finetune.data.pixels.decode import (
    CENTRE,
    ImageSource,
    Pixels,
    Resize,
    Size,
    can_move,
    decoded_image,
    decoded_mask,
    image_pixels,
    mask_pixels,
)
from lightning_finetune.data.pixels.draws import Ints, Stream, uniforms
from lightning_finetune.data.pixels.image_files import unreadable
from lightning_finetune.data.pixels.mask_values import MaskSource
from lightning_finetune.data.pixels.memory import SharedArrays
from lightning_finetune.data.pixels.mix import Mixer
from lightning_finetune.data.pixels.transforms import Augmenter

Batch: TypeAlias = dict[str, Tensor]

_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class BatchKey:
    """All that a batch depends on; that epoch and size travel in it lets persistent workers follow them."""

    items: Ints
    epoch: int
    size: Size


class Place(NamedTuple):
    """What part of an image is seen, and under which symmetry."""

    crop: tuple[float, float]
    symmetry: int


@dataclass
class Reader:
    """Reads the images of a split, or its masks; where ``kept`` is given, each is decoded once for a size.

    Kept is what the model sees, where that is the same in every epoch, else the whole decoded image: the pixels are
    the same as without.

    Args:
        sources: Of all splits.
        rows: Of this split, positions in ``sources``, ``[N]``.
        decode: A source and a size to all pixels that are needed for it.
        fit: A source or such pixels, a size, the way to get to it and a position of the crop to the pixels seen.
        resize: That way.
        moves: Whether the position differs from epoch to epoch.
        kept: Memory for N arrays.
    """

    sources: Sequence[Any]
    rows: Ints
    decode: Callable[[Any, Size], Pixels]
    fit: Callable[[Any, Size, Resize, tuple[float, float]], Pixels]
    resize: Resize
    moves: bool
    kept: SharedArrays | None = None

    def pixels(self, item: int, size: Size, position: tuple[float, float]) -> Pixels:
        """What is seen of an item, ``[h, w, channels]`` or ``[h, w]``."""
        image = _NOTHING if self.kept is None else self.kept.read(item, size)
        if image is None:
            image = self._keep(item, size)
        if not image.size:
            return self.fit(self.sources[self.rows[item]], size, self.resize, position)
        return image if image.shape[:2] == size else self.fit(image, size, self.resize, position)

    def gone(self) -> list[str]:
        """What is wrong with sources that are files, and there no more, a sentence each."""
        files = (source for row in self.rows.tolist() if isinstance(source := self.sources[row], (str, Path)))
        return [str(unreadable(file, FileNotFoundError())) for file in files if not Path(file).exists()]

    def _keep(self, item: int, size: Size) -> Pixels:
        image = self._lasting(self.sources[self.rows[item]], size)
        if self.kept is not None:
            self.kept.write(item, size, image)
        # An array of more bits has lost the mode of its file, by which it would be resized.
        return image if image.dtype == np.uint8 or image.shape[:2] == size else _NOTHING

    def _lasting(self, source: Any, size: Size) -> Pixels:
        """Pixels that serve every epoch."""
        if not self.moves:
            return self.fit(source, size, self.resize, CENTRE)
        full = self.decode(source, size)
        if full.shape[:2] == size or can_move(full.shape, size, self.resize):
            return full
        return self.fit(full, size, self.resize, CENTRE)


class ImageDataset(Dataset[Batch]):
    """Images of one split.

    Args:
        images: Sources of the images of all splits.
        targets: int64 ``[M]`` for one label per image, 0/1 rows ``[M, L]`` for several, float32 ``[M, K]`` for
            numbers, mask files for masks.
        rows: The images of this split, positions in the former two, ``[N]``.
        resize: How an image gets its size.
        seed: Of crops and augmentation.
        augment: Training augmentation; None for the other splits, which see the centre of each image.
        mix: Mixing of training images.
        channels: Of an image.
        ids: From the values of masks to class ids, where they differ.
        white: The value that is white in images of more than 8 bits, where their type does not say it.
    """

    def __init__(
        self,
        images: Sequence[ImageSource],
        targets: npt.NDArray[Any] | MultiHot | Sequence[MaskSource],
        rows: Ints,
        *,
        resize: Resize,
        seed: int,
        augment: Augmenter | None,
        mix: Mixer | None,
        channels: int = 3,
        ids: npt.NDArray[Any] | None = None,
        white: float | None = None,
    ) -> None:
        self.images = images
        self.targets = targets
        self.rows = rows
        self.seed = seed
        self.augment = augment
        self.mix = mix
        self.channels = channels
        self.ids = ids
        moves = augment is not None and augment.is_random
        decode, fit = (partial(function, channels=channels, white=white) for function in (decoded_image, image_pixels))
        self._readers = {"image": Reader(images, rows, decode, fit, resize, moves)}
        if not isinstance(targets, (np.ndarray, MultiHot)):
            self._readers["mask"] = Reader(targets, rows, decoded_mask, mask_pixels, resize, moves)

    def unmixed(self) -> ImageDataset:
        """The same images, each alone."""
        other = copy.copy(self)
        other.mix = None
        return other

    def keep_decoded(self, nbytes: int) -> None:
        """From now on decode each file once for a size, where all fit into memory that worker processes share.

        Images of somebody's dataset are not kept, as they may be others in each epoch.

        Args:
            nbytes: Of that memory, for images and masks together.
        """
        if isinstance(self.images, Pictures):
            return
        planes = self.channels + ("mask" in self._readers)
        with suppress(OSError):
            for name, reader in self._readers.items():
                kept = SharedArrays(len(self), nbytes * (self.channels if name == "image" else 1) // planes)
                reader.kept = kept if kept.part else None

    def forget_decoded(self) -> None:
        """Give that memory back; from now on every file is decoded each time."""
        for reader in self._readers.values():
            reader.kept = None

    def gone(self) -> list[str]:
        """What is wrong with those files of images and masks that are there no more, a sentence each."""
        if isinstance(self.images, Pictures):  # to ask for one may be to make it
            return []
        return [text for reader in self._readers.values() for text in reader.gone()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: BatchKey) -> Batch:
        """The batch of a key: uint8 images ``[B, 3, h, w]``, targets, indices and the plan of augmentation."""
        rows = self.rows[key.items]
        batch = self._seen(key)
        if isinstance(self.targets, (np.ndarray, MultiHot)):
            batch["label"] = torch.from_numpy(self.targets[rows])
        batch["index"] = torch.from_numpy(key.items)
        return batch

    def _seen(self, key: BatchKey) -> Batch:
        """Images and masks, and what is to be done to them on the device."""
        batch = {name: self._read(reader, key) for name, reader in self._readers.items()}
        batch["image"] = batch["image"].permute(0, 3, 1, 2)
        if self.ids is not None:
            values = batch["mask"].numpy()
            batch["mask"] = torch.from_numpy(np.where(values < 0, values, self.ids[values]))
        return batch | plans(self.augment, self.mix, self.seed, key)

    def _read(self, reader: Reader, key: BatchKey) -> Tensor:
        """Images ``[B, h, w, channels]`` or masks ``[B, h, w]``."""
        placed = zip(key.items.tolist(), places(self.augment, self.seed, key), strict=True)
        seen = [turned(reader.pixels(item, key.size, place.crop), place.symmetry) for item, place in placed]
        return torch.from_numpy(np.stack(seen))


def places(augment: Augmenter | None, seed: int, key: BatchKey) -> list[Place]:
    """Where each image of a batch is cropped, and how it is flipped."""
    if augment is None or not augment.is_random:
        return [Place(CENTRE, 0)] * len(key.items)
    corners = uniforms(seed, key.epoch, key.items, 2, Stream.CROP).tolist()
    codes = augment.symmetries(seed, key.epoch, key.items, key.size[0] == key.size[1]).tolist()
    return [Place((x, y), code) for (x, y), code in zip(corners, codes, strict=True)]


def plans(augment: Augmenter | None, mix: Mixer | None, seed: int, key: BatchKey) -> Batch:
    """What is to be done to the images of a batch on the device."""
    found: Batch = {}
    if augment is not None:
        found["plan"] = augment.plan(seed, key.epoch, key.items, key.size)
    if mix is not None:
        found["mix"] = mix.plan(seed, key.epoch, key.items)
    return found
