"""What every data module of this package does to its images: their sizes, and a batch on its device."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule

from lightning_finetune.data.batches.dataset import Batch
from lightning_finetune.data.batches.loader import LendingLoader
from lightning_finetune.data.block.options import IMAGENET, Stats
from lightning_finetune.data.pixels.decode import Resize, Size
from lightning_finetune.data.pixels.mix import Mix, mix_labels, mixer
from lightning_finetune.data.pixels.transforms import Augmentation, augmenter
from lightning_finetune.engine.processes import readers
from lightning_finetune.errors import DataError


class PixelModule(LightningDataModule):
    """A data module whose batches come from the workers as bytes and are augmented and normalised on the device.

    Args:
        kind: Of the labels: ``"single"``, ``"multi"``, ``"number"`` or ``"mask"``.
        size: Height and width in pixels of validation, and of training until it is told otherwise; one number for both.
        batch_size: Images a batch and process; None: 64.
        num_workers: Processes that load images; by default as many as there are CPU cores for this process, at most 8.
        augment: Of training images.
        mix: Of training images and their labels.
        resize: How an image gets its size.
        seed: Of the order, crops and augmentation.
        stats: Mean and standard deviation of the channels, 0 to 1.
        channels: Of an image.
        white: The value that is white in images of more than 8 bits.
        cache_images: Keep decoded images, where they can be found again.

    Raises:
        DataError: An argument is out of its range.
    """

    classes: list[str]

    def __init__(
        self,
        kind: str,
        *,
        size: int | Size = 224,
        batch_size: int | None = None,
        num_workers: int | None = None,
        augment: Augmentation = "photo",
        mix: Mix | None = None,
        resize: Resize = "crop",
        seed: int = 42,
        stats: Stats | None = None,
        channels: int = 3,
        white: float | None = None,
        cache_images: bool = True,
    ) -> None:
        super().__init__()
        if mix is not None and kind == "mask":
            raise DataError("mix: expected images with labels, got masks, which cannot be mixed. Leave mix out.")
        batch_size = 64 if batch_size is None else batch_size
        if batch_size < 1:
            raise DataError(f"batch_size: expected at least 1, got {batch_size}.")
        if channels < 1 or (stats is not None and len(stats[0]) != channels):
            raise DataError(f"channels: expected at least 1, and `stats` for each, got {channels} and stats={stats}.")
        if white is not None and not 0 < white < float("inf"):
            raise DataError(f"white: expected a number above 0, got {white}.")
        self.kind = kind
        self.size = _two(size)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augment = augmenter(augment)
        self.mix = mixer(mix) if mix is not None else None
        self.resize: Resize = resize
        self.stats = stats
        self.channels = channels
        self._given_white = white
        self.cache_images = cache_images
        self._train_size = self.size
        self._loaders: list[weakref.ref[LendingLoader]] = []  # weak: what Lightning drops ends its workers

    @property
    def num_classes(self) -> int:
        """How many classes, or labels, there are."""
        return len(self.classes)

    @property
    def train_size(self) -> Size:
        """Height and width of training images; a new value holds from the next epoch's first batch."""
        return self._train_size

    @train_size.setter
    def train_size(self, size: int | Size) -> None:
        self._train_size = _two(size)

    @property
    def white(self) -> float | None:
        """The value that is white in images of more than 8 bits, where their type does not say it."""
        return self._given_white

    def preprocessing(self) -> dict[str, Any]:
        """All that inference must know to treat an image as validation does, in plain types."""
        mean, std = self.normalization
        return {
            "size": list(self.size),
            "mean": list(mean),
            "std": list(std),
            "classes": list(self.classes),
            "resize": self.resize,
            "channels": self.channels,
            "white": self.white,
        }

    @property
    def normalization(self) -> Stats:
        """Mean and standard deviation that images are normalised with."""
        if self.stats is not None:
            return self.stats
        module = self.trainer.lightning_module if self.trainer is not None else None
        return getattr(module, "normalization", None) or _default_stats(self.channels)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: augment what carries a plan, normalise all."""
        batch = self.augmented(batch)
        mean, std = (_spread(batch["image"], numbers) for numbers in self.normalization)
        normalised = batch["image"].sub_(mean).div_(std)
        batch["image"] = normalised.contiguous(memory_format=torch.channels_last)
        if self.trainer is not None:
            batch = self.trainer.precision_plugin.convert_input(batch)
        return batch

    def augmented(self, batch: Batch) -> Batch:
        """A batch of the loader with images as float32 in 0..1, augmented and mixed as its plans say."""
        batch = dict(batch)
        plan, mix, masks = batch.pop("plan", None), batch.pop("mix", None), batch.get("mask")
        if plan is None:
            pixels = batch["image"].float().div_(255)
        else:
            pixels, masks = self.augment(batch["image"], masks, plan)
        if mix is not None and self.mix is not None:
            pixels, partners, own = self.mix(pixels, mix)
            batch["label"] = mix_labels(batch["label"], partners, own, self.num_classes)
        if masks is not None:
            batch["mask"] = masks.long()
        batch["image"] = pixels
        return batch

    def teardown(self, stage: str) -> None:
        """End worker processes, and give back the memory of decoded images."""
        for reference in self._loaders:
            if (loader := reference()) is not None:
                loader.close()
        self._loaders.clear()

    def on_exception(self, exception: BaseException) -> None:
        """End worker processes also where a run is interrupted."""
        self.teardown("")

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        processes = self.trainer.num_devices if self.trainer is not None else 1
        return readers(processes)

    def _pins(self) -> bool:
        """Whether batches go to a GPU, and are pinned for it."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"


def _spread(images: torch.Tensor, numbers: Sequence[float]) -> torch.Tensor:
    """One image of a number for each channel: to take it from a batch, channels last, is a third of the work."""
    image = torch.empty_like(images[:1], memory_format=torch.channels_last)
    for channel, number in enumerate(numbers):
        image[:, channel].fill_(number)  # made there: a copy from here would wait for the device
    return image


def _default_stats(channels: int) -> Stats:
    """ImageNet's, or of other channels than RGB their mean for each."""
    if channels == 3:
        return IMAGENET
    mean, std = (sum(numbers) / 3 for numbers in IMAGENET)
    return (mean,) * channels, (std,) * channels


def _two(size: int | Size) -> Size:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(height, width) < 1:
        raise DataError(f"size: expected a height and a width of at least 1 pixel, got {size}.")
    return int(height), int(width)
