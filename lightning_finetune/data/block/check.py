"""One pass over images and masks before training, which finds what would be believed and is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch.distributed as dist

from lightning_finetune.data.block.mask_ids import Numbers, values_in, width_of
from lightning_finetune.data.pixels.decode import ImageSource, Size, decode_fully, image_size
from lightning_finetune.data.pixels.depth import Depth
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.data.pixels.image_files import ready_for_threads
from lightning_finetune.data.pixels.mask_values import MaskSource, mask_values
from lightning_finetune.engine.processes import gathered
from lightning_finetune.errors import DataError, first_ten

# Files that a thread takes at a time: what the pool notes of each task would else outweigh a million files.
_AT_ONCE = 256

_Part: TypeAlias = tuple[Numbers, list[str]]  # numbers of each row, and what is wrong with rows


class Seen(NamedTuple):
    """What a pass found.

    Attributes:
        sizes: Height and width of each image ``[rows, 2]``; noughts for images in memory.
        tops: The largest value of the decoded images of each depth but 8 bits.
        values: Of each mask, see :func:`~lightning_finetune.data.block.mask_ids.values_in`; of no width without masks.
        problems: What is wrong with single files.
    """

    sizes: Numbers
    tops: dict[Depth, float]
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
        threads: How many read at a time; decoding releases Python's lock.
        shared: Each process reads its share and hears of all; otherwise this one reads all.
    """
    whole = np.zeros(int(rows.max(initial=-1)) + 1, dtype=bool)
    whole[decoded] = True
    width = 0 if masks is None else width_of(classes) // 32

    def read(row: int) -> tuple[Numbers, str]:
        notes = np.zeros(4 + width, np.int32)
        image = None if images is None else images[row]
        try:
            if isinstance(image, Path):
                if whole[row]:
                    depth, top = decode_fully(image, channels)
                    notes[2], notes[3] = depth, np.float32(top).view(np.int32)
                notes[:2] = image_size(image)
            if masks is not None:
                notes[4:] = _values(masks[row], tuple(notes[:2].tolist()), 32 * width)
        except DataError as error:
            return np.zeros_like(notes), str(error)
        return notes, ""

    ready_for_threads()
    numbers, problems = _read_rows(read, rows, 4 + width, threads=threads, shared=shared)
    depths, values = numbers[:, 2], np.ascontiguousarray(numbers[:, 3]).view(np.float32)
    deep = np.setdiff1d(depths, Depth.EIGHT).tolist()
    tops = {Depth(depth): float(values[depths == depth].max()) for depth in deep}
    return Seen(numbers[:, :2], tops, np.ascontiguousarray(numbers[:, 4:]), problems)


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


def _read_rows(
    read: Callable[[int], tuple[Numbers, str]], rows: Ints, width: int, *, threads: int, shared: bool
) -> _Part:
    """What ``read`` says of each row, ``[len(rows), width]``, and what is wrong with rows."""
    rank, world = rank_and_world() if shared else (0, 1)

    def share(rows: Sequence[int]) -> _Part:
        answers = [read(row) for row in rows]
        return np.stack([numbers for numbers, _ in answers]), [text for _, text in answers if text]

    mine = rows[rank::world].tolist()
    shares = [mine[start : start + _AT_ONCE] for start in range(0, len(mine), _AT_ONCE)]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        own = _joined([(np.zeros((0, width), np.int32), []), *pool.map(share, shares)])
    everywhere = gathered(own) if world > 1 else [own]
    numbers = np.zeros((len(rows), width), np.int32)
    for place, (part, _) in enumerate(everywhere):
        numbers[place::world] = part
    return numbers, _joined(everywhere)[1]


def _joined(parts: Sequence[_Part]) -> _Part:
    return np.concatenate([numbers for numbers, _ in parts]), [text for _, texts in parts for text in texts]


def rank_and_world() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def refuse(problems: Sequence[str], reports: Path | None) -> None:
    """Raise what is wrong, if anything is.

    Args:
        problems: One a file.
        reports: Folder for the full list, where there are more than ten; None for no list.

    Raises:
        DataError: It names the first ten and their number.
    """
    # Names of files need not be UTF-8, but what is printed and written must.
    lines = sorted(text.encode("utf-8", "backslashreplace").decode() for text in problems)
    if not lines:
        return
    text = f"Expected images that can be read; {len(lines)} cannot be used:{first_ten(lines)}"
    if len(lines) > 10 and reports is not None:
        listing = reports / "bad_images.txt"
        if rank_and_world()[0] == 0:
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
        text += f"\nThe full list is in {listing}."
    raise DataError(text)
