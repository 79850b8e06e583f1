"""The data module: splits to loaders, and batches to what the model sees."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from lightning import LightningModule
from typing_extensions import Unpack

from lightning_finetune.data.batches.dataset import BatchKey, ImageDataset
from lightning_finetune.data.batches.loader import ImageLoader
from lightning_finetune.data.batches.pixel_module import PixelModule
from lightning_finetune.data.batches.sampling import BatchSampler
from lightning_finetune.data.block.examined import Examined
from lightning_finetune.data.block.items import Items
from lightning_finetune.data.block.options import Options
from lightning_finetune.data.block.splits import Split
from lightning_finetune.data.block.summary import Summary
from lightning_finetune.data.pixels.decode import visible
from lightning_finetune.data.pixels.draws import permutation
from lightning_finetune.data.pixels.memory import free_bytes
from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed

log = logging.getLogger(__name__)

DECODED = 2**30
"""Bytes that the decoded images of a split take at most, in each process."""

STEPS = 12
"""Of an epoch, where the batch size is not given; with half as many, a task far from ImageNet makes more errors."""

_FEW = 5  # names of classes that are shown of many


class ImageDataModule(PixelModule):
    """Images, split and labelled, as a Lightning data module.

    A batch is a dict of ``image`` (float32 ``[B, channels, h, w]``, normalised, channels last), ``label`` (int64
    ``[B]``, or float32 ``[B, L]`` for several labels or numbers) or ``mask`` (int64 ``[B, h, w]``), and ``index``
    (int64 ``[B]``, positions in the split). Images are decoded at about the size needed and go to the device as bytes,
    where training images are augmented and all are normalised.

    Args:
        items: Images that are split and labelled; or use one of the ``from_...`` methods.
        size: Height and width in pixels of validation, and of training until it is told otherwise; one number for both.
        batch_size: Images a batch and process; None: 64, or of few training images a smaller power of two, down to 16,
            with which an epoch has twelve steps.
        num_workers: Processes that load images; by default as many as there are CPU cores for this process, at most 8.
        augment: A preset, an :class:`~lightning_finetune.data.pixels.augment.Augment`, or any function of uint8 images
            ``[1, 3, h, w]`` such as torchvision's v2 transforms, called for each image with its own random state.
        mix: Mix training images and their labels: ``"mixup"``, ``"cutmix"``, or one of their classes with a strength.
        resize: ``"crop"`` (training: anywhere, else the centre) or ``"squish"`` (all of the image, out of proportion).
        seed: Of the order, crops and augmentation.
        stats: Mean and standard deviation of the channels, 0 to 1; by default those of the model's backbone
            (its attribute ``normalization``), else of ImageNet; of other channels than RGB, ImageNet's mean over them.
        channels: 3 for RGB, 1 for grey, or as many as every image has (``.npy`` files, uint8 ``[h, w, channels]``).
        white: The value that is white in images of more than 8 bits, such as 4095 of 12 bits; by default that of their
            type (65535 of 16 bits), or what leaves no doubt.
        cache_images: Decode each file once for a size, where they fit into memory that the workers share; else it is
            read anew in each epoch.

    Raises:
        DataError: The items are not split or not labelled, or there are no training or validation images.
    """

    def __init__(self, items: Items, **options: Unpack[Options]) -> None:
        check_types(ImageDataModule.__init__, locals(), DataError)
        items = replace(items, table=None)  # which has done its part, and may be larger than all else
        splits, labels = items.complete()
        if options.get("batch_size") is None:
            options["batch_size"] = enough_steps(int((splits == Split.TRAIN).sum()))
        super().__init__(labels.kind, **options)
        self.items = items
        self.splits = splits
        self._labels = labels
        for split in (Split.TRAIN, Split.VALID):
            if not self._has(split):
                raise DataError(
                    f"Expected images in each split, got none for {split.name.lower()}. Name the folder or column that "
                    "splits them, or let valid_pct split them at random."
                )
        self._examined = Examined(items, self.channels, options.get("white"))
        self.targets = self._examined.targets
        self.classes = list(self._examined.classes)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{(self.splits == split).sum():,} {split.name.lower()}" for split in Split if self._has(split)
        )
        names = ", ".join(self.classes[:_FEW]) + (", …" if len(self.classes) > _FEW else "")
        noun = self._labels.nouns[self.num_classes != 1]
        height, width = self.size
        said = f"{counts} images, {self.num_classes} {noun} ({names}), {height} x {width} pixels, "
        return f"{type(self).__name__}: {said}batches of {self.batch_size}"

    __str__ = __repr__  # Lightning's lists the loaders' sizes, and makes them for it

    @property
    def white(self) -> float | None:
        """The value that is white in images of more than 8 bits; None where their type says it."""
        return self._examined.white

    def target_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the numbers of the training images, ``[K]`` each."""
        numbers = np.asarray(self.targets)[self.splits == Split.TRAIN].astype(np.float64)
        return numbers.mean(0).tolist(), numbers.std(0).tolist()

    def setup(self, stage: str) -> None:
        """Read every image that the stage needs, once.

        Raises:
            DataError: Some cannot be read; it names all of them.
        """
        if self.trainer is not None and self.trainer.lightning_module is not None:
            self.serve(self.trainer.lightning_module)
        wanted = (Split.TRAIN, Split.VALID) if stage == "fit" else (self._held_out(stage),)
        reports = Path(self.trainer.default_root_dir) if self.trainer is not None else Path()
        self._examined.read(wanted, threads=self._workers(), reports=reports)

    def serve(self, module: LightningModule) -> None:
        """Take from a task which id of masks it ignores, so that it is no wrong one; for who asks without a Trainer."""
        self._examined.ignores(module.hparams)

    def train_dataloader(self) -> ImageLoader:
        """Shuffled, augmented batches at ``train_size``."""
        return self._loader(Split.TRAIN)

    def val_dataloader(self) -> ImageLoader:
        """Each validation image once, at ``size``."""
        return self._loader(Split.VALID)

    def test_dataloader(self) -> ImageLoader:
        """Each test image once, at ``size``.

        Raises:
            DataError: There are no test images.
        """
        return self._loader(self._held_out("test"))

    def predict_dataloader(self) -> ImageLoader:
        """Each test image once, or each validation image where there are no test images."""
        return self._loader(self._held_out("predict"))

    def dataset(self, split: Split) -> ImageDataset:
        """Images and targets of one split."""
        return ImageDataset(
            self.items.images,
            self.targets,
            np.flatnonzero(self.splits == split),
            resize=self.resize,
            seed=self.seed,
            augment=self.augment if split == Split.TRAIN else None,
            mix=self.mix if split == Split.TRAIN else None,
            channels=self.channels,
            ids=self._examined.table,
            white=self.white,
        )

    def show_batch(self, count: int = 9, split: Literal["train", "valid", "test"] = "train", epoch: int = 0) -> Figure:
        """A figure of the first images of an epoch as the model sees them, before normalisation.

        Args:
            count: How many images.
            split: Which of them; only training images are augmented.
            epoch: Whose order and augmentation.
        """
        from lightning_finetune.show.figures.predictions import batch_figure  # only now, as it loads matplotlib

        train = split == "train"
        images = self.dataset(Split[split.upper()])
        size = self._train_size if train else self.size
        order = permutation(self.seed, epoch, len(images)) if train else np.arange(len(images))
        batch = self.augmented(images[BatchKey(order[:count], epoch, size)])
        pixels = [
            visible(image).mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy() for image in batch["image"]
        ]
        titles = [self._labels.text(label, self.classes) for label in batch["label"]] if "label" in batch else None
        ids = batch.get("mask")
        masks = None if ids is None else [*ids.masked_fill(ids >= self.num_classes, -1).numpy()]
        return batch_figure(pixels, titles, masks, self.classes)

    def summary(self, *, compare: bool = True) -> Summary:
        """Counts, class balance and sizes, and warnings of what looks wrong.

        Args:
            compare: Look for images of equal content in different splits, which may read each file once more.
        """
        return self._examined.summary(self._workers(), compare=compare)

    def _loader(self, split: Split) -> ImageLoader:
        train = split == Split.TRAIN
        trainer = self.trainer
        images = self.dataset(split)
        if self.cache_images:
            images.keep_decoded(self._memory_of_a_split())
        sampler = BatchSampler(
            len(images),
            self.batch_size,
            lambda: self.train_size if train else self.size,
            train=train,
            shuffle=train and not getattr(trainer, "overfit_batches", 0),  # Lightning sets it without declaring it,
            seed=self.seed,
            world_size=trainer.world_size if trainer is not None else 1,
            rank=trainer.global_rank if trainer is not None else 0,
        )
        loader = ImageLoader(images, sampler, num_workers=self._workers(), pin_memory=self._pins())
        self._loaders.append(weakref.ref(loader))
        return loader

    def _memory_of_a_split(self) -> int:
        """Bytes for its decoded images: of what is free an eighth, as a run has two splits, for all processes here."""
        processes = self.trainer.num_devices if self.trainer is not None else 1
        free = free_bytes()
        return DECODED if free is None else min(DECODED, free // (8 * processes))

    def _has(self, split: Split) -> bool:
        return bool((self.splits == split).any())

    def _held_out(self, stage: str) -> Split:
        if stage == "validate":
            return Split.VALID
        if stage == "test" and not self._has(Split.TEST):
            raise DataError("Expected test images, such as a folder 'test', got none. Use validate instead of test.")
        return Split.TEST if self._has(Split.TEST) else Split.VALID


def enough_steps(images: int) -> int:
    """A batch size that leaves an epoch of ``images`` twelve steps, of the powers of two from 16 to 64."""
    return next((size for size in (64, 32) if images >= STEPS * size), 16)
