"""Rows of a data set read once before training, in threads and shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.engine.processes import gathered
from lightning_finetune.errors import DataError, first_ten

_AT_ONCE = 256
"""Files that a thread takes at a time: what the pool notes of each task would else outweigh a million files."""

Numbers = npt.NDArray[np.int32]


def read_rows(
    read: Callable[[int], Numbers], rows: Ints, width: int, *, threads: int, shared: bool
) -> tuple[Numbers, list[str]]:
    """What ``read`` says of each row.

    Args:
        read: From a row to ``width`` numbers; raises a ``DataError`` where it cannot be used.
        rows: Positions.
        width: How many numbers there are of a row.
        threads: How many read at a time; decoding releases Python's lock.
        shared: Each process reads its share and hears of all; otherwise this one reads all.

    Returns:
        The numbers ``[len(rows), width]``, noughts where there are none, and what is wrong with the others.
    """
    rank, world = rank_and_world() if shared else (0, 1)

    def share(rows: Ints) -> tuple[Numbers, list[str]]:
        numbers, problems = np.zeros((len(rows), width), np.int32), list[str]()
        for place, row in enumerate(rows.tolist()):
            answer = _try(read, row)
            if isinstance(answer, str):
                problems.append(answer)
            else:
                numbers[place] = answer
        return numbers, problems

    mine = rows[rank::world]
    shares = [mine[start : start + _AT_ONCE] for start in range(0, len(mine), _AT_ONCE)]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        parts = list(pool.map(share, shares))
    own = (np.concatenate([numbers for numbers, _ in parts] or [np.zeros((0, width), np.int32)]), [*_texts(parts)])
    everywhere = gathered(own) if world > 1 else [own]
    numbers = np.zeros((len(rows), width), np.int32)
    for place, (part, _) in enumerate(everywhere):
        numbers[place::world] = part
    return numbers, [*_texts(everywhere)]


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


def _try(read: Callable[[int], Numbers], row: int) -> Numbers | str:
    """What ``read`` says of a row, or what is wrong with it."""
    try:
        return read(row)
    except DataError as error:
        return str(error)


def _texts(parts: Sequence[tuple[Numbers, list[str]]]) -> list[str]:
    return [text for _, texts in parts for text in texts]
