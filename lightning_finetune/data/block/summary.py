"""What is in a data set, and what in it will probably hurt."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_finetune.data.block.labels import Labels, Targets
from lightning_finetune.data.block.mask_ids import Bools, Numbers
from lightning_finetune.data.block.paths import FilePaths, select
from lightning_finetune.data.block.splits import Split, Splits
from lightning_finetune.data.pixels.decode import Size
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.data.pixels.image_files import unreadable
from lightning_finetune.errors import first_ten

_USED = (Split.TRAIN, Split.VALID, Split.TEST)
_TINY = 64  # the lessons' smallest useful size, in pixels


@dataclass(frozen=True)
class Summary:
    """Counts of a data set; ``str()`` gives them as text.

    Args:
        counts: Images in each split.
        classes: Images that show each class, in each split.
        sizes: Height and width of the smallest, the middle and the largest image by area; None for images in memory.
        warnings: What looks wrong, in sentences.
    """

    counts: dict[str, int]
    classes: dict[str, dict[str, int]]
    sizes: tuple[Size, Size, Size] | None
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return self.text(len(self.classes))

    def text(self, most: int) -> str:
        """As text, with at most so many classes by name, the rarest in training first where not all are named."""
        lines = [", ".join(f"{count} {split}" for split, count in self.counts.items())]
        if self.sizes is not None:
            smallest, middle, largest = (f"{height} x {width}" for height, width in self.sizes)
            three = f"{smallest} (smallest), {middle} (median), {largest} (largest)"
            lines.append(f"height x width: {smallest if smallest == largest else three}")
        rare = sorted(self.classes, key=lambda name: self.classes[name].get("train", 0))[:most]
        named = {name: shown for name, shown in self.classes.items() if name in set(rare)}
        longest = max(map(len, named), default=0)
        for name, shown in named.items():
            lines.append(f"  {name:{longest}}  " + "  ".join(f"{shown[split]:6} {split}" for split in self.counts))
        if len(named) < len(self.classes):
            lines.append(f"  and {len(self.classes) - len(named)} more classes with as many training images or more")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


def summarize(
    images: Sequence[Any] | None,
    splits: Splits,
    labels: Labels,
    classes: Sequence[str],
    targets: Targets,
    sizes: Numbers,
    shown: Bools | None,
    compare: bool = True,
) -> Summary:
    """Count and compare the images of all splits.

    Args:
        images: Those that are files are compared; None for those of somebody's dataset.
        splits: What each image is for.
        labels: As they were read.
        classes: The names of the classes.
        targets: As they were encoded.
        sizes: Height and width of each image ``[N, 2]``; noughts where it is no file.
        shown: Which classes each mask shows ``[N, classes]``, where there are masks.
        compare: Look for images of equal content in different splits, which may read each file once more.
    """
    present = [split for split in _USED if (splits == split).any()]
    shows = labels.shows(targets) if shown is None else map(np.flatnonzero, shown)
    per_class: dict[str, dict[str, int]] = {}
    if shows is not None:
        shown_counts = _counts(splits, shows, len(classes))
        per_class = {
            name: {split.name.lower(): int(shown_counts[split, k]) for split in present}
            for k, name in enumerate(classes)
        }
    rows = np.flatnonzero(sizes[:, 0])
    files, used = select(images or (), rows), sizes[rows].astype(np.int64)
    warnings = [*_missing(per_class), *_alike(classes), *(_twice(files, splits[rows]) if compare else ())]
    warnings += _tiny(files, used)
    counts = {split.name.lower(): int((splits == split).sum()) for split in present}
    return Summary(counts, per_class, _three(used), tuple(warnings))


def _counts(splits: Splits, shows: Iterator[Any], classes: int) -> Ints:
    """How many images of each split show each class, ``[3, classes]``."""
    counts = np.zeros((len(_USED), classes), dtype=np.int64)
    for split, numbers in zip(splits, shows, strict=True):
        counts[split, numbers] += 1
    return counts


def _alike(classes: Sequence[str]) -> list[str]:
    """Names that differ by what is hardly meant, such as their case or ``1`` and ``1.0``; mostly they are one class."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        same[_folded(name)].append(name)
    return [
        f"classes {names} differ by case, blanks, invisible letters or the way to write a number alone"
        for names in same.values()
        if len(names) > 1
    ]


def _folded(name: str) -> str:
    """A name without case, without what is not seen, and a number in one form."""
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isprintable())
    return re.sub(r"^0*(\d+)(\.0*)?$", r"\1", "".join(seen.split()))


def _three(sizes: Ints) -> tuple[Size, Size, Size] | None:
    if not len(sizes):
        return None
    ordered = sizes[np.argsort(sizes.prod(axis=1), kind="stable")].tolist()
    smallest, middle, largest = (tuple(ordered[place]) for place in (0, len(ordered) // 2, -1))
    return smallest, middle, largest


def _missing(classes: dict[str, dict[str, int]]) -> list[str]:
    pairs = [(name, split) for name, shown in classes.items() for split, count in shown.items() if not count]
    return [f"class {name!r} has no {split} images" for name, split in pairs]


def _twice(files: Sequence[Path], splits: Splits) -> list[str]:
    """Images of equal content in different splits, which make validation look better than it is."""
    lengths = np.fromiter(map(_length, files), np.int64, len(files))
    _, group, count = np.unique(lengths, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(count[group] > 1)
    likely, split = select(files, rows), splits[rows]
    _, group = np.unique(np.fromiter(map(_digest, likely), np.uint64, len(rows)), return_inverse=True)
    one = np.empty_like(split)
    one[group] = split  # of one image of each group
    leaks: dict[int, list[str]] = defaultdict(list)
    for place in np.flatnonzero(np.isin(group, group[split != one[group]])).tolist():
        leaks[group[place]].append(str(likely[place]))
    names = (" = ".join(equal) for equal in leaks.values())
    return [f"{len(leaks)} images are in more than one split:{first_ten(names)}"] if leaks else []


def _digest(file: Path) -> int:
    """Of the content, in 64 bits: two of a million files share one by chance once in forty million data sets."""
    try:
        return int.from_bytes(hashlib.blake2b(file.read_bytes(), digest_size=8).digest(), "little")
    except OSError as error:
        raise unreadable(file, error) from error


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:  # it was there when it was measured
        raise unreadable(file, error) from error


def _tiny(files: Sequence[Path], sizes: Ints) -> list[str]:
    tiny = select(files, np.flatnonzero(sizes.min(axis=1, initial=_TINY) < _TINY))
    return [f"{len(tiny)} images are smaller than {_TINY} pixels:{first_ten(tiny)}"] if tiny else []


def repeated(files: FilePaths, splits: Splits, labels: Labels) -> Iterator[str]:
    """Warnings of files that are named more than once and labelled in two ways, or lie in two splits.

    Args:
        files: The images.
        splits: What each is for.
        labels: What each shows.
    """
    groups = [*_groups(files)]
    if labels.names() is not None:
        torn = [files[rows[0]] for rows in groups if len({labels.values[row] for row in rows}) > 1]
        if torn:
            yield (
                f"{len(torn)} images are named in several rows with different labels, each of which is learned; if "
                f"they have several labels, join these in one row (label_delim):{first_ten(torn)}"
            )
    shared = [files[rows[0]] for rows in groups if len(set(splits[rows].tolist())) > 1]
    if shared:
        yield (
            f"{len(shared)} images are named in several rows that are in different splits, so that validation looks "
            f"better than it is:{first_ten(shared)}"
        )


def _groups(files: FilePaths) -> Iterator[list[int]]:
    """The positions of each file that is named more than once."""
    hashes = np.fromiter(map(hash, files.texts()), np.int64, len(files))  # a set of a million texts takes 100 MB
    _, group, count = np.unique(hashes, return_inverse=True, return_counts=True)
    places: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(count[group] > 1).tolist():
        places[str(files[row])].append(row)
    return (rows for rows in places.values() if len(rows) > 1)
