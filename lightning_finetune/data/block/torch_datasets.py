"""Somebody's torch dataset of (image, target) pairs as items of the data block."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lightning_finetune.data.block.items import Items
from lightning_finetune.data.block.labels import Labels
from lightning_finetune.data.block.mask_ids import VOID
from lightning_finetune.data.block.numbers import from_numbers
from lightning_finetune.data.block.rows import TARGETS, Pictures, class_names, columns_of, key_in, pair_of
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.data.pixels.mask_values import mask_values
from lightning_finetune.errors import DataError, first_ten

log = logging.getLogger(__name__)


def items_of(train: Any, valid: Any, classes: Sequence[str] | None) -> Items:
    """Images and labels of one dataset, or of two in a row; see :meth:`ImageData.from_dataset`.

    Raises:
        DataError: The targets are neither class numbers, nor 0/1 vectors, nor masks.
    """
    for name, dataset in (("train", train), ("valid", valid)):
        if dataset is not None:
            _check_dataset(name, dataset)
    _check_same_classes(train, valid)
    pairs = train if valid is None else torch.utils.data.ConcatDataset([train, valid])
    targets = [target for dataset in (train, valid) if dataset is not None for target in _targets(dataset)]
    names = classes if classes is not None else class_names(train)
    return Items(Pictures(pairs), Path(), labels=labels_of(targets, names))


def _check_dataset(name: str, dataset: Any) -> None:
    """Check that it can be counted and asked."""
    if isinstance(dataset, torch.utils.data.IterableDataset):
        raise DataError(
            f"{name}: expected a dataset that is asked by position, got a stream, for which ImageStream is."
        )
    wrong = isinstance(dataset, (str, bytes, Mapping))
    if wrong or not all(hasattr(dataset, part) for part in ("__len__", "__getitem__")):
        raise DataError(f"{name}: expected a dataset of (image, target) pairs with a length, got {dataset!r:.80}.")


def _check_same_classes(train: Any, valid: Any) -> None:
    """Check that a number means the same class in both, where they name their classes."""
    ours, theirs = class_names(train), None if valid is None else class_names(valid)
    if ours is not None and theirs is not None and list(map(str, ours)) != list(map(str, theirs)):
        raise DataError(
            f"valid: expected a dataset with the classes of `train`, {list(ours)[:10]}, got {list(theirs)[:10]}: its "
            "numbers mean others. A folder for each class, empty ones too (ImageFolder: allow_empty=True), mends it."
        )


def _targets(pairs: Any) -> list[Any]:
    """The targets, from the attribute that torchvision's datasets have, from a column, or by reading all pairs once.

    The attribute is what lies on the disk; a ``target_transform`` may make others of it.
    """
    known = getattr(pairs, "targets", None)
    if known is not None and len(known) == len(pairs) and all(_is_target(pairs, known, end) for end in (0, -1)):
        return list(known)
    if columns := columns_of(pairs):
        return list(pairs[key_in(columns, TARGETS, "target")])
    log.info("Reading %d items once for their targets.", len(pairs))
    return [_fitting(*pair_of(pairs[item]), item) for item in range(len(pairs))]


def _is_target(pairs: Any, known: Sequence[Any], end: int) -> bool:
    """Whether an item at an end of a dataset has the target that is known."""
    place = end % len(pairs) if len(pairs) else 0
    return not len(pairs) or str(pair_of(pairs[place])[1]) == str(known[place])


def _fitting(image: Any, target: Any, item: int) -> Any:
    """The target, which must have the size of its image where it is a mask.

    Raises:
        DataError: It has another.
    """
    shape = [*np.shape(target)] if hasattr(target, "shape") or isinstance(target, Image.Image) else []
    if len(shape) == 2:
        seen = [*np.shape(image)]
        size = seen[-2:] if isinstance(image, torch.Tensor) else seen[:2]
        if size != shape:
            raise DataError(f"Item {item}: expected a mask {size} (height, width) as its image, got {shape}.")
    return target


def labels_of(targets: Sequence[Any], names: Sequence[str] | None) -> Labels:
    """What targets are: class numbers, 0/1 vectors, numbers or masks.

    Args:
        targets: Of one kind.
        names: Of the classes or numbers; by default their positions.

    Raises:
        DataError: They are none of these.
    """
    try:
        arrays = [np.asarray(target) for target in targets]
    except ValueError as error:
        raise DataError(
            f"Expected one target for each image, got {targets[0]!r:.80}. Choose one, with `map`."
        ) from error
    dimensions = {array.ndim for array in arrays}
    if dimensions == {0} and all(np.issubdtype(array.dtype, np.integer) for array in arrays):
        return _numbers(np.array(arrays, dtype=np.int64), names)
    if dimensions <= {0, 1} and any(np.issubdtype(array.dtype, np.floating) and _measured(array) for array in arrays):
        return from_numbers(arrays, names)
    if dimensions == {1}:
        return _vectors(arrays, names)
    if dimensions == {2}:
        return _masks(arrays, names)
    if not targets:
        raise DataError("Expected a dataset of (image, target) pairs, got an empty one.")
    raise DataError(
        "Expected targets that are class numbers, 0/1 vectors [classes], numbers (floats) or masks [h, w], got "
        f"{type(targets[0]).__name__} with {sorted(dimensions)} dimensions."
    )


def _measured(array: npt.NDArray[Any]) -> bool:
    """Whether floats are numbers, and not the 0 and 1 of labels; a single one is."""
    return array.ndim == 0 or not np.isin(array, (0, 1)).all()


def _numbers(numbers: Ints, names: Sequence[str] | None) -> Labels:
    negative = np.flatnonzero(numbers < 0).tolist()
    if negative:
        raise DataError(
            f"Expected class numbers from 0 on, got {int(numbers.min())} in the items:{first_ten(negative)}\n"
            "Leave those items out, such as with torch.utils.data.Subset."
        )
    classes = _names(int(numbers.max()) + 1, names)
    return Labels("single", tuple(classes[number] for number in numbers.tolist()), classes)


def _vectors(vectors: Sequence[npt.NDArray[Any]], names: Sequence[str] | None) -> Labels:
    lengths = {len(vector) for vector in vectors}
    wrong = [item for item, vector in enumerate(vectors) if not np.isin(vector, (0, 1)).all()]
    if len(lengths) > 1 or min(lengths) < 2 or wrong:
        raise DataError(
            f"Expected 0/1 vectors of one length above 1 as targets, got lengths {sorted(lengths)[:10]}, and other "
            f"values in {len(wrong)} items. Give class numbers as single numbers."
        )
    classes = _names(len(vectors[0]), names)
    return Labels("multi", tuple(tuple(classes[k] for k in np.flatnonzero(vector)) for vector in vectors), classes)


def _masks(arrays: Sequence[npt.NDArray[Any]], names: Sequence[str] | None) -> Labels:
    masks = [mask_values(array) for array in arrays]
    low, top = min(int(mask.min(initial=0)) for mask in masks), max(int(mask.max(initial=0)) for mask in masks)
    if low < -1 or top > VOID:
        raise DataError(
            f"Expected masks of class ids 0 to {VOID - 1}, and {VOID} or -1 for what counts for nothing, got {low} to "
            f"{top}."
        )
    count = max(int(mask[mask != VOID].max(initial=0)) for mask in masks) + 1
    classes = tuple(map(str, range(count))) if names is None else tuple(map(str, names))
    return Labels("mask", tuple(map(Image.fromarray, masks)), classes)


def _names(count: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) < count:
        raise DataError(f"classes: expected at least {count} names, for targets up to {count - 1}, got {len(names)}.")
    return tuple(map(str, names))
