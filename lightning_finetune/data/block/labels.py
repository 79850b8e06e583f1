"""What an item shows: labels read from paths and tables, and their encoding for the model."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_finetune.data.block.label_values import (
    check_not_measured,
    check_values,
    is_missing,
    is_several,
    name_of,
    plain,
)
from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.data.block.splits import Split, Splits
from lightning_finetune.data.pixels.mask_values import MaskSource
from lightning_finetune.errors import DataError, did_you_mean, first_ten

Targets: TypeAlias = "npt.NDArray[np.int64] | npt.NDArray[np.float32] | MultiHot | Sequence[MaskSource]"


class MultiHot:
    """Rows of 0 and 1, of which only the places of the ones are kept: a million rows of ten thousand take 40 GB.

    Args:
        labels: For each item the numbers of its labels.
        width: How many labels there are.

    Attributes:
        shape: Items and labels.
    """

    def __init__(self, labels: Iterable[Sequence[int]], width: int) -> None:
        numbers, ends = array("i"), array("q", [0])
        for row in labels:
            numbers.extend(row)
            ends.append(len(numbers))
        self._numbers, self._ends = np.asarray(numbers), np.asarray(ends)
        self.shape = (len(ends) - 1, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        """The rows at some places, float32 ``[len(rows), width]``."""
        dense = np.zeros((len(rows), self.shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            dense[place, self.of(row)] = 1
        return dense

    def of(self, row: int) -> npt.NDArray[np.int32]:
        """The numbers of the labels of one item."""
        numbers: npt.NDArray[np.int32] = self._numbers[self._ends[row] : self._ends[row + 1]]
        return numbers

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All rows."""
        return np.asarray(self[np.arange(len(self))], dtype=dtype)


@dataclass(frozen=True)
class Labels:
    """The labels of all items, not yet encoded.

    Args:
        kind: ``"single"``: one label per image, ``"multi"``: several, ``"mask"``; tasks need data of their kind.
        values: For each item a name, a tuple of names, or the file of its mask.
        classes: The names in the order of their ids, where it is given and not taken from the training items.
    """

    kind: str
    values: Sequence[Any]
    classes: tuple[str, ...] | None = None

    @property
    def nouns(self) -> tuple[str, str]:
        """What ``classes`` names: one of them, and several."""
        return ("label", "labels") if self.kind == "multi" else ("class", "classes")

    def names(self) -> Sequence[Sequence[str]] | None:
        """The names of each item; None for masks."""
        if self.kind == "mask":
            return None
        return [(name,) for name in self.values] if self.kind == "single" else self.values

    def encode(self, splits: Splits) -> tuple[tuple[str, ...], Targets]:
        """Class names, sorted and taken from the training items unless given, and targets for all items.

        Raises:
            DataError: Fewer than two classes (one, for several labels per image), or labels that training items lack.
        """
        if self.kind == "mask":
            return self.classes or (), self.values
        classes = self.classes or tuple(sorted(self._names(compress(self.values, splits == Split.TRAIN))))
        number = {name: k for k, name in enumerate(classes)}
        _check_known(number, self._names(self.values))
        least = 2 if self.kind == "single" else 1
        if len(classes) < least:
            raise DataError(f"Expected at least {least} classes among the training images, got {list(classes)}.")
        if self.kind == "single":
            return classes, np.fromiter((number[name] for name in self.values), np.int64, len(self.values))
        return classes, MultiHot(([number[name] for name in names] for names in self.values), len(classes))

    def shows(self, targets: Any) -> Iterator[Any] | None:
        """The classes that each item shows, one after the other: all at once would be images times classes."""
        return iter(targets) if self.kind == "single" else map(targets.of, range(len(targets)))

    def text(self, label: Tensor, classes: Sequence[str]) -> str:
        """A class name, or the names of a 0/1 vector; of a mixed label, names with their shares."""
        if label.ndim == 0:
            return classes[int(label)]
        shares = [(name, float(share)) for name, share in zip(classes, label, strict=True) if share > 0]
        texts = [name if share == 1 else f"{name} {share:.0%}" for name, share in shares]
        return "\n".join(" ".join(texts[start : start + 3]) for start in range(0, len(texts), 3))

    def _names(self, values: Iterable[Any]) -> set[str]:
        """The different names among values."""
        return set(values if self.kind == "single" else chain.from_iterable(values))


def from_folder(files: FilePaths) -> Labels:
    """Each image is labelled with the name of the folder it lies in."""
    names = {folder: name_of(Path(folder).name) for folder in set(files.folders())}
    return Labels("single", tuple(map(names.__getitem__, files.folders())))


def from_re(names: Iterable[str], pattern: str) -> Labels:
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
    labels: list[str] = []
    missed: list[str] = []
    for name in names:
        match = compiled.search(name)
        if match is None or not (match[1] or "").strip():
            missed.append(name)
        else:
            labels.append(name_of(match[1]))
    if missed:
        count = len(labels) + len(missed)
        raise DataError(f"Pattern {pattern!r} does not match {len(missed)} of {count} names:{first_ten(missed)}")
    return Labels("single", tuple(labels))


def from_values(values: Iterable[Any], label_delim: str | None = None) -> Labels:
    """One label an item; or several, where items are lists or ``label_delim`` splits them.

    Blanks around names do not count, nor in which form accents are written. Tensors and arrays are what they hold.

    Raises:
        DataError: Values are missing, of different kinds, or measurements in place of classes.
    """
    given = [plain(value) for value in values]
    if label_delim is not None:
        return _split(given, label_delim)
    missing = [row for row, value in enumerate(given) if is_missing(value)]
    if missing:
        raise DataError(f"Expected a label for each item; rows without one:{first_ten(missing)}")
    several = bool(given) and is_several(given[0])
    check_values(given, several=several)
    if several:
        return Labels("multi", _shared(tuple(dict.fromkeys(map(name_of, names))) for names in given))
    check_not_measured(given)
    return Labels("single", tuple(map(name_of, given)))


def _split(values: Sequence[Any], label_delim: str) -> Labels:
    """Several labels an item, in one text."""
    if not label_delim:
        raise DataError("label_delim: expected what separates labels, such as ' ' or ';', got an empty text.")
    check_values(values, several=False)
    texts = ("" if is_missing(value) else str(value) for value in values)
    parts = (filter(None, map(name_of, text.split(label_delim))) for text in texts)
    return Labels("multi", _shared(map(tuple, parts)))


def from_masks(items: Sequence[Path], masks: FilePaths, codes: Sequence[str]) -> Labels:
    """Each image is labelled with a mask, a file whose pixels are positions in ``codes`` (255: ignored).

    Raises:
        DataError: Masks are missing, or there are fewer than two classes.
    """
    if len(codes) < 2:
        raise DataError(
            f"codes: expected the names of at least 2 classes in the order of their ids, got {list(codes) or 'none'}. "
            "Name the background too."
        )
    missing = [f"{mask} (for {item})" for item, mask in zip(items, masks, strict=True) if not mask.is_file()]
    if missing:
        raise DataError(
            f"Expected a mask for each image; {len(missing)} of {len(items)} are not there:{first_ten(missing)}"
        )
    return Labels("mask", masks, tuple(codes))


def _check_known(classes: Collection[str], names: set[str]) -> None:
    unknown = sorted(names.difference(classes))
    if unknown:
        hint = did_you_mean(unknown[0], classes)
        raise DataError(
            f"Expected the labels of the training images, {list(classes)[:10]}; others have labels that no training "
            f"image has:{first_ten(unknown)}{hint}"
        )


def _shared(values: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Equal values as one object, so that a million items take the memory of the different ones."""
    seen: dict[tuple[str, ...], tuple[str, ...]] = {}
    return tuple(seen.setdefault(value, value) for value in values)
