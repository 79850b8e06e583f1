"""Somebody's torch dataset of (image, target) pairs as items of the data block."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightning_finetune.data.block.dataset_images import Pictures
from lightning_finetune.data.block.items import ImageItems
from lightning_finetune.data.block.labels import Labels
from lightning_finetune.errors import DataError

log = logging.getLogger(__name__)


def items_of(train: Any, valid: Any, classes: Sequence[str] | None) -> ImageItems:
    """Images and labels of one dataset, or of two in a row; see :meth:`ImageData.from_dataset`.

    Raises:
        DataError: The targets are neither class numbers, nor 0/1 vectors, nor masks.
    """
    pairs = train if valid is None else torch.utils.data.ConcatDataset([train, valid])
    targets = [target for dataset in (train, valid) if dataset is not None for target in _targets(dataset)]
    names = classes if classes is not None else getattr(train, "classes", None)
    return ImageItems(Pictures(pairs), Path(), labels=_labels(targets, names))


def _targets(pairs: Any) -> list[Any]:
    """The targets, from the attribute that torchvision's datasets have, or by reading all pairs once."""
    known = getattr(pairs, "targets", None)
    if known is not None and len(known) == len(pairs):
        return list(known)
    log.info("Reading %d items once for their targets.", len(pairs))
    return [pairs[item][1] for item in range(len(pairs))]


def _labels(targets: Sequence[Any], names: Sequence[str] | None) -> Labels:
    arrays = [np.asarray(target) for target in targets]
    dimensions = {array.ndim for array in arrays}
    if dimensions == {0} and all(np.issubdtype(array.dtype, np.integer) for array in arrays):
        numbers = [int(array) for array in arrays]
        classes = _names(max(numbers) + 1, names)
        return Labels("single", tuple(classes[number] for number in numbers), classes)
    if dimensions == {1}:
        classes = _names(len(arrays[0]), names)
        return Labels("multi", tuple(tuple(classes[k] for k in np.flatnonzero(array)) for array in arrays), classes)
    if dimensions == {2}:
        classes = _names(int(max(array[array != 255].max(initial=0) for array in arrays)) + 1, names)
        return Labels("mask", tuple(Image.fromarray(array.astype(np.uint8)) for array in arrays), classes)
    raise DataError(
        "Expected targets that are class numbers, 0/1 vectors [classes] or masks [h, w], got "
        f"{type(targets[0]).__name__} with {sorted(dimensions)} dimensions."
    )


def _names(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) < count:
        raise DataError(f"classes: expected at least {count} names, for targets up to {count - 1}, got {len(names)}.")
    return tuple(map(str, names))
