"""The classes of an image's pixels, from values at the size at which a model saw it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_finetune.data.pixels.decode import Size
from lightning_finetune.tasks.shared.tiling import BAND, Block


def largest(blocks: Iterable[Block], seen: Size, full: Size) -> npt.NDArray[np.int64]:
    """The class of the largest value at each pixel of an image that was seen smaller, or larger.

    Args:
        blocks: Of one image, from left to right and from top to bottom, that together are ``seen``; bilinear between
            their pixels.
        seen: Height and width that the model saw.
        full: Those of the image.

    Returns:
        ``[H, W]``.
    """
    ids = np.empty(full, np.int64)
    rows, columns = _places(full[0], seen[0]), _places(full[1], seen[1])
    above: Tensor | None = None  # the last row of the blocks above, the last column of the block on the left
    beside = torch.empty(0)
    for top, left, (values,) in blocks:
        bottom, right = top + values.shape[-2], left + values.shape[-1]
        if above is None:
            above = values.new_empty(len(values), 1, seen[1])
        if top > 0:
            values = torch.cat([above[..., left:right], values], dim=-2)
        last = values[..., -1:].clone()
        above[..., left:right] = values[..., -1:, :]
        if left > 0:
            values = torch.cat([beside, values], dim=-1)
        beside = last
        down, across = _within(rows, top, bottom, seen[0]), _within(columns, left, right, seen[1])
        ids[down, across] = _classes(values, rows[down] - max(top - 1, 0), columns[across] - max(left - 1, 0))
    return ids


def _places(full: int, seen: int) -> Tensor:
    """Where the pixels of the image lie among those that were seen."""
    return ((torch.arange(full, dtype=torch.float64) + 0.5) * seen / full - 0.5).clamp(0, seen - 1)


def _within(places: Tensor, start: int, stop: int, seen: int) -> slice:
    """The pixels between those that a block and its neighbours before it hold; they come in order."""
    first = int((places < start - 1).sum()) if start > 0 else 0
    return slice(first, len(places) if stop == seen else int((places < stop - 1).sum()))


def _classes(values: Tensor, rows: Tensor, columns: Tensor) -> npt.NDArray[np.int64]:
    """Class ids ``[R, C]`` at places between the pixels of ``[K, h, w]``, few rows at a time."""
    rows, columns = rows.to(values.device), columns.to(values.device)
    count = max(1, BAND // (4 * len(values) * max(values.shape[-1], len(columns), 1)))
    parts = [_between(_between(values, part, -2), columns, -1).argmax(0).cpu() for part in torch.split(rows, count)]
    return torch.cat(parts).numpy()


def _between(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """Values at places between those along one dimension."""
    before = places.floor().long()
    after = (before + 1).clamp(max=values.shape[dim] - 1)
    share = (places - before).to(values.dtype)
    shares = share[:, None] if dim == -2 else share
    return values.index_select(dim, before).lerp(values.index_select(dim, after), shares)
