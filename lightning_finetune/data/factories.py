"""Short ways to a data module for the common layouts, each a few lines over the data block."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_finetune.data.items import ImageItems
from lightning_finetune.data.splits import Split
from lightning_finetune.data.transforms import Augmentation

if TYPE_CHECKING:
    from lightning_finetune.data.image_data import ImageData

log = logging.getLogger(__name__)


class Factories:
    """The ``from_...`` methods of :class:`~lightning_finetune.data.image_data.ImageData`."""

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int = 42,
        size: int | tuple[int, int] = 224,
        batch_size: int = 64,
        num_workers: int | None = None,
        augment: Augmentation = "photo",
        masks: str | Path | Callable[[Path], str | Path] | None = None,
        codes: str | Path | Sequence[str] | None = None,
    ) -> ImageData:
        """From a folder of class folders, with or without folders for training and validation.

        Args:
            root: Holds ``train/CLASS/*.jpg`` and ``valid/CLASS/*.jpg``, and perhaps ``test/CLASS/*.jpg``; or the class
                folders themselves, of which a fifth then validates.
            train: Name of the folder of training images.
            valid: Name of the folder of validation images; ``val`` is found too.
            valid_pct: Validate on this part of all images, drawn at random, instead of on a folder.
            seed: Of the split, the order, crops and augmentation.
            size: See :class:`~lightning_finetune.data.image_data.ImageData`, as the next three.
            batch_size: Images a batch and process.
            num_workers: Processes that load images.
            augment: Augmentation of training images.
            masks: Instead of class folders: name or path of the folder of masks, or a function from image to mask.
            codes: Names of the mask classes in the order of their ids, or a file with one a line.

        Raises:
            DataError: The folder does not hold what is described here.
        """
        root = Path(root)
        items = ImageItems.from_folder(root, skip=[Path(masks).name] if isinstance(masks, (str, Path)) else [])
        items = _split(items, train, _valid_name(root, valid), valid_pct, seed)
        items = items.label_from_folder() if masks is None else items.masks_from(masks, codes)
        return items.datamodule(size=size, batch_size=batch_size, num_workers=num_workers, augment=augment, seed=seed)


def _valid_name(root: Path, valid: str) -> str:
    return "val" if valid == "valid" and not (root / valid).is_dir() and (root / "val").is_dir() else valid


def _split(items: ImageItems, train: str, valid: str, valid_pct: float | None, seed: int) -> ImageItems:
    """By folders where there are any; otherwise at random, but never images of a test folder."""
    if valid_pct is None and (items.root / train).is_dir():
        return items.split_by_folder(train, valid)
    if valid_pct is None:
        log.info("%s has no folder %r: a random fifth of its images validates (seed %d).", items.root, train, seed)
    tests = np.array([file.relative_to(items.root).parts[0] == "test" for file in items.files])
    rest = [file for file, test in zip(items.files, tests, strict=True) if not test]
    splits = np.full(len(tests), Split.TEST, dtype=np.int8)
    chosen = dataclasses.replace(items, images=rest).split_by_pct(valid_pct or 0.2, seed).splits
    splits[~tests] = chosen if chosen is not None else Split.TRAIN
    return dataclasses.replace(items, splits=splits)
