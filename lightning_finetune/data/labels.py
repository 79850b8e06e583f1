"""What an item shows: labels read from paths and tables, and their encoding for the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_finetune.data.dataset import Kind
from lightning_finetune.data.decode import MaskSource
from lightning_finetune.data.splits import Split, Splits
from lightning_finetune.errors import DataError, did_you_mean, first_ten

Targets: TypeAlias = "npt.NDArray[Any] | tuple[MaskSource, ...]"


@dataclass(frozen=True)
class Labels:
    """The labels of all items, not yet encoded.

    Args:
        kind: One label an image, several, or a mask.
        values: For each item a name, a tuple of names, or the file of its mask.
        classes: The names in the order of their ids, where it is given and not taken from the training items.
    """

    kind: Kind
    values: tuple[Any, ...]
    classes: tuple[str, ...] | None = None


def from_folder(files: Sequence[Path]) -> Labels:
    """Each image is labelled with the name of the folder it lies in."""
    return Labels("single", tuple(file.parent.name for file in files))


def from_re(names: Sequence[str], pattern: str) -> Labels:
    """Each image is labelled with the first group of ``pattern``, searched in its name.

    Raises:
        DataError: The pattern is malformed, has no group, or does not match every name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"Pattern {pattern!r}: expected a regular expression; {error}.") from error
    if compiled.groups < 1:
        raise DataError(f"Pattern {pattern!r}: expected a group (…) around the label, as in r'^(.*)_\\d+.jpg$'.")
    matches = [(name, compiled.search(name)) for name in names]
    missed = [name for name, match in matches if match is None]
    if missed:
        raise DataError(f"Pattern {pattern!r} does not match {len(missed)} of {len(names)} names:{first_ten(missed)}")
    return Labels("single", tuple(match[1] for _, match in matches if match is not None))


def from_values(values: Iterable[Any], label_delim: str | None = None) -> Labels:
    """One label an item; or several, where items are lists or ``label_delim`` splits them.

    Raises:
        DataError: Values are missing.
    """
    values = list(values)
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    if missing and label_delim is None:
        raise DataError(f"Expected a label for each item; rows without one:{first_ten(missing)}")
    if label_delim is not None:
        texts = ["" if _is_missing(value) else str(value) for value in values]
        return Labels("multi", tuple(tuple(filter(None, map(str.strip, text.split(label_delim)))) for text in texts))
    if values and isinstance(values[0], (list, tuple, set, frozenset)):
        return Labels("multi", tuple(tuple(map(str, value)) for value in values))
    return Labels("single", tuple(map(str, values)))


def from_masks(items: Sequence[Path], mask_of: Callable[[Path], str | Path], codes: Sequence[str]) -> Labels:
    """Each image is labelled with a mask, a file whose pixels are positions in ``codes`` (255: ignored).

    Raises:
        DataError: Masks are missing.
    """
    if not codes:
        raise DataError("codes: expected the names of the classes in the order of their ids, got none.")
    masks = tuple(Path(mask_of(item)) for item in items)
    missing = [f"{mask} (for {item})" for item, mask in zip(items, masks, strict=True) if not mask.is_file()]
    if missing:
        raise DataError(
            f"Expected a mask for each image; {len(missing)} of {len(items)} are not there:{first_ten(missing)}"
        )
    return Labels("mask", masks, tuple(codes))


def encode(labels: Labels, splits: Splits) -> tuple[tuple[str, ...], Targets]:
    """Class names, sorted and taken from the training items unless given, and targets for all items.

    Raises:
        DataError: Fewer than two classes (one, for several labels an image), or labels that training items lack.
    """
    if labels.kind == "mask":
        return labels.classes or (), labels.values
    named = [(value,) if labels.kind == "single" else value for value in labels.values]
    classes = labels.classes or tuple(
        sorted({name for i in np.flatnonzero(splits == Split.TRAIN) for name in named[i]})
    )
    _check_known(classes, named)
    least = 2 if labels.kind == "single" else 1
    if len(classes) < least:
        raise DataError(f"Expected at least {least} classes among the training images, got {list(classes)}.")
    number = {name: k for k, name in enumerate(classes)}
    if labels.kind == "single":
        return classes, np.array([number[names[0]] for names in named], dtype=np.int64)
    targets = np.zeros((len(named), len(classes)), dtype=np.float32)
    for row, names in enumerate(named):
        targets[row, [number[name] for name in names]] = 1
    return classes, targets


def _is_missing(value: Any) -> bool:
    """None, an empty text, or pandas' not-a-number."""
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value)


def _check_known(classes: Sequence[str], named: Sequence[Sequence[str]]) -> None:
    known = set(classes)
    unknown = sorted({name for names in named for name in names if name not in known})
    if unknown:
        hint = did_you_mean(unknown[0], classes)
        raise DataError(
            f"Expected the labels of the training images, {list(classes)[:10]}; others have labels that no training "
            f"image has:{first_ten(unknown)}{hint}"
        )
