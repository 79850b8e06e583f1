"""How errors of two ways are compared: in pairs, over the same images, on a scale of ratios.

The error of a set is ``(errors + 1/2) / (images + 1)``, so that no logarithm is of zero. Each set counts the same:
logarithms of ratios are averaged over sets. Intervals come from a paired bootstrap over the images of each set,
p-values from swapping both ways' errors at random, image by image. The same images judge a set trained with more and
with fewer images, and are drawn for both at once. Both say how far the choice of these images is luck, not how far
another start or other training images would change a run: for that there are folds. Many comparisons are corrected as
Holm has it (1979, https://www.jstor.org/stable/4615733).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 20_000
SEED = 7
LEVEL = 0.05


@dataclass(frozen=True)
class Ratio:
    """Errors of one way over those of another.

    Attributes:
        ratio: Geometric mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: How often chance alone makes a difference as large, to either side.
    """

    ratio: float
    low: float
    high: float
    p: float


def compare(sets: Sequence[Array], draws: int = DRAWS, seed: int = SEED) -> Ratio:
    """The first way against the second.

    Args:
        sets: For each set of images the errors ``[images, cells, 2]``, 0 to 1, of both ways; a cell is a size of the
            training set. NaN where an image was not judged.
        draws: Of the bootstrap.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    cells = sum(errors.shape[1] for errors in sets)
    counted = [kinds_of(errors) for errors in sets]
    found = sum(log_ratios(kinds, counts[None]).sum() for kinds, counts in counted) / cells
    drawn = sum(resampled(kinds, counts, draws, rng) for kinds, counts in counted) / cells
    chance = sum(swapped(kinds, counts, draws, rng) for kinds, counts in counted) / cells
    low, high = np.quantile(drawn, (LEVEL / 2, 1 - LEVEL / 2))
    as_large = np.count_nonzero(np.abs(chance) >= abs(found) - 1e-9)
    return Ratio(*(float(np.exp(end)) for end in (found, low, high)), p=(as_large + 1) / (draws + 1))


def kinds_of(errors: Array) -> tuple[Array, Array]:
    """Images with the same errors in all cells are one kind: the kinds ``[kinds, cells, 2]``, and how many of each.

    There are few where an error is 0 or 1, and how often each kind is drawn is all that counts.
    """
    flat = np.where(np.isnan(errors), -1.0, errors).reshape(len(errors), -1)
    kinds, counts = np.unique(flat, axis=0, return_counts=True)
    return np.where(kinds < 0, np.nan, kinds).reshape(-1, *errors.shape[1:]), counts.astype(float)


def resampled(kinds: Array, counts: Array, draws: int, rng: np.random.Generator) -> Array:
    """Sums over cells ``[draws]`` of the log ratios of images that are drawn with replacement."""
    images = int(counts.sum())
    return np.asarray(log_ratios(kinds, rng.multinomial(images, counts / images, size=draws)).sum(1))


def swapped(kinds: Array, counts: Array, draws: int, rng: np.random.Generator) -> Array:
    """Sums over cells ``[draws]`` of the log ratios if each image's errors are those of either way, as a coin falls."""
    turned = rng.binomial(counts.astype(int), 0.5, size=(draws, len(counts)))
    both = np.concatenate([kinds, kinds[..., ::-1]])
    return np.asarray(log_ratios(both, np.concatenate([counts - turned, turned], axis=1)).sum(1))


def log_ratios(errors: Array, weights: Array) -> Array:
    """Logarithms ``[draws, cells]`` of the ratio of both ways' errors.

    Args:
        errors: ``[kinds, cells, 2]``.
        weights: How many images of each kind there are, ``[draws, kinds]``.
    """
    images = weights @ ~np.isnan(errors[..., 0])
    sums = np.einsum("dk,kcw->dcw", weights, np.nan_to_num(errors))
    logs = np.log((sums + 0.5) / (images[..., None] + 1))
    return np.asarray(logs[..., 0] - logs[..., 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that stay below a level only if the chance of any false one does (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, last = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        last = max(last, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = last
    return adjusted
