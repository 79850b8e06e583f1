"""Every image and mask read once before training, in threads and shared among processes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch.distributed as dist

from lightning_finetune.data.block.masks import mask_problem
from lightning_finetune.data.pixels.decode import ImageSource, MaskSource, decode_fully
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.errors import DataError, first_ten

_AT_ONCE = 256
"""Files that a thread takes at a time: what the pool notes of each task would else outweigh a million files."""


def check_images(
    images: Sequence[ImageSource],
    masks: Sequence[MaskSource] | None,
    classes: int,
    channels: int = 3,
    *,
    rows: Ints | None = None,
    threads: int,
    reports: Path,
) -> None:
    """Read images, and hold masks against them; each process reads its share and hears of all problems.

    Args:
        images: Those in memory are taken as they are.
        masks: One an image, if there are any.
        classes: How many ids masks may have.
        channels: That each image must give.
        rows: Positions of those to read; by default all.
        threads: How many read at a time; decoding releases Python's lock.
        reports: Folder for the full list, where there are more than ten problems.

    Raises:
        DataError: Some cannot be used; it names the first ten and their number.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def problem(row: int) -> str | None:
        return _problem(images[row], None if masks is None else masks[row], classes, channels)

    def problems_of(rows: Ints) -> list[str]:
        return [text for text in map(problem, rows.tolist()) if text is not None]

    mine = (np.arange(len(images)) if rows is None else rows)[rank::world]
    shares = [mine[start : start + _AT_ONCE] for start in range(0, len(mine), _AT_ONCE)]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        found = [text for texts in pool.map(problems_of, shares) for text in texts]
    everywhere: list[list[str]] = [found] * world
    if world > 1:
        dist.all_gather_object(everywhere, found)
    # Names of files need not be UTF-8, but what is printed and written must.
    problems = sorted(text.encode("utf-8", "backslashreplace").decode() for texts in everywhere for text in texts)
    if problems:
        raise DataError(_text(problems, reports / "bad_images.txt", write=rank == 0))


def _problem(image: ImageSource, mask: MaskSource | None, classes: int, channels: int) -> str | None:
    if not isinstance(image, Path):
        return None
    try:
        decode_fully(image, channels)
    except DataError as error:
        return str(error)
    return None if mask is None else mask_problem(image, mask, classes)


def _text(problems: Sequence[str], listing: Path, write: bool) -> str:
    """The first ten; more of them go in full to a file, which one process writes."""
    text = f"Expected images that can be read; {len(problems)} cannot be used:{first_ten(problems)}"
    if len(problems) <= 10:
        return text
    if write:
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(problems) + "\n", encoding="utf-8")
    return f"{text}\nThe full list is in {listing}."
