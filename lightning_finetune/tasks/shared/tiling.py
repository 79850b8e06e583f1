"""Masks of large images: seen in overlapping pieces that are blended at their seams, a finished block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_finetune.data.pixels.decode import Size
from lightning_finetune.errors import FinetuneError

TILE = 1024
"""Side of a piece: a U-Net takes about a gigabyte for it."""

STEP = 32
"""Pieces begin at multiples of it, where the grids of strided layers agree with those of the whole image."""

BAND = 2**26
"""Bytes of values that are brought to full size, or judged, at once: what is made of them takes several times that."""

Span = tuple[int, int]


class Block(NamedTuple):
    """Values ``[B, K, h, w]`` of a part of an image that no later piece changes, and where that part begins."""

    top: int
    left: int
    values: Tensor


def check_tile(tile: int | None, size: Sequence[int]) -> int:
    """The side of a piece: as given, or as validation saw images at least.

    Raises:
        FinetuneError: It is no multiple of 64.
    """
    if tile is None:
        return max(TILE, *(in_steps(side) for side in size))
    if tile < 2 * STEP or tile % (2 * STEP):
        raise FinetuneError(f"tile: expected a multiple of {2 * STEP}, such as {TILE}, got {tile}.")
    return tile


def in_steps(side: int) -> int:
    """The next side of a piece that covers ``side`` pixels."""
    return -(-side // (2 * STEP)) * 2 * STEP


def scaled(size: Size, scale: float) -> Size:
    """Height and width, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def spans(length: int, tile: int) -> list[Span]:
    """Where pieces of at most ``tile`` pixels begin and end; neighbours share :func:`overlap_of` pixels."""
    step = tile - overlap_of(tile)
    starts = [0, *range(step, length - overlap_of(tile), step)] if length > tile else [0]
    return [(start, min(start + tile, length)) for start in starts]


def overlap_of(tile: int) -> int:
    """A quarter of a piece, in whole steps."""
    return max(STEP, tile // 4 // STEP * STEP)


def blocks_in_tiles(forward: Callable[[Tensor], Tensor], images: Tensor, tile: int) -> Iterator[Block]:
    """What a network gives for images that are too large for it, from left to right and from top to bottom.

    The outer quarter of each overlap counts for nothing, because a network sees an edge there that is none; between,
    the weight goes over from one piece to the next. So a convolutional network whose field of view ends within that
    quarter gives what it gives for the whole image; one that looks at the whole image sees each piece alone.

    Args:
        forward: Images ``[B, C, h, w]`` of any size to ``[B, K, h, w]``.
        images: ``[B, C, h, w]``.
        tile: Pixels of a piece, a multiple of 64.

    Yields:
        Blocks that together are the image; in memory are one piece and the overlap of two rows of pieces.
    """
    down, along = spans(images.shape[-2], tile), spans(images.shape[-1], tile)
    over = overlap_of(tile)
    strip: Tensor | None = None  # what a row of pieces says of the first rows of the next
    for row, ((top, bottom), height) in enumerate(zip(down, _finished(down), strict=True)):
        side: Tensor | None = None  # what a piece says of the first columns of the next
        for column, ((left, right), width) in enumerate(zip(along, _finished(along), strict=True)):
            piece = forward(images[..., top:bottom, left:right])
            piece = piece * (_weights(row, down, over, piece)[:, None] * _weights(column, along, over, piece))
            if side is not None:
                piece[..., :over] += side
            side, block = piece[..., width:].clone(), piece[..., :width]
            if strip is None and len(down) > 1:
                strip = piece.new_zeros(*piece.shape[:2], over, images.shape[-1])
            if strip is not None:
                there = strip[..., left : left + width]
                if row > 0:
                    block[..., :over, :] += there
                if row + 1 < len(down):
                    there.copy_(block[..., height:, :])
            yield Block(top, left, block[..., :height, :])


def thin(block: Block) -> Iterator[Block]:
    """The rows of a block, few at a time."""
    count = max(1, BAND // (block.values.element_size() * block.values[..., :1, :].numel()))
    for start in range(0, block.values.shape[-2], count):
        yield Block(block.top + start, block.left, block.values[..., start : start + count, :])


def _finished(parts: list[Span]) -> list[int]:
    """How much of each part no later one changes."""
    return [*(later - start for (start, _), (later, _) in pairwise(parts)), parts[-1][1] - parts[-1][0]]


def _weights(place: int, parts: list[Span], overlap: int, like: Tensor) -> Tensor:
    """How much each pixel of a piece counts, ``[length]``; of neighbours the sum is 1."""
    start, stop = parts[place]
    edge = overlap // 4
    places = torch.arange(overlap, device=like.device, dtype=like.dtype) + 0.5
    ramp = ((places - edge) / (overlap - 2 * edge)).clamp(0, 1)
    weights = like.new_ones(stop - start)
    if place > 0:
        weights[:overlap] = ramp
    if place + 1 < len(parts):
        weights[-overlap:] = 1 - ramp
    return weights


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
