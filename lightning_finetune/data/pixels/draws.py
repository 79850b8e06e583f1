"""Random numbers as a pure function of (seed, epoch, item), so that workers, ranks and restarts change nothing."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Stream(IntEnum):
    """What a draw is for: draws of different streams are independent."""

    SPLIT = 0
    ORDER = 1
    CROP = 2
    AUGMENT = 3
    MIX = 4


def uniforms(seed: int, epoch: int, items: npt.ArrayLike, count: int, stream: Stream = Stream.ORDER) -> Floats:
    """Uniform numbers in [0, 1) for each of ``items``, by a counter-based hash (splitmix64; Steele et al. 2014).

    Returns:
        ``[len(items), count]``; a row depends only on the seed, the epoch, the stream and its own item.
    """
    bits = hashes(seed, epoch, items, count, stream)
    fractions: Floats = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fractions


def hashes(seed: int, epoch: int, items: npt.ArrayLike, count: int, stream: Stream = Stream.ORDER) -> UInts:
    """The 64 random bits behind :func:`uniforms`, ``[len(items), count]``."""
    state = np.zeros(1, dtype=np.uint64)
    for word in (seed, int(stream), epoch):
        state = _mix(state + np.asarray([word % 2**64], dtype=np.uint64) * _GOLDEN + _GOLDEN)
    rows = _mix(state + np.asarray(items, dtype=np.int64).astype(np.uint64) * _GOLDEN)
    return _mix(rows[:, None] + (np.arange(count, dtype=np.uint64) + np.uint64(1))[None, :] * _GOLDEN)


def permutation(seed: int, epoch: int, count: int, stream: Stream = Stream.ORDER) -> Ints:
    """A random order of ``range(count)``, the same on every machine for the same seed, epoch and stream."""
    return np.argsort(hashes(seed, epoch, np.arange(count), 1, stream)[:, 0], kind="stable").astype(np.int64)


def _mix(state: UInts) -> UInts:
    """splitmix64's finalizer: every input bit changes about half of the output bits."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInts = state ^ (state >> np.uint64(31))
    return mixed
