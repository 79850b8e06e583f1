"""What is in a data set, and what in it will probably hurt."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lightning_finetune.data.decode import Size, image_size, open_mask
from lightning_finetune.data.labels import Labels, Targets
from lightning_finetune.data.splits import Split, Splits
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
        lines = [", ".join(f"{count} {split}" for split, count in self.counts.items())]
        if self.sizes is not None:
            lines.append("height x width: " + ", ".join(f"{height} x {width}" for height, width in self.sizes))
        longest = max(map(len, self.classes), default=0)
        for name, shown in self.classes.items():
            lines.append(f"  {name:{longest}}  " + "  ".join(f"{shown[split]:6} {split}" for split in self.counts))
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


def summarize(
    files: Sequence[Path], splits: Splits, labels: Labels, classes: Sequence[str], targets: Targets
) -> Summary:
    """Count, measure and compare the images of all splits.

    Args:
        files: One an image; none for images in memory, which are then neither measured nor compared.
        splits: What each image is for.
        labels: As they were read.
        classes: The names of the classes.
        targets: As they were encoded.
    """
    present = [split for split in _USED if (splits == split).any()]
    shown = _shown(labels, classes, targets)
    per_class = {
        name: {split.name.lower(): int(shown[splits == split, k].sum()) for split in present}
        for k, name in enumerate(classes)
    }
    used = [(file, Split(split)) for file, split in zip(files, splits, strict=False)]
    sizes = {file: image_size(file) for file, _ in used}
    warnings = [*_missing(per_class), *_twice(used), *_tiny(sizes)]
    counts = {split.name.lower(): int((splits == split).sum()) for split in present}
    return Summary(counts, per_class, _three(sizes.values()), tuple(warnings))


def _shown(labels: Labels, classes: Sequence[str], targets: Targets) -> npt.NDArray[np.bool_]:
    """Whether each image shows each class, ``[N, classes]``."""
    numbers = np.arange(len(classes))
    if labels.kind == "multi":
        return np.asarray(targets, dtype=np.bool_)
    if labels.kind == "single":
        return np.array([numbers == target for target in targets])
    return np.array([np.isin(numbers, np.asarray(open_mask(mask))) for mask in labels.values])


def _three(sizes: Iterable[Size]) -> tuple[Size, Size, Size] | None:
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    return (ordered[0], ordered[len(ordered) // 2], ordered[-1]) if ordered else None


def _missing(classes: dict[str, dict[str, int]]) -> list[str]:
    pairs = [(name, split) for name, shown in classes.items() for split, count in shown.items() if not count]
    return [f"class {name!r} has no {split} images" for name, split in pairs]


def _twice(used: Sequence[tuple[Path, Split]]) -> list[str]:
    """Images of equal content in different splits, which make validation look better than it is."""
    by_length: dict[int, list[tuple[Path, Split]]] = defaultdict(list)
    for file, split in used:
        by_length[file.stat().st_size].append((file, split))
    by_content: dict[bytes, list[tuple[Path, Split]]] = defaultdict(list)
    for group in by_length.values():
        for file, split in group if len(group) > 1 else ():
            by_content[hashlib.blake2b(file.read_bytes()).digest()].append((file, split))
    leaks = [group for group in by_content.values() if len({split for _, split in group}) > 1]
    names = [" = ".join(str(file) for file, _ in group) for group in leaks]
    return [f"{len(leaks)} images are in more than one split:{first_ten(names)}"] if leaks else []


def _tiny(sizes: dict[Path, Size]) -> list[str]:
    tiny = [file for file, size in sizes.items() if min(size) < _TINY]
    return [f"{len(tiny)} images are smaller than {_TINY} pixels:{first_ten(tiny)}"] if tiny else []
