"""One pass over images and masks before training, which finds what would be believed and is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_finetune.data.block.check import Numbers, read_rows
from lightning_finetune.data.block.mask_ids import values_in, width_of
from lightning_finetune.data.pixels.decode import ImageSource, Size, decode_fully, image_size
from lightning_finetune.data.pixels.depth import Depth, Range
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.data.pixels.image_files import ready_for_threads
from lightning_finetune.data.pixels.mask_values import MaskSource, mask_values
from lightning_finetune.errors import DataError


@dataclass(frozen=True)
class Seen:
    """What a pass found.

    Args:
        sizes: Height and width of each image ``[rows, 2]``; noughts for images in memory.
        ranges: How far the values of those that were decoded go.
        values: Of each mask, see :func:`~lightning_finetune.data.block.mask_ids.values_in`; of no width without masks.
        problems: What is wrong with single files.
    """

    sizes: Numbers
    ranges: list[Range]
    values: Numbers
    problems: list[str]


def look(
    images: Sequence[ImageSource] | None,
    masks: Sequence[MaskSource] | None,
    classes: int,
    channels: int = 3,
    *,
    rows: Ints,
    decoded: Ints,
    threads: int,
    shared: bool,
) -> Seen:
    """Read files, and hold masks against their images.

    Args:
        images: Those in memory are taken as they are; None for those of somebody's dataset, which may cost much.
        masks: One an image, if there are any.
        classes: How many ids masks may have.
        channels: That each image must give.
        rows: Positions of those to read.
        decoded: Positions of those whose images are to be decoded, and not only measured.
        threads: How many read at a time.
        shared: Among processes; see :func:`~lightning_finetune.data.block.check.read_rows`.
    """
    whole = np.zeros(int(rows.max(initial=-1)) + 1, dtype=bool)
    whole[decoded] = True
    width = 0 if masks is None else width_of(classes) // 32

    def read(row: int) -> Numbers:
        notes = np.zeros(4 + width, np.int32)
        image = None if images is None else images[row]
        if isinstance(image, Path):
            if whole[row]:
                depth, top = decode_fully(image, channels)
                notes[2], notes[3] = depth, np.float32(top).view(np.int32)
            notes[:2] = image_size(image)
        if masks is not None:
            notes[4:] = _values(masks[row], tuple(notes[:2].tolist()), 32 * width)
        return notes

    ready_for_threads()
    numbers, problems = read_rows(read, rows, 4 + width, threads=threads, shared=shared)
    return Seen(numbers[:, :2], _ranges(numbers), np.ascontiguousarray(numbers[:, 4:]), problems)


def _ranges(numbers: Numbers) -> list[Range]:
    """Those of more than 8 bits, which are few or all."""
    deep = numbers[numbers[:, 2] != Depth.EIGHT]
    tops = np.ascontiguousarray(deep[:, 3]).view(np.float32)
    return [Range(Depth(depth), top) for depth, top in zip(deep[:, 2].tolist(), tops.tolist(), strict=True)]


def _values(mask: MaskSource, seen: Size, width: int) -> Numbers:
    """The values of a mask of an image that is ``seen`` at a size.

    Raises:
        DataError: It is unreadable, of another size, or holds too large values.
    """
    ids = mask_values(mask)
    name = mask if isinstance(mask, (str, Path)) else "a mask in memory"
    if any(seen) and ids.shape != seen:
        got = f"{ids.shape[0]} x {ids.shape[1]}"
        raise DataError(f"{name}: expected {seen[0]} x {seen[1]} pixels (height x width) as its image, got {got}")
    try:
        return values_in(ids, width)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
