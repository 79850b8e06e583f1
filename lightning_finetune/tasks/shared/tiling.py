"""Masks of large images: seen in overlapping pieces, blended at their seams, and brought to full size band by band."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_finetune.data.pixels.decode import Size
from lightning_finetune.errors import FinetuneError

TILE = 1024
"""Side of a piece: a U-Net takes about a gigabyte for it."""

STEP = 32
"""Pieces begin at multiples of it, where the grids of strided layers agree with those of the whole image."""

_BAND = 2**26
"""Bytes of probabilities that are brought to full size at once."""

Span = tuple[int, int]


def check_tile(tile: int | None, size: Sequence[int]) -> int:
    """The side of a piece: as given, or as validation saw images at least.

    Raises:
        FinetuneError: It is no multiple of 64.
    """
    if tile is None:
        return max(TILE, *(-(-side // (2 * STEP)) * 2 * STEP for side in size))
    if tile < 2 * STEP or tile % (2 * STEP):
        raise FinetuneError(f"tile: expected a multiple of {2 * STEP}, such as {TILE}, got {tile}.")
    return tile


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


def rows_in_tiles(forward: Callable[[Tensor], Tensor], images: Tensor, tile: int) -> Iterator[Tensor]:
    """What a network gives for images that are too large for it, from top to bottom.

    The outer quarter of each overlap counts for nothing, because a network sees an edge there that is none; between,
    the weight goes over from one piece to the next. So a convolutional network whose field of view ends within that
    quarter gives what it gives for the whole image; one that looks at the whole image sees each piece alone.

    Args:
        forward: Images ``[B, C, h, w]`` of any size to ``[B, K, h, w]``.
        images: ``[B, C, h, w]``.
        tile: Pixels of a piece, a multiple of 64.

    Yields:
        Bands ``[B, K, rows, w]`` that follow each other; in memory are those of one row of pieces.
    """
    down = spans(images.shape[-2], tile)
    carried: Tensor | None = None
    for place, (top, bottom) in enumerate(down):
        band = _across(forward, images[..., top:bottom, :], tile)
        band *= _weights(place, down, overlap_of(tile), band)[:, None]
        if carried is not None:
            band[..., : carried.shape[-2], :] += carried
        end = down[place + 1][0] - top if place + 1 < len(down) else bottom - top
        yield band[..., :end, :]
        carried = band[..., end:, :].clone()


def thin_bands(rows: Iterator[Tensor]) -> Iterator[Tensor]:
    """The rows of :func:`rows_in_tiles`, few at a time: what is made of them would take several times their memory."""
    for band in rows:
        count = max(1, _BAND // (4 * band[..., :1, :].numel()))
        yield from torch.split(band, count, dim=-2)


def in_tiles(forward: Callable[[Tensor], Tensor], images: Tensor, tile: int) -> Tensor:
    """All rows of :func:`rows_in_tiles`; images that are no larger than a piece at once."""
    if max(images.shape[-2:]) <= tile:
        return forward(images)
    return torch.cat([*rows_in_tiles(forward, images, tile)], dim=-2)


def largest(rows: Iterator[Tensor], seen: Size, full: Size) -> npt.NDArray[np.int64]:
    """The class of the largest value at each pixel of an image that was seen smaller, or larger.

    Args:
        rows: Bands ``[K, rows, w]`` that together are ``seen``; bilinear between their pixels.
        seen: Height and width that the model saw.
        full: Those of the image.

    Returns:
        ``[H, W]``.
    """
    ids = np.empty(full, np.int64)
    places = ((torch.arange(full[0], dtype=torch.float64) + 0.5) * seen[0] / full[0] - 0.5).clamp(0, seen[0] - 1)
    held, first, done = torch.empty(0), 0, 0
    for band in rows:
        held = torch.cat([held, band], dim=-2) if held.numel() else band
        last = first + held.shape[-2] - 1
        ready = full[0] if last == seen[0] - 1 else int((places < last).sum())
        count = max(1, _BAND // (4 * held.shape[0] * full[1]))
        for start in range(done, ready, count):
            part = places[start : min(start + count, ready)] - first
            ids[start : start + len(part)] = _between(held, part.to(held.device), full[1]).argmax(0).cpu().numpy()
        done = ready
        kept = min(int(places[min(done, full[0] - 1)]) - first, held.shape[-2] - 1)
        held, first = held[:, kept:].clone(), first + kept
    return ids


def _between(rows: Tensor, places: Tensor, width: int) -> Tensor:
    """Values ``[K, len(places), width]`` at places between rows ``[K, R, w]``."""
    above = places.floor().long()
    share = (places - above).to(rows.dtype)[:, None]
    below = (above + 1).clamp(max=rows.shape[-2] - 1)
    mixed = rows[:, above] * (1 - share) + rows[:, below] * share
    return nn.functional.interpolate(mixed[None], (len(places), width), mode="bilinear")[0]


def _across(forward: Callable[[Tensor], Tensor], images: Tensor, tile: int) -> Tensor:
    """One row of pieces, blended."""
    along = spans(images.shape[-1], tile)
    pieces = (forward(images[..., left:right]) for left, right in along)
    first = next(pieces)
    whole = first.new_zeros(*first.shape[:-1], images.shape[-1])
    for place, ((left, right), piece) in enumerate(zip(along, chain([first], pieces), strict=True)):
        whole[..., left:right] += piece * _weights(place, along, overlap_of(tile), piece)
    return whole


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
